"""Trees of tensors and plain values, as JSON that names the tensors, and back.

What JSON has is itself. All else is a JSON object with one key that begins with `$`, such as
`{"$tuple": [1, 2]}`; a dict that has such a key itself is written as a list of pairs. Nothing here
calls, imports or looks up what a file names.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import inspect
import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumbre.errors import SaveError
from lumbre.files import tensor as saved_tensor

Path = tuple[str, ...]
_DICTS = (dict, collections.OrderedDict, collections.defaultdict)
# Beyond it, the recursion of those who read the file would end first.
DEPTH = 64


@dataclasses.dataclass(frozen=True)
class QualifiedName:
    """The name that a file keeps of a class or a function among the hparams: where it was found.

    Attributes:
        name: Module and name, joined by a dot.
    """

    name: str


class Encoder:
    """Turns one tree into JSON, and gathers its tensors by name; copies none.

    Args:
        named: The top-level keys under which classes and functions are kept by name.

    Attributes:
        tensors: What has been met, by the name it gets in the file.
    """

    def __init__(self, named: frozenset[str] = frozenset()) -> None:
        self.tensors: dict[str, Tensor | np.ndarray[Any, Any]] = {}
        self._named = named
        self._places: dict[tuple[Any, ...], str] = {}

    def encode(self, value: Any, path: Path = ()) -> Any:
        """Give the JSON of a value.

        Raises:
            SaveError: when it, or a value in it, cannot be saved; the message has its path.
        """
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            # What reads JSON elsewhere has 64 bits for a number.
            return value if abs(value) < 2**63 else {"$int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$float": _odd_float(value)}
        if isinstance(value, Tensor):
            return self._tensor(value, path)
        if len(path) > DEPTH:
            raise _refused(
                path[:5], f"is nested more than {DEPTH} levels deep, or contains itself: cut it"
            )
        if kind is list:
            return self._items(value, path)
        if kind in _DICTS:
            return self._dict(value, path)
        return self._marked(value, kind, path)

    def _items(self, values: Any, path: Path) -> list[Any]:
        return [self.encode(item, (*path, str(i))) for i, item in enumerate(values)]

    def _dict(self, value: dict[Any, Any], path: Path) -> Any:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: self.encode(item, (*path, key)) for key, item in value.items()}
        return {"$dict": self._pairs(value, path)}

    def _pairs(self, value: dict[Any, Any], path: Path) -> list[Any]:
        for key in value:
            if type(key) is not str and type(key) is not int:
                raise _refused(
                    path, f"has the key {key!r}, a {_kind(key)}; keys are of type str or int"
                )
        return [
            [self.encode(key), self.encode(item, (*path, str(key)))] for key, item in value.items()
        ]

    def _marked(self, value: Any, kind: type, path: Path) -> dict[str, Any]:
        if kind is tuple:
            return {"$tuple": self._items(value, path)}
        if kind is torch.Size:
            return {"$size": self._items(value, path)}
        if kind is bytes:
            return {"$bytes": base64.b64encode(value).decode()}
        if kind is collections.Counter:
            return {"$counter": self._pairs(value, path)}
        if kind is np.ndarray:
            return self._array(value, path)
        if isinstance(value, np.generic) and value.dtype.name in saved_tensor.NUMPY:
            return {"$scalar": [value.dtype.name, _little(value).tobytes().hex()]}
        if kind is torch.dtype:
            return {"$dtype": str(value).removeprefix("torch.")}
        if kind is torch.device:
            return {"$device": str(value)}
        if path and path[0] in self._named:
            if kind is QualifiedName:
                return {"$name": value.name}
            if isinstance(value, type) or inspect.isroutine(value):
                return {"$name": qualified_name(value)}
        raise _refused(path, _why_not(value))

    def _tensor(self, tensor: Tensor, path: Path) -> dict[str, Any]:
        reason = saved_tensor.refusal(tensor)
        if reason is not None:
            raise _refused(path, reason)
        place = saved_tensor.place(tensor)
        name = None if place is None else self._places.get(place)
        if name is None:
            name = self._add(tensor, path)
            if place is not None:
                self._places[place] = name
        dtype = saved_tensor.mark(tensor)
        return {"$tensor": name} if dtype is None else {"$tensor": name, "dtype": dtype}

    def _array(self, array: np.ndarray[Any, Any], path: Path) -> dict[str, Any]:
        reason = saved_tensor.array_refusal(array)
        if reason is not None:
            raise _refused(path, reason)
        name, dtype = self._add(array, path), array.dtype.name
        return {"$array": name, "dtype": dtype} if dtype.startswith("complex") else {"$array": name}

    def _add(self, value: Tensor | np.ndarray[Any, Any], path: Path) -> str:
        # Half a surrogate pair is a character of Python's alone.
        wanted = ".".join(path).encode(errors="replace").decode() or "tensor"
        name, n = wanted, 1
        while name in self.tensors or name == "__metadata__":
            n += 1
            name = f"{wanted}#{n}"
        self.tensors[name] = value
        return name


def decode(value: Any, tensor: Callable[[str], Any], depth: int = 0) -> Any:
    """Give the tree of a JSON value.

    Args:
        value: What `Encoder.encode` gave.
        tensor: Gives a tensor by its name in the file, or None in the place of all of them.
        depth: How deep it lies.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: when it is nothing that was encoded.
    """
    if depth > 3 * DEPTH + 3:
        raise ValueError(f"nested more than {DEPTH} levels deep")
    if isinstance(value, list):
        return [decode(item, tensor, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    marks = [key for key in value if key.startswith("$")]
    if not marks:
        return {key: decode(item, tensor, depth + 1) for key, item in value.items()}
    if len(value) - ("dtype" in value) != 1:
        raise ValueError(f"{marks[0]} beside other keys")
    content = value[marks[0]]
    if marks[0] in ("$tensor", "$array"):
        found = tensor(content)
        if found is None:
            return None
        found = saved_tensor.viewed(found, value.get("dtype"))
        return found.numpy() if marks[0] == "$array" else found
    if marks[0] in _NESTED:
        content = decode(content, tensor, depth + 1)
    return _READERS[marks[0]](content)


def qualified_name(value: Any) -> str:
    """Module and name of a class or function."""
    parts = getattr(value, "__module__", None), getattr(value, "__qualname__", repr(value))
    return ".".join(part for part in parts if part)


def _scalar(content: Any) -> Any:
    name, digits = content
    if name not in saved_tensor.NUMPY:
        raise ValueError(f"{name!r} is no dtype of a scalar")
    dtype = np.dtype(name)
    raw = np.frombuffer(bytes.fromhex(digits), dtype.newbyteorder("<"), count=1)
    return raw.astype(dtype)[0]


def _dtype(name: str) -> torch.dtype:
    # Of torch's own attributes some are modules that are imported when they are asked for.
    found = vars(torch).get(name)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"torch has no dtype {name!r}")
    return found


def _float(text: str) -> float:
    if text in ("nan", "inf", "-inf"):
        return float(text)
    return float(np.frombuffer(bytes.fromhex(text), ">f8", count=1)[0])


_READERS: dict[str, Callable[[Any], Any]] = {
    "$tuple": tuple,
    "$size": torch.Size,
    "$dict": dict,
    "$counter": lambda pairs: collections.Counter(dict(pairs)),
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$int": lambda text: int(text, 16),
    "$float": _float,
    "$scalar": _scalar,
    "$dtype": _dtype,
    "$device": torch.device,
    "$name": QualifiedName,
}
_NESTED = {"$tuple", "$size", "$dict", "$counter"}


def _odd_float(value: float) -> str:
    bits = struct.pack(">d", value)
    if bits == struct.pack(">d", math.nan) or math.isinf(value):
        return repr(value)
    # A NaN carries a sign and a payload.
    return bits.hex()


def _little(value: np.generic) -> Any:
    return np.asarray(value).astype(value.dtype.newbyteorder("<"))


def _refused(path: Path, reason: str) -> SaveError:
    return SaveError(f"{'.'.join(path) or 'the value'} cannot be saved: it {reason}.")


def _kind(value: Any) -> str:
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _why_not(value: Any) -> str:
    for plain in (bool, int, float, str, bytes, dict, list, tuple):
        if isinstance(value, plain):
            name = plain.__name__
            return f"is a {_kind(value)}, a {name} of another class: save {name}(...) of it"
    if isinstance(value, set | frozenset):
        return f"is a {_kind(value)}: save a sorted list of it"
    if isinstance(value, type) or inspect.isroutine(value):
        got = f"is {value!r}, which is code"
    elif isinstance(value, np.generic | np.ndarray):
        got = f"is a {_kind(value)} of dtype {value.dtype}"
    else:
        got = f"is of type {_kind(value)}"
    return (
        f"{got}; files hold tensors, arrays, None, bool, int, float, str, bytes, and dicts, lists "
        "and tuples of them. Leave it out, or save what it can be made of"
    )
