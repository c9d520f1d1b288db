"""The result of `lr_finder`: rates, losses, and a rate that they suggest."""

from __future__ import annotations

import bisect
import contextlib
import math
from typing import TYPE_CHECKING, Literal

from lumbre.errors import ArgumentError
from lumbre.text import format_value

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# How much of the smoothed loss stays at each step; fastai's value.
_BETA = 0.98
# How many times its lowest value the smoothed loss has to reach to have exploded; fastai's value.
_EXPLODED = 4.0
# Fewer losses than these say nothing about where they fall.
_FEWEST = 8


class Smoothed:
    """A loss that is averaged over steps, more of it the newer it is, without a bias at the begin.

    Attributes:
        value: The average so far.
    """

    def __init__(self) -> None:
        self.value = math.nan
        self._sum = 0.0
        self._count = 0
        self._first = math.nan
        self._lowest = math.inf

    def add(self, loss: float) -> float:
        """Count a loss; gives the average."""
        self._count += 1
        self._sum = _BETA * self._sum + (1 - _BETA) * loss
        self.value = self._sum / (1 - _BETA**self._count)
        return self.value

    def explodes(self, loss: float) -> bool:
        """Count a loss; gives whether the average is far above its lowest value."""
        value = self.add(loss)
        if self._count == 1:
            self._first = value
        self._lowest = min(self._lowest, value)
        if self._lowest > 0:
            return value > _EXPLODED * self._lowest
        # Where a loss may be negative, multiples say nothing: the fall so far is the measure.
        fall = max(self._first - self._lowest, abs(self._lowest))
        return fall > 0 and value > self._lowest + (_EXPLODED - 1) * fall


class LRRecords:
    """The losses of a sweep over learning rates; made by `Trainable.lr_finder`.

    Attributes:
        lr: The rates in the order in which they were tried.
        loss: The loss of the batch that was trained with each rate, before its step.
        stop_reason: Why it ended before the last rate; None when it did not.

    Example:
        >>> records = LRRecords([1e-3, 1e-2, 1e-1], [2.0, 1.0, 8.0], steps=3)
        >>> records
        LRRecords: 3 steps from lr 0.001 to 0.1
          loss  2.0000 at first, 1.0000 at lr 0.01
    """

    def __init__(
        self, lr: list[float], loss: list[float], steps: int, stop_reason: str | None = None
    ) -> None:
        self.lr = lr
        self.loss = loss
        self.stop_reason = stop_reason
        self._steps = steps

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with the columns lr and loss."""
        import pandas as pd

        return pd.DataFrame({"lr": self.lr, "loss": self.loss})

    def suggestion(self, method: Literal["valley", "steepest"] = "valley") -> float:
        """A rate to train with, read from the smoothed losses.

        Left out are the first tenth, in which the average has seen too little, and at the end as
        many, five at most, which show where it goes wrong.

        Args:
            method: "valley" is the middle of the longest fall, which may have smaller rises in it;
                "steepest" is where the loss falls fastest over the logarithm of the rate, on the
                way down to its lowest value.

        Raises:
            ArgumentError: when there are too few finite losses, or they do not fall.

        Source: fastai, `lr_find` with `valley` and `steep` (which looks beyond the lowest loss,
        too); the sweep is that of L. Smith, "Cyclical Learning Rates for Training Neural Networks".
        """
        if method not in ("valley", "steepest"):
            raise ArgumentError(
                f'LRRecords.suggestion: method is "valley" or "steepest"; got {method!r}.'
            )
        rates, losses = self._trimmed()
        place = _valley(losses) if method == "valley" else _steepest(rates, losses)
        if place is None:
            ends, wider = (rates[0], rates[-1]), (rates[0] / 100, rates[-1] * 100)
            raise ArgumentError(_NOT_FALLING.format(*ends, *wider))
        return rates[place]

    def smoothed(self) -> list[float]:
        """The losses, averaged over steps; as many as are finite."""
        average = Smoothed()
        return [average.add(loss) for loss in self.loss[: self._finite()]]

    def plot(self) -> Figure:
        """The losses over the rates, the smoothed ones with them, and the suggestion if there is.

        Returns:
            The matplotlib figure.
        """
        from lumbre.fit.plot import plot_lr

        try:
            suggestion = self.suggestion()
        except ArgumentError:
            suggestion = None
        return plot_lr(self.lr, self.loss, self.smoothed(), suggestion)

    def _finite(self) -> int:
        finite = (i for i, loss in enumerate(self.loss) if not math.isfinite(loss))
        return next(finite, len(self.loss))

    def _trimmed(self) -> tuple[list[float], list[float]]:
        losses = self.smoothed()
        if len(losses) < _FEWEST:
            why = f"; {self.stop_reason}" if self.stop_reason else ""
            mend = (
                f"Begin lower: lr_finder(..., start_lr={self.lr[0] / 100:.0e})."
                if self.lr and len(self.lr) < self._steps
                else "Take more: lr_finder(..., steps=100)."
            )
            raise ArgumentError(
                f"LRRecords.suggestion: {len(losses)} finite losses are too few to suggest a rate, "
                f"which takes {_FEWEST}{why}. {mend}"
            )
        first = len(losses) // 10
        last = len(losses) - min(5, first)
        return self.lr[first:last], losses[first:last]

    def __repr__(self) -> str:
        count = len(self.lr)
        if not count:
            return "LRRecords: no steps"
        lines = [
            f"LRRecords: {count} step{'s' * (count != 1)} from lr {self.lr[0]:.3g} to "
            f"{self.lr[-1]:.3g}"
        ]
        finite = self._finite()
        if finite:
            lowest = min(range(finite), key=lambda i: self.loss[i])
            lines.append(
                f"  loss  {format_value(self.loss[0])} at first, "
                f"{format_value(self.loss[lowest])} at lr {self.lr[lowest]:.3g}"
            )
        with contextlib.suppress(ArgumentError):
            lines.append(f"  suggestion  lr {self.suggestion():.3g} (valley)")
        if self.stop_reason:
            lines.append(f"  stopped  after {count} of {self._steps}: {self.stop_reason}")
        return "\n".join(lines)


def _valley(losses: list[float]) -> int | None:
    """The middle of the longest falling subsequence, by where the first of the longest ends."""
    # The largest loss that a fall of each length can end in, negated to be rising.
    ends: list[float] = []
    longest, end = 0, 0
    for i, loss in enumerate(losses):
        length = bisect.bisect_left(ends, -loss)
        ends[length : length + 1] = [-loss]
        if length + 1 > longest:
            longest, end = length + 1, i
    if longest < 2:
        return None
    third = longest / 3
    return max(end - longest + int(third) + int(third / 2), 0)


def _steepest(rates: list[float], losses: list[float]) -> int | None:
    """Where the fall to the lowest loss is steepest; what falls after an explosion is no hint."""
    lowest = min(range(len(losses)), key=losses.__getitem__)
    slopes = [
        (losses[i + 1] - losses[i]) / (math.log(rates[i + 1]) - math.log(rates[i]))
        for i in range(lowest)
    ]
    place = min(range(lowest), key=slopes.__getitem__, default=None)
    return None if place is None or slopes[place] >= 0 else place


_NOT_FALLING = (
    "LRRecords.suggestion: the loss falls nowhere between lr {:.3g} and {:.3g}. Look at plot(), "
    "and try other rates: lr_finder(..., start_lr={:.0e}, end_lr={:.0e})."
)
