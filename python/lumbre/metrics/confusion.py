"""Which classes a classifier takes for which, and what follows from that."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lumbre.metrics.classes import cells
from lumbre.metrics.native import Native

Average = Literal["micro", "macro", "weighted", "none"] | None


class _PerClass(Native):
    """Precision, recall and F1: shares of hits, predictions and samples of each class."""

    direction = "max"

    def __init__(self, average: Average = "macro", *, name: str | None = None) -> None:
        self._begin(name, average="none" if average is None else average)
        self.average = average

    def _measure(self, preds: Tensor, target: Tensor) -> Tensor:
        counts, outside = cells(preds, target)
        hits, predicted = counts.diagonal(), counts[:, :-1].sum(0)
        each = torch.stack([hits, predicted, counts.sum(1)], 1)
        return torch.cat([each.flatten(), outside[None]])


class Precision(_PerClass):
    """Of the predictions of a class, the share that is right.

    `update` takes preds: scores, shape (n, classes, ...), any float, integer or bool dtype; and
    target: class numbers from 0, shape (n, ...), any integer dtype. The highest score is predicted,
    the first one among equals; a sample with a NaN among its scores predicts no class.

    A class that is never predicted has precision 0, and counts in the macro average even when no
    target is of it. torchmetrics leaves a class that is neither predicted nor there out of that.

    Args:
        average: "macro", each class weighs the same; "weighted", as much as it has samples;
            "micro", over all samples; "none" or None, a vector with one value a class.
        name: The name of the record, "precision" unless given.

    Raises:
        MetricError: when `average` is something else.
        ShapeError: from `update`, when the shapes do not fit together, or there are not as many
            classes as in the batches before.
        TargetError: when a target is below 0 or not below the number of classes; on a device not
            before `compute`.

    Example:
        >>> precision = Precision()
        >>> precision.update(torch.eye(2)[[0, 1, 1]], torch.tensor([0, 0, 1]))
        >>> precision.compute()
        0.75

    Source: scikit-learn, `precision_score(labels=range(classes), zero_division=0)`.
    """

    abbrev = "Precision"
    _kind = "Precision"


class Recall(_PerClass):
    """Of the samples of a class, the share that is found.

    As `Precision` otherwise; a class of which there is no sample has recall 0.

    Args:
        average: As in `Precision`. "micro" is the accuracy.
        name: The name of the record, "recall" unless given.

    Example:
        >>> recall = Recall(average="none")
        >>> recall.update(torch.eye(2)[[0, 1, 1]], torch.tensor([0, 0, 1]))
        >>> recall.compute()
        array([0.5, 1. ])

    Source: scikit-learn, `recall_score(labels=range(classes), zero_division=0)`.
    """

    abbrev = "Recall"
    _kind = "Recall"


class F1(_PerClass):
    """The harmonic mean of precision and recall of each class.

    As `Precision` otherwise; a class without a hit has 0. "macro" is the mean of the classes' F1.

    Args:
        average: As in `Precision`.
        name: The name of the record, "f1" unless given.

    Example:
        >>> f1 = F1(average="micro")
        >>> f1.update(torch.eye(2)[[0, 1, 1, 1]], torch.tensor([0, 0, 1, 1]))
        >>> f1.compute()
        0.75

    Source: scikit-learn, `f1_score(labels=range(classes), zero_division=0)`.
    """

    abbrev = "F1"
    _kind = "F1"


class ConfusionMatrix(Native):
    """How often each class is taken for each: rows are true classes, columns predicted ones.

    `update` takes what `Precision.update` does. The value is a matrix of shape (classes, classes).
    A sample that predicts no class, as one of its scores is NaN, is in no cell, but counts where
    cells are divided by "true" or "all".

    Args:
        normalize: None, cells are counts; "true", shares of the true class; "pred", shares of the
            predicted one; "all", shares of all samples. Shares of nothing are 0.
        name: The name of the record, "confusion" unless given.

    Raises:
        MetricError: when `normalize` is something else.
        ShapeError: from `update`, as in `Precision`.
        TargetError: as in `Precision`.

    Example:
        >>> matrix = ConfusionMatrix()
        >>> matrix.update(torch.eye(2)[[0, 1, 1]], torch.tensor([0, 0, 1]))
        >>> matrix.compute()
        array([[1., 1.],
               [0., 1.]])

    Source: scikit-learn, `confusion_matrix(labels=range(classes))`.
    """

    abbrev = "Confusion"
    _kind = "ConfusionMatrix"

    def __init__(
        self,
        normalize: Literal["true", "pred", "all"] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self._begin(name, normalize=normalize)
        self.normalize = normalize

    def _measure(self, preds: Tensor, target: Tensor) -> Tensor:
        counts, outside = cells(preds, target)
        return torch.cat([counts.flatten(), outside[None]])
