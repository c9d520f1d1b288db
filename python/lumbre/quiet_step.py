"""The training step of a run in which nobody is called inside of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lumbre._core import HOOKS
from lumbre.backward import check_scalar, differentiate
from lumbre.fast_step import PUBLIC
from lumbre.step import compare, predict, set_grad

if TYPE_CHECKING:
    from lumbre.context import Context


_INSIDE = [
    hook
    for hook in HOOKS
    if hook.startswith("on_train_batch_") and not hook.endswith(("_begin", "_end"))
]


def is_quiet(ctx: Context) -> bool:
    """Whether the default training step comes down to `quiet_step` in this run."""
    plain = (predict, compare, differentiate)
    return (
        not ctx._own_step
        and not ctx._closures
        and (ctx._predict, ctx._compare, ctx._differentiate) == plain
        and len(ctx.optimizers) == 1
        and not any(map(ctx._is_used, _INSIDE))
    )


def training_step(ctx: Context) -> Callable[[Context], Any]:
    """The step of a training pass; asked for as each one begins, as optimizers may be replaced."""
    return quiet_step_of(ctx) if is_quiet(ctx) else ctx._steps[0]


def quiet_step_of(ctx: Context) -> Callable[[Context], None]:
    """`loop.train_step` where nobody is called inside of it: one optimizer, and no breakpoint.

    Step for step it does the same; what is left out is looking for somebody to call.
    """
    now, road = ctx._now, ctx._road
    ((now.opt_name, optimizer),) = ctx.optimizers.items()
    now.opt = optimizer
    backward, step, zero_grad = road
    is_public = road is PUBLIC

    def quiet_step(ctx: Context) -> None:
        batch = now.batch
        kind = type(batch)
        if (kind is list or kind is tuple) and len(batch) > 1:
            pred = now.pred = now.model(batch[0])
            if now.batch is batch:
                loss = now.loss_grad = now.loss_fn(pred, batch[1])
            else:  # the model has put another one in its place
                loss = now.loss_grad = compare(ctx, now.batch)
        else:
            now.pred = predict(ctx, batch)
            loss = now.loss_grad = compare(ctx, now.batch)
        if now.left:
            return  # the model or the loss has asked for it
        try:
            if is_public:
                loss.backward()
                step_opt = now.step_opt
                if step_opt is step:  # the public one, without a function in between
                    optimizer.step()
                else:
                    set_grad(False)
                    step_opt(optimizer)
                    set_grad(True)
                optimizer.zero_grad()
            else:
                # The engine sets its own mode; what the fast step calls needs gradients off.
                set_grad(False)
                backward(loss, ())
                now.step_opt(optimizer)
                zero_grad(optimizer)
                set_grad(True)
        except (RuntimeError, AttributeError):
            check_scalar(ctx, loss)
            raise

    return quiet_step
