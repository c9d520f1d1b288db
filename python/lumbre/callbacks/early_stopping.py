"""Stop when nothing gets better any more."""

from __future__ import annotations

import math
from typing import Any, Literal

from lumbre._core import NativeCallback
from lumbre.arguments import monitor_of, number, whole
from lumbre.callbacks.watched import check_watched, watched
from lumbre.hooks.callback import Callback


class EarlyStopping(Callback):
    """Stops at the `patience`-th epoch in a row without an improvement of what it watches.

    Acts at `on_fit_begin`, at `on_valid_end` before the first epoch (what `valid_first=True`
    measures is the first best value, if it beats the baseline) and at `on_epoch_end`, at weight
    inf: every other callback has logged its values by then. After that epoch's end
    `on_early_stopping` fires, and a line says so when the run is verbose. It never stops before the
    `min` of `epochs=(min, max)`; epochs without an improvement count on during them. A NaN is no
    improvement. The weights are those of the last epoch; `KeepBestModel` puts back those of the
    best. Written in Rust.

    Args:
        monitor: What to watch: a set and the name of a record.
        min_delta: By how much a value has to be better to count.
        patience: How many epochs in a row may be no better; 0 acts as 1.
        mode: Whether better is "min", "max" or nearer to "zero"; one that is at odds with the
            metric is warned about.
        baseline: What the first epoch has to beat; without it, the first epoch only sets the best
            value.

    Raises:
        ArgumentError: when an argument makes no sense.
        MonitorError: when the fit begins without the data it watches; when the first epoch has
            ended without the value.

    Example:
        >>> EarlyStopping("valid_acc", mode="max", patience=3)
        EarlyStopping(monitor='valid_acc', min_delta=0.0, patience=3, mode='max', baseline=None)
    """

    weight = math.inf

    def __init__(
        self,
        monitor: str = "valid_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: Literal["min", "max", "zero"] = "min",
        baseline: float | None = None,
    ) -> None:
        self.monitor = monitor
        self.min_delta = min_delta
        self.patience = patience
        self.mode = mode
        self.baseline = baseline
        self._built = self._build()

    def state_dict(self) -> dict[str, Any]:
        """The best value, what it is of, its epoch, the epochs since, and the reason to stop."""
        return {**self._built[1].save(), **watched(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, as if the fit had never been interrupted.

        To be called when the fit has begun, from a callback that comes after this one at
        `on_fit_begin`: there it starts anew.

        Raises:
            ArgumentError: when it is no such state, or that of another monitor or mode.
        """
        if isinstance(state, dict):
            check_watched(self, state)
            state = {name: value for name, value in state.items() if name not in watched(self)}
        self._built[1].load(state)

    @property
    def _native(self) -> NativeCallback:
        """The part in Rust, which keeps the state; another one if an argument has changed."""
        if self._arguments() != self._built[0]:
            self._built = self._build()
        return self._built[1]

    def _arguments(self) -> tuple[Any, ...]:
        return self.monitor, self.min_delta, self.patience, self.mode, self.baseline

    def _build(self) -> tuple[tuple[Any, ...], NativeCallback]:
        min_delta = number(self, "min_delta", self.min_delta, least=0.0)
        monitor_of(self, self.monitor, self.mode, min_delta)
        native = NativeCallback.early_stopping(
            self.monitor,
            min_delta,
            whole(self, "patience", self.patience, least=0),
            str(self.mode),
            None if self.baseline is None else number(self, "baseline", self.baseline),
        )
        return self._arguments(), native

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_built": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._built = self._build()
        self.load_state_dict(state["_built"])
