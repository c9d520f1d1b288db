"""The built-in metrics on both of their roads: Rust that reads memory, and torch ops."""

import copy
import itertools
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.classification
import torchmetrics.regression
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn

import lumbre as lb
from lumbre._core import NativeMetric, Run
from lumbre.errors import (
    ArgumentTypeError,
    DTypeError,
    MetricError,
    MetricWarning,
    ShapeError,
    ShapeWarning,
    TargetError,
)
from lumbre.metrics import (
    F1,
    MAE,
    MSE,
    R2,
    RMSE,
    Accuracy,
    BinaryAccuracy,
    BinaryAccuracyWithLogits,
    ConfusionMatrix,
    Precision,
    Recall,
    TopKAccuracy,
)
from roads import ROADS, Ops

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64]
INTEGERS += [torch.uint8, torch.uint16, torch.uint32, torch.uint64]
DTYPES = [*FLOATS, *INTEGERS, torch.bool]
DEVIATIONS = {
    MAE: sklearn.mean_absolute_error,
    MSE: sklearn.mean_squared_error,
    RMSE: sklearn.root_mean_squared_error,
}
SHARES = {
    Precision: sklearn.precision_score,
    Recall: sklearn.recall_score,
    F1: sklearn.f1_score,
}
BINARY = [BinaryAccuracy, BinaryAccuracyWithLogits]
# How many classes the examples have, for metrics that take scores of classes.
CLASSES = {Accuracy: 5, TopKAccuracy: 8, ConfusionMatrix: 5, **dict.fromkeys(SHARES, 5)}
BUILT_IN = [*CLASSES, *BINARY, *DEVIATIONS, R2]
NAN = math.nan


@pytest.fixture(params=ROADS)
def measured(request):
    """Give the value of a metric after the batches, counted on one of the roads."""

    def measure(metric, *batches, read=True):
        for preds, target in batches:
            ROADS[request.param](metric, preds, target)
        return metric.compute() if read else None

    return measure


def example(kind, n=60, inner=()):
    """Predictions and targets that a metric takes; every dtype can hold them."""
    numbers = torch.Generator().manual_seed(1)
    if kind in CLASSES:
        classes = CLASSES[kind]
        scores = torch.stack([torch.randperm(classes, generator=numbers) for _ in range(n)])
        scores = scores.reshape(n, classes, *(1 for _ in inner)).expand(n, classes, *inner)
        return scores.clone(), torch.randint(0, classes, (n, *inner), generator=numbers)
    return tuple(torch.randint(0, 2, (n, *inner), generator=numbers) for _ in range(2))


def expected(kind, preds, target):
    """What scikit-learn says."""
    preds, target = preds.double(), target.double()
    if kind in CLASSES:
        classes = range(preds.shape[1])
        target, best = target.flatten(), preds.argmax(1).flatten()
        if kind is TopKAccuracy:
            scores = preds.movedim(1, -1).reshape(-1, len(classes))
            # Of equal scores the last ones come first there: classes are numbered the other way.
            last = len(classes) - 1
            return sklearn.top_k_accuracy_score(last - target, scores.flip(1), k=5, labels=classes)
        if kind is ConfusionMatrix:
            return sklearn.confusion_matrix(target, best, labels=classes)
        if kind is Accuracy:
            return sklearn.accuracy_score(target, best)
        return SHARES[kind](target, best, labels=classes, average="macro", zero_division=0)
    if kind is R2:
        return sklearn.r2_score(target.reshape(len(target), -1), preds.reshape(len(target), -1))
    if kind in DEVIATIONS:
        return DEVIATIONS[kind](target.flatten(), preds.flatten())
    if kind is BinaryAccuracyWithLogits:
        preds = preds.sigmoid()
    return sklearn.accuracy_score(target.flatten(), preds.flatten() > 0.5)


def test_all_that_are_promised_are_tested_here_or_in_a_file_of_their_own():
    elsewhere = {"BinaryAUROC", "Mean", "MulticlassAUROC"}
    assert {kind.__name__ for kind in BUILT_IN} | elsewhere == set(lb.metrics.__all__)


# What they measure


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", BUILT_IN)
def test_predictions_of_any_dtype_are_measured_as_scikit_learn_does(kind, dtype, measured):
    preds, target = example(kind)
    preds = preds.to(dtype)
    value = measured(kind(), (preds, target))
    assert value == pytest.approx(expected(kind, preds, target), rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", BUILT_IN)
def test_targets_of_any_dtype_are_measured_as_scikit_learn_does(kind, dtype, measured):
    preds, target = example(kind)
    if kind in CLASSES and dtype.is_floating_point:
        with pytest.raises(DTypeError, match=r"class numbers.*target\.long\(\)"):
            measured(kind(), (preds, target.to(dtype)))
        return
    target = target.clamp(max=1).to(dtype) if dtype is torch.bool else target.to(dtype)
    value = measured(kind(), (preds, target))
    assert value == pytest.approx(expected(kind, preds, target), rel=1e-13, abs=1e-15)


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 1 else x,
    "every second": lambda x: torch.stack([x, x + 9], -1).flatten(-2)[..., ::2],
    "a slice": lambda x: torch.cat([x + 9, x, x + 9])[len(x) : 2 * len(x)],
    "an offset": lambda x: torch.cat([x.flatten()[:1], x.flatten()])[1:].reshape(x.shape),
    "expanded": lambda x: x[:1].expand(x.shape),
    "requires grad": lambda x: x.requires_grad_() if x.is_floating_point() else x,
    "with a graph": lambda x: x.requires_grad_() * 1 if x.is_floating_point() else x,
    "a parameter": lambda x: torch.nn.Parameter(x, requires_grad=x.is_floating_point()),
    "memory of numpy": lambda x: torch.from_numpy(np.asarray(x)),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("inner", [(), (3,), (4, 2)], ids=str)
@pytest.mark.parametrize("kind", BUILT_IN)
def test_the_layout_in_memory_makes_no_difference(kind, inner, layout, measured):
    preds, target = (layout(tensor) for tensor in (example(kind, 20, inner)))
    floats = layout(example(kind, 20, inner)[0].float())
    copies = preds.detach().clone(), target.detach().clone()
    for scores in (preds, floats):
        assert measured(kind(), (scores, target)) == pytest.approx(expected(kind, *copies))


@pytest.mark.parametrize("inner", [(), (1,), (6,), (3, 4), (2, 1, 3)], ids=str)
def test_extra_dimensions_count_as_torchmetrics_counts_them(inner, measured):
    torch.manual_seed(2)
    scores, target = torch.randn(40, 4, *inner), torch.randint(0, 4, (40, *inner))
    oracle = torchmetrics.classification.MulticlassAccuracy(4, average="micro")
    assert measured(Accuracy(), (scores, target)) == pytest.approx(oracle(scores, target).item())

    logits, target = torch.randn(40, *inner), torch.randint(0, 2, (40, *inner))
    oracle = torchmetrics.classification.BinaryAccuracy(threshold=0.7)
    value = measured(BinaryAccuracyWithLogits(0.7), (logits, target))
    assert value == pytest.approx(oracle(logits, target).item())
    value = measured(BinaryAccuracy(0.7), (logits.sigmoid(), target))
    assert value == pytest.approx(oracle(logits.sigmoid(), target).item())

    preds, target = torch.randn(2, 40, *inner).unbind()
    for kind, oracle in (
        (MAE, torchmetrics.regression.MeanAbsoluteError()),
        (MSE, torchmetrics.regression.MeanSquaredError()),
        (RMSE, torchmetrics.regression.MeanSquaredError(squared=False)),
    ):
        value = measured(kind(), (preds, target))
        assert value == pytest.approx(oracle(preds, target).item(), rel=1e-5)


@pytest.mark.parametrize("kind", [MAE, MSE, RMSE])
def test_deviations_of_halves_are_summed_in_double_precision(kind, measured):
    preds = torch.full((5000,), 300.0, dtype=torch.float16)
    value = measured(kind(), (preds, torch.zeros_like(preds)))
    assert value == (90_000 if kind is MSE else 300)


def test_a_single_number_is_a_sample_too(measured):
    assert measured(MAE(), (torch.tensor(1.0), torch.tensor(4))) == 3
    assert measured(BinaryAccuracy(), (torch.tensor(0.9), torch.tensor(True))) == 1


def test_of_equal_scores_the_first_counts(measured):
    scores = torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 1, 1], [0, 1, 1]])
    assert measured(Accuracy(), (scores, torch.tensor([0, 1, 2, 2]))) == 0.5


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 70])
def test_a_score_that_is_nan_makes_a_miss(classes, measured):
    for place in range(classes):
        scores = torch.zeros(classes, classes)
        scores[:, place] = NAN
        assert measured(Accuracy(), (scores, torch.arange(classes))) == 0
    for kind in (BinaryAccuracy, BinaryAccuracyWithLogits):
        batch = torch.tensor([NAN, NAN, 0.9, 0.0]), torch.tensor([0, 1, 1, 0])
        assert measured(kind(), batch) == 0.5


def test_a_deviation_that_is_nan_or_infinite_is_not_hidden(measured):
    zeros = torch.zeros(300)
    for kind in (MAE, MSE, RMSE):
        for bad in (NAN, math.inf):
            preds = zeros.clone()
            preds[200] = bad
            assert str(measured(kind(), (preds, zeros))) == str(bad)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_class_one_lies_above_the_threshold_and_not_at_it(dtype, measured):
    preds, target = torch.tensor([0.3, 0.31, 0.2], dtype=dtype), torch.tensor([0, 1, 0])
    assert measured(BinaryAccuracy(threshold=0.3), (preds, target)) == 1
    assert measured(BinaryAccuracyWithLogits(), (torch.zeros(3, dtype=dtype), target)) == 2 / 3


# Batches


@pytest.mark.parametrize("kind", BUILT_IN)
def test_before_the_first_batch_the_value_is_nan(kind, measured):
    metric = kind()
    assert math.isnan(metric.compute())
    empty = tuple(tensor[:0] for tensor in example(kind))
    assert math.isnan(measured(metric, empty))
    batch = example(kind)
    assert measured(metric, batch) == pytest.approx(expected(kind, *batch))
    metric.reset()
    assert math.isnan(metric.compute())


@pytest.mark.parametrize("kind", BUILT_IN)
@given(data=st.data())
def test_any_split_and_merge_equals_one_pass(kind, data):
    preds, target = example(kind, 50)
    preds = preds * 0.37
    cuts = data.draw(st.lists(st.integers(0, 50), max_size=5).map(sorted))
    parts = []
    for begin, end in itertools.pairwise([0, *cuts, 50]):
        road = ROADS[data.draw(st.sampled_from(sorted(ROADS)))]
        if not parts or data.draw(st.booleans()):
            parts.append(kind())
        road(parts[-1], preds[begin:end], target[begin:end])
    merged = data.draw(st.permutations(parts))
    for other in merged[1:]:
        merged[0].merge(other)
    assert merged[0].compute() == pytest.approx(expected(kind, preds, target), rel=1e-12)


@pytest.mark.parametrize("kind", BUILT_IN)
@given(data=st.data())
def test_both_roads_measure_the_same(kind, data):
    n, inner = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 3))
    few = 5 if kind is TopKAccuracy else 1
    shape = (n, data.draw(st.integers(few, 6)), inner) if kind in CLASSES else (n, inner)
    dtype = data.draw(st.sampled_from(DTYPES))
    numbers = st.sampled_from([0.0, 1.0, 2.0, 3.0])
    if dtype.is_floating_point:
        numbers = st.sampled_from([-0.0, 0.5, -1.25, 3.0, math.inf, NAN]) | numbers
    size = math.prod(shape)
    preds = data.draw(st.lists(numbers, min_size=size, max_size=size))
    top = shape[1] - 1 if kind in CLASSES else 1
    target = data.draw(st.lists(st.integers(0, top), min_size=n * inner, max_size=n * inner))
    batch = torch.tensor(preds).reshape(shape).to(dtype), torch.tensor(target).long()
    batch = batch[0], batch[1].reshape(n, inner)
    values, told = [], []
    for road in ROADS.values():
        metric = kind()
        road(metric, *batch)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            values.append(metric.compute())
        told.append([str(each.message) for each in caught])
    assert told == [told[0]] * len(ROADS)
    for value in values:
        assert value == pytest.approx(values[0], rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("kind", BUILT_IN)
def test_merging_leaves_the_other_as_it_was(kind, measured):
    preds, target = example(kind)
    one, other = kind(), kind()
    part = measured(other, (preds[20:], target[20:]))
    measured(one, (preds[:20], target[:20]))
    one.merge(other)
    assert one.compute() == pytest.approx(expected(kind, preds, target))
    assert other.compute() == pytest.approx(part, rel=0, abs=0)
    one.merge(one)
    twice = [torch.cat([tensor, tensor]) for tensor in (preds, target)]
    assert one.compute() == pytest.approx(expected(kind, *twice))


def test_only_metrics_of_one_kind_merge():
    class Other(lb.Metric):
        pass

    for one, other in itertools.permutations([*BUILT_IN, Other], 2):
        if one is not Other:
            with pytest.raises(MetricError, match=rf"{one.__name__}.*{other.__name__}.*merge"):
                one().merge(other())
    with pytest.raises(MetricError, match=r"cut at 0\.3 cannot take in .* cut at 0\.4"):
        BinaryAccuracy(0.3).merge(BinaryAccuracy(0.4))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])  # noqa: S301
@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_copy_goes_on_by_itself(kind, copied, measured):
    preds, target = example(kind)
    metric = kind(name="mine")
    before = measured(metric, (preds[:20], target[:20]))
    twin = copied(metric)
    assert twin.compute() == pytest.approx(before, rel=0, abs=0)
    assert (twin.record_name, repr(twin)) == ("mine", repr(metric))
    assert measured(twin, (preds[20:], target[20:])) == pytest.approx(expected(kind, preds, target))
    assert metric.compute() == pytest.approx(before, rel=0, abs=0)
    twin.reset()
    assert math.isnan(twin.compute())


def test_a_copy_keeps_what_lies_on_the_device():
    metric = MAE()
    metric.update_with_torch(torch.ones(3), torch.zeros(3))
    assert copy.deepcopy(metric).compute() == 1
    assert metric.compute() == 1


def test_a_copy_keeps_the_threshold():
    twin = pickle.loads(pickle.dumps(BinaryAccuracy(0.9)))  # noqa: S301
    twin.update(torch.tensor([0.8]), torch.tensor([1]))
    assert twin.compute() == 0


@pytest.mark.parametrize("kind", BUILT_IN)
def test_the_last_batch_can_be_taken_back_once(kind, measured):
    preds, target = example(kind)
    for road in ROADS.values():
        metric = kind()
        before = measured(metric, (preds[:20], target[:20]))
        measured(metric, (preds[20:30], target[20:30]), read=False)
        metric.retract()
        road(metric, preds[20:], target[20:])
        metric.retract()
        metric.retract()
        assert metric.compute() == pytest.approx(before)


def test_the_state_of_another_is_refused_when_it_is_no_state():
    native = NativeMetric("MAE")
    with pytest.raises(MetricError, match="8 bytes each, got 9 bytes; pass what `state` returned"):
        native.add_state(bytes(9))
    with pytest.raises(MetricError, match="MAE is 3 numbers, got 1"):
        NativeMetric("MAE", {}, bytes(8))


def test_an_option_that_a_metric_does_not_have_is_refused():
    with pytest.raises(MetricError, match="MAE has no threshold, leave it out"):
        NativeMetric("MAE", {"threshold": 0.5})
    with pytest.raises(MetricError, match="BinaryAccuracy: threshold is a number; got True"):
        NativeMetric("BinaryAccuracy", {"threshold": True})
    with pytest.raises(ArgumentTypeError, match="a word, True or False; got threshold=<object"):
        NativeMetric("BinaryAccuracy", {"threshold": object()})


# What they cost


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", BUILT_IN)
def test_plain_memory_is_measured_without_a_torch_op(kind, dtype):
    preds, target = example(kind, 8, (3,))
    preds = (preds.to(dtype).requires_grad_() * 1).transpose(0, 0)
    metric = kind()
    with Ops() as ops:
        metric.update(preds, target)
        metric.compute()
        metric.reset()
        metric.merge(kind())
    assert ops.names == []
    with Ops() as ops:
        metric.update_with_torch(preds, target)
    assert ops.names, "the count would see an op if there were one"


@pytest.mark.parametrize("kind", BUILT_IN)
def test_on_a_device_nothing_is_copied_and_nothing_waits(kind):
    preds, target = (tensor.to("meta") for tensor in example(kind))
    metric = kind()
    with Ops() as ops:
        for _ in range(3):
            metric.update(preds.float(), target)
    assert ops.devices == {"meta"}
    assert "_local_scalar_dense" not in ops.names


# What they refuse


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("bad", [-1, 8, 2**40], ids=str)
def test_a_class_that_preds_do_not_have_is_an_error(bad, kind, measured):
    scores, target = torch.zeros(4, 8), torch.tensor([0, 1, bad, 2])
    with pytest.raises(TargetError, match=rf"{kind.__name__}.*class"):
        measured(kind(), (scores, target))
    with pytest.raises(ValueError, match=f"got class {bad} at index 2.* of shape .4, 8.* 0 to 7"):
        kind().update(scores, target)


@pytest.mark.parametrize("bad", [2, -1, 0.5, NAN], ids=str)
def test_a_binary_target_that_is_neither_0_nor_1_is_an_error(bad, measured):
    target = torch.tensor([0.0, 1.0, bad])
    for kind in (BinaryAccuracy, BinaryAccuracyWithLogits):
        with pytest.raises(TargetError, match=rf"{kind.__name__}.* 0 [n]?or 1"):
            measured(kind(), (torch.zeros(3), target))


@pytest.mark.parametrize("kind", CLASSES)
def test_on_a_device_a_bad_class_is_told_of_once_when_the_value_is_read(kind):
    metric = kind()
    metric.update_with_torch(torch.zeros(2, 7), torch.tensor([7, 8]))
    with pytest.raises(TargetError, match="2 targets"):
        metric.compute()
    assert math.isnan(metric.compute())


@pytest.mark.parametrize(
    ("preds", "target"),
    [((4, 3), (4, 1)), ((4, 3), (4, 3)), ((4, 3), (5,)), ((4,), (4,)), ((), ()), ((4, 3, 2), (4,))],
    ids=str,
)
@pytest.mark.parametrize("kind", CLASSES)
def test_metrics_of_classes_refuse_shapes_that_do_not_fit(kind, preds, target, measured):
    with pytest.raises(ShapeError, match=rf"{kind.__name__} .*(\(n, classes, \.\.\.\)|got \()"):
        measured(kind(), (torch.zeros(preds), torch.zeros(target).long()))


def test_a_shape_error_names_both_shapes_and_the_mend():
    with pytest.raises(ShapeError, match=r"\(4, 3\).*\(4, 1\).*target\.squeeze\(1\)"):
        Accuracy().update(torch.zeros(4, 3), torch.zeros(4, 1).long())
    with pytest.raises(ShapeError, match=r"one-hot"):
        Accuracy().update(torch.zeros(4, 3), torch.zeros(4, 3).long())
    with pytest.raises(ShapeError, match=r"\(4, 3\).*\(3, 4\).*reshape"):
        MSE().update(torch.zeros(4, 3), torch.zeros(3, 4))


@pytest.mark.parametrize("kind", [*DEVIATIONS, *BINARY, R2])
@pytest.mark.parametrize("target", [(3,), (4, 2), (3, 4), ()], ids=str)
def test_elementwise_metrics_refuse_shapes_that_do_not_fit(kind, target, measured):
    with pytest.raises(ShapeError, match=rf"{kind.__name__} .*\(4, 3\)"):
        measured(kind(), (torch.zeros(4, 3), torch.zeros(target)))


@pytest.mark.parametrize("kind", [*DEVIATIONS, *BINARY, R2])
def test_a_column_against_a_row_is_compared_elementwise_with_one_warning(kind, measured):
    preds, target = example(kind)
    metric = kind()
    with pytest.warns(ShapeWarning, match=rf"{kind.__name__}.*\(n, 1\).*squeeze\(1\)") as told:
        value = measured(metric, (preds[:, None], target), (preds, target[:, None]))
    assert value == pytest.approx(expected(kind, preds, target))
    assert len(told) == 1
    metric.reset()
    measured(metric, (preds[:, None], target))  # and no more after a reset


@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_complex_tensor_is_refused(kind, measured):
    preds, target = example(kind)
    with pytest.raises(DTypeError, match=rf"{kind.__name__} .*preds.*complex64.*tensor\.real"):
        measured(kind(), (preds.to(torch.complex64), target))
    with pytest.raises(TypeError, match=r"target.*complex128"):
        measured(kind(), (preds, target.to(torch.complex128)))


@pytest.mark.parametrize("bad", [None, 1.0, [1.0], "x", np.ones(2), {"a": 1}], ids=repr)
@pytest.mark.parametrize("kind", BUILT_IN)
def test_what_is_no_tensor_is_refused(kind, bad):
    preds, target = example(kind)
    with pytest.raises(DTypeError, match=f"{kind.__name__} .*preds is {type(bad).__name__}"):
        kind().update(bad, target)
    with pytest.raises(DTypeError, match=f"target is {type(bad).__name__}"):
        kind().update(preds, bad)


@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_refused_batch_leaves_the_metric_as_it_was(kind, measured):
    metric = kind()
    batch = example(kind)
    measured(metric, batch)
    with pytest.raises((ShapeError, TargetError)):
        metric.update(batch[0], batch[1][:7])
    assert metric.compute() == pytest.approx(expected(kind, *batch))


@pytest.mark.parametrize("outside", [-0.5, 1.5, 40.0, math.inf])
def test_scores_that_are_no_probabilities_are_told_of_when_the_value_is_read(outside, measured):
    good, bad = torch.tensor([0.0, 1.0, NAN]), torch.tensor([0.5, outside, 1.0])
    target = torch.tensor([0, 1, 1])
    metric = BinaryAccuracy()
    measured(metric, (good, target))
    measured(metric, (good, target), (bad, target), read=False)
    metric.retract()
    metric.compute()
    measured(metric, (bad, target), read=False)
    with pytest.warns(MetricWarning, match=r"probabilities.*BinaryAccuracyWithLogits\(\)"):
        metric.compute()
    metric.reset()
    measured(metric, (good, target))
    measured(BinaryAccuracyWithLogits(), (bad, target))


def test_a_fit_tells_of_logits_once():
    x = torch.randn(40, 2) * 9
    data = x, (x[:, 0] > 0).float()
    net = lb.setup(
        torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Flatten(0)),
        torch.nn.BCEWithLogitsLoss(),
        torch.optim.SGD,
        metrics=BinaryAccuracy(),
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        net.set_opt_hparams(lr=1.0).fit(
            data, valid_data=data, epochs=3, verbose=False, accelerator=lb.Accelerator(cpu=True)
        )
    assert [each.category for each in told] == [MetricWarning]


@pytest.mark.parametrize("bad", [0, 1, 2, -0.1, NAN, math.inf], ids=str)
@pytest.mark.parametrize("kind", [BinaryAccuracy, BinaryAccuracyWithLogits])
def test_a_threshold_is_a_probability(kind, bad):
    with pytest.raises(MetricError, match=rf"{kind.__name__} .*between 0 and 1.*threshold=0\.5"):
        kind(bad)


# What they are called


@pytest.mark.parametrize(
    ("kind", "record", "direction"),
    [
        (Accuracy, "acc", "max"),
        (BinaryAccuracy, "acc", "max"),
        (BinaryAccuracyWithLogits, "acc", "max"),
        (MAE, "mae", "min"),
        (MSE, "mse", "min"),
        (RMSE, "rmse", "min"),
        (Precision, "precision", "max"),
        (Recall, "recall", "max"),
        (F1, "f1", "max"),
        (ConfusionMatrix, "confusion", None),
        (TopKAccuracy, "top5", "max"),
        (R2, "r2", "max"),
    ],
)
def test_each_has_a_record_and_a_direction(kind, record, direction):
    metric = kind()
    assert isinstance(metric, lb.Metric)
    assert (metric.record_name, metric.direction) == (record, direction)
    assert kind(name="mine").record_name == "mine"


def test_the_repr_is_how_it_was_made():
    assert repr(BinaryAccuracy(0.3, name="b")) == "BinaryAccuracy(0.3, name='b')"
    assert repr(Accuracy()) == "Accuracy()"
    assert repr(F1(average=None)) == "F1(average=None)"


def test_a_prediction_of_several_parts_is_refused_with_a_way_to_pick_one() -> None:
    two, target = (torch.tensor([[0.0, 1.0]]), torch.zeros(1)), torch.tensor([1])
    words = (
        r"Accuracy measures tensors; preds is tuple\. Where .* class First\(lb.metrics.Accuracy\)"
    )
    with pytest.raises(DTypeError, match=words):
        Accuracy().update(two, target)

    class First(lb.metrics.Accuracy):
        def update(self, preds: Any, target: Any) -> None:
            super().update(preds[0], target)

    first = First()
    first.update(two, target)
    assert first.compute() == 1.0


@pytest.mark.parametrize(
    ("make", "rows", "columns"),
    [
        (lb.metrics.F1, 1, 2**46),
        (lb.metrics.ConfusionMatrix, 1, 2**46),
        (lb.metrics.MulticlassAUROC, 1, 2**46),
        (lb.metrics.MulticlassAUROC, 2**46, 2),
        (lb.metrics.R2, 1, 2**46),
    ],
)
def test_a_tensor_larger_than_memory_is_refused_and_counts_for_nothing(make, rows, columns):
    # One number, seen so many times: four bytes, of which petabytes would be counted.
    preds = torch.zeros(1, 1).expand(rows, columns)
    target = preds if make is lb.metrics.R2 else torch.zeros(1, dtype=torch.int64).expand(rows)
    metric = make()
    before = repr(metric.compute())
    with pytest.raises(MetricError, match=r"no (memory|room) for"):
        metric.update(preds, target)
    assert repr(metric.compute()) == before


@pytest.mark.parametrize("where", ["option", "log"])
def test_a_number_may_change_the_dict_that_it_is_in(where):
    class Number:
        def __float__(self):
            given["more"] = 1.0
            return 0.5

    given = {"threshold": Number()}
    if where == "option":
        assert NativeMetric("BinaryAccuracy", given).cut == 0.5
    else:
        run = Run()
        run._log_metrics("train", 1, given, True)
        assert run.get_metrics("train") == {"threshold": 0.5}
    assert "more" in given
