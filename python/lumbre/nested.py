"""Containers of tensors: their parts by key, and a container of the same kind around others."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, MutableMapping
from typing import Any


def parts_of(tree: Any) -> dict[Any, Any] | None:
    """Return the parts of a container by key; None of what is a leaf."""
    if isinstance(tree, tuple | list):
        return dict(enumerate(tree))
    if isinstance(tree, Mapping):
        return dict(tree.items())
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = (field.name for field in dataclasses.fields(tree))
        return {name: getattr(tree, name) for name in names if hasattr(tree, name)}
    return None


def rebuilt(tree: Any, parts: dict[Any, Any]) -> Any:
    """Return a container of the type of `tree` with these parts in the place of its own.

    What a list, mapping or dataclass has beside its parts is kept; `tree` stays as it was.
    """
    kind: Any = type(tree)
    if isinstance(tree, tuple):
        return kind(*parts.values()) if hasattr(tree, "_fields") else kind(parts.values())
    if isinstance(tree, Mapping) and not isinstance(tree, MutableMapping):
        return kind(parts)
    other: Any = copy.copy(tree)
    if isinstance(tree, list):
        other[:] = parts.values()
    elif isinstance(tree, Mapping):
        attributes = getattr(other, "__dict__", {})
        for key, part in parts.items():
            if key in attributes and attributes[key] is tree[key]:
                attributes[key] = part  # of a dict whose items are its attributes, too
            # One by one: an output of transformers refuses `update`.
            other[key] = part
    else:
        for name, part in parts.items():
            # Also where the class is frozen: nobody has seen this copy yet.
            object.__setattr__(other, name, part)
    return other
