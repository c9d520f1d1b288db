"""The loop: the tree of breakpoints, each fired in its place. Those in a step are in `parts`.

Loss and metrics are counted by a default callback, `Metrics`, which is written in Rust.

The run has gradients off, except in a training pass. There the scheduler switches them off around
the Python callbacks of every breakpoint that wants no graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lumbre._core import Batches
from lumbre.data.continued import Continued, tell_epoch
from lumbre.data.counts import check_count
from lumbre.data.fast_loader import fast_loader
from lumbre.data.position import Position
from lumbre.engine.ends import (
    check_epoch,
    check_none_under_way,
    finish_training,
    interrupt,
    leave_loop,
    leave_pass,
)
from lumbre.engine.guard import EpochGuard
from lumbre.engine.honest import look_at_weights
from lumbre.engine.open_pass import go_on_with_data, is_open, reopen
from lumbre.engine.parts import parts_of, step_of
from lumbre.errors import ContextError
from lumbre.state.run_state import RunState
from lumbre.step.checks import method_of
from lumbre.step.step import set_grad


def fit(ctx: RunState) -> None:
    """Train for the epochs of the run, with a validation pass in each one if there is data."""
    now = ctx._now
    for _ in epochs(ctx):
        with EpochGuard(ctx):
            for _ in train(ctx, ctx.train_data):
                now.step(ctx)
            if ctx.valid_data is not None:
                validate(ctx)


def evaluate(ctx: RunState) -> None:
    """Run exactly the validation pass of an epoch."""
    validate(ctx)
    if ctx.interrupted:
        raise KeyboardInterrupt


def validate(ctx: RunState) -> None:
    """Measure the model on the validation data."""
    now = ctx._now
    for _ in valid(ctx, ctx.valid_data):
        now.step(ctx)


def validate_first(ctx: RunState) -> None:
    """Measure what the epochs begin with, if that is wanted; a run that goes on has done so."""
    is_open = ctx._going_on is not None and ctx._going_on["open"]["epoch"] > 0
    if ctx._valid_first and not (ctx.epoch or is_open or "before" in ctx._history()):
        validate(ctx)
        if ctx._keeper is not None:
            ctx._keeper.keep()


def epochs(ctx: RunState) -> Iterator[int]:
    """Give the epochs of the run, until the last one or a stop."""
    fire = ctx.call_callbacks
    if not ctx.epoch:
        leave_pass(ctx)  # one by itself may have been left by `break`
    if ctx.epoch or ctx._next_end() is not None:
        raise ContextError(_BEGUN_ALREADY.format(ctx.place))
    fire("on_fit_begin")
    ctx._start_clock()
    validate_first(ctx)
    while ctx._next_epoch():
        with EpochGuard(ctx) as guard:
            fire("on_epoch_begin")
        if not guard.has_ended:
            yield ctx.epoch
        leave_pass(ctx)
        interrupt(ctx)
        ctx._ends[ctx.epoch] = ctx.step_count
        look_at_weights(ctx)
        with EpochGuard(ctx):
            fire("on_epoch_end")
            if ctx._take_early_stop():
                fire("on_early_stopping")
        ctx.exception = None  # one that a handler of the epoch has dealt with
    interrupt(ctx)
    if ctx._next_end() is not None:  # else the end was reached at once, by an interrupt
        if ctx._keeper is not None:
            ctx._keeper.before_end()
        fire("on_fit_end")


def train(ctx: RunState, loader: Iterable[Any]) -> Iterator[Any]:
    """Give the batches of a training pass; the body between two of them is the training step."""
    if not begin(ctx, loader, training=True):
        return
    fire, now, step = ctx.call_callbacks, ctx._now, step_of(ctx)
    step.begin_pass(ctx, ctx._pass_length)
    fire("on_train_begin")
    step.see_optimizers(ctx)  # there may be other optimizers by now
    ctx._record_rates()
    source = passes(ctx, loader)
    reopen(ctx, source)
    is_unnamed = step.is_own and len(ctx.optimizers) > 1  # the step says which one it means
    mine = ctx._pass = object()
    try:
        set_grad(True)
        for _ in batches(ctx, source, "the training data"):
            if is_unnamed:
                ctx.opt_name = None
            if not fire("on_train_batch_begin"):
                yield now.batch
            if fire("on_train_batch_end"):
                step.clear(ctx)
        finish_training(ctx)
    finally:
        leave_loop(ctx, mine)
    interrupt(ctx)
    fire("on_train_end")


def valid(ctx: RunState, loader: Iterable[Any]) -> Iterator[Any]:
    """Give the batches of a validation pass."""
    if not begin(ctx, loader, training=False):
        return
    fire, now, step = ctx.call_callbacks, ctx._now, step_of(ctx)
    fire("on_valid_begin")
    is_unnamed = step.is_own and len(ctx.optimizers) > 1
    source = placed(ctx, loader)
    reopen(ctx, source)
    mine = ctx._pass = object()
    try:
        set_grad(False)
        for _ in batches(ctx, source, "the validation data"):
            if is_unnamed:
                ctx.opt_name = None
            if not fire("on_valid_batch_begin"):
                yield now.batch
            fire("on_valid_batch_end")
    finally:
        leave_loop(ctx, mine)
    interrupt(ctx)
    fire("on_valid_end")


def predict(ctx: RunState) -> Iterator[Any]:
    """Give the predictions, batch by batch, without those of skipped batches."""
    ctx._next_pass(False)
    fire, now, step = ctx.call_callbacks, ctx._now, step_of(ctx)
    fire("on_predict_begin")
    own = method_of(ctx.accelerator.unwrap(ctx.model), "predict")
    for _ in batches(ctx, fast_loader(ctx.data), "the data to predict"):
        if not fire("on_predict_batch_begin"):
            now.pred = step.answer(now.batch, own)
        if not fire("on_predict_batch_end"):
            yield now.pred
    interrupt(ctx)
    fire("on_predict_end")
    if ctx.interrupted:
        raise KeyboardInterrupt


def begin(ctx: RunState, loader: Iterable[Any], *, training: bool) -> bool:
    """Begin a pass, once one that was left by `break` is closed; False to leave it out."""
    check_none_under_way(ctx)
    leave_pass(ctx)
    check_epoch(ctx, training)
    if ctx._keeper is not None:
        ctx._keeper.before_pass(training)
    if not ctx._next_pass(training):
        return False
    ctx.data = loader
    ctx._parts = parts_of(ctx, step_of(ctx), training)
    ctx.step = ctx._parts.step
    return True


def passes(ctx: RunState, loader: Iterable[Any]) -> Iterable[Any]:
    """Return what an epoch takes its training batches from: one pass, or a slice of many."""

    def begin_pass() -> None:
        tell_epoch(loader, ctx._next_data_epoch() - 1)

    if ctx._steps_per_epoch is None:
        if not is_open(ctx):
            begin_pass()
        return placed(ctx, loader)
    continued: Continued | None = ctx._continued
    if continued is None or continued.loader is not loader:
        source = placed(ctx, loader)
        continued = ctx._continued = Continued(loader, source, begin_pass, "the training data")
        go_on_with_data(ctx, continued)
    ctx._place = None  # the passes have a place of their own
    return continued


def placed(ctx: RunState, loader: Iterable[Any]) -> Iterable[Any]:
    """Return what gives the batches of a loader, with its place where states are kept."""
    if ctx._keeper is None:
        return fast_loader(loader)
    position = ctx._place = Position(loader, ctx.device)
    return position


def batches(ctx: RunState, loader: Iterable[Any], what: str) -> Batches:
    """Give the batches of a pass, counted and on the device, until the last or a wish to leave."""
    place = ctx.accelerator.place if ctx.accelerator.places else None

    def ended(count: int) -> None:
        check_count(ctx.data, count, what)

    return Batches(ctx, ctx._now, loader, place, ended, step_of(ctx).is_own)


_BEGUN_ALREADY = (
    "The epochs of this run have begun already ({}), and callbacks would begin anew. Go through "
    "ctx.epochs() once; for others, begin another lb.run(...)."
)
