"""What a batch is made of: its input, its target, and its size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lumbre.errors import DataError


def input_and_target(batch: Any) -> tuple[Any, Any]:
    """Give the first and the second item of a batch.

    A batch that is no list or tuple (a tensor, a mapping, an object of its own kind) is all
    input, and so is a list or tuple of one item: the target is None.
    """
    if isinstance(batch, list | tuple) and not isinstance(batch, PackedSequence):
        if len(batch) > 1:
            return batch[0], batch[1]
        if len(batch) == 1:
            return batch[0], None
        raise DataError(f"a batch is an empty {type(batch).__name__}; expected input and target")
    return batch, None


def with_input(batch: Any, value: Any) -> Any:
    """Give the batch with another input."""
    items = _items(batch)
    return value if items is None else [value, *items[1:]]


def with_target(batch: Any, value: Any) -> Any:
    """Give the batch with another target; one that is all input becomes a pair."""
    items = _items(batch)
    return [batch, value] if items is None else [items[0], value, *items[2:]]


def _items(batch: Any) -> list[Any] | None:
    return list(batch) if isinstance(batch, tuple | list) else None


def batch_size_of(batch: Any) -> int:
    """Give the first dimension of the target, else of the input; 1 where neither has one."""
    source, target = input_and_target(batch)
    size = _size(target)
    if size is None:
        size = _size(source)
    return 1 if size is None else size


def _size(tree: Any) -> int | None:
    if isinstance(tree, Tensor):
        return tree.shape[0] if tree.ndim else None
    if isinstance(tree, PackedSequence):
        return int(tree.batch_sizes[0])
    if isinstance(tree, np.ndarray):
        return int(tree.shape[0]) if tree.ndim else None
    if isinstance(tree, Mapping):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return None
    elif tree and all(isinstance(item, str | bytes | int | float) for item in tree):
        return len(tree)  # what collating leaves as a list has an item a sample
    return next((size for size in map(_size, tree) if size is not None), None)
