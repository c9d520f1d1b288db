"""What is easy to get wrong in a step, and is looked at when it has gone wrong, or once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lumbre.errors import ArgumentTypeError, DataError, LumbreWarning, ShapeError, ShapeWarning
from lumbre.text import name_of, shape_of
from lumbre.warn import warn

if TYPE_CHECKING:
    from lumbre.state.run_state import RunState


def method_of(module: Any, name: str) -> Callable[..., Any] | None:
    """Return what a module does under the name of a part of lumbre's; None where it has no such.

    A submodule, a buffer or a number of that name is the module's own affair.
    """
    found = getattr(module, name, None)
    return found if callable(found) and not isinstance(found, nn.Module) else None


def check_scalar(loss: Any, loss_fn: Any) -> None:
    """Refuse what cannot be differentiated.

    Raises:
        ArgumentTypeError: when it is no tensor.
        ShapeError: when it has several elements.
    """
    if not isinstance(loss, Tensor):
        raise ArgumentTypeError(_NO_LOSS.format(loss))
    if loss.numel() != 1:
        raise ShapeError(_NO_SCALAR.format(tuple(loss.shape), name_of(loss_fn)))


def check_target(loss_fn: Any, batch: Any) -> None:
    """Refuse a batch without a target for a loss that surely compares with one.

    Raises:
        DataError: when it is a loss of torch's kind.
    """
    if isinstance(loss_fn, nn.Module) or getattr(loss_fn, "__module__", "") == _FUNCTIONAL:
        raise DataError(_NO_TARGET.format(name_of(loss_fn), shape_of(batch)))


def needs_closure(optimizer: Any) -> bool:
    """True if an optimizer cannot step without a closure, as LBFGS cannot."""
    try:
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    except (AttributeError, TypeError, ValueError):
        return False
    return closure is not None and closure.default is closure.empty


def check_first_batch(run: RunState) -> None:
    """Warn of a step that has set no loss, and of a loss that broadcasts (n, 1) against (n,)."""
    if not run.loss:
        warn(_LOSS_UNSET.format(type(run.model).__name__), LumbreWarning)
    pred, target, loss_fn = run.pred, run.target, run.loss_fn
    if not all(isinstance(t, Tensor) and t.is_floating_point() for t in (pred, target)):
        return
    homes = type(loss_fn).__module__, getattr(loss_fn, "__module__", "")
    if not any(home.startswith("torch.nn") for home in homes):
        return  # a loss of the user's own knows what it does
    wide = [[n for n in t.shape if n != 1] for t in (pred, target)]
    if wide[0] and wide[0] == wide[1] and pred.dim() != target.dim():
        shapes = tuple(pred.shape), tuple(target.shape)
        warn(_BROADCAST.format(name_of(loss_fn), *shapes), ShapeWarning)


_FUNCTIONAL = "torch.nn.functional"
_NO_LOSS = (
    "There is nothing to differentiate: ctx.loss_grad is {!r} where a scalar tensor with its graph "
    "is due. A callback replaces the loss by ctx.loss_grad = ..., and ctx.loss is what is kept of "
    "it."
)
_NO_SCALAR = (
    "The loss is a tensor of shape {} where a scalar is due. "
    'Reduce it: {}(reduction="mean"), or loss.mean().'
)
_NO_TARGET = (
    "{} needs a target, and the batch is no pair of input and target: it is {}. Pass data that "
    "gives (input, target), or a loss that takes pred and ignores the target."
)
_LOSS_UNSET = "{}.step has set no loss, so that its record is NaN. Let it set ctx.loss = loss."
_BROADCAST = (
    "{} gets predictions of shape {} and a target of shape {}, which torch broadcasts against each "
    "other. Make them alike: `pred.squeeze(1)` or `target.unsqueeze(1)`."
)
