"""Buffers that torch can write but not read: several of their elements lie in one place."""

from __future__ import annotations

from torch import Tensor, nn, strided
from torch.nn.parameter import is_lazy

from lumbre.errors import ArgumentError


def refuse_expanded(owner: str, model: nn.Module) -> None:
    """Refuse a model whose own `state_dict` torch cannot load.

    Args:
        owner: Who needs to load it, for the error.
        model: The module.

    Raises:
        ArgumentError: when a buffer or parameter is expanded.
    """
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and _is_expanded(value):
            raise ArgumentError(_EXPANDED.format(owner=owner, name=name, last=name.split(".")[-1]))


def _is_expanded(value: Tensor) -> bool:
    if is_lazy(value) or value.layout is not strided:
        return False
    return any(s == 0 and n > 1 for s, n in zip(value.stride(), value.shape, strict=True))


_EXPANDED = (
    "{owner}: {name} is an expanded tensor, several of whose elements lie in one place: torch can "
    "save it and not load it. Let the module hold a copy, such as "
    'self.register_buffer("{last}", value.clone()).'
)
