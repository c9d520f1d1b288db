"""`ctx.log_mean`, and the parts of a loss: means over a pass, beside the metrics."""

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb
from lumbre.errors import (
    ArgumentError,
    ArgumentTypeError,
    LumbreWarning,
    MonitorError,
    ShapeError,
)
from runs import Scale, at, fit, numbered

CPU = lb.Accelerator(cpu=True)


def line(loss: Any = None, count: int = 10, size: int = 4, **options: Any) -> lb.Fitted:
    """A fit of a line on `count` rows, in batches of `size`, the last one smaller."""
    torch.manual_seed(3)
    x = torch.randn(count, 2)
    callbacks = options.pop("callbacks", ())
    options = {"epochs": 2, "verbose": False, "accelerator": CPU, **options}
    if options.pop("validates", False):
        options["valid_data"] = DataLoader(TensorDataset(x[:5], x[:5].sum(1, keepdim=True)), 4)
    data = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), size)
    net = lb.setup(nn.Linear(2, 1), loss or nn.MSELoss(), torch.optim.SGD)
    return net.set_opt_hparams(lr=0.01).fit(data, callbacks=callbacks, **options)


def train(fitted: lb.Fitted, name: str, set_: str = "train") -> list[float]:
    return [entry[name] for entry in fitted.records["metrics"][set_]]


# --- means --------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.floats(-1e3, 1e3), st.integers(1, 5), st.sampled_from("kkksb")),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 3),
)
def test_means_are_those_by_hand_with_uneven_batches_accumulation_and_skipped_ones(
    batches: list[tuple[float, int, str]], steps: int
) -> None:
    values = iter(batches)

    class Logs(lb.Callback):
        def on_train_batch_begin(self, ctx: Any) -> None:
            self.value, _, self.fate = next(values)
            ctx.log_mean("v", self.value)
            if self.fate == "b":
                ctx.skip_batch()

        def on_train_batch_end(self, ctx: Any) -> None:
            ctx.log_mean("late", torch.tensor(self.value, dtype=torch.float64))
            ctx.log_mean("own", self.value, weight=2.0)
            if self.fate == "s":
                ctx.skip_batch()

    data = [(torch.ones(size, 1), torch.ones(size, 1)) for _, size, _ in batches]
    lb.as_dataloader.register(Fixed, lambda given, **_: given)
    fitted = fit(
        Scale,
        Logs(),
        lb.callbacks.GradientAccumulation(steps),
        data=Fixed(data),
        valid_data=None,
        epochs=1,
    )
    (entry,) = fitted.records["metrics"]["train"]
    kept = [(value, size) for value, size, fate in batches if fate == "k"]
    if not kept:
        assert not {"v", "late", "own"} & set(entry)
        return
    total = math.fsum(size for _, size in kept)
    mean = math.fsum(value * size for value, size in kept) / total
    close = pytest.approx(mean, abs=1e-12, rel=1e-12)
    assert (entry["v"], entry["late"]) == (close, close)
    plain = math.fsum(value for value, _ in kept) / len(kept)
    assert entry["own"] == pytest.approx(plain, abs=1e-12, rel=1e-12)


class Fixed(list[Any]):
    """A list of batches that is taken as it is."""


@pytest.mark.parametrize(
    "made",
    [
        float,
        lambda v: torch.tensor(v),
        lambda v: torch.tensor(v, requires_grad=True) * 1,
        lambda v: torch.tensor([v]),
        lambda v: torch.tensor(v).numpy(),
        lambda v: torch.tensor(v, dtype=torch.bfloat16),
        lambda v: torch.tensor(v).to_sparse().to_dense(),
    ],
)
def test_numbers_and_scalar_tensors_are_taken_and_detached(made: Callable[[float], Any]) -> None:
    logs = lb.on("on_train_batch_end")(lambda ctx: ctx.log_mean("v", made(0.5 * ctx.iter)))
    assert train(fit(Scale, logs), "v") == [0.75, 0.75]
    whole = lb.on("on_train_batch_end")(lambda ctx: ctx.log_mean("n", ctx.iter))
    assert train(fit(Scale, whole), "n") == [1.5, 1.5]
    is_last = lb.on("on_train_batch_end")(lambda ctx: ctx.log_mean("b", ctx.iter == 2))
    assert train(fit(Scale, is_last), "b") == [0.5, 0.5]


def test_what_was_logged_does_not_change_with_the_tensor() -> None:
    kept = torch.zeros(())

    class Moves(lb.Callback):
        def on_train_batch_begin(self, ctx: Any) -> None:
            ctx.log_mean("v", kept.fill_(ctx.iter))
            kept.fill_(99.0)

    assert train(fit(Scale, Moves()), "v") == [1.5, 1.5]


def test_several_values_of_a_batch_count_each() -> None:
    class Twice(lb.Callback):
        def on_train_batch_begin(self, ctx: Any) -> None:
            ctx.log_mean("v", 1.0)
            ctx.log_mean("v", 3.0, weight=3.0)

    assert train(fit(Scale, Twice()), "v") == [2.5, 2.5]


def test_it_may_be_called_in_a_model_a_loss_a_step_and_in_validation() -> None:
    class Model(Scale):
        def forward(self, x: Tensor) -> Tensor:
            if self.ctx is not None:
                self.ctx.log_mean("in_forward", 1.0)
            return super().forward(x)

        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            self.ctx.log_mean("in_loss", target.mean())
            return super().loss(pred, target)

        def step(self, ctx: Any) -> None:
            ctx.forward()
            ctx.compute_loss()
            ctx.log_mean("in_step", 2 * ctx.loss["opt"])
            ctx.backward()
            ctx.step_optimizer()

    fitted = fit(Model)
    for set_, loss in [("train", 3.0), ("valid", 2.0)]:
        for entry in fitted.records["metrics"][set_]:
            assert entry == {"loss": loss, "in_forward": 1.0, "in_loss": loss, "in_step": 2 * loss}
    evaluation = fitted.evaluate(numbered(2))
    assert evaluation.metrics["in_step"] == 6.0


def test_it_is_there_while_the_pass_runs_and_at_its_end() -> None:
    seen: list[Any] = []

    class Looks(lb.Callback):
        def on_train_batch_begin(self, ctx: Any) -> None:
            ctx.log_mean("v", ctx.iter)

        def on_train_batch_end(self, ctx: Any) -> None:
            seen.append(ctx.get_metric("v", "train"))

        def on_train_end(self, ctx: Any) -> None:
            seen.append(ctx.get_metrics("train"))

    fit(Scale, Looks(), epochs=1, valid_data=None)
    assert seen == [1.0, 1.5, {"loss": 3.0, "v": 1.5}]


def test_outside_of_a_batch_the_weight_is_to_be_said() -> None:
    class Ends(lb.Callback):
        def on_train_begin(self, ctx: Any) -> None:
            ctx.log_mean("v", 1.0, weight=1)

        def on_train_end(self, ctx: Any) -> None:
            ctx.log_mean("v", 4.0, weight=2)

    for weight in (-1.0, 0.0, 1.0):
        ends = Ends()
        ends.weight = weight
        if weight >= 0:  # else it is before the metrics begin anew
            assert train(fit(Scale, ends), "v") == [3.0, 3.0]
    with pytest.warns(lb.LumbreWarning, match=r"outside of a batch .*not counted.*weight=1\)"):
        fitted = fit(Scale, at("on_train_end", lambda ctx: ctx.log_mean("v", 1.0)))
    assert "v" not in fitted.records["metrics"]["train"][0]


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_is_a_number_from_0(weight: float) -> None:
    with pytest.raises(ArgumentError, match="weight is a number from 0; got"):
        fit(Scale, at("on_train_batch_end", lambda ctx: ctx.log_mean("v", 1.0, weight=weight)))


def test_values_of_weight_0_leave_no_mean() -> None:
    logs = lb.on("on_train_batch_end")(lambda ctx: ctx.log_mean("v", math.nan, weight=0))
    assert "v" not in fit(Scale, logs).records["metrics"]["train"][0]


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (torch.ones(3), ShapeError, r'"v".*shape \(3,\).*value\.mean\(\)'),
        (torch.ones(0), ShapeError, r"shape \(0,\)"),
        (torch.ones((), device="meta"), ArgumentError, r"is on meta, and this run on cpu"),
        ("much", ArgumentTypeError, "takes a number or a scalar tensor; got 'much'"),
        (None, ArgumentTypeError, "got None"),
        ({"a": 1}, ArgumentTypeError, "got {'a': 1}"),
        (torch.tensor(1j), ArgumentTypeError, "takes a number or a scalar tensor"),
    ],
)
def test_what_is_no_number_of_this_run_is_refused(value: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match):
        fit(Scale, at("on_train_batch_end", lambda ctx: ctx.log_mean("v", value)))


def test_where_there_is_no_pass_it_is_told_that_nothing_is_counted() -> None:
    for hook in ("on_fit_begin", "on_epoch_begin", "on_epoch_end"):
        told = r'not counted.*log_metric\("v", value\)'
        with pytest.warns(lb.LumbreWarning, match=told):
            fit(Scale, at(hook, lambda ctx: ctx.log_mean("v", 1.0)))


def test_a_model_that_logs_may_be_called_anywhere() -> None:
    class Logs(Scale):
        def forward(self, x: Tensor) -> Tensor:
            self.ctx.log_mean("size", x.abs().mean())
            return super().forward(x)

    draws = at("on_epoch_end", lambda ctx: ctx.model(torch.ones(1, 1)))
    with pytest.warns(lb.LumbreWarning, match='"size", .*outside of a batch .epoch 1.'):
        fitted = fit(Logs, draws)
    assert train(fitted, "size") == train(fit(Logs), "size")
    fitted.predict(numbered(1), verbose=False)  # where nothing is measured, it says nothing
    fitted.evaluate(numbered(1), verbose=False)


def test_a_step_on_what_is_left_in_a_window_logs_with_the_weight_of_the_last_batch() -> None:
    skips = lb.on("on_train_batch_begin")(lambda ctx: ctx.iter == 2 and ctx.skip_batch())
    logs = lb.on("on_train_batch_after_step")(lambda ctx: ctx.log_mean("v", 2.0))
    fitted = fit(Scale, lb.callbacks.GradientAccumulation(3), skips, logs, epochs=1)
    assert train(fitted, "v") == [2.0]


@pytest.mark.parametrize("name", ["step", "epoch", "samples", "seconds", "lr", "grad_norm"])
def test_columns_of_rows_are_the_runs_own(name: str) -> None:
    logs = at("on_train_batch_end", lambda ctx: ctx.log_mean(name, 1.0))
    with pytest.raises(ArgumentError, match=f'has a column "{name}" in the rows of StepHistory'):
        fit(Scale, logs)


def test_a_name_is_logged_in_one_way() -> None:
    means = at("on_train_batch_end", lambda ctx: ctx.log_mean("v", 1.0))
    last = at("on_epoch_end", lambda ctx: ctx.log_metric("v", 5.0, "train"))
    with pytest.raises(ArgumentError, match=r'log_metric\("v", .*ctx.log_mean has logged "v"'):
        fit(Scale, means, last)


def test_what_is_logged_while_a_batch_is_evaluated_again_is_logged_already() -> None:
    class Logs(Scale):
        def loss(self, pred: Tensor, target: Tensor) -> Any:
            loss = (pred - target).square().mean()
            self.ctx.log_mean("own", loss)
            return loss, {"part": loss}

    fitted = fit(Logs, optimizer=torch.optim.LBFGS, epochs=1)
    values = fitted.records["metrics"]["train"][0]
    assert values["own"] == values["part"]


def test_the_errors_of_parts_speak_of_the_loss() -> None:
    def of(parts: Any) -> Any:
        return lambda pred, target: (pred.mean(), parts(pred))

    for parts, match in [
        (lambda pred: {"loss": pred.mean()}, "part 'loss', .*: the run itself records \"loss\""),
        (lambda pred: {"kl": pred}, r"part 'kl', .*got one of shape \(2, 1\). Reduce it"),
        (lambda pred: {"kl": None}, "part 'kl', .*: a number or a scalar tensor; got None"),
    ]:
        trainable = lb.setup(nn.Linear(1, 1), of(parts), torch.optim.SGD)
        with pytest.raises(lb.LumbreError, match=f"^<lambda> gives the {match}"):
            trainable.fit([torch.ones(2, 1), torch.ones(2, 1)], 1, verbose=False)


def test_a_loop_of_ones_own_may_record_a_loss_with_its_parts() -> None:
    model = nn.Linear(1, 1)
    with lb.run(model, torch.optim.SGD(model.parameters(), 0.1), epochs=1) as ctx:
        for _ in ctx.epochs():
            for x, y in ctx.train([(torch.ones(2, 1), torch.ones(2, 1))]):
                pred = model(x)
                loss = (pred - y).square().mean()
                ctx.record(pred, y, (loss, {"part": loss}))
    (values,) = ctx.records["metrics"]["train"]
    assert values["loss"] == values["part"] == loss.item()


class Stepping(nn.Module):
    """A step of its own with two optimizers, whose losses differ or are one."""

    def __init__(self, joint: bool) -> None:
        super().__init__()
        self.joint = joint
        self.a, self.b = nn.Linear(1, 1), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)

    def set_optimizers(self) -> Any:
        return {n: torch.optim.SGD(getattr(self, n).parameters(), 0.0) for n in "ab"}

    def loss(self, pred: Tensor, target: Tensor) -> Any:
        more = 0.0 if self.ctx.opt_name is None else {"a": 1000.0, "b": 1.0}[self.ctx.opt_name]
        return pred.mean() * 0 + more, {"part": more}

    def step(self, ctx: Any) -> None:
        for name in [None] if self.joint else ["a", "b"]:
            ctx.opt_name = name
            ctx.forward()
            loss = ctx.compute_loss()
            if ctx.training:
                ctx.backward(loss)
                ctx.step_optimizer()


@pytest.mark.parametrize("joint", [False, True])
def test_losses_of_a_step_of_ones_own_are_those_of_their_optimizers(joint: bool) -> None:
    data = [torch.ones(4, 1), torch.ones(4, 1)]
    fitted = lb.setup(Stepping(joint)).fit(data, 1, valid_data=data, verbose=False)
    each = {"loss_a": 1000.0, "loss_b": 1.0, "part_a": 1000.0, "part_b": 1.0}
    both = {"loss_a": 0.0, "loss_b": 0.0, "part": 0.0}
    for set_ in ("train", "valid"):
        assert fitted.records["metrics"][set_] == [both if joint else each]
    measured = fitted.evaluate(data, verbose=False).metrics
    assert measured == (both if joint else each)


@pytest.mark.parametrize("method", ["log_mean", "log_metric"])
@pytest.mark.parametrize("name", ["loss", "mae", ""])
def test_names_that_the_run_writes_are_refused(method: str, name: str) -> None:
    logs = at("on_train_batch_end", lambda ctx: getattr(ctx, method)(name, 1.0))
    match = "a name is a text" if not name else f'the run itself records "{name}"'
    with pytest.raises(ArgumentError, match=rf"ctx.{method}\(\"{name}\", .*{match}"):
        fit(Scale, logs, metrics=lb.metrics.MAE())


def test_with_several_optimizers_the_names_of_their_losses_are_refused() -> None:
    logs = at("on_train_batch_end", lambda ctx: ctx.log_mean("loss_b", 1.0))
    with pytest.raises(ArgumentError, match='the run itself records "loss_b"'):
        fit(Two, logs, optimizer=None)


def test_it_is_watched_and_missing_only_after_an_epoch_that_had_a_pass() -> None:
    logs = lb.on("on_valid_batch_end")(lambda ctx: ctx.log_mean("kl", 4.0 - ctx.epoch))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        best = lb.callbacks.KeepBestModel("valid_kl")
        fit(Scale, logs, best, epochs=3, valid_every=2)
    assert (best.best_epoch, best.best_value) == (3, 1.0)
    with pytest.raises(MonitorError, match="after epoch 2 the records are"):
        fit(Scale, lb.callbacks.EarlyStopping("valid_kk"), epochs=4, valid_every=2)


def test_a_loop_of_ones_own_logs_means() -> None:
    model = nn.Linear(2, 1)
    data = [(torch.ones(3, 2), torch.ones(3, 1)), (torch.ones(1, 2), torch.ones(1, 1))]
    with lb.run(model, torch.optim.SGD(model.parameters(), 0.1), epochs=2, verbose=False) as ctx:
        for _ in ctx.epochs():
            for x, _ in ctx.train(data):
                ctx.log_mean("only", float(len(x)))
            for x, y in ctx.valid(data):
                pred = model(x)
                ctx.log_mean("both", float(len(x)))
                ctx.record(pred, y, (pred - y).square().mean())
    assert [entry["only"] for entry in ctx.records["metrics"]["train"]] == [2.5, 2.5]
    assert [entry["both"] for entry in ctx.records["metrics"]["valid"]] == [2.5, 2.5]


# --- on a device --------------------------------------------------------------------------------


class Far(Tensor):
    """A scalar as one on a device is: whoever asks for its number has to wait."""

    asked: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in ("item", "tolist", "__float__", "cpu", "numpy"):
            cls.asked.append(name)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_nothing_waits_for_a_value_of_the_device_until_the_pass_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What a device does is played by tensors that are handed on as they are.
    def far(name: str, value: Any, device: Any) -> Any:
        return value.detach().double().clone()

    monkeypatch.setattr("lumbre.metrics.losses.loggable", far)
    waits: list[int] = []

    class Logs(lb.Callback):
        def on_train_batch_begin(self, ctx: Any) -> None:
            ctx.log_mean("v", torch.tensor(float(ctx.iter)).as_subclass(Far))
            if ctx.iter == 2:
                ctx.skip_batch()

        def on_train_batch_end(self, ctx: Any) -> None:
            ctx.log_mean("late", torch.tensor(float(ctx.iter)).as_subclass(Far), weight=ctx.iter)
            waits.append(len(Far.asked))

    Far.asked.clear()
    fitted = fit(Scale, Logs(), lb.callbacks.StepHistory(), data=numbered(3), epochs=1)
    assert waits == [0, 0, 0]
    assert train(fitted, "v") == [2.0]
    assert train(fitted, "late") == [2.5]
    assert fitted.get_steps()["v"].tolist() == [1.0, 2.0, 3.0]
    assert fitted.get_steps()["late"].tolist() == [1.0, 2.0, 3.0]


# --- the parts of a loss ------------------------------------------------------------------------


class Two(nn.Module):
    """Two lines with an optimizer each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 1), nn.Linear(1, 1)

    def set_optimizers(self, lr: float) -> dict[str, Any]:
        return {name: torch.optim.SGD(getattr(self, name).parameters(), lr) for name in "ab"}

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)

    def loss(self, pred: Tensor, target: Tensor) -> Any:
        return (pred - target).square().mean()


def parted(pred: Tensor, target: Tensor) -> Any:
    bias, spread = (pred - target).mean().square(), (pred - target).square().mean()
    return spread + bias, {"bias": bias, "spread": spread}


def total(pred: Tensor, target: Tensor) -> Tensor:
    loss: Tensor = parted(pred, target)[0]
    return loss


def test_the_parts_of_a_loss_stand_beside_it_and_it_trains_in_the_same_bits() -> None:
    one, other = line(parted, validates=True), line(total, validates=True)
    assert torch.equal(one.model.weight, other.model.weight)
    for set_ in ("train", "valid"):
        assert train(one, "loss", set_) == train(other, "loss", set_)
        for entry in one.records["metrics"][set_]:
            assert entry["bias"] + entry["spread"] == pytest.approx(entry["loss"], abs=1e-6)
    assert set(one.evaluate([torch.ones(3, 2), torch.ones(3, 1)]).get_metrics()["metric"]) == {
        "loss",
        "bias",
        "spread",
    }


def test_parts_are_weighed_as_the_loss() -> None:
    def loss(pred: Tensor, target: Tensor) -> Any:
        value = (pred - target).square().mean()
        return value, {"same": value}

    fitted = line(loss, callbacks=lb.callbacks.GradientAccumulation(2))
    assert train(fitted, "same") == train(fitted, "loss")


def test_with_several_optimizers_parts_have_the_name_of_theirs() -> None:
    class Parted(Two):
        def loss(self, pred: Tensor, target: Tensor) -> Any:
            value = (pred - target).square().mean()
            return value, {"half": value / 2}

    (entry,) = fit(Parted, optimizer=None, epochs=1).records["metrics"]["train"]
    assert list(entry) == ["loss_a", "loss_b", "half_a", "half_b"]
    for name in "ab":
        assert entry[f"half_{name}"] == pytest.approx(entry[f"loss_{name}"] / 2)


def test_a_loss_that_is_evaluated_several_times_counts_once() -> None:
    calls = itertools.count()

    def loss(pred: Tensor, target: Tensor) -> Any:
        value = (pred - target).square().mean()
        next(calls)
        return value, {"same": value}

    x = torch.randn(8, 2)
    net = lb.setup(nn.Linear(2, 1), loss, torch.optim.LBFGS)
    fitted = net.fit([x, x.sum(1, keepdim=True)], epochs=1, verbose=False, accelerator=CPU)
    assert next(calls) > 2
    assert train(fitted, "same") == train(fitted, "loss")


def test_a_step_of_ones_own_has_the_parts_too() -> None:
    class Own(Scale):
        def loss(self, pred: Tensor, target: Tensor) -> Any:
            value = super().loss(pred, target)
            return value, {"same": value}

        def step(self, ctx: Any) -> None:
            ctx.forward()
            ctx.backward(ctx.compute_loss())
            ctx.step_optimizer()

    assert train(fit(Own), "same") == [3.0, 3.0]


def test_parts_that_change_their_names_are_told_once_with_both_sets() -> None:
    def loss(pred: Tensor, target: Tensor) -> Any:
        value = (pred - target).square().mean()
        number = next(batches)
        return value, {"a": 1.0} if number % 2 else {"a": 3.0, "b": float(number)}

    batches = itertools.count(1)
    warnings.simplefilter("always")
    with pytest.warns(LumbreWarning, match="'a' in its first batch.* 'a', 'b' in a later") as told:
        fitted = line(loss, count=8, size=2, epochs=3)
    assert len(told) == 1
    assert fitted.records["metrics"]["train"][0] == {
        "loss": pytest.approx(train(fitted, "loss")[0]),
        "a": 2.0,
        "b": 3.0,
    }


@pytest.mark.parametrize("given", [(), (1.0,), (1.0, 2.0), (1.0, {"kl": 1.0}, 3)])
def test_another_tuple_is_no_loss(given: Any) -> None:
    def loss(pred: Tensor, target: Tensor) -> Any:
        value = (pred - target).square().mean()
        return tuple(value if each == 1.0 else each for each in given)

    with pytest.raises(ArgumentTypeError, match=r"loss gave a tuple of .*\(total, \{"):
        line(loss)


def test_a_part_called_like_the_loss_or_a_metric_is_refused() -> None:
    def loss(pred: Tensor, target: Tensor) -> Any:
        value = (pred - target).square().mean()
        return value, {"loss": value}

    with pytest.raises(ArgumentError, match='the run itself records "loss"'):
        line(loss)
