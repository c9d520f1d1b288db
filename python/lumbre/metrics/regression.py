"""How far predictions are from their targets."""

from __future__ import annotations

from torch import Tensor

from lumbre.metrics.classification import _fitting
from lumbre.metrics.native import Native, triple, wide


class MSE(Native):
    """The mean squared error, 1/n Σ (preds - target)².

    `update` takes preds and target of the same shape, any float, integer or bool dtype. Shapes that
    differ by dimensions of size 1 only are compared element by element, with a warning.

    Args:
        name: The name of the record, "mse" unless given.

    Raises:
        ShapeError: from `update`, when the shapes do not fit together.

    Source: scikit-learn, `mean_squared_error`.
    """

    abbrev = "MSE"
    direction = "min"
    _kind = "MSE"

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)

    def _measure(self, preds: Tensor, target: Tensor) -> Tensor:
        dtype = wide(preds.device)
        target = _fitting(self, preds, target).to(device=preds.device, dtype=dtype)
        return triple(self._error(preds.to(dtype) - target).sum(), target.numel())

    def _state_of(self, sums: list[float]) -> list[float]:
        # Sum, count, and what rounding the sum has lost, which a device does not keep.
        return [*sums, 0.0]

    @staticmethod
    def _error(difference: Tensor) -> Tensor:
        return difference.square()


class RMSE(MSE):
    """The root of the mean squared error, (1/n Σ (preds - target)²)^½.

    Args:
        name: The name of the record, "rmse" unless given.

    Source: scikit-learn, `root_mean_squared_error`.
    """

    abbrev = "RMSE"
    _kind = "RMSE"


class MAE(MSE):
    """The mean absolute error, 1/n Σ |preds - target|.

    Args:
        name: The name of the record, "mae" unless given.

    Source: scikit-learn, `mean_absolute_error`.
    """

    abbrev = "MAE"
    _kind = "MAE"

    @staticmethod
    def _error(difference: Tensor) -> Tensor:
        return difference.abs()
