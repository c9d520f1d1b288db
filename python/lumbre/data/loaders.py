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
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from lumbre.arguments import is_whole
from lumbre.data.samples import BATCH_SIZE, Part, Samples, TensorLoader, is_frame, type_name
from lumbre.errors import ArgumentError, ArgumentTypeError, DataError, DataWarning
from lumbre.text import did_you_mean
from lumbre.warn import warn

# What decides which samples come when; it is meant for training alone.
_CHOICE = ("shuffle", "sampler", "batch_sampler", "drop_last")
_ORDER = frozenset({*_CHOICE, "generator"})
# What torch takes one of, and what it refuses beside it.
_BESIDE = {
    "sampler": ("shuffle",),
    "batch_sampler": ("batch_size", "shuffle", "sampler", "drop_last"),
}


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
            size is 32, nothing is shuffled and nothing dropped.

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
    raise ArgumentTypeError(
        f"data is of type {type_name(data)}, of which no batches can be made. Expected a "
        "DataLoader, a Dataset, a tensor, array or frame, or a tuple or list of these. What can be "
        "iterated over once only, such as a generator, goes into an IterableDataset; for another "
        "type a function can be registered with @lb.as_dataloader.register."
    )


@as_dataloader.register(DataLoader)
@as_dataloader.register(TensorLoader)
def _of_loader(data: Loader, **dataloader_options: Any) -> Loader:
    if dataloader_options:
        raise ArgumentError(
            f"dataloader options ({', '.join(dataloader_options)}) do not apply to a "
            f"{type(data).__name__}, which makes its batches itself. Give them to the loader, or "
            "pass the data set instead."
        )
    return data


@as_dataloader.register(Dataset)
def _of_dataset(data: Dataset[Any], **dataloader_options: Any) -> Loader:
    options = _checked(dataloader_options)
    if length_of(data) == 0:
        raise DataError(f"the data has no samples: {type_name(data)} has length 0")
    is_ordered = any(options.get(name) is not None for name in ("sampler", "batch_sampler"))
    if not hasattr(data, "__len__") and not is_ordered:
        raise ArgumentTypeError(
            f"{type_name(data)} is a Dataset without __len__, and the order of its samples is "
            "drawn from their number. Give it one, def __len__(self): return n; what can only be "
            "gone through is a torch.utils.data.IterableDataset."
        )
    return DataLoader(data, **_with_batch_size(options))


@as_dataloader.register(IterableDataset)
def _of_iterable(data: IterableDataset[Any], **dataloader_options: Any) -> Loader:
    options = _checked(dataloader_options)
    if options.get("shuffle"):
        raise ArgumentError(
            f"shuffle=True does not work with {type_name(data)}: an IterableDataset decides its "
            "order itself. Leave shuffle out, and shuffle in its __iter__."
        )
    return DataLoader(data, **_with_batch_size(options))


@as_dataloader.register(Samples)
@as_dataloader.register(Tensor)
@as_dataloader.register(np.ndarray)
@as_dataloader.register(list)
@as_dataloader.register(tuple)
@as_dataloader.register(Mapping)
def _of_memory(data: Any, **dataloader_options: Any) -> Loader:
    options = _with_batch_size(_checked(dataloader_options))
    samples = Samples.of(data)
    asked = {name for name, value in options.items() if not _is_default(name, value)}
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
    options = _as_options(options)
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
    options = _as_options(options)
    if is_loader(data):
        _see_to_order(data, in_order)
        return _make(data, options)
    asked = [name for name in _CHOICE if _asks(name, options.get(name, False))]
    if asked:
        warn(
            f"{', '.join(asked)} in dataloader_options: evaluate and predict take all samples, in "
            "the order of the data, so this has no effect. Leave it out.",
            DataWarning,
        )
    return _make(data, {name: options[name] for name in options if name not in _CHOICE})


def _see_to_order(loader: Any, in_order: bool) -> None:
    """Warn where a user's own loader does not give each sample once, or not in order."""
    batches = getattr(loader, "batch_sampler", None)
    is_torchs = isinstance(batches, BatchSampler)
    owner = batches if is_torchs else loader
    sampler: Any = getattr(owner, "sampler", None)
    count = length_of(loader.dataset)
    taken = count if sampler is None else length_of(sampler)
    size = getattr(owner, "batch_size", None)
    is_random = isinstance(sampler, RandomSampler) and taken != count
    if getattr(sampler, "replacement", False) or is_random:
        fault, mend = (
            f"draws {taken} of {count} samples at random, some left out or repeated",
            "Leave its sampler out.",
        )
    elif taken and size and getattr(owner, "drop_last", False) and taken % size:
        fault = f"drops the last {taken % size} of {taken} samples"
        mend = "Make it with drop_last=False."
    elif not in_order or isinstance(loader.dataset, IterableDataset):
        return
    elif getattr(loader, "shuffle", False) or isinstance(sampler, RandomSampler):
        fault, mend = "shuffles", "Make it with shuffle=False."
    elif isinstance(sampler, SubsetRandomSampler):
        fault = "shuffles the samples of its SubsetRandomSampler"
        mend = "Pass torch.utils.data.Subset(dataset, indices)."
    elif (batches is not None and not is_torchs) or not _in_order(sampler):
        chooser = sampler if is_torchs or batches is None else batches
        fault = f"takes the samples that its {type_name(chooser)} names, which may be in any order"
        mend = "Pass the data set, or torch.utils.data.Subset(dataset, indices)."
    else:
        return
    what = "predict gives" if in_order else "evaluate measures"
    warn(f"{what} what its {type(loader).__name__} does, which {fault}. {mend}", DataWarning)


def _in_order(sampler: Any) -> bool:
    return sampler is None or isinstance(sampler, SequentialSampler | range)


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
    options = _as_options(options)
    if isinstance(valid_data, numbers.Real):
        _refuse_samplers(options, valid_data)
        shuffle = options.get("shuffle")
        data, valid_data = split(data, valid_data, keeps_order=shuffle is not None and not shuffle)
    valid_options = {name: options[name] for name in options if name not in _ORDER}
    # A loader takes no options; they are for the other one, if lumbre makes that.
    makes_valid = valid_data is not None and not is_loader(valid_data)
    train = train_loader(data, {} if is_loader(data) and makes_valid else options)
    unused = [name for name in options if name in _ORDER]
    if unused and is_loader(data):
        warn(
            f"{', '.join(unused)} in dataloader_options: the training data is a "
            f"{type(data).__name__}, which has its own order, and the validation data keeps its "
            "order, so this has no effect. Give it to the loader.",
            DataWarning,
        )
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
            raise ArgumentError(
                f"{name} names rows of all the data, and valid_data={fraction!r} holds some of "
                "them back, so that the numbers are no longer those of the same rows. Split the "
                "data first, torch.utils.data.random_split(dataset, [0.8, 0.2]), make the "
                f"{name} of the first part, and pass the second as valid_data."
            )


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
        raise ArgumentError(
            f"valid_data={fraction!r} is no fraction of the data: pass a number between 0 and 1, "
            "such as 0.2, or the validation data itself"
        )
    form = as_dataloader.dispatch(type(data))
    by_rows = form is _of_memory or is_frame(data) or type(data) is TensorDataset
    if not by_rows and (form not in (_of_dataset, _of_tensor_dataset) or length_of(data) is None):
        raise ArgumentError(
            f"valid_data={fraction!r} cannot be taken from {type_name(data)}, whose samples "
            "cannot be picked here. Pass the validation data itself, such as a second loader; a "
            "data set is split by torch.utils.data.random_split(dataset, "
            f"[{1 - float(fraction):.3g}, {float(fraction):.3g}])."
        )
    source = Samples.of(data) if by_rows else data
    count = len(source)
    held = round(count * float(fraction))
    if not 0 < held < count:
        raise DataError(
            f"valid_data={fraction!r} of {count} samples leaves {count - held} to train on and "
            f"{held} to validate on; each part needs one at least"
        )
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


def length_of(data: Any) -> int | None:
    """Return how many batches or samples there are; None where the data does not say."""
    try:
        return len(data)
    except Exception:  # of a stream, whatever its author has chosen to raise
        return None


def check_count(loader: Any, count: int, what: str) -> None:
    """Refuse a whole pass without a batch, warn of fewer than the length of the loader says.

    Raises:
        DataError: when there was none.
    """
    if count == 0:
        raise empty(loader, what)
    # What workers of a stream leave out at their ends is known to nobody.
    is_stream = isinstance(getattr(loader, "dataset", None), IterableDataset)
    length = None if is_stream and isinstance(loader, DataLoader) else length_of(loader)
    if length is not None and count < length:
        warn(
            f"{what} gave {count} batches, and the length of its {type(loader).__name__} "
            f"is {length}. Windows of batches and schedules go by the length. Let "
            "__len__ return the number of batches, or raise TypeError where that is not known.",
            DataWarning,
        )


def empty(loader: Any, what: str) -> DataError:
    """Say why a pass over `loader` had no batch; `what` is the argument that it came from."""
    dataset: Any = getattr(loader, "dataset", None)
    count = length_of(dataset)
    size = getattr(loader, "batch_size", None)
    dropped = getattr(loader, "drop_last", False)
    if count and size and count < size and dropped:
        why = (
            f"its {count} samples are fewer than the batch size of {size}, and drop_last=True "
            "leaves the short batch out. Use drop_last=False or a smaller batch_size."
        )
    elif count == 0:
        why = f"its {type_name(dataset)} has no samples."
    else:
        why = "it has no samples, or is an iterator that was spent by an earlier pass."
    return DataError(f"{what} gave no batch: {why}")


def _make(data: Any, options: dict[str, Any]) -> Loader:
    loader = as_dataloader(data, **options)
    if not isinstance(loader, Iterable) or isinstance(loader, Iterator):
        raise ArgumentTypeError(
            f"the function registered for {type_name(data)} with lb.as_dataloader returned "
            f"{type_name(loader)}; expected an object whose __iter__ begins anew for each epoch"
        )
    return loader


@functools.cache
def _loader_options() -> dict[str, Any]:
    parameters = list(inspect.signature(DataLoader).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def _is_default(name: str, value: Any) -> bool:
    default = _loader_options()[name]
    # Asked of plain values alone: == of an array given as sampler is no bool.
    return value is default or (isinstance(value, bool | int | float | str) and value == default)


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that can work, with Python's own numbers in the place of numpy's."""
    known = _loader_options()
    checked = dict(options)
    for name, value in options.items():
        if name not in known:
            options_are = (
                f"The options are those of torch.utils.data.DataLoader: {', '.join(known)}."
            )
            hint = did_you_mean(name, known, options_are)
            raise ArgumentError(f"unknown dataloader option {name!r}. {hint}")
        is_flag = name == "shuffle" or isinstance(known[name], bool)
        if is_flag and not isinstance(value, bool | np.bool_ | None):
            raise ArgumentTypeError(f"{name} is True or False; got {value!r}: pass {name}=True")
        if isinstance(value, np.bool_ | np.integer):
            checked[name] = value.item()
    size = checked.get("batch_size")
    if size is not None and (not is_whole(size) or size < 1):
        raise ArgumentError(f"batch_size={size!r} is no number of samples: pass a whole number > 0")
    _refuse_pairs(checked)
    return checked


def _refuse_pairs(options: Mapping[str, Any]) -> None:
    """Refuse two options that decide on the same."""
    for chooser, others in _BESIDE.items():
        beside = [name for name in others if _asks(name, options.get(name, False))]
        if options.get(chooser) is not None and beside:
            raise ArgumentError(
                f"{chooser} says which samples come when, and so would {', '.join(beside)}: the "
                f"two cannot be given together. Leave out {', '.join(beside)}, or {chooser}."
            )


def _asks(name: str, value: Any) -> bool:
    return value is not False and not _is_default(name, value)


def _as_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    if options is not None and not isinstance(options, Mapping):
        raise ArgumentTypeError(
            f"dataloader_options is of type {type_name(options)}; expected a dict such as "
            '{"batch_size": 64}'
        )
    return dict(options or {})


def _with_batch_size(options: Mapping[str, Any]) -> dict[str, Any]:
    if options.get("batch_sampler") is not None:
        return dict(options)
    return {"batch_size": BATCH_SIZE, **options}


def _takes(function: Callable[..., Any], keyword: str) -> bool:
    parameters = inspect.signature(function).parameters
    return keyword in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
