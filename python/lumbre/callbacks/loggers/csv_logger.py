"""The records as a CSV file."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from lumbre.callbacks.loggers.epoch_log import SETS, EpochLog, Row, without_nan


class CSVLogger(EpochLog):
    """Writes a row for each set and epoch: `epoch,set,<metrics>`.

    A row of the training has the learning rate besides, and the mean norm of the gradients and the
    speed where these are measured. What is measured before the first epoch is epoch 0.

    Acts at `on_fit_begin`, `on_valid_end` before the first epoch, `on_epoch_begin` and
    `on_epoch_end`, at weight 1e6: what others log at `on_epoch_end` is there by then. Changes
    nothing of `ctx`. A cell is empty where a set has no such metric; a vector or matrix is JSON
    text. A metric that comes later gets a column of its own, empty in the rows above; one that is
    called `time`, `epoch`, `set` or `step` is written as `metric_time` and so on.

    A new fit begins the file anew, with its first epoch. A resumed fit goes on: the rows of earlier
    epochs stay, those of the epochs that come again go, and rows that are missing are taken from
    the records.

    Args:
        path: The file; its folder is made. A relative path is that of the folder in which the fit
            begins, and `~` is expanded.

    Raises:
        ArgumentTypeError: when `path` is no path.
        ArgumentError: when it is empty, that of a folder, or a URL.
        OSError: when the fit begins, if the file cannot be written.

    Example:
        >>> import lumbre as lb, pathlib, tempfile, torch
        >>> path = pathlib.Path(tempfile.mkdtemp(), "log.csv")
        >>> net = lb.setup(torch.nn.Linear(1, 1), torch.nn.MSELoss(), torch.optim.SGD)
        >>> data = [torch.zeros(2, 1), torch.zeros(2, 1)]
        >>> fitted = net.fit(data, epochs=2, callbacks=lb.callbacks.CSVLogger(path))
        >>> print(path.read_text())
        epoch,set,loss,lr
        1,train,...
        2,train,...
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._columns: list[str] = []

    def _parse(self, text: str) -> list[Row]:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if list(reader.fieldnames or ())[:2] != ["epoch", "set"]:
            return []
        # A row that is too short has None as a value, one that is too long has it as a key.
        whole = [row for row in reader if None not in row and None not in row.values()]
        return [
            {name: cell for name, cell in row.items() if cell} | {"epoch": int(row["epoch"])}
            for row in whole
            if row["epoch"].isdecimal() and row["set"] in SETS
        ]

    def _append(self, rows: list[Row], now: bool) -> None:
        names = dict.fromkeys(name for row in rows for name in row)
        is_empty = not Path(self._file).exists() or Path(self._file).stat().st_size == 0
        known = [] if is_empty else self._columns
        new = [name for name in names if name not in known]
        if new:
            self._columns = [*known, *new]
            rows = self._parse(self._text()) + rows
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        if new:
            self._replace(text.getvalue())
        else:
            self._add(text.getvalue())


def _cell(value: Any) -> Any:
    return json.dumps(without_nan(value)) if isinstance(value, list) else value
