"""What torch does in a step: model, loss, gradients, optimizer. No breakpoint is fired here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lumbre.data.batch import input_and_target
from lumbre.errors import (
    ArgumentError,
    ContextError,
    DataError,
    LumbreWarning,
    ShapeWarning,
)
from lumbre.step.backward import Part, check_scalar, keep_loss
from lumbre.step.windows import Updates, gradients_of
from lumbre.text import name_of, shape_of
from lumbre.warn import warn

if TYPE_CHECKING:
    from lumbre.engine.context import Context

# A bare switch: torch.set_grad_enabled costs a microsecond for what this does in 50 ns.
set_grad = torch._C._set_grad_enabled


def predict(ctx: Context, batch: Any) -> Any:
    """The model's answer to the input of the batch."""
    kind = type(batch)
    if (kind is list or kind is tuple) and batch:
        return ctx._now.model(batch[0])
    return ctx._now.model(input_and_target(batch)[0])


def identity(ctx: Context, batch: Any) -> Any:
    """The input of the batch: what a model without a `forward` answers."""
    return input_and_target(batch)[0]


def predict_for_user(ctx: Context) -> Any:
    """The model's `predict` on the input of the batch if it has one, else `forward`."""
    own = getattr(ctx.model, "predict", None)
    if own is None:
        return ctx._predict(ctx, ctx.batch)
    with ctx.accelerator.autocast():
        return own(ctx.input)


def compare(ctx: Context, batch: Any) -> Any:
    """The loss of prediction and target, a scalar with its graph."""
    kind = type(batch)
    now = ctx._now
    if (kind is list or kind is tuple) and len(batch) > 1:
        return now.loss_fn(now.pred, batch[1])
    target = input_and_target(batch)[1]
    if target is None and _is_torchs(ctx.loss_fn):
        raise DataError(
            f"{name_of(ctx.loss_fn)} needs a target, and the batch is no pair of input and target: "
            f"it is {shape_of(batch)}. Pass data that gives (input, target), or a loss that takes "
            "pred and ignores the target."
        )
    return ctx.loss_fn(ctx.pred, target)


def _is_torchs(loss: Any) -> bool:
    """Whether it is a loss that surely compares with a target."""
    return isinstance(loss, nn.Module) or getattr(loss, "__module__", "") == "torch.nn.functional"


def set_precision(ctx: Context) -> None:
    """Put model and loss under the accelerator's autocast, and the scalers where it has them."""
    accelerator = ctx.accelerator
    if accelerator.autocasts:
        ctx._predict = under_autocast(ctx._predict)
        ctx._compare = under_autocast(ctx._compare)
    for name, optimizer in ctx.optimizers.items():
        scaler = None if optimizer is None else accelerator.scaler()
        if scaler is not None:
            if name in ctx._closures:
                raise ArgumentError(
                    f"{type(optimizer).__name__} evaluates the loss several times a step, which "
                    "does not go with the scaled loss of float16. Use bfloat16."
                )
            updates_of(ctx).scale(name, optimizer, scaler)


def updates_of(ctx: Context) -> Updates:
    """The run's windows and scalers; from here on its backward passes go through them."""
    if ctx._updates is None:
        ctx._updates = Updates()
        ctx._differentiate = _weighed(ctx._differentiate)
    return ctx._updates


def _weighed(part: Part) -> Part:
    """The backward pass, of the loss as it counts in its window and at its scale."""

    def run(ctx: Context, value: Any) -> None:
        if ctx._now.opt_name is None:
            raise ContextError(
                "With several optimizers, accumulation and float16 have to know whose loss it is: "
                f'ctx.backward(loss, "{next(iter(ctx.optimizers))}").'
            )
        check_scalar(ctx, value)
        keep_loss(ctx)
        weighed = ctx._updates.weigh(ctx, value)  # type: ignore[union-attr]
        if weighed is not None:
            part(ctx, weighed)

    return run


def under_autocast(part: Part) -> Part:
    """A part of the step, in mixed precision."""

    def run(ctx: Context, batch: Any) -> Any:
        with ctx.accelerator.autocast():
            return part(ctx, batch)

    return run


def begin_updates(ctx: Context, loader: Any) -> None:
    """Begin a training pass with no batch gathered."""
    if ctx._updates is not None:
        ctx._updates.begin_pass(loader)
        clear_gradients(ctx, whole=True)


def open_windows(ctx: Context) -> list[str]:
    """The optimizers that have gathered batches; the one under way is taken to be the last."""
    updates = ctx._updates
    if updates is None:
        return []
    updates.last_iter = ctx.iter
    return [name for name, window in updates.windows.items() if window.count]


def settle(ctx: Context) -> bool:
    """Whether the optimizer under way is to step now; its gradients are then those of the step."""
    updates = ctx._updates
    if updates is None:
        return True
    set_grad(False)
    due = updates.settle(ctx)
    set_grad(True)
    return due


def update(ctx: Context, again: Callable[[Context], Any] | None) -> None:
    """Step the optimizer under way and clear its gradients.

    `again` evaluates the batch once more, for an optimizer that asks for it.
    """
    now = ctx._now
    optimizer = now.opt
    set_grad(False)
    if now.opt_name in ctx._closures and now.step_opt is ctx._road.step:
        _step_with_closure(ctx, optimizer, again)
    else:
        now.step_opt(optimizer)
    ctx._road.zero_grad(optimizer)
    if ctx._updates is not None:
        ctx._updates.finish(ctx.opt_name)
    set_grad(True)


def needs_closure(optimizer: Any) -> bool:
    """Whether an optimizer cannot step without a closure, as LBFGS cannot."""
    try:
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    except (AttributeError, TypeError, ValueError):
        return False
    return closure is not None and closure.default is closure.empty


def _step_with_closure(
    ctx: Context, optimizer: Any, again: Callable[[Context], Any] | None
) -> None:
    if again is None:
        raise ContextError(
            f"{type(optimizer).__name__} evaluates the loss several times a step. Say how: "
            "ctx.step_optimizer(closure=...), a function that gives the loss, its gradients done."
        )
    now = ctx._now
    pred, loss = now.pred, now.loss_grad
    # LBFGS asks first for where it stands. That is known where the batch was differentiated;
    # another optimizer may have moved by then.
    is_known = isinstance(optimizer, torch.optim.LBFGS) and loss is not None
    known = [loss] if is_known and gradients_of(optimizer) else []

    def closure() -> Any:
        if known:
            return known.pop()
        with torch.enable_grad():
            return again(ctx)

    optimizer.step(closure)
    # The batch counts as it was before the step.
    now.pred, now.loss_grad = pred, loss


def clear_gradients(ctx: Context, whole: bool = False) -> None:
    """Clear the gradients of every optimizer: the batch under way was left.

    With `whole`, also those that earlier batches have gathered.
    """
    updates = ctx._updates
    for name, optimizer in ctx.optimizers.items():
        if updates is not None:
            if whole:
                updates.forget(name)
            elif updates.keeps(name, ctx.step_count):
                continue
        ctx._road.zero_grad(optimizer)


def check_shapes(ctx: Context) -> None:
    """Warn when a loss of torch would broadcast (n, 1) against (n,) to (n, n), or there is none."""
    if ctx.loss_grad is None and not ctx._now.losses:
        warn(
            f"{type(ctx.model).__name__}.step has set no loss, so that its record is NaN. "
            "Let it set ctx.loss = loss.",
            LumbreWarning,
        )
    pred, target = ctx.pred, ctx.target
    if not (isinstance(pred, Tensor) and isinstance(target, Tensor)):
        return
    if not (pred.is_floating_point() and target.is_floating_point()):
        return
    if not type(ctx.loss_fn).__module__.startswith("torch.nn") and not getattr(
        ctx.loss_fn, "__module__", ""
    ).startswith("torch.nn"):
        return  # a loss of the user's own knows what it does
    wide = [[n for n in t.shape if n != 1] for t in (pred, target)]
    if pred.shape != target.shape and wide[0] == wide[1] and pred.dim() != target.dim() and wide[0]:
        warn(
            f"{name_of(ctx.loss_fn)} gets predictions of shape {tuple(pred.shape)} and a target of "
            f"shape {tuple(target.shape)}, which torch broadcasts against each other. Make them "
            "alike: `pred.squeeze(1)` or `target.unsqueeze(1)`.",
            ShapeWarning,
        )
