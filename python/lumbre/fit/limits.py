"""What a run is measured in: epochs, steps, time; and how often it validates."""

from __future__ import annotations

import datetime
from typing import Any, NamedTuple

from lumbre.arguments import flag, is_whole, time_of
from lumbre.errors import ArgumentError


class _Epochs(int):
    """A number of epochs that nobody has chosen."""


TEN = _Epochs(10)


class Limits(NamedTuple):
    """What ends the passes and the run.

    Attributes:
        min_epochs: The least number of epochs, whatever early stopping wants.
        max_epochs: The greatest one; None for as many as it takes.
        steps_per_epoch: Training batches in an epoch; None for all there are.
        valid_steps: Batches in a validation pass; None for all there are.
        valid_every: A validation pass each so many epochs.
        max_steps: Training batches in the run; None for any number.
        max_time: Seconds; None for any time.
        valid_first: Whether there is a validation pass before the first epoch.
    """

    min_epochs: int
    max_epochs: int | None
    steps_per_epoch: int | None = None
    valid_steps: int | None = None
    valid_every: int = 1
    max_steps: int | None = None
    max_time: float | None = None
    valid_first: bool = False


def limits_of(
    epochs: int | tuple[int, int | None] | None,
    steps_per_epoch: int | None = None,
    valid_steps: int | None = None,
    valid_every: int = 1,
    max_steps: int | None = None,
    max_time: float | str | datetime.timedelta | None = None,
    valid_first: bool = False,
) -> Limits:
    """Return what ends a run, by the arguments of `fit`.

    Raises:
        ArgumentError: when one of them makes no sense, or nothing ends the run.
    """
    most_steps = _count("max_steps", max_steps)
    seconds = None if max_time is None else seconds_of(max_time)
    is_limited = most_steps is not None or seconds is not None
    if isinstance(epochs, _Epochs) and is_limited:
        epochs = None
    least, most = epochs_pair(epochs)
    if most is None and not is_limited:
        raise ArgumentError(_ENDLESS)
    return Limits(
        least,
        most,
        _count("steps_per_epoch", steps_per_epoch),
        _count("valid_steps", valid_steps),
        _count("valid_every", valid_every) or 1,
        most_steps,
        seconds,
        flag(None, "valid_first", valid_first),
    )


def epochs_pair(epochs: int | tuple[int, int | None] | None) -> tuple[int, int | None]:
    """Return the least and the greatest number of epochs, None where nothing is said of that."""
    pair = epochs if isinstance(epochs, tuple | list) else (1, epochs)
    if len(pair) != 2 or not (is_whole(pair[0]) and (pair[1] is None or is_whole(pair[1]))):
        raise ArgumentError(f"epochs is a whole number or a pair (min, max); got {epochs!r}.")
    least, most = int(pair[0]), None if pair[1] is None else int(pair[1])
    if least < 0 or (most is not None and (most < 1 or least > most)):
        raise ArgumentError(_NO_EPOCHS.format(epochs))
    return least, most


def _count(name: str, value: Any) -> int | None:
    if value is None and name != "valid_every":
        return None
    if is_whole(value) and int(value) >= 1:
        return int(value)
    raise ArgumentError(f"{name} is a whole number from 1; got {value!r}.")


def seconds_of(time: float | str | datetime.timedelta) -> float:
    """Return a time as seconds: of a number of them, a timedelta, or text such as "2h30m".

    Raises:
        ArgumentError: when it is none of these, or not above 0.
    """
    seconds = time_of(time)
    if seconds is not None:
        return seconds
    raise ArgumentError(_NO_TIME.format(time))


_ENDLESS = (
    "epochs=None means as many as it takes, and nothing says how many that is. Pass max_steps= or "
    "max_time= as well."
)
_NO_EPOCHS = (
    "epochs is at least 1, and of a pair (min, max) the min is not above the max; got {!r}."
)
_NO_TIME = (
    'max_time is a time above 0: seconds, a datetime.timedelta, or text such as "2h30m" or "90s" '
    "(days d, hours h, minutes m, seconds s); got {!r}."
)
