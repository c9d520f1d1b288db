"""A text file with some lines an epoch: what `CSVLogger` and `JSONLogger` share."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumbre.engine.writing import writing_of
from lumbre.files.atomic import append, make_folder
from lumbre.files.path import absolute, file_of
from lumbre.hooks.callback import Callback

if TYPE_CHECKING:
    from lumbre.engine.context import Context

Row = dict[str, Any]

SETS = ("train", "valid")

# What every line says beside the metrics; a metric of such a name gives way.
OWN_KEYS = ("time", "epoch", "set", "step")


class EpochLog(Callback):
    """A row for each set and epoch, there as soon as the epoch has ended.

    The file is opened for each epoch anew: nothing is left open, whatever ends the run. A subclass
    says what a row looks like.
    """

    weight = 1e6

    def __init__(self, path: str | os.PathLike[str]) -> None:
        file_of(self, "path", path, "log")
        self.path = path
        self._begun = False
        self._unwritten: list[Row] = []

    def on_fit_begin(self, ctx: Context) -> None:
        """See that the file can be written, before an epoch is lost.

        What is in it stays: whether the fit is a resumed one is not known yet.
        """
        self._begun = False
        self._unwritten = []
        self._file = absolute(file_of(self, "path", self.path, "log"))
        if ctx.accelerator.is_main:
            make_folder(self._file)
            self._add("")

    def on_epoch_begin(self, ctx: Context) -> None:
        """In the first epoch of this fit, let the file hold the epochs before it and no more."""
        if ctx.accelerator.is_main:
            self._begin(ctx)

    def on_valid_end(self, ctx: Context) -> None:
        """Write what is measured before the first epoch, as epoch 0."""
        if ctx._is_before_epochs:
            self.on_epoch_end(ctx)

    def on_epoch_end(self, ctx: Context) -> None:
        """Write the rows of the epoch."""
        if not ctx.accelerator.is_main:
            return
        self._begin(ctx)
        self._log(ctx, rows_of(ctx, ctx.epoch))

    def _log(self, ctx: Context, rows: list[Row]) -> None:
        """Write rows that have just come about, behind those that could not be written so far."""
        self._unwritten += rows
        if self._unwritten:
            writing_of(ctx).attempt(self, self._file, self._write_unwritten)

    def _write_unwritten(self) -> None:
        self._append(self._unwritten, now=True)
        self._unwritten = []

    def _begin(self, ctx: Context) -> None:
        if self._begun:
            return
        self._begun = True
        writing_of(ctx).attempt(self, self._file, lambda: self._keep_earlier(ctx))

    def _keep_earlier(self, ctx: Context) -> None:
        """Let the file hold what is earlier than this epoch, or than this batch of it."""
        there: dict[int, dict[str, Row]] = {}
        between: dict[int, list[Row]] = {}
        for row in self._parse(self._text()) if ctx.epoch > 1 or ctx.step_count else ():
            if "step" in row:
                between.setdefault(row["epoch"], []).append(row)
            else:
                there.setdefault(row["epoch"], {})[row["set"]] = row
        rows: list[Row] = []
        for epoch in range(ctx.epoch):
            # The file may have been lost, or have ended where the machine did.
            known = {row["set"]: row for row in rows_of(ctx, epoch)} | there.get(epoch, {})
            rows += between.get(epoch, ())
            rows += [known[set_] for set_ in SETS if set_ in known]
        rows += [row for row in between.get(ctx.epoch, ()) if row["step"] <= ctx.step_count]
        self._replace("")
        if rows:
            self._append(rows, now=False)

    def _parse(self, text: str) -> list[Row]:
        """The whole rows of a file, without what is none; `epoch` is a number, `set` a set."""
        raise NotImplementedError

    def _append(self, rows: list[Row], now: bool) -> None:
        """Write rows; `now` when they have just come about."""
        raise NotImplementedError

    def _text(self) -> str:
        """Return what is in the file, up to its last whole line."""
        try:
            text = Path(self._file).read_bytes().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return text[: text.rfind("\n") + 1]

    def _add(self, text: str) -> None:
        # In one go, so that nobody who reads along sees half of an epoch.
        append(self._file, text.encode())

    def _replace(self, text: str) -> None:
        append(self._file, text.encode(), cut=0)


def rows_of(ctx: Context, epoch: int) -> list[Row]:
    """Return what the records hold of an epoch."""
    return [
        {"epoch": epoch, "set": set_} | named({k: plain(v) for k, v in values.items()})
        for set_ in SETS
        if (values := values_of(ctx, set_, epoch))
    ]


def named(values: dict[str, Any]) -> Row:
    """Return values by names that are not those of what every line says."""
    return {f"metric_{name}" if name in OWN_KEYS else name: v for name, v in values.items()}


def values_of(ctx: Context, set_: str, epoch: int) -> dict[str, Any]:
    """Return the values of a set; of the training with its rates, norms and speed behind them."""
    values = ctx.get_metrics(set_, epoch)
    if set_ == "train" and epoch:
        values = values | {k: v for k, v in ctx._sides(epoch).items() if k not in values}
    return values


def plain(value: Any) -> Any:
    """A value as a float, or as nested lists of them."""
    return value.tolist() if hasattr(value, "tolist") else value


def without_nan(value: Any) -> Any:
    """None where a float is no number that JSON knows."""
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
