"""The records as a file of JSON lines."""

from __future__ import annotations

import datetime
import json
import os
from typing import TYPE_CHECKING

from lumbre.callbacks.loggers.epoch_log import SETS, EpochLog, Row, named, without_nan
from lumbre.callbacks.loggers.in_between import InBetween

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class JSONLogger(EpochLog, InBetween):
    """Writes a JSON object a line for each set and epoch: `time`, `epoch`, `set`, the metrics.

    A line of the training has the learning rate besides, and the mean norm of the gradients and the
    speed where these are measured. What is measured before the first epoch is epoch 0. With `every`
    there are lines in between, with the `step` and what that batch has: `samples`, `loss`, `lr`,
    `grad_norm` where that is measured, and the values of `ctx.log_mean`. On a device they are
    waited for.

    Acts at `on_fit_begin`, `on_valid_end` before the first epoch, `on_epoch_begin`, `on_epoch_end`
    and, with `every`, `on_train_batch_begin` and `on_train_batch_end`, at weight 1e6: what others
    log at `on_epoch_end` is there by then. Changes nothing of `ctx`. `time` is when the epoch
    ended, or the batch, in UTC and ISO 8601. NaN and infinity, which JSON does not have, are null;
    a vector is a list, a matrix a list of lists. A metric that is called `time`, `epoch`, `set` or
    `step` is written as `metric_time` and so on.

    The lines are flat: `pandas.read_json(path, lines=True)` gives a frame with a row for each, and
    `pandas.to_datetime(frame["time"])` its times.

    A new fit begins the file anew, with its first epoch. A resumed fit goes on: the lines of
    earlier epochs stay, those of the epochs that come again go, and lines that are missing are
    taken from the records, with null as their time.

    Args:
        path: The file; its folder is made. A relative path is that of the folder in which the fit
            begins, and `~` is expanded.
        every: A line for each so many training batches, too: those whose `ctx.step_count` it
            divides. None unless given.

    Raises:
        ArgumentTypeError: when `path` is no path.
        ArgumentError: when it is empty, that of a folder, or a URL; when `every` is no whole number
            from 1.
        OSError: when the fit begins, if the file cannot be written.

    Example:
        >>> import lumbre as lb, pathlib, tempfile, torch
        >>> path = pathlib.Path(tempfile.mkdtemp(), "log.jsonl")
        >>> net = lb.setup(torch.nn.Linear(1, 1), torch.nn.MSELoss(), torch.optim.SGD)
        >>> data = [torch.zeros(2, 1), torch.zeros(2, 1)]
        >>> fitted = net.fit(data, epochs=1, callbacks=lb.callbacks.JSONLogger(path))
        >>> print(path.read_text())
        {"time": "...Z", "epoch": 1, "set": "train", "loss": ..., "lr": 0.001}
    """

    def __init__(self, path: str | os.PathLike[str], every: int | None = None) -> None:
        super().__init__(path)
        self._set_every(every)

    def on_fit_begin(self, ctx: Context) -> None:
        """See that the file can be written, before an epoch is lost."""
        EpochLog.on_fit_begin(self, ctx)
        InBetween.on_fit_begin(self, ctx)

    def _write_step(self, ctx: Context, row: dict[str, float]) -> None:
        own = {"epoch": ctx.epoch, "step": ctx.step_count, "set": "train"}
        self._log(ctx, [own | named(row)])

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
        self._add("".join(f"{line}\n" for line in lines))
