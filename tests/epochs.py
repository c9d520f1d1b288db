"""Runs that are stopped and taken up again where a test wants it; epochs given by hand."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest

import lumbre as lb
from lumbre.engine.writing import Writing
from runs import at, fit

History = list[dict[str, dict[str, Any]]]


class Epochs:
    """As much of a ctx as a logger asks for, over a history of `{set: {name: value}}` an epoch."""

    def __init__(self, history: History, is_main: bool = True) -> None:
        self.history = history
        self.epoch = 0
        self.accelerator = SimpleNamespace(is_main=is_main)

        self._notes_rates = self._is_before_epochs = False
        self.step_count = 0
        self._writing = Writing(self)  # type: ignore[arg-type]

    def _call_attention(self) -> None:
        """Nothing is written in a thread here."""

    def get_metrics(self, set_: str, epoch: int | None = None) -> dict[str, Any]:
        epoch = self.epoch if epoch is None else epoch
        return dict(self.history[epoch - 1].get(set_, {})) if epoch else {}

    def _sides(self, epoch: int) -> dict[str, float]:
        return {}


def log(logger: Any, ctx: Any, first: int, last: int, middle: bool = False) -> None:
    """A fit of these epochs; `middle` when it is taken up in the middle of the first one."""
    logger.on_fit_begin(ctx)
    for ctx.epoch in range(first, last + 1):
        if ctx.epoch > first or not middle:
            logger.on_epoch_begin(ctx)
        logger.on_epoch_end(ctx)
    logger.on_fit_end(ctx)


def stopped_and_resumed(
    module: Any, make: Any, saved: int = 2, killed: int = 4, epochs: int = 6, **options: Any
) -> lb.Fitted:
    """A fit with the callback that `make` gives: killed, and resumed from the epoch `saved`."""
    states: list[Any] = []
    save = lb.on("on_epoch_end", weight=float("inf"), epochs=(saved, saved))(
        lambda ctx: states.append(copy.deepcopy(ctx.state_dict()))
    )
    kill = at("on_train_batch_end", lambda ctx: 1 // 0, nth=2 * killed)
    with pytest.raises(ZeroDivisionError):
        fit(module, make(), save, kill, epochs=epochs, **options)
    load = lb.on("on_fit_begin", weight=float("inf"))(lambda ctx: ctx.load_state_dict(states[0]))
    return fit(module, make(), load, epochs=epochs, **options)
