"""TrainValid: which parts of the model and of the loss train, and which stay as they were."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lumbre as lb
from runs import Trace, at

not_stepped = pytest.mark.filterwarnings("ignore:The loss Scaled has param:lumbre.LumbreWarning")

DRAW = torch.Generator().manual_seed(0)
DATA = [torch.randn(40, 4, generator=DRAW) + 5, torch.randn(40, 1, generator=DRAW)]
CPU = lb.Accelerator(cpu=True)


def model() -> nn.Sequential:
    backbone = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4))
    return nn.Sequential(backbone, nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 1))


def train(module: nn.Module, *callbacks: Any, loss: Any = None, **options: Any) -> lb.Fitted:
    net = lb.setup(module, loss or nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.001)
    options = {"epochs": 2, "accelerator": CPU, "verbose": False, **options}
    return net.fit(DATA, callbacks=callbacks, **options)


def modes_of(module: nn.Module, *callbacks: Any, **options: Any) -> list[list[bool]]:
    """The modes of all submodules in each training batch."""
    seen: list[list[bool]] = []
    see = lb.on("on_train_batch_begin")(
        lambda ctx: seen.append([each.training for each in ctx.model.modules()])
    )
    train(module, *callbacks, see, valid_data=DATA, **options)
    assert not any(each.training for each in module.modules())
    return seen


def test_in_a_model_in_training_mode_submodules_keep_theirs() -> None:
    net = model()
    net[0].eval()
    net[0][1].train()
    net[2].eval()
    before = [each.training for each in net.modules()]
    assert modes_of(net) == [before] * 4
    assert net[0][0].running_mean.tolist() == [0.0] * 4
    assert net[2].num_batches_tracked == 0


def test_what_is_frozen_alone_is_trained_as_ever() -> None:
    net = model()
    net[0].requires_grad_(False)
    assert modes_of(net) == [[True] * 8] * 4
    assert net[0][0].num_batches_tracked == 4


def test_in_a_model_in_evaluation_mode_what_is_frozen_stays_with_all_below_it() -> None:
    net = model().eval()
    net[0].requires_grad_(False)
    seen = modes_of(net)
    assert seen == [[True, False, False, False, False, True, True, True]] * 4
    assert net[0][0].running_mean.tolist() == [0.0] * 4
    assert net[2].num_batches_tracked == 4


def test_a_model_that_was_evaluated_or_fitted_before_trains_in_full() -> None:
    net = model()
    assert modes_of(net.eval()) == [[True] * 8] * 4
    assert modes_of(net) == [[True] * 8] * 4


def test_what_is_unfrozen_later_trains_from_then_on() -> None:
    net = model().eval()
    net[0].requires_grad_(False)
    unfreeze = at("on_epoch_begin", lambda ctx: ctx.model[0].requires_grad_(True), nth=2)
    modes = modes_of(net, unfreeze)
    assert modes[:2] != modes[2:] == [[True] * 8] * 2


@pytest.mark.parametrize("mode", [True, False])
def test_a_module_that_is_built_later_trains(mode: bool) -> None:
    net = model().train(mode)

    def build(ctx: Any) -> None:
        ctx.model[1] = nn.Dropout(0.1).eval()

    assert modes_of(net, at("on_epoch_begin", build, nth=2)) == [[True] * 8] * 4


def test_the_modes_are_those_before_a_validation_pass_of_ones_own() -> None:
    net = model()
    net[0].eval()
    seen = []
    optimizer = torch.optim.SGD(net.parameters(), 0.001)
    with lb.run(net, optimizer, loss=nn.MSELoss(), epochs=2, accelerator=CPU, verbose=False) as ctx:
        for _ in ctx.valid([DATA]):
            assert not net.training
        for _ in ctx.epochs():
            for _ in ctx.train([DATA]):
                seen.append([net.training, net[0].training, net[1].training])
                ctx.step(ctx)
    assert seen == [[True, False, True]] * 2


def test_a_module_that_says_itself_what_trains_is_asked() -> None:
    class Careful(nn.Sequential):
        def train(self, mode: bool = True) -> "Careful":
            super().train(mode)
            self[0].eval()
            return self

    net = Careful(nn.BatchNorm1d(4), nn.Linear(4, 1))
    assert modes_of(net) == [[True, False, True]] * 4


class Scaled(nn.Module):
    """A loss that writes down its modes."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.BatchNorm1d(1)
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        self.modes.append((self.training, self.judge.training))
        return (pred - target).square().mean()


@not_stepped
def test_a_loss_that_is_a_module_is_switched_with_the_model() -> None:
    loss = Scaled()
    fitted = train(model(), loss=loss, epochs=1, valid_data=DATA)
    assert loss.modes == [(True, True)] * 2 + [(False, False)] * 2
    assert not loss.training
    loss.train()
    fitted.evaluate(DATA, accelerator=CPU, verbose=False)
    assert loss.modes[4:] == [(False, False)] * 2


@not_stepped
def test_a_part_of_the_loss_that_is_in_evaluation_mode_stays() -> None:
    loss = Scaled()
    loss.judge.eval()
    train(model(), loss=loss, epochs=1)
    assert loss.modes == [(True, False)] * 2


def test_nothing_is_held_when_the_fit_has_ended() -> None:
    net = model()
    net[0].eval()
    mine = lb.callbacks.TrainValid()
    train(net, mine, Trace())
    assert mine._in_eval == mine._frozen == []
