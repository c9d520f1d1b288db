"""A pass that a `break` has left is closed before the next thing begins, epochs too."""

from typing import Any

import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre.errors import ContextError
from runs import Scale, Trace, at, fit

DATA = [(torch.ones(2, 1), torch.zeros(2, 1))] * 3


def run(*callbacks: Any) -> Any:
    model = nn.Linear(1, 1)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    return lb.run(model, sgd, epochs=1, callbacks=callbacks, loss=nn.MSELoss(), verbose=False)


def test_epochs_begin_after_a_validation_pass_that_was_left() -> None:
    trace = Trace()
    with run(trace) as ctx:
        for _ in ctx.valid(DATA):
            break
        for _ in ctx.epochs():
            for _ in ctx.train(DATA):
                ctx.step(ctx)
    assert trace.events.index("on_valid_end") < trace.events.index("on_fit_begin")
    assert trace.events[-1] == "on_fit_end"


def test_a_training_pass_outside_of_an_epoch_is_refused_after_such_a_pass_too() -> None:
    with run() as ctx:
        for _ in ctx.valid(DATA):
            break
        with pytest.raises(ContextError, match="A training pass is a part of an epoch"):
            next(ctx.train(DATA))


def test_an_epoch_that_an_exception_has_cut_short_is_not_saved(tmp_path: Any) -> None:
    def handle(ctx: Any) -> None:
        ctx.epoch_handlers[ZeroDivisionError] = lambda ctx, error: None

    seen: list[bool] = []
    fit(
        Scale,
        at("on_fit_begin", handle),
        at("on_train_batch_begin", lambda ctx: 1 // 0, nth=2),
        at("on_epoch_end", lambda ctx: seen.append(ctx.exception is not None)),
        at("on_epoch_end", lambda ctx: seen.append(ctx.exception is not None), nth=2),
        lb.callbacks.ModelCheckpoint(f"{tmp_path}/{{epoch}}.safetensors"),
        epochs=2,
    )
    assert seen == [True, False]
    assert [path.name for path in tmp_path.iterdir()] == ["2.safetensors"]


def test_gradients_are_on_again_after_a_step_that_has_failed() -> None:
    class Fails(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise ZeroDivisionError

    model = nn.Linear(1, 1)
    with lb.run(model, Fails(model.parameters(), 0.1), epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for x, _ in ctx.train(DATA):
                ctx.backward(model(x).sum())
                with pytest.raises(ZeroDivisionError):
                    ctx.step_optimizer()
                assert torch.is_grad_enabled()


def test_a_window_of_an_optimizer_that_is_all_frozen_does_nothing() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False)

        def forward(self, x: Any) -> Any:
            return self.b(self.a(x))

        def set_optimizers(self) -> Any:
            return {name: torch.optim.SGD(getattr(self, name).parameters(), 0.1) for name in "ab"}

    lb.setup(Two, nn.MSELoss()).fit(
        [torch.ones(5, 1), torch.ones(5, 1)],
        epochs=1,
        callbacks=lb.callbacks.GradientAccumulation(2),
        dataloader_options={"batch_size": 2},
        verbose=False,
    )
