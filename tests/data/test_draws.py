"""What a loader draws is kept in a state, and drawn again from there."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, Subset, TensorDataset

from lumbre.data.draws import (
    draws_of,
    generator_states,
    restore_draws,
    restore_loader,
    set_generator_states,
)
from lumbre.errors import LumbreWarning
from lumbre.files.form import read, write

CPU = torch.device("cpu")
KINDS = {
    "torch": lambda seed: torch.Generator().manual_seed(seed),
    "python": random.Random,
    "RandomState": np.random.RandomState,
    "PCG64": np.random.default_rng,
    "MT19937": lambda seed: np.random.Generator(np.random.MT19937(seed)),
    "Philox": lambda seed: np.random.Generator(np.random.Philox(seed)),
    "SFC64": lambda seed: np.random.Generator(np.random.SFC64(seed)),
}


def draw(generator):
    if isinstance(generator, torch.Generator):
        return torch.rand(3, generator=generator).tolist()
    if isinstance(generator, random.Random):
        return [generator.gauss(0, 1) for _ in range(3)]
    return generator.normal(size=3).tolist()


class Noise(Dataset):
    def __init__(self, generator):
        self.rng = generator

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor(draw(self.rng))


class Counts(Sampler):
    """Has an order of its own in each epoch."""

    def __init__(self, start=0):
        self.epoch = start

    def __iter__(self):
        self.epoch += 1
        order = torch.randperm(8, generator=torch.Generator().manual_seed(self.epoch))
        return iter(order.tolist())

    def __len__(self):
        return 8


class Stateful(Counts):
    def state_dict(self):
        return {"epoch": self.epoch}

    def load_state_dict(self, state):
        self.epoch = state["epoch"]


class Batches(BatchSampler):
    """Batches that have a state too."""

    seen = 0

    def __iter__(self):
        self.seen = self.seen + 1
        return super().__iter__()

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def saved(state, tmp_path):
    """The state as a file gives it back."""
    write(tmp_path / "state", state, "checkpoint")
    return read(tmp_path / "state")


def walked(loader):
    return [batch.tolist() if isinstance(batch, torch.Tensor) else batch for batch in loader]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["data set", "subset", "sampler", "loader"])
def test_a_generator_draws_again_what_it_would_have_drawn(kind, place, tmp_path):
    def make(seed):
        generator = KINDS[kind](seed)
        sampler = Counts()
        if place == "sampler":
            sampler.rng = generator
        data = Noise(generator) if place in ("data set", "subset") else list(range(8))
        data = Subset(data, range(8)) if place == "subset" else data
        loader = DataLoader(data, batch_size=4, sampler=sampler)
        if place == "loader":
            loader.rng = generator
        return loader, generator

    loader, generator = make(1)
    draw(generator)
    states = generator_states(loader)
    assert len(states) == 1
    expected = draw(generator)
    other, again = make(2)
    assert draw(again) != expected
    assert set_generator_states(other, saved({"it": states}, tmp_path)["it"]) == []
    assert draw(again) == expected


def test_a_generator_is_found_once_and_what_is_not_repeatable_is_left_out():
    generator = torch.Generator()
    loader = DataLoader(list(range(8)), shuffle=True, generator=generator)
    loader.dataset_of_its_own = random.SystemRandom()
    assert list(generator_states(loader)) == ["loader.generator"]
    assert generator_states(None) == generator_states([1, 2]) == {}


def test_a_data_set_that_contains_itself_is_looked_at_once():
    data = Noise(KINDS["python"](1))
    data.dataset = data
    assert list(generator_states(DataLoader(data))) == ["dataset.rng"]


def test_the_list_of_torch_generators_of_the_first_files_is_read():
    def make(seed):
        sampler = torch.utils.data.RandomSampler(range(8), generator=KINDS["torch"](seed))
        data = Noise(KINDS["torch"](seed))
        return DataLoader(data, sampler=sampler, generator=KINDS["torch"](seed + 1))

    loader, other = make(1), make(5)
    first = [loader.generator.get_state(), loader.sampler.generator.get_state()]
    data_draws = draw(make(5).dataset.rng)
    state = {"rng": draws_of({}, CPU)["rng"], "generators": {"train": first}}
    assert restore_draws({"train": other}, {**state, "splits": {"train": None}}, CPU) == {}
    assert draw(other.generator) == draw(loader.generator)
    assert draw(other.sampler.generator) == draw(loader.sampler.generator)
    assert draw(other.dataset.rng) == data_draws, "the first files hold none of a data set"


@pytest.mark.parametrize(("was", "now"), [("torch", "python"), ("PCG64", "Philox")])
def test_a_generator_of_another_kind_stays_and_is_told(was, now):
    state = draws_of({"train": DataLoader(Noise(KINDS[was](1)))}, CPU)
    other = KINDS[now](2)
    with pytest.warns(LumbreWarning, match=r"the dataset\.rng of the train data.*none there"):
        restore_draws({"train": DataLoader(Noise(other))}, state, CPU)
    assert draw(other) == draw(KINDS[now](2))


def test_samplers_with_a_state_go_on_with_it(tmp_path):
    def make(start):
        return DataLoader(list(range(8)), batch_sampler=Batches(Stateful(start), 4, False))

    loader, other = make(0), make(40)
    walked(loader)
    state = saved(draws_of({"train": loader, "valid": None}, CPU), tmp_path)
    expected = walked(loader)
    assert restore_draws({"train": other, "valid": None}, state, CPU).keys() == {"valid"}
    assert walked(other) == expected
    assert other.batch_sampler.seen == 2


def test_a_loader_with_a_state_goes_on_with_it():
    class Loader(list):
        at = 0

        def state_dict(self):
            return {"at": self.at}

        def load_state_dict(self, state):
            self.at = state["at"]

    loader, other = Loader(), Loader()
    loader.at = 3
    state = draws_of({"train": loader}, CPU)
    waiting = restore_draws({"train": None}, state, CPU)
    restore_loader(other, "train", waiting["train"])
    assert other.at == 3
    restore_loader(other, "train", None)


def test_a_state_that_nobody_takes_is_told():
    state = draws_of({"train": DataLoader(list(range(8)), sampler=Stateful())}, CPU)
    with pytest.warns(LumbreWarning, match="the sampler of the train data, and the loader of this"):
        restore_draws({"train": DataLoader(list(range(8)))}, state, CPU)


def test_a_sampler_that_counts_and_has_no_state_is_told_when_a_state_is_saved():
    loader = DataLoader(list(range(8)), sampler=Counts())
    with pytest.warns(LumbreWarning, match=r"Counts changes its epoch from.*state_dict\(self\)"):
        draws_of({"train": loader}, CPU)


def test_a_sampler_that_carries_nothing_on_is_no_cause_for_a_warning():
    class Fresh(Sampler):
        def __iter__(self):
            self.order = torch.randperm(8).tolist()
            return iter(self.order)

        def __len__(self):
            return 8

    for sampler in (Fresh(), [1, 2], range(3), None):
        state = draws_of({"train": DataLoader(list(range(8)), sampler=sampler)}, CPU)
        assert state["samplers"] == {"train": {}}


def test_a_loader_of_tensors_has_the_draws_of_its_generator():
    from lumbre.data.loaders import as_dataloader

    loader = as_dataloader(torch.arange(8), shuffle=True, generator=KINDS["torch"](1))
    state = generator_states(loader)
    expected = walked(loader)
    set_generator_states(loader, state)
    assert walked(loader) == expected
    assert isinstance(loader.dataset, Dataset)
    assert not isinstance(loader.dataset, TensorDataset)
