"""How often a classifier is right."""

from __future__ import annotations

from torch import Tensor

from lumbre.metrics.classes import class_numbers, zero_or_one
from lumbre.metrics.native import Native, counted, ordered


class Accuracy(Native):
    """The share of samples whose highest score is that of their class.

    `update` takes preds: scores, shape (n, classes, ...), any float, integer or bool dtype; and
    target: class numbers from 0, shape (n, ...), any integer dtype. Of equal highest scores the
    first counts; a sample with a NaN among its scores is a miss.

    Args:
        name: The name of the record, "acc" unless given.

    Raises:
        ShapeError: from `update`, when the shapes do not fit together.
        TargetError: when a target is below 0 or not below the number of classes; on a device not
            before `compute`.

    Example:
        >>> import torch
        >>> accuracy = Accuracy()
        >>> accuracy.update(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        >>> accuracy.compute()
        0.5

    Source: scikit-learn, `accuracy_score` of the argmax.
    """

    abbrev = "Acc"
    direction = "max"
    _kind = "Accuracy"

    def _measure(self, preds: Tensor, target: Tensor) -> Tensor:
        (target, outside), scores = class_numbers(preds, target), ordered(preds)
        hits = (scores.argmax(1) == target) & ~scores.isnan().any(1)
        return counted(hits.sum(), target.numel(), outside.sum())


class BinaryAccuracy(Native):
    """The share of samples on whose side of a threshold their probability lies.

    `update` takes preds: probabilities of class 1; and target: 0 or 1, of the same shape, any
    dtype. Class 1 is predicted where preds > threshold. A NaN is a miss.

    Args:
        threshold: Between 0 and 1.
        name: The name of the record, "acc" unless given.

    Raises:
        ShapeError: from `update`, when the shapes differ.
        TargetError: when a target is neither 0 nor 1; on a device not before `compute`.
        MetricError: when the threshold is not between 0 and 1.

    Example:
        >>> import torch
        >>> accuracy = BinaryAccuracy(threshold=0.7)
        >>> accuracy.update(torch.tensor([0.6, 0.8]), torch.tensor([0, 1]))
        >>> accuracy.compute()
        1.0

    Source: scikit-learn, `accuracy_score(target, preds > threshold)`.
    """

    abbrev = "Acc"
    direction = "max"
    _kind = "BinaryAccuracy"
    _fault = "are neither 0 nor 1."

    def __init__(self, threshold: float = 0.5, *, name: str | None = None) -> None:
        self._begin(name, threshold=threshold)
        self.threshold = threshold

    def _measure(self, preds: Tensor, target: Tensor) -> Tensor:
        (target, outside), scores = zero_or_one(preds, target), ordered(preds)
        cut = self._native.cut
        assert cut is not None  # noqa: S101 - every binary metric has one
        hits = ((scores > cut) == (target == 1)) & ~scores.isnan()
        return counted(hits.sum(), target.numel(), self._improbable(scores), outside.sum())

    def _improbable(self, scores: Tensor) -> Tensor:
        """How many scores are no probabilities."""
        return ((scores < 0) | (scores > 1)).sum()


class BinaryAccuracyWithLogits(BinaryAccuracy):
    """`BinaryAccuracy` of scores before the sigmoid: class 1 where sigmoid(preds) > threshold.

    Args:
        threshold: Between 0 and 1, on the scale of probabilities.
        name: The name of the record, "acc" unless given.

    Example:
        >>> import torch
        >>> accuracy = BinaryAccuracyWithLogits()
        >>> accuracy.update(torch.tensor([-2.0, 0.3]), torch.tensor([0, 1]))
        >>> accuracy.compute()
        1.0

    Source: scikit-learn, `accuracy_score(target, sigmoid(preds) > threshold)`.
    """

    _kind = "BinaryAccuracyWithLogits"

    def _improbable(self, scores: Tensor) -> Tensor:
        return scores.new_zeros(())
