"""A run with lumbre: what LossSpike does to a small network, and how it is told."""

from typing import Self

import lumbre as lb
import pytest
import torch
from torch import nn

import lossguard

BATCHES = {"batch_size": 8, "shuffle": False}


def fit(x: torch.Tensor, y: torch.Tensor, callbacks: list[object]) -> lb.Fitted:
    torch.manual_seed(0)
    net = lb.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD)
    net = net.set_hparams(in_features=2, out_features=1).set_opt_hparams(lr=0.01)
    return net.fit([x, y], epochs=2, callbacks=callbacks, verbose=False, dataloader_options=BATCHES)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    return x, x.sum(dim=1, keepdim=True)


def test_a_spoilt_batch_is_as_if_it_were_not_there() -> None:
    x, y = data()
    spoilt = y.clone()
    spoilt[16:24] = 1e6
    rest = torch.cat([x[:16], x[24:]]), torch.cat([y[:16], y[24:]])
    guarded = fit(x, spoilt, [lossguard.LossSpike(factor=3)])
    without = fit(*rest, [])
    for ours, theirs in zip(guarded.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    first, second = guarded.records["metrics"]["train"]
    assert first["spike"] > 1e11
    assert second["spike"] > 1e11


def test_a_good_run_is_left_alone() -> None:
    x, y = data()
    guarded, plain = fit(x, y, [lossguard.LossSpike()]), fit(x, y, [])
    assert torch.equal(guarded.model.weight, plain.model.weight)
    assert all("spike" not in epoch for epoch in guarded.records["metrics"]["train"])


def test_the_plan_shows_where_it_comes_from() -> None:
    plan = repr(lb.schedule([lossguard.LossSpike()]))
    assert f"lossguard {lossguard.__version__}" in plan


def test_a_bad_factor_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="factor has to be above 1; got 0.5"):
        lossguard.LossSpike(factor=0.5)


class Named(lossguard.LossSpike):
    def __new__(cls, label: str, factor: float = 3.0) -> Self:
        return super().__new__(cls, factor)

    def __init__(self, label: str, factor: float = 3.0) -> None:
        self.label = label


def test_a_subclass_has_arguments_of_its_own() -> None:
    named = Named("mine", factor=2.0)
    assert (named.label, repr(named)) == ("mine", "Named(factor=2.0)")
    x, y = data()
    assert fit(x, y, [named]).stop_reason is None
