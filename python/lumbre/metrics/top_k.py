"""How often the right class is among the first guesses."""

from __future__ import annotations

import torch
from torch import Tensor

from lumbre.metrics.classes import class_numbers
from lumbre.metrics.native import Native, counted, ordered


class TopKAccuracy(Native):
    """The share of samples of whose class the score is among the k highest.

    `update` takes what `Accuracy.update` does, and with `k=1` measures the same. Of equal scores
    the first ones come first, where scikit-learn lets the last ones; `torch.topk`, and torchmetrics
    with it, leaves open which. A sample with a NaN among its scores is a miss.

    Args:
        k: How many scores are looked at, 1 or more.
        name: The name of the record, "top5" for `k=5` unless given.

    Raises:
        MetricError: when `k` is no whole number above 0.
        ShapeError: from `update`, when the shapes do not fit together, or there are fewer than k
            classes.
        TargetError: when a target is below 0 or not below the number of classes; on a device not
            before `compute`.

    Example:
        >>> top = TopKAccuracy(k=2)
        >>> top.update(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]), torch.tensor([2, 2]))
        >>> top.record_name, top.compute()
        ('top2', 0.5)

    Source: scikit-learn, `top_k_accuracy_score`.
    """

    direction = "max"
    _kind = "TopKAccuracy"

    def __init__(self, k: int = 5, *, name: str | None = None) -> None:
        self._begin(name or f"top{k}", k=k)
        self.k = k

    def _measure(self, preds: Tensor, target: Tensor) -> Tensor:
        (target, outside), scores = class_numbers(preds, target), ordered(preds)
        wanted = target.masked_fill(outside, 0).unsqueeze(1)
        score = scores.gather(1, wanted)
        number = torch.arange(preds.shape[1], device=preds.device)
        before = number.reshape(-1, *(1 for _ in preds.shape[2:])) < wanted
        rank = ((scores > score) | ((scores == score) & before)).sum(1)
        hits = (rank < self.k) & ~scores.isnan().any(1) & ~outside
        return counted(hits.sum(), target.numel(), outside.sum())
