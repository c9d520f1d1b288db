"""From what a user calls data to a loader of batches.

`as_dataloader` is the one way in. Tensors and arrays that lie in memory get a `TensorLoader`, which
takes whole batches out of them; all the rest is `torch.utils.data.DataLoader`'s work.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lumbre.data.counts import check_order, length_of
from lumbre.data.options import (
    CHOICE,
    ORDER,
    SAMPLE_SEED,
    as_options,
    asks,
    asks_for_seed,
    checked_options,
    is_default,
    with_batch_size,
)
from lumbre.data.samples import Part, Samples, TensorLoader, is_frame, type_name
from lumbre.data.seeded import seeded_loader
from lumbre.errors import ArgumentError, ArgumentTypeError, DataError, DataWarning
from lumbre.warn import warn


class Loader(Protocol):
    """The source of a pass: an iterable of batches that begins anew with each `iter`."""

    def __iter__(self) -> Iterator[Any]: ...


@functools.singledispatch
def as_dataloader(data: Any, **dataloader_options: Any) -> Loader:
    """Make a loader of batches from data of any form that lumbre knows.

    Register a form of your own with `@lb.as_dataloader.register`; the function gets the data and
    the options as keywords, and returns an iterable of batches that can be walked again.

    Args:
        data: A `DataLoader` (returned as it is), a `Dataset`, an `IterableDataset`, a tensor, a
            numpy array or a pandas frame, or lists, tuples and mappings of the latter three.
            float64 arrays and frames become torch's default dtype; where the second of a list is
            a target, signed integers in it become int64. Tensors stay as they are.
        **dataloader_options: What `torch.utils.data.DataLoader` takes. Unless given, the batch
            size is 32, nothing is shuffled and nothing dropped. With `sample_seed=True` each
            sample of a `Dataset` is loaded with random numbers of its own (torch's, numpy's and
            Python's), which come from a seed that is drawn here, the number of the pass and that
            of the sample: the same ones for any number of workers. A whole number is the seed.

    Returns:
        The loader. A tensor by itself gives batches that are tensors; a list or a tuple gives
        lists.

    Raises:
        ArgumentError: when an option is unknown, or options are given for a loader.
        ArgumentTypeError: when the data is of no known form.
        DataError: when there are no samples, or parts of the data differ in length.

    Example:
        >>> import lumbre as lb, numpy as np
        >>> x, y = np.zeros((100, 4)), np.arange(100)
        >>> loader = lb.as_dataloader((x, y), batch_size=64)
        >>> [[part.shape[0] for part in batch] for batch in loader]
        [[64, 64], [36, 36]]
    """
    if is_frame(data):
        return _of_memory(data, **dataloader_options)
    if isinstance(data, type):
        raise ArgumentTypeError(f"data is the class {data.__name__}; pass an instance of it")
    raise ArgumentTypeError(_NO_DATA.format(type_name(data)))


@as_dataloader.register(DataLoader)
@as_dataloader.register(TensorLoader)
def _of_loader(data: Loader, **dataloader_options: Any) -> Loader:
    if asks_for_seed(dataloader_options):
        raise ArgumentError(_SEEDED_ITSELF.format(type(data).__name__))
    if dataloader_options:
        names = ", ".join(dataloader_options)
        raise ArgumentError(_MAKES_BATCHES_ITSELF.format(names, type(data).__name__))
    return data


@as_dataloader.register(Dataset)
def _of_dataset(data: Dataset[Any], **dataloader_options: Any) -> Loader:
    options = checked_options(dataloader_options)
    if length_of(data) == 0:
        raise DataError(f"the data has no samples: {type_name(data)} has length 0")
    is_ordered = any(options.get(name) is not None for name in ("sampler", "batch_sampler"))
    if not hasattr(data, "__len__") and not is_ordered:
        raise ArgumentTypeError(_NO_LENGTH.format(type_name(data)))
    is_seeded, seed = asks_for_seed(options), options.pop(SAMPLE_SEED, None)
    options = with_batch_size(options)
    return seeded_loader(data, seed, options) if is_seeded else DataLoader(data, **options)


@as_dataloader.register(IterableDataset)
def _of_iterable(data: IterableDataset[Any], **dataloader_options: Any) -> Loader:
    options = checked_options(dataloader_options)
    if options.get("shuffle"):
        raise ArgumentError(_NOT_SHUFFLED.format(type_name(data)))
    if asks_for_seed(options):
        raise ArgumentError(_NO_NUMBERS.format(type_name(data)))
    options.pop(SAMPLE_SEED, None)
    return DataLoader(data, **with_batch_size(options))


@as_dataloader.register(Samples)
@as_dataloader.register(Tensor)
@as_dataloader.register(np.ndarray)
@as_dataloader.register(list)
@as_dataloader.register(tuple)
@as_dataloader.register(Mapping)
def _of_memory(data: Any, **dataloader_options: Any) -> Loader:
    options = with_batch_size(checked_options(dataloader_options))
    options.pop(SAMPLE_SEED, None)  # nothing is drawn for rows of tensors
    samples = Samples.of(data)
    asked = {name for name, value in options.items() if not is_default(name, value)}
    own = set(inspect.signature(TensorLoader).parameters)
    plain = all(
        type(t) in (Tensor, torch.nn.Parameter) and t.layout == torch.strided and not t.is_nested
        for t in samples.tensors
    )
    if asked <= own and options.get("batch_size") is not None and plain:
        return TensorLoader(samples, **{name: options[name] for name in options if name in own})
    return DataLoader(samples, **options)


@as_dataloader.register(TensorDataset)
def _of_tensor_dataset(data: TensorDataset, **dataloader_options: Any) -> Loader:
    # A subclass may well have a __getitem__ of its own.
    make = _of_memory if type(data) is TensorDataset else _of_dataset
    return make(data, **dataloader_options)


def is_loader(data: Any) -> bool:
    """Return whether `data` makes its batches itself."""
    return isinstance(data, DataLoader | TensorLoader)


def train_loader(data: Any, options: Mapping[str, Any] | None = None) -> Loader:
    """Make the loader of training data: shuffled, unless told otherwise or it has its own order.

    Raises:
        ArgumentError: when options are given and `data` is a loader already.
    """
    options = as_options(options)
    ordered = any(options.get(name) is not None for name in ("sampler", "batch_sampler"))
    if not (
        is_loader(data)
        or isinstance(data, IterableDataset)
        or "shuffle" in options
        or ordered
        or not _takes(as_dataloader.dispatch(type(data)), "shuffle")
    ):
        options["shuffle"] = True
    return _make(data, options)


def eval_loader(
    data: Any, options: Mapping[str, Any] | None = None, in_order: bool = False
) -> Loader:
    """Make the loader of data that a model is held against: all samples, in their order.

    Args:
        data: The data.
        options: The user's `dataloader_options`; those about order are left out with a warning.
        in_order: Whether the order matters too of a loader that the user has made.

    Raises:
        ArgumentError: when options are given and `data` is a loader already.
    """
    options = as_options(options)
    if is_loader(data):
        check_order(data, in_order)
        return _make(data, options)
    asked = [name for name in CHOICE if asks(name, options.get(name, False))]
    if asked:
        warn(_ALL_IN_ORDER.format(", ".join(asked)), DataWarning)
    return _make(data, {name: options[name] for name in options if name not in CHOICE})


def loaders(
    data: Any, valid_data: Any = None, options: Mapping[str, Any] | None = None
) -> tuple[Loader, Loader | None]:
    """Make the loaders of a fit.

    Args:
        data: The training data.
        valid_data: The validation data, or the fraction of `data` to hold back for it, or None.
        options: The user's `dataloader_options`. Those about order (`shuffle`, `sampler`,
            `batch_sampler`, `drop_last`, `generator`) are for the training data alone. What is a
            loader already takes none, and they are refused where nothing else is there.

    Returns:
        The loader of the training data, and that of the validation data or None.
    """
    options = as_options(options)
    if isinstance(valid_data, numbers.Real):
        _refuse_samplers(options, valid_data)
        shuffle = options.get("shuffle")
        data, valid_data = split(data, valid_data, keeps_order=shuffle is not None and not shuffle)
    if asks_for_seed(options):
        for each in (data, valid_data):
            if is_loader(each):
                raise ArgumentError(_SEEDED_ITSELF.format(type(each).__name__))
    valid_options = {name: options[name] for name in options if name not in ORDER}
    # A loader takes no options; they are for the other one, if lumbre makes that.
    makes_valid = valid_data is not None and not is_loader(valid_data)
    train = train_loader(data, {} if is_loader(data) and makes_valid else options)
    unused = [name for name in options if name in ORDER]
    if unused and is_loader(data):
        warn(_OWN_ORDER.format(", ".join(unused), type(data).__name__), DataWarning)
    if not makes_valid:
        return train, valid_data
    try:
        return train, _make(valid_data, valid_options)
    except (ArgumentError, ArgumentTypeError, DataError) as error:
        error.add_note("in valid_data")
        raise


def _refuse_samplers(options: Mapping[str, Any], fraction: numbers.Real) -> None:
    for name in ("sampler", "batch_sampler"):
        if options.get(name) is not None:
            raise ArgumentError(_NAMES_ROWS.format(name, fraction))


def split(data: Any, fraction: numbers.Real, keeps_order: bool = False) -> tuple[Any, Any]:
    """Hold back a random part of the data; torch's own generator draws it.

    Args:
        data: Data in memory, or a `Dataset` that has a length.
        fraction: The part to hold back, between 0 and 1.
        keeps_order: Whether each part has its samples in the order of the data.

    Returns:
        What is left to train on, and what was held back. Nothing is copied.

    Raises:
        ArgumentError: when this is no fraction, or the data cannot be split.
        DataError: when one of the parts would be empty.
    """
    if isinstance(fraction, bool) or not 0 < float(fraction) < 1:
        raise ArgumentError(_NO_FRACTION.format(fraction))
    form = as_dataloader.dispatch(type(data))
    by_rows = form is _of_memory or is_frame(data) or type(data) is TensorDataset
    if not by_rows and (form not in (_of_dataset, _of_tensor_dataset) or length_of(data) is None):
        share = float(fraction)
        raise ArgumentError(_NOT_PICKED.format(fraction, type_name(data), 1 - share, share))
    source = Samples.of(data) if by_rows else data
    count = len(source)
    held = round(count * float(fraction))
    if not 0 < held < count:
        raise DataError(_NONE_LEFT.format(fraction, count, count - held, held))
    order = torch.randperm(count, device="cpu")
    parts = order[: count - held], order[count - held :]
    if keeps_order:
        parts = parts[0].sort().values, parts[1].sort().values
    if not by_rows:
        left, right = (Part(source, part.tolist()) for part in parts)
        return left, right
    if source.rows is not None:
        parts = source.rows[parts[0]], source.rows[parts[1]]
    return Samples(source.tree, parts[0]), Samples(source.tree, parts[1])


def _make(data: Any, options: dict[str, Any]) -> Loader:
    loader = as_dataloader(data, **options)
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        raise ArgumentTypeError(_NO_LOADER.format(type_name(data), type_name(loader)))
    return loader


def _takes(function: Callable[..., Any], keyword: str) -> bool:
    parameters = inspect.signature(function).parameters
    return keyword in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


_NO_DATA = (
    "data is of type {}, of which no batches can be made. Expected a DataLoader, a Dataset, a "
    "tensor, array or frame, or a tuple or list of these. What can be iterated over once only, "
    "such as a generator, goes into an IterableDataset; for another type a function can be "
    "registered with @lb.as_dataloader.register."
)
_MAKES_BATCHES_ITSELF = (
    "dataloader options ({}) do not apply to a {}, which makes its batches itself. Give them to "
    "the loader, or pass the data set instead."
)
_SEEDED_ITSELF = (
    "sample_seed does not apply to a {}, which loads its samples itself: lumbre gives each sample "
    "random numbers of its own where it makes the loader. Pass the data set, with the loader's "
    "options in dataloader_options."
)
_NO_NUMBERS = (
    "sample_seed does not work with {}: the samples of an IterableDataset have no numbers that "
    "random numbers could come from. Leave sample_seed out, and draw in its __iter__ from a "
    "generator of its own."
)
_NO_LENGTH = (
    "{} is a Dataset without __len__, and the order of its samples is drawn from their number. "
    "Give it one, def __len__(self): return n; what can only be gone through is a "
    "torch.utils.data.IterableDataset."
)
_NOT_SHUFFLED = (
    "shuffle=True does not work with {}: an IterableDataset decides its order itself. Leave "
    "shuffle out, and shuffle in its __iter__."
)
_ALL_IN_ORDER = (
    "{} in dataloader_options: evaluate and predict take all samples, in the order of the data, so "
    "this has no effect. Leave it out."
)
_OWN_ORDER = (
    "{} in dataloader_options: the training data is a {}, which has its own order, and the "
    "validation data keeps its order, so this has no effect. Give it to the loader."
)
_NAMES_ROWS = (
    "{0} names rows of all the data, and valid_data={1!r} holds some of them back, so that the "
    "numbers are no longer those of the same rows. Split the data first, "
    "torch.utils.data.random_split(dataset, [0.8, 0.2]), make the {0} of the first part, and pass "
    "the second as valid_data."
)
_NO_FRACTION = (
    "valid_data={!r} is no fraction of the data: pass a number between 0 and 1, such as 0.2, or "
    "the validation data itself"
)
_NOT_PICKED = (
    "valid_data={!r} cannot be taken from {}, whose samples cannot be picked here. Pass the "
    "validation data itself, such as a second loader; a data set is split by "
    "torch.utils.data.random_split(dataset, [{:.3g}, {:.3g}])."
)
_NONE_LEFT = (
    "valid_data={!r} of {} samples leaves {} to train on and {} to validate on; each part needs "
    "one at least"
)
_NO_LOADER = (
    "the function registered for {} with lb.as_dataloader returned {}; expected an object whose "
    "__iter__ begins anew for each epoch"
)
