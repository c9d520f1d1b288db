"""What is told once, in the first batch and the first step of a fit."""

from typing import Any

import pytest
import torch
from torch import nn

import lumbre as lb
from runs import at

X, Y = torch.linspace(-1, 1, 12).reshape(4, 3), torch.ones(4, 1)


class Spare(nn.Module):
    """A module with a part that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.used(x)
        return out


class Two(Spare):
    def set_optimizers(self, lr: float) -> dict[str, torch.optim.Optimizer]:
        return {
            "used": torch.optim.SGD(self.used.parameters(), lr),
            "all": torch.optim.Adam(self.parameters(), lr),
        }


def fit(module: Any, *callbacks: Any, optimizer: Any = torch.optim.SGD) -> None:
    trainable = lb.setup(module, nn.MSELoss(), optimizer).set_opt_hparams(lr=0.1)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), 2)
    trainable.fit(data, 2, callbacks, verbose=False)


@pytest.mark.parametrize(("module", "kind"), [(Spare, "SGD"), (Two, "Adam")])
def test_parameters_without_a_gradient_are_named_once(module: Any, kind: str) -> None:
    told = rf"gives no gradient to spare\.weight, spare\.bias, which {kind} is to step"
    with pytest.warns(lb.LumbreWarning, match=told) as caught:
        fit(module, optimizer=None if module is Two else torch.optim.SGD)
    assert len(caught) == 1


def test_frozen_ones_are_meant() -> None:
    model = Spare()
    model.spare.requires_grad_(False)
    fit(model)


def test_many_are_counted() -> None:
    model = Spare()
    model.spare = nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))
    with pytest.warns(lb.LumbreWarning, match=r"spare\.2\.weight and 3 more, which SGD"):
        fit(model)


def test_evaluation_mode_in_training_is_told_once() -> None:
    evaluates = lb.on("on_train_begin")(lambda ctx: ctx.model.eval())
    with pytest.warns(lb.LumbreWarning, match="Linear is in evaluation mode in a train") as caught:
        fit(lambda: nn.Linear(3, 1), evaluates)
    assert len(caught) == 1


def test_a_part_in_evaluation_mode_is_meant() -> None:
    def freeze(ctx: Any) -> None:
        ctx.model[1].eval()

    fit(lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)),
        at("on_train_begin", freeze), optimizer=torch.optim.SGD)  # fmt: skip
