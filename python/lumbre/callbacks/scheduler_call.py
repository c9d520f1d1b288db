"""How a scheduler is made and stepped: what its class, its function and its `step` take."""

from __future__ import annotations

import inspect
from typing import Any

from torch.optim import lr_scheduler

from lumbre.errors import ArgumentTypeError
from lumbre.text import name_of


def check_scheduler(scheduler: Any, options: dict[str, Any]) -> None:
    """Refuse what makes no scheduler of an optimizer and these options.

    Raises:
        ArgumentTypeError: when it is a scheduler already, no function, or takes other options.
    """
    if isinstance(scheduler, lr_scheduler.LRScheduler):
        kind = type(scheduler).__name__
        raise ArgumentTypeError(_MADE_ALREADY.format(kind))
    if not callable(scheduler):
        raise ArgumentTypeError(_NO_CLASS.format(scheduler))
    try:
        signature = inspect.signature(scheduler)
    except (TypeError, ValueError):
        return  # it does not say what it takes
    try:
        signature.bind(None, **options)
    except TypeError as error:
        shown = "".join(f", {name}=..." for name in options)
        text = _NOT_CALLED.format(name_of(scheduler), shown, error, signature)
        raise ArgumentTypeError(text) from None


def wanted_by(scheduler: Any, call_on: str) -> dict[str, bool]:
    """Return the arguments that its `step` is called with, each with whether it needs them."""
    try:
        parameters = inspect.signature(scheduler.step).parameters.values()
    except (TypeError, ValueError):
        return {}  # it does not say what it takes
    named = [
        each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    wanted = {each.name: True for each in named if each.default is each.empty}
    if not isinstance(scheduler, lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau):
        # Within an epoch, a scheduler that can count counts the batches itself.
        epochs = [each.name for each in named if is_epoch(each.name) and "_batch_" not in call_on]
        values = [each.name for each in named if each.name in ("metric", "metrics")]
        wanted |= {name: name in wanted for name in epochs + values}
    return wanted


def is_epoch(argument: str) -> bool:
    """True if an argument of a scheduler's `step` is the number of the epoch."""
    return argument in ("epoch", "t")


_MADE_ALREADY = (
    "LRScheduler: scheduler is a {0} that belongs to an optimizer already. Pass the class and its "
    "options, the optimizer is the fit's: LRScheduler({0}, ...)."
)
_NO_CLASS = (
    "LRScheduler: scheduler is a class such as torch.optim.lr_scheduler.StepLR, or a function of "
    "the optimizer; got {!r}."
)
_NOT_CALLED = "LRScheduler: {0}(optimizer{1}) cannot be called: {2}. It takes {0}{3}."
