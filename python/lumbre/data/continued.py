"""Passes over the training data: counted, told to the data, and without a seam between epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lumbre.data.counts import empty


class Continued:
    """One pass over the data after the other, as one iterator: an epoch takes as much as it likes.

    The loader is begun anew at once when it is used up, so that no epoch is short at a seam.

    Args:
        loader: What gives the batches of a pass.
        source: What is iterated over in its place.
        begin: Called before each pass.
        what: What the data are called in an error.

    Attributes:
        used: How many batches of the pass under way were given.
    """

    def __init__(
        self, loader: Any, source: Iterable[Any], begin: Callable[[], object], what: str
    ) -> None:
        self.loader, self.source = loader, source
        self.used = 0
        self._begin, self._what = begin, what
        self._batches: Iterator[Any] = iter(())

    def __iter__(self) -> Continued:
        return self

    def __next__(self) -> Any:
        """Return the next batch.

        Raises:
            DataError: when a pass has none.
        """
        for batch in self._batches:
            self.used += 1
            return batch
        self._batches = iter(())  # workers end before others begin
        self._begin()
        self._batches = iter(self.source)
        self.used = 1
        for batch in self._batches:
            return batch
        raise empty(self.loader, self._what)

    def go_on(self, used: int) -> None:
        """Go on with a pass that the source has begun, behind batches that were given."""
        self._batches, self.used = iter(self.source), used


def tell_epoch(loader: Any, epoch: int) -> None:
    """Call `set_epoch(epoch)` of whatever has it, each once: loader, samplers and data set."""
    batches = getattr(loader, "batch_sampler", None)
    parts = (
        loader,
        getattr(loader, "sampler", None),
        batches,
        getattr(batches, "sampler", None),
        getattr(loader, "dataset", None),
    )
    told: set[int] = set()
    for part in parts:
        tell = getattr(part, "set_epoch", None)
        if callable(tell) and id(part) not in told:
            told.add(id(part))
            tell(epoch)
