"""A fit that goes on inside of an epoch, over data that say themselves where they stand."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

import lumbre as lb
from lumbre.errors import LumbreWarning

# What torchdata calls, and torch would rather not have called.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")

X = torch.randn(11, 3, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)
PASS = 4  # batches of 3, 3, 3 and 2 samples


class Noisy(Dataset[Any]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return X[index] + 0.1 * torch.rand(3) + float(np.random.rand()), Y[index]


class Carrying(IterableDataset[Any]):
    """Goes on where the pass before it has ended."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[Any]:
        for _ in range(7):
            self.at = (self.at + 1) % len(X)
            yield X[self.at], Y[self.at]


class Kept(Carrying):
    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


class Resuming(IterableDataset[Any]):
    """Takes its state as the place where its next pass begins, once."""

    def __init__(self) -> None:
        self.at, self.next = 0, 0

    def __iter__(self) -> Iterator[Any]:
        self.at, self.next = self.next, 0
        while self.at < len(X):
            self.at += 1
            yield X[self.at - 1], Y[self.at - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["at"]


class Counted(Noisy):
    """A map data set whose samples depend on how many there were."""

    def __init__(self) -> None:
        self.given = 0

    def __getitem__(self, index: int) -> Any:
        self.given += 1
        return X[index] + self.given, Y[index]

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = state["given"]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


TORCHDATAS: dict[str, Callable[..., Any]] = {
    "shuffled": lambda **o: StatefulDataLoader(Noisy(), 3, shuffle=True, **o),
    "generator": lambda **o: StatefulDataLoader(Noisy(), 3, shuffle=True, generator=seeded(), **o),
    "in order": lambda **o: StatefulDataLoader(Noisy(), 3, **o),
    "sampler": lambda **o: StatefulDataLoader(
        Noisy(), 3, sampler=StatefulDistributedSampler(Noisy(), 1, 0), **o
    ),
    "stream": lambda **o: StatefulDataLoader(Resuming(), 3, **o),
}
OWN: dict[str, Callable[[], Any]] = {
    "carried": lambda: DataLoader(Kept(), 3),
    "carried, torchdata": lambda: StatefulDataLoader(Kept(), 3),
    "map": lambda: DataLoader(Counted(), 3, shuffle=True),
    "map, a part": lambda: DataLoader(Subset(Counted(), range(10)), 3),
    "map, torchdata": lambda: StatefulDataLoader(Counted(), 3, shuffle=True),
    "resuming": lambda: DataLoader(Resuming(), 3),
    "resuming, workers": lambda: DataLoader(Resuming(), 3, num_workers=1),
}
SEEDED = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
]


class Seen(lb.Callback):
    def __init__(self, pause: int | None) -> None:
        self.batches: list[Any] = []
        self.pause = pause

    def on_train_batch_end(self, ctx: Any) -> None:
        self.batches.append(ctx.batch[0].tolist())
        if len(self.batches) == self.pause:
            ctx._interrupt()

    on_valid_batch_end = on_train_batch_end


def go(
    path: Path, make: Callable[[], Any], pause: int | None, seed: int, skip: Any, **options: Any
) -> list[Any]:
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1))
    trainable = lb.setup(lambda: model, nn.MSELoss(), torch.optim.Adam)
    seen = Seen(pause)
    fitted = trainable.fit(
        make(), 2, [lb.callbacks.AutoResume(path, skip=skip), seen], verbose=False, **options
    )
    assert fitted.paused == (pause is not None)
    weights = {name: each.tolist() for name, each in fitted.model.state_dict().items()}
    return [seen.batches, weights, fitted.records["metrics"]]


def check_everywhere(
    tmp_path: Path,
    make: Callable[[], Any],
    pauses: Any = None,
    skip: Any = "replay",
    **options: Any,
) -> None:
    batches, *end = go(tmp_path / "whole", make, None, 0, skip, **options)
    assert len(batches) >= 6
    for pause in pauses or range(1, len(batches) + 1):
        path = tmp_path / str(pause)
        before, *_ = go(path, make, pause, 0, skip, **options)
        after, *again = go(path, make, None, 100 + pause, skip, **options)
        assert before + after == batches, f"paused behind batch {pause}"
        assert again == end, f"paused behind batch {pause}"


@pytest.mark.parametrize("kind", TORCHDATAS)
@pytest.mark.parametrize("workers", [0, 2])
def test_over_a_loader_of_torchdatas(kind: str, workers: int, tmp_path: Path) -> None:
    def make() -> Any:
        return TORCHDATAS[kind](num_workers=workers)

    check_everywhere(tmp_path, make)


def test_workers_of_torchdatas_may_leave_out_what_was_used(tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"

    class Marking(Noisy):
        def __getitem__(self, index: int) -> Any:
            with loaded.open("a") as file:
                file.write(f"{index}\n")
            return X[index], Y[index]

    def make() -> Any:
        loaded.unlink(missing_ok=True)
        return StatefulDataLoader(Marking(), 3, num_workers=2, shuffle=True)

    check_everywhere(tmp_path, make, [2, 4, 6], skip="index")
    assert len(loaded.read_text().split()) == 5  # behind batch 6 of 8


def test_a_loader_of_torchdatas_counts_what_was_left_out(tmp_path: Path) -> None:
    def make() -> Any:
        return StatefulDataLoader(Noisy(), 3, shuffle=True)

    counts = []

    class Counts(lb.Callback):
        def on_train_batch_end(self, ctx: Any) -> None:
            state = ctx.train_data.state_dict()
            counts.append((state["_num_yielded"], state["_sampler_iter_yielded"]))

    def fit(*callbacks: Any) -> None:
        trainable = lb.setup(lambda: nn.Linear(3, 1), nn.MSELoss(), torch.optim.SGD)
        resume = lb.callbacks.AutoResume(tmp_path / "state")
        trainable.fit(make(), 1, [resume, Counts(), *callbacks], verbose=False)

    fit(Seen(2))
    fit()
    assert counts == [(n, n) for n in range(1, PASS + 1)]


@pytest.mark.parametrize("kind", OWN)
def test_over_data_that_have_a_state(kind: str, tmp_path: Path) -> None:
    check_everywhere(tmp_path, OWN[kind])


def test_data_that_go_on_and_have_no_state_are_told(tmp_path: Path) -> None:
    told = r"The data set .*Carrying changes its at from epoch to epoch and has no state_dict\(\)"
    with pytest.warns(LumbreWarning, match=told):
        go(tmp_path / "state", lambda: DataLoader(Carrying(), 3), None, 0, "replay")


@pytest.mark.parametrize("workers", SEEDED, ids=str)
def test_samples_with_random_numbers_of_their_own(workers: Any, tmp_path: Path) -> None:
    options = {"batch_size": 3, "sample_seed": True, **workers}
    pauses = [1, 3, 4, 5, 8] if workers["num_workers"] else None
    for skip in ("replay", "index"):
        (tmp_path / skip).mkdir()
        check_everywhere(
            tmp_path / skip, Noisy, pauses, skip, dataloader_options=options, valid_data=0.4
        )
