"""One answer to the question which of the tensors of a state do not fit those of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

# How many names of a kind a message lists.
_LISTED = 20


def misfits(saved: Mapping[str, Any], own: Mapping[str, Any], optional: Iterable[str] = ()) -> str:
    """Return what does not fit, a line for each kind, to be put behind a colon; "" if all fits.

    Args:
        saved: The tensors of the state by name; what is no tensor is held against none.
        own: Those of the model.
        optional: Names that the state may lack.
    """
    may_lack = {*saved, *optional}
    faults = {
        "missing in the state": [name for name in own if name not in may_lack],
        "not in the model": [name for name in saved if name not in own],
        "different": [
            f"{name} (state: {_form(saved[name])}, model: {_form(own[name])})"
            for name in own
            if name in saved and not _fits(saved[name], own[name])
        ],
    }
    return "".join(f"\n  {what}: {_list(names)}" for what, names in faults.items() if names)


def _fits(saved: Any, own: Any) -> bool:
    if isinstance(saved, Tensor) and isinstance(own, Tensor):
        return is_lazy(own) or (saved.shape == own.shape and torch.can_cast(saved.dtype, own.dtype))
    # What get_extra_state gives is the module's own affair, unless it was a tensor.
    return isinstance(saved, Tensor) == isinstance(own, Tensor)


def _form(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__qualname__
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _list(names: list[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
