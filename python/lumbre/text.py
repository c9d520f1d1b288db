"""Values and names as they are shown to people."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from lumbre._core import nearest


def format_value(value: Any) -> str:
    """A value with the digits that matter: four decimals, more when it is tiny or huge."""
    if isinstance(value, int | float):
        small = 0 < abs(value) < 1e-3
        return f"{value:.3e}" if small or abs(value) >= 1e6 else f"{value:.4f}"
    shape = getattr(value, "shape", None)
    if not shape or not hasattr(value, "tolist"):
        return str(value)
    if len(shape) > 1:
        return f"array of shape {tuple(shape)}"
    shown = [format_value(each) for each in value.tolist()]
    return f"[{' '.join(shown if len(shown) <= 6 else [*shown[:3], '...', *shown[-2:]])}]"


def name_of(value: Any) -> str:
    """Return the name of a function or class as its owner would say it, else that of its class."""
    value = value.func if isinstance(value, functools.partial) else value
    name = getattr(value, "__qualname__", None) or type(value).__name__
    return str(name).rpartition("<locals>.")[2]


def did_you_mean(name: object, known: Iterable[str], otherwise: str = "") -> str:
    """Return the question for the name that was meant; where none is near, what else to say."""
    near = nearest(str(name), list(known))
    return f'Did you mean "{near}"?' if near else otherwise


def shape_of(batch: Any) -> str:
    """Describe a batch, with its shape if it has one."""
    if isinstance(batch, Tensor):
        return f"one tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"
