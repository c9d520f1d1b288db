"""Random numbers of each sample's own: the same ones, whichever process loads the sample.

The sampler hands out keys in the place of numbers of samples: what is told this way reaches workers
that hold a copy of the data set, and those that live from pass to pass.
"""

from __future__ import annotations

import hashlib
import operator
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler

from lumbre.data.fast_loader import seed as drawn_seed

_BITS = 2**64 - 1


class Key(NamedTuple):
    """What the random numbers of a sample come from.

    Attributes:
        seed: The seed of the run.
        number: The number of the pass, from 1 on.
        time: How often the pass has given the sample before: one that comes twice differs.
        index: What the data set is asked for.
    """

    seed: int
    number: int
    time: int
    index: Any


class SeededSamples(Dataset[Any]):
    """A data set whose samples draw from generators that begin anew with each of them.

    These are torch's own for the CPU, numpy's legacy one and Python's. Afterwards each of them
    stands where it stood, so that nobody else's draws depend on who has loaded the sample.

    Args:
        dataset: The data set that has the samples.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, Key):
            return self.dataset[key]  # somebody looks at it
        with seeded(key):
            return self.dataset[key.index]

    def __getattr__(self, name: str) -> Any:
        # Whoever asks a worker for its data set finds what the user's has.
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __repr__(self) -> str:
        return f"SeededSamples({self.dataset!r})"


class Keys:
    """What a sampler gives, as keys; its state is the seed, and the passes that were begun.

    Args:
        chooser: Gives the numbers of samples.
        seed: The seed of the run.
        in_batches: Whether it gives them in lists.
    """

    def __init__(self, chooser: Iterable[Any], seed: int, in_batches: bool) -> None:
        self.chooser, self.seed = chooser, seed
        self.passes = 0
        self._in_batches = in_batches

    def __iter__(self) -> Iterator[Any]:
        return self._keys(iter(self.chooser))

    def _keys(self, items: Iterator[Any]) -> Iterator[Any]:
        self.passes += 1  # when the first is asked for: torch begins one that it never asks
        number = self.passes
        times: dict[int, int] | None = None if _gives_each_once(self.chooser) else {}

        def key(index: Any) -> Key:
            time = 0
            if times is not None:
                sample = _number_of(index)
                time = times.get(sample, 0)
                times[sample] = time + 1
            return Key(self.seed, number, time, index)

        for item in items:
            yield [key(index) for index in item] if self._in_batches else key(item)

    def __len__(self) -> int:
        return len(self.chooser)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name == "chooser" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.chooser, name)

    def state_dict(self) -> dict[str, int]:
        """Return the seed, and how many passes were begun."""
        return {"seed": self.seed, "passes": self.passes}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a state, with the seed that it holds."""
        self.seed, self.passes = state["seed"], state["passes"]


def seeded_loader(
    data: Dataset[Any], seed: bool | int, options: Mapping[str, Any]
) -> DataLoader[Any]:
    """Make a loader whose samples have random numbers of their own.

    Args:
        data: A data set whose samples have numbers.
        seed: The seed; True for one that torch's own generator draws here.
        options: What `torch.utils.data.DataLoader` takes.
    """
    loader = DataLoader(SeededSamples(data), **options)
    number = drawn_seed(None) if seed is True else int(seed)
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    # torch lets nobody set it afterwards; until a pass begins nothing depends on it.
    vars(loader)[name] = Keys(getattr(loader, name), number, loader.batch_sampler is not None)
    return loader


def keys_of(loader: Any) -> Keys | None:
    """Return what gives the keys of a loader's samples, if anything does."""
    for name in ("batch_sampler", "sampler"):
        chooser = getattr(loader, name, None)
        if isinstance(chooser, Keys):
            return chooser
    return None


def unkeyed(chooser: Any) -> Any:
    """Return a sampler itself, where it stands behind keys."""
    return chooser.chooser if isinstance(chooser, Keys) else chooser


def dataset_of(loader: Any) -> Any:
    """Return the data set that a loader was made for; None where it has none."""
    dataset = getattr(loader, "dataset", None)
    return dataset.dataset if isinstance(dataset, SeededSamples) else dataset


@contextmanager
def seeded(key: Key) -> Iterator[None]:
    """Let the three generators begin from a key, and put them back afterwards.

    Their seeds are the words of `numpy.random.SeedSequence([seed, pass, time, index])`: keys that
    differ by one bit have nothing in common.
    """
    entropy = [key.seed & _BITS, key.number, key.time, _number_of(key.index)]
    words = np.random.SeedSequence(entropy).generate_state(10)
    generator = torch.default_generator
    before = generator.get_state(), np.random.get_state(legacy=True), random.getstate()
    try:
        generator.manual_seed(int(words[0]) | int(words[1]) << 32)
        np.random.seed(words[2:6])
        random.seed(int.from_bytes(words[6:].tobytes(), "little"))
        yield
    finally:
        generator.set_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def _number_of(index: Any) -> int:
    """Return a number for whatever names a sample: in every process the same."""
    try:
        return operator.index(index) & _BITS
    except TypeError:
        values = index.tolist() if isinstance(index, Tensor | np.ndarray) else index
        return int.from_bytes(hashlib.sha256(repr(values).encode()).digest()[:8], "little")


def _gives_each_once(chooser: Any) -> bool:
    """True if a sampler is known to give no sample twice in a pass."""
    sampler = getattr(chooser, "sampler", chooser)
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples <= len(sampler.data_source)
    return type(sampler) is SequentialSampler
