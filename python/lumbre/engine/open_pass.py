"""The pass under way as a part of a run's state, and a run that goes on inside of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumbre.data.continued import Continued, tell_epoch
from lumbre.data.position import Position
from lumbre.engine.metric_states import metric_state, restore_metric
from lumbre.engine.parts import step_of
from lumbre.engine.resume import restore_again
from lumbre.state.run_state import RunState

_DATA = {True: "the training data", False: "the validation data"}


def open_pass(ctx: RunState, begun: bool) -> dict[str, Any]:
    """Return where the pass of an epoch stands that is under way, between two of its batches.

    Args:
        ctx: The run.
        begun: Whether its `_begin` was fired; if not it comes next.
    """
    training = ctx.training
    state: dict[str, Any] = {
        "epoch": ctx.epoch,
        "pass": ctx._pass_number,
        "begun": begun,
        "training": training,
        "iter": ctx.iter,
    }
    if not begun:
        return state
    step = step_of(ctx)
    metrics = ctx.metrics["train" if training else "valid"]
    return state | {
        "place": None if ctx._place is None else place_of(ctx._place, ctx.iter),
        "skips_epoch": ctx._skips_epoch,
        "measured": ctx._pass_state(training),
        "metrics": {each.record_name: metric_state(each) for each in metrics},
        "windows": step.windows.state(),
    }


def place_of(place: Position, used: int) -> dict[str, Any] | None:
    """Return what a pass over a loader was begun with, and how many of its batches were used."""
    return None if place.began is None else {"began": place.began, "used": used}


def go_on_with_data(ctx: RunState, continued: Continued) -> None:
    """Let the passes over the training data go on where the state has left them."""
    state, ctx._going_on_data = ctx._going_on_data, None
    if state is not None:
        tell_epoch(continued.loader, ctx.data_epoch - 1)
        source: Any = continued.source
        source.go_on(state["began"], state["used"], ctx._keeper.skips, _DATA[True])
        continued.go_on(state["used"])


def reopen(ctx: RunState, source: Any) -> None:
    """Go on inside of the pass that has begun, if it is the one that the state left open."""
    state = ctx._going_on
    if state is None or not _is_here(ctx, state["open"]):
        return
    opened = state["open"]
    ctx._going_on = None
    restore_again(ctx, state)
    training = opened["training"]
    ctx._reopen(opened["iter"], state["progress"]["step_count"])
    ctx._restore_pass(training, opened["measured"])
    for each in ctx.metrics["train" if training else "valid"]:
        if each.record_name in opened["metrics"]:
            restore_metric(each, opened["metrics"][each.record_name])
    step_of(ctx).windows.restore(opened["windows"])
    if opened["skips_epoch"]:
        ctx.skip_epoch()
    if (place := opened["place"]) is not None:
        if training:
            tell_epoch(source.loader, ctx.data_epoch - 1)
        source.go_on(place["began"], place["used"], ctx._keeper.skips, _DATA[training])


def is_open(ctx: RunState) -> bool:
    """True if the pass that begins is the one that the state left open, behind its begin."""
    state = ctx._going_on
    return state is not None and state["open"]["begun"] and _is_here(ctx, state["open"])


def _is_here(ctx: RunState, opened: Mapping[str, Any]) -> bool:
    return bool(opened["epoch"] == ctx.epoch and opened["pass"] == ctx._pass_number)
