"""`MixedPrecision`: forward and loss under autocast, gradients at their own scale."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb
from lumbre.callbacks import MixedPrecision
from lumbre.errors import ArgumentError, ContextError
from runs import Trace


def data(count: int = 12) -> DataLoader[Any]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, generator=draw)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)


class Net(nn.Module):
    """Writes down the dtypes of what it answers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(3, 1)
        self.seen: set[tuple[bool, torch.dtype]] = set()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)
        self.seen.add((self.training, out.dtype))
        return out


class Two(Net):
    """Two optimizers over two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.other(super().forward(x))
        self.seen.add((self.training, out.dtype))
        return out

    def set_optimizers(self) -> dict[str, Any]:
        return {
            "inner": torch.optim.SGD(self.inner.parameters(), 0.1),
            "other": torch.optim.SGD(self.other.parameters(), 0.1),
        }


def by_hand(dtype: torch.dtype, model: nn.Module, spoil: int = 0) -> list[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    scales = []
    for i, (x, y) in enumerate([*data(), *data()], 1):
        with torch.autocast("cpu", dtype):
            loss = nn.functional.mse_loss(model(x), y)
        if i == spoil:
            loss = loss * float("inf")
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


def fit(*callbacks: Any, model: nn.Module | None = None, **options: Any) -> Any:
    own = model is not None and hasattr(model, "set_optimizers")
    trainable = lb.setup(model or Net(), nn.MSELoss(), None if own else torch.optim.Adam)
    trainable = trainable if own else trainable.set_opt_hparams(lr=0.1)
    options = {"epochs": 2, "verbose": False, **options}
    return trainable.fit(data(), callbacks=callbacks, **options)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_bits_are_those_of_a_loop_by_hand(dtype: torch.dtype) -> None:
    expected = Net()
    by_hand(dtype, expected)
    assert same(fit(MixedPrecision(dtype)).model, expected)
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    by_accelerator = fit(accelerator=lb.Accelerator(cpu=True, mixed_precision=precision))
    assert same(by_accelerator.model, expected)
    assert not same(fit().model, expected)


def test_a_step_that_is_not_finite_is_left_out_unannounced_and_the_scale_lowered() -> None:
    expected = Net()
    scales = by_hand(torch.float16, expected, spoil=5)
    assert scales[4] < scales[3]
    before = [torch.amp.GradScaler("cpu").get_scale(), *scales]
    taken = [i for i in range(1, 7) if before[i] == before[i - 1]]
    assert 4 in taken

    class Spoil(lb.Callback):
        def on_train_batch_after_loss(self, ctx: Any) -> None:
            if ctx.step_count == 5:
                ctx.loss_grad = ctx.loss_grad * float("inf")

    found: list[float] = []

    @lb.on("on_train_batch_end")
    def look(ctx: Any) -> None:
        found.append(ctx.state_dict()["scalers"]["opt"]["scale"])

    trace = Trace(lambda hook, ctx: (hook, ctx.step_count))
    with pytest.warns(lb.errors.NonFiniteLossWarning):
        fitted = fit(MixedPrecision("fp16"), Spoil(), look, trace)
    assert same(fitted.model, expected)
    assert found == scales
    steps = [count for hook, count in trace.events if hook == "on_train_batch_after_step"]
    assert steps == taken
    steps = [count for hook, count in trace.events if hook == "on_train_batch_before_step"]
    assert steps == taken


def test_a_skipped_step_leaves_the_scaler_fit_for_the_next() -> None:
    @lb.on("on_train_batch_before_step", once=True)
    def skip(ctx: Any) -> None:
        ctx.skip_batch()

    assert len(fit(MixedPrecision("fp16"), skip).records["metrics"]["train"]) == 2


def test_autocast_holds_in_validation_and_for_every_optimizer() -> None:
    # Mistake 7 of luz: autocast is entered once, and not for what comes later.
    model = Two()
    fitted = fit(MixedPrecision("bf16"), model=model, valid_data=data())
    assert model.seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
    model.seen.clear()
    fitted.evaluate(data(), callbacks=MixedPrecision("bf16"), verbose=False)
    fitted.predict(data(), callbacks=MixedPrecision("bf16"), verbose=False)
    assert model.seen == {(False, torch.bfloat16)}
    fitted.evaluate(data(), verbose=False)
    assert (False, torch.float32) in model.seen


def test_each_optimizer_has_a_scale_of_its_own() -> None:
    class Spoil(lb.Callback):
        def on_train_batch_after_loss(self, ctx: Any) -> None:
            if ctx.opt_name == "other":
                ctx.loss_grad = ctx.loss_grad * float("inf")

    scales: dict[str, float] = {}

    @lb.on("on_epoch_end")
    def look(ctx: Any) -> None:
        found = ctx.state_dict()["scalers"]
        scales.update({name: state["scale"] for name, state in found.items()})

    with pytest.warns(lb.errors.NonFiniteLossWarning):
        fit(MixedPrecision("fp16"), Spoil(), look, model=Two(), epochs=1)
    assert scales["other"] < scales["inner"]


def test_a_custom_step_is_under_autocast_in_its_parts() -> None:
    class Own(Net):
        def step(self, ctx: Any) -> None:
            ctx.forward()
            ctx.compute_loss()
            ctx.backward()
            ctx.step_optimizer()

    model = Own()
    fit(MixedPrecision("fp16"), model=model, valid_data=data())
    expected = Net()
    by_hand(torch.float16, expected)
    assert same(model, expected)
    assert model.seen == {(True, torch.float16), (False, torch.float16)}


def test_bfloat16_is_the_default_on_a_cpu_and_names_are_taken() -> None:
    model = Net()
    fit(MixedPrecision(), model=model, accelerator=lb.Accelerator(cpu=True))
    assert model.seen == {(True, torch.bfloat16)}
    names = {"fp16": torch.float16, "float16": torch.float16, "bfloat16": torch.bfloat16}
    assert {name: MixedPrecision(name).dtype for name in names} == names


def test_a_validation_pass_may_come_before_the_first_epoch() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with lb.run(
        model, optimizer, callbacks=MixedPrecision(), epochs=1, loss=nn.MSELoss(), verbose=False
    ) as ctx:
        for _ in range(2):
            for _ in ctx.valid(data()):
                ctx.step(ctx)
        assert model.seen == {(False, torch.bfloat16)}
        for _ in ctx.epochs():
            for _ in ctx.train(data()):
                ctx.step(ctx)
    assert model.seen == {(False, torch.bfloat16), (True, torch.bfloat16)}


def test_wrong_arguments_are_refused() -> None:
    for wrong in (torch.float32, "fp8", 16, [torch.float16]):
        with pytest.raises(ArgumentError, match=r'dtype is torch.bfloat16 or "bf16", torch'):
            MixedPrecision(wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"mixed_precision='bf16'; use one of the two"):
        fit(MixedPrecision(), accelerator=lb.Accelerator(cpu=True, mixed_precision="bf16"))
    with pytest.raises(ArgumentError, match=r"LBFGS evaluates .* Use bfloat16"):
        lb.setup(Net(), nn.MSELoss(), torch.optim.LBFGS).fit(
            data(), callbacks=MixedPrecision("fp16"), verbose=False
        )


def test_the_accelerator_that_was_passed_keeps_its_precision() -> None:
    accelerator = lb.Accelerator(cpu=True)
    fit(MixedPrecision("fp16"), accelerator=accelerator)
    assert accelerator.mixed_precision == "no"


def test_its_place_in_the_order_is_before_everything() -> None:
    rows = [row for row in lb.schedule([MixedPrecision()]).rows if row[1] == "MixedPrecision"]
    assert {(hook, weight) for hook, _, _, weight, _ in rows} == {
        ("on_fit_begin", float("-inf")),
        ("on_valid_begin", float("-inf")),
        ("on_predict_begin", float("-inf")),
    }


class Stepping(Net):
    """Steps its optimizer by hand, after a backward pass that `ctx` makes in some batches."""

    def __init__(self, *through_ctx: int) -> None:
        super().__init__()
        self.through_ctx = through_ctx

    def step(self, ctx: Any) -> None:
        ctx.forward()
        ctx.compute_loss()
        if ctx.iter not in self.through_ctx:
            ctx.loss_grad.backward()
        else:
            ctx.backward()
        self.end(ctx)

    def end(self, ctx: Any) -> None:
        ctx.opt.step()
        ctx.opt.zero_grad()


def test_a_step_by_hand_on_scaled_gradients_is_refused() -> None:
    with pytest.raises(ContextError, match=r"'opt' .* Write ctx.step_optimizer\(\)"):
        fit(MixedPrecision("fp16"), model=Stepping(2))
    fit(MixedPrecision("bf16"), model=Stepping(2))
    fit(MixedPrecision("fp16"), model=Stepping())


def test_a_batch_that_is_left_leaves_no_scale_behind() -> None:
    class Leaving(Stepping):
        def end(self, ctx: Any) -> None:
            if ctx.iter == 2:
                ctx.skip_batch()
            else:
                super().end(ctx)

    fit(MixedPrecision("fp16"), model=Leaving(2))


def test_an_optimizer_of_ones_own_steps_when_the_fit_is_over() -> None:
    class Failing(Stepping):
        def end(self, ctx: Any) -> None:
            raise KeyError("in the middle of a batch")

    model = Failing(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(KeyError):
        lb.setup(model, nn.MSELoss(), optimizer).fit(
            data(), 1, MixedPrecision("fp16"), verbose=False
        )
    optimizer.step()
