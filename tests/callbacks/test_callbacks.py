"""What holds for every callback that comes with lumbre: its docstring, and its place among all."""

import copy
import inspect
import os
import pickle
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre.files import form
from runs import at

DEFAULT = ["Profile", "TrainValid", "Metrics", "Progress", "Interrupt"]
# At each breakpoint those that are there run in this order.
ORDER = [
    "MixedPrecision",
    "GradientAccumulation",
    *DEFAULT,
    "Mixup",
    "GradientClip",
    "LRScheduler",
    "Throughput",
    "CSVLogger",
    "JSONLogger",
    "TensorBoard",
    "EMA",
    "KeepBestModel",
    "EarlyStopping",
    "StepHistory",
    "TerminateOnNaN",
    "ModelCheckpoint",
    "ResumeFromCheckpoint",
    "AutoResume",
]
# Of one weight: they keep the order in which they were passed.
ALIKE = [
    {"MixedPrecision", "GradientAccumulation"},
    {"Mixup", "GradientClip", "LRScheduler", "Throughput"},
    {"CSVLogger", "JSONLogger", "TensorBoard"},
    {"EarlyStopping", "StepHistory", "TerminateOnNaN"},
]
OWN = [name for name in lb.callbacks.__all__ if name not in DEFAULT]


def made(name: str, folder: Any = "folder") -> lb.Callback:
    arguments: dict[str, tuple[Any, ...]] = {
        "AutoResume": (f"{folder}/state",),
        "CSVLogger": (f"{folder}/log.csv",),
        "GradientAccumulation": (2,),
        "JSONLogger": (f"{folder}/log.jsonl",),
        "ModelCheckpoint": (f"{folder}/epochs/",),
        "ResumeFromCheckpoint": (f"{folder}/nothing",),
        "TensorBoard": (f"{folder}/runs",),
    }
    options: dict[str, dict[str, Any]] = {
        "JSONLogger": {"every": 2},
        "TensorBoard": {"every": 2},
        "Throughput": {"items": len},
        "EarlyStopping": {"patience": 5},
        "LRScheduler": {"scheduler": torch.optim.lr_scheduler.StepLR, "step_size": 1, "gamma": 0.9},
        "Mixup": {"auto_loss": True},
    }
    callback: lb.Callback = getattr(lb.callbacks, name)(
        *arguments.get(name, ()), **options.get(name, {})
    )
    return callback


def hooks_of(name: str) -> set[str]:
    given = [] if name in DEFAULT else [made(name)]
    return {row[0] for row in lb.schedule(given).rows if row[1] == name}


def place(given: list[str]) -> dict[str, list[str]]:
    """Who runs at each breakpoint, where these are passed in this order."""
    places: dict[str, list[str]] = {}
    for hook, name, *_ in lb.schedule([made(each) for each in given]).rows:
        places.setdefault(hook, []).append(name)
    return places


def test_all_of_them_are_here() -> None:
    assert sorted(ORDER) == sorted(lb.callbacks.__all__)
    assert len(OWN) == 17


@pytest.mark.parametrize("seed", range(20))
def test_each_has_its_place_wherever_it_was_passed(seed: int) -> None:
    given = random.Random(seed).sample(OWN, len(OWN))  # noqa: S311

    def rank(name: str) -> tuple[int, int]:
        alike = next((each for each in ALIKE if name in each), {name})
        among = min(map(ORDER.index, alike))
        return among, given.index(name) if name in given else ORDER.index(name)

    places = place(given)
    assert len(places) > 15
    for hook, names in places.items():
        assert names == sorted(names, key=rank), hook


def test_what_saves_sees_what_all_others_have_done() -> None:
    names = place(OWN)["on_epoch_end"]
    assert names[-2:] == ["ModelCheckpoint", "AutoResume"]
    assert {"EarlyStopping", "EMA", "KeepBestModel", "LRScheduler", "CSVLogger"} < set(names)


@pytest.mark.parametrize("name", OWN)
def test_the_docstring_names_each_breakpoint_the_weight_and_an_example(name: str) -> None:
    text = inspect.getdoc(getattr(lb.callbacks, name)) or ""
    hooks = hooks_of(name)
    assert hooks
    # Where a scheduler steps is an argument.
    own = {"on_epoch_end"} if name == "LRScheduler" else set()
    assert {hook for hook in hooks if f"`{hook}`" not in text} <= own
    acts = re.search(r"Acts at(.*?)at\s+weight\s+(\S+?)[.:,;]?\s", text, re.DOTALL)
    assert acts, "it does not say where it acts"
    assert set(re.findall(r"`(on_\w+)`", acts[1])) <= hooks
    assert float(acts[2]) == getattr(lb.callbacks, name).weight


@pytest.mark.parametrize("name", OWN)
def test_bad_arguments_are_told_under_its_name(name: str) -> None:
    kind = getattr(lb.callbacks, name)
    names = [each for each in inspect.signature(kind).parameters if "options" not in each]
    for wrong in names:
        with pytest.raises((lb.errors.ArgumentError, lb.errors.ArgumentTypeError)) as caught:
            kind(**{**_needed(kind), wrong: object()})
        assert name in str(caught.value)
        assert wrong in str(caught.value)


def _needed(kind: Any) -> dict[str, Any]:
    values = {"path": "file", "logdir": "folder", "steps": 2, "scheduler": _scheduler}
    return {each: values[each] for each in inspect.signature(kind).parameters if each in values}


def _scheduler(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])  # noqa: S301
@pytest.mark.parametrize("name", OWN)
def test_it_is_copied_and_pickled_with_what_it_was_made_of(
    name: str, clone: Callable[[Any], Any]
) -> None:
    callback = made(name)
    twin = clone(callback)
    assert twin is not callback
    assert repr(twin) == repr(callback)
    assert repr(twin.state_dict()) == repr(callback.state_dict())
    rows = [[row for row in lb.schedule(it).rows if row[1] == name] for it in (twin, callback)]
    assert rows[0] == rows[1] != []


def test_all_of_them_together_end_in_the_same_bits_after_a_kill_in_any_order(
    tmp_path: Path,
) -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(22, 3, generator=draw)
    data, valid = [x, x.sum(1, keepdim=True)], [x[:7], x[:7].sum(1, keepdim=True)]

    def run(folder: Path, names: list[str], *more: lb.Callback, seed: int = 0) -> lb.Fitted:
        torch.manual_seed(7)
        model = nn.Linear(3, 1)
        torch.manual_seed(seed)
        callbacks = [*(made(name, folder) for name in names), *more]
        # A checkpoint to begin from is beside the point where AutoResume has a file.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lb.LumbreWarning)
            return lb.setup(model, nn.MSELoss(), torch.optim.Adam).fit(
                data,
                epochs=6,
                callbacks=callbacks,
                valid_data=valid,
                verbose=False,
                dataloader_options={"batch_size": 4},
            )

    # Times differ from run to run.
    all_of_them = [name for name in OWN if name != "Throughput"]
    whole = run(tmp_path / "whole", all_of_them)
    killer = at("on_train_batch_end", lambda ctx: 1 // 0, 15)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "killed", all_of_them, killer)
    states = form.read(tmp_path / "killed" / "state", "checkpoint")["callbacks"]
    assert {"EMA", "KeepBestModel", "EarlyStopping", "LRScheduler", "ModelCheckpoint"} <= {*states}
    resumed = run(tmp_path / "killed", all_of_them[::-1], seed=3)
    assert resumed.records["metrics"] == whole.records["metrics"]
    assert torch.equal(resumed.model.weight, whole.model.weight)
    rows = [each.get_steps().drop(columns="seconds") for each in (resumed, whole)]
    assert rows[0].equals(rows[1])
    assert len(rows[0]) == 36
    for name in ("log.csv", "epochs"):
        left, right = tmp_path / "whole" / name, tmp_path / "killed" / name
        if left.is_dir():
            assert sorted(os.listdir(left)) == sorted(os.listdir(right))
        else:
            assert left.read_text() == right.read_text()
