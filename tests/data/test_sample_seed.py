"""`sample_seed`: the same random numbers for each sample, whoever loads it, also after a kill."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import lumbre as lb
from lumbre.errors import ArgumentError
from runs import at


class Noisy(Dataset[Any]):
    """Draws from all three generators for each sample."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        x = torch.rand(3) + float(np.random.rand()) + random.random() + index  # noqa: S311
        return x, x.sum(0, keepdim=True)


class Seen(lb.Callback):
    def __init__(self) -> None:
        self.batches: list[Any] = []

    def on_train_batch_begin(self, ctx: Any) -> None:
        self.batches.append(ctx.input.tolist())


def fit(*callbacks: Any, seed: Any = True, start: int = 0, **options: Any) -> Any:
    torch.manual_seed(start)
    seen = Seen()
    setup = lb.setup(lambda: nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5)), nn.MSELoss(),
                     torch.optim.SGD)  # fmt: skip
    given = {"batch_size": 2, "sample_seed": seed, **options}
    fitted = setup.set_opt_hparams(lr=0.001).fit(
        Noisy(), 2, [seen, *callbacks], verbose=False, dataloader_options=given
    )
    return [each.tolist() for each in fitted.model.parameters()], seen.batches


@pytest.mark.parametrize("options", [{"num_workers": 2},
                                     {"num_workers": 1, "persistent_workers": True}])  # fmt: skip
def test_workers_change_nothing(options: dict[str, Any]) -> None:
    weights, batches = fit(seed=7, shuffle=False)
    again, others = fit(seed=7, shuffle=False, **options)
    assert others == batches
    # Workers that live on draw their own seed once only, and dropout draws behind it.
    assert again == weights or options.get("persistent_workers")


def test_samples_and_passes_differ() -> None:
    _, batches = fit(seed=7, shuffle=False)
    noise = [tuple(round(v % 1, 6) for v in row) for batch in batches for row in batch]
    assert len(set(noise)) == len(noise) == 24


def test_a_seed_that_is_drawn_is_that_of_the_run() -> None:
    assert fit(start=3) == fit(start=3)
    assert fit(start=3)[1] != fit(start=4)[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_after_a_kill_it_is_the_seed_of_the_state(workers: int, tmp_path: Path) -> None:
    weights, batches = fit(num_workers=workers)
    resume = lb.callbacks.AutoResume(tmp_path / "state", every=1)
    with pytest.raises(ZeroDivisionError):
        fit(resume, at("on_train_batch_end", lambda ctx: 1 // 0, 9), num_workers=workers)
    resume = lb.callbacks.AutoResume(tmp_path / "state", every=1)
    again, rest = fit(resume, start=99, num_workers=workers)
    assert rest == batches[-len(rest) :]
    assert again == weights


def test_it_is_for_loaders_that_lumbre_makes() -> None:
    setup = lb.setup(lambda: nn.Linear(3, 1), nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield torch.zeros(3), torch.zeros(1)

    for data in (DataLoader(Noisy(), 2), Stream()):
        with pytest.raises(ArgumentError):
            setup.fit(data, 1, verbose=False, dataloader_options={"sample_seed": True})
