"""What the metrics of several classes have in common on a device."""

from __future__ import annotations

import torch
from torch import Tensor

from lumbre.errors import DTypeError, ShapeError
from lumbre.metrics.native import Native, ordered, shape_of, wide

TWO_SCORES = (
    "Of one score p a sample make two: `torch.stack([1 - p, p], 1)`, or `[-p, p]` if p is a logit"
)


def class_numbers(metric: Native, preds: Tensor, target: Tensor, one_score: str) -> Tensor:
    """The target on the device of the predictions; shapes and dtypes are checked."""
    name = type(metric).__name__
    if preds.dim() < 2 or (preds.shape[0], *preds.shape[2:]) != tuple(target.shape):
        raise ShapeError(
            f"{name} takes preds of shape (n, classes, ...) and a target of shape (n, ...); got "
            f"{shape_of(preds)} and {shape_of(target)}. {one_score}; a one-hot target becomes one "
            "of classes by `target.argmax(1)`."
        )
    if target.is_floating_point():
        raise DTypeError(
            f"{name} takes class numbers as the target; got {target.dtype}. "
            "Make them so: `target.long()`."
        )
    return target.to(device=preds.device, dtype=torch.int64)


def no_such_class(metric: Native, number: int) -> str:
    """What is wrong with targets that are out of range."""
    return (
        f"{type(metric).__name__}: {number} targets name a class that preds do not have. Classes "
        "count from 0; is the model's last layer wide enough?"
    )


def cells(metric: Native, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """How often each class was predicted for each, and how many targets were out of range.

    Rows are true classes. The last column is for samples that predict no class, as one of their
    scores is NaN.
    """
    classes = preds.shape[1]
    scores, dtype = ordered(preds), wide(preds.device)
    predicted = scores.argmax(1).masked_fill(scores.isnan().any(1), classes)
    outside = (target < 0) | (target >= classes)
    # A row more for targets that are not there, which cannot be left out without waiting.
    row = target.masked_fill(outside, classes)
    cell = (row * (classes + 1) + predicted).flatten()
    counts = torch.zeros((classes + 1) ** 2, dtype=dtype, device=preds.device)
    counts.scatter_add_(0, cell, torch.ones_like(cell, dtype=dtype))
    return counts.reshape(classes + 1, classes + 1)[:-1], outside.sum().to(dtype)


def join(metric: Native, before: Tensor, batch: Tensor, classes: tuple[int, int]) -> Tensor:
    """The sum of two states, if they are of as many classes."""
    if before.shape == batch.shape:
        return before + batch
    known, got = classes
    raise ShapeError(
        f"{type(metric).__name__} has counted batches of {known} classes, and this one has {got}; "
        "call reset() before predictions of another model."
    )
