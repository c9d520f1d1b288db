"""A state of another monitor, and states of another form in general."""

from pathlib import Path
from typing import Any

import pytest

import lumbre as lb
from lumbre.callbacks import (
    AutoResume,
    EarlyStopping,
    KeepBestModel,
    ModelCheckpoint,
    ResumeFromCheckpoint,
)
from lumbre.errors import ArgumentError, FileError
from runs import Scale, at, fit


def made(kind: str, folder: Path, monitor: str, mode: Any) -> Any:
    if kind == "ModelCheckpoint":
        return ModelCheckpoint(folder / "best", monitor, mode=mode, save_best_only=True)
    return {"KeepBestModel": KeepBestModel, "EarlyStopping": EarlyStopping}[kind](
        monitor=monitor, mode=mode
    )


@pytest.mark.parametrize("kind", ["KeepBestModel", "ModelCheckpoint", "EarlyStopping"])
@pytest.mark.parametrize(("monitor", "mode"), [("train_loss", "min"), ("valid_loss", "zero")])
def test_a_state_of_another_monitor_or_mode_is_refused_with_both(
    kind: str, monitor: str, mode: str, tmp_path: Path
) -> None:
    state = made(kind, tmp_path, "valid_loss", "min").state_dict()
    assert (state["monitor"], state["mode"]) == ("valid_loss", "min")
    other = made(kind, tmp_path, monitor, mode)
    before = other.state_dict()
    with pytest.raises(ArgumentError) as caught:
        other.load_state_dict(state)
    assert str(caught.value) == (
        f"{kind}: the state is that of monitor='valid_loss', mode='min', and this one has "
        f"monitor={monitor!r}, mode={mode!r}; their values cannot be compared. Resume with "
        f"{kind}(monitor='valid_loss', mode='min')."
    )
    assert repr(other.state_dict()) == repr(before), "NaN is not equal to itself"


@pytest.mark.parametrize("kind", ["KeepBestModel", "ModelCheckpoint", "EarlyStopping"])
def test_a_state_that_does_not_say_what_it_watched_is_taken(kind: str, tmp_path: Path) -> None:
    one = made(kind, tmp_path, "valid_loss", "min")
    fit(Scale, one)
    state = one.state_dict()
    del state["monitor"], state["mode"]
    other = made(kind, tmp_path, "train_loss", "max")
    other.load_state_dict(state)
    assert other.state_dict() == {**state, "monitor": "train_loss", "mode": "max"}


def test_a_checkpoint_that_compares_nothing_takes_the_state_of_any_monitor(tmp_path: Path) -> None:
    state = ModelCheckpoint(tmp_path / "a", "train_loss").state_dict()
    ModelCheckpoint(tmp_path / "a", "valid_loss").load_state_dict(state)


def test_a_run_that_is_resumed_with_another_monitor_names_the_file(tmp_path: Path) -> None:
    again = at("on_train_begin", lambda ctx: 1 // 0, 2)
    with pytest.raises(ZeroDivisionError):
        fit(Scale, KeepBestModel("valid_loss"), AutoResume(tmp_path / "state"), again)
    with pytest.raises(FileError, match=r"KeepBestModel.monitor: 'valid_loss' → 'train_loss'"):
        fit(Scale, KeepBestModel("train_loss"), AutoResume(tmp_path / "state"))


class Mine(lb.Callback):
    """A callback whose state has the form that a version of it likes."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def state_dict(self) -> dict[str, Any]:
        return {"a": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.error is not None:
            raise self.error


FORMS = [KeyError("b"), TypeError("t"), AttributeError("x"), IndexError("i"), ValueError("v")]


@pytest.mark.parametrize("error", FORMS, ids=repr)
@pytest.mark.parametrize("resume", [AutoResume, ResumeFromCheckpoint])
def test_a_state_of_another_form_is_refused_with_file_callback_and_mend(
    error: Exception, resume: Any, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    fit(Scale, Mine(), ModelCheckpoint(path), epochs=1)
    options = {} if resume is AutoResume else {"restore_callbacks_state": True}
    with pytest.raises(FileError) as caught:
        fit(Scale, Mine(error), resume(path, **options), epochs=4)
    text = str(caught.value)
    assert text.startswith(
        f"{path} cannot be resumed. The state of Mine is of another form than its load_state_dict "
        f"takes: {type(error).__name__}: {error}. Resume with the callback as it was"
    )
    mend = "delete the file, or give AutoResume" if resume is AutoResume else "restore less of it"
    assert mend in text
    assert caught.value.__cause__ is error


def test_without_a_file_it_is_a_wrong_argument() -> None:
    def go_on(ctx: Any) -> None:
        state = ctx.state_dict()
        mine.error = KeyError("b")
        ctx.load_state_dict(state)

    mine = Mine()
    with pytest.raises(ArgumentError, match=r"^The state of Mine is of another form") as caught:
        fit(Scale, mine, at("on_fit_begin", go_on, weight=1e9))
    assert caught.value.__cause__ is mine.error


def test_what_else_a_callback_raises_keeps_its_type(tmp_path: Path) -> None:
    path = tmp_path / "state"
    fit(Scale, Mine(), ModelCheckpoint(path), epochs=1)
    with pytest.raises(RuntimeError, match="no memory"):
        fit(Scale, Mine(RuntimeError("no memory")), AutoResume(path), epochs=4)
