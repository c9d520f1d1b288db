"""KeepBestModel: whose weights a fit ends with."""

import copy
import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lumbre as lb
from lumbre.callbacks import (
    EMA,
    AutoResume,
    CSVLogger,
    EarlyStopping,
    KeepBestModel,
    ModelCheckpoint,
)
from lumbre.errors import ArgumentError, MonitorError
from runs import Scale, at, fit, numbered

# The modules of these tests have parameters that nobody uses.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The first batch gives no gradient:lumbre.LumbreWarning"
)

NAN = math.nan


def scripted(values: list[float]) -> type[nn.Module]:
    """A model whose weight and buffer are the epoch, and whose loss is the next of these values."""

    class Scripted(Scale):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.tied = nn.Linear(1, 1)
            self.other = nn.Linear(1, 1)
            self.other.weight = self.tied.weight

        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            with torch.no_grad():
                for each in (self.weight, self.count, self.tied.weight):
                    each.fill_(self.ctx.epoch)
            return 0 * pred.mean() + values[self.ctx.epoch - 1]

    return Scripted


def best(values: list[float], *callbacks: lb.Callback, epochs: Any = None, **options: Any) -> int:
    """The epoch whose weights the fit ends with."""
    keep = KeepBestModel(**options)
    module = scripted(values)
    fitted = fit(
        module, keep, *callbacks, data=numbered(1), epochs=epochs or len(values), optimizer=Frozen
    )
    ends: Any = fitted.model
    assert ends.weight.item() == ends.count.item() == ends.tied.weight.item()
    assert ends.other.weight is ends.tied.weight
    return int(ends.weight.item())


class Frozen(torch.optim.SGD):
    """Leaves the weights to the model."""

    def step(self, closure: Any = None) -> None:
        pass


@pytest.mark.parametrize(
    ("values", "options", "epoch"),
    [
        ([3, 1, 2], {}, 2),
        ([3, 1, 2], {"mode": "max"}, 1),
        ([3, -1, 2], {"mode": "zero"}, 2),
        ([3, 2.8, 2.4], {"min_delta": 0.5}, 3),
        ([3, 2.8, 2.6], {"min_delta": 0.5}, 1),
        ([3, 2, 2], {}, 2),
        ([NAN, 3, NAN], {}, 2),
        ([NAN, NAN], {}, 2),
        ([1, 2], {"monitor": "train_loss"}, 1),
    ],
)
@pytest.mark.filterwarnings("ignore::lumbre.errors.NonFiniteLossWarning")
def test_a_fit_ends_with_the_best_weights_and_buffers(
    values: list[float], options: dict[str, Any], epoch: int
) -> None:
    assert best(values, **options) == epoch


@pytest.mark.parametrize(
    "end",
    [
        EarlyStopping(),
        at("on_epoch_end", lambda ctx: ctx.stop("enough"), 2),
        at("on_train_batch_begin", lambda ctx: ctx.stop("enough"), 3),
        at("on_train_batch_begin", lambda ctx: ctx._interrupt(), 3),
    ],
    ids=["EarlyStopping", "stop", "stop in a pass", "Ctrl-C"],
)
def test_also_when_it_was_stopped(end: lb.Callback) -> None:
    assert best([1, 2, 0, 0], end) == 1


def test_also_after_a_second_ctrl_c() -> None:
    def press(ctx: Any) -> None:
        raise KeyboardInterrupt

    assert best([1, 2, 0], at("on_valid_batch_end", press, 2)) == 1


def test_also_after_an_exception_that_is_dealt_with() -> None:
    def handle(ctx: Any) -> None:
        ctx.handlers[ZeroDivisionError] = lambda ctx, error: None

    fails = at("on_valid_batch_end", lambda ctx: 1 // 0, 2)
    assert best([1, 2, 0], at("on_fit_begin", handle), fails) == 1


def test_an_epoch_that_was_cut_short_does_not_count() -> None:
    stop = at("on_train_batch_begin", lambda ctx: ctx.stop("enough"), 2)
    assert best([1, 0], stop, monitor="train_loss", epochs=2) == 1

    def handle(ctx: Any) -> None:
        ctx.handlers[ZeroDivisionError] = lambda ctx, error: None

    fails = at("on_train_end", lambda ctx: 1 // 0, 2)
    assert best([1, 0], at("on_fit_begin", handle), fails, monitor="train_loss") == 1


def test_it_comes_after_those_that_log_and_before_those_that_save() -> None:
    names = [KeepBestModel(), EMA(), CSVLogger("a"), ModelCheckpoint("b/"), AutoResume()]
    rows = [name for hook, name, *_ in lb.schedule(names).rows if hook == "on_epoch_end"]
    order = ["CSVLogger", "EMA", "KeepBestModel", "ModelCheckpoint", "AutoResume"]
    assert [name for name in rows if name in order] == order


def test_nothing_happens_where_no_epoch_has_counted() -> None:
    assert best([1, 2], at("on_train_batch_end", lambda ctx: ctx.stop("enough"))) == 1
    keep = KeepBestModel()
    fit(Scale, keep, lb.on("on_train_begin")(lambda ctx: ctx.skip_epoch()))
    assert keep.best_epoch is None
    assert math.isnan(keep.best_value)


def test_it_says_which_epoch_was_the_best() -> None:
    keep = KeepBestModel()
    fit(scripted([3, 1, 2]), keep, data=numbered(1), epochs=3)
    assert (keep.best_epoch, keep.best_value) == (2, 1.0)


def test_weights_are_copied_into_the_same_memory_each_time_and_tied_ones_once() -> None:
    keep = KeepBestModel()
    seen: list[dict[str, int]] = []

    @lb.on("on_epoch_end", weight=math.inf)
    def look(ctx: Any) -> None:
        seen.append({k: v.data_ptr() for k, v in keep.state_dict()["weights"].items()})

    fit(scripted([3, 2, 1]), keep, look, data=numbered(1), epochs=3)
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]["tied.weight"] == seen[0]["other.weight"]


def test_it_restores_in_place() -> None:
    module = scripted([1, 2])()
    parameters = list(module.parameters())
    where = [p.data_ptr() for p in parameters]
    optimizer = Frozen(module.parameters(), 0.1)
    setup = lb.setup(module, optimizer=optimizer)
    fitted = setup.fit(
        numbered(1), 2, KeepBestModel(), valid_data=numbered(1), verbose=False,
        accelerator=lb.Accelerator(cpu=True),
    )  # fmt: skip
    assert [p.data_ptr() for p in fitted.model.parameters()] == where
    assert all(a is b for a, b in zip(fitted.model.parameters(), parameters, strict=True))
    assert module.weight.item() == 1


def test_under_ema_the_best_are_the_averaged_weights_that_were_validated() -> None:
    torch.manual_seed(0)
    validated: list[dict[str, Tensor]] = []

    @lb.on("on_valid_begin", weight=math.inf)
    def copy_(ctx: Any) -> None:
        validated.append({k: v.clone() for k, v in ctx.model.state_dict().items()})

    x = torch.randn(32, 3)
    data = [x, x.sum(1, keepdim=True)]
    for order in (1, -1):
        validated.clear()
        keep = KeepBestModel(mode="max")
        fitted = lb.setup(nn.Linear(3, 1), nn.MSELoss(), torch.optim.SGD).fit(
            data, 4, [*[keep, EMA(0.5)][::order], copy_], valid_data=data, verbose=False,
            accelerator=lb.Accelerator(cpu=True), dataloader_options={"batch_size": 8},
        )  # fmt: skip
        assert keep.best_epoch == 1
        for name, value in fitted.model.state_dict().items():
            assert torch.equal(value, validated[0][name])
        loss = fitted.evaluate(data, verbose=False, accelerator=lb.Accelerator(cpu=True))
        assert loss.metrics["loss"] == pytest.approx(keep.best_value)


def test_its_state_has_the_weights_and_goes_on_without_any_file(tmp_path: Path) -> None:
    def run(kill: bool) -> KeepBestModel:
        keep = KeepBestModel()
        fails = at("on_train_begin", lambda ctx: 1 // 0, 3 if kill else 99)
        callbacks = keep, AutoResume(tmp_path / "state"), fails
        fit(scripted([1, 2, 3]), *callbacks, data=numbered(1), epochs=3, optimizer=Frozen)
        return keep

    with pytest.raises(ZeroDivisionError):
        run(True)
    keep = run(False)
    assert (keep.best_epoch, keep.best_value) == (1, 1.0)
    assert keep.state_dict()["weights"]["weight"].item() == 1


def test_it_can_be_copied_and_used_again() -> None:
    keep = KeepBestModel()
    fit(scripted([3, 1, 2]), keep, data=numbered(1), epochs=3)
    again = copy.deepcopy(keep)
    assert again.best_epoch == 2
    fit(scripted([5, 6]), again, data=numbered(1))
    assert (again.best_epoch, again.best_value) == (1, 5.0), "a new fit begins anew"


def test_without_validation_data_it_is_refused() -> None:
    with pytest.raises(MonitorError, match=r'KeepBestModel cannot watch "valid_loss": this fit'):
        fit(Scale, KeepBestModel(), valid_data=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": None}, "KeepBestModel: monitor is a set and the name of a record"),
        ({"mode": "best"}, "KeepBestModel: mode is"),
        ({"min_delta": NAN}, "KeepBestModel: min_delta is a number from 0; got nan"),
    ],
)
def test_arguments_are_checked_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        KeepBestModel(**options)


class Counting(Scale):
    """Counts its batches in a dict that it goes on changing."""

    def __init__(self, extra: Any = None) -> None:
        super().__init__()
        self.stats = {"batches": 0, "extra": extra}

    def forward(self, x: Tensor) -> Tensor:
        self.stats["batches"] += int(self.training)
        return super().forward(x)

    def get_extra_state(self) -> Any:
        return self.stats

    def set_extra_state(self, state: Any) -> None:
        self.stats = state


def test_the_extra_state_is_that_of_the_best_epoch() -> None:
    log = lb.on("on_epoch_end")(lambda ctx: ctx.log_metric("m", abs(ctx.epoch - 2), "train"))
    log.logs = ("m",)
    keep = KeepBestModel("train_m")
    fitted: Any = fit(Counting, log, keep, epochs=4)
    assert keep.best_epoch == 2
    assert fitted.model.stats == {"batches": 4, "extra": None}


def test_an_extra_state_that_cannot_be_copied_is_refused_when_the_fit_begins() -> None:
    steps: list[Any] = []
    see = lb.on("on_train_begin")(steps.append)
    with pytest.raises(ArgumentError, match=r"_extra_state is of type dict.*get_extra_state give"):
        fit(Counting(threading.Lock()), see, KeepBestModel())
    assert steps == []


def test_an_expanded_buffer_is_refused_when_the_fit_begins() -> None:
    class Expanded(Scale):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Module()
            self.inner.register_buffer("scale", torch.ones(1).expand(4))

    model = Expanded()
    with pytest.raises(RuntimeError, match="single memory location"):  # what torch says, too late
        model.load_state_dict({name: each.clone() for name, each in model.state_dict().items()})
    clone = r'register_buffer\("scale", value\.clone\(\)\)'
    with pytest.raises(ArgumentError, match=rf"KeepBestModel: inner\.scale is an exp.*{clone}"):
        fit(model, KeepBestModel())
    model.inner.scale = model.inner.scale.clone()
    fit(model, KeepBestModel())
