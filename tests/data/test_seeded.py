"""Random numbers of each sample's own, and where they cannot be had."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

import lumbre as lb
from lumbre.data.loaders import eval_loader, loaders
from lumbre.data.seeded import Key, seeded
from lumbre.errors import ArgumentError, ArgumentTypeError


class Drawing(Dataset[Any]):
    """Each sample is its number, and what the three generators give."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> Any:
        drawn = [float(torch.rand(())), float(np.random.rand()), random.random()]  # noqa: S311
        return torch.tensor([index, *drawn], dtype=torch.float64)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([1.0])


def passes(count: int = 2, **options: Any) -> list[list[Any]]:
    torch.manual_seed(3)
    loader: Any = lb.as_dataloader(Drawing(), batch_size=3, sample_seed=True, **options)
    return [[batch.tolist() for batch in loader] for _ in range(count)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker:UserWarning")
@pytest.mark.parametrize("shuffle", [False, True])
def test_they_are_the_same_for_any_number_of_workers(shuffle: bool) -> None:
    whole = passes(shuffle=shuffle)
    for workers in (1, 2, 8):
        options: dict[str, Any] = {"shuffle": shuffle, "num_workers": workers}
        assert passes(**options) == whole
    lasting = passes(num_workers=2, persistent_workers=True)
    assert lasting == passes()


def test_no_two_samples_and_no_two_passes_have_the_same() -> None:
    drawn = [value for one in passes() for batch in one for row in batch for value in row[1:]]
    assert len(drawn) == 2 * 11 * 3
    assert len(set(drawn)) == len(drawn)


def test_a_sample_that_comes_twice_in_a_pass_has_others() -> None:
    sampler = WeightedRandomSampler([1.0] + [0.0] * 10, 6)
    rows = [row for batch in passes(1, sampler=sampler)[0] for row in batch]
    assert [row[0] for row in rows] == [0.0] * 6
    assert len({tuple(row) for row in rows}) == 6


def test_whoever_draws_beside_them_draws_what_he_would_have_drawn() -> None:
    def stands() -> tuple[Any, ...]:
        return torch.rand(3).tolist(), np.random.rand(), random.random()  # noqa: S311

    def drawn(looks: bool) -> tuple[Any, ...]:
        loader: Any = lb.as_dataloader(Drawing(), sample_seed=7)
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        if looks:
            key = next(iter(loader.batch_sampler))[0]
            loader.dataset[key]
        return stands()

    assert drawn(True) == drawn(False)
    torch.manual_seed(1)
    before = torch.get_rng_state()

    def fail() -> None:
        with seeded(Key(1, 1, 0, 0)):
            raise ZeroDivisionError(torch.rand(1))

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_whole_number_is_the_seed() -> None:
    def first(seed: int) -> Any:
        loader: Any = lb.as_dataloader(Drawing(), sample_seed=seed)
        return next(iter(loader)).tolist()

    assert first(0) == first(0)
    assert first(0) != first(1)


def test_samples_may_have_names_and_no_batches() -> None:
    class Named(Drawing):
        def __getitem__(self, index: Any) -> Any:
            return super().__getitem__(ord(index))

    loader: Any = lb.as_dataloader(
        Named(), sample_seed=5, sampler=["a", "b", "a"], batch_size=None, num_workers=0
    )
    rows = [row.tolist() for row in loader]
    assert [row[0] for row in rows] == [97.0, 98.0, 97.0]
    assert len({row[1] for row in rows}) == 3


def test_validation_data_and_predictions_get_them_too() -> None:
    train, valid = loaders(Drawing(), 0.3, {"sample_seed": 4, "batch_size": 4})
    for loader in (train, valid, eval_loader(Drawing(), {"sample_seed": 4})):
        first: Any = next(iter(loader))  # type: ignore[arg-type]
        key = next(iter(loader.batch_sampler))[0]  # type: ignore[union-attr]
        before = torch.get_rng_state()
        assert loader.dataset[key].tolist() == loader.dataset[key].tolist()  # type: ignore[union-attr]
        assert torch.equal(torch.get_rng_state(), before)
        assert first.shape[1] == 4


def test_the_data_set_is_found_behind_them() -> None:
    class Classes(Drawing):
        classes = ("a", "b")

    loader: Any = lb.as_dataloader(Classes(), sample_seed=1)
    assert loader.dataset.classes == ("a", "b")
    assert not hasattr(loader.dataset, "__getitems__")
    assert int(loader.dataset[2][0]) == 2  # asked for without a key


@pytest.mark.parametrize("off", [False, None])
def test_without_it_the_loader_is_torchs(off: Any) -> None:
    loader: Any = lb.as_dataloader(Drawing(), sample_seed=off)
    assert type(loader.dataset) is Drawing


def test_data_in_memory_draw_nothing() -> None:
    x = torch.arange(6.0)
    torch.manual_seed(0)
    loader: Any = lb.as_dataloader([x, x], sample_seed=True)
    assert type(loader).__name__ == "TensorLoader"


def test_where_they_cannot_be_had() -> None:
    own: Any = DataLoader(Drawing())
    options = {"sample_seed": True}
    itself = "sample_seed does not apply to a DataLoader.*Pass the data set, with the loader's"
    for data, valid in ((own, None), (own, Drawing()), (Drawing(), own)):
        with pytest.raises(ArgumentError, match=itself):
            loaders(data, valid, options)
    with pytest.raises(ArgumentError, match=r"sample_seed does not work with .*Endless"):
        loaders(Endless(), None, options)
    with pytest.raises(ArgumentTypeError, match="sample_seed is True or False; got 'yes'"):
        loaders(Drawing(), None, {"sample_seed": "yes"})
    with pytest.raises(
        ArgumentError, match=r"unknown dataloader option 'sample_sed'\..*sample_seed"
    ):
        loaders(Drawing(), None, {"sample_sed": True})
