"""From the first capsule to the last: who keeps a callback in Rust, when it ends, what it saves."""

import gc
import json
import math
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import lumbre as lb
from forge import ext, in_a_process_of_its_own
from lumbre._core import NativeCallback
from lumbre.errors import ArgumentError, ExtensionError
from runs import Scale, Watched, at, fit, numbered


@pytest.fixture
def ends(tmp_path: Path) -> Any:
    """Where callbacks say that they have ended, and what they have said."""
    path = tmp_path / "ends.txt"

    class Ends:
        callback = staticmethod(lambda: ext.Drops(path))

        @property
        def lines(self) -> list[str]:
            gc.collect()
            return path.read_text().split() if path.exists() else []

    return Ends()


# --- what the garbage collector sees --------------------------------------------------------------


def cycle() -> tuple[Any, "weakref.ref[Any]"]:
    """A callback that holds a function that holds the callback."""
    held: list[Any] = []

    def function(ctx: Any) -> None:
        seen.append(len(held))

    seen: list[int] = []
    function.seen = seen  # type: ignore[attr-defined]
    callback = ext.Calls(function)
    held.append(callback)
    return callback, weakref.ref(function)


def test_a_cycle_through_a_callback_is_collected() -> None:
    callback, function = cycle()
    assert gc.is_tracked(callback)
    del callback
    gc.collect()
    assert function() is None


def test_what_a_run_still_calls_is_not_collected() -> None:
    callback, function = cycle()
    capsule = callback.__lumbre_callback__()
    del callback
    gc.collect()
    fit(Scale, capsule, epochs=1)
    assert function() is not None
    assert function().seen  # type: ignore[union-attr]
    del capsule
    gc.collect()
    assert function() is None


COLLECTED_WHILE_MADE = """
import gc
from forge import ext
from lumbre._core import Run


class Mine(ext.Calls):
    pass


class Ctx(Run):
    pass


seen = []


def look(phase, info):
    for each in gc.get_objects(0):
        if isinstance(each, ext.Calls) and not any(each is other for other in kept):
            for ask in (repr, ext.Calls.__lumbre_callback__, gc.get_referents):
                try:
                    ask(each)
                except RuntimeError as error:
                    seen.append(str(error))


kept = []
gc.collect()
gc.set_threshold(1)
for _ in range(200):
    kept += [ext.Calls(print), Mine(print), Ctx()]
gc.callbacks.append(look)
for _ in range(20):
    kept += [ext.Calls(print)]
gc.callbacks.clear()
print(*set(seen), sep="\\n")
"""


def test_one_that_is_being_made_can_be_collected_around() -> None:
    # Python 3.11 makes the object's dict when the collector sees the object already, and collects
    # then if it is time. The loop makes it time, and keeps what would spare Python a new dict.
    seen = in_a_process_of_its_own("-c", COLLECTED_WHILE_MADE).split("\n")
    assert set(seen) <= {"", "this Calls is still being made"}


def test_a_run_that_a_callback_holds_is_collected_when_it_is_over() -> None:
    held = Watched()
    kept: list[Any] = []
    fit(Scale, ext.Calls(kept.append), held.callback())
    assert list(held.alive())
    del kept
    gc.collect()
    assert not list(held.alive())


# --- drops --------------------------------------------------------------------------------------


def test_it_ends_when_nobody_has_it_any_more(ends: Any) -> None:
    callback = ends.callback()
    assert ends.lines == []
    del callback
    assert ends.lines == ["0"]


def test_it_ends_after_the_fit(ends: Any) -> None:
    fitted = fit(Scale, ends.callback(), epochs=3)
    assert ends.lines == ["6"]
    assert fitted.records["metrics"]["train"][-1]["seen"] == 6.0


def test_who_has_it_keeps_it(ends: Any) -> None:
    callback = ends.callback()
    for _ in range(2):
        fit(Scale, callback, epochs=1)
    assert ends.lines == []
    # Its capsule is enough to keep it, and so is a plan.
    capsule = callback.__lumbre_callback__()
    del callback
    assert ends.lines == []
    plan = lb.schedule([capsule])
    del capsule
    assert ends.lines == []
    assert "Drops" in repr(plan)
    del plan
    assert ends.lines == ["4"]


def test_it_ends_after_an_exception(ends: Any) -> None:
    def boom(ctx: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(Scale, ends.callback(), at("on_epoch_end", boom))
    assert ends.lines == ["2"]


def test_it_ends_after_a_panic_beside_it(ends: Any) -> None:
    with pytest.raises(ExtensionError):
        fit(Scale, ends.callback(), ext.Panics("on_train_batch_end"))
    assert ends.lines == ["2"]


def test_it_ends_when_the_plan_could_not_be_made(ends: Any) -> None:
    callback = ends.callback()
    callback.weight = math.nan
    with pytest.raises(lb.errors.ScheduleError):
        fit(Scale, callback)
    del callback
    assert ends.lines == ["0"]


def test_a_cycle_through_the_object_is_collected(ends: Any) -> None:
    callback = ends.callback()
    callback.itself = callback
    fit(Scale, callback)
    del callback
    assert ends.lines == ["4"]


def test_one_that_is_given_in_several_capsules_is_called_for_each_and_ends_once(ends: Any) -> None:
    callback = ends.callback()
    given = [callback, callback.__lumbre_callback__(), callback.__lumbre_callback__()]
    rows = lb.schedule(given).rows
    assert [row[1] for row in rows if row[0] == "on_train_batch_end"][-3:] == [
        "Drops",
        "Drops_2",
        "Drops_3",
    ]
    fit(Scale, *given, epochs=2)
    del callback, given
    assert ends.lines == [str(3 * 2 * 2)]


@pytest.mark.parametrize("of", [lambda it: it, lambda it: it.__lumbre_callback__()])
def test_the_same_object_or_capsule_twice_is_refused(ends: Any, of: Any) -> None:
    given = of(ends.callback())
    with pytest.raises(ArgumentError, match=r"(Drops|capsule).* is passed twice"):
        fit(Scale, given, given)
    assert ends.lines == []
    fit(Scale, given, epochs=1)
    del given
    assert ends.lines == ["2"]


INTERPRETER = """
import sys
import lumbre as lb
from forge import ext
from runs import Scale, at, fit

path, how = sys.argv[1:]

def leave(ctx):
    raise SystemExit(0)

callback = ext.Drops(path)
others = [ext.Throughput(path + ".jsonl", every=1), ext.Witness("".format)]
if how == "idle":
    pass
elif how == "after a fit":
    fitted = fit(Scale, callback, *others)
elif how == "in a cycle":
    callback.itself = callback
    fit(Scale, callback, *others)
elif how == "plan":
    plan = lb.schedule([callback.__lumbre_callback__()])
elif how == "inside":
    fit(Scale, callback, *others, at("on_train_batch_end", leave))
elif how == "in a module":
    sys.kept = [callback, callback.__lumbre_callback__()]
"""


@pytest.mark.parametrize(
    ("how", "calls"),
    [
        ("idle", 0),
        ("after a fit", 4),
        ("in a cycle", 4),
        ("plan", 0),
        ("inside", 1),
        ("in a module", 0),
    ],
)
def test_it_ends_once_when_the_interpreter_does(how: str, calls: int, tmp_path: Path) -> None:
    path = tmp_path / "ends.txt"
    in_a_process_of_its_own("-c", INTERPRETER, str(path), how)
    assert path.read_text().split() == [str(calls)]


def test_a_panic_at_its_end_ends_nothing_else() -> None:
    """Whoever has it last: the object, the capsule, or a run."""
    code = """
from forge import ext
from runs import Scale, fit
callback = ext.Panics("drop")
capsule = callback.__lumbre_callback__()
del callback
del capsule
callback = ext.Panics("drop")
capsule = callback.__lumbre_callback__()
del capsule
del callback
fit(Scale, ext.Panics("drop"))
callback = ext.Panics("drop")
print("still here")
"""
    assert in_a_process_of_its_own("-c", code) == "still here\n"


# --- threads ------------------------------------------------------------------------------------


def test_eight_threads_have_a_fit_each() -> None:
    def run(seed: int) -> Any:
        rows = [(torch.full((3,), float(seed + i)), torch.tensor([2.0**i])) for i in range(1, 9)]
        loader = torch.utils.data.DataLoader(rows, batch_size=2)
        hooks: list[str] = []
        callbacks = [
            ext.InputStats(),
            ext.LossSpike(factor=2 + seed, window=2, action="skip"),
            ext.Witness(lambda ctx, known: hooks.append(known["hook"])),
            ext.Calls(lambda ctx: barrier.wait(60)),
            ext.Sieve(),
        ]
        fitted = fit(Scale, *callbacks, data=loader, epochs=5)
        return fitted.records["metrics"], callbacks[1].state_dict(), hooks

    class Alone:
        def wait(self, seconds: float) -> None: ...

    barrier: Any = Alone()
    expected = [run(seed) for seed in range(8)]
    assert len({json.dumps(each[0]) for each in expected}) == 8

    # All eight are inside of a callback at the same time, at every batch.
    barrier = threading.Barrier(8)
    results: list[Any] = [None] * 8

    def put(seed: int) -> None:
        results[seed] = run(seed)

    threads = [threading.Thread(target=put, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


# --- state --------------------------------------------------------------------------------------


def test_a_state_of_json_and_one_of_bytes() -> None:
    spike, stats = ext.LossSpike(window=4), ext.InputStats()
    fit(Scale, spike, stats)
    assert spike.state_dict() == [2.0, 4.0, 2.0, 4.0]
    assert isinstance(stats.state_dict(), bytes)
    for callback, other in [(spike, ext.LossSpike(window=4)), (stats, ext.InputStats())]:
        other.load_state_dict(callback.state_dict())
        assert other.state_dict() == callback.state_dict()

    # The same through the table, as a checkpoint will have it.
    native = NativeCallback.foreign(spike)
    assert native.save() == "[2.0, 4.0, 2.0, 4.0]"
    native.load("[0.1, 1e-320, 1.7976931348623157e308]")
    assert spike.state_dict() == [0.1, 1e-320, 1.7976931348623157e308]
    native = NativeCallback.foreign(stats.__lumbre_callback__())
    assert native.save() == stats.state_dict()


def test_a_state_is_taken_up_in_the_middle_of_a_run() -> None:
    seen = []
    stats = ext.InputStats()

    def swap(ctx: Any) -> None:
        state = stats.state_dict()
        seen.append(state)
        stats.load_state_dict(bytes(32))
        assert stats.state_dict() == bytes(32)
        stats.load_state_dict(state)

    fitted = fit(Scale, stats, at("on_train_batch_end", swap), data=numbered(3), epochs=1)
    assert fitted.records["metrics"]["train"][0]["input_mean"] == 1.0
    assert len(seen[0]) == 32


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"abc", "InputStats: its state is 32 bytes; got 3"),
        ("[]", "the saved state is JSON, and bytes are due"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: Any, message: str) -> None:
    stats = ext.InputStats()
    before = stats.state_dict()
    with pytest.raises(ExtensionError, match=f"^InputStats cannot be loaded: {message}"):
        NativeCallback.foreign(stats).load(state)
    with pytest.raises(ValueError, match=message):
        stats.load_state_dict(state if isinstance(state, bytes) else json.loads(state))
    assert stats.state_dict() == before


def test_a_dict_is_no_state_of_a_library() -> None:
    given = r'InputStats cannot be loaded: .* the text of JSON; got \{"a": 1\}\. Load what it has'
    with pytest.raises(ExtensionError, match=given):
        NativeCallback.foreign(ext.InputStats()).load({"a": 1})


@pytest.mark.parametrize("state", ["{}", "[1.0, two]", "", "null", "[1.0"])
def test_a_state_of_nonsense_is_refused(state: str) -> None:
    spike = ext.LossSpike()
    with pytest.raises(ExtensionError, match=r"^LossSpike cannot be loaded: "):
        NativeCallback.foreign(spike).load(state)
    with pytest.raises(ExtensionError, match="the saved state is bytes, and JSON is due"):
        NativeCallback.foreign(spike).load(b"[]")
    assert spike.state_dict() == []


def test_one_without_a_state_saves_none() -> None:
    asks = ext.Asks("stop")
    assert not hasattr(asks, "state_dict")
    native = NativeCallback.foreign(asks)
    assert native.save() is None
    with pytest.raises(ExtensionError, match="Asks cannot be loaded: it keeps no state"):
        native.load(b"")


def test_a_state_cannot_be_had_while_the_callback_is_at_work() -> None:
    class Saves(ext.Sieve):  # type: ignore[misc]
        """Its method in Python runs when the native part is done: nothing is in the way."""

        def on_train_batch_end(self, ctx: Any) -> None:
            states.append(self.state_dict()["thirds"])

    states: list[int] = []
    fit(Scale, Saves(), data=numbered(6), epochs=1)
    assert states == [0, 0, 1, 1, 1, 2]
