"""Filters: how often, and in which epochs, a method of a callback runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from lumbre._core import Filter
from lumbre.arguments import whole
from lumbre.errors import ArgumentTypeError
from lumbre.hooks.callback import Callback, Hook

_F = TypeVar("_F", bound=Hook)


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
    return with_filter(filter_every(n))


def epochs(first: int, last: int | None = None) -> Callable[[_F], _F]:
    """Let a hook method run from epoch `first` to epoch `last` only, both included.

    Args:
        first: The first epoch, from 1.
        last: The last one; None for no end.
    """
    return with_filter(filter_epochs(first, last))


@overload
def once(method: _F) -> _F: ...
@overload
def once() -> Callable[[_F], _F]: ...
def once(method: Any = None) -> Any:
    """Let a hook method run once a run: the first time that its other filters hold."""
    decorate: Callable[[Any], Any] = with_filter(Filter.once())
    return decorate if method is None else decorate(method)


def with_filter(new: Filter) -> Callable[[_F], _F]:
    """Return the decorator that puts a filter on a hook method, beside those that it has."""

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


def filter_every(n: Any) -> Filter:
    """Return the filter of `every`."""
    return Filter.every(whole("every", "n", n, least=0))


def filter_epochs(first: Any, last: Any = None) -> Filter:
    """Return the filter of `epochs`."""
    first = whole("epochs", "first", first, least=0)
    return Filter.epochs(first, None if last is None else whole("epochs", "last", last, least=0))


def filter_of(function: object) -> Filter | None:
    """Return the filter that decorators have put on a hook method."""
    return getattr(function, "__lumbre_filter__", None)
