"""The base of callbacks: objects with methods that are named like the breakpoints of the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lumbre._core import HOOKS

Hook = Callable[..., Any]


class Callback:
    """The base of every callback: define the methods of the breakpoints you need.

    Each method is named like its breakpoint and gets `ctx`. The names are the keys of
    `lumbre.HOOKS`; a method `on_...` that is none of them is refused when the run starts. A method
    that is not defined costs nothing.

    Attributes, of the class or of the instance, read when the run starts:
        weight: Smaller runs earlier within a breakpoint; ±inf allowed, 0 by default. Equal weights
            keep the order in which the callbacks were passed.
        after: Names of callbacks that have to come earlier, whatever the weights.
        before: Names of callbacks that have to come later.
        name: The name that others refer to; the class name unless given.
        breakpoints: Names of custom breakpoints that are fired with `ctx.call_callbacks(name)`.
        logs: Names of metrics that the callback will log, so that others may monitor them.

    Example:
        >>> class Hello(Callback):
        ...     def on_fit_begin(self, ctx):
        ...         print("hello")
        >>> Hello().weight
        0.0
    """

    weight: float = 0.0
    after: tuple[str, ...] | str = ()
    before: tuple[str, ...] | str = ()
    name: str | None = None
    breakpoints: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()

    # Among equal weights a higher rank comes later, wherever the callback was passed: what saves
    # the others' state has to see what they have done.
    _rank = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what to keep when the run is saved: a tree of tensors and plain values.

        It is saved under the callback's name. Nothing unless defined.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; called in a fit that has begun."""

    def __repr__(self) -> str:
        own = vars(self).items()
        shown = (f"{k}={v!r}" for k, v in own if not k.startswith(("_", "on_")))
        return f"{type(self).__name__}({', '.join(shown)})"


def _idle(name: str, doc: str) -> Hook:
    def hook(self: Callback, ctx: Any) -> None: ...

    hook.__name__ = name
    hook.__qualname__ = f"Callback.{name}"
    hook.__doc__ = doc
    return hook


# The methods come from the one list of breakpoints, which is Rust's.
for _name, _doc in HOOKS.items():
    setattr(Callback, _name, _idle(_name, _doc))
