"""Loaders, samplers and data sets that say themselves where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset

_TORCHDATAS = "torchdata."


def has_state(part: Any) -> bool:
    """True if a part of a loader gives its state and takes it back.

    torchdata's own parts do not count: theirs is a place inside of a pass, which is kept as a count
    of batches; beside the generators that they hold nothing else is in it.
    """
    if is_torchdatas(part):
        return False
    methods = (getattr(part, name, None) for name in ("state_dict", "load_state_dict"))
    return all(callable(method) for method in methods)


def is_torchdatas(part: Any) -> bool:
    """True for a loader or a sampler of torchdata, and for one that is derived from it."""
    return any(each.__module__.startswith(_TORCHDATAS) for each in type(part).__mro__)


def is_stateful_loader(loader: Any) -> bool:
    """True for torchdata's `StatefulDataLoader` itself, whose iterators are known."""
    kind = type(loader)
    return kind.__module__.startswith(_TORCHDATAS) and kind.__name__ == "StatefulDataLoader"


def is_stateful_stream(loader: Any) -> bool:
    """True if a loader goes through data whose place is in a state of their own."""
    dataset = getattr(loader, "dataset", None)
    return isinstance(dataset, IterableDataset) and has_state(dataset)


class Anew:
    """What gives the batches of a stream that has a state, and begins again behind its end.

    A state that is taken between two passes may say "at the end": the first pass of whoever was
    given it has nothing then, and the next one begins, as it would have without the state.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return self._begun(iter(self.loader))  # which draws now, as torch's does

    def _begun(self, batches: Iterator[Any]) -> Iterator[Any]:
        is_spent = True
        for batch in batches:
            is_spent = False
            yield batch
            del batch
        if is_spent:
            yield from self.loader
