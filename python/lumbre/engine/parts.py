"""The four parts of a step, and the breakpoints in it. Each is fired here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from torch.nn.utils import get_total_norm

from lumbre.engine.loss_parts import LossParts
from lumbre.state.run_state import RunState
from lumbre.step.checks import check_first_step, check_scalar
from lumbre.step.shortcuts import PUBLIC
from lumbre.step.step import Step, parameters_of, set_grad

Part = Callable[[], bool]
TakeStep = Callable[[Any], None]

# Who is called here may look into a step. Where nobody is, its breakpoints are left out, unless the
# model has asked to skip the batch: Rust is to know then how far the step came.
_INSIDE = [
    "on_train_batch_after_pred",
    "on_train_batch_after_loss",
    "on_train_batch_before_backward",
    "on_train_batch_before_step",
    "on_train_batch_after_step",
    "on_valid_batch_after_pred",
    "on_valid_batch_after_loss",
    "on_exception",
]


class Parts(NamedTuple):
    """The parts of the steps of a pass, each true to leave the batch, and the step they make."""

    forward: Part
    compute_loss: Part
    backward: Part
    step_optimizer: Callable[..., bool]
    step: TakeStep


def step_of(ctx: RunState) -> Step:
    """Return how a run takes its steps."""
    return cast(Step, ctx._step)


def parts_of(ctx: RunState, step: Step, training: bool) -> Parts:
    """Make the parts of a pass: they read from `now` whatever callbacks may replace."""
    now, fire = step.now, ctx.call_callbacks
    call, run_backward, take_step, zero_grad = step.calls
    is_public = step.calls is PUBLIC
    is_watched = any(map(ctx._is_used, _INSIDE))
    # Whether torch's calls are watched is asked behind the last line of the user's.
    asks_once, unwatched = not (is_watched or step.is_own), False
    # Where somebody may move a rate in a step, rows have it as the optimizer has seen it.
    notes_rates, notes_norms = not asks_once and ctx._notes_rates, ctx._notes_norms
    loss_parts = ctx._loss_parts = ctx._loss_parts or LossParts(ctx)

    def forward() -> bool:
        batch = now.batch
        kind = type(batch)
        if step.is_plain and (kind is list or kind is tuple) and batch:
            now.pred = call(now.model, batch[0])
        else:
            now.pred = step.predict(batch)
        if not (is_watched or now.skipped):
            return False
        if training:
            return fire("on_train_batch_after_pred")
        return fire("on_valid_batch_after_pred")

    def compute_loss() -> bool:
        batch = now.batch
        kind = type(batch)
        if step.is_plain and (kind is list or kind is tuple) and len(batch) > 1:
            loss = call(now.loss_fn, now.pred, batch[1])
        else:
            loss = step.compute_loss(batch)
        now.loss_grad = loss_parts.total_of(loss) if type(loss) is tuple else loss
        if not (is_watched or now.skipped):
            return False
        if training:
            return fire("on_train_batch_after_loss")
        return fire("on_valid_batch_after_loss")

    def backward() -> bool:
        nonlocal unwatched
        if (is_watched or now.skipped) and fire("on_train_batch_before_backward"):
            return True
        loss = now.loss_grad
        try:
            if not step.is_direct:
                step.backward(ctx, loss)
            elif is_public:
                loss.backward()
            else:
                unwatched = run_backward(loss, ()) and asks_once
        except (RuntimeError, AttributeError):
            check_scalar(loss, now.loss_fn)
            raise
        return False

    def step_optimizer(closure: Callable[[], Any] | None = None) -> bool:
        if not (step.is_direct or step.prepare_step(ctx)):
            return False
        if notes_norms:
            note_norm(ctx)
        if (is_watched or now.skipped) and fire("on_train_batch_before_step"):
            return True
        if notes_rates:
            ctx._note_rates(now.opt_name)
        optimizer, step_opt = now.opt, now.step_opt
        if step.unchecked and closure is None and now.opt_name in step.unchecked:
            step.unchecked.discard(now.opt_name)
            check_first_step(optimizer, ctx.accelerator.unwrap(now.model))
        if is_public and step_opt is take_step and not step.closures:
            optimizer.step()
            optimizer.zero_grad()
        else:
            set_grad(False)
            try:
                if step_opt is not take_step:
                    step_opt(optimizer)
                    zero_grad(optimizer)
                elif step.closures and now.opt_name in step.closures:
                    step.step_with_closure(optimizer, closure)
                    zero_grad(optimizer)
                elif not take_step(optimizer, unwatched, True):
                    zero_grad(optimizer)
            finally:
                set_grad(True)
        if not step.is_direct:
            step.windows.finish(now.opt_name)
        return (is_watched or now.skipped) and fire("on_train_batch_after_step")

    def evaluate_again() -> Any:
        zero_grad(now.opt)
        ctx._evaluates_again(True)
        try:
            forward()
            compute_loss()
        finally:
            ctx._evaluates_again(False)
        backward()
        return now.loss_grad

    def train_step(ctx: Any) -> None:
        closure = evaluate_again if step.closures else None
        for now.opt_name, now.opt in now.optimizers.items():
            if forward() or compute_loss() or backward() or step_optimizer(closure):
                step.clear(ctx)  # skip_batch was asked for
                return

    def valid_step(ctx: Any) -> None:
        for now.opt_name, now.opt in now.optimizers.items():
            if forward() or compute_loss():
                return
            step.keep_loss(ctx)

    def own_step(ctx: Any) -> None:
        step.own(ctx)  # type: ignore[misc]
        if len(now.optimizers) > 1 and now.loss_grad is not None:
            if now.opt_name is None and now.losses is None:  # a joint one
                now.losses = dict.fromkeys(now.optimizers, now.loss_grad)
            elif now.losses is None or now.opt_name not in now.losses:
                step.keep_loss(ctx)  # that of the last one; those of the others are kept by then
        if ctx.skipped and training:
            step.clear(ctx)

    chosen = own_step if step.own is not None else train_step if training else valid_step
    return Parts(forward, compute_loss, backward, step_optimizer, chosen)


def note_norm(ctx: RunState) -> None:
    """Note the norm of the gradients that the optimizer is to step on, before it is clipped."""
    grads = [p.grad for p in parameters_of(ctx.opt) if p.grad is not None]
    ctx._log_grad_norm(get_total_norm(grads), norm_name(ctx))


def norm_name(ctx: RunState) -> str:
    """Return the name of the norm of the optimizer under way."""
    return f"grad_norm_{ctx.opt_name}" if len(ctx.optimizers) > 1 else "grad_norm"
