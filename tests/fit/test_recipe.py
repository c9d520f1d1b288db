"""A recipe is for many fits: none of them changes it, and only methods of the module are taken."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lumbre as lb
from lumbre import errors

CPU = lb.Accelerator(cpu=True)
X, Y = torch.randn(40, 4), torch.randn(40, 1)


def fit(net: lb.Trainable, *callbacks: Any, **options: Any) -> lb.Fitted:
    return net.fit([X, Y], accelerator=CPU, verbose=False, callbacks=callbacks, **options)


class Headed(nn.Module):
    def __init__(self, encoder: nn.Module, sizes: list[int]) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(sizes.pop(), 1)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.encoder(x))


def test_a_learning_rate_that_is_a_tensor_stays_as_it_was() -> None:
    net = lb.setup(nn.Linear(4, 1), nn.MSELoss(), torch.optim.SGD)
    net = net.set_opt_hparams(lr=torch.tensor(0.1))
    step = lb.callbacks.LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1)
    fit(net, step, epochs=3)
    assert float(net.opt_hparams["lr"]) == pytest.approx(0.1)


def test_each_fit_has_a_module_and_a_list_among_the_hparams_of_its_own() -> None:
    encoder, sizes = nn.Linear(4, 3), [3]
    before = encoder.weight.detach().clone()
    net = lb.setup(Headed, nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)
    net = net.set_hparams(encoder=encoder, sizes=sizes)
    one, other = fit(net, epochs=1), fit(net, epochs=1)
    assert torch.equal(encoder.weight, before)
    assert sizes == [3]
    assert len({id(each) for each in (encoder, one.model.encoder, other.model.encoder)}) == 3


def test_what_stands_in_both_hparams_stays_one() -> None:
    seen: list[Any] = []

    def sgd(parameters: Any, lr: float, shared: Any) -> Any:
        seen.append(shared)
        return torch.optim.SGD(parameters, lr)

    def make(shared: Any) -> nn.Module:
        seen.append(shared)
        return nn.Linear(4, 1)

    shared = {"a": 1}
    net = lb.setup(make, nn.MSELoss(), sgd).set_hparams(shared=shared)
    fit(net.set_opt_hparams(lr=0.1, shared=shared), epochs=1)
    assert seen[0] is seen[1]
    assert seen[0] is not shared


def test_parameters_of_a_module_that_is_there_are_the_optimizers_own() -> None:
    model = nn.Linear(4, 1)

    def sgd(parameters: Any, lr: float, only: Tensor) -> Any:
        return torch.optim.SGD([only], lr)

    net = lb.setup(model, nn.MSELoss(), sgd).set_opt_hparams(lr=0.1, only=model.bias)
    before = model.bias.detach().clone()
    fit(net, epochs=1)
    assert not torch.equal(model.bias, before)


def test_what_cannot_be_copied_is_handed_on_and_told_by_name() -> None:
    lock, sizes = threading.Lock(), [3]
    seen: list[Any] = []

    def make(lock: Any, sizes: list[int]) -> nn.Module:
        seen.extend([lock, sizes])
        return nn.Linear(4, 1)

    net = lb.setup(make, nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)
    with pytest.warns(lb.LumbreWarning, match="hparams: lock is a lock that cannot be copied"):
        fit(net.set_hparams(lock=lock, sizes=sizes), epochs=1)
    assert seen[0] is lock
    assert seen[1] is not sizes


def with_attribute(name: str, value: Any) -> nn.Module:
    model = nn.Linear(4, 1)
    setattr(model, name, value)
    return model


@pytest.mark.filterwarnings("ignore:The first batch gives no gradient:lumbre.LumbreWarning")
@pytest.mark.parametrize("name", ["step", "predict", "backward", "set_optimizers"])
@pytest.mark.parametrize("value", [0, True, "text", nn.Linear(4, 1)], ids=str)
def test_an_attribute_that_is_no_method_is_the_modules_own(name: str, value: Any) -> None:
    torch.manual_seed(1)
    plain = nn.Linear(4, 1)
    torch.manual_seed(1)
    named = with_attribute(name, value)
    fitted = [
        fit(lb.setup(m, nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.1), epochs=1)
        for m in (plain, named)
        if torch.manual_seed(2)
    ]
    weights = [each.model.weight for each in fitted]
    assert torch.equal(*weights)
    assert torch.equal(*(each.predict(X, verbose=False) for each in fitted))


def test_a_loss_that_is_no_function_is_refused_by_name() -> None:
    net = lb.setup(with_attribute("loss", 0.5), None, torch.optim.SGD).set_opt_hparams(lr=0.1)
    with pytest.raises(errors.ArgumentTypeError, match=r"Linear.loss is 0.5, which is no function"):
        fit(net, epochs=1)


def test_parameters_of_a_loss_that_nobody_steps_are_named() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, pred: Tensor, target: Tensor) -> Tensor:
            return (self.scale * (pred - target)).square().mean()

    loss, model = Scaled(), nn.Linear(4, 1)
    net = lb.setup(model, loss, torch.optim.SGD).set_opt_hparams(lr=0.1)
    with pytest.warns(lb.LumbreWarning, match="The loss Scaled has parameters .* steps: scale"):
        fit(net, epochs=1)
    both = torch.optim.SGD([*model.parameters(), *loss.parameters()], 0.1)
    fit(lb.setup(model, loss, both), epochs=1)  # nothing is told


def test_what_a_wrapped_module_defines_is_found() -> None:
    class Own(nn.Linear):
        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            return (pred - target).abs().mean()

        def set_optimizers(self, lr: float) -> Any:
            return torch.optim.SGD(self.parameters(), lr)

        def predict(self, x: Tensor) -> Tensor:
            return self(x) * 0 + 7

    for wrap in (nn.DataParallel, lambda model: torch.compile(model, backend="eager")):
        fitted = fit(lb.setup(wrap(Own(4, 1))).set_opt_hparams(lr=0.1), epochs=1)
        assert fitted.predict(X, verbose=False).unique().tolist() == [7.0]
        assert list(fitted.evaluate([X, Y], verbose=False).metrics) == ["loss"]


def test_an_optimizer_of_another_model_is_refused_in_a_loop_of_ones_own() -> None:
    model = nn.Linear(4, 1)
    other = torch.optim.SGD(nn.Linear(4, 1).parameters(), 0.1)
    with pytest.raises(errors.ArgumentError, match="steps no parameter of this Linear"):
        lb.run(model, other, loss=nn.MSELoss(), accelerator=CPU).__enter__()
