"""R2 against scikit-learn: outputs, offsets, targets without variance."""

import itertools
import math

import pytest
import torch
import torchmetrics.regression
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from lumbre.errors import MetricError, ShapeError, ShapeWarning
from lumbre.metrics import R2
from roads import ROADS


@pytest.fixture(params=ROADS)
def road(request):
    return ROADS[request.param]


def pair(*shape, offset=0.0, dtype=torch.float64):
    torch.manual_seed(0)
    target = torch.randn(shape, dtype=dtype) + offset
    return target + 0.3 * torch.randn(shape, dtype=dtype), target


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3), (2000, 7), (3, 1500)], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e8, -1e12])
def test_it_is_that_of_scikit_learn_whatever_the_offset(shape, offset, road):
    preds, target = pair(*shape, offset=offset)
    # It loses digits itself to an offset; these differences are exact.
    expected = r2_score(target - target[0], preds - target[0])
    metric = R2()
    road(metric, preds, target)
    assert metric.compute() == pytest.approx(expected, rel=1e-10)
    metric.reset()
    for batch in zip(preds.split(7), target.split(7), strict=True):
        road(metric, *batch)
    assert metric.compute() == pytest.approx(expected, rel=1e-10)


def test_it_is_that_of_torchmetrics(road):
    preds, target = pair(40, 3)
    metric = R2()
    road(metric, preds, target)
    peer = torchmetrics.regression.R2Score(multioutput="uniform_average")
    assert metric.compute() == pytest.approx(peer(preds, target).item())


def test_more_dimensions_are_more_outputs(road):
    preds, target = pair(30, 2, 3)
    metric = R2()
    road(metric, preds, target)
    assert metric.compute() == pytest.approx(r2_score(target.flatten(1), preds.flatten(1)))


@pytest.mark.parametrize("sizes", [(3,), (1, 1, 1), (2, 1)], ids=str)
@pytest.mark.parametrize(("off", "value"), [(0.0, 1), (0.5, 0)])
def test_targets_that_are_all_the_same_are_met_or_not(off, value, sizes, road):
    target = torch.full((3,), 0.1)
    metric = R2()
    for preds, part in zip((target + off).split(sizes), target.split(sizes), strict=True):
        road(metric, preds, part)
    assert metric.compute() == value == r2_score(target, target + off)


def test_of_fewer_than_two_samples_there_is_no_variance(road):
    metric = R2()
    road(metric, torch.tensor([1.0]), torch.tensor([2.0]))
    assert math.isnan(metric.compute())
    road(metric, torch.tensor([1.0]), torch.tensor([3.0]))
    assert metric.compute() == r2_score([2, 3], [1, 1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_not_hidden(bad, road):
    preds, target = pair(300)
    preds[200] = bad
    metric = R2()
    road(metric, preds, target)
    assert not math.isfinite(metric.compute())
    metric.reset()
    road(metric, target, preds)
    assert math.isnan(metric.compute())


def test_another_number_of_outputs_is_an_error_that_changes_nothing(road):
    preds, target = pair(20, 3)
    metric = R2()
    road(metric, preds, target)
    with pytest.raises(ShapeError, match=r"batches of 3 outputs, and this .* has 2.*flatten it"):
        road(metric, preds[:, :2], target[:, :2])
    assert metric.compute() == pytest.approx(r2_score(target, preds))
    other = R2()
    road(other, preds[:, :2], target[:, :2])
    with pytest.raises(MetricError, match="R2 of 3 outputs cannot take in that of 2"):
        metric.merge(other)


def test_a_row_against_a_column_is_told_of_and_has_the_samples_of_the_target(road):
    preds, target = pair(20)
    metric = R2()
    with pytest.warns(ShapeWarning):
        road(metric, preds[None], target)
    assert metric.compute() == pytest.approx(r2_score(target, preds))


@given(data=st.data())
def test_any_split_and_merge_equals_one_pass(data):
    outputs = data.draw(st.integers(1, 3))
    preds, target = pair(50, outputs, offset=data.draw(st.sampled_from([0.0, 1e6])))
    cuts = data.draw(st.lists(st.integers(0, 50), max_size=5).map(sorted))
    parts = []
    for begin, end in itertools.pairwise([0, *cuts, 50]):
        road = ROADS[data.draw(st.sampled_from(sorted(ROADS)))]
        if not parts or data.draw(st.booleans()):
            parts.append(R2())
        road(parts[-1], preds[begin:end], target[begin:end])
    merged = data.draw(st.permutations(parts))
    for other in merged[1:]:
        merged[0].merge(other)
    assert merged[0].compute() == pytest.approx(r2_score(target, preds), rel=1e-10)
