"""The ABI from Python's side: what `make dev` has built for these tests, and capsules by hand."""

import ctypes as c
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import lumbre_test_extension as ext
except ImportError as error:
    raise ImportError("There is no lumbre_test_extension here: `make dev` builds it.") from error

__all__ = [
    "FOREVER",
    "NAME",
    "Call",
    "Filter",
    "Handle",
    "List",
    "Table",
    "Text",
    "capsule",
    "ext",
    "in_a_process_of_its_own",
    "library",
]

NAME = b"lumbre.callback.v1"
BUILT = Path(__file__).parents[1] / "target" / "extension"
FOREVER = 2**64 - 1

# What capsules point at has to stay; a capsule made here never frees anything.
_kept: list[Any] = []


def library(name: str) -> c.CDLL:
    """A library that was built from `tests/extension`."""
    stems = [BUILT / name, BUILT / "release" / f"lib{name}", BUILT / "release" / name]
    files = [
        stem.with_name(stem.name + ending)
        for stem, ending in itertools.product(stems, [".so", ".dylib", ".dll"])
    ]
    for file in files:
        if file.exists():
            return c.CDLL(str(file))
    raise FileNotFoundError(f"There is no {name} in {BUILT}: `make dev` builds it.")


def in_a_process_of_its_own(*arguments: str) -> str:
    """What Python prints with these arguments; it has to end with exit code 0."""
    # Of several builds the child must take the one that is under test here.
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", *arguments],
        env={**os.environ, "PYTHONPATH": path, "RUST_BACKTRACE": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr}"
    return done.stdout


class Text(c.Structure):
    _fields_ = (("start", c.c_void_p), ("length", c.c_size_t))

    @classmethod
    def of(cls, text: str | bytes) -> "Text":
        given = text.encode() if isinstance(text, str) else text
        buffer = c.create_string_buffer(given, max(len(given), 1))
        _kept.append(buffer)
        return cls(c.addressof(buffer), len(given))


class List(c.Structure):
    """Texts or filters, one behind the other."""

    _fields_ = (("start", c.c_void_p), ("length", c.c_size_t))

    @classmethod
    def of(cls, *items: c.Structure) -> "List":
        if not items:
            return cls(None, 0)
        array = (type(items[0]) * len(items))(*items)
        _kept.append(array)
        return cls(c.addressof(array), len(items))


class Filter(c.Structure):
    _fields_ = (
        ("hook", c.c_uint32),
        ("once", c.c_uint32),
        ("every", c.c_uint64),
        ("first_epoch", c.c_uint64),
        ("last_epoch", c.c_uint64),
    )


class Call(c.Structure):
    pass


_Asked = c.POINTER(Call)


def _function(*arguments: Any, result: Any = c.c_uint32) -> Any:
    # Not CFUNCTYPE, which lets go of the interpreter: the host answers with it in its hands.
    return c.PYFUNCTYPE(result, _Asked, *arguments)


Call._fields_ = (
    ("abi_major", c.c_uint32),
    ("abi_minor", c.c_uint32),
    ("size", c.c_size_t),
    ("hook", c.c_uint32),
    ("training", c.c_uint32),
    ("epoch", c.c_uint64),
    ("iter", c.c_uint64),
    ("step_count", c.c_uint64),
    ("batch_size", _function(c.POINTER(c.c_uint64))),
    ("loss", _function(c.POINTER(c.c_double))),
    ("metric", _function(c.c_uint32, Text, c.c_uint64, c.POINTER(c.c_double))),
    ("tensor", _function(c.c_uint32, c.c_void_p)),
    ("log", _function(c.c_uint32, Text, c.c_double)),
    ("stop", _function(Text, result=None)),
    ("skip_batch", _function(result=None)),
    ("skip_epoch", _function(result=None)),
    ("fail", _function(Text, result=None)),
    ("python", _function(result=c.c_void_p)),
    ("log_mean", _function(Text, c.c_double, c.c_double)),
)

_Entry = c.CFUNCTYPE(c.c_uint32, c.c_void_p, _Asked)
_Drop = c.CFUNCTYPE(None, c.c_void_p)


class Table(c.Structure):
    _fields_ = (
        ("abi_major", c.c_uint32),
        ("abi_minor", c.c_uint32),
        ("size", c.c_size_t),
        ("hooks", c.c_uint64),
        ("weight", c.c_double),
        ("name", Text),
        ("crate_name", Text),
        ("crate_version", Text),
        ("filters", List),
        ("after", List),
        ("before", List),
        ("call", c.c_void_p),
        ("drop", c.c_void_p),
        ("logs", List),
        ("save", c.c_void_p),
        ("load", c.c_void_p),
        # No version has these; a table may say that it ends behind them.
        ("of_the_future", c.c_uint64 * 500),
    )

    @classmethod
    def good(cls, act: Callable[[Call], int | None] = lambda call: None, **fields: Any) -> "Table":
        """A table of today for `on_epoch_end`, but for the fields that are given."""
        entry = _Entry(lambda state, call: act(call.contents) or 0)
        drop = _Drop(lambda handle: None)
        _kept.extend([entry, drop])
        future = (c.c_uint64 * 500)(*([FOREVER] * 500))
        table = cls(
            **{
                "abi_major": 1,
                "size": cls.of_the_future.offset,
                "hooks": 1 << 17,
                "name": Text.of("Forged"),
                "crate_name": Text.of("forgery"),
                "crate_version": Text.of("0.0.1"),
                "call": c.cast(entry, c.c_void_p),
                "drop": c.cast(drop, c.c_void_p),
                "of_the_future": future,
                **fields,
            }
        )
        _kept.append(table)
        return table


class Handle(c.Structure):
    _fields_ = (("table", c.c_void_p), ("state", c.c_void_p))

    @classmethod
    def on(cls, table: c.Structure | int | None, state: int | None = 1) -> "Handle":
        address = c.addressof(table) if isinstance(table, c.Structure) else table
        handle = cls(address, state)
        _kept.append(handle)
        return handle


def capsule(handle: c.Structure | int, name: bytes | None = NAME) -> object:
    """A capsule of that name around a handle or an address."""
    address = c.addressof(handle) if isinstance(handle, c.Structure) else handle
    new = c.pythonapi.PyCapsule_New
    new.restype, new.argtypes = c.py_object, [c.c_void_p, c.c_void_p, c.c_void_p]
    # Python keeps the pointer to the name, not a copy.
    buffer = None if name is None else c.create_string_buffer(name)
    _kept.append(buffer)
    made: object = new(address, None if buffer is None else c.addressof(buffer), None)
    return made
