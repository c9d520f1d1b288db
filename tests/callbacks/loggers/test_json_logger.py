"""JSONLogger: an object a line, which any reader of JSON takes."""

import datetime
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lumbre as lb
from epochs import Epochs, log, stopped_and_resumed
from lumbre.callbacks import JSONLogger
from lumbre.errors import ArgumentError, ArgumentTypeError
from runs import Scale, at, fit


def lines(path: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def untimed(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "time"} for line in lines(path)]


def test_it_writes_a_line_a_set_and_epoch(tmp_path: Path) -> None:
    path = tmp_path / "a" / "log.jsonl"
    fit(Scale, JSONLogger(path), metrics=lb.metrics.MAE())
    assert untimed(path) == [
        {"epoch": 1, "set": "train", "loss": 3.0, "mae": 2.0, "lr": 0.1},
        {"epoch": 1, "set": "valid", "loss": 2.0, "mae": 1.0},
        {"epoch": 2, "set": "train", "loss": 3.0, "mae": 2.0, "lr": 0.1},
        {"epoch": 2, "set": "valid", "loss": 2.0, "mae": 1.0},
    ]


def test_the_time_is_when_the_epoch_ended_in_utc(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=1)
    fit(Scale, JSONLogger(str(path)))
    times = [line["time"] for line in lines(path)]
    assert all(time.endswith("Z") for time in times)
    moments = [datetime.datetime.fromisoformat(time) for time in times]
    assert moments == sorted(moments)
    assert before <= moments[0] <= moments[-1] <= datetime.datetime.now(datetime.UTC)


def test_pandas_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    fitted = fit(Scale, JSONLogger(path), epochs=3)
    frame = pd.read_json(path, lines=True)
    assert list(frame.columns) == ["time", "epoch", "set", "loss", "lr"]
    assert str(pd.to_datetime(frame["time"]).dt.tz) == "UTC"
    for set_, entries in fitted.records["metrics"].items():
        assert list(frame[frame["set"] == set_]["loss"]) == [entry["loss"] for entry in entries]


def test_what_json_has_no_number_for_is_null_and_arrays_are_lists(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    @lb.on("on_train_end")
    def log(ctx: Any) -> None:
        ctx.log_metric("nan", math.nan)
        ctx.log_metric("inf", -math.inf)
        ctx.log_metric("each", torch.tensor([0.5, math.nan]))
        ctx.log_metric("matrix", torch.eye(2))

    fit(Scale, log, JSONLogger(path), epochs=1, valid_data=None)
    (line,) = untimed(path)
    assert line == {
        "epoch": 1,
        "set": "train",
        "loss": 3.0,
        "nan": None,
        "inf": None,
        "each": [0.5, None],
        "matrix": [[1.0, 0.0], [0.0, 1.0]],
        "lr": 0.1,
    }


def test_a_metric_called_like_a_key_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log_time = lb.on("on_train_end")(lambda ctx: ctx.log_metric("time", 7))
    fit(Scale, log_time, JSONLogger(path), epochs=1, valid_data=None)
    assert untimed(path) == [
        {"epoch": 1, "set": "train", "loss": 3.0, "metric_time": 7.0, "lr": 0.1}
    ]
    assert isinstance(lines(path)[0]["time"], str)


def test_each_epoch_is_in_the_file_when_it_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    seen = []
    look = lb.on("on_epoch_end", weight=2e6)(lambda ctx: seen.append(len(lines(path))))
    fit(Scale, JSONLogger(path), look)
    assert seen == [2, 4]


def test_a_new_fit_begins_the_file_anew_and_not_before_its_first_epoch(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    logger = JSONLogger(path)
    fit(Scale, logger, epochs=3)
    with pytest.raises(ZeroDivisionError):
        fit(Scale, logger, at("on_fit_begin", lambda ctx: 1 // 0))
    assert len(lines(path)) == 6
    fit(Scale, logger, epochs=1)
    assert len(lines(path)) == 2


def test_a_path_that_cannot_be_written_fails_before_the_first_epoch(tmp_path: Path) -> None:
    began: list[int] = []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        fit(
            Scale,
            JSONLogger(tmp_path / "file" / "log"),
            at("on_epoch_begin", lambda ctx: began.append(1)),
        )
    assert began == []
    with pytest.raises(ArgumentError, match="JSONLogger: path is one file; got the folder"):
        JSONLogger(tmp_path)
    with pytest.raises(ArgumentTypeError, match="JSONLogger: path is of type int"):
        JSONLogger(3)  # type: ignore[arg-type]


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log(JSONLogger(path), Epochs([{"train": {"loss": 1.0}}], is_main=False), 1, 1)
    assert not path.exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.one_of(st.floats(), st.none()), min_size=2, max_size=5),
    cuts=st.tuples(st.integers(1, 4), st.integers(0, 4)),
    middle=st.booleans(),
    lost=st.sampled_from(["", "file", "half of a line", "other file"]),
)
def test_a_resumed_file_ends_as_one_never_stopped(
    tmp_path: Path, values: Any, cuts: Any, middle: bool, lost: str
) -> None:
    history: Any = [{} if v is None else {"train": {"loss": v}, "valid": {"é": v}} for v in values]
    whole, path = tmp_path / "whole.jsonl", tmp_path / "log.jsonl"
    log(JSONLogger(whole), Epochs(history), 1, len(history))
    path.unlink(missing_ok=True)
    killed = min(cuts[0] + cuts[1], len(history))
    log(JSONLogger(path), Epochs(history), 1, killed)
    before = path.read_text(encoding="utf-8")
    if lost == "file":
        path.unlink()
    elif lost == "half of a line":
        path.write_text(before[:-2], encoding="utf-8")
    elif lost == "other file":
        path.write_text('something\n{"epoch": "1"}\n[]\n', encoding="utf-8")
    first = min(cuts[0] + 1, len(history))
    log(JSONLogger(path), Epochs(history), first, len(history), middle)
    assert untimed(path) == untimed(whole)
    if not lost:
        # What stays is as it was, with its time.
        kept = sum(2 for v in values[: first - 1] if v is not None)
        assert lines(path)[:kept] == [json.loads(each) for each in before.splitlines()[:kept]]


def test_a_fit_that_was_killed_and_resumed_has_each_epoch_once(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    stopped_and_resumed(Scale, lambda: JSONLogger(path))
    found = [(line["epoch"], line["set"]) for line in lines(path)]
    assert found == [(epoch, set_) for epoch in range(1, 7) for set_ in ("train", "valid")]
    times = [line["time"] for line in lines(path)]
    assert times == sorted(times)
