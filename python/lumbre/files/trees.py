"""Trees of tensors and plain values: copied, and one that shares what is equal in another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def copied(tree: Any) -> Any:
    """Return a tree with dicts, lists and tensors of its own; what was one tensor stays one."""
    return _copied(tree, {})


def shared(tree: Any, other: Any) -> Any:
    """Return a tree with the tensors of another one where these are equal, at the same place."""
    if isinstance(tree, Tensor):
        return other if _is_equal(tree, other) else tree
    if isinstance(tree, Mapping):
        known = other if isinstance(other, Mapping) else {}
        return {name: shared(each, known.get(name)) for name, each in tree.items()}
    if type(tree) in (list, tuple):
        is_alike = isinstance(other, list | tuple) and len(other) == len(tree)
        pairs = zip(tree, other if is_alike else [None] * len(tree), strict=True)
        return type(tree)(shared(*pair) for pair in pairs)
    return tree


def _copied(tree: Any, known: dict[int, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return known.setdefault(id(tree), tree.detach().clone())
    if isinstance(tree, dict):
        return {name: _copied(each, known) for name, each in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_copied(each, known) for each in tree)
    return tree


def _is_equal(one: Tensor, other: Any) -> bool:
    """True if two tensors have the same bits: a NaN is one with itself, and 0 is not -0."""
    if not isinstance(other, Tensor):
        return False
    forms = [(each.shape, each.dtype, each.device) for each in (one, other)]
    if forms[0] != forms[1] or any(each.layout != torch.strided for each in (one, other)):
        return False
    bits = [each.detach().contiguous().reshape(-1).view(torch.uint8) for each in (one, other)]
    return torch.equal(*bits)
