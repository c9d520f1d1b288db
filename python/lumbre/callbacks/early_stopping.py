"""Stop when nothing gets better any more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lumbre.callback import Callback
from lumbre.callbacks.monitor import Mode, Monitor
from lumbre.context import format_value
from lumbre.errors import ArgumentError

if TYPE_CHECKING:
    from lumbre.context import Context


class EarlyStopping(Callback):
    """Stops at the `patience`-th epoch in a row without an improvement of what it watches.

    Acts at `on_fit_begin` and `on_epoch_end`, at weight inf: every other callback has logged its
    values by then. After that epoch's end `on_early_stopping` fires, and a line says so when the
    run is verbose. It never stops before the `min` of `epochs=(min, max)`; epochs without an
    improvement count on during them. A NaN is no improvement.

    Args:
        monitor: What to watch: a set and the name of a record.
        min_delta: By how much a value has to be better to count.
        patience: How many epochs in a row may be no better; 0 acts as 1.
        mode: Whether better is "min", "max" or nearer to "zero".
        baseline: What the first epoch has to beat; without it, the first epoch only sets the best
            value.

    Raises:
        MonitorError: when the fit begins without the data it watches; when the first epoch has
            ended without the value.
    """

    weight = math.inf

    def __init__(
        self,
        monitor: str = "valid_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: Mode = "min",
        baseline: float | None = None,
    ) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 0:
            raise ArgumentError(
                f"EarlyStopping: patience is a whole number from 0; got {patience!r}."
            )
        self._monitor = Monitor("EarlyStopping", monitor, mode, min_delta)
        self.monitor = monitor
        self.min_delta = min_delta
        self.patience = patience
        self.mode = mode
        self.baseline = baseline
        self._begin()

    def _begin(self) -> None:
        self._best = self.baseline
        self._best_epoch = 0
        self._waited = 0
        self._why = ""

    def on_fit_begin(self, ctx: Context) -> None:
        """Start anew, and look whether there will be anything to watch."""
        self._begin()
        self._monitor.check(ctx)

    def on_epoch_end(self, ctx: Context) -> None:
        """Compare, count, and ask for the stop when it is due."""
        value = self._monitor.value(ctx)
        if value is None:
            return
        if self._best is None or self._monitor.improves(value, self._best):
            self._best, self._best_epoch, self._waited = value, ctx.epoch, 0
            return
        self._waited += 1
        if self._waited >= max(self.patience, 1) and ctx.epoch >= ctx.min_epochs:
            ctx._early_stopping = True
            where = f"of epoch {self._best_epoch}" if self._best_epoch else "of the baseline"
            self._why = (
                f"{self.monitor} has not improved for {self._waited} "
                f"epoch{'s' * (self._waited > 1)}; the best is {format_value(self._best)} {where}"
            )
            ctx.stop(self._why)

    def on_early_stopping(self, ctx: Context) -> None:
        """One line."""
        if ctx.verbose:
            print(f"Early stopping at epoch {ctx.epoch}: {self._why}.")  # noqa: T201
