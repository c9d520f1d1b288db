"""The base of the metrics of several classes, on a device."""

from __future__ import annotations

import torch
from torch import Tensor

from lumbre.metrics.native import Native, ordered, wide


def class_numbers(preds: Tensor, target: Tensor) -> Tensor:
    """The target on the device of the predictions."""
    return target.to(device=preds.device, dtype=torch.int64)


def no_such_class(metric: Native, number: int) -> str:
    """Say what is wrong with targets that are out of range."""
    return (
        f"{type(metric).__name__}: {number} targets name a class that preds do not have. Classes "
        "count from 0; is the model's last layer wide enough?"
    )


def cells(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
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
