"""CSVLogger: a row a set and epoch, there as soon as the epoch has ended."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lumbre as lb
from epochs import Epochs, log, stopped_and_resumed
from lumbre.callbacks import CSVLogger
from lumbre.errors import ArgumentError, ArgumentTypeError
from runs import Scale, at, fit, numbered


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_it_writes_a_header_once_and_a_row_a_set_and_epoch(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    fit(Scale, CSVLogger(path), metrics=lb.metrics.MAE())
    assert rows(path) == [
        ["epoch", "set", "loss", "mae", "lr"],
        ["1", "train", "3.0", "2.0", "0.1"],
        ["1", "valid", "2.0", "1.0", ""],
        ["2", "train", "3.0", "2.0", "0.1"],
        ["2", "valid", "2.0", "1.0", ""],
    ]


def test_it_reads_back_as_the_records(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    fitted = fit(
        Scale, CSVLogger(str(path)), loss=lambda p, t: (p / 3 - t).square().mean(), epochs=3
    )
    frame = pd.read_csv(path)
    for set_, entries in fitted.records["metrics"].items():
        assert list(frame[frame["set"] == set_]["loss"]) == [entry["loss"] for entry in entries]


def test_folders_are_made_and_a_new_fit_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "log.csv"
    logger = CSVLogger(path)
    fit(Scale, logger, epochs=3)
    fit(Scale, logger, epochs=1)
    assert len(rows(path)) == 3


def test_each_epoch_is_in_the_file_when_it_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    seen = []
    fit(
        Scale,
        CSVLogger(path),
        lb.on("on_epoch_end", weight=2e6)(lambda ctx: seen.append(rows(path))),
    )
    assert [len(each) for each in seen] == [3, 5]


def test_without_validation_there_are_rows_of_training_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    fit(Scale, CSVLogger(path), valid_data=None)
    assert [row[1] for row in rows(path)] == ["set", "train", "train"]


def test_what_callbacks_log_has_a_column(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"

    @lb.on("on_train_end")
    def log(ctx: Any) -> None:
        ctx.log_metric("extra", ctx.epoch)

    fit(Scale, log, CSVLogger(path))
    assert rows(path)[:3] == [
        ["epoch", "set", "loss", "extra", "lr"],
        ["1", "train", "3.0", "1.0", "0.1"],
        ["1", "valid", "2.0", "", ""],
    ]


def test_a_value_that_comes_later_gets_a_column(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"

    @lb.on("on_train_end", epochs=(2, 2))
    def log(ctx: Any) -> None:
        ctx.log_metric("late", 1)

    fit(Scale, log, CSVLogger(path), epochs=3)
    assert rows(path) == [
        ["epoch", "set", "loss", "lr", "late"],
        ["1", "train", "3.0", "0.1", ""],
        ["1", "valid", "2.0", "", ""],
        ["2", "train", "3.0", "0.1", "1.0"],
        ["2", "valid", "2.0", "", ""],
        ["3", "train", "3.0", "0.1", ""],
        ["3", "valid", "2.0", "", ""],
    ]


def test_vectors_and_matrices_are_json_in_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"

    @lb.on("on_train_end")
    def log(ctx: Any) -> None:
        ctx.log_metric("each", torch.tensor([0.5, float("nan")]))
        ctx.log_metric("matrix", torch.eye(2))

    fit(Scale, log, CSVLogger(path), epochs=1, valid_data=None)
    (row,) = pd.read_csv(path).to_dict("records")
    assert json.loads(row["each"]) == [0.5, None]
    assert json.loads(row["matrix"]) == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.filterwarnings("ignore::lumbre.errors.NonFiniteLossWarning")
def test_nan_and_infinity_read_back(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    values = iter([math.nan, math.inf])

    @lb.on("on_train_end")
    def log(ctx: Any) -> None:
        ctx.log_metric("odd", next(values))

    fit(Scale, log, CSVLogger(path), valid_data=None)
    odd = list(pd.read_csv(path)["odd"])
    assert math.isnan(odd[0])
    assert odd[1] == math.inf


def test_a_metric_called_like_a_column_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log_epoch = lb.on("on_train_end")(lambda ctx: ctx.log_metric("epoch", 7))
    fit(Scale, log_epoch, CSVLogger(path), epochs=1, valid_data=None)
    assert rows(path) == [
        ["epoch", "set", "loss", "metric_epoch", "lr"],
        ["1", "train", "3.0", "7.0", "0.1"],
    ]


def test_what_is_there_stays_until_the_first_epoch_of_a_new_fit_begins(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    fit(Scale, CSVLogger(path), epochs=1)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        fit(Scale, CSVLogger(path), at("on_fit_begin", lambda ctx: 1 // 0))
    assert path.read_bytes() == before
    with pytest.raises(ZeroDivisionError):
        fit(Scale, CSVLogger(path), at("on_train_begin", lambda ctx: 1 // 0))
    assert path.read_bytes() == b""


def test_a_file_that_vanishes_during_the_fit_begins_with_a_header_again(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    fit(Scale, CSVLogger(path), at("on_train_end", lambda ctx: path.unlink(), nth=2))
    assert [row[:2] for row in rows(path)] == [["epoch", "set"], ["2", "train"], ["2", "valid"]]


def test_a_skipped_epoch_has_no_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    skip = lb.on("on_epoch_begin", epochs=(1, 1))(lambda ctx: ctx.skip_epoch())
    fit(Scale, skip, CSVLogger(path), epochs=2)
    assert [row[:2] for row in rows(path)] == [["epoch", "set"], ["2", "train"], ["2", "valid"]]


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end", "on_fit_end"])
def test_what_was_written_stays_and_the_file_is_closed_after_an_exception(
    tmp_path: Path, hook: str
) -> None:
    path = tmp_path / "log.csv"
    logger = CSVLogger(path)
    with pytest.raises(ZeroDivisionError):
        # Were the file left open, its ResourceWarning would fail the test.
        fit(Scale, logger, at(hook, lambda ctx: 1 // 0, weight=-1), epochs=1)
    del logger
    assert len(rows(path)) == (3 if hook == "on_fit_end" else 0)


def test_a_path_that_cannot_be_written_fails_before_the_first_epoch(tmp_path: Path) -> None:
    began = []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        fit(
            Scale,
            CSVLogger(tmp_path / "file" / "log"),
            at("on_epoch_begin", lambda ctx: began.append(1)),
        )
    assert began == []


@pytest.mark.parametrize("path", [None, 3])
def test_a_path_is_the_name_of_a_file(path: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"CSVLogger: path is of type \w+; expected a str"):
        CSVLogger(path)


def test_a_folder_is_no_file() -> None:
    message = r"CSVLogger: path is one file; got the folder 'logs/'. Use one in it: 'logs/log'"
    with pytest.raises(ArgumentError, match=message):
        CSVLogger("logs/")


def test_a_folder_that_is_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="got the folder"):
        CSVLogger(tmp_path)


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "log.csv"
    log(CSVLogger(path), Epochs([{"train": {"loss": 1.0}}], is_main=False), 1, 1)
    assert not path.parent.exists()


def test_it_shows_what_it_was_made_with() -> None:
    assert repr(CSVLogger("log.csv")) == "CSVLogger(path='log.csv')"


def test_it_does_nothing_in_evaluate(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    fitted = fit()
    fitted.evaluate(numbered(1), callbacks=CSVLogger(path))
    assert not path.exists()


# -- resumed -------------------------------------------------------------------------------------

VALUES = st.one_of(st.floats(allow_nan=True), st.just(torch.tensor([1.0, math.nan])))
NAMES = st.sampled_from(["loss", "acc", 'odd, "name"\n', "each"])
HISTORY = st.lists(
    st.fixed_dictionaries(
        {}, optional={s: st.dictionaries(NAMES, VALUES, min_size=1) for s in ("train", "valid")}
    ),
    min_size=2,
    max_size=5,
)
RESUMED = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RESUMED
@given(
    history=HISTORY,
    cuts=st.tuples(st.integers(1, 4), st.integers(0, 4)),
    middle=st.booleans(),
    lost=st.sampled_from(["", "file", "half of a line", "all but the header", "other file"]),
)
def test_a_resumed_file_ends_as_one_never_stopped(
    tmp_path: Path, history: Any, cuts: Any, middle: bool, lost: str
) -> None:
    whole, path = tmp_path / "whole.csv", tmp_path / "log.csv"
    log(CSVLogger(whole), Epochs(history), 1, len(history))
    path.unlink(missing_ok=True)
    # Killed some epochs after the last one of which the state was saved.
    killed = min(cuts[0] + cuts[1], len(history))
    log(CSVLogger(path), Epochs(history), 1, killed)
    text = path.read_text(encoding="utf-8")
    if lost == "file":
        path.unlink()
    elif lost == "half of a line":
        path.write_text(text[:-2], encoding="utf-8")
    elif lost == "all but the header":
        path.write_text(text.partition("\n")[0] + "\n", encoding="utf-8")
    elif lost == "other file":
        path.write_text("something\nelse\n", encoding="utf-8")
    first = min(cuts[0] + 1, len(history))
    log(CSVLogger(path), Epochs(history), first, len(history), middle)
    assert path.read_bytes() == whole.read_bytes()


def test_without_records_of_them_the_rows_of_earlier_epochs_are_those_of_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.csv"
    history = [{"train": {"loss": float(i)}} for i in range(5)]
    log(CSVLogger(path), Epochs(history), 1, 4)
    log(CSVLogger(path), Epochs([{}, {}, *history[2:]]), 3, 5)
    assert [row[2] for row in rows(path)] == ["loss", "0.0", "1.0", "2.0", "3.0", "4.0"]


class Learns(torch.nn.Linear):
    """One weight that changes, so that no two epochs are alike."""

    def __init__(self) -> None:
        super().__init__(1, 1)

    def loss(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (pred - target).square().mean()


def test_a_fit_that_was_killed_and_resumed_leaves_the_file_of_one_never_stopped(
    tmp_path: Path,
) -> None:
    torch.manual_seed(1)
    fit(Learns, CSVLogger(tmp_path / "whole.csv"), epochs=6)
    torch.manual_seed(1)
    path = tmp_path / "log.csv"
    stopped_and_resumed(Learns, lambda: CSVLogger(path))
    assert len(rows(path)) == 13
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
