"""The state of a scheduler, in values that a file can hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from lumbre.errors import ArgumentTypeError


def saved_state(state: Any, where: str) -> dict[str, Any]:
    """Return the state of a scheduler without its functions; those that it holds, likewise.

    Raises:
        ArgumentTypeError: when it holds what no file can; `where` is said of it.
    """
    saved = {}
    for key, value in state.items():
        if key == "_schedulers":
            saved[key] = [saved_state(each, f"{where}.{key}[{i}]") for i, each in enumerate(value)]
        elif not callable(value):
            saved[key] = _plain(value, f"{where}.{key}")
    return saved


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, np.generic):  # some of which are floats, too
        return value.item()
    if value is None or isinstance(value, bool | int | float | str | bytes | Tensor | np.ndarray):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    raise ArgumentTypeError(_NOT_SAVED.format(where, value))


def loaded_state(scheduler: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state in the types that the scheduler itself has."""
    loaded = dict(state)
    for key, value in state.items():
        own = getattr(scheduler, key, None)
        if key == "_schedulers":
            inner = zip(scheduler._schedulers, value, strict=True)
            loaded[key] = [loaded_state(each, its) for each, its in inner]
        elif isinstance(own, Counter):
            loaded[key] = Counter(value)
    return loaded


_NOT_SAVED = (
    "LRScheduler: {} is {!r}, which cannot be saved: a state is made of tensors, numbers, strings, "
    "lists and dicts. Give the scheduler a state_dict() without it and a load_state_dict(state)."
)
