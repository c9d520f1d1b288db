"""Whatever takes a path takes the same ones; whatever writes tells first where it cannot."""

import errno
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

import lumbre as lb
from disk import Disk
from lumbre.callbacks import (
    AutoResume,
    CSVLogger,
    JSONLogger,
    ModelCheckpoint,
    ResumeFromCheckpoint,
    TensorBoard,
)
from lumbre.errors import ArgumentError, ArgumentTypeError
from runs import Scale, at, fit

FITTED = fit(Scale, epochs=1)
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "load": lambda path: lb.load(path, Scale),
    "load_checkpoint": lambda path: lb.load_checkpoint(FITTED, path),
    "load_model_weights": lambda path: lb.load_model_weights(FITTED, path),
    "save_model_weights": lambda path: lb.save_model_weights(FITTED, path),
    "Fitted.save": FITTED.save,
}
WRITERS: dict[str, Callable[[Any], lb.Callback]] = {
    "AutoResume": AutoResume,
    "ModelCheckpoint": ModelCheckpoint,
    "CSVLogger": CSVLogger,
    "JSONLogger": JSONLogger,
    "TensorBoard": TensorBoard,
}
ALL = {**FUNCTIONS, **WRITERS, "ResumeFromCheckpoint": ResumeFromCheckpoint}


def test_the_tables_name_all_that_takes_a_path() -> None:
    public = {name: getattr(lb, name) for name in lb.__all__}
    public |= {name: getattr(lb.callbacks, name) for name in lb.callbacks.__all__}
    errors = {lb.LumbreError, lb.LumbreWarning}  # of which Python knows no arguments
    public = {name: each for name, each in public.items() if callable(each) and each not in errors}
    methods = inspect.getmembers(lb.Fitted, inspect.isfunction)
    public |= {f"Fitted.{name}": each for name, each in methods if name[0] != "_"}
    takes = {
        name
        for name, each in public.items()
        if {"path", "logdir", "folder", "file"} & inspect.signature(each).parameters.keys()
    }
    assert takes == set(ALL)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        (3, ArgumentTypeError, "is of type int; expected a string or a pathlib.Path"),
        (None, ArgumentTypeError, "is of type NoneType; expected"),
        ("", ArgumentError, "is empty; expected the name of a file"),
        ("a\0b", ArgumentError, "has a NUL in it"),
        ("s3://bucket/x", ArgumentError, "'s3://bucket/x' is a URL"),
        (Path("gs://bucket/x"), ArgumentError, "is a URL"),
    ],
)
def test_what_is_no_path_of_this_machine_is_refused_at_once(
    name: str, bad: Any, kind: type[Exception], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    argument = "logdir" if name == "TensorBoard" else "path"
    owner = "" if name in FUNCTIONS else f"{name}: "
    with pytest.raises(kind, match=f"^{owner}{argument} .*{message}"):
        ALL[name](bad)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_where_nothing_can_be_written_is_told_before_an_epoch_is_lost(
    name: str, tmp_path: Path
) -> None:
    began: list[int] = []
    begin = at("on_epoch_begin", lambda ctx: began.append(ctx.epoch))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        fit(Scale, WRITERS[name](tmp_path / "file" / "log"), begin)
    assert caught.value.filename == str(tmp_path / "file" / "log")
    assert any("pass a path in a folder that can be used" in n for n in caught.value.__notes__)
    assert began == []
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "path", ["{epoch}.safetensors", "{{a}}{epoch}", "folder/", "{{a}}/x-{monitor:.2f}"]
)
def test_that_is_so_for_every_form_of_a_checkpoints_path(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        fit(Scale, ModelCheckpoint(f"{tmp_path}/file/{path}"), at("on_epoch_begin", pytest.fail))


@pytest.mark.parametrize("set_", ["train", "valid"])
def test_so_it_is_for_the_folder_of_a_set(set_: str, tmp_path: Path) -> None:
    (tmp_path / set_).touch()
    with pytest.raises(NotADirectoryError, match=set_):
        fit(Scale, TensorBoard(tmp_path), at("on_epoch_begin", pytest.fail))


@pytest.mark.parametrize("name", ["AutoResume", "CSVLogger", "JSONLogger"])
def test_a_file_that_has_become_a_folder_is_told_too(name: str, tmp_path: Path) -> None:
    callback = WRITERS[name](tmp_path / "log")
    (tmp_path / "log").mkdir()
    with pytest.raises(ArgumentError, match=f"{name}: path is one file; got the folder"):
        fit(Scale, callback, at("on_epoch_begin", pytest.fail))


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("written", ["run/log", "~/log", "log"])
def test_files_stay_where_they_were_when_the_working_folder_changes(
    name: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    monkeypatch.setenv("HOME", str(one))
    monkeypatch.chdir(one)
    callback = WRITERS[name](written)
    shown = repr(callback)
    fit(Scale, callback, at("on_epoch_begin", lambda ctx: os.chdir(two), 2), epochs=3)
    assert os.listdir(two) == []
    there = (one / written.replace("~/", "")).exists()
    assert there == (name != "AutoResume"), "that one goes when the fit ends well"
    assert repr(callback) == shown
    assert repr(written) in shown


@pytest.mark.parametrize("keep", [None, 1])
def test_a_folder_of_checkpoints_stays_in_one_place_whatever_that_is_called(
    keep: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "{o}").mkdir()
    monkeypatch.chdir(tmp_path / "{o}")
    leave = at("on_epoch_begin", lambda ctx: os.chdir(tmp_path), 2)
    fit(Scale, ModelCheckpoint("run/", keep=keep), leave, epochs=3)
    assert len(os.listdir(tmp_path / "{o}" / "run")) == (keep or 3)
    assert os.listdir(tmp_path) == ["{o}"]


def test_a_tilde_is_the_home_for_every_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    FITTED.save("~/net")
    lb.save_model_weights(FITTED, "~/weights")
    fit(Scale, ModelCheckpoint("~/checkpoint"), epochs=1)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "net", "weights"]
    lb.load("~/net", Scale)
    lb.load_model_weights(FITTED, "~/weights")
    lb.load_checkpoint(FITTED, "~/checkpoint")
    trained: list[int] = []
    see = at("on_train_begin", lambda ctx: trained.append(ctx.epoch))
    fit(Scale, ResumeFromCheckpoint("~/checkpoint"), see, epochs=2)
    assert trained == [2]


def test_the_state_behind_a_link_goes_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "state")
    seen: list[bool] = []
    see = at("on_epoch_begin", lambda ctx: seen.append((tmp_path / "state").is_file()), 2)
    fit(Scale, AutoResume(tmp_path / "link"), see)
    assert seen == [True]
    assert os.listdir(tmp_path) == ["link"]


@pytest.mark.parametrize("name", ["AutoResume", "ResumeFromCheckpoint"])
def test_a_state_that_cannot_be_seen_ends_the_fit_before_it_begins(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "state").symlink_to("state")
    with pytest.raises(OSError, match="state") as caught:
        fit(Scale, ALL[name](tmp_path / "state"), at("on_epoch_begin", pytest.fail))
    assert caught.value.errno == errno.ELOOP
    assert os.listdir(tmp_path) == ["state"]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("heals", [True, False])
def test_a_write_that_fails_is_told_with_its_path_and_ends_no_fit_in_the_middle(
    name: str, heals: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, flush = Disk(monkeypatch), SummaryWriter.flush
    epochs: list[int] = []

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(ctx: Any) -> None:
        disk.refuse(name="write")
        monkeypatch.setattr(SummaryWriter, "flush", full)

    def heal(ctx: Any) -> None:
        if ctx._writing is not None:
            ctx._writing.join()
        epochs.append(ctx.epoch)
        if heals and ctx.epoch == 3:
            disk.heal()
            monkeypatch.setattr(SummaryWriter, "flush", flush)

    callbacks = [WRITERS[name](tmp_path / "log"), at("on_train_begin", fill, 2)]
    callbacks.append(lb.on("on_train_begin", weight=1e9)(heal))
    caught: Any = None

    def train() -> None:
        nonlocal caught
        try:
            fit(Scale, *callbacks, epochs=3)
        except OSError as error:
            caught = error

    with pytest.warns(lb.LumbreWarning, match=f"{name} could not write {tmp_path}/log.*No space"):
        train()
    if heals:
        assert caught is None
    else:
        assert str(caught.filename).startswith(str(tmp_path / "log"))
        assert len(caught.fitted.records["metrics"]["train"]) == 3
    assert epochs == [1, 2, 3]
    if heals and name in ("CSVLogger", "JSONLogger"):
        text = (tmp_path / "log").read_text()
        assert text.count("train") == 3, "what could not be written came with the next"


@pytest.mark.parametrize("record", ["val/mae", "../../../x", "a\\b:c"])
def test_a_records_name_leads_no_file_out_of_its_folder(record: str, tmp_path: Path) -> None:
    metrics = [lb.metrics.MAE(name=record)]
    save = ModelCheckpoint(f"{tmp_path}/a/b/run/", monitor=f"train_{record}", keep=1)
    fitted = fit(Scale, save, metrics=metrics, epochs=3)
    folders = [tmp_path / each for each in ("a", "a/b", "a/b/run")]
    (file,) = set(tmp_path.rglob("*")) - set(folders)
    assert file.parent == folders[-1]
    lb.load_checkpoint(fitted, folders[-1])
