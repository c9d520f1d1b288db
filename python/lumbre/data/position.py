"""Where a pass over a loader stands: kept as numbers, and gone on with in another process.

What is kept is what the pass was begun with, the generators and the states of samplers, and how
many batches of it were used, never how many were fetched. To go on is to begin the pass once more
and to leave out what was used.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from lumbre.data.draws import (
    dataset_states,
    draws_of_pass,
    generator_states,
    has_workers,
    restore_draws_of_pass,
    restore_states,
    rng_state,
    set_generator_states,
    set_rng_state,
)
from lumbre.data.fast_loader import FastLoader, fast_loader, skip
from lumbre.data.samples import TensorLoader
from lumbre.data.seeded import unkeyed
from lumbre.data.stateful import is_stateful_loader, is_torchdatas
from lumbre.errors import DataError, DataWarning
from lumbre.warn import warn

# So many batches are looked at for what draws in between them.
_LOOKED_AT = 4


class Position:
    """The batches of one pass over a loader, whose place is kept.

    Args:
        loader: What gives the batches.
        device: The device whose generator is drawn from, too.

    Attributes:
        began: What the pass was begun with; None before.
    """

    def __init__(self, loader: Iterable[Any], device: torch.device) -> None:
        self.loader = loader
        self.began: dict[str, Any] | None = None
        self._device = device
        self._ready: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        ready, self._ready = self._ready, None
        if ready is not None:
            return ready
        self.began = draws_of_pass(self.loader, self._device)
        return _begun(self.loader)

    def go_on(self, began: Mapping[str, Any], used: int, skips: bool, what: str) -> None:
        """Begin the pass as it was begun, and leave out the batches that were used.

        Afterwards the generators stand where they stood before, and so does a data set that has
        a state, where its samples were left out and not loaded once more.

        Args:
            began: What `began` was.
            used: How many batches were used.
            skips: Whether workers leave out the samples of these, instead of loading them.
            what: What the data are called in an error.

        Raises:
            DataError: when the data has fewer batches.
        """
        now = rng_state(self._device), generator_states(self.loader)
        of_data = dataset_states(self.loader) if _is_picked_here(self.loader) else {}
        restore_draws_of_pass(self.loader, began, self._device)
        self.began = dict(began)
        self._ready = begun_behind(self.loader, used, skips, what)
        set_rng_state(now[0], self._device)
        set_generator_states(self.loader, now[1])
        restore_states(self.loader, of_data)


def begun_behind(loader: Any, used: int, skips: bool, what: str) -> Iterator[Any]:
    """Begin a pass over a loader behind batches that were used."""
    fast = fast_loader(loader)
    if isinstance(fast, TensorLoader):
        return fast.begin(used)
    if _is_picked(loader):
        if not loader.num_workers:
            if isinstance(fast, FastLoader):
                return fast.begin(used)
            batches: Any = iter(loader)
            if is_stateful_loader(loader):
                _count_as_used(batches, used)
            else:
                skip(batches, used)
            return batches  # type: ignore[no-any-return]
        if skips:
            return _begun_by_workers(loader, used)
    iterator = iter(fast)
    for done in range(used):
        try:
            next(iterator)
        except StopIteration:
            raise DataError(_FEWER.format(what, done, used)) from None
    return iterator


def _is_picked(loader: Any) -> bool:
    """True if samples are chosen by their numbers, which can be left out."""
    is_known = type(loader) is DataLoader or is_stateful_loader(loader)
    return is_known and not isinstance(loader.dataset, IterableDataset)


def _is_picked_here(loader: Any) -> bool:
    """True if it is this process that loads them."""
    return _is_picked(loader) and not loader.num_workers


def _count_as_used(iterator: Any, used: int) -> None:
    """Let torchdata's iterator leave out batches and count them, for its own `state_dict()`."""
    for _ in range(used):
        try:
            iterator._next_index()
        except StopIteration:
            return
        iterator._num_yielded += 1


def _begun_by_workers(loader: DataLoader[Any], used: int) -> Iterator[Any]:
    # torch asks the loader for it when the workers begin, and keeps what it has got.
    owner: Any = loader
    name = "batch_sampler" if loader.batch_sampler is not None else "sampler"
    if has_workers(loader):
        owner, name = loader._iterator, "_index_sampler"
    chooser = getattr(owner, name)
    vars(owner)[name] = _Behind(chooser, used)
    try:
        return iter(loader)
    finally:
        vars(owner)[name] = chooser


class _Behind:
    """A sampler that leaves out its first items in its first pass."""

    def __init__(self, chooser: Iterable[Any], used: int) -> None:
        self._chooser, self._used = chooser, used

    def __iter__(self) -> Iterator[Any]:
        # torch begins one that it never asks for anything.
        return self._rest(iter(self._chooser))

    def _rest(self, items: Iterator[Any]) -> Iterator[Any]:
        used, self._used = self._used, 0
        for _ in range(used):
            next(items, None)
        yield from items

    def __len__(self) -> int:
        return len(self._chooser)  # type: ignore[arg-type]


def _begun(loader: Any) -> Iterator[Any]:
    """Begin a pass, and look at what draws in between its first batches.

    What is drawn there comes without the steps when the pass is begun once more.
    """
    fast = fast_loader(loader)
    workers: int = getattr(loader, "num_workers", 0)
    if isinstance(fast, TensorLoader) or workers:
        return iter(fast)  # workers draw from generators of their own
    if not _is_picked(loader):
        return _looked_at(iter(fast), loader)
    owner = _drawing(loader)
    if owner is None:
        return iter(fast)

    def look(items: Iterator[Any]) -> Iterator[Any]:
        return _looked_at(items, owner)

    if isinstance(fast, FastLoader):
        return fast.begin(look=look)
    batches: Any = iter(loader)
    batches._sampler_iter = look(batches._sampler_iter)
    return batches  # type: ignore[no-any-return]


def _drawing(loader: DataLoader[Any]) -> object | None:
    """Return a sampler that may draw in between the batches: torch's own ones do not."""
    batches: Any = unkeyed(loader.batch_sampler)
    for each in (batches, getattr(batches, "sampler", None), unkeyed(loader.sampler)):
        is_torchs = type(each).__module__ == "torch.utils.data.sampler" or is_torchdatas(each)
        if each is not None and not is_torchs:
            return each  # type: ignore[no-any-return]
    return None


def _looked_at(items: Iterator[Any], owner: Any) -> Iterator[Any]:
    given = None
    for _ in range(_LOOKED_AT):
        before = _stand()
        try:
            item = next(items)
        except StopIteration:
            return
        after = _stand()
        if given is not None:
            inside = {name for name in before if before[name] != after[name]}
            outside = {name for name in before if given[name] != before[name]}
            if both := sorted(inside & outside):
                warn(_MIXED.format(type(owner).__name__, " and ".join(both)), DataWarning)
                yield item
                break
        given = after
        yield item
        del item
    yield from items


def _stand() -> dict[str, Any]:
    """Return where the generators stand that everybody draws from."""
    _, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch's": bytes(torch.get_rng_state().numpy()),
        "numpy's": (keys.tobytes(), rest),  # type: ignore[union-attr]
        "Python's": random.getstate(),
    }


_FEWER = (
    "{} gave {} batches, and the fit that goes on had used {} of them: these are other data. Pass "
    "those that it was begun with."
)
_MIXED = (
    "{} draws between the batches from {} generator, and so does the step: a fit that goes on "
    "inside of an epoch draws the order of what it has used once more, without the steps in "
    "between, and gets another one. Let it draw from a generator of its own: an attribute, such as "
    "self.generator = torch.Generator()."
)
