"""How many batches a loader gives, and which samples: what is said where that surprises."""

from __future__ import annotations

from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from lumbre.data.samples import TensorLoader, type_name
from lumbre.data.seeded import unkeyed
from lumbre.errors import DataError, DataWarning
from lumbre.warn import warn


def length_of(data: Any) -> int | None:
    """Return how many batches or samples there are; None where the data does not say."""
    try:
        return len(data)
    except Exception:  # of a stream, whatever its author has chosen to raise
        return None


def least(*counts: int | None) -> int | None:
    """Return the least of those that are known; None where none is."""
    return min((count for count in counts if count is not None), default=None)


def samples_of(loader: Any) -> int | None:
    """Return how many samples a loader gives in a pass; None where that is not sure."""
    if isinstance(loader, TensorLoader):
        count = len(loader.dataset)
        return count - count % loader.batch_size if loader.drop_last else count
    batches = unkeyed(loader.batch_sampler) if type(loader) is DataLoader else None
    if type(batches) is not BatchSampler or isinstance(loader.dataset, IterableDataset):
        return None
    taken: int | None = length_of(batches.sampler)
    return taken if taken is None or not batches.drop_last else taken - taken % batches.batch_size


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
        warn(_FEWER.format(what, count, type(loader).__name__, length), DataWarning)


def empty(loader: Any, what: str) -> DataError:
    """Say why a pass over `loader` had no batch; `what` is the argument that it came from."""
    dataset: Any = getattr(loader, "dataset", None)
    count = length_of(dataset)
    size = getattr(loader, "batch_size", None)
    dropped = getattr(loader, "drop_last", False)
    if count and size and count < size and dropped:
        why = _TOO_FEW.format(count, size)
    elif count == 0:
        why = f"its {type_name(dataset)} has no samples."
    else:
        why = "it has no samples, or is an iterator that was spent by an earlier pass."
    return DataError(f"{what} gave no batch: {why}")


def check_order(loader: Any, in_order: bool) -> None:
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


_FEWER = (
    "{} gave {} batches, and the length of its {} is {}. Windows of batches and schedules go by "
    "the length. Let __len__ return the number of batches, or raise TypeError where that is not "
    "known."
)
_TOO_FEW = (
    "its {} samples are fewer than the batch size of {}, and drop_last=True leaves the short batch "
    "out. Use drop_last=False or a smaller batch_size."
)
