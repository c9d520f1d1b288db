"""The part of a callback that is written in Rust, and its face in Python."""

import copy
import pickle
import re
from typing import Any

import pytest

import lumbre as lb
from lumbre._core import NativeCallback
from lumbre.errors import ArgumentError
from runs import Scale, fit

STATELESS = ["profile", "metrics", "progress", "terminate_on_nan"]
WITH_ARGUMENTS = ["early_stopping", "step_history", "throughput"]
FACES = [
    "Profile",
    "Metrics",
    "Progress",
    "TerminateOnNaN",
    "EarlyStopping",
    "StepHistory",
    "Throughput",
]


def native_of(name: str) -> NativeCallback:
    made = getattr(NativeCallback, name)()
    assert isinstance(made, NativeCallback)
    return made


@pytest.mark.parametrize("name", STATELESS)
def test_one_without_state_saves_nothing_and_loads_nothing(name: str) -> None:
    native = native_of(name)
    assert native.kind == "Rust"
    assert native.save() is None
    for state in ("{}", b""):
        with pytest.raises(ArgumentError, match="This callback keeps no state"):
            native.load(state)


def test_a_state_may_be_a_dict() -> None:
    native = NativeCallback.early_stopping("train_loss", 0.0, 1, "min", 2.5)
    fresh = {"best": 2.5, "best_epoch": 0, "waited": 0, "why": ""}
    assert native.save() == fresh
    for state, shown in [
        (b"abc", "3 bytes"),
        ("{}", "{}"),
        ({**fresh, "waited": True}, '{"best": 2.5, "best_epoch": 0, "waited": True, "why": ""}'),
        ({**fresh, "best": [1]}, '{"best": [1], "best_epoch": 0, "waited": 0, "why": ""}'),
        ({"best_epoch": -1, "best": None}, '{"best_epoch": -1.0, "best": null}'),
        ({1: 10**400}, f'{{"1": {10**400}}}'),
    ]:
        with pytest.raises(ArgumentError, match=re.escape(f"got {shown}. Load")):
            native.load(state)
    with pytest.raises(ArgumentError, match=r"is bytes, a text or a dict; got \[1\]. Load"):
        native.load([1])  # type: ignore[arg-type]
    assert native.save() == fresh
    native.load({**fresh, "best": 3, "more": object()})
    assert native.save() == {**fresh, "best": 3.0}


def test_the_faces_are_all_there_are() -> None:
    made = {name for name, value in vars(NativeCallback).items() if isinstance(value, staticmethod)}
    assert made == {*STATELESS, *WITH_ARGUMENTS, "foreign"}
    native = [n for n in lb.callbacks.__all__ if hasattr(getattr(lb.callbacks, n), "_native")]
    assert sorted(native) == sorted(FACES)


@pytest.mark.parametrize("name", FACES)
def test_a_face_is_copied_and_pickled(name: str) -> None:
    face = getattr(lb.callbacks, name)()
    for twin in (copy.deepcopy(face), pickle.loads(pickle.dumps(face))):  # noqa: S301
        assert type(twin) is type(face)
        assert twin is not face
        assert {row[2] for row in lb.schedule(twin).rows if row[1] == name} <= {"Rust", "Python"}
        assert isinstance(twin._native, NativeCallback)
        assert twin._native is not face._native


@pytest.mark.parametrize("name", ["Profile", "Metrics", "Progress", "TerminateOnNaN"])
def test_without_state_every_run_has_one_of_its_own(name: str) -> None:
    face = getattr(lb.callbacks, name)()
    assert face._native is not face._native


def test_an_error_on_the_way_to_the_native_part_is_not_taken_for_none() -> None:
    class Careless(lb.callbacks.EarlyStopping):
        def __init__(self) -> None: ...  # without super().__init__()

    with pytest.raises(AttributeError, match="monitor"):
        fit(Scale, Careless())


def test_what_only_has_the_name_is_left_alone() -> None:
    class Mine(lb.Callback):
        def __init__(self) -> None:
            self._native = "mine"

        def on_fit_begin(self, ctx: Any) -> None:
            ctx.buffers["seen"] = self._native

    seen: list[Any] = []
    fit(Scale, Mine(), lb.on("on_fit_end")(lambda ctx: seen.append(ctx.buffers["seen"])))
    assert seen == ["mine"]
