"""Callbacks of foreign libraries: what is passed for one, and what it says of itself."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias, runtime_checkable

from lumbre._core import NativeCallback
from lumbre.errors import ArgumentError, ArgumentTypeError
from lumbre.hooks.callback import Callback

# `types.CapsuleType` comes with Python 3.13 only.
_Capsule = type(datetime.datetime_CAPI)


@runtime_checkable
class Foreign(Protocol):
    """An object with a callback that is written in another language.

    The capsule is named `lumbre.callback.v1`; the crate `lumbre-abi` makes such objects. Methods
    `on_...` in Python may stand beside it, and so may the attributes of `Callback`, which win over
    what the library says.
    """

    def __lumbre_callback__(self) -> Any:
        """The capsule."""


# What is taken wherever callbacks are.
Callbacks: TypeAlias = Callback | Foreign | Iterable[Callback | Foreign]


class CapsuleCallback(Callback):
    """A callback of which there is nothing but the capsule."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule
        native = NativeCallback.foreign(capsule)
        self.name = native.about["name"]

    def __lumbre_callback__(self) -> object:
        """The capsule."""
        return self._capsule

    def __repr__(self) -> str:
        return f"<callback {self.name} in a capsule>"


def as_callbacks(callbacks: Callbacks) -> list[Any]:
    """Return the callbacks as a list, each one checked to be an instance that is passed once.

    Raises:
        ABIError: when a capsule among them cannot be used.
        ArgumentError: when one is passed twice.
        ArgumentTypeError: when one is no callback.
    """
    if _is_one(callbacks) or isinstance(callbacks, str | dict | type):
        callbacks = [callbacks]  # type: ignore[list-item]
    try:
        found: list[Any] = list(callbacks)  # type: ignore[arg-type]
    except TypeError:
        found = [callbacks]
    checked = [_checked(each) for each in found]
    seen: set[int] = set()
    for each in checked:
        if id(object_of(each)) in seen:
            raise ArgumentError(_TWICE.format(name=Given(each).name))
        seen.add(id(object_of(each)))
    return checked


def object_of(callback: Any) -> Any:
    """Return the object that was passed for a callback, by which it is known: it or its capsule."""
    return callback._capsule if isinstance(callback, CapsuleCallback) else callback


def _is_one(each: object) -> bool:
    return isinstance(each, Callback | Foreign | _Capsule) and not isinstance(each, type)


def _checked(each: Any) -> Any:
    if isinstance(each, type) and (
        issubclass(each, Callback) or hasattr(each, "__lumbre_callback__")
    ):
        raise ArgumentTypeError(
            f"callbacks holds the class {each.__name__} where an instance is due: "
            f"write {each.__name__}(...)."
        )
    if not _is_one(each):
        raise ArgumentTypeError(
            f"A callback is an instance of a subclass of lb.Callback; got {each!r}. "
            'A function becomes one by @lb.on("on_epoch_end").'
        )
    return CapsuleCallback(each) if isinstance(each, _Capsule) else each


class Given:
    """A callback, the part of it that is written in Rust, and what the two say of it."""

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self.native = _native(callback)

    @property
    def name(self) -> str:
        """The name that others refer to; the class name unless given."""
        kind = type(self.callback)
        given = getattr(self.callback, "name", None)
        # A library names its own class; one that Python has made of it has a name of its own.
        own = vars(kind).get("__lumbre_callback__")
        if not given and own is not None and not inspect.isfunction(own):
            given = self.native and self.native.about.get("name")
        if given is not None and not isinstance(given, str):
            raise ArgumentTypeError(f"{kind.__name__}.name is a text; got {given!r}.")
        return given or kind.__name__

    def attribute(self, name: str) -> Any:
        """An attribute of `Callback`: as the object has it, else the library, else the default."""
        if self.native is None or _has(self.callback, name):
            return getattr(self.callback, name)
        return self.native.about.get(name, vars(Callback)[name])


def _has(callback: Any, name: str) -> bool:
    classes = type(callback).__mro__
    own = name in getattr(callback, "__dict__", ())
    return own or any(name in kind.__dict__ for kind in classes if kind is not Callback)


def _native(callback: Any) -> NativeCallback | None:
    if _has(callback, "_native"):
        # Without a default: an AttributeError inside of a property must not pass for "none".
        native = callback._native
        return native if isinstance(native, NativeCallback) else None
    is_foreign = _has(callback, "__lumbre_callback__") or not isinstance(callback, Callback)
    return NativeCallback.foreign(callback) if is_foreign else None


_TWICE = (
    "{name} is passed twice, and one object cannot do the work of two callbacks. Pass it "
    "once, or make a second one."
)
