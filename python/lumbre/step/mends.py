"""The mends of what torch could not do with a batch: asked for when it has raised, never before."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, dtype, nn

from lumbre.data.batch import missing_target
from lumbre.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    DTypeError,
    LumbreError,
    TargetError,
)
from lumbre.state.run_state import RunState
from lumbre.step.checks import takes_target
from lumbre.text import name_of, shape_of

# Losses whose target is class numbers.
_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, nn.MultiLabelMarginLoss)


def mend_of(run: RunState, error: BaseException) -> LumbreError | None:
    """Return the error that says what was wrong with the batch at hand, or None.

    Args:
        run: The run that the error is leaving.
        error: What the model, the loss or the backward pass has raised.
    """
    # The others are Python's own words, too: they are torch's where torch has raised them.
    if type(error) is not RuntimeError and not _is_of_torch(error):
        return None
    text = str(error)
    if "does not require grad" in text:
        return _without_graph(run)
    if run.batch is None:
        return None
    given, target, pred = run.input, run.target, run.pred
    if "dtype" in text or "scalar type" in text or "type Float" in text:
        return _of_dtypes(run, given, target, pred)
    if isinstance(error, IndexError) and "out of bounds" in text and isinstance(pred, Tensor):
        return TargetError(_CLASS.format(text.rstrip("."), name_of(run.loss_fn), pred.shape[1]))
    if "not implemented for" in text and isinstance(target, Tensor):
        return _of_dtypes(run, given, target, pred)
    if target is None and isinstance(pred, Tensor) and takes_target(run.loss_fn):
        return missing_target(run.batch, name_of(run.loss_fn))
    if _is_unlike(given, text) and pred is None:
        return DataError(_NO_TENSOR.format(type(run.model).__name__, shape_of(given)))
    if pred is not None and _is_unlike(pred, text):
        names = type(run.model).__name__, shape_of(pred), name_of(run.loss_fn)
        return ArgumentTypeError(_PREDICTION.format(*names))
    return None


def _is_of_torch(error: BaseException) -> bool:
    """True if it is a plain error that was raised in torch."""
    traceback, folder = error.__traceback__, os.path.dirname(torch.__file__) + os.sep
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    is_plain = type(error) in (TypeError, IndexError, AttributeError, ValueError)
    where = "" if traceback is None else traceback.tb_frame.f_code.co_filename
    return is_plain and where.startswith(folder)


def is_of_closure(error: BaseException) -> bool:
    """True if an optimizer may have raised it because it was given no closure."""
    return "closure" in str(error)


def _of_dtypes(run: RunState, given: Any, target: Any, pred: Any) -> LumbreError | None:
    own = next((p.dtype for p in run.model.parameters() if p.is_floating_point()), None)
    if _floats(given) and own is not None and given.dtype != own and pred is None:
        return DTypeError(_INPUT.format(given.dtype, type(run.model).__name__, own, _short(own)))
    if not isinstance(target, Tensor) or not _floats(pred):
        return None
    loss = name_of(run.loss_fn)
    if isinstance(run.loss_fn, _OF_CLASSES):
        if target.dtype == torch.int64:
            return None
        return DTypeError(_TARGET.format(target.dtype, loss, "class numbers, torch.int64", "long"))
    if not target.is_floating_point():
        wanted = f"numbers of the predictions' dtype, {pred.dtype}"
        return DTypeError(_TARGET.format(target.dtype, loss, wanted, "float"))
    return None


def _without_graph(run: RunState) -> LumbreError:
    if not any(p.requires_grad for p in run.model.parameters()):
        return ArgumentError(_FROZEN.format(type(run.model).__name__))
    return ArgumentError(_DETACHED.format(name_of(run.loss_fn)))


def _is_unlike(value: Any, text: str) -> bool:
    """True if torch has asked for a tensor, and this is none."""
    asked = text.startswith(f"'{type(value).__name__}' object has no attribute")
    return not isinstance(value, Tensor) and (asked or "must be Tensor" in text)


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _short(kind: dtype) -> str:
    return str(kind).removeprefix("torch.")


_CLASS = (
    "{}: the target of {} names a class that the predictions do not have, they have {}, numbered "
    "from 0. Let the model give a score for each class, or look at the numbers in the target."
)
_NO_TENSOR = (
    "{0} takes a tensor, and the input of the batch is {1}. Pass data that gives (input, target), "
    "such as [x, y]; a mapping is all input, and goes to a forward that takes one. A list of ready "
    "batches is passed as torch.utils.data.DataLoader(batches, batch_size=None)."
)
_PREDICTION = (
    "{}.forward gave {}, and {} compares tensors. Let forward return the tensor, or let the module "
    "have a loss(self, pred, target) that takes it apart."
)
_INPUT = (
    "The input is {}, and the parameters of {} are {}. Make them alike: input.to(torch.{}) in the "
    "data set."
)
_TARGET = "The target is {}, and {} takes {}. Convert it in the data set: target.{}()."
_FROZEN = (
    "The loss has no graph: no parameter of {} requires a gradient, there is nothing to train. "
    "Unfreeze what is to learn: module.requires_grad_(True)."
)
_DETACHED = (
    "The loss that {} gave has no graph: it does not depend on a parameter that requires a "
    "gradient. Look for detach(), item(), numpy() or torch.no_grad() on the way to it."
)
CLOSURE = (
    "An optimizer that needs a closure says so by a step without a default for it: "
    "`class Own(SAM): def step(self, closure): return super().step(closure)`. In a step of the "
    "module's own: ctx.step_optimizer(closure=...)."
)
