"""Precision, recall, F1, the confusion matrix and top-k accuracy against two oracles."""

import itertools
import math

import numpy as np
import pytest
import torch
import torchmetrics.classification as peers
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from lumbre.errors import MetricError, ShapeError
from lumbre.metrics import F1, Accuracy, ConfusionMatrix, Precision, Recall, TopKAccuracy
from roads import ROADS

SHARES = {
    Precision: (sklearn.precision_score, peers.MulticlassPrecision),
    Recall: (sklearn.recall_score, peers.MulticlassRecall),
    F1: (sklearn.f1_score, peers.MulticlassF1Score),
}
AVERAGES = ["micro", "macro", "weighted", "none", None]
NAN = math.nan


@pytest.fixture(params=ROADS)
def road(request):
    return ROADS[request.param]


def batch(n, classes, seed=0, inner=()):
    numbers = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (n, classes, *inner), generator=numbers) / 4
    return scores, torch.randint(0, classes, (n, *inner), generator=numbers)


def guesses(scores):
    """The predicted classes, -1 where a score is NaN."""
    return torch.where(scores.isnan().any(1), -1, scores.nan_to_num(-9).argmax(1)).flatten()


@pytest.mark.parametrize("classes", [1, 2, 3, 20, 33])
@pytest.mark.parametrize("inner", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("kind", SHARES)
def test_shares_are_those_of_scikit_learn(kind, average, inner, classes, road):
    scores, target = batch(30, classes, 3, inner)
    scores[::5, classes // 2] = NAN
    metric = kind(average)
    road(metric, scores[:11], target[:11])
    road(metric, scores[11:], target[11:])
    expected = SHARES[kind][0](
        target.flatten(),
        guesses(scores),
        labels=range(classes),
        average=None if average == "none" else average,
        zero_division=0,
    )
    got = metric.compute()
    assert got == pytest.approx(expected, rel=1e-13)
    assert isinstance(got, np.ndarray if average in ("none", None) else float)


@pytest.mark.parametrize("average", ["micro", "macro", "weighted", "none"])
@pytest.mark.parametrize("kind", SHARES)
def test_shares_are_those_of_torchmetrics_when_all_classes_are_there(kind, average, road):
    torch.manual_seed(4)
    scores, target = torch.randn(200, 5), torch.arange(200) % 5
    metric = kind(average=average)
    road(metric, scores, target)
    expected = SHARES[kind][1](5, average=average)(scores, target)
    np.testing.assert_allclose(metric.compute(), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", SHARES)
def test_a_class_that_is_not_there_counts_in_the_macro_average(kind, road):
    scores, target = torch.eye(4)[[0, 1]], torch.tensor([0, 1])
    metric = kind()
    road(metric, scores, target)
    assert metric.compute() == 0.5
    assert SHARES[kind][1](4, average="macro")(scores, target) == 1, "as the docstring says"


@pytest.mark.parametrize("kind", SHARES)
def test_micro_recall_is_the_accuracy(kind, road):
    scores, target = batch(50, 4)
    metric, accuracy = kind("micro"), Accuracy()
    for each in (metric, accuracy):
        road(each, scores, target)
    assert metric.compute() == accuracy.compute()


@pytest.mark.filterwarnings("ignore:.*NaN values found in confusion matrix")  # torchmetrics' own
@pytest.mark.parametrize("normalize", [None, "true", "pred", "all"])
@pytest.mark.parametrize("classes", [2, 3, 20])
@pytest.mark.parametrize("inner", [(), (2, 3)], ids=str)
def test_the_matrix_is_that_of_scikit_learn_and_torchmetrics(normalize, classes, inner, road):
    scores, target = batch(15, classes, 5, inner)
    metric = ConfusionMatrix(normalize)
    road(metric, scores[:8], target[:8])
    road(metric, scores[8:], target[8:])
    expected = sklearn.confusion_matrix(
        target.flatten(), guesses(scores), labels=range(classes), normalize=normalize
    )
    np.testing.assert_allclose(metric.compute(), expected, rtol=1e-13)
    peer = peers.MulticlassConfusionMatrix(classes, normalize=normalize)
    np.testing.assert_allclose(metric.compute(), peer(scores, target), rtol=1e-6)


def test_a_sample_that_predicts_no_class_is_in_no_cell_but_among_those_of_its_class(road):
    scores = torch.tensor([[1.0, 0], [0, 1], [NAN, 1], [0, 1]])
    target = torch.tensor([0, 0, 0, 1])
    values = {}
    for normalize in (None, "true", "pred", "all"):
        metric = ConfusionMatrix(normalize=normalize)
        road(metric, scores, target)
        values[normalize] = metric.compute()
    np.testing.assert_allclose(values[None], [[1, 1], [0, 1]])
    np.testing.assert_allclose(values["true"], [[1 / 3, 1 / 3], [0, 1]])
    np.testing.assert_allclose(values["pred"], [[1, 0.5], [0, 0.5]])
    np.testing.assert_allclose(values["all"], [[0.25, 0.25], [0, 0.25]])
    recall = Recall(None)
    road(recall, scores, target)
    np.testing.assert_allclose(values["true"].diagonal(), recall.compute())


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("inner", [(), (2, 3)], ids=str)
def test_top_k_is_that_of_scikit_learn_from_the_other_end(k, inner, road):
    scores, target = batch(40, 6, 6, inner)
    metric = TopKAccuracy(k)
    road(metric, scores[:9], target[:9])
    road(metric, scores[9:], target[9:])
    # Of equal scores the last ones come first there: classes are numbered the other way.
    flat = scores.movedim(1, -1).reshape(-1, 6).flip(1)
    expected = sklearn.top_k_accuracy_score(5 - target.flatten(), flat, k=k, labels=range(6))
    assert metric.compute() == pytest.approx(expected, rel=1e-13)
    if k == 1:
        accuracy = Accuracy()
        road(accuracy, scores, target)
        assert metric.compute() == accuracy.compute()


def test_top_k_is_that_of_torchmetrics_where_no_scores_are_equal(road):
    torch.manual_seed(7)
    scores, target = torch.randn(100, 12), torch.randint(12, (100,))
    metric = TopKAccuracy(k=3)
    road(metric, scores, target)
    peer = peers.MulticlassAccuracy(12, average="micro", top_k=3)
    assert metric.compute() == pytest.approx(peer(scores, target).item())


def test_top_k_of_a_row_with_nan_is_a_miss(road):
    metric = TopKAccuracy(k=2)
    road(metric, torch.tensor([[NAN, 1, 0], [0, 1, NAN], [1, 0, 2.0]]), torch.tensor([1, 1, 0]))
    assert metric.compute() == pytest.approx(1 / 3)


def test_k_above_the_number_of_classes_is_an_error(road):
    with pytest.raises(ShapeError, match=r"k=5\) needs scores of at least 5 classes.*smaller k"):
        road(TopKAccuracy(), torch.zeros(2, 4), torch.zeros(2).long())


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", True])
def test_k_is_a_whole_number_above_0(bad):
    with pytest.raises(MetricError, match="TopKAccuracy: k is a whole number above 0; got"):
        TopKAccuracy(bad)


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("bad", ["makro", 1, "", "samples"])
def test_an_average_that_is_not_there_is_refused_with_those_that_are(kind, bad):
    words = '"micro", "macro", "weighted", "none"'
    with pytest.raises(MetricError, match=f"{kind.__name__}: average is one of {words}; got"):
        kind(bad)


def test_a_normalization_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(MetricError, match='Matrix: normalize is one of "true", "pred", "all"; got'):
        ConfusionMatrix("rows")


@pytest.mark.parametrize("kind", [*SHARES, ConfusionMatrix])
def test_one_score_a_sample_is_refused_with_the_mend(kind, road):
    with pytest.raises(ShapeError, match=rf"{kind.__name__} .*torch\.stack\(\[1 - p, p\], 1\)"):
        road(kind(), torch.rand(4), torch.tensor([0, 1, 1, 0]))
    p, target = torch.tensor([0.2, 0.7, 0.4, 0.6]), torch.tensor([0, 1, 1, 0])
    metric = F1(average=None)
    road(metric, torch.stack([1 - p, p], 1), target)
    assert metric.compute()[1] == sklearn.f1_score(target, p > 0.5)


@pytest.mark.parametrize("kind", [*SHARES, ConfusionMatrix])
def test_another_number_of_classes_is_an_error_that_changes_nothing(kind, road):
    metric = kind()
    scores, target = batch(9, 4)
    road(metric, scores, target)
    with pytest.raises(ShapeError, match=r"batches of 4 classes, and this one has 3; call reset"):
        road(metric, scores[:, :3], target.clamp(max=2))
    road(metric, scores[:0, :2], target[:0])  # of nothing there are no classes either
    once = kind()
    road(once, scores, target)
    np.testing.assert_array_equal(metric.compute(), once.compute())
    metric.reset()
    road(metric, scores[:, :3], target.clamp(max=2))


@pytest.mark.parametrize("kind", [*SHARES, ConfusionMatrix])
def test_states_of_different_numbers_of_classes_do_not_merge(kind, road):
    one, other = kind(), kind()
    road(one, *batch(9, 4))
    road(other, *batch(9, 3))
    with pytest.raises(ShapeError, match="batches of 4 classes, and this one has 3"):
        one.merge(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (F1("micro"), F1("macro")),
        (ConfusionMatrix(), ConfusionMatrix("true")),
        (TopKAccuracy(2), TopKAccuracy(3)),
    ],
    ids=repr,
)
def test_metrics_with_different_options_do_not_merge(one, other):
    with pytest.raises(MetricError, match=r"cannot take in the state of .* with the same options"):
        one.merge(other)


@pytest.mark.parametrize("make", [lambda: F1(None), ConfusionMatrix, lambda: TopKAccuracy(2)])
@given(data=st.data())
def test_any_splits_roads_and_orders_give_the_same_bits(make, data):
    scores, target = batch(40, 3, data.draw(st.integers(0, 99)))
    whole = make()
    whole.update(scores, target)
    cuts = data.draw(st.lists(st.integers(0, 40), max_size=5).map(sorted))
    parts = []
    for begin, end in itertools.pairwise([0, *cuts, 40]):
        road = ROADS[data.draw(st.sampled_from(sorted(ROADS)))]
        if not parts or data.draw(st.booleans()):
            parts.append(make())
        road(parts[-1], scores[begin:end], target[begin:end])
    merged = data.draw(st.permutations(parts))
    for other in merged[1:]:
        merged[0].merge(other)
    np.testing.assert_array_equal(merged[0].compute(), whole.compute())
