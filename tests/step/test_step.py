"""The parts of a step: in a step of one's own, with several optimizers, with a closure."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb
from lumbre.callbacks import GradientClip
from lumbre.errors import ContextError
from runs import Pair, Trace


def data(count: int = 20) -> DataLoader[Any]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, generator=draw)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Wrapped(nn.Module):
    """A net with a step of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


class OfParts(Wrapped):
    def step(self, ctx: Any) -> None:
        ctx.forward()
        loss = ctx.compute_loss()
        ctx.backward(loss)
        ctx.step_optimizer()


class AsInLuz(Wrapped):
    def step(self, ctx: Any) -> None:
        ctx.pred = self(ctx.input)
        loss = nn.functional.mse_loss(ctx.pred, ctx.target)
        if ctx.training:
            loss.backward()
            ctx.opt.step()
            ctx.opt.zero_grad()
        ctx.loss = loss


def fit(model: nn.Module, *callbacks: Any, optimizer: Any = torch.optim.SGD, **options: Any) -> Any:
    trainable = lb.setup(model, nn.MSELoss(), optimizer, lb.metrics.MAE())
    if optimizer is torch.optim.SGD:
        trainable = trainable.set_opt_hparams(lr=0.1)
    options = {"epochs": 2, "valid_data": data(8), "verbose": False, **options}
    return trainable.fit(data(), callbacks=callbacks, **options)


def test_a_step_of_parts_is_the_default_step() -> None:
    one, other = Trace(), Trace()
    default = fit(net(), GradientClip(0.1), one)
    own = fit(OfParts(), GradientClip(0.1), other)
    assert same(own.model, default.model)
    assert other.events == one.events
    assert own.records["metrics"] == default.records["metrics"]


def test_a_step_that_uses_no_part_works_as_in_luz() -> None:
    trace = Trace()
    default, own = fit(net()), fit(AsInLuz(), trace)
    assert same(own.model, default.model)
    assert own.records["metrics"] == default.records["metrics"]
    assert "on_train_batch_after_pred" not in trace.events
    assert trace.events.count("on_train_batch_end") == 10


def test_a_batch_that_is_skipped_in_a_step_of_parts_leaves_no_trace() -> None:
    for hook in ("after_pred", "after_loss", "before_backward", "before_step"):

        @lb.on(f"on_train_batch_{hook}", every=3)
        def skip(ctx: Any) -> None:
            ctx.skip_batch()

        default, own = fit(net(), skip), fit(OfParts(), skip)
        assert same(own.model, default.model), hook
        assert own.records["metrics"] == default.records["metrics"], hook
        assert all(p.grad is None for p in own.model.parameters())


# --- several optimizers --------------------------------------------------------------------------


class Gan(nn.Module):
    """A generator, and a discriminator that tells what it makes from the data."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.g, self.d = nn.Linear(3, 3), nn.Linear(3, 1)

    def set_optimizers(self) -> dict[str, Any]:
        return {
            "d": torch.optim.Adam(self.d.parameters(), 0.1),
            "g": torch.optim.Adam(self.g.parameters(), 0.1),
        }

    def losses(self, x: Tensor, name: str) -> Tensor:
        fake = self.d(self.g(x))
        if name == "g":
            return nn.functional.softplus(-fake).mean()
        return (nn.functional.softplus(fake) + nn.functional.softplus(-self.d(x))).mean()


def gan_by_hand() -> Gan:
    model = Gan()
    optimizers = model.set_optimizers()
    for _ in range(2):
        for x, _y in data():
            for name in ("d", "g"):
                model.zero_grad()
                model.losses(x, name).backward()
                optimizers[name].step()
    return model


class Named(Gan):
    def step(self, ctx: Any) -> None:
        for name in ("d", "g"):
            ctx.backward(self.losses(ctx.input, name), name)
            ctx.step_optimizer(name)


class ByAttribute(Gan):
    def step(self, ctx: Any) -> None:
        for ctx.opt_name in ("d", "g"):
            ctx.backward(self.losses(ctx.input, ctx.opt_name))
            ctx.step_optimizer()


class Unnamed(Gan):
    def step(self, ctx: Any) -> None:
        for name in ("d", "g"):
            ctx.backward(self.losses(ctx.input, name))
            ctx.step_optimizer(name)


class Default(Gan):
    """The default step: the loss looks at whose turn it is."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return self.losses(pred, self.ctx.opt_name)


@pytest.mark.parametrize("kind", [Named, ByAttribute, Unnamed, Default])
def test_a_discriminator_never_steps_on_the_generators_gradients(kind: type[Gan]) -> None:
    trace = Trace(lambda hook, ctx: (hook, ctx.opt_name))
    fitted = lb.setup(kind()).fit(data(), epochs=2, callbacks=trace, verbose=False)
    assert same(fitted.model, gan_by_hand())
    steps = [name for hook, name in trace.events if hook == "on_train_batch_before_step"]
    assert steps == ["d", "g"] * 10
    assert set(fitted.records["metrics"]["train"][0]) == {"loss_d", "loss_g"}


def test_windows_and_scales_ask_whose_loss_it_is() -> None:
    accumulate = lb.callbacks.GradientAccumulation(2)
    with pytest.raises(ContextError, match=r'ctx.backward\(loss, "d"\)'):
        lb.setup(Unnamed()).fit(data(), callbacks=accumulate, verbose=False)
    lb.setup(Named()).fit(data(), epochs=1, callbacks=accumulate, verbose=False)


def test_a_step_without_an_optimizer_is_refused_where_it_is_asked_for() -> None:
    class Without(Wrapped):
        def step(self, ctx: Any) -> None:
            ctx.forward()
            ctx.loss = nn.functional.mse_loss(ctx.pred, ctx.target)
            ctx.step_optimizer()

    with pytest.raises(ContextError, match="no optimizer to step"):
        lb.setup(Without()).fit(data(), epochs=1, verbose=False)


# --- closures ------------------------------------------------------------------------------------


def lbfgs_by_hand(epochs: int, **options: Any) -> nn.Module:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), **options)
    for _ in range(epochs):
        for x, y in data():

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)
    return model


@pytest.mark.parametrize("options", [{}, {"line_search_fn": "strong_wolfe", "max_iter": 5}])
def test_lbfgs_works_in_the_default_step(options: dict[str, Any]) -> None:
    trainable = lb.setup(net(), nn.MSELoss(), torch.optim.LBFGS).set_opt_hparams(**options)
    fitted = trainable.fit(data(), epochs=2, verbose=False)
    assert same(fitted.model, lbfgs_by_hand(2, **options))


def test_each_evaluation_fires_the_breakpoints_inside_and_the_step_those_around() -> None:
    trace = Trace()
    trainable = lb.setup(net(), nn.MSELoss(), torch.optim.LBFGS).set_opt_hparams(max_iter=3)
    trainable.fit(data(4), epochs=1, callbacks=trace, verbose=False)
    inside = trace.events[
        trace.events.index("on_train_batch_begin") + 1 : trace.events.index("on_train_batch_end")
    ]
    evaluation = [
        f"on_train_batch_{name}" for name in ("after_pred", "after_loss", "before_backward")
    ]
    assert inside[:4] == [*evaluation, "on_train_batch_before_step"]
    assert inside[4:-1] == evaluation * (len(inside[4:-1]) // 3)
    assert len(inside) > 7
    assert inside[-1] == "on_train_batch_after_step"


def test_the_loss_of_the_batch_is_that_from_before_the_step() -> None:
    model = net()
    x, y = next(iter(data()))
    with torch.no_grad():
        first = nn.functional.mse_loss(model(x), y).item()
    trainable = lb.setup(model, nn.MSELoss(), torch.optim.LBFGS)
    fitted = trainable.fit(DataLoader(TensorDataset(x, y), batch_size=4), epochs=1, verbose=False)
    assert fitted.records["metrics"]["train"][0]["loss"] == pytest.approx(first)


def test_a_penalty_counts_in_every_evaluation() -> None:
    @lb.on("on_train_batch_after_loss")
    def penalty(ctx: Any) -> None:
        ctx.loss_grad = ctx.loss_grad + sum(p.square().sum() for p in ctx.model.parameters())

    class Penalized(nn.MSELoss):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = [model]

        def forward(self, pred: Tensor, target: Tensor) -> Tensor:
            loss = super().forward(pred, target)
            return loss + sum(p.square().sum() for p in self.model[0].parameters())

    model = net()
    inside = lb.setup(model, Penalized(model), torch.optim.LBFGS)
    outside = lb.setup(net(), nn.MSELoss(), torch.optim.LBFGS)
    one = outside.fit(data(), epochs=1, callbacks=penalty, verbose=False)
    assert same(one.model, inside.fit(data(), epochs=1, verbose=False).model)


class Sharp(torch.optim.SGD):
    """Asks for a closure, and has moved before it calls it."""

    def step(self, closure: Any) -> Any:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=0.01)
        loss = closure()
        super().step()
        return loss


def test_an_optimizer_that_moves_first_gets_a_true_evaluation() -> None:
    expected = net()
    optimizer = Sharp(expected.parameters(), 0.1)
    for x, y in data():

        def evaluate(x: Tensor = x, y: Tensor = y) -> Tensor:
            expected.zero_grad()
            with torch.enable_grad():
                loss = nn.functional.mse_loss(expected(x), y)
            loss.backward()
            return loss

        evaluate()
        with torch.no_grad():
            optimizer.step(evaluate)
    trainable = lb.setup(net(), nn.MSELoss(), Sharp).set_opt_hparams(lr=0.1)
    assert same(trainable.fit(data(), epochs=1, verbose=False).model, expected)


class WithClosure(Wrapped):
    def evaluate_again(self, ctx: Any) -> Tensor:
        ctx.opt.zero_grad()
        with torch.enable_grad():
            loss = nn.functional.mse_loss(self(ctx.input), ctx.target)
        loss.backward()
        return loss


def test_a_step_of_ones_own_gives_its_closure() -> None:
    class Own(WithClosure):
        def step(self, ctx: Any) -> None:
            ctx.pred = self(ctx.input)
            ctx.loss = nn.functional.mse_loss(ctx.pred, ctx.target)
            if ctx.training:
                ctx.step_optimizer(closure=lambda: self.evaluate_again(ctx))

    fitted = fit(Own(), optimizer=torch.optim.LBFGS)
    assert same(fitted.model, lbfgs_by_hand(2))
    with pytest.raises(ContextError, match=r"LBFGS evaluates .* ctx.step_optimizer\(closure=...\)"):
        fit(OfParts(), optimizer=torch.optim.LBFGS)


def test_a_batch_that_was_not_differentiated_is_no_place_where_lbfgs_stands() -> None:
    class Own(WithClosure):
        def step(self, ctx: Any) -> None:
            ctx.forward()
            ctx.compute_loss()
            if ctx.training:
                ctx.step_optimizer(closure=lambda: self.evaluate_again(ctx))

    fitted = fit(Own(), optimizer=torch.optim.LBFGS)
    assert same(fitted.model, lbfgs_by_hand(2))


def test_two_optimizers_of_which_one_asks_for_a_closure() -> None:
    class Mixed(Pair):
        def set_optimizers(self, lr: float = 0.1) -> dict[str, torch.optim.Optimizer]:
            a = torch.optim.LBFGS(self.a.parameters(), max_iter=3)
            return {"a": a, "b": torch.optim.SGD(self.b.parameters(), lr)}

    x = torch.randn(8, 1)
    fitted = lb.setup(Mixed(), nn.MSELoss()).fit([x, 2 * x], epochs=3, verbose=False)
    losses = [entry["loss_b"] for entry in fitted.records["metrics"]["train"]]
    assert losses[-1] < losses[0]
