"""The breakpoints that close what was left early, and those of Ctrl-C and exceptions."""

from __future__ import annotations

from lumbre.engine.parts import step_of
from lumbre.errors import ContextError
from lumbre.state.run_state import RunState
from lumbre.step.step import set_grad

# The outermost `_end`.
_LAST = "on_fit_end"


def interrupt(ctx: RunState) -> None:
    """Fire the breakpoint of Ctrl-C, once, if it was pressed."""
    if ctx.interrupted and not ctx._interrupt_fired:
        ctx._interrupt_fired = True
        ctx.call_callbacks("on_interrupt")


def fail(ctx: RunState) -> None:
    """Fire the breakpoint of an exception that is leaving; `ctx.exception` holds it."""
    ctx.call_callbacks("on_exception")


def checkpoint(ctx: RunState, path: str) -> None:
    """Fire the breakpoint of a file that is on the disk."""
    ctx._checkpoint = path
    ctx.call_callbacks("on_checkpoint")


def close(ctx: RunState, inside_epoch: bool = False) -> None:
    """Fire the `_end`s that are due, from the inside out, when what they close was left early."""
    fired: set[str] = set()
    # Each one once: a callback that fires a `_begin` by hand must not keep this going.
    while (end := ctx._next_end(inside_epoch)) is not None and end not in fired:
        fired.add(end)
        ctx.call_callbacks(end)


def end_at_once(ctx: RunState) -> None:
    """End a fit past all that is open: Ctrl-C was pressed again, and the epoch counts no more."""
    ctx._drop_open_epoch()
    if ctx._next_end() is not None:
        ctx.call_callbacks(_LAST)


def end_run(ctx: RunState) -> None:
    """End a run whose loop the user has written, wherever that was left."""
    if ctx._next_end() is not None:
        leave_pass(ctx)
        interrupt(ctx)
        close(ctx)


def finish_training(ctx: RunState) -> None:
    """End the batches of a training pass; the norms of its gradients are recorded."""
    if step_of(ctx).windows.in_use:
        finish_windows(ctx)
    ctx._record_norms()


def finish_windows(ctx: RunState) -> None:
    """Step on what the last batches of a pass have gathered, fewer than a window holds."""
    step = step_of(ctx)
    ctx._end_batch()  # skip_batch in the last batch does not skip what is gathered
    for name in step.windows.end_pass(ctx.iter):
        ctx.opt_name = name
        if ctx._parts.step_optimizer():
            step.clear(ctx, whole=True)


def leave_loop(ctx: RunState, mine: object) -> None:
    """Leave the loop over a pass, also where a `break` has: no breakpoint can be fired there."""
    if ctx._pass is mine:  # not when somebody lets go of an old one that was kept
        ctx._pass = None
        set_grad(ctx._grad_outside)


def leave_pass(ctx: RunState) -> None:
    """Close a pass that was left before its end; what it has gathered is stepped on."""
    end = ctx._next_end(inside_epoch=True)
    if end is None:
        return
    ctx._pass = None
    set_grad(ctx._grad_outside)
    if ctx.training:
        set_grad(True)
        if end == "on_train_batch_end" and ctx.call_callbacks(end):
            step_of(ctx).clear(ctx)
        finish_training(ctx)
        set_grad(ctx._grad_outside)
    close(ctx, inside_epoch=True)


def check_none_under_way(ctx: RunState) -> None:
    """Refuse a pass inside of another one.

    Raises:
        ContextError: when a pass is under way.
    """
    if ctx._pass is not None:
        raise ContextError(_ANOTHER_UNDER_WAY.format(ctx.place))


def check_epoch(ctx: RunState, training: bool) -> None:
    """Refuse a pass where none can begin.

    Raises:
        ContextError: when the epochs are over, or none is under way to train in.
    """
    in_epoch = ctx._next_end() is not None
    if ctx.epoch and not in_epoch:
        raise ContextError(_EPOCHS_ARE_OVER)
    if training and not in_epoch:
        raise ContextError(_NO_EPOCH)


_EPOCHS_ARE_OVER = (
    "The epochs of this run are over, and another pass would take the place of what the last one "
    "has recorded. Measure the model in a run of its own: "
    "`with lb.run(model, optimizer) as test: for batch in test.valid(loader): ...`."
)
_NO_EPOCH = (
    "A training pass is a part of an epoch, and none is under way: callbacks would not have begun. "
    "Put it inside of one: `for epoch in ctx.epochs(): ...`."
)
_ANOTHER_UNDER_WAY = (
    "A pass is under way ({}), and another one cannot begin inside of it. Let its loop end first: "
    "`for batch in ctx.train(loader): ...`, with `break` if need be; one whose batches are kept in "
    "a variable ends by `batches.close()`."
)
