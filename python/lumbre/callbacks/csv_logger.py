"""The records as a CSV file."""

from __future__ import annotations

import csv
import os
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lumbre.callback import Callback
from lumbre.errors import LumbreWarning

if TYPE_CHECKING:
    from lumbre.context import Context


class CSVLogger(Callback):
    """Writes a row for each set and epoch: `epoch,set,<metrics>`.

    Acts at `on_fit_begin`, `on_epoch_end`, `on_fit_end` and `on_exception`, at weight 1e6: what
    other callbacks log at `on_epoch_end` is there by then. The columns are those of the
    first epoch. The file is flushed after each epoch; a new fit writes it anew.

    Args:
        path: The file; its folder is made.
    """

    weight = 1e6

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self._file: IO[str] | None = None
        self._columns: list[str] = []

    def on_fit_begin(self, ctx: Context) -> None:
        """Open the file: where it cannot be written is known before an epoch is lost."""
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="", encoding="utf-8")
        self._columns = []

    def on_epoch_end(self, ctx: Context) -> None:
        """Write the rows of the epoch."""
        if self._file is None:
            return
        rows = {s: values for s in ("train", "valid") if (values := ctx.get_metrics(s))}
        writer = csv.writer(self._file)
        if not self._columns and rows:
            self._columns = list(dict.fromkeys(name for row in rows.values() for name in row))
            writer.writerow(["epoch", "set", *self._columns])
        for set_, values in rows.items():
            self._tell_new(values)
            writer.writerow([ctx.epoch, set_, *(values.get(name, "") for name in self._columns)])
        self._file.flush()

    def on_fit_end(self, ctx: Context) -> None:
        """Close the file."""
        self._close()

    def on_exception(self, ctx: Context) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _tell_new(self, values: dict[str, Any]) -> None:
        new = [name for name in values if name not in self._columns]
        if new:
            warnings.warn(
                f"CSVLogger: {', '.join(new)} came after the header of {self.path} was written "
                "and is left out. Log it from the first epoch on.",
                LumbreWarning,
                stacklevel=2,
            )
