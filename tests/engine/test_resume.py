"""Runs that go on: killed anywhere, started with another seed, they end in the same bits."""

import copy
import math
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset

import lumbre as lb
from lumbre.callbacks import (
    EMA,
    AutoResume,
    CSVLogger,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    JSONLogger,
    KeepBestModel,
    LRScheduler,
    MixedPrecision,
    ModelCheckpoint,
    ResumeFromCheckpoint,
)

EPOCHS = 5


class Net(nn.Module):
    """Dropout draws, batch statistics are gathered."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Two(Net):
    """Two optimizers of two kinds."""

    def set_optimizers(self, lr: float) -> dict[str, torch.optim.Optimizer]:
        first, *_, last = self.layers
        return {
            "first": torch.optim.SGD(first.parameters(), lr, momentum=0.9),
            "last": torch.optim.Adam(last.parameters(), lr),
        }


def tensors(count: int = 36) -> list[Tensor]:
    own = torch.Generator().manual_seed(5)
    x = torch.randn(count, 4, generator=own)
    return [x, x.sum(1, keepdim=True) + 0.1 * torch.randn(count, 1, generator=own)]


class Noisy(Dataset[Any]):
    """Samples that draw from all three generators."""

    def __init__(self) -> None:
        self.x, self.y = tensors()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(()) + random.random() + float(np.random.rand())  # noqa: S311
        return self.x[i] + 0.01 * noise, self.y[i]


class Killed(Exception):
    pass


class Kill(lb.Callback):
    """Ends the fit the hard way in an epoch; in none, it does nothing."""

    def __init__(self, epoch: int | None, hook: str = "on_train_batch_end") -> None:
        self.epoch = epoch

        def kill(ctx: Any) -> None:
            if ctx.epoch == self.epoch and (ctx.iter == 2 or "batch" not in hook):
                raise Killed

        setattr(self, hook, kill)


class Last(lb.Callback):
    """The state of the run as the fit ends."""

    weight = math.inf

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def on_fit_end(self, ctx: Any) -> None:
        self.state = copy.deepcopy(ctx.state_dict())


class Extras(lb.Callback):
    """Logs, filters, and a state of its own."""

    logs = ("extra",)

    def __init__(self) -> None:
        self.draws: list[float] = []

    def on_train_batch_end(self, ctx: Any) -> None:
        self.draws.append(random.random() + float(np.random.rand()))  # noqa: S311

    @lb.once
    def on_epoch_begin(self, ctx: Any) -> None:
        ctx.log("first", "epochs", ctx.epoch)

    def on_epoch_end(self, ctx: Any) -> None:
        ctx.log("draws", "sums", sum(self.draws))
        ctx.log("tree", "any", {"epoch": ctx.epoch, "nan": math.nan})
        ctx.log_metric("extra", float(ctx.epoch))

    def state_dict(self) -> dict[str, Any]:
        return {"draws": list(self.draws)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = list(state["draws"])


def same(one: Any, other: Any, where: str = "state") -> None:
    """Hold two trees against each other, bit for bit."""
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor), where
        assert (one.dtype, one.shape) == (other.dtype, other.shape), where
        raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
        assert torch.equal(*raw), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{where}[{i}]")
    elif isinstance(one, float) and math.isnan(one):
        assert math.isnan(other), where
    else:
        assert one == other, where


def compared(state: dict[str, Any]) -> dict[str, Any]:
    """A state without the seconds that it took, and the batch of an epoch that is over."""
    records = {what: sets for what, sets in state["records"].items() if what != "profile"}
    return {**state, "records": records, "progress": {**state["progress"], "iter": None}}


def seed(number: int) -> None:
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(), batch_size=8, shuffle=True, **options)


def generator() -> torch.Generator:
    # In a run that is started again the loader is built again, and here with another seed.
    return torch.Generator().manual_seed(torch.initial_seed())


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "adam": {"optimizer": torch.optim.Adam},
    "in-memory data with a generator": {"data": lambda: lb.as_dataloader(
        tensors(), batch_size=8, shuffle=True, generator=generator())},
    "a split": {"data": tensors, "valid_data": 0.25},
    "a split of a data set": {"data": Noisy, "valid_data": 0.25},
    "torch's loader": {"data": loader},
    "torch's loader with a generator": {"data": lambda: loader(generator=generator())},
    "workers": {"data": lambda: loader(num_workers=2)},
    "workers with a generator": {"data": lambda: loader(num_workers=2, generator=generator())},
    "several optimizers": {"module": Two, "optimizer": None},
    "a schedule": {"callbacks": lambda: [LRScheduler(StepLR, step_size=2, gamma=0.5)]},
    "a schedule of steps": {"callbacks": lambda: [
        LRScheduler(OneCycleLR, call_on="on_train_batch_after_step", max_lr=0.1, total_steps=60)]},
    "a plateau": {"callbacks": lambda: [LRScheduler(ReduceLROnPlateau, patience=0, factor=0.5)]},
    "averages": {"callbacks": lambda: [EMA(0.8)]},
    "the best": {"callbacks": lambda: [KeepBestModel()]},
    "the best average": {"callbacks": lambda: [KeepBestModel("valid_loss", "max"), EMA(0.8)]},
    "patience": {"callbacks": lambda: [EarlyStopping("train_extra", patience=3), Extras()]},
    "accumulation": {"callbacks": lambda: [GradientAccumulation(3), GradientClip(0.5)]},
    "float16": {"callbacks": lambda: [MixedPrecision("fp16")]},
    "extras": {"callbacks": lambda: [Extras()]},
    "several schedules": {"module": Two, "optimizer": None, "callbacks": lambda: [
        LRScheduler(StepLR, step_size=2), LRScheduler(StepLR, step_size=1, opt_name="last"),
        GradientAccumulation(2, opt_name="first"), EMA(0.5),
        KeepBestModel("valid_mae")]},
}  # fmt: skip


def start(
    name: str, number: int, *extra: lb.Callback, epochs: int = EPOCHS, **changes: Any
) -> tuple[lb.Fitted, dict[str, Any]]:
    """Start the script of a case with a seed."""
    seed(number)
    case = {**CASES[name], **changes}
    module, optimizer = case.get("module", Net), case.get("optimizer", torch.optim.SGD)
    options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    trainable = lb.setup(module, nn.MSELoss(), optimizer, metrics=lb.metrics.MAE())
    trainable = trainable.set_opt_hparams(lr=0.05, **options)
    last, data = Last(), case.get("data", tensors)()
    is_loader = isinstance(data, DataLoader) or hasattr(data, "batch_size")
    fitted = trainable.fit(
        data,
        dataloader_options=None if is_loader else {"batch_size": 8},
        epochs=epochs,
        valid_data=case.get("valid_data", tensors(12)),
        callbacks=[*extra, *case.get("callbacks", list)(), last],
        verbose=False,
        accelerator=lb.Accelerator(cpu=True),
    )
    return fitted, compared(last.state)


def held(name: str, number: int, path: Path, kill: lb.Callback, **changes: Any) -> None:
    with pytest.raises(Killed):
        start(name, number, AutoResume(path), kill, **changes)
    assert path.exists()


@pytest.mark.parametrize("name", CASES)
def test_a_fit_that_was_killed_ends_in_the_bits_of_one_that_was_not(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "state.safetensors"
    expected = start(name, 1, AutoResume(tmp_path / "other"), Kill(None))
    held(name, 1, path, Kill(3))
    fitted, state = start(name, 2, AutoResume(path), Kill(None))
    same(state, expected[1])
    same(fitted.model.state_dict(), expected[0].model.state_dict())
    assert fitted.stop_reason == expected[0].stop_reason
    assert list(tmp_path.iterdir()) == [], "the files go when the fits end well"


def test_another_seed_alone_would_end_elsewhere() -> None:
    (_, one), (_, other) = start("plain", 1), start("plain", 2)
    with pytest.raises(AssertionError):
        same(one["model"], other["model"])


@pytest.mark.parametrize(
    "hook",
    [
        "on_fit_begin",
        "on_epoch_begin",
        "on_train_begin",
        "on_train_batch_before_step",
        "on_train_end",
        "on_valid_batch_end",
        "on_epoch_end",
        "on_fit_end",
    ],
)
def test_it_may_be_killed_at_any_breakpoint_and_more_than_once(hook: str, tmp_path: Path) -> None:
    path, name = tmp_path / "state.safetensors", "the best average"
    expected = start(name, 1, AutoResume(tmp_path / "other"), Kill(None))[1]
    held(name, 1, path, Kill(2))
    epoch = {"on_fit_begin": 0, "on_fit_end": EPOCHS}.get(hook, 3)
    held(name, 2, path, Kill(epoch, hook))
    same(start(name, 3, AutoResume(path), Kill(None))[1], expected)


def test_workers_that_live_as_long_as_the_fit_are_exact_where_they_draw_nothing(
    tmp_path: Path,
) -> None:
    class Plain(Noisy):
        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            return self.x[i], self.y[i]

    def data() -> DataLoader[Any]:
        return DataLoader(Plain(), 8, shuffle=True, num_workers=1, persistent_workers=True)

    path = tmp_path / "state.safetensors"
    expected = start("plain", 1, AutoResume(tmp_path / "other"), Kill(None), data=data)[1]
    held("plain", 1, path, Kill(3), data=data)
    same(start("plain", 2, AutoResume(path), Kill(None), data=data)[1], expected)


_SCRIPT = """
import os, sys, torch, lumbre as lb
torch.manual_seed(int(sys.argv[1]))
dies = int(sys.argv[2])
net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
data = [torch.linspace(0, 1, 160).reshape(40, 4), torch.linspace(1, 0, 40)[:, None]]

@lb.on("on_train_batch_end")
def die(ctx):
    if ctx.step_count == dies:
        os._exit(9)

setup = lb.setup(net, torch.nn.MSELoss(), torch.optim.Adam).set_opt_hparams(lr=0.01)
fitted = setup.fit(
    data, epochs=4, valid_data=0.2, callbacks=[lb.callbacks.AutoResume(sys.argv[3]), die],
    dataloader_options={"batch_size": 8},
)
lb.save_model_weights(fitted, sys.argv[4])
print(fitted.records["metrics"])
"""


def test_a_process_that_died_goes_on_in_another_one(tmp_path: Path) -> None:
    def script(number: int, dies: int, name: str) -> "subprocess.CompletedProcess[str]":
        paths = [str(tmp_path / f"{name}.state"), str(tmp_path / f"{name}.weights")]
        command = [sys.executable, "-c", _SCRIPT, str(number), str(dies), *paths]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    expected = script(1, 0, "whole")
    assert expected.returncode == 0, expected.stderr
    assert script(1, 10, "dead").returncode == 9
    assert script(2, 15, "dead").returncode == 9
    found = script(3, 0, "dead")
    assert found.returncode == 0, found.stderr
    assert found.stdout == expected.stdout
    files = [(tmp_path / f"{name}.weights").read_bytes() for name in ("whole", "dead")]
    assert files[0] == files[1]


def test_a_checkpoint_resumed_whole_is_exact_too(tmp_path: Path) -> None:
    def callbacks(folder: Path, *own: lb.Callback) -> list[lb.Callback]:
        # The one that saves comes first in the list, and all the same has the others' last word.
        saves = ModelCheckpoint(f"{folder}/", "valid_mae", keep=2)
        return [saves, *own, EMA(0.5), KeepBestModel(), EarlyStopping(patience=4), Extras()]

    expected = start("plain", 1, *callbacks(tmp_path / "whole"), Kill(None))
    with pytest.raises(Killed):
        start("plain", 1, *callbacks(tmp_path / "dead"), Kill(4))
    whole = {"restore_records": True, "restore_optimizer_state": True}
    resume = ResumeFromCheckpoint(tmp_path / "dead", restore_callbacks_state=True, **whole)
    fitted, state = start("plain", 2, *callbacks(tmp_path / "dead", resume), Kill(None))
    for part in ("model", "optimizers", "rng"):
        same(state[part], expected[1][part])
    same(state["records"], expected[1]["records"])
    same(fitted.model.state_dict(), expected[0].model.state_dict())


def test_records_hold_nothing_for_the_epochs_before_unless_they_are_restored(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.safetensors"
    start("plain", 1, ModelCheckpoint(path), epochs=3)
    fitted, state = start("plain", 2, ResumeFromCheckpoint(path))
    metrics = fitted.records["metrics"]
    assert [bool(epoch) for epoch in metrics["train"]] == [False] * 3 + [True] * 2
    assert [bool(epoch) for epoch in metrics["valid"]] == [False] * 3 + [True] * 2
    assert set(fitted.get_metrics()["epoch"]) == {4, 5}
    assert state["progress"]["epoch"] == EPOCHS


def test_a_stop_of_the_fit_that_was_saved_does_not_hold_for_one_that_begins_from_it(
    tmp_path: Path,
) -> None:
    stops = EarlyStopping(mode="max", min_delta=9e9)
    fitted, _ = start("plain", 1, ModelCheckpoint(tmp_path / "a"), stops)
    assert len(fitted.records["metrics"]["train"]) == 2
    fitted, _ = start("plain", 1, ResumeFromCheckpoint(tmp_path / "a"))
    assert len(fitted.records["metrics"]["train"]) == EPOCHS
    assert fitted.stop_reason is None


def test_a_split_that_cannot_be_the_same_is_warned_about(tmp_path: Path) -> None:
    start("a split", 1, ModelCheckpoint(tmp_path / "a"), epochs=1)
    resume = ResumeFromCheckpoint(tmp_path / "a")
    for name, data, found in [
        ("a split", lambda: tensors(40), ("30 samples", "10 samples")),
        ("plain", tensors, ("no split", "no split")),
    ]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            start(name, 1, resume, data=data)
        texts = [str(each.message) for each in caught]
        assert len(texts) == 2
        assert f"left 27 samples for train, and this one has {found[0]}: it goes on" in texts[0]
        assert f"left 9 samples for valid, and this one has {found[1]}: it goes on" in texts[1]


def test_a_loop_of_ones_own_resumes_with_its_loaders_generator(tmp_path: Path) -> None:
    def own(number: int, kill: int | None, path: Path) -> dict[str, Any]:
        seed(number)
        model, last = Net(), Last()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        data = loader(generator=generator())
        options: dict[str, Any] = {"loss": nn.MSELoss(), "epochs": 4, "verbose": False}
        options["callbacks"] = [AutoResume(path), Kill(kill), last]
        with lb.run(model, optimizer, accelerator=lb.Accelerator(cpu=True), **options) as ctx:
            for _ in ctx.epochs():
                for _ in ctx.train(data):
                    ctx.step(ctx)
        return compared(last.state)

    expected = own(1, None, tmp_path / "other")
    with pytest.raises(Killed):
        own(1, 3, tmp_path / "state")
    same(own(2, None, tmp_path / "state"), expected)


@pytest.mark.parametrize("kind", [CSVLogger, JSONLogger])
def test_logs_go_on_where_the_fit_does(kind: Any, tmp_path: Path) -> None:
    path, whole, resumed = (tmp_path / name for name in ("state", "whole", "resumed"))

    def rows(log: Path) -> list[str]:
        # A JSON line begins with the time.
        return [line.partition('"epoch"')[2] or line for line in log.read_text().splitlines()]

    start("plain", 1, AutoResume(tmp_path / "other"), Kill(None), kind(whole))
    with pytest.raises(Killed):
        start("plain", 1, AutoResume(path), Kill(3, "on_epoch_end"), kind(resumed))
    start("plain", 2, AutoResume(path), Kill(None), kind(resumed))
    assert len(rows(whole)) >= 2 * EPOCHS
    assert rows(resumed) == rows(whole)
