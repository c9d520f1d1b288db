"""`GradientClip`: against a loop that clips by hand, bit for bit."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb
from lumbre.callbacks import GradientAccumulation, GradientClip, MixedPrecision
from lumbre.errors import ArgumentError, ArgumentTypeError
from runs import Pair, Trace


def data(count: int = 20) -> DataLoader[Any]:
    draw = torch.Generator().manual_seed(1)
    x = 10 * torch.randn(count, 3, generator=draw)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def fit(*callbacks: lb.Callback, **options: Any) -> nn.Module:
    trainable = lb.setup(model(), nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)
    return trainable.fit(data(), epochs=2, callbacks=callbacks, verbose=False, **options).model


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_it_clips_as_by_hand(norm: float) -> None:
    expected = model()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in data():
            optimizer.zero_grad()
            nn.functional.mse_loss(expected(x), y).backward()
            nn.utils.clip_grad_norm_(expected.parameters(), 0.5, norm)
            optimizer.step()
    assert same(fit(GradientClip(0.5, norm)), expected)
    assert not same(fit(), expected)


def test_zero_freezes_and_inf_changes_nothing() -> None:
    assert same(fit(GradientClip(0)), model())
    assert same(fit(GradientClip(math.inf)), fit())


def test_in_float16_what_is_clipped_is_no_longer_scaled() -> None:
    # Mistake 7 of luz: the norm of scaled gradients is 65536 times too large.
    expected = model()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(2):
        for x, y in data():
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = nn.functional.mse_loss(expected(x), y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
    assert same(fit(GradientClip(0.5), MixedPrecision("fp16")), expected)
    by_accelerator = fit(
        GradientClip(0.5), accelerator=lb.Accelerator(cpu=True, mixed_precision="fp16")
    )
    assert same(by_accelerator, expected)


def test_under_accumulation_the_mean_of_the_window_is_clipped() -> None:
    norms: list[float] = []

    @lb.on("on_train_batch_before_step", weight=1)
    def look(ctx: Any) -> None:
        grads = [p.grad for p in ctx.model.parameters()]
        norms.append(torch.nn.utils.get_total_norm(grads).item())

    fit(GradientAccumulation(2), GradientClip(0.5), look)
    assert len(norms) == 6
    assert all(norm == pytest.approx(0.5, rel=1e-4) for norm in norms)


def test_each_optimizer_is_clipped_by_itself_or_one_of_them_only() -> None:
    for name in (None, "b"):
        norms: dict[str, float] = {}

        @lb.on("on_train_batch_before_step", weight=1)
        def look(ctx: Any, norms: dict[str, float] = norms) -> None:
            grads = [p.grad for p in getattr(ctx.model, ctx.opt_name).parameters()]
            norms[ctx.opt_name] = torch.nn.utils.get_total_norm(grads).item()

        x = 100 * torch.ones(4, 1)
        lb.setup(Pair(), nn.MSELoss()).fit(
            [x, -x], epochs=1, callbacks=[GradientClip(0.5, opt_name=name), look], verbose=False
        )
        assert norms["b"] == pytest.approx(0.5, rel=1e-4)
        assert (norms["a"] == pytest.approx(0.5, rel=1e-4)) == (name is None)


def test_wrong_arguments_are_refused() -> None:
    for wrong in (-1, math.nan, "1", None, True):
        with pytest.raises(ArgumentError, match=r"GradientClip: max_norm is a number from 0; got"):
            GradientClip(wrong)  # type: ignore[arg-type]
    for wrong in (0, -2, math.nan):
        with pytest.raises(ArgumentError, match=r"norm_type is a number above 0; got"):
            GradientClip(1.0, wrong)
    with pytest.raises(ArgumentTypeError, match="GradientClip: opt_name is the name of an opt"):
        GradientClip(opt_name=3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"no optimizer 'generator'; there are 'opt'"):
        fit(GradientClip(opt_name="generator"))


def test_its_place_in_the_order_is_by_weight() -> None:
    rows = [row for row in lb.schedule([GradientClip()]).rows if row[1] == "GradientClip"]
    assert [(hook, weight) for hook, _, _, weight, _ in rows] == [
        ("on_fit_begin", 0.0),
        ("on_train_batch_before_step", 0.0),
    ]
    trace = Trace()
    fit(GradientClip(), trace)
    assert trace.events.count("on_train_batch_before_step") == 10
