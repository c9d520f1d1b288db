"""The installed test extension under Python without lumbre and torch, for valgrind to look at.

A host of ctypes calls its callbacks as lumbre would: capsules, panics, errors, state, drops.
"""

import ctypes as c
import gc
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from forge import NAME, Call, Handle, Table, ext

OK, PANICKED, BROKEN = 0, 2, 5
FIT_BEGIN, BATCH_BEGIN, BATCH_END, TRAIN_END, FIT_END = 0, 3, 9, 10, 19
GIVEN = 1

address_of = c.pythonapi.PyCapsule_GetPointer
address_of.restype, address_of.argtypes = c.c_void_p, [c.py_object, c.c_char_p]
# The callbacks are called with the interpreter attached, and may leave an exception.
Entry = c.PYFUNCTYPE(c.c_uint32, c.c_void_p, c.c_void_p)


class Tensor(c.Structure):
    _fields_ = (
        ("data", c.c_void_p),
        ("shape", c.c_void_p),
        ("strides", c.c_void_p),
        ("dimensions", c.c_uint32),
        ("code", c.c_uint8),
        ("bits", c.c_uint8),
        ("lanes", c.c_uint16),
    )


class Context:
    """What `ctx` is here."""


class Host:
    """A call whose functions answer, and write down what they are told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.ctx = Context()
        self.data = (c.c_float * 8192)(*range(8192))
        self.shape, self.strides = (c.c_int64 * 2)(64, 128), (c.c_int64 * 2)(128, 1)
        answers = {
            "batch_size": self.give(64),
            "loss": self.give(0.5),
            "metric": lambda call, which, name, epoch, place: self.put(place, 0.25),
            "tensor": self.lend,
            "log": lambda call, which, name, value: self.tell("log", name) or GIVEN,
            "stop": lambda call, reason: self.tell("stop", reason),
            "skip_batch": lambda call: None,
            "skip_epoch": lambda call: None,
            "fail": lambda call, message: self.tell("fail", message),
            "python": lambda call: id(self.ctx),
        }
        kinds = dict(Call._fields_)
        functions = {name: kinds[name](answer) for name, answer in answers.items()}
        size = c.sizeof(Call)
        self.call = Call(abi_major=1, size=size, training=1, epoch=1, iter=2, **functions)

    def give(self, value: float) -> Callable[..., int]:
        return lambda call, place: self.put(place, value)

    def put(self, place: Any, value: float) -> int:
        place[0] = value
        return GIVEN

    def tell(self, what: str, text: Any) -> None:
        self.told.append(f"{what}: {c.string_at(text.start, text.length).decode()}")

    def lend(self, call: object, which: int, place: int) -> int:
        lent = Tensor.from_address(place)
        lent.data, lent.shape = c.addressof(self.data), c.addressof(self.shape)
        lent.strides, lent.dimensions = c.addressof(self.strides), 2
        lent.code, lent.bits, lent.lanes = 2, 32, 1
        return GIVEN

    def fire(self, callback: Any, *hooks: int) -> list[int]:
        capsule = callback.__lumbre_callback__()
        handle = Handle.from_address(address_of(capsule, NAME))
        entry = Entry(Table.from_address(handle.table or 0).call)
        statuses = []
        for self.call.hook in hooks:
            statuses.append(entry(handle.state, c.addressof(self.call)))
        return statuses


def expect(got: object, expected: object) -> None:
    if got != expected:
        raise SystemExit(f"expected {expected!r}, got {got!r}")


host = Host()
with tempfile.TemporaryDirectory() as folder:
    lines, drops = Path(folder, "lines"), Path(folder, "drops")
    well = [ext.LossSpike(), ext.InputStats(), ext.Throughput(str(lines)), ext.Drops(str(drops))]
    for callback in well:
        hooks = FIT_BEGIN, BATCH_BEGIN, BATCH_END, BATCH_END, TRAIN_END, FIT_END
        expect(host.fire(callback, *hooks), [OK] * len(hooks))
        if hasattr(callback, "state_dict"):
            callback.load_state_dict(callback.state_dict())
    del well, callback
    gc.collect()
    expect(drops.read_text(), "2\n")

panics = ext.Panics("on_fit_begin")
expect(host.fire(panics, FIT_BEGIN, FIT_BEGIN), [PANICKED, BROKEN])
expect(host.told[-1], "fail: the fuse blew in on_fit_begin")
drops_with_panic = ext.Panics("drop")
del panics, drops_with_panic

calls = ext.Calls(lambda ctx: ctx.nothing_here)
try:
    host.fire(calls, BATCH_END)
except AttributeError as error:
    expect(str(error), "'Context' object has no attribute 'nothing_here'")
else:
    raise SystemExit("the exception is lost")
for wrong in (lambda: ext.LossSpike(window=0), lambda: ext.Panics("new")):
    try:
        wrong()
    except (ValueError, RuntimeError):
        pass
    else:
        raise SystemExit("it was made all the same")
del calls
gc.collect()
print("the extension alone: all is as expected")
