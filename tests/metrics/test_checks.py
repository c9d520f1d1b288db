"""What a batch has to be: every metric says of a mistake the same on both of its roads."""

import copy

import numpy as np
import pytest
import torch

from lumbre import metrics
from lumbre._core import NativeMetric
from lumbre.errors import DTypeError, MetricError, ShapeError
from roads import ROADS

METRICS = {name: getattr(metrics, name) for name in metrics.__all__ if name != "Mean"}
OF_CLASSES = ["Accuracy", "TopKAccuracy", "Precision", "Recall", "F1", "ConfusionMatrix"]
OF_CLASSES += ["MulticlassAUROC"]
IN_PAIRS = [name for name in METRICS if name not in OF_CLASSES]
ALIKE = [name for name in OF_CLASSES if name not in ("Accuracy", "TopKAccuracy")]


def of(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


def classes(*shape):
    return of(*shape, dtype=torch.int64)


MISTAKES = [
    *((kind, ShapeError, [(of(4), classes(4))]) for kind in OF_CLASSES),
    *((kind, ShapeError, [(of(), classes())]) for kind in OF_CLASSES),
    *((kind, ShapeError, [(of(4, 6), classes(5))]) for kind in OF_CLASSES),
    *((kind, ShapeError, [(of(4, 6), classes(4, 6))]) for kind in OF_CLASSES),
    *((kind, ShapeError, [(of(4, 6), classes(4, 1))]) for kind in OF_CLASSES),
    *((kind, ShapeError, [(of(4, 6, 2), classes(4, 3))]) for kind in OF_CLASSES),
    *((kind, DTypeError, [(of(4, 6), of(4, dtype=float))]) for kind in OF_CLASSES),
    *((kind, DTypeError, [(of(4, 6), of(4, dtype=torch.float16))]) for kind in OF_CLASSES),
    *((kind, ShapeError, [(of(4, 6), classes(4)), (of(4, 5), classes(4))]) for kind in ALIKE),
    *((kind, ShapeError, [(of(4), of(5))]) for kind in IN_PAIRS),
    *((kind, ShapeError, [(of(4, 3), of(3, 4))]) for kind in IN_PAIRS),
    *((kind, DTypeError, [(of(4, dtype=torch.complex64), of(4))]) for kind in METRICS),
    *((kind, DTypeError, [(of(4), of(4, dtype=torch.complex128))]) for kind in METRICS),
    *((kind, DTypeError, [((of(4), of(4)), of(4))]) for kind in METRICS),
    *((kind, DTypeError, [(of(4), None)]) for kind in METRICS),
    ("MulticlassAUROC", ShapeError, [(of(4, 1), classes(4))]),
    ("TopKAccuracy", ShapeError, [(of(4, 4), classes(4))]),
    ("ConfusionMatrix", MetricError, [(of(1, 1).expand(1, 70_000), classes(1))]),
    ("R2", ShapeError, [(of(4, 6), of(4, 6)), (of(4, 5), of(4, 5))]),
]


@pytest.mark.parametrize(("kind", "error", "batches"), MISTAKES)
def test_a_mistake_is_told_of_in_the_same_words_on_every_road(kind, error, batches):
    told = set()
    *good, bad = batches
    for name, road in ROADS.items():
        if name == "subclass" and not isinstance(bad[0], torch.Tensor):
            continue
        metric = METRICS[kind]()
        for batch in good:
            road(metric, *batch)
        with pytest.raises(error) as caught:
            road(metric, *bad)
        told.add((type(caught.value), str(caught.value)))
    assert len(told) == 1
    assert kind in told.pop()[1]


def test_every_metric_has_mistakes_in_the_table():
    assert {kind for kind, _, _ in MISTAKES} == set(METRICS)
    assert set(NativeMetric.NAMES) == set(METRICS)


@pytest.mark.parametrize("kind", ALIKE)
@pytest.mark.parametrize("road", ROADS)
def test_a_first_batch_that_is_taken_back_says_nothing_about_those_after_it(kind, road):
    metric = METRICS[kind]()
    ROADS[road](metric, of(4, 6), classes(4))
    metric.retract()
    ROADS[road](metric, of(4, 5), classes(4))
    with pytest.raises(ShapeError, match="batches of 5 classes, and this one has 6"):
        ROADS[road](metric, of(4, 6), classes(4))


@pytest.mark.parametrize("kind", ALIKE)
def test_a_pass_may_have_other_classes_than_the_one_before(kind):
    metric = METRICS[kind]()
    metric.update_with_torch(of(4, 6), classes(4))
    metric.reset()
    metric.update_with_torch(of(4, 5), classes(4))


@pytest.mark.parametrize("kind", ALIKE)
def test_a_copy_knows_how_many_classes_lie_on_the_device(kind):
    metric = METRICS[kind]()
    metric.update_with_torch(of(4, 6), classes(4))
    with pytest.raises(ShapeError, match="batches of 6 classes, and this one has 5"):
        copy.deepcopy(metric).update_with_torch(of(4, 5), classes(4))


def test_a_target_that_is_missing_may_be_set_by_a_callback_in_either_pass():
    with pytest.raises(DTypeError, match=r"may set it when a batch begins: ctx\.target = "):
        metrics.MAE().update(of(4), None)


@pytest.mark.parametrize("kind", METRICS)
def test_a_batch_at_which_torch_fails_is_not_there_to_be_taken_back(kind, monkeypatch):
    def fail(preds, target):
        raise RuntimeError("out of memory")

    metric = METRICS[kind]()
    for seed in range(2):
        torch.manual_seed(seed)
        scores, target = torch.rand(12, 6), torch.arange(12) % 6
        batch = (scores, target) if kind in OF_CLASSES else (scores[:, 0], target % 2)
        metric.update_with_torch(*batch)
    expected = copy.deepcopy(metric).compute()
    monkeypatch.setattr(metric, "_rows" if hasattr(metric, "_rows") else "_measure", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        metric.update_with_torch(*batch)
    metric.retract()
    np.testing.assert_array_equal(metric.compute(), expected)
