"""Checks of what is easy to get wrong in a step: made once, or when it has gone wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lumbre.data.batch import missing_target
from lumbre.errors import (
    ArgumentTypeError,
    DataWarning,
    LumbreWarning,
    ShapeError,
    ShapeWarning,
)
from lumbre.state.run_state import RunState
from lumbre.text import name_of
from lumbre.warn import warn


def method_of(module: Any, name: str) -> Callable[..., Any] | None:
    """Return what a module does under the name of a part of lumbre's; None where it has no such.

    A submodule, a buffer or a number of that name is the module's own affair.
    """
    found = getattr(module, name, None)
    return found if callable(found) and not isinstance(found, nn.Module) else None


def needs_closure(optimizer: Any) -> bool:
    """True if an optimizer cannot step without a closure, as LBFGS cannot."""
    try:
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    except (AttributeError, TypeError, ValueError):
        return False
    return closure is not None and closure.default is closure.empty


def check_scalar(loss: Any, loss_fn: Any) -> None:
    """Refuse what cannot be differentiated.

    Raises:
        ArgumentTypeError: when it is no tensor.
        ShapeError: when it has several elements.
    """
    if isinstance(loss, tuple | list | Mapping):
        raise ArgumentTypeError(_SEVERAL.format(name_of(loss_fn), type(loss).__name__))
    if not isinstance(loss, Tensor):
        raise ArgumentTypeError(_NO_LOSS.format(loss))
    if loss.numel() != 1:
        raise ShapeError(_NO_SCALAR.format(tuple(loss.shape), name_of(loss_fn)))


def takes_target(loss_fn: Any) -> bool:
    """True if a loss surely compares with a target: it is one of torch's."""
    homes = type(loss_fn).__module__, getattr(loss_fn, "__module__", "")
    return any(home.startswith("torch.nn.") for home in homes)


def check_target(loss_fn: Any, batch: Any) -> None:
    """Refuse a batch without a target for a loss that surely compares with one.

    Raises:
        DataError: when it is such a loss.
    """
    if takes_target(loss_fn):
        raise missing_target(batch, name_of(loss_fn))


def check_first_batch(run: RunState, *, is_own: bool) -> None:
    """Warn once of what a step leaves out: the loss, or items of the batch; and of broadcasting.

    Args:
        run: Its first batch of a set is over.
        is_own: True if it is the user who takes the step.
    """
    if run.training and not run.model.training:
        warn(_EVAL_MODE.format(type(run.model).__name__), LumbreWarning)
    if not run.loss:
        warn(_LOSS_UNSET.format(type(run.model).__name__), LumbreWarning)
    batch, pred, target, loss_fn = run.batch, run.pred, run.target, run.loss_fn
    is_the_models = getattr(loss_fn, "__self__", None) is not None
    # A callback of the user's may be there for it, and what is no tensor is there for people.
    homes = [type(each).__module__ for each in run.callbacks]
    is_used = is_own or is_the_models or not all(h.startswith("lumbre.callbacks") for h in homes)
    has_third = type(batch) in (tuple, list) and len(batch) > 2 and isinstance(batch[2], Tensor)
    if has_third and not is_used:
        warn(_ITEMS_LEFT_OUT.format(len(batch)), DataWarning)
    if not all(isinstance(t, Tensor) and t.is_floating_point() for t in (pred, target)):
        return
    if not takes_target(loss_fn):
        return  # a loss of the user's own knows what it does
    wide = [[n for n in t.shape if n != 1] for t in (pred, target)]
    if wide[0] and wide[0] == wide[1] and pred.dim() != target.dim():
        shapes = tuple(pred.shape), tuple(target.shape)
        warn(_BROADCAST.format(name_of(loss_fn), *shapes), ShapeWarning)


def check_first_step(optimizer: Any, model: nn.Module) -> None:
    """Warn of a step on no gradient at all, or on those of some of the parameters only.

    Args:
        optimizer: It is about to step for the first time.
        model: Names the parameters.
    """
    parameters = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad]
    without = [p for p in parameters if p.grad is None]
    kind = type(optimizer).__name__
    if without and len(without) == len(parameters):
        warn(_NO_GRADIENT.format(kind), LumbreWarning)
    elif without:
        names = {id(p): name for name, p in model.named_parameters()}
        listed = [names.get(id(p), f"one of shape {tuple(p.shape)}") for p in without]
        more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
        warn(_SOME_WITHOUT.format(", ".join(listed[:_LISTED]) + more, kind), LumbreWarning)


_SEVERAL = (
    "{} gave a {} where the loss, a scalar tensor, is due. To have its parts recorded, let it give "
    'the sum and the parts by name: (total, {{"kl": kl, "rec": rec}}).'
)
_NO_LOSS = (
    "There is nothing to differentiate: ctx.loss_grad is {!r} where a scalar tensor with its graph "
    "is due. A callback replaces the loss by ctx.loss_grad = ..., and ctx.loss is what is kept of "
    "it."
)
_NO_SCALAR = (
    "The loss is a tensor of shape {} where a scalar is due. "
    'Reduce it: {}(reduction="mean"), or loss.mean().'
)
_LOSS_UNSET = "{}.step has set no loss, so that its record is NaN. Let it set ctx.loss = loss."
_ITEMS_LEFT_OUT = (
    "A batch has {} items: the first is the input, the second the target, and the others reach "
    "neither the model nor the loss. Let the module's own loss take them from self.ctx.batch, or "
    "leave them out of the data."
)
_BROADCAST = (
    "{} gets predictions of shape {} and a target of shape {}, which torch broadcasts against each "
    "other. Make them alike: `pred.squeeze(1)` or `target.unsqueeze(1)`."
)
# So many parameters are named.
_LISTED = 5
_EVAL_MODE = (
    "{} is in evaluation mode in a training pass: dropout lets all through, and batch norm learns "
    "nothing. Who called eval()? Call model.train() behind it; to freeze a part of the model, put "
    "only that in evaluation mode."
)
_SOME_WITHOUT = (
    "The first batch gives no gradient to {}, which {} is to step: they stay as they are for as "
    "long as that is so. If they are not meant to learn, freeze them, "
    "parameter.requires_grad_(False); else see that the loss depends on them."
)
_NO_GRADIENT = (
    "{} was told to step, and none of its parameters has a gradient: nothing is learned. Call "
    "ctx.backward(loss) before ctx.step_optimizer(), and see that the loss depends on them."
)
