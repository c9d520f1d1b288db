"""From callbacks to the compiled plan of a run."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from lumbre._core import HOOKS, Filter, NativeCallback, Schedule, unique_names
from lumbre.arguments import is_number
from lumbre.errors import ArgumentTypeError, HookError
from lumbre.hooks.callback import Callback
from lumbre.hooks.filters import filter_of
from lumbre.hooks.foreign import Given
from lumbre.text import did_you_mean


class Spec(NamedTuple):
    """One callback as the scheduler sees it."""

    name: str
    weight: float
    after: list[str]
    before: list[str]
    methods: list[tuple[str, Callable[..., Any], Callback | None, Filter | None]]
    native: NativeCallback | None


def compile_schedule(callbacks: list[Any]) -> Schedule:
    """Compile the plan of a run with exactly these callbacks."""
    given = [Given(each) for each in callbacks]
    custom = _custom_breakpoints(given)
    names = unique_names([each.name for each in given])
    for each in given:
        _names(each, "logs")
    specs = [_describe(each, name, custom) for each, name in zip(given, names, strict=True)]
    # Weight, then position: who has to be the last of a weight takes the last position.
    ranks = [getattr(each, "_rank", 0) for each in callbacks]
    return Schedule([specs[i] for i in sorted(range(len(specs)), key=ranks.__getitem__)], custom)


def _describe(given: Given, name: str, custom: list[str]) -> Spec:
    callback = given.callback
    kind = type(callback).__name__
    methods = []
    for hook, static in _found(callback).items():
        if hook not in HOOKS and hook not in custom:
            _refuse(given.name, hook, {*HOOKS, *custom})
        if static is None or static is vars(Callback).get(hook):
            continue
        own = hook in getattr(callback, "__dict__", ())
        # A plain method is called as function(self, ctx), with no bound method in between.
        plain = not own and inspect.isfunction(static)
        function = static if plain else getattr(callback, hook)
        if not callable(function):
            raise ArgumentTypeError(f"{kind}.{hook} is no method; got {function!r}.")
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise ArgumentTypeError(
                f"{kind}.{hook} would never run: calling a function with `async def` or "
                "`yield` only prepares it. Write a plain function."
            )
        methods.append((hook, function, callback if plain else None, filter_of(function)))
    return Spec(
        name=name,
        weight=_weight(given),
        after=_names(given, "after"),
        before=_names(given, "before"),
        methods=methods,
        native=given.native,
    )


def _found(callback: Any) -> dict[str, Any]:
    """Return what is named like a breakpoint, as the object or its classes hold it.

    Each run looks anew, as methods may have been put on a class since; a look-up of every name in
    every class would take ten times as long.
    """
    found: dict[str, Any] = {}
    for kind in reversed(type(callback).__mro__):
        if kind is Callback:
            found = {name: each for name, each in found.items() if name not in HOOKS}
        else:
            found.update((name, kind.__dict__[name]) for name in kind.__dict__ if name[:3] == "on_")
    own = getattr(callback, "__dict__", {})
    found.update((name, own[name]) for name in own if name[:3] == "on_")
    return found


def _weight(given: Given) -> float:
    weight = given.attribute("weight")
    if is_number(weight):
        with contextlib.suppress(OverflowError):
            return float(weight)
    raise ArgumentTypeError(f"{given.name}.weight is a number; got {weight!r}.")


def _names(given: Given, attribute: str) -> list[str]:
    names = _as_list(given.attribute(attribute))
    holds = "metrics" if attribute == "logs" else 'callbacks, such as "Progress"'
    for name in names:
        if not isinstance(name, str):
            raise ArgumentTypeError(
                f"{given.name}.{attribute} holds names of {holds}; got {name!r}."
            )
    return names


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _custom_breakpoints(callbacks: list[Given]) -> list[str]:
    custom: dict[str, None] = {}
    for given in callbacks:
        for name in _as_list(given.attribute("breakpoints")):
            if not (isinstance(name, str) and name.startswith("on_") and name.isidentifier()):
                raise HookError(
                    f"{given.name}.breakpoints declares {name!r}; "
                    "a breakpoint's name is an identifier that begins with on_."
                )
            if name not in HOOKS:
                custom[name] = None
    return list(custom)


def _refuse(owner: str, attribute: str, known: set[str]) -> None:
    declare = (
        "The breakpoints are the keys of lumbre.HOOKS; a callback declares one of its own by "
        f'breakpoints = ("{attribute}",).'
    )
    hint = did_you_mean(attribute, sorted(known), declare)
    raise HookError(f"{owner}.{attribute} is no breakpoint and would never be called. {hint}")
