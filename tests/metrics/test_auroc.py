"""The area under the ROC curve on both of its roads, against scikit-learn and torchmetrics."""

import copy
import itertools
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics import classification as torchmetrics

import lumbre as lb
from lumbre.errors import (
    DTypeError,
    LumbreWarning,
    MetricError,
    MetricWarning,
    ShapeError,
    ShapeWarning,
    TargetError,
)
from lumbre.metrics import BinaryAUROC, MulticlassAUROC

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64]
INTEGERS += [torch.uint8, torch.uint16, torch.uint32, torch.uint64]
DTYPES = [*FLOATS, *INTEGERS, torch.bool]
AVERAGES = ["macro", "weighted", "micro", "none"]
NAN = math.nan
OPTIONS = {
    "exact": {},
    "exact logits": {"from_logits": True},
    "binned": {"num_thresholds": 11},
    "binned logits": {"thresholds": [0.0, 0.2, 0.3, 0.9, 1.0], "from_logits": True},
}


class Foreign(torch.Tensor):
    """A subclass: what its memory means is its own affair, so it is measured by torch ops."""


ROADS = {
    "rust": lambda metric, preds, target: metric.update(preds, target),
    "torch": lambda metric, preds, target: metric.update_with_torch(preds, target),
    "subclass": lambda metric, preds, target: metric.update(preds.as_subclass(Foreign), target),
}


@pytest.fixture(params=ROADS)
def measured(request):
    """Give the value of a metric after the batches, counted on one of the roads."""

    def measure(metric, *batches, read=True):
        for preds, target in batches:
            ROADS[request.param](metric, preds, target)
        return metric.compute() if read else None

    return measure


def binary(n=300, levels=20):
    """Scores from 0 to 1 with ties, that go somewhat with the target."""
    numbers = torch.Generator().manual_seed(n)
    target = torch.randint(0, 2, (n,), generator=numbers)
    steps = torch.randint(0, levels + 1 - levels // 4, (n,), generator=numbers)
    return (steps + target * (levels // 4)).double() / levels, target


def multiclass(n=200, classes=4, inner=()):
    numbers = torch.Generator().manual_seed(classes)
    target = torch.randint(0, classes, (n, *inner), generator=numbers)
    target = target.clamp(max=classes - 1)
    scores = torch.rand(n, classes, *inner, generator=numbers, dtype=torch.float64)
    scores += 0.3 * torch.nn.functional.one_hot(target, classes).movedim(-1, 1)
    return scores / scores.sum(1, keepdim=True), target


def by_scikit_learn(preds, target, average="macro"):
    """Each class against the rest, by hand: scikit-learn itself wants rows that sum up to 1."""
    classes = preds.shape[1]
    preds = preds.double().movedim(1, -1).reshape(-1, classes)
    one_hot = torch.nn.functional.one_hot(target.flatten().long(), classes)
    return roc_auc_score(one_hot, preds, average=None if average == "none" else average)


# What it measures


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_of_any_dtype_are_measured_as_scikit_learn_does(dtype, measured):
    preds, target = binary()
    preds = (preds if dtype.is_floating_point else preds * 20 > 12).to(dtype)
    expected = roc_auc_score(target, preds.double())
    assert 0.5 < expected < 1
    assert measured(BinaryAUROC(), (preds, target)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_targets_of_any_dtype_are_taken(dtype, measured):
    preds, target = binary()
    expected = roc_auc_score(target, preds)
    assert measured(BinaryAUROC(), (preds, target.to(dtype))) == pytest.approx(expected, abs=1e-15)
    preds, target = multiclass(classes=2)
    if dtype.is_floating_point:
        with pytest.raises(DTypeError, match=r"class numbers.*target\.long\(\)"):
            measured(MulticlassAUROC(), (preds, target.to(dtype)))
    else:
        value = measured(MulticlassAUROC(), (preds, target.to(dtype)))
        assert value == pytest.approx(by_scikit_learn(preds, target), abs=1e-15)


@pytest.mark.parametrize("levels", [4, 20, 10**9], ids=["heavy ties", "ties", "no ties"])
def test_ties_count_half(levels, measured):
    preds, target = binary(levels=levels)
    value = measured(BinaryAUROC(), (preds, target))
    assert value == pytest.approx(roc_auc_score(target, preds), abs=1e-15)
    oracle = torchmetrics.BinaryAUROC()(preds, target)
    assert value == pytest.approx(oracle.item(), abs=1e-6)
    assert measured(BinaryAUROC(), (torch.ones(4), torch.tensor([0, 1, 1, 0]))) == 0.5


def test_scores_that_only_float64_tells_apart_are_told_apart(measured):
    preds = 1 + torch.tensor([0.0, 2.0, 1.0, 3.0], dtype=torch.float64) * 1e-12
    batch = preds, torch.tensor([0, 0, 1, 1])
    assert measured(BinaryAUROC(), batch) == 0.75
    # Beside batches that float32 can hold, before and after.
    other = torch.tensor([0.5, 2.0]), torch.tensor([0, 1])
    assert measured(BinaryAUROC(), other, batch, other) == pytest.approx(15 / 16)
    large = torch.tensor([2**24, 2**24 + 1], dtype=torch.int32), torch.tensor([0, 1])
    assert measured(BinaryAUROC(), large) == 1


@pytest.mark.parametrize("average", [*AVERAGES, None])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classes_are_averaged_as_scikit_learn_does(average, classes, measured):
    preds, target = multiclass(classes=classes)
    target[: len(target) // 2] = 0  # so that classes are not alike in number
    expected = by_scikit_learn(preds, target, average or "none")
    value = measured(MulticlassAUROC(average), (preds, target))
    assert value == pytest.approx(expected, abs=1e-14)
    if average not in ("micro", None):
        oracle = torchmetrics.MulticlassAUROC(classes, average=average)
        assert value == pytest.approx(oracle(preds, target).numpy(), abs=1e-6)


@pytest.mark.parametrize("inner", [(1,), (6,), (3, 4)], ids=str)
def test_extra_dimensions_are_more_samples(inner, measured):
    preds, target = multiclass(40, 3, inner)
    assert measured(MulticlassAUROC(), (preds, target)) == pytest.approx(
        by_scikit_learn(preds, target), abs=1e-14
    )
    value = measured(BinaryAUROC(), (preds[:, 0], target == 0))
    expected = roc_auc_score((target == 0).flatten(), preds[:, 0].flatten())
    assert value == pytest.approx(expected, abs=1e-14)


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 1 else x,
    "every second": lambda x: torch.stack([x, x + 9], -1).flatten(-2)[..., ::2],
    "a slice": lambda x: torch.cat([x + 9, x, x + 9])[len(x) : 2 * len(x)],
    "expanded": lambda x: x[:, :1].expand(x.shape) if x.dim() > 1 else x,
    "a parameter": lambda x: torch.nn.Parameter(x, requires_grad=x.is_floating_point()),
    "sparse": lambda x: x.to_sparse(),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("inner", [(), (3,)], ids=str)
def test_the_layout_in_memory_makes_no_difference(layout, inner, measured):
    preds, target = multiclass(50, 3, inner)
    laid = layout(preds.clone())
    expected = by_scikit_learn(laid.detach().to_dense(), target)
    metric = MulticlassAUROC()
    if laid.layout is torch.strided:
        target = target if layout is LAYOUTS["expanded"] else layout(target)
        value = measured(metric, (laid, target))
    else:
        metric.update(laid, target)
        value = metric.compute()
    assert value == pytest.approx(expected, abs=1e-14)


# Thresholds


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("count", [2, 3, 7, 50, 200])
def test_evenly_spaced_thresholds_give_the_value_of_torchmetrics(count, dtype, measured):
    preds, target = binary(levels=10**6)
    preds = preds.to(dtype)
    value = measured(BinaryAUROC(count), (preds, target))
    oracle = torchmetrics.BinaryAUROC(thresholds=count)
    assert value == pytest.approx(oracle(preds, target).item(), abs=1e-6)


def test_more_thresholds_than_memory_are_refused():
    with pytest.raises(MetricError, match="at most 1000000 numbers, got 1000000000000"):
        BinaryAUROC(thresholds=range(10**12))


@pytest.mark.filterwarnings("ignore:BinaryAUROC is too small")
@pytest.mark.parametrize(
    "thresholds", [[0.0, 1.0], [0.0, 0.25, 0.5, 1.0], [0.3, 0.6], [0.5, 0.75, 1.0]], ids=str
)
def test_thresholds_that_are_given_make_the_curve_as_in_torchmetrics(thresholds, measured):
    for levels in (4, 20, 10**6):
        preds, target = binary(levels=levels)
        value = measured(BinaryAUROC(thresholds=thresholds[::-1]), (preds.float(), target))
        oracle = torchmetrics.BinaryAUROC(thresholds=thresholds)
        assert value == pytest.approx(oracle(preds.float(), target).item(), abs=1e-6)


@pytest.mark.parametrize("average", ["macro", "weighted", "none"])
def test_classes_are_binned_as_torchmetrics_does(average, measured):
    preds, target = multiclass(classes=5)
    value = measured(MulticlassAUROC(average, num_thresholds=20), (preds.float(), target))
    oracle = torchmetrics.MulticlassAUROC(5, average=average, thresholds=20)
    assert value == pytest.approx(oracle(preds.float(), target).numpy(), abs=1e-6)


def test_a_micro_average_between_thresholds_is_one_curve_of_all_pairs(measured):
    preds, target = multiclass(classes=5)
    value = measured(MulticlassAUROC("micro", num_thresholds=20), (preds, target))
    one_hot = torch.nn.functional.one_hot(target, 5).flatten()
    assert value == measured(BinaryAUROC(20), (preds.flatten(), one_hot))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_score_at_a_threshold_is_above_it(dtype, measured):
    preds = torch.tensor([0.3, 0.7, 0.1, 0.9], dtype=dtype)
    target = torch.tensor([1, 1, 0, 0])
    thresholds = preds.tolist()
    value = measured(BinaryAUROC(thresholds=[0.0, *thresholds, 1.0]), (preds, target))
    assert value == 0.5


def test_more_thresholds_come_closer_to_the_exact_value(measured):
    batch = binary(3000, 10**6)
    exact = measured(BinaryAUROC(), batch)
    gaps = [abs(measured(BinaryAUROC(count), batch) - exact) for count in (3, 1000)]
    assert gaps[0] > 1e-3 > 1e-4 > gaps[1]


# Logits


def test_logits_are_measured_as_what_the_sigmoid_makes_of_them(measured):
    preds, target = binary(levels=10**6)
    logits = preds.clamp(0.001, 0.999).logit()
    expected = roc_auc_score(target, logits.sigmoid())
    assert measured(BinaryAUROC(from_logits=True), (logits, target)) == pytest.approx(expected)
    oracle = torchmetrics.BinaryAUROC(thresholds=30)
    value = measured(BinaryAUROC(30, from_logits=True), (logits.float(), target))
    assert value == pytest.approx(oracle(logits.float().sigmoid(), target).item(), abs=1e-6)


@pytest.mark.parametrize("average", AVERAGES)
def test_logits_are_measured_as_what_the_softmax_makes_of_them(average, measured):
    torch.manual_seed(3)
    logits, target = torch.randn(200, 5, dtype=torch.float64) * 3, multiclass(200, 5)[1]
    expected = by_scikit_learn(logits.softmax(1), target, average)
    value = measured(MulticlassAUROC(average, from_logits=True), (logits, target))
    assert value == pytest.approx(expected, abs=1e-14)
    assert value != pytest.approx(by_scikit_learn(logits, target, average), abs=1e-3)
    metric = MulticlassAUROC(average, 30, from_logits=True)
    plain = MulticlassAUROC(average, 30)
    assert measured(metric, (logits, target)) == pytest.approx(
        measured(plain, (logits.softmax(1), target))
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_logits_that_a_softmax_would_round_to_1_are_no_ties(dtype, measured):
    logits = torch.tensor([20.0, 30.0, 25.0, 40.0], dtype=dtype)
    target = torch.tensor([0, 1, 0, 1])
    assert measured(BinaryAUROC(from_logits=True), (logits, target)) == 1
    assert roc_auc_score(target, logits.double().sigmoid().half().float()) == 0.5
    rows = torch.stack([torch.zeros_like(logits), logits], 1)
    assert measured(MulticlassAUROC(from_logits=True), (rows, target)) == 1


def test_equal_differences_of_logits_are_ties(measured):
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([[1.0, 2, 4], [7, 8, 10], [4, 2, 1]], dtype=dtype)
        value = measured(
            MulticlassAUROC("none", from_logits=True), (logits, torch.tensor([0, 1, 2]))
        )
        # The first two rows are the same three probabilities, the third has them backwards.
        assert value.tolist() == [0.25, 0.5, 0.0]


# NaN, and what has no value


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_where_a_score_is_nan_the_value_is_nan_and_that_is_told(options, dtype, measured):
    target = torch.tensor([1, 1, 0, 0])
    for scores in ([NAN, 1.0, 0.0, 0.0], [1.0, 1.0, NAN, 0.0], [NAN] * 4):
        preds = torch.tensor(scores, dtype=dtype) * 9
        for bad in (preds, preds.neg().neg()):
            with pytest.warns(MetricWarning, match=r"BinaryAUROC is NaN: .* NaN .*isfinite"):
                assert math.isnan(measured(BinaryAUROC(**options), (bad, target)))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_nan_among_many_batches_is_found_and_can_be_taken_back(options, measured):
    metric = BinaryAUROC(**options)
    good, bad = binary(100), (torch.tensor([NAN, 0.5]), torch.tensor([1, 0]))
    expected = measured(BinaryAUROC(**options), good)
    measured(metric, good, bad, read=False)
    metric.retract()
    assert metric.compute() == expected
    with pytest.warns(MetricWarning, match="NaN"):
        assert math.isnan(measured(metric, bad, good))
    with pytest.warns(MetricWarning, match="NaN"):
        assert math.isnan(measured(metric, good))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_nan_of_one_class_makes_the_average_nan(options, measured):
    preds, target = multiclass(30, 3)
    preds[4, 1] = NAN
    with pytest.warns(MetricWarning, match="MulticlassAUROC is NaN: "):
        each = measured(MulticlassAUROC("none", **options), (preds, target))
    # The softmax makes the whole row NaN.
    expected = [True] * 3 if "from_logits" in options else [False, True, False]
    assert [math.isnan(value) for value in each] == expected
    for average in AVERAGES:
        with pytest.warns(MetricWarning, match="NaN"):
            value = measured(MulticlassAUROC(average, **options), (preds, target))
        assert average == "none" or math.isnan(value)


def test_infinite_scores_are_scores(measured):
    preds = torch.tensor([-math.inf, 0.0, 0.5, math.inf])
    assert measured(BinaryAUROC(), (preds, torch.tensor([0, 0, 1, 1]))) == 1
    assert measured(BinaryAUROC(3), (preds[1:], torch.tensor([0, 1, 1]))) == 1


def test_scores_below_all_thresholds_are_told_of(measured):
    batch = torch.tensor([-2.0, -1.0, 0.5, 2.0]), torch.tensor([0, 0, 1, 1])
    with pytest.warns(
        MetricWarning, match=r"BinaryAUROC is too small: .* below 0, .*from_logits=True"
    ):
        assert measured(BinaryAUROC(50), batch) == 0
    assert measured(BinaryAUROC(50, from_logits=True), batch) == 1
    with pytest.warns(MetricWarning, match=r"MulticlassAUROC is too small: .* below 0.1, "):
        measured(MulticlassAUROC(thresholds=[0.1, 0.5]), multiclass())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("only", [0, 1])
def test_one_class_alone_has_no_area(only, options, measured):
    metric = BinaryAUROC(**options)
    with pytest.warns(MetricWarning, match=f"BinaryAUROC is NaN: .* each is {only}, .*shuffled"):
        assert math.isnan(measured(metric, (torch.rand(5), torch.full((5,), only))))
    assert issubclass(MetricWarning, LumbreWarning)
    batch = torch.rand(5), torch.full((5,), 1 - only)
    assert 0 <= measured(metric, batch) <= 1  # and no warning any more


@pytest.mark.parametrize("average", AVERAGES)
def test_a_class_that_is_absent_is_left_out_of_averages(average, measured):
    preds, target = multiclass(classes=4)
    target[target == 2] = 3
    metric = MulticlassAUROC(average)
    each = by_scikit_learn(preds[:, [0, 1, 3]], target.clamp(max=2), "none")
    if average == "micro":
        one_hot = torch.nn.functional.one_hot(target, 4).flatten()
        assert measured(metric, (preds, target)) == pytest.approx(
            roc_auc_score(one_hot, preds.flatten())
        )
        return
    outcome = "is NaN for them" if average == "none" else "is the mean without them"
    with pytest.warns(MetricWarning, match=f"MulticlassAUROC {outcome}: no target .* class 2,"):
        value = measured(metric, (preds, target))
    if average == "none":
        assert value[[0, 1, 3]] == pytest.approx(each)
        assert math.isnan(value[2])
    elif average == "macro":
        assert value == pytest.approx(each.mean())
    else:
        weights = torch.bincount(target)[[0, 1, 3]].numpy()
        assert value == pytest.approx((each * weights).sum() / weights.sum())


def test_targets_of_one_class_leave_no_class_an_area(measured):
    with pytest.warns(MetricWarning, match="MulticlassAUROC is NaN: .* each is 2,"):
        assert math.isnan(measured(MulticlassAUROC(), (torch.rand(4, 3), torch.full((4,), 2))))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_before_the_first_batch_the_value_is_nan_without_a_warning(options, measured):
    for metric in (BinaryAUROC(**options), MulticlassAUROC("none", **options)):
        assert math.isnan(metric.compute())
    metric = BinaryAUROC(**options)
    assert math.isnan(measured(metric, (torch.zeros(0), torch.zeros(0))))
    preds, target = binary()
    first = measured(metric, (preds, target))
    metric.reset()
    assert math.isnan(metric.compute())
    assert measured(metric, (preds, target)) == first


# Batches


METRICS = [BinaryAUROC(**options) for options in OPTIONS.values()]
METRICS += [
    MulticlassAUROC(average, **options)
    for average, options in itertools.product(AVERAGES, OPTIONS.values())
]


def batch_for(metric, n=200):
    return binary(n) if isinstance(metric, BinaryAUROC) else multiclass(n, 3)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
@given(data=st.data())
def test_any_split_any_road_and_any_merge_equal_one_pass(metric, data):
    preds, target = batch_for(metric, 60)
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    whole = copy.deepcopy(metric)
    whole.update(preds.to(dtype), target)
    cuts = data.draw(st.lists(st.integers(0, 60), max_size=5).map(sorted))
    parts = []
    for begin, end in itertools.pairwise([0, *cuts, 60]):
        if not parts or data.draw(st.booleans()):
            parts.append(copy.deepcopy(metric))
        road = ROADS[data.draw(st.sampled_from(sorted(ROADS)))]
        road(parts[-1], preds[begin:end].to(dtype), target[begin:end])
        if data.draw(st.booleans()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", MetricWarning)
                parts[-1].compute()
    first, *others = data.draw(st.permutations(parts))
    for other in others:
        first.merge(other)
    assert first.compute() == pytest.approx(whole.compute(), rel=1e-15)


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([-0.0, 0.0, 0.5, 1.0, 3.0, math.inf, -math.inf, NAN])
            | st.floats(width=32),
            st.integers(0, 1),
        ),
        max_size=30,
    ),
    dtype=st.sampled_from(FLOATS),
    options=st.sampled_from(sorted(OPTIONS)),
)
def test_both_roads_measure_the_same(rows, dtype, options):
    preds = torch.tensor([row[0] for row in rows]).to(dtype)
    target = torch.tensor([row[1] for row in rows]).long()
    values = []
    for road in ROADS.values():
        metric = BinaryAUROC(**OPTIONS[options])
        road(metric, preds, target)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MetricWarning)
            values.append(metric.compute())
    assert values == pytest.approx([values[0]] * 3, abs=1e-15, nan_ok=True)


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_the_last_batch_can_be_taken_back_once(metric, measured):
    preds, target = batch_for(metric)
    metric = copy.deepcopy(metric)
    expected = measured(metric, (preds[:120], target[:120]))
    metric.reset()
    for road in ROADS.values():
        road(metric, preds[:120], target[:120])
        road(metric, preds[120:], target[120:])
        metric.retract()
        metric.retract()
    # Three times the same pairs, of which the value is the share.
    assert metric.compute() == pytest.approx(expected, rel=1e-14)


def test_a_batch_can_be_taken_back_after_the_value_was_read(measured):
    preds, target = binary()
    metric = BinaryAUROC()
    before = measured(metric, (preds[:100], target[:100]))
    assert measured(metric, (preds[100:], target[100:])) != before
    metric.retract()
    assert metric.compute() == before
    metric.retract()
    assert metric.compute() == before


@pytest.mark.parametrize("roads", list(itertools.permutations(ROADS, 2)), ids=str)
def test_the_last_batch_is_the_last_one_whatever_the_road_of_the_one_before(roads):
    preds, target = binary()
    metric, first = BinaryAUROC(), BinaryAUROC()
    first.update(preds[:100], target[:100])
    for begin, road in zip((0, 100), roads, strict=True):
        batch = slice(begin, begin + 100)
        ROADS[road](metric, preds[batch], target[batch])
    assert metric.compute() != first.compute()
    metric.retract()
    assert metric.compute() == first.compute()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])  # noqa: S301
@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_a_copy_goes_on_by_itself(metric, copied):
    preds, target = batch_for(metric)
    metric = copy.deepcopy(metric)
    whole = copy.deepcopy(metric)
    whole.update(preds, target)
    for road in (ROADS["rust"], ROADS["torch"]):
        metric.reset()
        road(metric, preds[:100], target[:100])
        twin = copied(metric)
        before = metric.compute()
        assert twin.compute() == pytest.approx(before, rel=1e-15)
        road(twin, preds[100:], target[100:])
        assert twin.compute() == pytest.approx(whole.compute(), rel=1e-15)
        assert metric.compute() == pytest.approx(before, rel=1e-15)


def test_only_metrics_that_measure_alike_merge():
    different = [BinaryAUROC(), BinaryAUROC(5), BinaryAUROC(6), BinaryAUROC(from_logits=True)]
    different += [MulticlassAUROC(), MulticlassAUROC("micro"), lb.metrics.Accuracy()]
    for one, other in itertools.permutations(different, 2):
        with pytest.raises(MetricError, match=r"cannot take in .*merge"):
            one.merge(other)
    three, four = MulticlassAUROC(), MulticlassAUROC()
    three.update(*multiclass(classes=3))
    four.update(*multiclass(classes=4))
    with pytest.raises(
        MetricError, match=r"Macro average of 3 classes.*Macro average of 4 classes"
    ):
        three.merge(four)


def test_a_fit_records_the_area():
    torch.manual_seed(0)
    x = torch.randn(200, 2)
    y = (x.sum(1, keepdim=True) + torch.randn(200, 1) > 0).float()
    options = {"from_logits": True}
    measures = [BinaryAUROC(**options), BinaryAUROC(50, **options, name="binned")]
    loss = torch.nn.BCEWithLogitsLoss()
    setup = lb.setup(torch.nn.Linear, loss, torch.optim.SGD, measures)
    setup = setup.set_hparams(in_features=2, out_features=1)
    cpu = lb.Accelerator(cpu=True)
    fitted = setup.fit([x, y], 2, valid_data=[x, y], accelerator=cpu, verbose=False)
    with torch.no_grad():
        expected = roc_auc_score(y, fitted.model(x))
    last = fitted.records["metrics"]["valid"][-1]
    assert last["auroc"] == pytest.approx(expected, abs=1e-15)
    assert last["binned"] == pytest.approx(expected, abs=0.01)


# What it costs


class Ops(TorchDispatchMode):
    """Writes down which torch ops run, and on what devices."""

    def __init__(self):
        super().__init__()
        self.names = []
        self.devices = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in (*args, result) if isinstance(x, torch.Tensor)]
        self.devices |= {tensor.device.type for tensor in tensors}
        return result


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_plain_memory_is_measured_without_a_torch_op(metric):
    preds, target = batch_for(metric)
    metric = copy.deepcopy(metric)
    with Ops() as ops:
        metric.update(preds, target)
        metric.compute()
        metric.retract()
        metric.reset()
    assert ops.names == []
    with Ops() as ops:
        metric.update_with_torch(preds, target)
    assert ops.names, "the count would see an op if there were one"


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_on_a_device_nothing_is_copied_and_nothing_waits(metric):
    preds, target = (tensor.to("meta") for tensor in batch_for(metric))
    metric = copy.deepcopy(metric)
    metric.update(preds, target)  # thresholds go to the device once
    with Ops() as ops:
        for _ in range(3):
            metric.update(preds, target)
        metric.retract()
    assert ops.devices == {"meta"}
    assert not {"_local_scalar_dense", "_to_copy_cpu"} & set(ops.names)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_score_and_its_label_are_kept_in_8_bytes_or_less(dtype):
    n, head = 1000, 4 * 8
    for metric, width in ((BinaryAUROC(), ()), (MulticlassAUROC("micro"), (7,))):
        preds, target = torch.rand(n, *width).to(dtype), torch.randint(0, 2, (n,))
        metric.update(preds, target)
        assert len(metric._native.state) == head + 8 * preds.numel()
        metric.update_with_torch(preds, target)
        gathered = metric._gathered
        kept = gathered._scores.nbytes + gathered._labels.nbytes
        assert kept <= (8 if dtype is torch.float64 else 4) * preds.numel() + 4 * n


def test_bins_have_a_constant_size():
    metric = BinaryAUROC(50)
    sizes = set()
    for n in (10, 1000):
        metric.update(torch.rand(n), torch.randint(0, 2, (n,)))
        sizes.add(len(metric._native.state))
        metric.update_with_torch(torch.rand(n), torch.randint(0, 2, (n,)))
        sizes.add(8 * (metric._on_device.numel() + 1))
        metric.compute()
    assert sizes == {8 * (2 + 2 * 52)}


def test_room_on_a_device_is_made_seldom():
    metric, sizes = BinaryAUROC(), set()
    for _ in range(1000):
        metric.update_with_torch(torch.rand(8), torch.randint(0, 2, (8,)))
        sizes.add(len(metric._gathered._scores))
    assert max(sizes) < 2 * 8000
    assert len(sizes) < 20


def test_a_batch_in_inference_mode_does_not_bar_the_next_one():
    preds, target = binary()
    for options in OPTIONS.values():
        metric = BinaryAUROC(**options)
        with torch.inference_mode():
            metric.update_with_torch(preds[:100] * 1, target[:100] * 1)
        metric.update_with_torch(preds[100:], target[100:])
        whole = BinaryAUROC(**options)
        whole.update(preds, target)
        assert metric.compute() == pytest.approx(whole.compute(), rel=1e-15)


# What it refuses


@pytest.mark.parametrize("bad", [2, -1, 0.5, NAN], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_binary_target_that_is_neither_0_nor_1_is_an_error(bad, options, measured):
    target = torch.tensor([0.0, 1.0, bad])
    metric = BinaryAUROC(**options)
    with pytest.raises(TargetError, match=r"BinaryAUROC.* 0 n?or 1"):
        measured(metric, (torch.zeros(3), target))
    assert math.isnan(metric.compute())
    with pytest.raises(ValueError, match=r"at index 2 of .*target > 0\.5.*MulticlassAUROC"):
        metric.update(torch.zeros(3), target)


@pytest.mark.parametrize("bad", [-1, 3, 2**40], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_class_that_preds_do_not_have_is_an_error(bad, options, measured):
    target = torch.tensor([0, 1, bad, 2])
    metric = MulticlassAUROC(**options)
    with pytest.raises(TargetError, match=r"MulticlassAUROC.*class"):
        measured(metric, (torch.zeros(4, 3), target))
    with pytest.raises(ValueError, match=f"got class {bad} at index 2.* the classes 0 to 2"):
        metric.update(torch.zeros(4, 3), target)


@pytest.mark.parametrize(
    ("preds", "target"),
    [((4, 3), (4, 1)), ((4, 3), (4, 3)), ((4, 3), (5,)), ((4,), (4,)), ((), ()), ((4, 1), (4,))],
    ids=str,
)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_shapes_that_do_not_fit_are_refused(preds, target, options, measured):
    with pytest.raises(ShapeError, match=r"MulticlassAUROC .*\(n, classes, \.\.\.\)|got "):
        measured(MulticlassAUROC(**options), (torch.zeros(preds), torch.zeros(target).long()))
    if preds != target and math.prod(preds) != math.prod(target):
        with pytest.raises(ShapeError, match=r"BinaryAUROC .*got "):
            measured(BinaryAUROC(**options), (torch.zeros(preds), torch.zeros(target)))


def test_a_shape_error_names_the_mend():
    update = MulticlassAUROC().update
    for preds, target, mend in (
        ((4, 3), (4, 1), r"target\.squeeze\(1\)"),
        ((4, 3), (4, 3), r"target\.argmax\(1\)"),
        ((4,), (4,), r"use BinaryAUROC where there is one score"),
        ((4, 1), (4,), r"use BinaryAUROC with preds\.squeeze\(1\)"),
    ):
        with pytest.raises(ShapeError, match=mend):
            update(torch.zeros(preds), torch.zeros(target).long())


def test_batches_of_other_classes_than_before_are_refused(measured):
    metric = MulticlassAUROC()
    measured(metric, multiclass(classes=3))
    with pytest.raises(ShapeError, match=r"batches of 3 classes, and this one has 4.*reset\(\)"):
        measured(metric, multiclass(classes=4))
    metric.reset()
    assert measured(metric, multiclass(classes=4)) > 0.5


def test_a_column_against_a_row_is_compared_elementwise_with_one_warning(measured):
    preds, target = binary()
    metric = BinaryAUROC()
    with pytest.warns(ShapeWarning, match=r"BinaryAUROC.*\(n, 1\).*squeeze\(1\)") as told:
        value = measured(metric, (preds[:, None], target), (preds, target[:, None]))
    assert value == pytest.approx(roc_auc_score(target, preds))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_thresholds": 1}, r"num_thresholds from 2 to 1000000, got 1; pass num_thresholds="),
        ({"num_thresholds": 2.5}, "got 2.5"),
        ({"num_thresholds": -3}, "got -3"),
        ({"num_thresholds": "many"}, 'num_thresholds is a number; got "many"'),
        ({"num_thresholds": True}, "num_thresholds is a number; got True"),
        ({"thresholds": [0.5]}, r"2 or more thresholds, got \[0.5\]"),
        ({"thresholds": []}, r"2 or more thresholds, got \[\]"),
        ({"thresholds": [0.0, NAN]}, "finite thresholds, got NaN"),
        ({"thresholds": 0.5}, "thresholds is a list of numbers; got 0.5"),
        ({"thresholds": [0.0, 1.0], "num_thresholds": 5}, "got both; leave out num_thresholds=5"),
        ({"from_logits": "yes"}, 'from_logits is True or False; got "yes"'),
        ({"from_logits": 1}, "from_logits is True or False; got 1"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments, message):
    for kind in (BinaryAUROC, MulticlassAUROC):
        with pytest.raises(MetricError, match=f"{kind.__name__}.*{message}"):
            kind(**arguments)
    with pytest.raises(MetricError, match='average is one of "micro", "macro", "weighted", "none"'):
        MulticlassAUROC("samples")


def test_thresholds_may_be_any_sequence_in_any_order():
    values = []
    for thresholds in ([0.0, 0.5, 1.0], (1, 0, 0.5, 0.5), np.linspace(0, 1, 3)):
        metric = BinaryAUROC(thresholds=thresholds)
        metric.update(*binary())
        values.append(metric.compute())
    assert len(set(values)) == 1


@pytest.mark.parametrize("metric", METRICS, ids=repr)
def test_a_refused_batch_leaves_the_metric_as_it_was(metric, measured):
    metric = copy.deepcopy(metric)
    preds, target = batch_for(metric)
    before = measured(metric, (preds, target))
    for bad in ((preds[:5], target), (preds.to(torch.complex64), target)):
        with pytest.raises((ShapeError, DTypeError)):
            measured(metric, bad)
    with pytest.raises(DTypeError, match="preds is NoneType"):
        metric.update(None, target)
    assert metric.compute() == pytest.approx(before, rel=1e-15)


def test_values_in_the_middle_of_a_pass_are_read_without_a_warning() -> None:
    # The first batch has one class, as that of a progress bar that is drawn early.
    data = [torch.rand(4, 2), torch.tensor([0, 0, 1, 1])]
    metrics = [lb.metrics.MulticlassAUROC()]
    seen: list[object] = []

    @lb.on("on_train_batch_end")
    def look(ctx: lb.Context) -> None:
        seen.append((ctx.get_metrics("train")["auroc"], ctx.get_metric("auroc", "train")))

    net = lb.setup(nn.Linear(2, 2), nn.CrossEntropyLoss(), torch.optim.SGD, metrics=metrics)
    options = {"batch_size": 2, "shuffle": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.fit(data, epochs=1, callbacks=look, dataloader_options=options)
    assert len(seen) == 2
    with pytest.warns(MetricWarning, match="each is 0"):
        net.fit([data[0], torch.zeros(4, dtype=torch.long)], epochs=1, callbacks=look)
