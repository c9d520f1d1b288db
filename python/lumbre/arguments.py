"""The checks of arguments: of callbacks, and of functions, whose name is then the owner."""

from __future__ import annotations

import datetime
import math
import numbers
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lumbre._core import Monitor
from lumbre.errors import ArgumentError, ArgumentTypeError
from lumbre.text import did_you_mean

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([dhms])\s*")


def by(owner: object) -> str:
    """Return the start of a message, by whose argument it is about: "EMA: "; "" for None."""
    if owner is None:
        return ""
    return f"{owner if isinstance(owner, str) else type(owner).__name__}: "


def is_number(value: Any) -> bool:
    """True if it is a real number, which a bool is not meant to be."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """True if it is a whole number, which a bool is not meant to be."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def time_of(value: Any) -> float | None:
    """Return a time as seconds: of a number of them, a timedelta, or text such as "2h30m".

    None when it is none of these, or not above 0.
    """
    seconds = math.nan
    if isinstance(value, datetime.timedelta):
        seconds = value.total_seconds()
    elif is_number(value):
        seconds = float(value)
    elif isinstance(value, str):
        parts = _TIME.findall(value)
        if parts and not _TIME.sub("", value).strip():
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return seconds if seconds > 0 else None


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
    bounds = [("from", least), ("above", above), ("below", below)]
    if is_number(value) and not math.isnan(value):
        real = float(value)
        low = (least is None or real >= least) and (above is None or real > above)
        if low and (below is None or real < below):
            return real
    words = (f"{word} {bound:g}" for word, bound in bounds if bound not in (None, math.inf))
    wanted = ["a number", *words]
    raise ArgumentError(f"{by(owner)}{name} is {' '.join(wanted)}; got {value!r}.")


def whole(owner: object, name: str, value: Any, *, least: int) -> int:
    """A whole number from `least`.

    Raises:
        ArgumentError: when it is none.
    """
    if is_whole(value) and int(value) >= least:
        return int(value)
    raise ArgumentError(f"{by(owner)}{name} is a whole number from {least}; got {value!r}.")


def flag(owner: object, name: str, value: Any) -> bool:
    """Return True or False, and take nothing that only counts as one of them, such as "no".

    Raises:
        ArgumentTypeError: when it is neither.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ArgumentTypeError(f"{by(owner)}{name} is True or False; got {value!r}.")


def optimizer_name(owner: object, value: Any) -> str | None:
    """The name of an optimizer, or None for all of them; whether there is one the fit tells.

    Raises:
        ArgumentTypeError: when it is neither.
    """
    if value is None or isinstance(value, str):
        return value
    raise ArgumentTypeError(
        f"{by(owner)}opt_name is the name of an optimizer, or None for all of them; got {value!r}."
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
    check_optimizer_name(owner, owner.opt_name, optimizers)
    return [owner.opt_name]


def check_optimizer_name(owner: object, name: Any, optimizers: Mapping[str, Any]) -> None:
    """Refuse the name of an optimizer that is not there.

    Raises:
        ArgumentError: with the names that there are.
    """
    if name not in optimizers:
        there = ", ".join(map(repr, optimizers))
        text = f"{by(owner)}there is no optimizer {name!r}; there are {there}."
        raise ArgumentError(f"{text} {did_you_mean(name, optimizers)}".rstrip())
