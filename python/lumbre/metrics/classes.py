"""Targets that are classes, on a device."""

from __future__ import annotations

import torch
from torch import Tensor

from lumbre.metrics.native import ordered, wide


def class_numbers(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The target on the device of the predictions, and where it is no class of theirs."""
    target = target.to(device=preds.device, dtype=torch.int64)
    return target, (target < 0) | (target >= preds.shape[1])


def zero_or_one(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The target as the predictions lie, and where it is neither 0 nor 1."""
    target = ordered(target.reshape(preds.shape).to(preds.device))
    return target, (target != 0) & (target != 1)


def cells(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """How often each class was predicted for each, and how many targets were out of range.

    Rows are true classes. The last column is for samples that predict no class, as one of their
    scores is NaN.
    """
    classes = preds.shape[1]
    scores, dtype = ordered(preds), wide(preds.device)
    predicted = scores.argmax(1).masked_fill(scores.isnan().any(1), classes)
    target, outside = class_numbers(preds, target)
    # A row more for targets that are not there, which cannot be left out without waiting.
    row = target.masked_fill(outside, classes)
    cell = (row * (classes + 1) + predicted).flatten()
    counts = torch.zeros((classes + 1) ** 2, dtype=dtype, device=preds.device)
    counts.scatter_add_(0, cell, torch.ones_like(cell, dtype=dtype))
    return counts.reshape(classes + 1, classes + 1)[:-1], outside.sum().to(dtype)
