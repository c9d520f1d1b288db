"""The parts of a step: which breakpoints are fired in it, and what is known where it was left."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lumbre as lb
from lumbre._core import Run
from runs import at

INSIDE = [
    "on_train_batch_after_pred",
    "on_train_batch_after_loss",
    "on_train_batch_before_backward",
    "on_train_batch_before_step",
    "on_train_batch_after_step",
]
CPU = lb.Accelerator(cpu=True)


def fit(module: nn.Module, loss: Any, *callbacks: Any) -> Any:
    net = lb.setup(module, loss, torch.optim.SGD).set_opt_hparams(lr=0.1)
    x, y = torch.ones(6, 2), torch.zeros(6, 1)
    options = {"batch_size": 2}
    return net.fit(
        (x, y),
        1,
        list(callbacks),
        accelerator=CPU,
        verbose=False,
        dataloader_options=options,
    )


def fired_by(monkeypatch: pytest.MonkeyPatch, *callbacks: Any) -> list[str]:
    fired: list[str] = []
    fire = Run.call_callbacks

    def noted(ctx: Any, name: str) -> bool:
        fired.append(name)
        return fire(ctx, name)

    with monkeypatch.context() as patched:
        patched.setattr(lb.engine.context.Context, "call_callbacks", noted)
        fit(nn.Linear(2, 1), nn.MSELoss(), *callbacks)
    return fired


def test_a_step_that_nobody_looks_into_fires_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fired = fired_by(monkeypatch)
    assert fired.count("on_train_batch_begin") == 3
    assert not set(INSIDE) & set(fired)


@pytest.mark.parametrize("hook", [*INSIDE, "on_exception"])
def test_one_who_looks_into_a_step_has_all_of_it_fired(
    hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fired = fired_by(monkeypatch, at(hook, lambda ctx: None))
    assert [name for name in fired if name in INSIDE] == INSIDE * 3


@pytest.mark.parametrize("fails", ["forward", "loss", "backward"])
def test_who_hears_of_an_exception_alone_is_told_how_far_the_step_came(fails: str) -> None:
    seen: dict[str, Any] = {}

    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if fails == "forward":
                raise ValueError("here")
            return super().forward(x)

    def loss(pred: Tensor, target: Tensor) -> Tensor:
        if fails == "loss":
            raise ValueError("here")
        both = nn.functional.mse_loss(pred, target)
        if fails == "backward":
            both.register_hook(raises)
        return both

    def raises(grad: Tensor) -> None:
        raise ValueError("here")

    def look(ctx: Any) -> None:
        seen["loss"] = ctx.loss
        try:
            seen["pred"] = ctx.pred
        except lb.errors.ContextError:
            seen["pred"] = None

    with pytest.raises(ValueError, match="here"):
        fit(Net(2, 1), loss, at("on_exception", look))
    assert (seen["pred"] is not None) == (fails != "forward")
    assert bool(seen["loss"]) == (fails == "backward")


@pytest.mark.parametrize("where", ["forward", "loss"])
def test_a_batch_that_the_model_skips_tells_how_far_it_came(where: str) -> None:
    seen: list[bool] = []

    class Net(nn.Linear):
        ctx: Any

        def forward(self, x: Tensor) -> Tensor:
            if where == "forward":
                self.ctx.skip_batch()
            return super().forward(x)

        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            if where == "loss":
                self.ctx.skip_batch()
            return nn.functional.mse_loss(pred, target)

    def look(ctx: Any) -> None:
        assert ctx.pred.shape == (2, 1)
        seen.append(bool(ctx.loss))

    fit(Net(2, 1), None, lb.on("on_train_batch_end")(look))
    assert seen == [where == "loss"] * 3
