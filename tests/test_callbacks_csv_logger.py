"""CSVLogger: a row a set and epoch, there as soon as the epoch has ended."""

import csv
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import lumbre as lb
from lumbre.callbacks import CSVLogger
from runs import Scale, at, fit, numbered


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_it_writes_a_header_once_and_a_row_a_set_and_epoch(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    fit(Scale, CSVLogger(path), metrics=lb.metrics.MAE())
    assert rows(path) == [
        ["epoch", "set", "loss", "mae"],
        ["1", "train", "3.0", "2.0"],
        ["1", "valid", "2.0", "1.0"],
        ["2", "train", "3.0", "2.0"],
        ["2", "valid", "2.0", "1.0"],
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
        ["epoch", "set", "loss", "extra"],
        ["1", "train", "3.0", "1.0"],
        ["1", "valid", "2.0", ""],
    ]


def test_a_value_that_comes_after_the_header_is_left_out_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"

    @lb.on("on_train_end", epochs=(2, 2))
    def log(ctx: Any) -> None:
        ctx.log_metric("late", 1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Scale, log, CSVLogger(path))
    (warning,) = caught
    assert issubclass(warning.category, lb.LumbreWarning)
    assert "late came after the header" in str(warning.message)
    assert rows(path)[0] == ["epoch", "set", "loss"]


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
    (tmp_path / "log").mkdir()
    with pytest.raises(OSError, match="log"):
        fit(Scale, CSVLogger(tmp_path / "log"), at("on_epoch_begin", lambda ctx: began.append(1)))
    assert began == []


def test_it_shows_what_it_was_made_with() -> None:
    assert repr(CSVLogger("log.csv")) == "CSVLogger(path='log.csv')"


def test_it_does_nothing_in_evaluate(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    fitted = fit()
    fitted.evaluate(numbered(1), callbacks=CSVLogger(path))
    assert not path.exists()
