"""The backward pass: which parameters get the gradients of which loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lumbre.errors import ArgumentTypeError, ShapeError
from lumbre.text import name_of

if TYPE_CHECKING:
    from lumbre.engine.context import Context

# A part of the step: `ctx` and the batch, or the loss.
Part = Callable[["Context", Any], Any]


def keep_loss(ctx: Context) -> None:
    """With several optimizers, put the loss under the name of its own."""
    now = ctx._now
    if len(ctx.optimizers) > 1 and now.opt_name is not None:
        if now.losses is None:
            now.losses = {}
        now.losses[now.opt_name] = now.loss_grad


def differentiate(ctx: Context, value: Any) -> None:
    """The backward pass for one optimizer: every leaf gets its gradient."""
    try:
        ctx._road.backward(value, ())
    except (RuntimeError, AttributeError):
        check_scalar(ctx, value)
        raise


def differentiate_one(ctx: Context, value: Any) -> None:
    """The backward pass for one of several optimizers: none but its parameters get gradients."""
    now = ctx._now
    if (now.opt_name is None or now.stepped) and _is_joint(ctx):
        differentiate(ctx, value)
        return
    keep_loss(ctx)
    inputs = parameters_of(ctx.opt)
    if not inputs:
        return  # all of it is frozen, and without inputs every leaf would get a gradient
    try:
        ctx._road.backward(value, inputs)
    except (RuntimeError, AttributeError):
        check_scalar(ctx, value)
        raise


def _is_joint(ctx: Context) -> bool:
    """Whether the loss was said to be of no optimizer; it reaches all of them then.

    What an earlier such loss has left on those that did not step on it is cleared: where some
    stepped, it was meant for these.
    """
    now = ctx._now
    if now.stepped:
        for name, optimizer in ctx.optimizers.items():
            if name not in now.stepped:
                ctx._road.zero_grad(optimizer)
        now.stepped = None
    if now.opt_name is not None:
        return False
    now.stepped = set()
    return True


def differentiate_own(own: Callable[[Any], Any]) -> Part:
    """The backward pass by a function of the user's."""

    def run(ctx: Context, value: Any) -> None:
        if len(ctx.optimizers) <= 1:
            own(value)
            return
        if _is_joint(ctx):
            own(value)
            return
        keep_loss(ctx)
        # What it leaves on parameters that are not this optimizer's is taken away again.
        mine = {id(p) for p in parameters_of(ctx.opt)}
        steppable = [p for each in ctx.optimizers.values() for p in parameters_of(each)]
        others = [p for p in (*steppable, *ctx.model.parameters()) if id(p) not in mine]
        before = [p.grad for p in others]
        for p in others:
            p.grad = None
        own(value)
        for p, grad in zip(others, before, strict=True):
            p.grad = grad

    return run


def check_scalar(ctx: Context, value: Any) -> None:
    """Refuse what cannot be differentiated, with the mend."""
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(
            f"There is nothing to differentiate: ctx.loss_grad is {value!r} where a scalar tensor "
            "with its graph is due. A callback replaces the loss by ctx.loss_grad = ..., and "
            "ctx.loss is what is kept of it."
        )
    if value.numel() != 1:
        raise ShapeError(
            f"The loss is a tensor of shape {tuple(value.shape)} where a scalar is due. "
            f'Reduce it: {name_of(ctx.loss_fn)}(reduction="mean"), or loss.mean().'
        )


def parameters_of(optimizer: Any) -> tuple[Tensor, ...]:
    """The parameters that an optimizer steps and that take gradients."""
    return tuple(p for g in optimizer.param_groups for p in g["params"] if p.requires_grad)
