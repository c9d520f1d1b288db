"""The fast loader: the batches of a plain `DataLoader`, cut whole instead of sample by sample.

torch's loader takes a batch of tensors apart into samples and puts these together again, which
costs more than the step of a small network. Here a batch is taken out of each tensor at once, when
it is asked for: the same batches, in the same order, of the same random numbers, each generator
left where torch leaves it. The road is taken only where a trial beside torch's own iterator came
out equal on the torch that is installed, and for each batch only while nobody looks at, or has
changed, what it leaves out; every other batch is torch's. `LUMBRE_FAST_LOADER=0` leaves all to
torch.
"""

from __future__ import annotations

import functools
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    _utils,
    dataloader,
    dataset,
    sampler,
)

from lumbre.data.stateful import Anew, is_stateful_stream
from lumbre.torchs import are_watching, torchs, watchers

Cut = Callable[[Tensor], Any]


class FastLoader:
    """What gives the batches of a `DataLoader`, by the shorter road where there is one.

    Args:
        loader: The loader; its own iterator is begun with each `iter`, and draws what it draws.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return self.begin()

    def begin(self, used: int = 0, look: Callable[[Any], Any] | None = None) -> Iterator[Any]:
        """Begin a pass, behind batches that were used already.

        Args:
            used: How many.
            look: Given what chooses the samples, gives what stands in its place.
        """
        is_proven = _is_proven()
        iterator: Any = iter(self.loader)
        if look is not None:
            iterator._sampler_iter = look(iterator._sampler_iter)
        if used:
            skip(iterator, used, is_proven)
        return (_road(iterator) if is_proven else None) or iterator


def fast_loader(loader: Iterable[Any]) -> Iterable[Any]:
    """Return what gives the batches of a loader fastest: itself, unless it is a plain one."""
    if is_stateful_stream(loader):
        return Anew(loader)
    if type(loader) is not DataLoader or os.environ.get("LUMBRE_FAST_LOADER") == "0":
        return loader
    if loader.num_workers or loader.timeout or loader.pin_memory:
        return loader
    return FastLoader(loader)


def skip(iterator: Any, used: int, is_proven: bool = False) -> None:
    """Let torch's iterator leave out its first batches: their samples are chosen, not looked at.

    It is one in this process, over a data set whose samples have numbers.
    """
    chooser = iterator._sampler_iter = _rows_of(iterator) if is_proven else iterator._sampler_iter
    if type(chooser) is Rows:
        chooser.skip(used)
    else:
        for _ in itertools.islice(chooser, used):
            pass


def _road(iterator: Any) -> Iterator[Any] | None:
    """Return the batches of an iterator that has just begun; None where torch is to give them."""
    if type(iterator) is not dataloader._SingleProcessDataLoaderIter:
        return None
    fetcher = iterator._dataset_fetcher
    if type(fetcher) is not _utils.fetch._MapDatasetFetcher:
        return None
    if not iterator._auto_collation:
        is_torchs = iterator._collate_fn is _utils.collate.default_convert
        return _converted(iterator, fetcher) if is_torchs else None
    if iterator._collate_fn is not _utils.collate.default_collate:
        return None
    # The samples of a subset are those of its data set, under other numbers.
    subsets, source = [], iterator._dataset
    while type(source) is Subset:
        subsets.append(source)
        source = source.dataset
    if type(source) is not TensorDataset or any(
        "__getitems__" in each.__dict__ for each in (source, *subsets)
    ):
        return None
    return _cut(iterator, fetcher, source, subsets)


# --- the batches ------------------------------------------------------------------------------


def _cut(
    iterator: Any, fetcher: Any, source: TensorDataset, subsets: list[Subset[Any]]
) -> Iterator[Any]:
    """Give the batches of tensors in memory."""
    profiler, functions, dispatch = watchers()
    chooser: Any = None
    while True:
        try:
            if profiler._is_profiler_enabled or functions() or dispatch():
                batch = next(iterator)
                chooser = chooser or iterator._sampler_iter
            else:
                if chooser is None:
                    # Unless its first batch was watched, an order is kept as a tensor from here on.
                    chooser = iterator._sampler_iter = _rows_of(iterator)
                index = chooser.take() if type(chooser) is Rows else next(chooser)
                rows = _through(index, subsets)
                batch = None if rows is None else _taken(source.tensors, rows)
                if batch is None:
                    batch = fetcher.fetch(index.tolist() if type(chooser) is Rows else index)
        except StopIteration:
            return
        yield batch


def _taken(tensors: Any, rows: Tensor) -> list[Tensor] | None:
    """Return the rows of all tensors; None where the data set is to fetch them, or to refuse."""
    try:
        for tensor in tensors:
            if type(tensor) is not Tensor or tensor.layout is not torch.strided:
                return None
            if tensor.requires_grad or tensor.is_nested or tensor.is_quantized:
                return None
            if not (tensor.is_cpu or _holds(tensor, rows)):
                return None
        return [cut(tensor, rows) for tensor in tensors]
    except Exception:  # the data set fails, too, in torch's words
        return None


def _holds(tensor: Tensor, rows: Tensor) -> bool:
    """True if a tensor has these rows: a device that is asked for others may be lost."""
    return int(rows.max()) < len(tensor)


def cut(tensor: Tensor, rows: Tensor) -> Tensor:
    """Return rows of a tensor in memory of their own, laid out as torch lays out stacked samples.

    Args:
        tensor: A plain one, shape (n, ...).
        rows: Their numbers, int64, shape (size,), on the CPU.
    """
    return tensor.index_select(0, rows if tensor.is_cpu else rows.to(tensor.device))


def _through(index: Any, subsets: list[Subset[Any]]) -> Tensor | None:
    """Return the rows of a batch's samples; None where its numbers are none from 0 on."""
    is_tensor = type(index) is Tensor
    if is_tensor and not subsets:
        return index  # type: ignore[no-any-return]
    try:
        numbers = index.tolist() if is_tensor else index
        if type(numbers) is not list:
            return None
        for subset in subsets:
            if not _are_plain(numbers):
                return None
            indices = subset.indices
            numbers = [indices[number] for number in numbers]
    except Exception:  # the subset fails, too, in torch's words
        return None
    return torch.tensor(numbers, device="cpu") if _are_plain(numbers) else None


_WHOLE = frozenset({int, np.int64})


def _are_plain(numbers: list[Any]) -> bool:
    return bool(numbers) and _WHOLE.issuperset(map(type, numbers)) and min(numbers) >= 0


def _converted(iterator: Any, fetcher: Any) -> Iterator[Any]:
    """Give the samples of a data set that are batches already, converted as torch does it."""
    profiler, functions, dispatch = watchers()
    chooser, source = iterator._sampler_iter, fetcher.dataset
    while True:
        try:
            if profiler._is_profiler_enabled or functions() or dispatch():
                batch = next(iterator)
            else:
                batch = _convert(source[next(chooser)])
        except StopIteration:
            return
        yield batch


def _convert(data: Any) -> Any:
    kind = type(data)
    if kind is Tensor:
        return data
    if kind is tuple or kind is list:
        return [each if type(each) is Tensor else _convert(each) for each in data]
    if kind is dict:
        return {key: _convert(each) for key, each in data.items()}
    return _utils.collate.default_convert(data)  # type: ignore[no-untyped-call]


_PART = 2**16


# --- the order --------------------------------------------------------------------------------


class Rows:
    """The numbers of the samples, batch by batch, as torch's `BatchSampler` takes them.

    Args:
        parts: The order in parts; the next one is asked for when a batch goes past the last one.
        size: Samples in a batch.
        drop_last: Whether a last batch with fewer samples is left out.
    """

    __slots__ = ("_at", "_drop_last", "_length", "_part", "_parts", "_size")

    def __init__(self, parts: Iterator[Tensor], size: int, drop_last: bool) -> None:
        self._parts, self._size, self._drop_last = parts, size, drop_last
        self._part, self._at, self._length = torch.empty(0, dtype=torch.int64, device="cpu"), 0, 0

    def __iter__(self) -> Iterator[list[int]]:
        return self

    def __next__(self) -> list[int]:
        return self.take().tolist()

    def take(self) -> Tensor:
        """Return the numbers of the next batch, int64, shape (size,).

        Raises:
            StopIteration: when there is none.
        """
        start = self._at
        self._at += self._size
        if self._at <= self._length:
            return self._part.narrow(0, start, self._size)
        return self._across(start)

    def skip(self, batches: int) -> None:
        """Leave out so many batches; no part of the order is asked for before it is needed."""
        rest = batches * self._size
        while rest > self._length - self._at:
            rest -= self._length - self._at
            following = next(self._parts, None)
            if following is None:
                rest = 0
                self._at = self._length
            else:
                self._part, self._at, self._length = following, 0, len(following)
        self._at += rest

    def _across(self, start: int) -> Tensor:
        """Return a batch from the end of a part and from the parts that follow."""
        taken, missing, part = [], self._size, self._part[start:]
        while missing:
            if not len(part):
                following = next(self._parts, None)
                if following is None:
                    break
                self._part = part = following
                continue
            taken.append(part[:missing])
            missing -= len(taken[-1])
            part = part[len(taken[-1]) :]
        self._part, self._at, self._length = part, 0, len(part)
        if not taken or (missing and self._drop_last):
            raise StopIteration
        return torch.cat(taken)


def _rows_of(iterator: Any) -> Any:
    """Return the order of an iterator as rows, where its sampler is one whose draws are known."""
    if type(iterator._sampler_iter) is Rows:
        return iterator._sampler_iter
    batches = iterator._index_sampler
    if type(batches) is BatchSampler:
        size, drop_last, chooser = batches.batch_size, batches.drop_last, batches.sampler
        if type(chooser) is SequentialSampler:
            return Rows(_in_order(chooser), size, drop_last)
        if type(chooser) is RandomSampler and not chooser.replacement:
            return Rows(_shuffled(chooser), size, drop_last)
    return iterator._sampler_iter


def _in_order(chooser: SequentialSampler) -> Iterator[Tensor]:
    yield from in_order(len(chooser.data_source))


def in_order(count: int) -> Iterator[Tensor]:
    """Give the numbers from 0 on, in parts that need no memory to speak of."""
    for start in range(0, count, _PART):
        yield torch.arange(start, min(count, start + _PART), device="cpu")


def _shuffled(chooser: RandomSampler) -> Iterator[Tensor]:
    """Give the permutations of a sampler: like torch's it draws one more than it may need."""
    count = len(chooser.data_source)
    draw = permutations(count, chooser.generator)
    for _ in range(chooser.num_samples // count):
        yield next(draw)
    yield next(draw)[: chooser.num_samples % count]


def permutations(count: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Draw permutations as torch's `RandomSampler` does, each when it is asked for."""
    if generator is None:
        generator = torch.Generator(device="cpu")
        generator.manual_seed(seed(None))
    while True:
        yield torch.randperm(count, generator=generator, device="cpu")


def seed(generator: torch.Generator | None) -> int:
    """Draw a seed as torch's loaders and samplers do."""
    draw = torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator)
    return int(draw.item())


# --- the trial --------------------------------------------------------------------------------

# What is left out, or done in another way: each is to be torch's own still when a pass begins.
_LEFT_OUT = (
    (DataLoader, "__iter__", dataloader),
    (DataLoader, "_get_iterator", dataloader),
    (dataloader._SingleProcessDataLoaderIter, "__init__", dataloader),
    (dataloader._SingleProcessDataLoaderIter, "__next__", dataloader),
    (dataloader._SingleProcessDataLoaderIter, "_next_data", dataloader),
    (dataloader._SingleProcessDataLoaderIter, "_next_index", dataloader),
    (_utils.fetch._MapDatasetFetcher, "fetch", _utils.fetch),
    (BatchSampler, "__iter__", sampler),
    (RandomSampler, "__iter__", sampler),
    (RandomSampler, "num_samples", sampler),
    (SequentialSampler, "__iter__", sampler),
    (TensorDataset, "__getitem__", dataset),
    (Subset, "__getitems__", dataset),
    (_utils.collate, "collate", _utils.collate),
    (_utils.collate, "collate_tensor_fn", _utils.collate),
    (_utils.collate, "default_collate", _utils.collate),
    (_utils.collate, "default_convert", _utils.collate),
)


def _is_proven() -> bool:
    """True if the shorter road leads where torch's does, and torch is as it was at the trial."""
    if are_watching() and not _proof.cache_info().currsize:
        return False  # whoever watches would see the trial
    proof = _proof()
    return (
        proof is not None
        and [getattr(owner, name, None) for owner, name, _ in _LEFT_OUT] == proof[0]
        and _utils.collate.default_collate_fn_map == proof[1]
        and not hasattr(TensorDataset, "__getitems__")
    )


@functools.cache
def _proof() -> tuple[list[Any], dict[Any, Any]] | None:
    """Walk tiny loaders both ways; return what torch was then, or None where the ways differ."""
    collate = _utils.collate
    generators = torch.get_rng_state()
    try:
        for owner, name, module in _LEFT_OUT:
            function = getattr(owner, name)
            torchs(function.fget if isinstance(function, property) else function, module)
        for function in collate.default_collate_fn_map.values():
            torchs(function, collate)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a torch that warns here is about to change
            walks: list[list[object]] = []
            for give in (iter, lambda loader: _road(iter(loader))):
                torch.set_rng_state(generators)
                walks.append(_walk(give))
    except Exception:  # any surprise means torch's road
        return None
    finally:
        torch.set_rng_state(generators)
    if walks[0] != walks[1]:
        return None
    return [getattr(*each[:2]) for each in _LEFT_OUT], dict(collate.default_collate_fn_map)


def _walk(give: Callable[[Any], Any]) -> list[object]:
    """Return all that can be seen of the batches of tiny loaders; they touch no device."""
    x = torch.arange(14.0, dtype=torch.float32, device="cpu").reshape(7, 2)
    image = torch.arange(56.0, dtype=torch.float32, device="cpu").reshape(7, 2, 2, 2)
    last = image.contiguous(memory_format=torch.channels_last)
    source = TensorDataset(x, torch.arange(7, device="cpu"), last)
    chosen = torch.Generator(device="cpu")
    chosen.manual_seed(5)
    ready: Any = [(row, [row], {"row": row}) for row in x]
    loaders: list[DataLoader[Any]] = [
        DataLoader(source, 3, shuffle=True, generator=chosen),
        DataLoader(source, 3, shuffle=True, drop_last=True),
        DataLoader(Subset(source, [4, 0, 5, 1, 2]), 5),
        DataLoader(source, 2, sampler=[3, 1, 6]),
        DataLoader(ready, batch_size=None),
    ]
    seen: list[object] = []
    for loader in loaders:
        for batch in give(loader):
            seen.append(type(batch))
            for each in batch:
                parts = (
                    each if type(each) is list else each.values() if type(each) is dict else [each]
                )
                seen += [(type(each), part.tolist(), part.dtype, part.stride()) for part in parts]
            generators = chosen, torch.default_generator
            seen += [bytes(each.get_state().numpy()) for each in generators]
    return seen
