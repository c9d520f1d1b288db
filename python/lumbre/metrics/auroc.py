"""How well scores put one class above the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lumbre._core import NativeMetric
from lumbre.metrics.classes import class_numbers, zero_or_one
from lumbre.metrics.gathered import Gathered, kept_as
from lumbre.metrics.native import Native, wide


class _AUROC(Native):
    """The torch road of a metric that may have to keep every score."""

    abbrev = "AUROC"
    direction = "max"

    def _begin(self, name: str | None, **options: Any) -> None:
        super()._begin(name, **options)
        self._options = options
        self._from_logits = bool(options["from_logits"])
        # Without thresholds the scores themselves are kept, on their device.
        self._gathered = Gathered() if self._native.thresholds is None else None
        self._edges: Tensor | None = None

    def reset(self) -> None:
        """Forget every batch."""
        super().reset()
        if self._gathered is not None:
            self._gathered = Gathered()

    def retract(self) -> None:
        """Take the last batch back out, once."""
        if self._gathered is None:
            super().retract()
        elif not self._native.retract():
            self._gathered.retract()

    def _count(self, preds: Tensor, target: Tensor) -> None:
        if self._gathered is None:
            super()._count(preds, target)
        else:
            self._gathered.begin()
            self._gathered.add(*self._rows(preds, target))

    def _rows(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of shape (n,) or (n, classes), and labels of shape (n,), -1 where out of range."""
        raise NotImplementedError

    def _curves(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and whether they are those of the target, each of shape (n, curves)."""
        raise NotImplementedError

    def _measure(self, preds: Tensor, target: Tensor) -> Tensor:
        scores, labels = self._rows(preds, target)
        dtype = kept_as(scores)
        scores, is_target = self._curves(scores, labels)
        scores = scores.to(dtype)
        edges = self._edges_for(scores)
        bins = torch.bucketize(scores.contiguous(), edges, right=True)
        # As in Rust: a NaN is behind what is above the last threshold.
        bins = bins.masked_fill(scores.isnan(), len(edges) + 1)
        first = torch.arange(bins.shape[1], device=bins.device) * (len(edges) + 2)
        cells = ((bins + first) * 2 + is_target).flatten()
        size = bins.shape[1] * (len(edges) + 2) * 2
        counts = torch.zeros(size, dtype=torch.int64, device=bins.device)
        counts = counts.scatter_add(0, cells, torch.ones_like(cells))
        return torch.cat([counts, (labels < 0).sum().reshape(1)])

    def _edges_for(self, scores: Tensor) -> Tensor:
        edges = self._edges
        # Copied to the device once, not for every batch.
        if edges is None or (edges.device, edges.dtype) != (scores.device, scores.dtype):
            edges = torch.tensor(self._native.thresholds, dtype=scores.dtype, device=scores.device)
            self._edges = edges
        return edges

    def _fetch(self) -> None:
        if self._gathered is None:
            super()._fetch()
            return
        parts, self._gathered = self._gathered.fetch(), Gathered()
        outside = sum(int((labels < 0).sum()) for _, labels in parts)
        if outside:
            raise self._out_of_range(outside)
        if not parts:
            return
        # The last batch by itself, so that it can still be taken back; none of these where one that
        # Rust has read came after them.
        is_last = self._native.is_elsewhere
        into = self._native if is_last else NativeMetric(self._kind, self._options)
        for scores, labels in parts:
            counted = into.update(scores, labels)
            assert counted  # noqa: S101 - memory of our own is plain
        if not is_last:
            self._native.merge(into)

    def _read(self, joined: Tensor) -> tuple[list[float], float]:
        cells, outside = super()._read(joined)
        classes = self._native.width
        return [classes, sum(cells) / max(classes, 1), *cells], outside


class BinaryAUROC(_AUROC):
    """The area under the ROC curve: how often a sample of class 1 scores above one of class 0.

    `update` takes preds: scores of class 1; and target: 0 or 1, of the same shape, any dtype. The
    value is exact: every score is kept, in 4 bytes (8 of float64 and of 32- and 64-bit integers),
    on its device, and equal scores count half. With thresholds the state has a constant size, and
    the value is the area under straight lines between the points of the curve at the thresholds;
    they should reach from 0 to 1, as the curve goes no further than they do. Where a score is NaN,
    or all targets are of one class, the value is NaN, with a warning.

    Args:
        num_thresholds: So many thresholds, evenly spaced from 0 to 1; a score at a threshold is
            above it.
        thresholds: These instead.
        from_logits: Whether preds are scores before the sigmoid. The exact value is the same, as
            the order is; only that scores which the sigmoid would round to 1 are no ties. Needed
            with thresholds, which are probabilities.
        name: The name of the record, "auroc" unless given.

    Raises:
        ShapeError: from `update`, when the shapes differ.
        TargetError: when a target is neither 0 nor 1; on a device not before `compute`.
        MetricError: when both kinds of thresholds are given, or fewer than two thresholds.

    Example:
        >>> metric = BinaryAUROC()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()
        0.75

    Source: scikit-learn, `roc_auc_score`; with thresholds torchmetrics, `BinaryAUROC`.
    """

    _kind = "BinaryAUROC"
    _fault = "are neither 0 nor 1."

    def __init__(
        self,
        num_thresholds: int | None = None,
        thresholds: Sequence[float] | None = None,
        from_logits: bool = False,
        *,
        name: str | None = None,
    ) -> None:
        given = {"num_thresholds": num_thresholds, "thresholds": thresholds}
        self._begin(name, from_logits=from_logits, **given)

    def _rows(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        target, outside = zero_or_one(preds, target)
        classes = (target == 1).to(torch.int8) - outside.to(torch.int8)
        return preds.flatten(), classes.flatten()

    def _curves(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self._from_logits:
            scores = scores.to(wide(scores.device)).sigmoid()
        return scores[:, None], (labels == 1)[:, None]


class MulticlassAUROC(_AUROC):
    """The area under the ROC curve of each class against the rest.

    `update` takes preds: scores, shape (n, classes, ...), any float, integer or bool dtype; and
    target: class numbers from 0, shape (n, ...), any integer dtype. As to exactness, memory (the
    bytes of a score are taken n * classes times), thresholds and NaN it is as `BinaryAUROC`. A
    class that is never or always the target has no area, it is NaN. Averages are over the other
    classes. Either comes with a warning.

    Args:
        average: "macro", the mean over classes; "weighted" by how often each is the target;
            "micro", one curve of all pairs of a sample and a class; "none" or None, a vector by
            class.
        num_thresholds: So many thresholds, evenly spaced from 0 to 1.
        thresholds: These instead.
        from_logits: Whether preds are scores before the softmax over classes. Scores of a class are
            compared across samples, which is another order before the softmax than after it. For
            the exact value the logarithm of the softmax is taken, which does not round to ties.
        name: The name of the record, "auroc" unless given.

    Raises:
        ShapeError: from `update`, when the shapes do not fit together, or when the number of
            classes is not that of the batches before.
        DTypeError: from `update`, when the target is a float.
        TargetError: when a target is below 0 or not below the number of classes; on a device not
            before `compute`.
        MetricError: when the average is none of these, both kinds of thresholds are given, or fewer
            than two thresholds.

    Example:
        >>> metric = MulticlassAUROC(average="none")
        >>> scores = [[0.8, 0.1, 0.1], [0.4, 0.5, 0.1], [0.6, 0.2, 0.2], [0.2, 0.3, 0.5]]
        >>> metric.update(torch.tensor(scores), torch.tensor([0, 1, 1, 2]))
        >>> metric.compute().tolist()
        [1.0, 0.75, 1.0]

    Source: scikit-learn, `roc_auc_score(multi_class="ovr")`, which has no macro average where a
    class is absent.
    """

    _kind = "MulticlassAUROC"

    def __init__(
        self,
        average: Literal["macro", "weighted", "micro", "none"] | None = "macro",
        num_thresholds: int | None = None,
        thresholds: Sequence[float] | None = None,
        from_logits: bool = False,
        *,
        name: str | None = None,
    ) -> None:
        given = {"num_thresholds": num_thresholds, "thresholds": thresholds}
        average = "none" if average is None else average
        self._begin(name, average=average, from_logits=from_logits, **given)
        self._is_micro = average == "micro"

    def _rows(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        classes, outside = class_numbers(preds, target)
        classes = classes.masked_fill(outside, -1).to(torch.int32)
        return preds.movedim(1, -1).flatten(0, -2), classes.flatten()

    def _curves(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self._from_logits:
            scores = scores.to(wide(scores.device)).softmax(1)
        is_target = labels[:, None] == torch.arange(scores.shape[1], device=scores.device)
        if self._is_micro:
            return scores.reshape(-1, 1), is_target.reshape(-1, 1)
        return scores, is_target
