"""Weights that are not finite are told once, and no state replaces one that was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre.engine.honest import bad_weights
from lumbre.files import form
from runs import at

pytestmark = pytest.mark.filterwarnings("ignore::lumbre.errors.NonFiniteLossWarning")


def fit(*callbacks: Any, epochs: int = 3, **options: Any) -> lb.Fitted:
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    trainable = lb.setup(lambda: nn.Linear(3, 1), nn.MSELoss(), torch.optim.SGD)
    trainable = trainable.set_opt_hparams(lr=0.1)
    data = {"dataloader_options": {"batch_size": 2}}
    return trainable.fit([x, x[:, :1]], epochs, callbacks, verbose=False, **data, **options)


def spoil(ctx: Any) -> None:
    with torch.no_grad():
        ctx.model.bias.fill_(torch.nan)


def test_they_are_told_once_with_their_names() -> None:
    with pytest.warns(
        lb.LumbreWarning, match=r"After epoch 1 there are weights .*: bias\."
    ) as told:
        fit(at("on_train_end", spoil))
    assert sum("After epoch" in str(each.message) for each in told) == 1


@pytest.mark.filterwarnings("ignore:After epoch:lumbre.LumbreWarning")
def test_no_state_replaces_one_whose_weights_were_finite(tmp_path: Path) -> None:
    states: list[Any] = []

    def look(ctx: Any) -> None:
        states.append(form.read(tmp_path / "state")["model"]["bias"].isfinite().item())

    with pytest.warns(lb.LumbreWarning, match=r"not finite \(bias\), so that the state in .*state"):
        fit(
            at("on_train_batch_end", spoil, 3),
            lb.callbacks.AutoResume(tmp_path / "state", every=1),
            at("on_train_batch_end", lambda ctx: ctx.stop("enough", resumable=True), 3),
            at("on_fit_end", look),
        )
    assert states == [True]
    assert form.read(tmp_path / "state")["progress"]["step_count"] == 2


def test_great_weights_are_finite() -> None:
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(3e38)
    with lb.run(model, torch.optim.SGD(model.parameters(), 0.1), verbose=False) as ctx:
        assert bad_weights(ctx) == []
        ctx.model.weight.data[0, 1] = torch.inf
        assert bad_weights(ctx) == ["weight"]
