"""The options of a loader: those that `torch.utils.data.DataLoader` takes, checked."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from lumbre.arguments import is_whole
from lumbre.data.samples import BATCH_SIZE, type_name
from lumbre.errors import ArgumentError, ArgumentTypeError
from lumbre.text import did_you_mean

SAMPLE_SEED = "sample_seed"
# What decides which samples come when; it is meant for training alone.
CHOICE = ("shuffle", "sampler", "batch_sampler", "drop_last")
ORDER = frozenset({*CHOICE, "generator"})
# What torch takes one of, and what it refuses beside it.
_BESIDE = {
    "sampler": ("shuffle",),
    "batch_sampler": ("batch_size", "shuffle", "sampler", "drop_last"),
}


@functools.cache
def _known_options() -> dict[str, Any]:
    parameters = list(inspect.signature(DataLoader).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters} | {SAMPLE_SEED: False}


def is_default(name: str, value: Any) -> bool:
    """True if an option has the value that `DataLoader` gives it by itself."""
    default = _known_options()[name]
    # Asked of plain values alone: == of an array given as sampler is no bool.
    return value is default or (isinstance(value, bool | int | float | str) and value == default)


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that can work, with Python's own numbers in the place of numpy's."""
    known = _known_options()
    checked = dict(options)
    for name, value in options.items():
        if name not in known:
            theirs = ", ".join(each for each in known if each != SAMPLE_SEED)
            hint = did_you_mean(name, known, _OPTIONS_ARE.format(theirs, SAMPLE_SEED))
            raise ArgumentError(f"unknown dataloader option {name!r}. {hint}")
        is_flag = name == "shuffle" or isinstance(known[name], bool)
        if name == SAMPLE_SEED and is_whole(value):
            is_flag = False  # a seed of the user's
        if is_flag and not isinstance(value, bool | np.bool_ | None):
            raise ArgumentTypeError(f"{name} is True or False; got {value!r}: pass {name}=True")
        if isinstance(value, np.bool_ | np.integer):
            checked[name] = value.item()
    size = checked.get("batch_size")
    if size is not None and (not is_whole(size) or size < 1):
        raise ArgumentError(f"batch_size={size!r} is no number of samples: pass a whole number > 0")
    _refuse_pairs(checked)
    return checked


def _refuse_pairs(options: Mapping[str, Any]) -> None:
    """Refuse two options that decide on the same."""
    for chooser, others in _BESIDE.items():
        beside = [name for name in others if asks(name, options.get(name, False))]
        if options.get(chooser) is not None and beside:
            raise ArgumentError(_BOTH_CHOOSE.format(chooser, ", ".join(beside)))


def asks(name: str, value: Any) -> bool:
    """True if the value of an option asks for something."""
    return value is not False and not is_default(name, value)


def asks_for_seed(options: Mapping[str, Any]) -> bool:
    """True if each sample is to have random numbers of its own; 0 is a seed."""
    value = options.get(SAMPLE_SEED)
    return value is not None and not (isinstance(value, bool | np.bool_) and not value)


def as_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a user's `dataloader_options` as a dict of one's own.

    Raises:
        ArgumentTypeError: when they are no mapping.
    """
    if options is not None and not isinstance(options, Mapping):
        raise ArgumentTypeError(_NO_OPTIONS.format(type_name(options)))
    return dict(options or {})


def with_batch_size(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with lumbre's batch size, unless they have one."""
    if options.get("batch_sampler") is not None:
        return dict(options)
    return {"batch_size": BATCH_SIZE, **options}


_OPTIONS_ARE = "The options are those of torch.utils.data.DataLoader: {}; and {}."
_BOTH_CHOOSE = (
    "{0} says which samples come when, and so would {1}: the two cannot be given together. Leave "
    "out {1}, or {0}."
)
_NO_OPTIONS = 'dataloader_options is of type {}; expected a dict such as {{"batch_size": 64}}'
