"""The border itself: forged capsules are refused and never crash, strange answers are errors, and
what was built for another minor version, or without Python, is called like all others."""

import ctypes as c
import json
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lumbre as lb
from forge import (
    FOREVER,
    NAME,
    Call,
    Filter,
    Handle,
    List,
    Table,
    Text,
    capsule,
    ext,
    in_a_process_of_its_own,
    library,
)
from lumbre._core import NativeCallback
from lumbre.errors import ABIError, ArgumentError, ExtensionError
from runs import Scale, at, fit, notes

EPOCH_END = 17
OK, FAILED, PANICKED, BUSY, PYTHON, BROKEN, GONE = range(7)
HOST = 0x100
NONE, GIVEN, WRONG = 0, 1, 0x100


def forged(act: Callable[[Call], int | None] = lambda call: None, **fields: Any) -> object:
    return capsule(Handle.on(Table.good(act, **fields)))


def gives(value: Any) -> Any:
    return type("Gives", (), {"__lumbre_callback__": lambda self: value})()


def epoch_filter(**fields: int) -> List:
    first = {"hook": EPOCH_END, "every": 1, "first_epoch": 1, "last_epoch": FOREVER}
    return List.of(Filter(**{**first, **fields}))


def misaligned(structure: c.Structure) -> int:
    """The address of a copy of it that begins at an odd place."""
    buffer = c.create_string_buffer(c.sizeof(structure) + 8)
    _kept.append(buffer)
    start = c.addressof(buffer) | 7
    c.memmove(start, c.addressof(structure), c.sizeof(structure))
    return start


_kept: list[Any] = []

# What is forged, and what the error has to say of it.
FORGERIES: dict[str, tuple[Callable[[], object], str]] = {
    # The name is the gate.
    "another name": (lambda: capsule(8, b"lumbre.callback.v2"), '"lumbre.callback.v2" where'),
    "a name of another library": (lambda: capsule(8, b"dltensor"), '"dltensor"'),
    "a longer name": (lambda: capsule(8, NAME + b".1"), '"lumbre.callback.v1.1"'),
    "an empty name": (lambda: capsule(8, b""), '""'),
    "a name that is no text": (lambda: capsule(8, b"\xff\xfe"), "where"),
    "no name": (lambda: capsule(8, None), "no name"),
    # Then the version, and nothing else if it is another one.
    "major 2": (
        lambda: forged(abi_major=2, abi_minor=7, size=8, call=None),
        "built for version 2.7 of lumbre's callback ABI, and version 1.1 runs here",
    ),
    "major 0": (lambda: forged(abi_major=0), "version 0.0"),
    "a huge major": (lambda: forged(abi_major=2**32 - 1), "version 4294967295.0"),
    # Then the size.
    "size 0": (lambda: forged(size=0), "its table has 0 bytes"),
    "size 8": (lambda: forged(size=8), "its table has 8 bytes"),
    "size below the first": (lambda: forged(size=136), "has 136 bytes"),
    "size that cuts a field": (lambda: forged(size=148), "has 148 bytes"),
    "size over the limit": (lambda: forged(size=4104), "144 to 4096 in steps of 8"),
    "size huge": (lambda: forged(size=2**63), "has 9223372036854775808 bytes"),
    "size all ones": (lambda: forged(size=FOREVER), "has 18446744073709551615 bytes"),
    # Pointers that are none.
    "no table": (lambda: capsule(Handle.on(None)), "table"),
    "a table at an odd place": (
        lambda: capsule(Handle.on(misaligned(Table.good()))),
        "table",
    ),
    "a handle at an odd place": (
        lambda: capsule(misaligned(Handle.on(Table.good()))),
        "no handle",
    ),
    "no call": (lambda: forged(call=None), "its `call` is NULL"),
    "no drop": (lambda: forged(drop=None), "its `drop` is NULL"),
    "dropped": (lambda: capsule(Handle.on(Table.good(), None)), "has been dropped"),
    # Texts.
    "no name's text": (lambda: forged(name=Text(None, 6)), "its name is not there"),
    "an empty callback's name": (lambda: forged(name=Text.of("")), "its name is empty"),
    "an absurd length": (lambda: forged(name=Text(8, 2**62)), "its name is longer than 1024"),
    "a negative length": (lambda: forged(name=Text(8, FOREVER)), "its name is longer than 1024"),
    "a name not in UTF-8": (lambda: forged(name=Text.of(b"\xc3")), "its name is not UTF-8"),
    "no crate": (lambda: forged(crate_name=Text(None, 1)), "its crate's name is not there"),
    "no version": (lambda: forged(crate_version=Text(None, 0)), "its crate's version is empty"),
    "after nowhere": (lambda: forged(after=List(None, 1)), "its `after` is not there"),
    "before without end": (lambda: forged(before=List(8, 2**40)), "its `before` is longer"),
    "after an empty name": (lambda: forged(after=List.of(Text.of(""))), "its `after` is empty"),
    "logs not in UTF-8": (
        lambda: forged(logs=List.of(Text.of("good"), Text.of(b"\xff"))),
        "its `logs` is not UTF-8",
    ),
    "logs at an odd place": (lambda: forged(logs=List(9, 1)), "its `logs` is not there"),
    # Numbers that make no sense.
    "weight NaN": (lambda: forged(weight=math.nan), "its weight is NaN"),
    "a hook of the future": (lambda: forged(hooks=1 << 27), "breakpoint number 27"),
    "hook 63": (lambda: forged(hooks=1 << 63), "breakpoint number 63"),
    "filters nowhere": (lambda: forged(filters=List(None, 1)), "its filters are not there"),
    "filters without end": (lambda: forged(filters=List(8, 1025)), "its filters are not there"),
    "every 0": (lambda: forged(filters=epoch_filter(every=0)), "makes no sense"),
    "epoch 0": (lambda: forged(filters=epoch_filter(first_epoch=0)), "makes no sense"),
    "epochs backwards": (
        lambda: forged(filters=epoch_filter(first_epoch=3, last_epoch=2)),
        "makes no sense",
    ),
    "twice once": (lambda: forged(filters=epoch_filter(once=2)), "makes no sense"),
    "a filter elsewhere": (lambda: forged(filters=epoch_filter(hook=0)), "makes no sense"),
    "a filter nowhere": (lambda: forged(filters=epoch_filter(hook=99)), "makes no sense"),
}


def main() -> None:
    """Try them all in this process, each in every place where a capsule is taken."""
    results = {}
    for name, (forge, _) in FORGERIES.items():
        print(name, file=sys.stderr, flush=True)  # The last one, if it crashes.
        told = []
        for take in (
            lambda given: fit(Scale, given, epochs=1),
            lambda given: lb.schedule([gives(given)]),
            NativeCallback.foreign,
        ):
            try:
                take(forge())
            except Exception as error:
                told.append([[each.__name__ for each in type(error).__mro__], str(error)])
                traceback.clear_frames(error.__traceback__)
            else:
                told.append(None)
        results[name] = told
    print(json.dumps(results))


@pytest.fixture(scope="module")
def refusals() -> Any:
    """What was said of each forgery, by a process that came to its end."""
    return json.loads(in_a_process_of_its_own(__file__).splitlines()[-1])


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_capsule_is_refused(refusals: Any, name: str) -> None:
    assert len(refusals[name]) == 3
    for refused in refusals[name]:
        assert refused is not None, "it was taken"
        classes, message = refused
        assert classes[0] == "ABIError"
        assert {"LumbreError", "ImportError"} <= set(classes)
        assert FORGERIES[name][1] in message


def test_a_refusal_names_the_class_and_says_what_to_do() -> None:
    with pytest.raises(ABIError, match=r"test_abi\.Gives .*Install a newer lumbre"):
        lb.schedule([gives(forged(abi_major=3))])
    with pytest.raises(ABIError, match=r"^The capsule cannot .*Install a newer build of the ext"):
        lb.schedule([forged(abi_major=0)])
    with pytest.raises(ABIError, match=r"has to build it with the crate lumbre-abi"):
        lb.schedule([forged(call=None)])


@pytest.mark.parametrize("given", [None, "lumbre.callback.v1", 7, ext.LossSpike])
def test_what_is_no_capsule_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"Gives.__lumbre_callback__\(\) gives a PyCapsule; got"):
        fit(Scale, gives(given))


def test_an_error_of_the_method_is_not_hidden() -> None:
    class Raises:
        def __lumbre_callback__(self) -> object:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(Scale, Raises())


# --- what is not forged -------------------------------------------------------------------------


def test_a_capsule_made_by_hand_is_called() -> None:
    seen = []
    fit(Scale, forged(lambda call: seen.append((call.epoch, call.hook, call.size))), epochs=3)
    assert seen == [(1, EPOCH_END, 136), (2, EPOCH_END, 136), (3, EPOCH_END, 136)]


@pytest.mark.parametrize("size", [144, 152, 160, 168, 176, 184, 1024, 4096])
def test_a_table_of_any_1_x_is_called(size: int) -> None:
    """Fields that were added at the end are not missed, nor is it minded that there are more."""
    seen = []
    logs = List.of(Text.of("told"))
    given = forged(lambda call: seen.append(call.epoch), size=size, abi_minor=99, logs=logs)
    native = NativeCallback.foreign(given)
    # What lies behind the end of a shorter table is not read.
    assert native.about["logs"] == (["told"] if size >= 160 else [])
    assert native.save() is None
    fit(Scale, given, epochs=2)
    assert seen == [1, 2]


@pytest.mark.parametrize("weight", [math.inf, -math.inf, -0.0, 1e308])
def test_every_weight_but_nan_is_good(weight: float) -> None:
    rows = lb.schedule([forged(weight=weight)]).rows
    assert [row[3] for row in rows if row[1] == "Forged"] == [weight]


def test_a_table_without_hooks_is_never_called() -> None:
    seen: list[Any] = []
    fit(Scale, forged(seen.append, hooks=0))
    assert seen == []


def test_who_saves_without_loading_keeps_no_state() -> None:
    native = NativeCallback.foreign(forged(save=Table.good().call))
    assert native.save() is None
    with pytest.raises(ExtensionError, match="keeps no state"):
        native.load(b"")


@pytest.mark.parametrize(
    "status", [FAILED, PANICKED, BUSY, PYTHON, BROKEN, GONE, HOST, 99, 2**32 - 1]
)
def test_every_status_but_0_is_an_error(status: int) -> None:
    """Even when nothing was said, no exception is set, and the host knows of nothing."""
    with pytest.raises(ExtensionError, match="Forged") as caught:
        fit(Scale, forged(lambda call: status))
    assert notes(caught.value) == ["in Forged.on_epoch_end: epoch 1"]


def test_what_a_callback_says_is_shown_whatever_is_wrong_with_it() -> None:
    def fails(text: Text) -> Callable[[Call], int]:
        def act(call: Call) -> int:
            call.fail(call, text)
            return FAILED

        return act

    for text, message in [
        (Text.of("out of ink"), "out of ink"),
        (Text.of(b"out of \xff ink"), "out of \ufffd ink"),
        (Text(None, 5), ""),
        (Text(8, 0), ""),
    ]:
        with pytest.raises(ExtensionError) as caught:
            fit(Scale, forged(fails(text)))
        assert message in str(caught.value)


def test_questions_that_make_no_sense_have_an_answer() -> None:
    answers = []

    def act(call: Call) -> None:
        number, size = c.c_double(-1), c.c_uint64(7)
        tensor = c.create_string_buffer(64)
        answers.append(call.metric(call, 0, Text.of("nothing"), 0, number))
        answers.append(call.metric(call, 0, Text.of(b"\xff"), 0, number))
        answers.append(call.metric(call, 0, Text(None, 9), 0, number))
        answers.append(call.metric(call, 1, Text.of("loss"), 2**63, number))
        answers.append(call.tensor(call, 99, c.addressof(tensor)))
        answers.append(call.tensor(call, 0, c.addressof(tensor)))
        answers.append(call.batch_size(call, size))
        answers.append(call.loss(call, number))
        assert (number.value, size.value) == (-1, 7), "an answer of none writes nothing"
        call.stop(call, Text.of(b"\xf0\x9f stop"))

    fitted = fit(Scale, forged(act))
    assert answers == [NONE] * 8
    assert fitted.stop_reason is not None
    assert "\ufffd stop" in fitted.stop_reason


def test_a_set_that_this_version_has_not_is_an_error_that_says_so() -> None:
    def act(call: Call) -> int:
        number = c.c_double()
        assert call.metric(call, 3, Text.of("loss"), 0, number) == WRONG
        # The errors of a call are numbered, and the status says which one it gives up for.
        assert call.log(call, 7, Text.of("mine"), 1.0) == WRONG + 1
        return HOST + 1

    with pytest.raises(ExtensionError, match=r"set of records number 7: .*needs a newer lumbre"):
        fit(Scale, forged(act))


def test_an_error_that_the_callback_gets_over_is_none() -> None:
    def act(call: Call) -> None:
        assert call.log(call, 7, Text.of("mine"), 1.0) == WRONG

    assert fit(Scale, forged(act), epochs=3).stop_reason is None


def test_names_that_the_run_writes_are_refused() -> None:
    def name_it_loss(call: Call) -> int:
        assert call.log(call, 0, Text.of("loss"), 1.0) == WRONG
        # At the end of an epoch there is no pass.
        assert call.log_mean(call, Text.of("fine"), 1.0, 1.0) == WRONG + 1
        return HOST

    with pytest.raises(ArgumentError, match=r'ctx\.log\("loss", .*the run itself records "loss"'):
        fit(Scale, forged(name_it_loss))


# --- another language, another version, no Python -----------------------------------------------

FIRST = """
import ctypes as c
import json
import lumbre as lb
from forge import capsule, library
from runs import Scale, fit, numbered

first = library("first_layout")
first.first_new.restype, first.first_new.argtypes = c.c_void_p, [c.c_uint64]
first.first_free.argtypes = [c.c_void_p]
handle = first.first_new(4)
given = capsule(handle)
rows = [row for row in lb.schedule([given]).rows if row[1] == "FirstLayout"]
fitted = fit(Scale, given, data=numbered(6), epochs=3)
before = first.first_drops()
first.first_free(handle)
print(json.dumps([rows, fitted.records["metrics"]["train"], fitted.stop_reason,
                  before, first.first_drops()]))
"""


def test_what_was_built_against_the_first_layout_still_runs() -> None:
    """Its table ends where the memory ends: a host that reads one byte more does not come back."""
    told = in_a_process_of_its_own("-c", FIRST)
    rows, records, reason, before, after = json.loads(told.splitlines()[-1])
    assert rows == [["on_train_batch_end", "FirstLayout", "first-layout 1.0.0", -1.5, "every(2)"]]
    # Batches 2, 4, 6 of the first epoch, and 8, the second of the second.
    assert [record["first_batches"] for record in records] == [3, 4]
    assert reason == "FirstLayout: the first layout has had enough"
    assert (before, after) == (0, 1)


@pytest.fixture
def plain() -> c.CDLL:
    plain = library("lumbre_test_plain")
    plain.plain_new.restype, plain.plain_new.argtypes = c.c_void_p, [c.c_uint64]
    plain.plain_free.restype, plain.plain_free.argtypes = None, [c.c_void_p]
    plain.plain_drops.restype = c.c_uint64
    return plain


def test_a_library_without_python_is_called_like_any_other(plain: c.CDLL) -> None:
    # A library with pyo3 in it has Python's functions among its imports.
    code = Path(plain._name).read_bytes()
    assert b"PlainCounter" in code
    assert b"PyErr_" not in code
    assert b"PyErr_" in Path(ext.lumbre_test_extension.__file__).read_bytes()

    handle, drops = plain.plain_new(3), plain.plain_drops()
    given = capsule(handle)
    rows = [row for row in lb.schedule([given]).rows if row[1] == "PlainCounter"]
    assert rows == [("on_train_batch_end", "PlainCounter", "lumbre-test-plain 1.2.3", 0.5, "")]
    fitted = fit(Scale, given, at("on_fit_end", lambda ctx: None))
    assert [record["plain_batches"] for record in fitted.records["metrics"]["train"]] == [2, 3]
    assert fitted.stop_reason == "PlainCounter: 3 batches are enough"

    native = NativeCallback.foreign(given)
    assert native.save() == (3).to_bytes(8, "little")
    native.load((40).to_bytes(8, "little"))
    assert native.save() == (40).to_bytes(8, "little")
    with pytest.raises(ExtensionError, match=r"PlainCounter cannot be loaded: .*slice"):
        native.load(b"short")

    del native, given
    assert plain.plain_drops() == drops, "the capsule does not own it"
    plain.plain_free(handle)
    assert plain.plain_drops() == drops + 1
    plain.plain_free(None)


if __name__ == "__main__":
    main()
