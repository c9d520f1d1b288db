"""The loop. Each breakpoint is fired here and nowhere else, in the place where it belongs.

The run has gradients off, except in a training pass. There the scheduler switches them off around
the Python callbacks of every breakpoint that wants no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lumbre import step
from lumbre._core import Batches
from lumbre.backward import keep_loss
from lumbre.data import empty
from lumbre.errors import ContextError
from lumbre.guard import EpochGuard
from lumbre.quiet_step import training_step
from lumbre.step import set_grad

if TYPE_CHECKING:
    from lumbre.context import Context

Fire = Callable[[str], bool]
Again = Callable[["Context"], Any]


def fit(ctx: Context) -> None:
    """Train for the epochs of the run, with a validation pass in each one if there is data."""
    now = ctx._now
    for _ in epochs(ctx):
        with EpochGuard(ctx):
            for _ in train(ctx, ctx.train_data):
                now.step(ctx)
            if ctx.valid_data is not None:
                for _ in valid(ctx, ctx.valid_data):
                    now.step(ctx)


def evaluate(ctx: Context) -> None:
    """Exactly the validation pass of an epoch."""
    for _ in valid(ctx, ctx.valid_data):
        ctx.step(ctx)
    if ctx.interrupted:
        raise KeyboardInterrupt


def epochs(ctx: Context) -> Iterator[int]:
    """The epochs of the run, until the last one or a stop."""
    fire = ctx.call_callbacks
    if ctx.epoch or ctx._next_end() is not None:
        raise ContextError(
            f"The epochs of this run have begun already ({ctx.place}), and callbacks would begin "
            "anew. Go through ctx.epochs() once; for others, begin another lb.run(...)."
        )
    fire("on_fit_begin")
    while ctx._next_epoch():
        with EpochGuard(ctx) as guard:
            fire("on_epoch_begin")
        if not guard.has_ended:
            yield ctx.epoch
        leave_pass(ctx)
        interrupt(ctx)
        with EpochGuard(ctx):
            fire("on_epoch_end")
            if ctx._take_early_stop():
                fire("on_early_stopping")
    interrupt(ctx)
    end_fit(ctx)


def end_fit(ctx: Context) -> None:
    """The last breakpoint of a fit, unless it was reached already."""
    if ctx._next_end() is not None:
        ctx.call_callbacks("on_fit_end")


def train(ctx: Context, loader: Iterable[Any]) -> Iterator[Any]:
    """One pass over the training data; the body between two batches is the training step."""
    begin_pass(ctx, training=True)
    if not ctx._next_pass(True):
        return
    fire, now = ctx.call_callbacks, ctx._now
    ctx.data = loader
    step.begin_updates(ctx, loader)
    ctx.step = chosen = training_step(ctx)
    fire("on_train_begin")
    if ctx.step is chosen:
        ctx.step = training_step(ctx)  # there may be other optimizers now
    unnamed = ctx._own_step and len(ctx.optimizers) > 1  # the step says which one it means
    mine = ctx._pass = object()
    try:
        set_grad(True)
        for _ in batches(ctx, loader, "the training data"):
            if unnamed:
                ctx.opt_name = None
            if not fire("on_train_batch_begin"):
                yield now.batch
            if fire("on_train_batch_end"):
                step.clear_gradients(ctx)
        finish_windows(ctx)
    finally:
        leave_loop(ctx, mine)
    interrupt(ctx)
    fire("on_train_end")


def train_step(ctx: Context) -> None:
    """The default training step: every optimizer has its own prediction, loss and step."""
    fire, now = ctx.call_callbacks, ctx._now
    for now.opt_name, now.opt in ctx.optimizers.items():
        left = forward(ctx, fire) or compute_loss(ctx, fire)
        if left or backward(ctx, fire) or step_optimizer(ctx, fire, again):
            step.clear_gradients(ctx)  # skip_batch was asked for: the batch is left
            return


def forward(ctx: Context, fire: Fire) -> bool:
    """Predict, from `ctx.input` into `ctx.pred`. As every part of a step: true to leave it."""
    ctx._now.pred = ctx._predict(ctx, ctx._now.batch)
    if ctx.training:
        return fire("on_train_batch_after_pred")
    return fire("on_valid_batch_after_pred")


def compute_loss(ctx: Context, fire: Fire) -> bool:
    """Compare, from `ctx.pred` and `ctx.target` into `ctx.loss_grad`."""
    ctx._now.loss_grad = ctx._compare(ctx, ctx._now.batch)
    if ctx.training:
        return fire("on_train_batch_after_loss")
    return fire("on_valid_batch_after_loss")


def backward(ctx: Context, fire: Fire) -> bool:
    """Differentiate `ctx.loss_grad`."""
    if fire("on_train_batch_before_backward"):
        return True
    ctx._differentiate(ctx, ctx._now.loss_grad)
    return False


def step_optimizer(ctx: Context, fire: Fire, again: Again | None = None) -> bool:
    """Step the optimizer under way and clear its gradients, if a step is due."""
    if not step.settle(ctx):
        return False
    if fire("on_train_batch_before_step"):
        return True
    step.update(ctx, again)
    return fire("on_train_batch_after_step")


def again(ctx: Context) -> Any:
    """The batch once more, for an optimizer that evaluates it several times a step."""
    fire = ctx.call_callbacks
    ctx._road.zero_grad(ctx.opt)
    forward(ctx, fire)
    compute_loss(ctx, fire)
    backward(ctx, fire)
    return ctx.loss_grad


def finish_windows(ctx: Context) -> None:
    """Step on what the last batches of a pass have gathered, fewer than a window holds."""
    ctx._end_batch()  # a wish to leave the last one is not one to leave the others
    for name in step.open_windows(ctx):
        ctx.opt_name = name
        if step_optimizer(ctx, ctx.call_callbacks):
            step.clear_gradients(ctx, whole=True)


def valid(ctx: Context, loader: Iterable[Any]) -> Iterator[Any]:
    """One pass over the validation data."""
    begin_pass(ctx, training=False)
    if not ctx._next_pass(False):
        return
    fire, now = ctx.call_callbacks, ctx._now
    ctx.data, ctx.step = loader, ctx._steps[1]
    fire("on_valid_begin")
    mine = ctx._pass = object()
    try:
        set_grad(False)
        for _ in batches(ctx, loader, "the validation data"):
            if not fire("on_valid_batch_begin"):
                yield now.batch
            fire("on_valid_batch_end")
    finally:
        leave_loop(ctx, mine)
    interrupt(ctx)
    fire("on_valid_end")


def valid_step(ctx: Context) -> None:
    """The default validation step: a prediction and a loss for every optimizer's name."""
    fire = ctx.call_callbacks
    for ctx._now.opt_name in ctx.optimizers:
        if forward(ctx, fire) or compute_loss(ctx, fire):
            return
        keep_loss(ctx)


def begin_pass(ctx: Context, training: bool) -> None:
    """Leave the pass before, if a loop of the user's own has broken out of it."""
    in_epoch = ctx._next_end() is not None
    if ctx.epoch and not in_epoch:
        raise ContextError(
            "The epochs of this run are over, and another pass would take the place of what the "
            "last one has recorded. Measure the model in a run of its own: "
            "`with lb.run(model, optimizer) as test: for batch in test.valid(loader): ...`."
        )
    if training and not in_epoch:
        raise ContextError(
            "A training pass is a part of an epoch, and none is under way: callbacks would not "
            "have begun. Put it inside of one: `for epoch in ctx.epochs(): ...`."
        )
    if ctx._pass is not None:
        raise ContextError(
            f"A pass is under way ({ctx.place}), and another one cannot begin inside of it. Let "
            "its loop end first: `for batch in ctx.train(loader): ...`, with `break` if need be; "
            "one whose batches are kept in a variable ends by `batches.close()`."
        )
    leave_pass(ctx)


def leave_loop(ctx: Context, mine: object) -> None:
    """Leave the loop over a pass, also where a `break` has: no breakpoint can be fired there."""
    if ctx._pass is mine:  # not when somebody lets go of an old one that was kept
        ctx._pass = None
        set_grad(ctx._grad_outside)


def leave_pass(ctx: Context) -> None:
    """Close a pass that was left before its end; what it has gathered is stepped on."""
    end = ctx._next_end(inside_epoch=True)
    if end is None:
        return
    ctx._pass = None
    set_grad(ctx._grad_outside)
    if ctx.training:
        set_grad(True)
        if end == "on_train_batch_end" and ctx.call_callbacks(end):
            step.clear_gradients(ctx)
        finish_windows(ctx)
        set_grad(ctx._grad_outside)
    close(ctx, inside_epoch=True)


def predict(ctx: Context) -> Iterator[Any]:
    """The predictions, batch by batch, without those of skipped batches."""
    ctx._next_pass(False)
    fire = ctx.call_callbacks
    fire("on_predict_begin")
    for _ in batches(ctx, ctx.data, "the data to predict"):
        if not fire("on_predict_batch_begin"):
            ctx.pred = step.predict_for_user(ctx)
        if not fire("on_predict_batch_end"):
            yield ctx.pred
    interrupt(ctx)
    fire("on_predict_end")
    if ctx.interrupted:
        raise KeyboardInterrupt


def batches(ctx: Context, loader: Iterable[Any], what: str) -> Batches:
    """The batches of a pass, counted and on the device, until the last one or a wish to leave."""
    place = ctx.accelerator.place if ctx.accelerator.places else None
    return Batches(ctx, ctx._now, loader, place, lambda: empty(loader, what), ctx._own_step)


def interrupt(ctx: Context) -> None:
    """Fire the breakpoint of Ctrl-C, once, if it was pressed."""
    if ctx.interrupted and not ctx._interrupt_fired:
        ctx._interrupt_fired = True
        ctx.call_callbacks("on_interrupt")


def fail(ctx: Context) -> None:
    """Fire the breakpoint of an exception that is leaving; `ctx.exception` holds it."""
    ctx.call_callbacks("on_exception")


def end_run(ctx: Context) -> None:
    """End a run whose loop the user has written, wherever that was left."""
    if ctx._next_end() is not None:
        leave_pass(ctx)
        interrupt(ctx)
        close(ctx)


def close(ctx: Context, inside_epoch: bool = False) -> None:
    """Fire the `_end`s that are due, from the inside out, when what they close was left early."""
    fired: set[str] = set()
    # Each one once: a callback that fires a `_begin` by hand must not keep this going.
    while (end := ctx._next_end(inside_epoch)) is not None and end not in fired:
        fired.add(end)
        ctx.call_callbacks(end)
