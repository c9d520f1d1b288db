"""The parts of a batch: its input, its target, and its size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lumbre.errors import DataError, DataWarning
from lumbre.text import shape_of
from lumbre.warn import warn


def input_and_target(batch: Any) -> tuple[Any, Any]:
    """Give the first and the second item of a batch.

    A batch that is no list or tuple (a tensor, a mapping, an object of its own kind) is all
    input, and so is a list or tuple of one item: the target is None.
    """
    if _has_items(batch):
        if len(batch) > 1:
            return batch[0], batch[1]
        if len(batch) == 1:
            return batch[0], None
        raise DataError(f"a batch is an empty {type(batch).__name__}; expected input and target")
    return batch, None


def with_input(batch: Any, value: Any) -> Any:
    """Return the batch with another input: a list, where it has items, else the input alone."""
    return [value, *batch[1:]] if _has_items(batch) else value


def with_target(batch: Any, value: Any) -> Any:
    """Return a list of the batch's input, another target, and what else the batch has."""
    return [input_and_target(batch)[0], value, *(batch[2:] if _has_items(batch) else ())]


def missing_target(batch: Any, loss: str) -> DataError:
    """Return the error of a loss that needs a target, and a batch that has none."""
    mend = "Pass data that gives (input, target), or a loss that takes pred and ignores the target."
    if isinstance(batch, Mapping) and batch:
        name = list(batch)[-1]
        mend = _ALL_INPUT.format(name)
    return DataError(
        f"{loss} needs a target, and the batch is no pair of input and target: it is "
        f"{shape_of(batch)}. {mend}"
    )


def batch_size_of(batch: Any) -> int:
    """Return the first dimension of the target, else of the input; 1 where neither has one.

    Mappings and the fields of dataclasses are looked into; another object is asked for its
    `batch_size`, then for its length.
    """
    source, target = input_and_target(batch)
    size = size_of(target)
    if size is None:
        size = size_of(source)
    if size is None and not isinstance(source, Tensor | np.ndarray | np.generic | int | float):
        warn(_NO_SIZE.format(shape_of(batch)), DataWarning)
    return 1 if size is None else size


def _has_items(batch: Any) -> bool:
    return isinstance(batch, list | tuple) and not isinstance(batch, PackedSequence)


def size_of(tree: Any) -> int | None:
    """Return the number of samples in a part of a batch; None where it cannot be told."""
    if isinstance(tree, Tensor):
        return tree.shape[0] if tree.ndim else None
    if isinstance(tree, PackedSequence):
        return int(tree.batch_sizes[0])
    if isinstance(tree, np.ndarray):
        return int(tree.shape[0]) if tree.ndim else None
    if isinstance(tree, Mapping):
        tree = tree.values()
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        values = (getattr(tree, field.name, None) for field in dataclasses.fields(tree))
        size = next((size for size in map(size_of, values) if size is not None), None)
        return _own_size(tree) if size is None else size
    elif not isinstance(tree, list | tuple):
        return _own_size(tree)
    elif tree and all(isinstance(item, str | bytes | int | float | Mapping) for item in tree):
        return len(tree)  # what collating leaves as a list has an item a sample
    return next((size for size in map(size_of, tree) if size is not None), None)


def _own_size(tree: Any) -> int | None:
    """Return what an object of a class of its own says of its size, as a batch of graphs does."""
    if isinstance(tree, str | bytes):
        return None
    size = getattr(tree, "batch_size", None)
    if isinstance(size, int):
        return size
    try:
        return len(tree) if isinstance(tree, Sized) else None
    except Exception:  # whatever a length of the user's own raises
        return None


_ALL_INPUT = (
    "A mapping is all input. Pass data that gives (input, target), such as [data, data[{0!r}]], or "
    'name the target when a batch begins: lb.on("on_train_batch_begin")(lambda ctx: '
    'setattr(ctx, "target", ctx.batch[{0!r}])).'
)
_NO_SIZE = (
    "The number of samples in a batch cannot be told of {}: it counts as one, so that in means "
    "over samples a short batch weighs as much as the others. Say it when a batch begins, in "
    "training and in validation: ctx.batch_size = ..."
)
