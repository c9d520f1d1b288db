"""TensorBoard: what its own reader finds in the files that were written."""

import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import lumbre as lb
from epochs import Epochs, log, stopped_and_resumed
from lumbre.callbacks import TensorBoard
from lumbre.errors import ArgumentTypeError, LumbreError, MissingPackageError
from runs import Scale, at, fit

# The modules of these tests have parameters that nobody uses.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The first batch gives no gradient:lumbre.LumbreWarning"),
    pytest.mark.filterwarnings("ignore:After epoch:lumbre.LumbreWarning"),
]


def read(folder: Path) -> Any:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    return events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = read(folder)
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_each_set_is_a_run_with_a_point_an_epoch(tmp_path: Path) -> None:
    fit(Scale, TensorBoard(tmp_path / "a" / "b"), metrics=lb.metrics.MAE())
    assert sorted(each.name for each in (tmp_path / "a" / "b").iterdir()) == ["train", "valid"]
    assert scalars(tmp_path / "a" / "b" / "train") == {
        "loss": [(1, 3.0), (2, 3.0)],
        "mae": [(1, 2.0), (2, 2.0)],
        "lr": [(1, pytest.approx(0.1)), (2, pytest.approx(0.1))],
    }
    assert scalars(tmp_path / "a" / "b" / "valid") == {
        "loss": [(1, 2.0), (2, 2.0)],
        "mae": [(1, 1.0), (2, 1.0)],
    }


def test_without_validation_there_is_one_run(tmp_path: Path) -> None:
    fit(Scale, TensorBoard(str(tmp_path)), valid_data=None)
    assert [each.name for each in tmp_path.iterdir()] == ["train"]


def test_each_epoch_is_in_the_file_when_it_has_ended(tmp_path: Path) -> None:
    seen = []

    @lb.on("on_epoch_end", weight=2e6)
    def look(ctx: Any) -> None:
        seen.append(len(scalars(tmp_path / "train")["loss"]))

    fit(Scale, TensorBoard(tmp_path), look, epochs=3)
    assert seen == [1, 2, 3]


def test_a_vector_has_a_tag_for_each_value_and_a_matrix_none(tmp_path: Path) -> None:
    @lb.on("on_train_end")
    def log_arrays(ctx: Any) -> None:
        ctx.log_metric("each", torch.tensor([0.5, 0.25]))
        ctx.log_metric("matrix", torch.eye(2))

    fit(Scale, log_arrays, TensorBoard(tmp_path), epochs=1)
    assert scalars(tmp_path / "train") == {
        "loss": [(1, 3.0)],
        "each/0": [(1, 0.5)],
        "each/1": [(1, 0.25)],
        "lr": [(1, pytest.approx(0.1))],
    }


class Odd(nn.Module):
    """Parameters of kinds that a histogram cannot be made of just so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 3)
        self.short = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
        self.holes = nn.Parameter(torch.tensor([1.0, float("nan"), float("inf"), 2.0]))
        self.lost = nn.Parameter(torch.full((2,), float("nan")))
        self.empty = nn.Parameter(torch.empty(0))
        self.pair = nn.Parameter(torch.tensor([3 + 4j]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def loss(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (pred - target).square().mean()


def test_histograms_are_tagged_by_the_names_of_the_parameters(tmp_path: Path) -> None:
    fit(Odd, TensorBoard(tmp_path, histograms=True))
    events = read(tmp_path / "train")
    counts = {
        tag: [int(sum(event.histogram_value.bucket)) for event in events.Histograms(tag)]
        for tag in events.Tags()["histograms"]
    }
    assert counts == {
        "layer.weight": [3, 3],
        "layer.bias": [3, 3],
        "short": [4, 4],
        "holes": [2, 2],
        "pair": [1, 1],
    }
    assert events.Histograms("pair")[0].histogram_value.max == 5.0
    assert read(tmp_path / "valid").Tags()["histograms"] == []


def test_there_are_no_histograms_unless_asked_for(tmp_path: Path) -> None:
    fit(Odd, TensorBoard(tmp_path))
    assert read(tmp_path / "train").Tags()["histograms"] == []


def history(start: float, epochs: int) -> Any:
    return [
        {"train": {"loss": start + i}, "valid": {"loss": -start - i}} for i in range(1, epochs + 1)
    ]


@pytest.mark.parametrize("middle", [False, True])
def test_a_resumed_fit_goes_on_with_the_curves_and_doubles_no_point(
    tmp_path: Path, middle: bool
) -> None:
    log(TensorBoard(tmp_path), Epochs(history(0, 4)), 1, 4)
    log(TensorBoard(tmp_path), Epochs(history(10, 5)), 3, 5, middle)
    due = [(1, 1.0), (2, 2.0), (3, 13.0), (4, 14.0), (5, 15.0)]
    assert scalars(tmp_path / "train") == {"loss": due}
    assert scalars(tmp_path / "valid") == {"loss": [(step, -value) for step, value in due]}


def test_a_fit_that_was_killed_and_resumed_has_each_epoch_once(tmp_path: Path) -> None:
    stopped_and_resumed(Scale, lambda: TensorBoard(tmp_path))
    for set_ in ("train", "valid"):
        assert [step for step, _ in scalars(tmp_path / set_)["loss"]] == [1, 2, 3, 4, 5, 6]


def test_of_a_new_fit_in_the_same_folder_only_the_new_curves_are_shown(tmp_path: Path) -> None:
    logger = TensorBoard(tmp_path)
    log(logger, Epochs(history(0, 4)), 1, 4)
    log(logger, Epochs([{"train": {"loss": 7.0}}]), 1, 1)
    assert scalars(tmp_path / "train") == {"loss": [(1, 7.0)]}
    assert scalars(tmp_path / "valid") in ({}, {"loss": []})


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end", "on_fit_end"])
def test_an_exception_leaves_what_was_written_and_no_writer_behind(
    tmp_path: Path, hook: str
) -> None:
    threads = threading.active_count()
    logger = TensorBoard(tmp_path)
    with pytest.raises(ZeroDivisionError):
        fit(Scale, logger, at(hook, lambda ctx: 1 // 0, weight=2e6))
    assert threading.active_count() == threads
    assert logger._writers == {}
    if hook != "on_train_batch_end":
        assert scalars(tmp_path / "train")["loss"][0] == (1, 3.0)


def test_a_fit_that_ends_well_leaves_no_writer_behind(tmp_path: Path) -> None:
    threads = threading.active_count()
    fit(Scale, TensorBoard(tmp_path))
    assert threading.active_count() == threads


def test_it_goes_on_after_an_exception_that_ended_an_epoch_only(tmp_path: Path) -> None:
    @lb.on("on_fit_begin")
    def forgive(ctx: Any) -> None:
        ctx.epoch_handlers[ZeroDivisionError] = lambda ctx, error: None

    bad = at("on_valid_begin", lambda ctx: 1 // 0, nth=2)
    fit(Scale, forgive, bad, TensorBoard(tmp_path), epochs=3)
    assert [step for step, _ in scalars(tmp_path / "train")["loss"]] == [1, 2, 3]
    assert [step for step, _ in scalars(tmp_path / "valid")["loss"]] == [1, 3]


def test_a_missing_package_is_told_before_the_first_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    logger = TensorBoard(tmp_path)
    began: list[int] = []
    with pytest.raises(MissingPackageError, match=r"pip install 'lumbre\[tensorboard\]'") as caught:
        fit(Scale, logger, at("on_epoch_begin", lambda ctx: began.append(1)))
    assert began == []
    assert isinstance(caught.value, LumbreError)
    assert isinstance(caught.value, ModuleNotFoundError)


def test_the_package_is_not_imported_before_it_is_needed() -> None:
    import subprocess

    code = (
        "import sys, lumbre; lumbre.callbacks.TensorBoard('runs'); "
        "assert not [m for m in sys.modules if 'tensorboard' in m and 'lumbre' not in m]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_that_cannot_be_made_fails_before_the_first_epoch(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    began: list[int] = []
    with pytest.raises(OSError, match="file"):
        fit(Scale, TensorBoard(tmp_path / "file"), at("on_epoch_begin", lambda c: began.append(1)))
    assert began == []


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    log(TensorBoard(tmp_path / "runs"), Epochs(history(0, 1), is_main=False), 1, 1)
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_checked_when_it_is_made() -> None:
    with pytest.raises(ArgumentTypeError, match="TensorBoard: logdir is of type int"):
        TensorBoard(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="histograms is True or False; got 'yes'"):
        TensorBoard("runs", histograms="yes")  # type: ignore[arg-type]
