"""Functions as metrics: their mean over samples."""

import copy
import functools
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lumbre as lb
from lumbre.errors import ArgumentTypeError, MetricError, ShapeError
from lumbre.metrics import Mean
from roads import Ops
from runs import notes

# Where a value has, by chance or by intent, as many places as the batch has samples.
like_samples = pytest.mark.filterwarnings("ignore:.*values of samples")


def worst(preds, target):
    return (preds - target).abs().max()


def per_column(preds, target):
    return (preds - target).abs().mean(0)


@pytest.fixture
def data():
    torch.manual_seed(0)
    return torch.randn(10, 3), torch.randn(10, 3)


def fit(data, metrics, callbacks=(), **options):
    setup = lb.setup(nn.Linear(3, 3), nn.functional.mse_loss, torch.optim.SGD, metrics)
    options = {"dataloader_options": {"batch_size": 4, "shuffle": False}, **options}
    return setup.set_opt_hparams(lr=0.0).fit(data, 1, callbacks, verbose=False, **options)


def records(fitted):
    return fitted.records["metrics"]["train"][-1]


def expected(function, fitted, data, sizes=(4, 4, 2)):
    preds = fitted.predict(data[0], verbose=False)
    parts = zip(preds.split(sizes), data[1].split(sizes), sizes, strict=True)
    return sum(function(p, t).double() * n for p, t, n in parts) / sum(sizes)


def test_a_function_is_a_metric_averaged_over_samples(data):
    fitted = fit(data, [worst, per_column])
    assert records(fitted)["worst"] == pytest.approx(expected(worst, fitted, data).item())
    got = records(fitted)["per_column"]
    np.testing.assert_allclose(got, expected(per_column, fitted, data), rtol=1e-6)
    assert fitted.evaluate(data, metrics=worst, verbose=False).metrics["worst"] > 0


def test_a_batch_weighs_what_a_callback_says(data):
    @lb.on("on_train_batch_begin")
    def weigh(ctx):
        ctx.batch_size = 3 if ctx.iter == 1 else 1

    fitted = fit(data, worst, weigh)
    preds = fitted.predict(data[0], verbose=False)
    parts = zip(preds.split(4), data[1].split(4), (3, 1, 1), strict=True)
    mean = sum(worst(*part).item() * weight for *part, weight in parts) / 5
    assert records(fitted)["worst"] == pytest.approx(mean)


def test_a_batch_that_is_skipped_after_it_was_counted_is_taken_back(data):
    class Skip(lb.Callback):
        def on_train_batch_end(self, ctx):
            if ctx.iter == 2:
                ctx.get_metrics("train")  # it is counted when somebody looks
                ctx.skip_batch()

    fitted = fit(data, [worst, per_column], Skip())
    rest = [torch.cat([part[:4], part[8:]]) for part in data]
    got = records(fitted)
    assert got["worst"] == pytest.approx(expected(worst, fitted, rest, (4, 2)).item())
    np.testing.assert_allclose(
        got["per_column"], expected(per_column, fitted, rest, (4, 2)), rtol=1e-6
    )


def test_a_metric_of_the_users_own_is_taken_back_where_it_can_be(data):
    class Count(lb.Metric):
        def __init__(self):
            self.batches = 0

        def update(self, preds, target):
            self.batches += 1

        def retract(self):
            self.batches -= 1

        def compute(self):
            return self.batches

    class Bad(Count):
        def retract(self):
            raise RuntimeError("no way back")

    @lb.on("on_train_batch_end")
    def skip(ctx):
        ctx.get_metrics("train")
        if ctx.iter == 2:
            ctx.skip_batch()

    assert records(fit(data, Count(), skip))["count"] == 2
    with pytest.raises(RuntimeError, match="no way back") as caught:
        fit(data, Bad(), skip)
    assert notes(caught.value) == ["in Bad.retract: epoch 1, iteration 2, training"]


def test_the_record_is_called_like_the_function():
    assert Mean(worst).record_name == "worst"
    assert Mean(worst, name="off").record_name == "off"
    assert Mean(lambda preds, target: 0.0).record_name == "lambda"
    assert Mean(functools.partial(functools.partial(worst))).record_name == "worst"
    assert Mean(nn.L1Loss()).record_name == "l1loss"
    assert repr(Mean(worst)) == "Mean(worst)"
    assert (Mean(worst).direction, Mean(worst, direction="min").direction) == (None, "min")


def test_a_loss_is_a_metric_where_it_is_said_to_be(data):
    with pytest.raises(ArgumentTypeError, match=r"A loss becomes one by lb\.metrics\.Mean\(loss\)"):
        fit(data, nn.L1Loss())
    fitted = fit(data, Mean(nn.L1Loss()))
    assert records(fitted)["l1loss"] == pytest.approx(expected(nn.L1Loss(), fitted, data).item())


def test_two_lambdas_need_names(data):
    with pytest.raises(MetricError, match='recorded as "lambda"'):
        fit(data, [lambda p, t: 0.0, lambda p, t: 1.0])
    values = records(fit(data, [lambda p, t: 0.0, Mean(lambda p, t: 1.0, name="one")]))
    assert (values["lambda"], values["one"]) == (0, 1)


@pytest.mark.parametrize("bad", [3, "worst", None, nn.L1Loss], ids=repr)
def test_what_cannot_be_called_is_refused(bad):
    with pytest.raises(ArgumentTypeError, match=r"takes a function .*; got .*Mean\(lambda"):
        Mean(bad)


@pytest.mark.parametrize("value", ["high", None, {"a": 1}, torch.tensor(1j)], ids=repr)
def test_a_value_that_is_no_number_is_refused(value):
    metric = Mean(lambda preds, target: value)
    with pytest.raises(ArgumentTypeError, match=f"lambda gave {type(value).__name__}, which is no"):
        metric.update(torch.ones(2), torch.ones(2))


@like_samples
def test_a_value_of_another_shape_is_refused_and_changes_nothing():
    metric = Mean(lambda preds, target: target)
    metric.update(None, torch.tensor([1.0, 2.0]))
    with pytest.raises(
        ShapeError, match=r"gave a value of shape \(3,\), after one of shape \(2,\)"
    ):
        metric.update(None, torch.ones(3))
    assert metric.compute().tolist() == [1, 2]


def test_what_the_function_raises_is_noted_with_its_name(data):
    def failing(preds, target):
        raise KeyError("x")

    with pytest.raises(KeyError) as caught:
        fit(data, failing)
    assert notes(caught.value) == ["in failing: epoch 1, iteration 1, training"]


@pytest.mark.parametrize(
    "value",
    [0.5, np.float32(0.5), np.array(0.5), torch.tensor([0.5]), torch.tensor(0.5).bfloat16()],
)
def test_a_number_of_any_kind_is_a_value(value):
    metric = Mean(lambda preds, target: value)
    metric.update(torch.ones(2), torch.ones(2))
    assert metric.compute() == 0.5
    assert type(metric.compute()) is float


def test_before_the_first_batch_the_value_is_nan():
    metric = Mean(worst)
    assert math.isnan(metric.compute())
    metric.update(torch.ones(2), torch.zeros(2))
    metric.reset()
    assert math.isnan(metric.compute())


@like_samples
def test_the_graph_of_the_predictions_is_not_kept():
    metric = Mean(lambda preds, target: preds)
    metric.update(torch.ones(2, requires_grad=True) * 2, torch.ones(2))
    assert not metric.compute().requires_grad


@like_samples
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 12), max_size=3),
    vector=st.booleans(),
)
def test_any_split_and_merge_equals_one_pass(values, cuts, vector):
    edges = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})

    def value(preds, target):
        return torch.stack([preds.mean(), preds.mean() + 1]) if vector else preds.mean()

    parts = []
    for begin, end in itertools.pairwise(edges):
        part = Mean(value)
        preds = torch.tensor(values[begin:end], dtype=torch.float64)
        part.update(preds, preds)
        parts.append(part)
    for other in parts[1:]:
        parts[0].merge(other)
    mean = sum(values) / len(values)
    expected = [mean, mean + 1] if vector else mean
    assert np.asarray(parts[0].compute()) == pytest.approx(expected, abs=1e-9)
    parts[0].merge(Mean(value))
    parts[0].retract()
    kept = sum(values[edges[1] :])
    total = len(values) - edges[1]
    if total:
        got = np.asarray(parts[0].compute()) * total
        assert got == pytest.approx([kept, kept + total] if vector else kept, abs=1e-8)


def test_only_means_of_one_function_merge():
    with pytest.raises(MetricError, match=r"Mean\(worst\) cannot take in Mean\(per_column\)"):
        Mean(worst).merge(Mean(per_column))


def test_on_a_device_nothing_is_copied_and_nothing_waits():
    metric = Mean(worst)
    with Ops() as ops:
        for _ in range(3):
            metric.update(torch.ones(4, device="meta"), torch.ones(4, device="meta"))
        metric.retract()
    assert ops.devices == {"meta"}
    assert "_local_scalar_dense" not in ops.names


def test_a_copy_goes_on_by_itself():
    metric = Mean(worst)
    metric.update(torch.ones(2), torch.zeros(2))
    twin = copy.deepcopy(metric)
    twin.update(torch.ones(2) * 3, torch.zeros(2))
    assert (metric.compute(), twin.compute()) == (1, 2)


def per_sample(preds, target):
    return (preds - target).abs().mean(1)


def test_what_looks_like_one_value_a_sample_is_told_of_at_the_first_batch(data):
    words = r"per_sample .* of 4 samples.* \.mean\(\)"
    with pytest.warns(lb.errors.ShapeWarning, match=words) as told:
        fit([part[:8] for part in data], per_sample)
    assert len(told) == 1
    fit([part[:8] for part in data], [per_column, worst])
    metric = Mean(per_column)
    for size in (4, 3, 1):  # as many as columns, but the batch before says that they are none
        metric.update(data[0][:size], data[1][:size])
    Mean(per_sample).update(data[0][:1], data[1][:1])
