"""Whose state it is: every change of a script between two starts is refused or told."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import lumbre as lb
from lumbre.callbacks import (
    EMA,
    AutoResume,
    EarlyStopping,
    GradientClip,
    KeepBestModel,
    LRScheduler,
    ModelCheckpoint,
    StepHistory,
)
from lumbre.errors import FileError
from lumbre.files import form
from runs import at

S = torch.optim.lr_scheduler
X = torch.linspace(-1, 1, 36).reshape(12, 3)
Y = X.sum(1, keepdim=True)


class Net(nn.Module):
    def __init__(self, width: int = 4, p: float = 0.5) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(3, width), nn.Dropout(p)
        self.outer = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.drop(self.inner(x).tanh()))


class Other(Net):
    """The same tensors in another class."""


class Counts(lb.Callback):
    """A callback of the user's with state."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, ctx: Any) -> None:
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches = state["batches"]


class Kills(lb.Callback):
    armed = True

    def on_train_batch_end(self, ctx: Any) -> None:
        if self.armed and ctx.step_count == 6:
            raise ZeroDivisionError


class Renamed(Counts):
    name = "Counts"


@dataclasses.dataclass
class Script:
    """A script, with all that one may change in it."""

    module: Any = Net
    hparams: dict[str, Any] = dataclasses.field(default_factory=lambda: {"width": 4})
    optimizer: Any = torch.optim.SGD
    opt_hparams: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"lr": 0.1, "momentum": 0.5}
    )
    loss: Any = dataclasses.field(default_factory=nn.MSELoss)
    metrics: Any = dataclasses.field(default_factory=lb.metrics.MAE)
    data: Any = dataclasses.field(default_factory=lambda: [X, Y])
    valid: Any = dataclasses.field(default_factory=lambda: [X[:4], Y[:4]])
    epochs: Any = 4
    options: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"batch_size": 3, "shuffle": True}
    )
    limits: dict[str, Any] = dataclasses.field(default_factory=dict)
    accelerator: Any = dataclasses.field(default_factory=lambda: lb.Accelerator(cpu=True))
    callbacks: Callable[[], list[Any]] = lambda: [
        EarlyStopping(patience=9),
        LRScheduler(S.StepLR, step_size=2),
        Counts(),
    ]

    def start(self, path: Path, *more: Any, **resume: Any) -> lb.Fitted:
        torch.manual_seed(0)
        trainable = lb.setup(self.module, self.loss, self.optimizer, self.metrics)
        trainable = trainable.set_hparams(**self.hparams).set_opt_hparams(**self.opt_hparams)
        return trainable.fit(
            self.data,
            self.epochs,
            [AutoResume(path, every=["epoch", 1], **resume), *self.callbacks(), *more],
            self.valid,
            self.accelerator,
            False,
            self.options if not isinstance(self.data, DataLoader) else None,
            **self.limits,
        )


def killed(path: Path, **script: Any) -> None:
    """Leave the state of a fit that was killed in its third epoch, behind its second batch."""
    with pytest.raises(ZeroDivisionError):
        Script(**script).start(path, at("on_train_batch_end", lambda ctx: 1 // 0, 11))
    assert form.read(path)["open"]["iter"] == 2


def calls(**changed: Any) -> Callable[[], list[Any]]:
    """The callbacks of the script with one that is changed."""
    kinds = {
        "stop": EarlyStopping(patience=9),
        "schedule": LRScheduler(S.StepLR, step_size=2),
        "counts": Counts(),
    }
    return lambda: [each for each in {**kinds, **changed}.values() if each is not None]


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=3, **options)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "lr": ({"opt_hparams": {"lr": 0.01, "momentum": 0.5}}, r"opt_hparams\.lr: 0\.1 → 0\.01"),
    "decay": (
        {"opt_hparams": {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.5}},
        r"opt_hparams\.weight_decay: nothing → 0\.5",
    ),
    "momentum": ({"opt_hparams": {"lr": 0.1, "momentum": 0.9}}, r"momentum: 0\.5 → 0\.9"),
    "fewer epochs": ({"epochs": 3}, "max_epochs: 4 → 3"),
    "steps_per_epoch": ({"limits": {"steps_per_epoch": 3}}, "steps_per_epoch: nothing → 3"),
    "valid_every": ({"limits": {"valid_every": 2}}, "valid_every: 1 → 2"),
    "valid_steps": ({"limits": {"valid_steps": 1}}, "valid_steps: nothing → 1"),
    "valid_first": ({"limits": {"valid_first": True}}, "valid_first: False → True"),
    "max_steps": ({"limits": {"max_steps": 12}, "epochs": 4}, "max_steps: nothing → 12"),
    "schedule's option": (
        {"callbacks": calls(schedule=LRScheduler(S.StepLR, step_size=3))},
        r"scheduler_options: \{'step_size': 2\} → \{'step_size': 3\}",
    ),
    "schedule": (
        {"callbacks": calls(schedule=LRScheduler(S.ExponentialLR, gamma=0.5))},
        r"LRScheduler.scheduler: torch\S*StepLR → torch\S*ExponentialLR",
    ),
    "no schedule": ({"callbacks": calls(schedule=None)}, "LRScheduler: .* → nothing"),
    "monitor": (
        {"callbacks": calls(stop=EarlyStopping("train_loss", patience=9))},
        "EarlyStopping.monitor: 'valid_loss' → 'train_loss'",
    ),
    "patience": (
        {"callbacks": calls(stop=EarlyStopping(patience=1))},
        "EarlyStopping.patience: 9 → 1",
    ),
    "a callback more": ({"callbacks": calls(ema=EMA(0.5))}, "EMA: nothing → .*EMA"),
    "another callback": ({"callbacks": calls(counts=Renamed())}, r"Counts: \S*Counts → \S*Renamed"),
    "batch size": ({"options": {"batch_size": 4, "shuffle": True}}, r"data\.batch_size: 3 → 4"),
    "shuffle": ({"options": {"batch_size": 3, "shuffle": False}}, "order: shuffled → as it is"),
    "longer data": (
        {"data": [torch.cat([X, X]), torch.cat([Y, Y])]},
        r"training data\.samples: 12 → 24",
    ),
    "other values": ({"data": [X, Y + 1]}, r"training data\.content: \w+ → \w+"),
    "other kind of data": ({"data": loader(shuffle=True)}, "training data: .*Samples → .*Tensor"),
    "sampler": (
        {"data": loader(sampler=WeightedRandomSampler([1.0] * 12, 12))},
        "order: shuffled → .*WeightedRandomSampler",
    ),
    "other validation data": ({"valid": [X[4:8], Y[4:8]]}, r"validation data\.content: "),
    "no validation data": (
        {"valid": None, "callbacks": calls(stop=EarlyStopping("train_loss", patience=9))},
        "validation data: .* → nothing",
    ),
    "width": ({"hparams": {"width": 5}}, r"hparams\.width: 4 → 5"),
    "dropout": ({"hparams": {"width": 4, "p": 0.1}}, r"Dropout\(p=0.5.*→ .*p=0.1"),
    "class of the model": ({"module": Other}, r"module: \S*\.Net → \S*\.Other"),
    "dtype": ({"module": lambda **o: Net(**o).double(), "data": [X.double(), Y.double()],
               "valid": [X[:4].double(), Y[:4].double()]},
              "dtypes: torch.float32 → torch.float64"),
    "loss": ({"loss": nn.L1Loss()}, r"loss: MSELoss\(\) → L1Loss\(\)"),
    "function of the loss": ({"loss": nn.functional.mse_loss}, r"loss: MSELoss\(\) → \S*mse_loss"),
    "metric": ({"metrics": lb.metrics.RMSE()}, "metric train_mae: .* → nothing"),
    "optimizer": (
        {"optimizer": torch.optim.AdamW, "opt_hparams": {"lr": 0.1}},
        r"optimizer opt: \S*SGD → \S*AdamW",
    ),
    "precision": ({"accelerator": lb.Accelerator(cpu=True, mixed_precision="bf16")},
                  "precision: no → bf16"),
}  # fmt: skip


@pytest.mark.parametrize("change", REFUSED)
def test_a_change_is_refused_with_what_was_and_what_is(change: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path)
    before = path.read_bytes()
    changed, message = REFUSED[change]
    with pytest.raises(FileError, match=rf"state of another fit than this one.*:[\s\S]*{message}"):
        Script(**changed).start(path)
    assert path.read_bytes() == before


def test_all_that_differs_is_said_at_once(tmp_path: Path) -> None:
    killed(tmp_path / "state")
    changed = Script(
        opt_hparams={"lr": 0.2, "momentum": 0.5}, loss=nn.L1Loss(), data=[X, Y + 1], epochs=2
    )
    with pytest.raises(FileError) as caught:
        changed.start(tmp_path / "state")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:-1]] == [
        "opt_hparams.lr",
        "loss",
        "max_epochs",
        "training data.content",
    ]
    assert 'changed="new"' in lines[-1]


TOLD: dict[str, tuple[dict[str, Any], str]] = {
    "workers": ({"options": {"batch_size": 3, "shuffle": True, "num_workers": 1}}, "workers: 0 → "),
    "a callback without state": (
        {"callbacks": calls(clip=GradientClip(1.0))},
        "GradientClip: nothing → .*GradientClip",
    ),
}


@pytest.mark.parametrize("change", TOLD)
def test_what_is_not_refused_is_told(change: str, tmp_path: Path) -> None:
    killed(tmp_path / "state")
    changed, message = TOLD[change]
    with pytest.warns(
        lb.LumbreWarning, match=rf"by a fit that differs from this.*:[\s\S]*{message}"
    ):
        Script(**changed).start(tmp_path / "state")


@pytest.mark.parametrize("version", ["torch", "Python", "lumbre", "device"])
def test_other_versions_and_devices_are_told(version: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path)
    state = form.read(path)
    state["fit"]["told"][version] = "0.5.7"
    form.write(path, state, "checkpoint")
    with pytest.warns(lb.LumbreWarning, match=rf"{version}: 0\.5\.7 → "):
        Script().start(path)


@pytest.mark.parametrize("epochs", [5, 9])
def test_more_epochs_are_no_difference(epochs: int, tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path)
    fitted = Script(epochs=epochs).start(path)
    assert len(fitted.records["metrics"]["train"]) == epochs


def test_the_same_fit_is_told_nothing(tmp_path: Path, recwarn: Any) -> None:
    kill = Kills()
    with pytest.raises(ZeroDivisionError):
        Script(callbacks=calls(kill=kill)).start(tmp_path / "state")
    kill.armed = False
    Script(callbacks=calls(kill=kill)).start(tmp_path / "state")
    assert [each.message for each in recwarn] == []


class Rates(lb.Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[float, float, float]] = []

    def on_train_batch_after_step(self, ctx: Any) -> None:
        group = ctx.opt.param_groups[0]
        self.seen.append((group["lr"], group["momentum"], group["weight_decay"]))


def test_new_options_are_those_of_the_script_and_a_schedule_keeps_its_ratio(tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path)
    rates = Rates()
    new = Script(opt_hparams={"lr": 0.02, "momentum": 0.9, "weight_decay": 0.25}, epochs=5)
    with pytest.warns(lb.LumbreWarning, match=r"opt_hparams.lr: 0\.1 → 0\.02[\s\S]*what it is now"):
        fitted = new.start(path, rates, changed="new")
    # From 0.1 the schedule has gone to a tenth by then, and goes to a hundredth behind epoch 4.
    expected = [(0.002, 0.9, 0.25)] * 6 + [(0.0002, 0.9, 0.25)] * 4
    assert [tuple(map(pytest.approx, each)) for each in expected] == rates.seen
    assert fitted.opt_hparams["lr"] == 0.02
    assert len(fitted.records["metrics"]["train"]) == 5


def test_new_options_of_a_schedule(tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path)
    rates = Rates()
    new = Script(callbacks=calls(schedule=LRScheduler(S.StepLR, step_size=4, gamma=0.5)), epochs=5)
    new.start(path, rates, changed="new")
    assert [each[0] for each in rates.seen] == pytest.approx([0.01] * 6 + [0.005] * 4)


def test_another_schedule_and_another_monitor_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path)
    rates = Rates()
    callbacks = calls(
        schedule=LRScheduler(S.ExponentialLR, gamma=0.5),
        stop=EarlyStopping("train_loss", patience=9),
    )
    with pytest.warns(lb.LumbreWarning, match="it begins anew") as caught:
        Script(callbacks=callbacks).start(path, rates, changed="new")
    anew = [str(each.message) for each in caught if "begins anew" in str(each.message)]
    assert [each.split()[0] for each in sorted(anew)] == ["EarlyStopping", "LRScheduler"]
    assert [each[0] for each in rates.seen] == pytest.approx([0.1] * 2 + [0.05] * 4)


@pytest.mark.parametrize("change", [name for name in REFUSED if name != "fewer epochs"])
def test_new_goes_on_with_all_but_another_model(change: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path)
    changed, _ = REFUSED[change]
    script = Script(**changed)
    if change in ("class of the model", "dtype", "optimizer", "width"):
        with pytest.raises(FileError):
            script.start(path, changed="new")
        return
    with pytest.warns(lb.LumbreWarning):
        fitted = script.start(path, changed="new")
    assert fitted.records["metrics"]["train"]


def test_changed_data_begin_the_open_epoch_anew(tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path)
    seen: list[tuple[int, int]] = []
    see = lb.on("on_train_batch_begin")(lambda ctx: seen.append((ctx.epoch, ctx.iter)))
    Script(data=[X, Y + 1]).start(path, see, changed="new")
    assert seen == [(epoch, batch) for epoch in (3, 4) for batch in (1, 2, 3, 4)]


def test_saved_takes_the_options_of_the_state(tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path)
    whole = Script().start(tmp_path / "whole")
    changed = Script(
        hparams={"width": 9}, opt_hparams={"lr": 3.0}, epochs=2,
        callbacks=calls(schedule=LRScheduler(S.StepLR, step_size=3)),
    )  # fmt: skip
    fitted = changed.start(path, changed="saved")
    assert dict(fitted.hparams) == {"width": 4}
    assert dict(fitted.opt_hparams) == {"lr": 0.1, "momentum": 0.5}
    for one, other in zip(whole.model.parameters(), fitted.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert fitted.records["metrics"] == whole.records["metrics"]


def test_a_state_of_saved_options_is_one_of_these(tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path)
    whole = Script().start(tmp_path / "whole")
    changed = Script(
        opt_hparams={"lr": 3.0}, callbacks=calls(schedule=LRScheduler(S.StepLR, step_size=3))
    )
    with pytest.raises(ZeroDivisionError):
        changed.start(path, at("on_train_batch_end", lambda ctx: 1 // 0, 3), changed="saved")
    again = Script().start(path)
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("change", ["other values", "class of the model", "loss", "monitor"])
def test_saved_refuses_what_it_cannot_take(change: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path)
    changed, message = REFUSED[change]
    with pytest.raises(FileError, match=rf"[\s\S]*{message}[\s\S]*With changed=.saved. hparams"):
        Script(**changed).start(path, changed="saved")


def test_the_first_of_two_fits_does_not_take_the_state_of_the_second(tmp_path: Path) -> None:
    path = tmp_path / "state"
    fits = Script(data=[X[:6], Y[:6]]), Script(data=[X[6:], Y[6:] + 5])
    fits[0].start(path)
    with (
        pytest.warns(lb.LumbreWarning, match="was the path of a fit of this process that has come"),
        pytest.raises(ZeroDivisionError),
    ):
        fits[1].start(path, at("on_train_batch_end", lambda ctx: 1 // 0, 3))
    with pytest.raises(FileError, match=r"training data\.content"):
        fits[0].start(path)


def test_files_and_times_are_no_part_of_a_fit(tmp_path: Path) -> None:
    path = tmp_path / "state"
    killed(path, callbacks=calls(keep=ModelCheckpoint(f"{tmp_path}/a/"), best=KeepBestModel(),
                                 steps=StepHistory()))  # fmt: skip
    changed = calls(keep=ModelCheckpoint(f"{tmp_path}/b/"), best=KeepBestModel(),
                    steps=StepHistory())  # fmt: skip
    Script(callbacks=changed, limits={"max_time": "1h"}).start(path)
