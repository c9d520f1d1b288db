"""What metrics have seen, as plain values: one that goes on ends as one that never stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor, nn

import lumbre as lb
from lumbre.engine.metric_states import metric_state, restore_metric, why_not
from lumbre.files import form
from lumbre.metrics.sets import MetricSet
from runs import Scale, at, fit

GENERATOR = torch.Generator().manual_seed(0)
SCORES = torch.rand(60, 3, generator=GENERATOR).softmax(1)
CLASSES = torch.randint(3, (60,), generator=GENERATOR)
PREDS, TARGET = torch.randn(60, generator=GENERATOR), torch.randn(60, generator=GENERATOR)
SIGNS = (TARGET > 0).long()


class Slots(lb.Metric):
    """Keeps what it has seen in many forms."""

    abbrev = "Slots"

    def __init__(self) -> None:
        self.module = nn.BatchNorm1d(1)
        self.seen: list[Tensor] = []
        self.counts: dict[str, Any] = {"n": 0, "array": np.zeros(2)}
        self.function = torch.abs

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.module(preds[:, None])
        self.seen.append(preds.sum())
        self.counts["n"] += len(preds)
        self.counts["array"] += float(preds.sum())

    def compute(self) -> float:
        assert self.module.running_mean is not None
        known = sum(self.seen) + self.module.running_mean.sum() + self.counts["array"].sum()
        return float(self.function(torch.as_tensor(known))) / self.counts["n"]


class Told(lb.Metric):
    """Has a state_dict of its own, which knows more than its attributes say."""

    abbrev = "Told"

    def __init__(self) -> None:
        self.thing = object()
        self.total = 0.0

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.total += float(preds.sum())

    def compute(self) -> float:
        return self.total

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]


class Stubborn(Told):
    """Holds what no file can, and says nothing of its state."""

    state_dict = load_state_dict = None  # type: ignore[assignment]


def off_by(preds: Tensor, target: Tensor) -> Tensor:
    return (preds - target).abs()[:3]


CASES: dict[str, tuple[Any, Tensor, Tensor]] = {
    "Accuracy": (lb.metrics.Accuracy(), SCORES, CLASSES),
    "F1": (lb.metrics.F1(), SCORES, CLASSES),
    "ConfusionMatrix": (lb.metrics.ConfusionMatrix(), SCORES, CLASSES),
    "MulticlassAUROC": (lb.metrics.MulticlassAUROC(), SCORES, CLASSES),
    "BinaryAUROC": (lb.metrics.BinaryAUROC(), PREDS.sigmoid(), SIGNS),
    "RMSE": (lb.metrics.RMSE(), PREDS, TARGET),
    "R2": (lb.metrics.R2(), PREDS, TARGET),
    "Mean of a vector": (off_by, PREDS, TARGET),
    "Slots": (Slots(), PREDS, TARGET),
    "Told": (Told(), PREDS, TARGET),
    "torchmetrics": (torchmetrics.MeanSquaredError(), PREDS, TARGET),
    "torchmetrics, lists": (torchmetrics.AUROC("binary"), PREDS.sigmoid(), SIGNS),
    "torchmetrics, inner": (
        torchmetrics.MinMaxMetric(torchmetrics.MeanAbsoluteError()), PREDS, TARGET,
    ),
}  # fmt: skip


def fresh(name: str) -> lb.Metric:
    return MetricSet(CASES[name][0]).copies()["train"][0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cut", [0, 1, 3])
@pytest.mark.filterwarnings("ignore:Metric:UserWarning", "ignore:The ``compute``:UserWarning")
@pytest.mark.filterwarnings("ignore:off_by gave a value of shape")
def test_one_that_goes_on_ends_as_one_that_never_stopped(
    name: str, cut: int, tmp_path: Path
) -> None:
    _, preds, target = CASES[name]
    batches = list(zip(preds.split(13), target.split(13), strict=True))
    whole, first, second = fresh(name), fresh(name), fresh(name)
    for each in (whole, first, second):
        each.reset()
    for batch in batches:
        whole.update(*batch)
    for batch in batches[:cut]:
        first.update(*batch)
    form.write(tmp_path / "state", metric_state(first), "checkpoint")
    restore_metric(second, form.read(tmp_path / "state"))
    for batch in batches[cut:]:
        second.update(*batch)
    one, other = whole.compute(), second.compute()
    same = torch.equal if isinstance(one, Tensor) else lambda a, b: str(a) == str(b)
    assert same(one, other)


def test_one_that_cannot_be_kept_says_why_and_states_are_those_of_epochs(tmp_path: Path) -> None:
    assert why_not(Told()) is None
    why = why_not(Stubborn())
    assert why is not None
    assert why.startswith("Stubborn.thing cannot be saved: it is of type object")
    positions: list[Any] = []

    @lb.on("on_checkpoint")
    def see(ctx: Any) -> None:
        positions.append(form.read(ctx.checkpoint)["open"])

    resume = lb.callbacks.AutoResume(tmp_path / "state", every=[1, "epoch"])
    waits = lb.on("on_train_batch_begin")(lambda ctx: ctx._writing.join())
    stop = at("on_train_batch_end", lambda ctx: ctx.stop("later", resumable=True), 3)
    with pytest.warns(lb.LumbreWarning, match=r"the ends of epochs only: Stubborn\.thing cannot"):
        paused = fit(Scale, resume, see, waits, stop, metrics=Stubborn(), epochs=3)
    assert paused.paused
    assert positions == [None, None]
    assert form.read(tmp_path / "state")["progress"]["step_count"] == 2, "the end of an epoch"
