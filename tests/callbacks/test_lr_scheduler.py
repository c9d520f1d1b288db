"""LRScheduler: the rates of a loop by hand, for every optimizer that is meant and for no other."""

import copy
import gc
import json
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as lrs
from torch.optim.swa_utils import SWALR

import lumbre as lb
from lumbre.callbacks import EMA, LRScheduler
from lumbre.errors import ArgumentError, ArgumentTypeError, MonitorError, MonitorWarning
from runs import Pair, Scale, at, fit, numbered

# The modules of these tests have parameters that nobody uses.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The first batch gives no gradient:lumbre.LumbreWarning"
)

EPOCHS, BATCHES = 7, 3


class Falling:
    """A function of the epoch that is an object with a state of its own."""

    def __init__(self, base: float) -> None:
        self.base = base

    def __call__(self, epoch: int) -> float:
        return self.base**epoch


def sequence(optimizer: Any) -> Any:
    parts = [lrs.LinearLR(optimizer, 0.1, total_iters=2), lrs.MultiStepLR(optimizer, [1, 3])]
    return lrs.SequentialLR(optimizer, parts, milestones=[2])


def chain(optimizer: Any) -> Any:
    return lrs.ChainedScheduler([lrs.ExponentialLR(optimizer, 0.9), lrs.StepLR(optimizer, 2)])


SCHEDULERS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (lrs.StepLR, {"step_size": 2}),
    (lrs.MultiStepLR, {"milestones": [2, 4, 4]}),
    (lrs.ExponentialLR, {"gamma": 0.8}),
    (lrs.LambdaLR, {"lr_lambda": lambda epoch: 0.9**epoch}),
    (lrs.LambdaLR, {"lr_lambda": Falling(0.7)}),
    (lrs.MultiplicativeLR, {"lr_lambda": lambda epoch: 0.9}),
    (lrs.ConstantLR, {"factor": 0.5, "total_iters": 2}),
    (lrs.LinearLR, {"start_factor": 0.1, "total_iters": 4}),
    (lrs.PolynomialLR, {"total_iters": 5, "power": 2.0}),
    (lrs.CosineAnnealingLR, {"T_max": 5}),
    (lrs.CosineAnnealingWarmRestarts, {"T_0": 2, "T_mult": 2}),
    (lrs.OneCycleLR, {"max_lr": 0.5, "total_steps": 40}),
    (lrs.CyclicLR, {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2, "mode": "triangular2"}),
    (lrs.CyclicLR, {"base_lr": 0.01, "max_lr": 0.1, "scale_fn": lambda x: 0.9**x}),
    (SWALR, {"swa_lr": 0.05, "anneal_epochs": 4}),
    (sequence, {}),
    (chain, {}),
]
NAMES = [f"{each.__name__}{i}" for i, (each, _) in enumerate(SCHEDULERS)]
every_scheduler = pytest.mark.parametrize(("scheduler", "options"), SCHEDULERS, ids=NAMES)


def by_hand(scheduler: Any, options: dict[str, Any], per_step: bool) -> tuple[list[Any], Tensor]:
    """The rate and momentum of each batch, and the weight at the end, without lumbre."""
    model = Scale()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    made = scheduler(optimizer, **options)
    seen = []
    for _ in range(EPOCHS):
        for x, y in batches():
            group = optimizer.param_groups[0]
            seen.append((group["lr"], group["momentum"]))
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            if per_step:
                made.step()
        if not per_step:
            made.step()
    return seen, model.weight.detach()


def batches() -> Any:
    return torch.utils.data.DataLoader(
        [(torch.ones(1), torch.tensor([2.0**-i])) for i in range(BATCHES)], batch_size=1
    )


class Rates(lb.Callback):
    """Writes down the rate and the momentum that each batch is trained with."""

    def __init__(self, name: str = "opt") -> None:
        self.opt = name
        self.seen: list[Any] = []

    def on_train_batch_begin(self, ctx: Any) -> None:
        group = ctx.optimizers[self.opt].param_groups[0]
        self.seen.append((group["lr"], group["momentum"]))


def run(*callbacks: Any, module: Any = Scale, **options: Any) -> lb.Fitted:
    trainable = lb.setup(module, nn.MSELoss(), torch.optim.SGD)
    options = {"data": batches(), "epochs": EPOCHS, "verbose": False, **options}
    return trainable.set_opt_hparams(lr=0.1, momentum=0.9).fit(callbacks=callbacks, **options)


@every_scheduler
@pytest.mark.parametrize("per_step", [False, True])
def test_rates_and_weights_are_those_of_a_loop_by_hand(
    scheduler: Any, options: dict[str, Any], per_step: bool
) -> None:
    rates = Rates()
    call_on = "on_train_batch_after_step" if per_step else "on_epoch_end"
    fitted = run(LRScheduler(scheduler, call_on=call_on, **options), rates)
    seen, weight = by_hand(scheduler, options, per_step)
    assert rates.seen == seen
    assert len({rate for rate, _ in seen}) > 1
    assert torch.equal(fitted.model.weight, weight)


def test_every_scheduler_of_torch_is_tried() -> None:
    tried = {each.__name__ for each, _ in SCHEDULERS}
    tried |= {"SequentialLR", "ChainedScheduler", "ReduceLROnPlateau"}
    kinds = {
        name
        for name, each in vars(lrs).items()
        if isinstance(each, type) and issubclass(each, lrs.LRScheduler) and name[0] != "_"
    }
    assert len(kinds) > 10
    assert kinds - tried == {"LRScheduler"}


class Watched(Scale):
    """Its losses are scripted, so that a plateau can be."""

    values: tuple[float, ...] = (5.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0)

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        loss = self.values[self.ctx.epoch - 1]
        return 0 * pred.mean() + (loss if self.ctx.training else 10 - loss)


@pytest.mark.parametrize(("monitor", "mode"), [("train_loss", "min"), ("valid_loss", "max")])
def test_a_scheduler_that_wants_a_value_gets_the_monitored_one(monitor: str, mode: str) -> None:
    options: dict[str, Any] = {"factor": 0.5, "patience": 1, "mode": mode}
    rates = Rates()
    trainable = lb.setup(Watched, optimizer=torch.optim.SGD)
    callback = LRScheduler(lrs.ReduceLROnPlateau, monitor=monitor, **options)
    trainable.set_opt_hparams(lr=0.1, momentum=0.9).fit(
        numbered(1),
        epochs=EPOCHS,
        valid_data=numbered(1),
        callbacks=[callback, rates],
        verbose=False,
    )
    optimizer = torch.optim.SGD(Scale().parameters(), lr=0.1)
    plateau = lrs.ReduceLROnPlateau(optimizer, **options)
    expected = []
    for value in Watched.values:
        expected.append(optimizer.param_groups[0]["lr"])
        plateau.step(value if mode == "min" else 10 - value)
    assert [rate for rate, _ in rates.seen] == expected
    assert min(expected) < 0.1


def test_a_value_that_others_log_earlier_at_the_same_breakpoint_can_be_watched() -> None:
    log = at("on_epoch_end", lambda ctx: ctx.log_metric("mine", 1.0, "train"))
    log.logs = ("train_mine",)
    callback = LRScheduler(lrs.ReduceLROnPlateau, monitor="train_mine")
    fit(Scale, log, callback, epochs=1)
    assert callback.schedulers["opt"].best == 1.0
    with pytest.raises(MonitorError, match="after epoch 1 the records are train_loss, valid_loss"):
        fit(Scale, callback, log, epochs=1)


def test_an_epoch_that_measured_nothing_is_not_shown() -> None:
    callback = LRScheduler(lrs.ReduceLROnPlateau, monitor="train_loss")
    skip = at("on_epoch_begin", lambda ctx: ctx.skip_epoch(), nth=2)
    fit(Scale, callback, skip, epochs=3)
    assert callback.schedulers["opt"].last_epoch == 2


def test_what_is_watched_has_to_be_there() -> None:
    plateau = lrs.ReduceLROnPlateau
    with pytest.raises(MonitorError, match="no validation data") as info:
        fit(Scale, LRScheduler(plateau), valid_data=None)
    assert 'LRScheduler cannot watch "valid_loss"' in str(info.value)
    with (
        pytest.warns(MonitorWarning, match="is no metric of this run"),
        pytest.raises(MonitorError, match="records are train_loss, valid_loss"),
    ):
        fit(Scale, LRScheduler(plateau, monitor="valid_los"))
    fit(Scale, LRScheduler(lrs.StepLR, step_size=1), valid_data=None)


@pytest.mark.parametrize(
    ("call_on", "monitor"),
    [
        ("on_train_batch_after_step", "valid_loss"),
        ("on_train_end", "valid_loss"),
        ("on_epoch_begin", "train_loss"),
        ("on_fit_begin", "train_loss"),
    ],
)
def test_a_value_that_is_not_there_yet_is_refused(call_on: str, monitor: str) -> None:
    callback = LRScheduler(lrs.ReduceLROnPlateau, call_on=call_on, monitor=monitor)
    with pytest.raises(ArgumentError, match=r'no value yet at on_.*Use call_on="on_epoch_end"'):
        fit(Scale, callback)


def test_a_named_optimizer_is_stepped_and_no_other() -> None:
    of_a, of_b = Rates("a"), Rates("b")
    callback = LRScheduler(lrs.ExponentialLR, opt_name="a", gamma=0.5)
    fit(Pair, callback, of_a, of_b, optimizer=None, loss=nn.MSELoss(), epochs=3, data=numbered(1))
    assert [rate for rate, _ in of_a.seen] == [0.1, 0.05, 0.025]
    assert [rate for rate, _ in of_b.seen] == [0.1, 0.1, 0.1]
    assert list(callback.schedulers) == ["a"]


def test_each_optimizer_has_a_scheduler_that_counts_its_own_steps() -> None:
    class Odd(Pair):
        """Steps "a" twice in a batch and "b" once in two."""

        def step(self, ctx: Any) -> None:
            steps = ["a", "a", *(["b"] if ctx.step_count % 2 == 0 else [])]
            for name in steps:
                ctx.forward()
                ctx.compute_loss()
                if ctx.training:
                    ctx.backward()
                    ctx.step_optimizer(name)

    callback = LRScheduler(lrs.StepLR, call_on="on_train_batch_after_step", step_size=100)
    fit(Odd, callback, optimizer=None, loss=lambda p, t: 0 * p.mean(), data=numbered(4))
    counts = {name: each.last_epoch for name, each in callback.schedulers.items()}
    assert counts == {"a": 16, "b": 4}


@pytest.mark.parametrize(
    ("call_on", "count"),
    [
        ("on_fit_begin", 1),
        ("on_epoch_begin", 3),
        ("on_train_batch_begin", 12),
        ("on_train_batch_before_step", 12),
        ("on_train_batch_end", 12),
        ("on_valid_end", 3),
        ("on_fit_end", 1),
        ("on_predict_end", 0),
    ],
)
def test_it_steps_at_any_breakpoint(call_on: str, count: int) -> None:
    callback = LRScheduler(lrs.StepLR, call_on=call_on, step_size=100)
    fit(Scale, callback, epochs=3, data=numbered(4))
    assert callback.schedulers["opt"].last_epoch == count


def test_a_breakpoint_of_a_subclass_is_one() -> None:
    class Mine(LRScheduler):
        breakpoints = ("on_my_event",)

    callback = Mine(lrs.StepLR, call_on="on_my_event", step_size=100)
    fit(Scale, callback, at("on_epoch_end", lambda ctx: ctx.call_callbacks("on_my_event"), nth=2))
    assert callback.schedulers["opt"].last_epoch == 1


def test_skipped_batches_are_no_steps_and_torch_does_not_warn() -> None:
    skip = at("on_train_batch_begin", lambda ctx: ctx.skip_batch())
    per_step = LRScheduler(lrs.StepLR, call_on="on_train_batch_after_step", step_size=100)
    fit(Scale, skip, per_step)
    assert per_step.schedulers["opt"].last_epoch == 3
    skip_all = at("on_epoch_begin", lambda ctx: ctx.skip_epoch())
    per_epoch = LRScheduler(sequence)
    fit(Scale, skip_all, per_epoch, epochs=4)
    assert per_epoch.schedulers["opt"].last_epoch == 4


def test_a_validation_pass_by_itself_steps_nothing() -> None:
    callback = LRScheduler(lrs.StepLR, call_on="on_valid_end", step_size=100)
    fitted = fit(Scale, callback)
    fitted.evaluate(numbered(1), callbacks=[callback], verbose=False)
    assert callback.schedulers["opt"].last_epoch == 2


def test_a_second_fit_begins_anew() -> None:
    callback, rates = LRScheduler(lrs.StepLR, step_size=1), Rates()
    first = run(callback, rates, epochs=2)
    second = run(callback, rates, epochs=2)
    assert rates.seen[: 2 * BATCHES] == rates.seen[2 * BATCHES :]
    assert torch.equal(first.model.weight, second.model.weight)


class Resume(lb.Callback):
    """Loads into the callback and the optimizer what was saved, as a fit does that goes on."""

    weight = float("inf")

    def __init__(self, callback: Any, saved: dict[str, Any]) -> None:
        self.callback, self.saved = callback, saved

    def on_fit_begin(self, ctx: Any) -> None:
        ctx.optimizers["opt"].load_state_dict(copy.deepcopy(self.saved["optimizer"]))
        self.callback.load_state_dict(self.saved["callback"])


def is_tree(value: Any) -> bool:
    """Whether it is made of what a file can hold, of the exact types and no others."""
    if type(value) is dict:
        return all(type(k) in (str, int) and is_tree(v) for k, v in value.items())
    if type(value) in (list, tuple):
        return all(map(is_tree, value))
    return value is None or type(value) in (bool, int, float, str, bytes, Tensor)


PLATEAU = (lrs.ReduceLROnPlateau, {"patience": 0, "factor": 0.5, "threshold": 10.0})


@pytest.mark.parametrize(
    ("scheduler", "options"), [*SCHEDULERS, PLATEAU], ids=[*NAMES, "ReduceLROnPlateau"]
)
@pytest.mark.parametrize("stop", [1, 3])
def test_a_fit_that_goes_on_has_the_rates_of_one_that_never_stopped(
    scheduler: Any, options: dict[str, Any], stop: int
) -> None:
    def callback() -> LRScheduler:
        return LRScheduler(scheduler, monitor="train_loss", **copy.deepcopy(options))

    whole = Rates()
    run(callback(), whole)
    first, saved = callback(), {}

    def save(ctx: Any) -> None:
        saved["optimizer"] = copy.deepcopy(ctx.optimizers["opt"].state_dict())
        saved["callback"] = copy.deepcopy(first.state_dict())

    begun = Rates()
    model = run(first, begun, at("on_epoch_end", save, nth=stop, weight=1e9), epochs=stop).model
    assert is_tree(saved["callback"])
    again, rest = callback(), Rates()
    run(again, rest, Resume(again, saved), module=model, epochs=EPOCHS - stop)
    assert begun.seen + rest.seen == whole.seen


def test_a_run_that_goes_on_ends_in_the_same_bits() -> None:
    options: dict[str, Any] = {"max_lr": 0.5, "total_steps": 40}
    saved: dict[str, Any] = {}

    def callback() -> LRScheduler:
        return LRScheduler(lrs.OneCycleLR, call_on="on_train_batch_after_step", **options)

    save = at("on_epoch_end", lambda ctx: saved.update(copy.deepcopy(ctx.state_dict())), nth=3,
              weight=math.inf)  # fmt: skip
    load = at("on_fit_begin", lambda ctx: ctx.load_state_dict(saved), weight=math.inf)
    rates, rest = Rates(), Rates()
    whole = run(callback(), rates, save)
    again = run(callback(), rest, load)
    assert rates.seen[3 * BATCHES :] == rest.seen
    assert torch.equal(whole.model.weight, again.model.weight)


def test_batches_that_are_gathered_for_a_step_count_as_one() -> None:
    callback = LRScheduler(lrs.StepLR, call_on="on_train_batch_after_step", step_size=100)
    fit(Scale, callback, lb.callbacks.GradientAccumulation(4), data=numbered(10), epochs=2)
    assert callback.schedulers["opt"].last_epoch == 6


def test_the_state_is_kept_by_the_name_of_the_optimizer() -> None:
    callback = LRScheduler(lrs.MultiStepLR, milestones=[3, 5])
    fit(Pair, callback, optimizer=None, loss=nn.MSELoss())
    state = callback.state_dict()
    assert {name: each["scheduler"] for name, each in state.items()} == {
        "a": "MultiStepLR",
        "b": "MultiStepLR",
    }
    assert state["a"]["state"]["last_epoch"] == 2
    assert json.loads(json.dumps(state))["b"]["state"]["milestones"] == {"3": 1, "5": 1}


def test_the_state_of_other_schedulers_is_refused() -> None:
    callback = LRScheduler(lrs.StepLR, step_size=1)
    state = {"opt": {"scheduler": "CosineAnnealingLR", "state": {}}}
    with pytest.raises(ArgumentError, match="that of opt: CosineAnnealingLR; this fit has opt: S"):
        fit(Scale, at("on_fit_begin", lambda ctx: callback.load_state_dict(state), weight=1e6),
            callback)  # fmt: skip
    with pytest.raises(ArgumentError, match="this fit has no scheduler"):
        LRScheduler(lrs.StepLR, step_size=1).load_state_dict(state)


def test_functions_of_a_scheduler_are_not_saved_and_stay_those_that_it_has() -> None:
    class Shaped(lrs.StepLR):
        def __init__(self, optimizer: Any) -> None:
            self.shape, self.point = math.sqrt, np.float64(0.5)
            super().__init__(optimizer, 1)

    callback = LRScheduler(Shaped)
    fit(Scale, callback)
    state = callback.state_dict()
    assert "shape" not in state["opt"]["state"]
    assert type(state["opt"]["state"]["point"]) is float
    callback.load_state_dict(state)
    assert callback.schedulers["opt"].shape is math.sqrt


def test_what_cannot_be_saved_is_refused_by_its_place() -> None:
    class Odd(lrs.StepLR):
        def __init__(self, optimizer: Any) -> None:
            self.odd = [1, {"here": object()}]
            super().__init__(optimizer, 1)

    callback = LRScheduler(Odd)
    fit(Scale, callback)
    with pytest.raises(ArgumentTypeError, match=r"Odd\.odd\[1\]\['here'\] is <object") as info:
        callback.state_dict()
    assert "Give the scheduler a state_dict()" in str(info.value)


def test_a_scheduler_of_ones_own_needs_no_more_than_step() -> None:
    class Halving:
        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.groups = optimizer.param_groups

        def step(self) -> None:
            for group in self.groups:
                group["lr"] /= 2

    rates = Rates()
    run(LRScheduler(Halving), rates, epochs=3)
    assert [rate for rate, _ in rates.seen[::BATCHES]] == [0.1, 0.05, 0.025]


# --- what `step` wants --------------------------------------------------------------------------


class Own:
    """A scheduler of somebody else's; what its steps were called with is in `seen`."""

    def __init__(self, optimizer: Any) -> None:
        self.seen: list[Any] = []


class OfEpoch(Own):
    def step(self, epoch: int) -> None:
        self.seen.append(epoch)


class OfT(Own):
    def step(self, t: int) -> None:
        self.seen.append(t)


class OfEpochMaybe(Own):
    def step(self, epoch: int | None = None) -> None:
        self.seen.append(epoch)


class LikeTimms(Own):
    def step(self, epoch: int, metric: float | None = None) -> None:
        self.seen.append((epoch, metric))


class OfMetrics(Own):
    def step(self, metrics: float, epoch: int | None = None) -> None:
        self.seen.append((epoch, metrics))


class OfLoss(Own):
    def step(self, loss: float) -> None:
        self.seen.append(loss)


@pytest.mark.parametrize(
    ("kind", "call_on", "seen"),
    [
        (OfEpoch, "on_epoch_end", [1, 2]),
        (OfEpoch, "on_train_batch_after_step", [1, 1, 2, 2]),
        (OfT, "on_epoch_end", [1, 2]),
        (OfEpochMaybe, "on_epoch_end", [1, 2]),
        (OfEpochMaybe, "on_train_batch_after_step", [None] * 4),
        (LikeTimms, "on_epoch_end", [(1, 2.0), (2, 2.0)]),
        (OfMetrics, "on_epoch_end", [(1, 2.0), (2, 2.0)]),
        (OfLoss, "on_epoch_end", [2.0, 2.0]),
    ],
)
def test_a_step_gets_what_its_arguments_are_named_for(kind: Any, call_on: str, seen: Any) -> None:
    callback = LRScheduler(kind, call_on=call_on)
    fit(Scale, callback)
    assert callback.schedulers["opt"].seen == seen


def test_a_value_that_a_scheduler_can_do_without_is_given_where_there_is_one() -> None:
    callback = LRScheduler(LikeTimms)
    fit(Scale, callback, valid_data=None)
    assert callback.schedulers["opt"].seen == [(1, None), (2, None)]
    with pytest.raises(MonitorError, match="no validation data"):
        fit(Scale, LRScheduler(OfMetrics), valid_data=None)


# --- groups -------------------------------------------------------------------------------------


def add_group(ctx: Any) -> None:
    weight = nn.Parameter(torch.ones(()))
    ctx.optimizers["opt"].add_param_group({"params": [weight], "lr": 0.08})


GROUPS_OF_THEIR_OWN = [
    (lrs.LambdaLR, {"lr_lambda": lambda epoch: 0.9**epoch}),
    (lrs.MultiplicativeLR, {"lr_lambda": lambda epoch: 0.9}),
    (lrs.ConstantLR, {"total_iters": 1}),
    (lrs.LinearLR, {"total_iters": 4}),
    (lrs.CosineAnnealingWarmRestarts, {"T_0": 2}),
    (lrs.OneCycleLR, {"max_lr": 0.5, "total_steps": 40}),
    (lrs.CyclicLR, {"base_lr": 0.01, "max_lr": 0.1}),
    (SWALR, {"swa_lr": 0.05}),
    (lrs.ReduceLROnPlateau, {"patience": 0, "threshold": 10.0, "min_lr": [0.0]}),
    (sequence, {}),
    (chain, {}),
]


@pytest.mark.parametrize(("scheduler", "options"), GROUPS_OF_THEIR_OWN)
def test_a_group_that_is_added_is_told_by_those_that_know_no_rate_for_it(
    scheduler: Any, options: dict[str, Any]
) -> None:
    callback = LRScheduler(scheduler, monitor="train_loss", **options)
    said = r"LRScheduler: the optimizer 'opt' has 2 parameter groups, and had 1 when"
    with pytest.raises(ArgumentError, match=said) as info:
        run(callback, at("on_epoch_begin", add_group, nth=2))
    assert 'Have all groups from the start, frozen ones too: torch.optim.SGD([{"params": head}' in (
        str(info.value)
    )


@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        (lrs.StepLR, {"step_size": 1, "gamma": 0.5}),
        (lrs.MultiStepLR, {"milestones": [1, 2, 3], "gamma": 0.5}),
        (lrs.ExponentialLR, {"gamma": 0.5}),
        (lrs.ReduceLROnPlateau, {"patience": 0, "threshold": 10.0, "factor": 0.5}),
    ],
)
def test_those_that_scale_whatever_group_there_is_go_on(
    scheduler: Any, options: dict[str, Any]
) -> None:
    callback = LRScheduler(scheduler, monitor="train_loss", **options)
    rates: list[list[float]] = []
    see = at("on_fit_end", lambda ctx: rates.extend([g["lr"] for g in ctx.opt.param_groups]))
    run(callback, see, at("on_epoch_begin", add_group, nth=3), epochs=3)
    assert rates == pytest.approx([0.1 / 8, 0.04])


def test_what_a_scheduler_of_ones_own_raises_is_its_own() -> None:
    class Strict(Own):
        def step(self) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(LRScheduler(Strict), at("on_epoch_begin", add_group))


# --- the rate of a schedule ---------------------------------------------------------------------

AFTER_STEP = "on_train_batch_after_step"


class Planned(Own):
    def __init__(self, optimizer: Any, total_steps: int) -> None:
        self.total_steps = total_steps

    def step(self) -> None: ...


@pytest.mark.parametrize(
    ("total", "call_on", "gathered", "count", "mend"),
    [
        (21, "on_epoch_end", 1, 7, AFTER_STEP),
        (20, "on_train_end", 1, 7, AFTER_STEP),
        (7, AFTER_STEP, 1, 21, "on_epoch_end"),
        (21, AFTER_STEP, 3, 7, "on_train_batch_end"),
        (21, "on_epoch_end", 3, 7, "on_train_batch_end"),
    ],
)
def test_a_schedule_planned_for_another_count_is_told_with_both_numbers(
    total: int, call_on: str, gathered: int, count: int, mend: str
) -> None:
    callback = LRScheduler(Planned, call_on=call_on, total_steps=total)
    said = rf"Planned is planned for {total} steps, and this run steps it {count} times, at "
    accumulation = lb.callbacks.GradientAccumulation(gathered)
    with pytest.warns(lb.LumbreWarning, match=rf'{said}{call_on}.*call_on="{mend}"'):
        run(accumulation, callback)


@pytest.mark.parametrize(
    ("total", "call_on", "gathered"),
    [
        (7, "on_epoch_end", 1),
        (21, AFTER_STEP, 1),
        (24, AFTER_STEP, 1),
        (7, AFTER_STEP, 3),
        (14, AFTER_STEP, 2),
        (21, "on_train_batch_end", 3),
        (1000, "on_epoch_end", 1),
        (21, "on_valid_end", 1),
    ],
)
def test_one_that_fits_or_is_merely_longer_is_not(total: int, call_on: str, gathered: int) -> None:
    callback = LRScheduler(Planned, call_on=call_on, total_steps=total)
    run(lb.callbacks.GradientAccumulation(gathered), callback)


def test_a_loader_without_a_length_is_not_judged() -> None:
    callback = LRScheduler(Planned, total_steps=21)
    optimizer = torch.optim.SGD((module := Scale()).parameters())
    with lb.run(module, optimizer, callbacks=[callback], epochs=7, verbose=False) as ctx:
        for _ in ctx.epochs():
            pass


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"call_on": "on_epoch_ends"}, ArgumentError, 'Did you mean "on_epoch_end"?'),
        ({"call_on": "after_step"}, ArgumentError, '"on_train_batch_after_step"?'),
        ({"call_on": None}, ArgumentError, "keys of lumbre.HOOKS"),
        ({"call_on": "qqqqq"}, ArgumentError, "keys of lumbre.HOOKS"),
        ({"opt_name": 1}, ArgumentTypeError, "opt_name is the name of an optimizer"),
        ({"monitor": None}, ArgumentError, "monitor is a set"),
        ({"monitor": "loss"}, ArgumentError, "LRScheduler: monitor is a set"),
        ({"step_sise": 3}, ArgumentTypeError, "It takes StepLR(optimizer"),
        ({"scheduler": "StepLR"}, ArgumentTypeError, "a class such as torch.optim.lr_scheduler"),
    ],
)
def test_arguments_are_checked_at_construction(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as info:
        LRScheduler(**{"scheduler": lrs.StepLR, "step_size": 1, **arguments})
    assert words in str(info.value)


def test_a_schedulers_instance_is_refused_with_the_class_to_pass() -> None:
    made = lrs.StepLR(torch.optim.SGD(Scale().parameters()), 1)
    with pytest.raises(ArgumentTypeError, match=r"Pass the class.*LRScheduler\(StepLR, \.\.\.\)"):
        LRScheduler(made)  # type: ignore[arg-type]


def test_an_unknown_optimizer_is_refused_with_those_there_are() -> None:
    callback = LRScheduler(lrs.StepLR, opt_name="bb", step_size=1)
    with pytest.raises(ArgumentError, match=r"no optimizer 'bb'; there are 'a', 'b'") as info:
        fit(Pair, callback, optimizer=None, loss=nn.MSELoss())
    assert 'Did you mean "b"?' in str(info.value)
    with pytest.raises(ArgumentError, match="there are 'opt'"):
        fit(Scale, callback)


def test_a_fit_without_optimizers_is_refused() -> None:
    class Own(nn.Module):
        def step(self, ctx: Any) -> None:
            ctx.loss = torch.zeros(())

    with pytest.raises(ArgumentError, match=r"no optimizer whose rate.*set_optimizers"):
        fit(Own, LRScheduler(lrs.StepLR, step_size=1), optimizer=None)


def test_a_factory_has_to_give_a_scheduler() -> None:
    with pytest.raises(ArgumentTypeError, match=r"has to give a scheduler.*it gave None"):
        fit(Scale, LRScheduler(lambda optimizer: None))


def test_it_shows_what_it_was_given() -> None:
    shown = LRScheduler(lrs.StepLR, call_on="on_train_end", opt_name="a", step_size=2)
    assert repr(shown) == ("LRScheduler(StepLR, call_on='on_train_end', opt_name='a', step_size=2)")


def test_it_has_its_place_among_others_as_it_was_passed_and_before_what_saves() -> None:
    plan = lb.schedule([at("on_epoch_end", print), LRScheduler(lrs.StepLR, step_size=1), EMA()])
    rows = [row for row in plan.rows if row[0] == "on_epoch_end"]
    assert [row[1] for row in rows][-3:] == ["ask", "LRScheduler", "EMA"]


def test_the_optimizer_is_let_go_with_the_callback_and_not_later() -> None:
    refs: list[Any] = []
    see = at("on_fit_begin", lambda ctx: refs.append(weakref.ref(ctx.opt)))
    callback = LRScheduler(lrs.StepLR, step_size=1)
    gc.collect()
    gc.disable()
    try:
        run(see, callback)
        assert refs[0]() is callback.schedulers["opt"].optimizer
        del callback
        assert refs[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_a_copy_steps_its_own_rates(again: Callable[[Any], Any]) -> None:
    first = LRScheduler(lrs.StepLR, step_size=1, gamma=0.5)
    run(first, epochs=1)
    second = again(first)
    fitted = [run(each, epochs=2) for each in (second, first)]
    assert fitted[0].records["metrics"] == fitted[1].records["metrics"]
    rates = [each.schedulers["opt"].get_last_lr() for each in (second, first)]
    assert rates == [[0.025], [0.025]]
