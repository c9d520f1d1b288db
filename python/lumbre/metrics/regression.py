"""How far predictions are from their targets."""

from __future__ import annotations

import torch
from torch import Tensor

from lumbre.metrics.native import Native, counted, paired


class MSE(Native):
    """The mean squared error, 1/n Σ (preds - target)².

    `update` takes preds and target of the same shape, any float, integer or bool dtype. Shapes that
    differ by dimensions of size 1 only are compared element by element, with a warning.

    Args:
        name: The name of the record, "mse" unless given.

    Raises:
        ShapeError: from `update`, when the shapes do not fit together.

    Example:
        >>> mse = MSE()
        >>> mse.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        >>> mse.compute()
        2.0

    Source: scikit-learn, `mean_squared_error`.
    """

    abbrev = "MSE"
    direction = "min"
    _kind = "MSE"

    def _measure(self, preds: Tensor, target: Tensor) -> Tensor:
        preds, target = paired(preds, target)
        return counted(self._error(preds - target).sum(), target.numel())

    def _read(self, joined: Tensor) -> tuple[list[float], float]:
        # Last what rounding the sum has lost, which a device does not keep.
        return [*joined.tolist(), 0.0], 0.0

    @staticmethod
    def _error(difference: Tensor) -> Tensor:
        return difference.square()


class RMSE(MSE):
    """The root of the mean squared error, (1/n Σ (preds - target)²)^½.

    Args:
        name: The name of the record, "rmse" unless given.

    Example:
        >>> rmse = RMSE()
        >>> rmse.update(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 5.0]))
        >>> rmse.compute()
        3.0

    Source: scikit-learn, `root_mean_squared_error`.
    """

    abbrev = "RMSE"
    _kind = "RMSE"


class MAE(MSE):
    """The mean absolute error, 1/n Σ |preds - target|.

    Args:
        name: The name of the record, "mae" unless given.

    Example:
        >>> mae = MAE()
        >>> mae.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
        >>> mae.compute()
        1.0

    Source: scikit-learn, `mean_absolute_error`.
    """

    abbrev = "MAE"
    _kind = "MAE"

    @staticmethod
    def _error(difference: Tensor) -> Tensor:
        return difference.abs()


class R2(Native):
    """The share of the targets' variance that predictions explain.

    It is 1 - Σ (target - preds)² / Σ (target - mean)².

    `update` takes preds and target of the same shape (n, ...), any float, integer or bool dtype.
    Samples lie along the first dimension; each place in the others is an output of its own, and the
    value is the mean over outputs. Of an output whose targets are all the same it is 1 where they
    are met exactly, else 0; of fewer than two samples it is NaN.

    Args:
        name: The name of the record, "r2" unless given.

    Raises:
        ShapeError: from `update`, when the shapes do not fit together, or there are not as many
            outputs as in the batches before.

    Example:
        >>> r2 = R2()
        >>> r2.update(torch.tensor([2.5, 0.0, 2.0, 8.0]), torch.tensor([3.0, -0.5, 2.0, 7.0]))
        >>> round(r2.compute(), 3)
        0.949

    Source: scikit-learn, `r2_score`; Chan, Golub, LeVeque, "Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances" (1979).
    """

    abbrev = "R2"
    direction = "max"
    _kind = "R2"

    def _measure(self, preds: Tensor, target: Tensor) -> Tensor:
        samples = target.shape[0] if target.dim() else 1
        preds, target = paired(preds, target)
        if not target.numel():
            return preds.new_zeros(6, 0)
        target, preds = target.reshape(samples, -1), preds.reshape(samples, -1)
        # Means are kept from a value that was seen, so that no offset costs digits.
        shift = target[0]
        apart = target - shift
        mean = apart.mean(0)
        spread = (apart - mean).square().sum(0)
        error = (target - preds).square().sum(0)
        return torch.stack(
            [torch.full_like(mean, samples), shift, mean, spread, error, torch.zeros_like(mean)]
        )

    def _joined(self, before: Tensor, batch: Tensor) -> Tensor:
        count, more = before[0], batch[0]
        part = more / (count + more)
        apart = (batch[1] - before[1]) + (batch[2] - before[2])
        mean = before[2] + apart * part
        spread = before[3] + batch[3] + apart.square() * count * part
        rest = [before[4] + batch[4], before[5]]
        return torch.stack([count + more, before[1], mean, spread, *rest])

    def _read(self, joined: Tensor) -> tuple[list[float], float]:
        outputs: list[list[float]] = joined.T.tolist()
        return [outputs[0][0], *(number for _, *each in outputs for number in each)], 0.0
