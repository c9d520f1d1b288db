"""The checks of arguments: of callbacks, and of functions, whose name is then the owner."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from lumbre._core import Monitor, nearest
from lumbre.errors import ArgumentError, ArgumentTypeError


def number(
    owner: object,
    name: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """A number within bounds, as a float.

    Raises:
        ArgumentError: when it is none, is NaN, or lies outside of them.
    """
    found = math.nan if isinstance(value, bool) else value
    bounds = [("from", least), ("above", above), ("below", below)]
    if isinstance(found, numbers.Real) and not math.isnan(found):
        real = float(found)
        low = (least is None or real >= least) and (above is None or real > above)
        if low and (below is None or real < below):
            return real
    wanted = ["a number", *(f"{word} {bound:g}" for word, bound in bounds if bound is not None)]
    raise ArgumentError(f"{type(owner).__name__}: {name} is {' '.join(wanted)}; got {value!r}.")


def whole(owner: object, name: str, value: Any, *, least: int) -> int:
    """A whole number from `least`.

    Raises:
        ArgumentError: when it is none.
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if is_whole and int(value) >= least:
        return int(value)
    kind = owner if isinstance(owner, str) else type(owner).__name__
    raise ArgumentError(f"{kind}: {name} is a whole number from {least}; got {value!r}.")


def flag(owner: object, name: str, value: Any) -> bool:
    """Return True or False, and take nothing that only counts as one of them, such as "no".

    Args:
        owner: Whose argument it is, by its class or by name; None where the name says enough.
        name: The argument.
        value: What was given.

    Raises:
        ArgumentTypeError: when it is neither.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    kind = owner if isinstance(owner, str) else type(owner).__name__
    where = "" if owner is None else f"{kind}: "
    raise ArgumentTypeError(f"{where}{name} is True or False; got {value!r}.")


def optimizer_name(owner: object, value: Any) -> str | None:
    """The name of an optimizer, or None for all of them; whether there is one the fit tells.

    Raises:
        ArgumentTypeError: when it is neither.
    """
    if value is None or isinstance(value, str):
        return value
    raise ArgumentTypeError(
        f"{type(owner).__name__}: opt_name is the name of an optimizer, or None for all of them; "
        f"got {value!r}."
    )


def monitor_of(owner: object, monitor: Any, mode: Any, min_delta: float) -> Monitor:
    """Return what a callback watches, by its arguments.

    Raises:
        ArgumentError: when one of them makes no sense.
    """
    name = type(owner).__name__
    if not isinstance(monitor, str):
        raise ArgumentError(
            f'{name}: monitor is a set and the name of a record, such as "valid_loss" or '
            f'"train_acc"; got {monitor!r}.'
        )
    return Monitor(name, monitor, str(mode), min_delta)


def optimizers_of(owner: Any, optimizers: Mapping[str, Any]) -> list[str]:
    """The names of the optimizers that a callback acts on, by its `opt_name`.

    Raises:
        ArgumentError: when there is none of that name.
    """
    if owner.opt_name is None:
        return list(optimizers)
    if owner.opt_name not in optimizers:
        near = nearest(str(owner.opt_name), list(optimizers))
        hint = f' Did you mean "{near}"?' if near else ""
        raise ArgumentError(
            f"{type(owner).__name__}: there is no optimizer {owner.opt_name!r}; "
            f"there are {', '.join(map(repr, optimizers))}.{hint}"
        )
    return [owner.opt_name]
