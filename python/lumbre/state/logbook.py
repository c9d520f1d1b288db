"""The records of a run, as `ctx` keeps and reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lumbre._core import Run
from lumbre.errors import ArgumentError, ArgumentTypeError, ContextError
from lumbre.text import format_value

if TYPE_CHECKING:
    import pandas as pd


class Logbook(Run):
    """The records of a run, by epoch; the values themselves are in Rust."""

    __slots__ = ("_extras", "metrics")

    metrics: dict[str, list[Any]]
    _extras: dict[str, dict[str, list[Any]]]

    def __init__(self) -> None:
        self._extras = {}
        self.metrics = {}

    @property
    def records(self) -> dict[str, Any]:
        """The history: metrics by set and epoch, seconds by part, and what `log` added."""
        records: dict[str, Any] = self._history()
        for what, sets in self._extras.items():
            for set_, values in sets.items():
                kept = records.setdefault(what, {})
                kept[set_] = [*kept.get(set_, ()), *values]
        return records

    def log(
        self, what: str, set: str, value: Any, index: int | None = None, append: bool = True
    ) -> None:
        """Keep a value in the records.

        Args:
            what: The part of the records: "metrics" (`value` is then a dict), or a name of yours.
            set: "train" or "valid" for metrics; any name otherwise.
            value: What to keep.
            index: Its place, counted from 1 like epochs; for metrics this epoch, else the end.
            append: Whether to add to what is in that place, or to replace it.
        """
        last = max(self.epoch, 1)
        if what in _OF_THE_RUN:
            raise ArgumentError(_KEPT_BY_THE_RUN.format(what))
        if index is not None and (index < 1 or (what == "metrics" and index > last)):
            there = f"1 to {last}, the epochs so far" if what == "metrics" else "counted from 1"
            raise ArgumentError(f"ctx.log({what!r}, ...): index is {there}; got {index!r}.")
        if what == "metrics":
            if not isinstance(value, Mapping):
                raise ArgumentTypeError(
                    f'ctx.log("metrics", ...) takes a dict of names and values; got {value!r}.'
                )
            self._log_metrics(set, last if index is None else index, dict(value), append)
            return
        values = self._extras.setdefault(what, {}).setdefault(set, [])
        if index is None:
            values.append(value)
            return
        values.extend([None] * (index - len(values)))
        old = values[index - 1]
        values[index - 1] = value if old is None or not append else _joined(old, value)

    def get_log(self, what: str, set: str, index: int | None = None) -> Any:
        """Return what `log` has kept; at one place, or all of it.

        Args:
            what: The part of the records.
            set: The name within it.
            index: The place, counted from 1; None for the whole list.
        """
        records = self.records
        if what not in records or set not in records[what]:
            there = [f"{w}/{s}" for w, sets in records.items() for s in sets]
            raise ContextError(f"Nothing is logged as {what}/{set}; there are {', '.join(there)}.")
        values = records[what][set]
        if index is None:
            return values
        if not 1 <= index <= len(values):
            raise ContextError(
                f"{what}/{set} has {len(values)} places, counted from 1; there is no {index!r}."
            )
        return values[index - 1]

    def get_metric(self, name: str, set: str, epoch: int | None = None) -> Any:
        """One value of an epoch, by default of this one; see `get_metrics`."""
        values = self.get_metrics(set, epoch)
        if name not in values:
            raise ContextError(
                f"There is no {set} metric {name!r} in epoch {epoch or self.epoch}; "
                f"there are {', '.join(values) or 'none yet'}."
            )
        return values[name]

    def get_formatted_metrics(self, set: str, epoch: int | None = None) -> dict[str, str]:
        """The values of an epoch as text, each as its metric formats it."""
        return self._formatted(set, self.get_metrics(set, epoch))

    def _formatted(
        self, set: str, values: Mapping[str, Any], short: bool = False
    ) -> dict[str, str]:
        """The values as text; when short, of arrays only those that have a format of their own."""
        metrics = {m.record_name: m for m in (self.metrics or {}).get(set, ())}
        return {
            name: metrics[name].format(value) if name in metrics else format_value(value)
            for name, value in values.items()
            if not short or isinstance(value, int | float) or _has_format(metrics.get(name))
        }

    def get_metrics_df(self) -> pd.DataFrame:
        """All values so far as a long data frame with the columns set, metric, epoch, value."""
        return metrics_frame(self.records)


def metrics_frame(records: Mapping[str, Any]) -> pd.DataFrame:
    """Return the metrics of the records as a long data frame; epoch 0 is before the first."""
    import pandas as pd

    before = records.get("before", {})
    rows = [
        (set_, name, epoch, value)
        for set_, entries in records["metrics"].items()
        for epoch, values in enumerate([before.get(set_, {}), *entries])
        for name, value in values.items()
    ]
    return pd.DataFrame(rows, columns=["set", "metric", "epoch", "value"])


_OF_THE_RUN = ("before", "optimizer")
_KEPT_BY_THE_RUN = (
    "ctx.log({0!r}, ...): records[{0!r}] is kept by the run itself. Keep yours under another name."
)


def _has_format(metric: Any) -> bool:
    """True if a metric has a format of its own, besides the one that all have."""
    known = [vars(kind)["format"] for kind in type(metric).__mro__ if "format" in vars(kind)]
    return "format" in getattr(metric, "__dict__", ()) or known[:1] != known[-1:]


def _joined(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, Mapping):
        return {**old, **new}
    return [*(old if isinstance(old, list) else [old]), *(new if isinstance(new, list) else [new])]
