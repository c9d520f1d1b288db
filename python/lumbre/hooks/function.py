"""Callbacks of functions: one at one breakpoint, or a class of them without a class statement."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from lumbre._core import Filter
from lumbre.arguments import flag
from lumbre.errors import ArgumentTypeError
from lumbre.hooks.callback import Callback, Hook
from lumbre.hooks.filters import filter_epochs, filter_every, with_filter


class FunctionCallback(Callback):
    """One function at one breakpoint; made by `lb.on`."""

    def __init__(self, hook: str, function: Hook) -> None:
        self.name = getattr(function, "__name__", "function")
        self._function = function
        setattr(self, hook, function)

    def __call__(self, ctx: Any) -> Any:
        """Call the function, as if it had not been decorated."""
        return self._function(ctx)


def on(
    hook: str,
    *,
    every: int | None = None,
    once: bool = False,
    epochs: tuple[int, int | None] | None = None,
    weight: float = 0.0,
    after: tuple[str, ...] | str = (),
    before: tuple[str, ...] | str = (),
    name: str | None = None,
) -> Callable[[Hook], FunctionCallback]:
    """Make a callback of one function that runs at one breakpoint.

    Args:
        hook: The breakpoint, such as "on_train_batch_end".
        every: Run every n-th time only.
        once: Run once a run.
        epochs: Run from the first to the last of these epochs; None as the last means no end.
        weight: Smaller runs earlier.
        after: Names of callbacks that have to come earlier.
        before: Names of callbacks that have to come later.
        name: The name that others refer to; the function's unless given.

    Example:
        >>> @on("on_train_batch_end", every=100)
        ... def log(ctx):
        ...     print(ctx.loss)
        >>> log
        FunctionCallback(name='log', ...)
    """
    if not isinstance(hook, str):
        raise ArgumentTypeError(
            f'lb.on takes the name of a breakpoint, such as "on_epoch_end"; got {hook!r}.'
        )
    filters = [
        *([filter_every(every)] if every is not None else []),
        *([filter_epochs(*_pair(epochs))] if epochs is not None else []),
        *([Filter.once()] if flag("lb.on", "once", once) else []),
    ]

    def decorate(function: Hook) -> FunctionCallback:
        @functools.wraps(function)
        def filtered(ctx: Any) -> Any:
            return function(ctx)

        # Without filters the function itself is called: no frame in between.
        for each in filters:
            with_filter(each)(filtered)
        callback = FunctionCallback(hook, filtered if filters else function)
        callback.weight, callback.after, callback.before = weight, after, before
        if name is not None:
            callback.name = name
        return callback

    return decorate


def _pair(epochs: Any) -> tuple[Any, Any]:
    if isinstance(epochs, tuple | list) and len(epochs) == 2:
        return epochs[0], epochs[1]
    raise ArgumentTypeError(
        f"lb.on: epochs is a pair (first, last), None as the last for no end; got {epochs!r}."
    )


def callback(
    name: str,
    /,
    *,
    initialize: Hook | None = None,
    inherit: type[Callback] = Callback,
    **members: Any,
) -> type[Callback]:
    """Make a callback class without a class statement.

    Args:
        name: The name of the class.
        initialize: Its `__init__`, called as `initialize(self, ...)`.
        inherit: The class it extends.
        members: Everything else: hook methods as `lambda self, ctx: ...`, other methods,
            attributes such as `weight`.

    Returns:
        A subclass of `inherit`; calling it makes an instance.

    Example:
        >>> Printer = callback(
        ...     "Printer",
        ...     initialize=lambda self, message: setattr(self, "message", message),
        ...     on_epoch_end=lambda self, ctx: print(self.message),
        ... )
        >>> Printer("Done!")
        Printer(message='Done!')
    """
    if not (isinstance(inherit, type) and issubclass(inherit, Callback)):
        raise ArgumentTypeError(
            f"inherit is the class to extend, lb.Callback or a subclass of it; got {inherit!r}."
        )
    members["__module__"] = sys._getframe(1).f_globals.get("__name__", __name__)
    if initialize is not None:

        @functools.wraps(initialize)
        def __init__(self: Callback, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            initialize(self, *args, **kwargs)

        members["__init__"] = __init__
    return type(name, (inherit,), members)
