"""From callbacks to the compiled plan of a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from lumbre._core import HOOKS, Filter, Schedule, nearest, unique_names
from lumbre.callback import Callback, as_callbacks, filter_of
from lumbre.errors import ArgumentTypeError, HookError


class Spec(NamedTuple):
    """One callback as the scheduler sees it."""

    name: str
    weight: float
    after: list[str]
    before: list[str]
    methods: list[tuple[str, Callable[..., Any], Callback | None, Filter | None]]
    native: str | None


def schedule(callbacks: Callback | Iterable[Callback] = ()) -> Schedule:
    """The plan of a run with these callbacks, to look at: its repr is a table.

    The default callbacks come first, as they do in `fit`.

    Args:
        callbacks: What would be given to `fit`.

    Returns:
        The plan; `rows` holds it as tuples (breakpoint, callback, kind, weight, filter).

    Raises:
        ScheduleError: when a weight is NaN or constraints form a cycle.
        HookError: when a method is named like a breakpoint and is none.
    """
    from lumbre.callbacks.default import default_callbacks

    return compile_schedule([*default_callbacks(progress=True), *as_callbacks(callbacks)])


def compile_schedule(callbacks: list[Callback]) -> Schedule:
    """The plan of a run with exactly these callbacks."""
    custom = _custom_breakpoints(callbacks)
    names = unique_names([_name(each) for each in callbacks])
    specs = [_describe(each, name, custom) for each, name in zip(callbacks, names, strict=True)]
    return Schedule(specs, custom)


def _describe(callback: Callback, name: str, custom: list[str]) -> Spec:
    kind = type(callback)
    methods = []
    for hook in [*HOOKS, *custom]:
        static = inspect.getattr_static(callback, hook, None)
        if static is None or static is vars(Callback).get(hook):
            continue
        own = hook in vars(callback)
        # A plain method is called as function(self, ctx), with no bound method in between.
        plain = not own and inspect.isfunction(static)
        function = static if plain else getattr(callback, hook)
        if not callable(function):
            raise ArgumentTypeError(f"{kind.__name__}.{hook} is no method; got {function!r}.")
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise ArgumentTypeError(
                f"{kind.__name__}.{hook} would never run: calling a function with `async def` or "
                "`yield` only prepares it. Write a plain function."
            )
        methods.append((hook, function, callback if plain else None, filter_of(function)))
    known = {*HOOKS, *custom}
    for attribute in dir(callback):
        if attribute.startswith("on_") and attribute not in known:
            _refuse(_name(callback), attribute, known)
    weight = callback.weight
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ArgumentTypeError(f"{kind.__name__}.weight is a number; got {weight!r}.")
    return Spec(
        name=name,
        weight=float(weight),
        after=_names(callback, "after"),
        before=_names(callback, "before"),
        methods=methods,
        native=getattr(callback, "_native", None),
    )


def _name(callback: Callback) -> str:
    return callback.name or type(callback).__name__


def _names(callback: Callback, attribute: str) -> list[str]:
    names = _as_list(getattr(callback, attribute))
    for name in names:
        if not isinstance(name, str):
            raise ArgumentTypeError(
                f'{_name(callback)}.{attribute} holds names of callbacks, such as "Progress"; '
                f"got {name!r}."
            )
    return names


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _custom_breakpoints(callbacks: list[Callback]) -> list[str]:
    custom: dict[str, None] = {}
    for callback in callbacks:
        declared = callback.breakpoints
        for name in _as_list(declared):
            if not (isinstance(name, str) and name.startswith("on_") and name.isidentifier()):
                raise HookError(
                    f"{_name(callback)}.breakpoints declares {name!r}; "
                    "a breakpoint's name is an identifier that begins with on_."
                )
            if name not in HOOKS:
                custom[name] = None
    return list(custom)


def _refuse(owner: str, attribute: str, known: set[str]) -> None:
    near = nearest(attribute, sorted(known))
    hint = (
        f'Did you mean "{near}"?'
        if near
        else "The breakpoints are the keys of lumbre.HOOKS; a callback declares one of its own by "
        f'breakpoints = ("{attribute}",).'
    )
    raise HookError(f"{owner}.{attribute} is no breakpoint and would never be called. {hint}")
