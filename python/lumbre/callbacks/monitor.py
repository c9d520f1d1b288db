"""The value of the records that a callback watches."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Literal

from lumbre._core import nearest
from lumbre.errors import ArgumentError, MonitorError, MonitorWarning

if TYPE_CHECKING:
    from lumbre.context import Context

Mode = Literal["min", "max", "zero"]


class Monitor:
    """Watches `monitor="valid_loss"`: a set, then the name of a record.

    Args:
        owner: The callback's name, for messages.
        monitor: What to watch.
        mode: Whether better is smaller, larger, or nearer to zero.
        min_delta: By how much a value has to be better to count as an improvement.
    """

    def __init__(self, owner: str, monitor: str, mode: str, min_delta: float) -> None:
        self.owner, self.monitor, self.mode, self.min_delta = owner, monitor, mode, min_delta
        self.set, _, self.name = str(monitor).partition("_")
        if self.set not in ("train", "valid") or not self.name:
            meant = f' Did you mean "valid_{self.name}"?' if self.set.startswith("val") else ""
            raise ArgumentError(
                f'{owner}: monitor is a set and the name of a record, such as "valid_loss" or '
                f'"train_acc"; got {monitor!r}.{meant}'
            )
        if mode not in ("min", "max", "zero"):
            raise ArgumentError(f'{owner}: mode is "min", "max" or "zero"; got {mode!r}.')
        if not min_delta >= 0:
            raise ArgumentError(f"{owner}: min_delta is 0 or more; got {min_delta!r}.")

    def check(self, ctx: Context) -> None:
        """When the fit begins: is there anything to watch?

        Raises:
            MonitorError: when the validation data is watched and there is none.
        """
        if self.set == "valid" and ctx.valid_data is None:
            raise MonitorError(
                f'{self.owner} cannot watch "{self.monitor}": this fit has no validation data. '
                f'Pass valid_data= to fit, or monitor="train_{self.name}".'
            )
        known = self._to_come(ctx)
        if self.monitor not in known:
            warnings.warn(
                f'{self.owner} watches "{self.monitor}", which is no metric of this run: they are '
                f"{', '.join(known)}. {_hint(self.monitor, known)}If a callback logs it, let it "
                f'say so: logs = ("{self.monitor}",).',
                MonitorWarning,
                stacklevel=2,
            )

    def value(self, ctx: Context) -> float | None:
        """The value of this epoch; None when the epoch measured nothing.

        Raises:
            MonitorError: when the epoch has other values but not this one, or it is no number.
        """
        values = ctx.get_metrics(self.set)
        if self.name in values:
            value = values[self.name]
            if not isinstance(value, float):
                raise MonitorError(
                    f'{self.owner} cannot watch "{self.monitor}": it is an array of shape '
                    f"{value.shape}, of which none is better than another. Log a number of it: "
                    'ctx.log_metric("name", value.mean()).'
                )
            return value
        if not values:
            return None
        there = [f"{s}_{n}" for s in ("train", "valid") for n in ctx.get_metrics(s)]
        raise MonitorError(
            f'{self.owner} cannot watch "{self.monitor}": after epoch {ctx.epoch} the records are '
            f"{', '.join(there)}.\n{_hint(self.monitor, there)}".rstrip()
        )

    def improves(self, value: float, best: float) -> bool:
        """Whether a value is better than the best one so far; NaN never is."""
        if math.isnan(value):
            return False
        if math.isnan(best):
            return True
        if self.mode == "max":
            return value > best + self.min_delta
        if self.mode == "zero":
            return abs(value) < abs(best) - self.min_delta
        return value < best - self.min_delta

    def _to_come(self, ctx: Context) -> list[str]:
        sets = ("train", "valid") if ctx.valid_data is not None else ("train",)
        names = [f"{s}_{name}" for s in sets for name in ctx.meter_names(s)]
        logged = [name for each in ctx.callbacks for name in each.logs]
        return [*names, *logged, *(f"{s}_{name}" for s in sets for name in logged)]


def _hint(name: str, there: list[str]) -> str:
    near = nearest(name, there)
    return f'Did you mean "{near}"? ' if near else ""
