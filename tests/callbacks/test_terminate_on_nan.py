"""TerminateOnNaN: what it leaves, when it acts, and what it says."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lumbre as lb
from lumbre.callbacks import TerminateOnNaN
from lumbre.errors import NonFiniteLossWarning, ShapeError
from runs import Pair, Scale, Trace, at, fit, notes, numbered

# What becomes of weights without it is looked at here, too.
pytestmark = pytest.mark.filterwarnings("ignore:After epoch:lumbre.LumbreWarning")

BAD = [math.nan, math.inf, -math.inf]


class Foreign(Tensor):
    """Not read where it lies: stands for a tensor on a device."""


def batches(count: int, bad: float | None = None) -> list[tuple[Tensor, Tensor]]:
    """Always the same batches; with `bad`, the last one's loss is that."""
    torch.manual_seed(1)
    made = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(count)]
    if bad is not None:
        made[-1][1][2] = bad
    return made


def trained(data: list[Any], *callbacks: lb.Callback, **options: Any) -> tuple[lb.Fitted, Any]:
    """A fit with momentum, and what its optimizer holds afterwards."""
    kept: list[Any] = []
    keep = at("on_fit_end", lambda ctx: kept.append(ctx.opt.state_dict()["state"]))
    torch.manual_seed(0)
    fitted = (
        lb.setup(nn.Linear, options.pop("loss", nn.MSELoss()), torch.optim.Adam)
        .set_hparams(in_features=3, out_features=1)
        .fit(_Loader(data), callbacks=[*callbacks, keep], verbose=False, epochs=1, **options)
    )
    return fitted, kept[0]


class _Loader(torch.utils.data.DataLoader[Any]):
    def __init__(self, data: list[Any]) -> None:
        super().__init__(data, batch_size=None)  # type: ignore[arg-type]


def assert_same(one: tuple[lb.Fitted, Any], other: tuple[lb.Fitted, Any]) -> None:
    weights, others = one[0].model.state_dict(), other[0].model.state_dict()
    assert weights.keys() == others.keys() == {"weight", "bias"}
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert len(one[1]) == 2
    for number, state in one[1].items():
        assert all(torch.equal(state[name], other[1][number][name]) for name in state)


@pytest.mark.parametrize("bad", BAD)
def test_the_weights_are_bit_for_bit_those_of_the_last_good_step(bad: float) -> None:
    with pytest.warns(NonFiniteLossWarning):
        stopped = trained(batches(6, bad), TerminateOnNaN())
    before = trained(batches(6)[:5])
    assert_same(stopped, before)
    # The batch is in no record.
    assert stopped[0].records["metrics"] == before[0].records["metrics"]
    assert not any(parameter.grad is not None for parameter in stopped[0].model.parameters())
    with pytest.warns(NonFiniteLossWarning):
        spoilt = trained(batches(6, bad))
    assert not spoilt[0].model.weight.isfinite().all()


@pytest.mark.parametrize(
    ("bad", "text"), [(math.nan, "NaN"), (math.inf, "inf"), (-math.inf, "inf")]
)
def test_the_stop_and_the_one_warning_say_where(bad: float, text: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted, _ = trained(batches(3, bad), TerminateOnNaN())
    place = f"the loss is {text} at epoch 1, iteration 3, training"
    assert fitted.stop_reason == f"TerminateOnNaN: {place}"
    (warning,) = caught
    assert warning.category is NonFiniteLossWarning
    said = str(warning.message)
    assert said.startswith("T" + place[1:])
    for words in ("TerminateOnNaN leaves the batch out and ends the run", "learning rate"):
        assert words in said


def test_minus_infinity_ends_a_run_too() -> None:
    def loss(pred: Tensor, target: Tensor) -> Tensor:
        return pred.mean() - math.inf

    with pytest.warns(NonFiniteLossWarning, match="The loss is -inf"):
        fitted, _ = trained(batches(2), TerminateOnNaN(), loss=loss)
    assert fitted.stop_reason is not None
    assert "-inf at epoch 1, iteration 1" in fitted.stop_reason


def test_finite_losses_are_let_be() -> None:
    with_it = trained(batches(4), TerminateOnNaN())
    assert_same(with_it, trained(batches(4)))
    assert with_it[0].stop_reason is None


class Bad(Scale):
    """Its loss is NaN from the fourth training step on."""

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        fine = not self.training or self.ctx.step_count < 4
        return 0 * pred.mean() + (1.0 if fine else math.nan)


def test_what_has_begun_gets_its_end_and_validation_is_left_out() -> None:
    trace = Trace()
    with pytest.warns(NonFiniteLossWarning):
        fitted = fit(Bad, TerminateOnNaN(), trace, epochs=4)
    last = trace.events[-7:]
    assert last == [
        "on_train_batch_begin",
        "on_train_batch_after_pred",
        "on_train_batch_after_loss",
        "on_train_batch_end",
        "on_train_end",
        "on_epoch_end",
        "on_fit_end",
    ]
    assert fitted.records["metrics"]["train"] == [{"loss": 1.0}, {"loss": 1.0}]
    assert fitted.records["metrics"]["valid"] == [{"loss": 1.0}, {}]


def test_as_an_error_the_warning_leaves_the_run() -> None:
    with pytest.raises(NonFiniteLossWarning, match="epoch 2, iteration 2") as caught:
        fit(Bad, TerminateOnNaN(), epochs=4)
    assert notes(caught.value) == [
        "in TerminateOnNaN.on_train_batch_after_loss: epoch 2, iteration 2, training"
    ]


# --- beside other callbacks ---------------------------------------------------------------------


@pytest.mark.parametrize("weight", [-math.inf, 0, 1e9])
def test_it_sees_the_loss_as_the_other_callbacks_have_left_it(weight: float) -> None:
    def spoil(ctx: Any) -> None:
        ctx.loss_grad = ctx.loss_grad * math.nan

    spoils = at("on_train_batch_after_loss", spoil, nth=2, weight=weight)
    with pytest.warns(NonFiniteLossWarning):
        fitted = fit(Scale, TerminateOnNaN(), spoils)
    assert fitted.stop_reason is not None
    assert "iteration 2" in fitted.stop_reason


def test_a_callback_that_mends_the_loss_keeps_the_run_going() -> None:
    def mend(ctx: Any) -> None:
        ctx.loss_grad = ctx.loss_grad.nan_to_num(0.0)

    mends = lb.on("on_train_batch_after_loss")(mend)
    assert fit(Bad, TerminateOnNaN(), mends, epochs=4).stop_reason is None


def test_a_batch_that_another_has_left_out_is_spared() -> None:
    def leave(ctx: Any) -> None:
        ctx.skip_batch()

    data = [*batches(3, math.nan), *batches(2)]
    leaves = at("on_train_batch_after_loss", leave, nth=3)
    guarded = trained(data, TerminateOnNaN(), leaves)
    assert guarded[0].stop_reason is None
    assert_same(guarded, trained([*data[:2], *data[3:]]))


def test_the_first_reason_to_stop_is_the_one_that_is_told() -> None:
    stops = at("on_train_batch_after_loss", lambda ctx: ctx.stop("enough"), nth=4, name="Mine")
    with pytest.warns(NonFiniteLossWarning):
        fitted = fit(Bad, TerminateOnNaN(), stops, epochs=4)
    assert fitted.stop_reason == "Mine: enough"


def test_two_of_them_warn_once() -> None:
    with pytest.warns(NonFiniteLossWarning) as told:
        fit(Bad, TerminateOnNaN(), TerminateOnNaN(), epochs=4)
    assert len(told) == 1


def test_one_instance_serves_many_fits() -> None:
    terminate = TerminateOnNaN()
    for _ in range(2):
        with pytest.warns(NonFiniteLossWarning):
            fitted = fit(Bad, terminate, epochs=4)
        assert len(fitted.records["metrics"]["train"]) == 2


# --- the ways of a loss -------------------------------------------------------------------------


def test_each_optimizers_loss_is_looked_at() -> None:
    class Two(Pair):
        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            bad = self.ctx.opt_name == "b" and self.ctx.iter == 2
            return pred.mean() * (math.nan if bad else 1.0)

    seen: list[Any] = []
    steps = lb.on("on_train_batch_after_step")(lambda ctx: seen.append((ctx.iter, ctx.opt_name)))
    with pytest.warns(NonFiniteLossWarning, match="The loss_b is NaN"):
        fitted = fit(Two, TerminateOnNaN(), steps, optimizer=None)
    assert (
        fitted.stop_reason == "TerminateOnNaN: the loss_b is NaN at epoch 1, iteration 2, training"
    )
    assert seen == [(1, "a"), (1, "b"), (2, "a")]
    assert all(parameter.isfinite().all() for parameter in fitted.model.parameters())


def test_a_loss_on_a_device_is_waited_for() -> None:
    def loss(pred: Tensor, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(pred, target).as_subclass(Foreign)

    with pytest.warns(NonFiniteLossWarning) as told:
        stopped = trained(batches(4, math.nan), TerminateOnNaN(), loss=loss)
    assert len(told) == 1
    assert_same(stopped, trained(batches(4)[:3], loss=loss))


@pytest.mark.parametrize("as_number", [False, True])
def test_a_step_of_ones_own_is_looked_at_when_its_batch_ends(as_number: bool) -> None:
    class Own(Scale):
        def step(self, ctx: Any) -> None:
            ctx.pred = self(ctx.input)
            loss = ctx.pred.mean() * (math.nan if ctx.iter == 2 and ctx.training else 1.0)
            ctx.loss = loss.item() if as_number else loss

    with pytest.warns(NonFiniteLossWarning) as told:
        fitted = fit(Own, TerminateOnNaN(), data=numbered(3))
    assert len(told) == 1
    assert fitted.stop_reason == "TerminateOnNaN: the loss is NaN at epoch 1, iteration 2, training"
    assert fitted.records["metrics"]["train"] == [{"loss": 1.0}]


def test_a_step_of_ones_own_that_fires_the_breakpoints_is_left_in_time() -> None:
    class Own(Bad):
        def step(self, ctx: Any) -> None:
            ctx.forward()
            ctx.compute_loss()
            if ctx.training:
                ctx.backward()
                ctx.step_optimizer()

    stepped = Trace(lambda hook, ctx: (hook, ctx.step_count))
    with pytest.warns(NonFiniteLossWarning):
        fit(Own, TerminateOnNaN(), stepped, epochs=4)
    assert ("on_train_batch_after_step", 3) in stepped.events
    assert ("on_train_batch_before_backward", 4) not in stepped.events


@pytest.mark.parametrize("kind", [Tensor, Foreign])
def test_a_loss_that_is_no_scalar_is_refused_as_without_it(kind: type[Tensor]) -> None:
    def loss(pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).as_subclass(kind)

    with pytest.raises(ShapeError, match="where a scalar is due"):
        trained(batches(1), TerminateOnNaN(), loss=loss)


def test_it_weighs_inf_and_is_in_the_plan() -> None:
    rows = lb.schedule(TerminateOnNaN()).rows
    for hook in ("on_train_batch_after_loss", "on_train_batch_end"):
        assert (hook, "TerminateOnNaN", "Rust", math.inf, "") in rows
