"""The records as a file of JSON lines."""

from __future__ import annotations

import datetime
import json

from lumbre.callbacks.loggers.epoch_log import SETS, EpochLog, Row, without_nan


class JSONLogger(EpochLog):
    """Writes a JSON object a line for each set and epoch: `time`, `epoch`, `set`, the metrics.

    Acts at `on_fit_begin`, `on_epoch_begin` and `on_epoch_end`, at weight 1e6: what others log at
    `on_epoch_end` is there by then. Changes nothing of `ctx`. `time` is when the epoch ended, in
    UTC and ISO 8601. NaN and infinity, which JSON does not have, are null; a vector is a list, a
    matrix a list of lists. A metric that is called `time`, `epoch` or `set` is written as
    `metric_time` and so on.

    The lines are flat: `pandas.read_json(path, lines=True)` gives a frame with a row for each, and
    `pandas.to_datetime(frame["time"])` its times.

    A new fit begins the file anew, with its first epoch. A resumed fit goes on: the lines of
    earlier epochs stay, those of the epochs that come again go, and lines that are missing are
    taken from the records, with null as their time.

    Args:
        path: The file; its folder is made. A relative path is that of the folder in which the fit
            begins, and `~` is expanded.

    Raises:
        ArgumentTypeError: when `path` is no path.
        ArgumentError: when it is empty, that of a folder, or a URL.
        OSError: when the fit begins, if the file cannot be written.

    Example:
        >>> import lumbre as lb, pathlib, tempfile, torch
        >>> path = pathlib.Path(tempfile.mkdtemp(), "log.jsonl")
        >>> net = lb.setup(torch.nn.Linear(1, 1), torch.nn.MSELoss(), torch.optim.SGD)
        >>> data = [torch.zeros(2, 1), torch.zeros(2, 1)]
        >>> fitted = net.fit(data, epochs=1, callbacks=lb.callbacks.JSONLogger(path))
        >>> print(path.read_text())
        {"time": "...Z", "epoch": 1, "set": "train", "loss": ...}
    """

    def _parse(self, text: str) -> list[Row]:
        rows = []
        for line in text.split("\n"):
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
                continue
            if row.get("set") in SETS:
                rows.append(row)
        return rows

    def _append(self, rows: list[Row], now: bool) -> None:
        moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        time = moment.replace("+00:00", "Z") if now else None
        lines = (
            json.dumps(
                {"time": time, **{name: without_nan(value) for name, value in row.items()}},
                allow_nan=False,
            )
            for row in rows
        )
        self._write("a", "".join(f"{line}\n" for line in lines))
