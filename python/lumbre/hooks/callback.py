"""Callbacks: what runs at the breakpoints of the loop, in the three ways to write one."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from lumbre._core import HOOKS, Filter
from lumbre.arguments import flag
from lumbre.errors import ArgumentTypeError

if TYPE_CHECKING:
    from lumbre.engine.context import Context

Hook = Callable[..., Any]
_F = TypeVar("_F", bound=Hook)


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
        """What to keep of the callback when the run is saved: a tree of tensors and plain values.

        It is saved under the callback's name. Nothing unless defined.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; called in a fit that has begun."""

    def __repr__(self) -> str:
        shown = (f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({', '.join(shown)})"


def _idle(name: str, doc: str) -> Hook:
    def hook(self: Callback, ctx: Context) -> None: ...

    hook.__name__ = name
    hook.__qualname__ = f"Callback.{name}"
    hook.__doc__ = doc
    return hook


# The methods come from the one list of breakpoints, which is Rust's.
for _name, _doc in HOOKS.items():
    setattr(Callback, _name, _idle(_name, _doc))


def every(n: int) -> Callable[[_F], _F]:
    """Let a hook method run every n-th time only.

    Counted is what the breakpoint counts: `ctx.step_count` inside a training batch, `ctx.iter`
    inside another batch, epochs elsewhere. Decided in Rust, before anything is called.

    Args:
        n: At least 1.

    Example:
        >>> class Log(Callback):
        ...     @every(100)
        ...     def on_train_batch_end(self, ctx):
        ...         print(ctx.loss)
    """
    if callable(n):
        raise ArgumentTypeError("@every takes a number: @every(100) over the method.")
    return _with_filter(Filter.every(n))


def epochs(first: int, last: int | None = None) -> Callable[[_F], _F]:
    """Let a hook method run from epoch `first` to epoch `last` only, both included.

    Args:
        first: The first epoch, from 1.
        last: The last one; None for no end.
    """
    return _with_filter(Filter.epochs(first, last))


@overload
def once(method: _F) -> _F: ...
@overload
def once() -> Callable[[_F], _F]: ...
def once(method: Any = None) -> Any:
    """Let a hook method run once a run: the first time that its other filters hold."""
    decorate: Callable[[Any], Any] = _with_filter(Filter.once())
    return decorate if method is None else decorate(method)


def _with_filter(new: Filter) -> Callable[[_F], _F]:
    def decorate(method: _F) -> _F:
        if isinstance(method, Callback):
            raise ArgumentTypeError(
                "Filters go on a function or method; with lb.on give them to it: "
                'lb.on("on_epoch_end", every=5).'
            )
        old: Filter | None = getattr(method, "__lumbre_filter__", None)
        method.__lumbre_filter__ = new if old is None else old & new  # type: ignore[attr-defined]
        return method

    return decorate


def filter_of(function: object) -> Filter | None:
    """The filter that decorators have put on a hook method."""
    return getattr(function, "__lumbre_filter__", None)


class FunctionCallback(Callback):
    """One function at one breakpoint; made by `lb.on`."""

    def __init__(self, hook: str, function: Hook) -> None:
        self.name = getattr(function, "__name__", "function")
        self._function = function
        setattr(self, hook, function)

    def __call__(self, ctx: Context) -> Any:
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
    filters = [
        *([Filter.every(every)] if every is not None else []),
        *([Filter.epochs(*epochs)] if epochs is not None else []),
        *([Filter.once()] if flag("lb.on", "once", once) else []),
    ]

    def decorate(function: Hook) -> FunctionCallback:
        @functools.wraps(function)
        def filtered(ctx: Context) -> Any:
            return function(ctx)

        # Without filters the function itself is called: no frame in between.
        for each in filters:
            _with_filter(each)(filtered)
        callback = FunctionCallback(hook, filtered if filters else function)
        callback.weight, callback.after, callback.before = weight, after, before
        if name is not None:
            callback.name = name
        return callback

    return decorate


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
