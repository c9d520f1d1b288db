"""`GradientAccumulation`: a window of batches is one big batch."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lumbre as lb
from lumbre.callbacks import GradientAccumulation, MixedPrecision
from lumbre.errors import ArgumentError, ArgumentTypeError, ContextError
from runs import Pair, Trace, at


class Batches(IterableDataset[Any]):
    """Batches without a length."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def rows(count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, generator=draw)
    return x, x.sum(1, keepdim=True)


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def batches(sizes: list[int]) -> list[list[Tensor]]:
    x, y = (part.double().split(sizes) for part in rows(sum(sizes)))
    return [list(pair) for pair in zip(x, y, strict=True)]


def fit(
    sizes: list[int],
    *callbacks: Any,
    loss: Any = None,
    optimizer: Any = torch.optim.SGD,
    epochs: int = 1,
    length: bool = True,
) -> nn.Module:
    found = batches(sizes)
    loader: Any = DataLoader(found if length else Batches(found), batch_size=None)  # type: ignore[arg-type]
    trainable = lb.setup(model(), loss or nn.MSELoss(), optimizer).set_opt_hparams(lr=0.1)
    options: Any = {"epochs": epochs, "verbose": False}
    return trainable.fit(loader, callbacks=callbacks, **options).model


def in_big_batches(sizes: list[int], steps: int, loss: Any = None, epochs: int = 1) -> nn.Module:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    found = batches(sizes)
    for _ in range(epochs):
        for at_ in range(0, len(found), steps):
            x, y = (torch.cat(parts) for parts in zip(*found[at_ : at_ + steps], strict=True))
            optimizer.zero_grad()
            (loss or nn.MSELoss())(net(x), y).backward()
            optimizer.step()
    return net


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("length", [True, False])
def test_windows_of_3_over_10_batches_whose_last_is_short_equal_big_batches(length: bool) -> None:
    sizes = [4] * 9 + [2]
    big = in_big_batches(sizes, 3, epochs=2)
    small = fit(sizes, GradientAccumulation(3), epochs=2, length=length)
    assert distance(small, big) < 1e-12
    assert distance(fit(sizes, epochs=2), big) > 1e-3


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=7), st.integers(1, 8), st.booleans())
def test_any_batches_in_any_window_equal_one_big_batch(
    sizes: list[int], steps: int, length: bool
) -> None:
    small = fit(sizes, GradientAccumulation(steps), length=length)
    assert distance(small, in_big_batches(sizes, steps)) < 1e-12


def test_windows_of_one_change_no_bit() -> None:
    sizes = [4, 4, 3]
    assert distance(fit(sizes, GradientAccumulation(1)), fit(sizes)) == 0


def test_batches_of_one_size_are_summed_and_divided_once() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in batches([4, 4, 4]):
        nn.functional.mse_loss(net(x), y).backward()
    for p in net.parameters():
        p.grad /= 3
    optimizer.step()
    assert distance(fit([4, 4, 4], GradientAccumulation(3)), net) == 0


def test_a_step_is_announced_only_where_it_is_taken() -> None:
    for length, inside in ((True, True), (False, False)):
        trace = Trace(lambda hook, ctx: (hook, ctx.iter))
        fit([1] * 7, GradientAccumulation(3), trace, length=length)
        after = [place for hook, place in trace.events if hook == "on_train_batch_after_step"]
        before = [place for hook, place in trace.events if hook == "on_train_batch_before_step"]
        assert after == before == [3, 6, 7]
        hooks = [hook for hook, _ in trace.events]
        last_step = len(hooks) - 1 - hooks[::-1].index("on_train_batch_after_step")
        last_batch = len(hooks) - 1 - hooks[::-1].index("on_train_batch_end")
        assert (last_step < last_batch) == inside
        assert last_step < hooks.index("on_train_end")


@pytest.mark.parametrize("wish", ["stop", "skip_epoch"])
def test_what_was_gathered_is_stepped_on_when_the_pass_is_left(wish: str) -> None:
    leave = at("on_train_batch_end", lambda ctx: getattr(ctx, wish)(), 2)
    small = fit([4, 2, 3, 3], GradientAccumulation(3), leave)
    assert distance(small, in_big_batches([4, 2, 3, 3][:2], 3)) > 1e-3  # other rows
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = (torch.cat(parts) for parts in zip(*batches([4, 2, 3, 3])[:2], strict=True))
    nn.functional.mse_loss(net(x), y).backward()
    optimizer.step()
    assert distance(small, net) < 1e-12


def test_a_batch_skipped_before_its_backward_leaves_the_window_as_it_is() -> None:
    for hook in ("on_train_batch_begin", "on_train_batch_after_pred", "on_train_batch_after_loss"):
        skip = at(hook, lambda ctx: ctx.skip_batch(), 2)
        small = fit([2, 3, 4, 5, 2], GradientAccumulation(2), skip)
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        found = batches([2, 3, 4, 5, 2])
        for window in ((0, 2), (3, 4)):
            x, y = (torch.cat(p) for p in zip(*(found[i] for i in window), strict=True))
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            optimizer.step()
        assert distance(small, net) < 1e-12, hook


@pytest.mark.parametrize("length", [True, False])
def test_a_last_batch_that_is_skipped_leaves_the_window_as_it_is(length: bool) -> None:
    skip = at("on_train_batch_begin", lambda ctx: ctx.skip_batch(), 4)
    small = fit([2, 3, 4, 5], GradientAccumulation(4), skip, length=length)
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = (torch.cat(parts) for parts in zip(*batches([2, 3, 4, 5])[:3], strict=True))
    nn.functional.mse_loss(net(x), y).backward()
    optimizer.step()
    assert distance(small, net) < 1e-12


def test_a_batch_skipped_after_its_backward_takes_its_window_with_it() -> None:
    for hook, nth in (("on_train_batch_end", 1), ("on_train_batch_before_step", 1)):
        skip = at(hook, lambda ctx: ctx.skip_batch(), nth)
        small = fit([2, 2, 2, 2], GradientAccumulation(2), skip)
        gone = 1 if hook == "on_train_batch_end" else 2
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        found = batches([2, 2, 2, 2])[gone:]
        for window in (found[:2], found[2:]):
            if window:
                x, y = (torch.cat(parts) for parts in zip(*window, strict=True))
                optimizer.zero_grad()
                nn.functional.mse_loss(net(x), y).backward()
                optimizer.step()
        assert distance(small, net) < 1e-12, hook


class Weighted(nn.Module):
    """A mean over class weights, whose denominator is their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.CrossEntropyLoss(
            torch.tensor([1.0, 5.0], dtype=torch.float64), ignore_index=2
        )
        self.weights = torch.tensor([1.0, 5.0, 0.0])

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        return self.share(torch.cat([pred, -pred], 1), _classes(target))


def _classes(target: Tensor) -> Tensor:
    return (target > 0).long().squeeze(1) + (target > 1).long().squeeze(1)


def test_a_loss_with_another_denominator_says_it() -> None:
    loss = Weighted()

    @lb.on("on_train_batch_after_loss")
    def weigh(ctx: Any) -> None:
        ctx.loss_weight = loss.weights[_classes(ctx.target)].sum().item()

    sizes = [5, 3, 4, 6, 2]
    big = in_big_batches(sizes, 3, loss)
    assert distance(fit(sizes, GradientAccumulation(3), weigh, loss=loss), big) < 1e-12
    assert distance(fit(sizes, GradientAccumulation(3), loss=loss), big) > 1e-3


def test_a_batch_that_weighs_nothing_adds_nothing() -> None:
    @lb.on("on_train_batch_after_loss")
    def weigh(ctx: Any) -> None:
        if ctx.iter in (1, 3):
            ctx.loss_grad = ctx.loss_grad * float("nan")  # 0 / 0, as ignore_index leaves it
            ctx.loss_weight = 0

    with pytest.warns(lb.errors.NonFiniteLossWarning):
        small = fit([2, 2, 2, 2], GradientAccumulation(2), weigh)
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for i in (1, 3):
        x, y = batches([2, 2, 2, 2])[i]
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    assert distance(small, net) == 0


def test_a_window_of_nothing_takes_no_step() -> None:
    @lb.on("on_train_batch_after_loss")
    def weigh(ctx: Any) -> None:
        ctx.loss_weight = 0

    trace = Trace()
    assert distance(fit([2, 2], GradientAccumulation(2), weigh, trace), model()) == 0
    assert "on_train_batch_after_step" not in trace.events


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(wrong: float) -> None:
    @lb.on("on_train_batch_after_loss")
    def weigh(ctx: Any) -> None:
        ctx.loss_weight = wrong

    with pytest.raises(ArgumentError, match=r"ctx.loss_weight is .* a finite number from 0; got"):
        fit([2], GradientAccumulation(2), weigh)


@pytest.mark.parametrize("callbacks", [[], [GradientAccumulation(2)]])
def test_a_weight_is_that_of_one_batch_and_the_batch_size_unless_set(
    callbacks: list[lb.Callback],
) -> None:
    seen: list[float] = []

    @lb.on("on_train_batch_after_loss")
    def look(ctx: Any) -> None:
        seen.append(ctx.loss_weight)
        ctx.loss_weight = 7

    fit([2, 3], *callbacks, look)
    assert seen == [2, 3]


@pytest.mark.parametrize("name", [None, "a"])
def test_each_optimizer_has_its_window(name: str | None) -> None:
    x = torch.arange(1.0, 7.0).unsqueeze(1)
    trace = Trace(lambda hook, ctx: (hook, ctx.iter, ctx.opt_name))
    lb.setup(Pair(), nn.MSELoss()).set_opt_hparams(lr=0.001).fit(
        DataLoader(TensorDataset(x, x), batch_size=2), epochs=1, verbose=False,
        callbacks=[GradientAccumulation(2, opt_name=name), trace],
    )  # fmt: skip
    steps = [event[1:] for event in trace.events if event[0] == "on_train_batch_after_step"]
    if name is None:
        assert steps == [(2, "a"), (2, "b"), (3, "a"), (3, "b")]
    else:
        assert steps == [(1, "b"), (2, "a"), (2, "b"), (3, "a"), (3, "b")]


def test_over_a_window_a_loss_stays_with_its_own_optimizer() -> None:
    # Mistake 1 of luz, where a window would make it worse.
    torch.manual_seed(0)
    expected = Pair()
    optimizers = expected.set_optimizers(lr=0.01)
    x = torch.arange(1.0, 5.0).unsqueeze(1)
    for name, optimizer in optimizers.items():
        grads: list[Any] = []
        for part in x.split(1):
            loss = nn.functional.mse_loss(expected(part), -part)
            grads.append(torch.autograd.grad(loss, list(getattr(expected, name).parameters())))
        for p, *parts in zip(getattr(expected, name).parameters(), *grads, strict=True):
            p.grad = sum(parts) / 4
        optimizer.step()
        optimizer.zero_grad()
    torch.manual_seed(0)
    found = lb.setup(Pair(), nn.MSELoss()).set_opt_hparams(lr=0.01)
    # The second optimizer sees the first one's weights of before the window in all but one batch.
    fitted = found.fit(
        DataLoader(TensorDataset(x, -x)), epochs=1, callbacks=GradientAccumulation(4), verbose=False
    )
    assert torch.allclose(fitted.model.a.weight, expected.a.weight, rtol=0, atol=1e-7)
    for p in fitted.model.parameters():
        assert p.grad is None


def test_in_float16_the_window_is_scaled_by_one_scale() -> None:
    net = model().float()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    found = [[part.float() for part in pair] for pair in batches([4, 4, 4, 4])]
    for i, (x, y) in enumerate(found):
        with torch.autocast("cpu", torch.float16):
            loss = nn.functional.mse_loss(net(x), y)
        scaler.scale(loss).backward()
        if i % 2:
            scaler.unscale_(optimizer)
            for p in net.parameters():
                p.grad /= 2
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    trainable = lb.setup(model().float(), nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)
    loader: Any = DataLoader(found, batch_size=None)  # type: ignore[arg-type]
    callbacks = [GradientAccumulation(2), MixedPrecision("fp16")]
    fitted = trainable.fit(loader, epochs=1, callbacks=callbacks, verbose=False)
    assert distance(fitted.model, net) == 0


@pytest.mark.parametrize("callback", [GradientAccumulation(2), MixedPrecision("fp16")])
def test_gradients_that_did_not_come_by_way_of_ctx_are_refused(callback: Any) -> None:
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with lb.run(net, optimizer, callbacks=callback, epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for x in ctx.train([torch.ones(2, 1)] * 3):
                if ctx.iter < 3:
                    ctx.backward(net(x).sum())
                    ctx.step_optimizer()
            ctx.step_optimizer()  # without gradients there is nothing to refuse
            net(x).sum().backward()
            with pytest.raises(ContextError, match=r"'opt' has .* in the place of loss.backward"):
                ctx.step_optimizer()


def test_a_handled_exception_lets_go_of_the_window() -> None:
    seen: list[bool] = []

    def fail(ctx: Any) -> None:
        ctx.epoch_handlers[ZeroDivisionError] = lambda ctx, error: None
        raise ZeroDivisionError

    @lb.on("on_epoch_end")
    def look(ctx: Any) -> None:
        seen.append(all(p.grad is None for p in ctx.model.parameters()))

    failing = at("on_train_batch_begin", fail, 3)
    small = fit([2, 2, 2], GradientAccumulation(4), failing, look, epochs=2)
    assert seen == [True, True]
    assert distance(small, in_big_batches([2, 2, 2], 4)) < 1e-12


def test_wrong_arguments_are_refused() -> None:
    for wrong in (0, -1, 1.5, "2", True, None):
        with pytest.raises(ArgumentError, match="steps is a whole number from 1; got"):
            GradientAccumulation(wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="Accumulation: opt_name is the name of an opt"):
        GradientAccumulation(2, opt_name=["a"])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no optimizer 'b'; there are 'opt'"):
        fit([1], GradientAccumulation(2, opt_name="b"))
    with pytest.raises(ArgumentError, match=r"LBFGS evaluates .* larger batch_size"):
        fit([1], GradientAccumulation(2), optimizer=torch.optim.LBFGS)


def test_its_place_in_the_order_is_before_everything() -> None:
    rows = [row for row in lb.schedule([GradientAccumulation(2)]).rows if "Accum" in row[1]]
    assert [(hook, weight) for hook, _, _, weight, _ in rows] == [("on_fit_begin", float("-inf"))]
