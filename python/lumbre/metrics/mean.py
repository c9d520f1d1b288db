"""The mean of a function of predictions and target."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from lumbre.errors import ArgumentTypeError, MetricError, ShapeError, ShapeWarning
from lumbre.metrics.base import Metric
from lumbre.metrics.native import wide
from lumbre.warn import warn

# The sum of the values, and that of their weights.
Seen = tuple[Any, float]


class Mean(Metric):
    """The mean over samples of a function's value for each batch.

    A function among the metrics of `setup` is taken as one of these. The value of a batch weighs
    `ctx.batch_size`, outside of a run the first dimension of the target. On a device it is summed
    up there, and nothing waits for it before `compute`.

    Args:
        function: Called as `function(preds, target)`, with gradients off. It gives a number, or a
            tensor or array of numbers: the mean is then one for each place.
        name: The name of the record, that of the function unless given.
        direction: "min" or "max", whichever is better; None when neither is.

    Raises:
        ArgumentTypeError: when `function` cannot be called, or, from `update`, gives no numbers.
        ShapeError: from `update`, when the function gives another shape than for batches before.

    Warns:
        ShapeWarning: from the first `update`, when there seems to be one value a sample.

    Example:
        >>> def off_by(preds, target):
        ...     return (preds - target).abs().max()
        >>> metric = Mean(off_by, direction="min")
        >>> metric.update(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 5.0]))
        >>> metric.update(torch.tensor([1.0]), torch.tensor([0.0]))
        >>> metric.record_name, metric.compute()
        ('off_by', 1.75)
    """

    _is_one_record = True

    def __init__(
        self,
        function: Callable[[Any, Any], Any],
        *,
        name: str | None = None,
        direction: Literal["min", "max"] | None = None,
    ) -> None:
        if isinstance(function, type) or not callable(function):
            raise ArgumentTypeError(
                f"Mean takes a function of predictions and target; got {function!r}. "
                "Write Mean(lambda preds, target: ...)."
            )
        self._function = function
        self.name = name or _name_of(function)
        self._noted_as = self.name
        self.direction = direction
        self.reset()

    def reset(self) -> None:
        """Forget every batch."""
        self._seen: Seen = (0.0, 0.0)
        self._before = self._seen

    def update(self, preds: Any, target: Any) -> None:
        """Count a batch in."""
        with torch.no_grad():
            value = self._value(self._function(preds, target))
            weight = self._weight_of(preds, target)
            if not self._seen[1] and isinstance(value, Tensor) and value.dim():
                self._tell_of_samples(value, weight)
            seen = self._joined(self._seen, value, weight)
            self._before, self._seen = self._seen, seen

    def retract(self) -> None:
        """Take the last batch back out, once."""
        self._seen = self._before

    def compute(self) -> Any:
        """The mean over all batches since `reset`; NaN when there was none."""
        total, weight = self._seen
        return total / weight if weight else math.nan

    def merge(self, other: Metric) -> None:
        """Take in what another mean of the same function has seen.

        Raises:
            MetricError: when the other one measures something else.
        """
        if not isinstance(other, Mean) or other.name != self.name:
            raise MetricError(f"{self!r} cannot take in {other!r}; merge metrics of one kind.")
        value, weight = other.compute(), other._seen[1]
        # To both: what was merged is not taken back with a batch.
        before, seen = (self._joined(old, value, weight) for old in (self._before, self._seen))
        self._before, self._seen = before, seen

    def _joined(self, seen: Seen, value: Any, weight: float) -> Seen:
        if not weight:
            return seen
        total, before = seen
        if before and _shape(value) != _shape(total):
            raise ShapeError(_OTHER_SHAPE.format(self.name, _shape(value), _shape(total)))
        if isinstance(total, Tensor) and isinstance(value, Tensor):
            value = value.to(total.device)
        return total + value * weight, before + weight

    def _value(self, value: Any) -> Any:
        """A number, or a tensor in the widest float of its device."""
        if isinstance(value, float):
            return value
        given = value
        if not isinstance(value, Tensor):
            try:
                value = torch.as_tensor(value, dtype=torch.float64)
            except (TypeError, ValueError, RuntimeError):
                value = None
        if value is None or value.is_complex():
            raise ArgumentTypeError(
                f"{self.name} gave {type(given).__name__}, which is no real number. A metric is a "
                "number, or a tensor or array of numbers: let the function return one."
            )
        value = value.detach()
        if value.numel() == 1:
            # On the CPU a number costs least; on a device it would have to be waited for.
            if value.device.type == "cpu":
                return float(value)
            value = value.reshape(())
        return value.to(wide(value.device))

    def _weight_of(self, preds: Any, target: Any) -> float:
        ctx = getattr(self, "ctx", None)
        if ctx is not None:
            return float(ctx.batch_size)
        known = next((x for x in (target, preds) if isinstance(x, Tensor) and x.dim()), None)
        return 1.0 if known is None else float(len(known))

    def _tell_of_samples(self, value: Tensor, weight: float) -> None:
        if value.shape[0] == weight > 1:
            shape = tuple(value.shape)
            warn(_OF_SAMPLES.format(self.name, shape, shape[0]), ShapeWarning)

    def __repr__(self) -> str:
        return f"Mean({self.name})"


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    # A lambda is called "<lambda>", which would be no name for a column.
    return name.strip("<>") if isinstance(name, str) else type(function).__name__.lower()


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


_OTHER_SHAPE = (
    "{} gave a value of shape {}, after one of shape {} for the batches before. A mean is of "
    "values of one shape: let the function reduce what varies, such as one value a sample by "
    ".mean()."
)
_OF_SAMPLES = (
    "{} gave a value of shape {} for a batch of {} samples, and each place has a mean of its own "
    "over the batches. If these are values of samples, let the function return their .mean()."
)
