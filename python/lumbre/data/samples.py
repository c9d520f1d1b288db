"""Data that lies in memory: tensors and arrays in any nesting, and the loader that cuts them."""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from lumbre.data.fast_loader import Rows, cut, in_order, permutations, seed
from lumbre.errors import ArgumentTypeError, DataError

BATCH_SIZE = 32


class Samples(Dataset[Any]):
    """Tensors in memory as one data set: sample i is row i of each of them.

    Args:
        tree: A tensor, or lists, tuples and mappings of tensors, all of one length.
        rows: The rows that belong to this data set, in order; None for all of them.
    """

    def __init__(self, tree: Any, rows: Tensor | None = None) -> None:
        self.tree = tree
        self.rows = rows
        self.tensors: list[Tensor] = []
        _map(self.tensors.append, tree)

    @classmethod
    def of(cls, data: Any) -> Samples:
        """Convert a user's arrays and frames, and see that they fit together.

        Raises:
            DataError: when lengths differ, there is no sample, or an array does not hold numbers.
            ArgumentTypeError: when a part is no tensor, array or frame.
        """
        if isinstance(data, Samples):
            return data
        if isinstance(data, TensorDataset):
            data = data.tensors
        parts: dict[str, Tensor] = {}
        samples = cls(_convert(data, "data", parts))
        if not parts:
            raise DataError(f"the data is an empty {type(data).__name__}: there is no tensor in it")
        for where, part in parts.items():
            if part.ndim == 0:
                raise DataError(
                    f"{where} is a single number; the first dimension of data counts its samples. "
                    "A list of single samples is passed as torch.utils.data.DataLoader(samples)."
                )
        if len({len(part) for part in parts.values()}) > 1:
            lengths = ", ".join(f"{where} has {len(part)}" for where, part in parts.items())
            raise DataError(
                f"the parts of the data differ in their number of samples: {lengths}. A list of "
                "ready batches is passed as torch.utils.data.DataLoader(batches, batch_size=None)."
            )
        if len(samples) == 0:
            where, part = next(iter(parts.items()))
            raise DataError(f"the data has no samples: {where} has shape {tuple(part.shape)}")
        _refuse_batches(samples.tree)
        return samples

    def __len__(self) -> int:
        return len(self.tensors[0] if self.rows is None else self.rows)

    def __getitem__(self, index: int) -> Any:
        row = index if self.rows is None else int(self.rows[index])
        return _map(lambda tensor: tensor[row], self.tree)

    def __repr__(self) -> str:
        rows = ", ".join(f"{tuple(t.shape[1:])} {t.dtype}" for t in self.tensors)
        return f"{len(self)} samples of {rows}".replace("torch.", "")


class Part(Subset[Any]):
    """The samples of a data set that a split has left on one side."""


class TensorLoader:
    """Batches of tensors that lie in memory, each taken out whole.

    Order and draws are those of `DataLoader(TensorDataset(...))` with the same options: with the
    same seed, the same batches, and torch's generators left in the same state. Every batch owns
    its memory, so a model that works in place cannot change the data.

    Args:
        dataset: The samples.
        batch_size: Samples in a batch.
        shuffle: Whether each pass has an order of its own.
        drop_last: Whether a last batch with fewer samples is left out.
        generator: Draws the order, in place of torch's own generator.
        pin_memory: Whether batches lie in pinned memory; without an accelerator it has no effect.
    """

    def __init__(
        self,
        dataset: Samples,
        batch_size: int = BATCH_SIZE,
        shuffle: bool = False,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = bool(shuffle)
        self.drop_last = bool(drop_last)
        self.generator = generator
        self.pin_memory = bool(pin_memory)

    def __len__(self) -> int:
        spare = 0 if self.drop_last else self.batch_size - 1
        return (len(self.dataset) + spare) // self.batch_size

    def __iter__(self) -> Iterator[Any]:
        return self.begin()

    def begin(self, used: int = 0) -> Iterator[Any]:
        """Begin a pass, behind batches that were used already."""
        # DataLoader draws a seed for its workers here, even when it has none.
        seed(self.generator)
        rows = Rows(self._orders(), self.batch_size, self.drop_last)
        if used:
            rows.skip(used)  # at once: what is drawn for the order is drawn before the pass goes on
        return self._batches(rows)

    def _batches(self, rows: Rows) -> Iterator[Any]:
        tensors, form = self.dataset.tensors, _form(self.dataset.tree)
        pins = self.pin_memory and _can_pin()
        while True:
            try:
                taken = rows.take()
            except StopIteration:
                return
            # Each batch owns its memory: one may be changed in place while autograd still needs
            # another.
            parts = [cut(tensor, taken) for tensor in tensors]
            if pins:
                parts = [each.pin_memory() if each.is_cpu else each for each in parts]
            yield form(parts)

    def _orders(self) -> Iterator[Tensor]:
        count, rows = len(self.dataset), self.dataset.rows
        if not self.shuffle:
            yield from in_order(count) if rows is None else [rows]
            return
        orders = permutations(count, self.generator)
        order = next(orders)
        yield order if rows is None else rows.index_select(0, order)
        next(orders)  # DataLoader's sampler draws a permutation more than it uses

    def __repr__(self) -> str:
        return (
            f"TensorLoader({self.dataset!r}, batch_size={self.batch_size}, "
            f"shuffle={self.shuffle}, drop_last={self.drop_last})"
        )


def _can_pin() -> bool:
    device = torch.accelerator.current_accelerator(check_available=True)
    return device is not None and device.type != "mps"


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _map(function, item) for key, item in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map(function, item) for item in tree))
    if isinstance(tree, list | tuple):
        return [_map(function, item) for item in tree]
    return function(tree)


def _form(tree: Any) -> Callable[[Sequence[Tensor]], Any]:
    """Give the function that makes a batch of its tensors: the same tree, filled anew."""
    if isinstance(tree, Tensor):
        return operator.itemgetter(0)
    if type(tree) is list and all(isinstance(item, Tensor) for item in tree):
        return list

    def fill(parts: Sequence[Tensor]) -> Any:
        rest = iter(parts)
        return _map(lambda _: next(rest), tree)

    return fill


def _refuse_batches(tree: Any) -> None:
    """Refuse three parts or more that are pairs of the same kind: nobody means input and target."""
    if not (isinstance(tree, list) and len(tree) > 2):
        return
    kinds = [
        [(t.shape[1:], t.dtype) if isinstance(t, Tensor) else None for t in item]
        if isinstance(item, list | tuple) and len(item) > 1
        else [None]
        for item in tree
    ]
    if None not in kinds[0] and all(kind == kinds[0] for kind in kinds):
        raise DataError(_READY_BATCHES.format(len(tree), len(kinds[0])))


def _convert(data: Any, where: str, parts: dict[str, Tensor], is_target: bool = False) -> Any:
    """Give the same tree with tensors as leaves, and note in `parts` where each of them stood."""
    if isinstance(data, Mapping):
        return {
            key: _convert(item, f"{where}[{key!r}]", parts, is_target) for key, item in data.items()
        }
    if isinstance(data, list | tuple):
        second = 1 if where == "data" else None  # of input and target
        items = [
            _convert(item, f"{where}[{i}]", parts, is_target or i == second)
            for i, item in enumerate(data)
        ]
        return type(data)(*items) if hasattr(data, "_fields") else items
    if isinstance(data, Tensor):
        tensor = data
    elif is_frame(data):
        tensor = _from_numpy(_from_pandas(data, where), where, is_target)
    elif isinstance(data, np.ndarray):
        tensor = _from_numpy(data, where, is_target)
    else:
        raise ArgumentTypeError(_NO_ARRAY.format(where, type_name(data)))
    parts[where] = tensor
    return tensor


def _from_numpy(array: np.ndarray[Any, Any], where: str, is_target: bool) -> Tensor:
    if array.dtype.kind not in "biufc":
        raise DataError(
            f"{where} has dtype {array.dtype}, which is no number; encode it first, such as with "
            "numpy.unique(values, return_inverse=True)"
        )
    if array.dtype.kind == "f" and array.dtype.itemsize >= 8:
        array = array.astype(np.float64, copy=False)
    if is_target and array.dtype.kind == "i":
        array = array.astype(np.int64, copy=False)  # what torch's losses take for class numbers
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    with warnings.catch_warnings():
        # torch warns of arrays that must not be written to; batches are copies.
        warnings.simplefilter("ignore", UserWarning)
        try:
            tensor = torch.from_numpy(array)
        except ValueError:  # strides that torch does not have, such as negative ones
            tensor = torch.from_numpy(array.copy())
    if tensor.dtype == torch.float64:
        tensor = tensor.to(torch.get_default_dtype())
    return tensor


def is_frame(data: Any) -> bool:
    """Return whether it is a DataFrame or a Series."""
    pandas = sys.modules.get("pandas")  # nobody has a frame without having imported it
    return pandas is not None and isinstance(data, pandas.DataFrame | pandas.Series)


def _from_pandas(data: Any, where: str) -> np.ndarray[Any, Any]:
    columns = list(data.dtypes.items()) if data.ndim == 2 else [(data.name, data.dtype)]
    wrong = [f"{name} ({dtype})" for name, dtype in columns if dtype.kind not in "biuf"]
    if wrong:
        raise DataError(
            f"{where} has columns that are no numbers: {', '.join(wrong)}. Encode them first, such "
            "as with pandas.get_dummies(frame), or column.cat.codes for a target."
        )
    if data.isna().to_numpy().any():
        return np.asarray(data.to_numpy(dtype=np.float64, na_value=np.nan))
    # A frame of bools beside numbers would become an array of Python objects.
    dtype = np.result_type(*(getattr(dtype, "numpy_dtype", dtype) for _, dtype in columns))
    return np.asarray(data.to_numpy(dtype=dtype))


def type_name(value: Any) -> str:
    """The name of a value's type, as a message shows it."""
    kind = type(value)
    prefix = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return f"{prefix}{kind.__qualname__}"


_READY_BATCHES = (
    "the data is a list of {} lists of {} tensors of the same kind, which looks like ready "
    "batches; a list means [input, target]. Pass batches as "
    "torch.utils.data.DataLoader(batches, batch_size=None)."
)
_NO_ARRAY = (
    "{0} is of type {1}; expected a tensor, an array or a frame. Numbers become one by "
    "torch.tensor({0}); a list of single samples is passed as torch.utils.data.DataLoader(samples)."
)
