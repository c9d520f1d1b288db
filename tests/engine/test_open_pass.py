"""A fit that goes on inside of an epoch, at every batch, over every kind of data."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

import lumbre as lb
from lumbre.errors import DataError, DataWarning
from lumbre.files import form

pytestmark = pytest.mark.filterwarnings("ignore:EMA. after")

X = torch.randn(11, 3, generator=torch.Generator().manual_seed(1))
Y = X.sum(1, keepdim=True)
BATCHES = 4  # of 3, 3, 3 and 2 samples


class Noisy(Dataset[Any]):
    """Its samples are augmented at random, by the generators that everybody draws from."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return X[index] + 0.1 * torch.rand(3) + float(np.random.rand()), Y[index]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, len(X), step):
            yield X[index], Y[index]


class Shuffled:
    """Batches of sample numbers in an order that depends on a count, which is its state."""

    def __init__(self) -> None:
        self.passes = 0

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[list[int]]:
        self.passes += 1
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(self.passes))
        return iter([part.tolist() for part in order.split(3)])

    def state_dict(self) -> dict[str, Any]:
        return {"passes": self.passes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.passes = state["passes"]


class Epochs:
    """A sampler that is told the epoch, as a distributed one is."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(X)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.epoch)
        return iter(torch.randperm(len(X), generator=generator).tolist())


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


PAIRS = TensorDataset(X, Y)
KINDS: dict[str, Callable[[], Any]] = {
    "tensors": lambda: [X, Y],
    "dataset": lambda: PAIRS,
    "loader over tensors": lambda: DataLoader(PAIRS, 3, shuffle=True, generator=seeded()),
    "map": lambda: DataLoader(Noisy(), 3, shuffle=True),
    "map, generator": lambda: DataLoader(Noisy(), 3, shuffle=True, generator=seeded()),
    "subset, weights": lambda: DataLoader(
        Subset(PAIRS, range(11)), 3, sampler=WeightedRandomSampler(torch.arange(1.0, 12.0), 11)
    ),
    "batch sampler": lambda: DataLoader(Noisy(), batch_sampler=Shuffled()),
    "set_epoch": lambda: DataLoader(Noisy(), 3, sampler=Epochs()),
    "ready batches": lambda: DataLoader(
        [(x, y) for x, y in zip(X.split(3), Y.split(3), strict=True)], batch_size=None
    ),
    "stream": lambda: DataLoader(Stream(), 3),
    "list of batches": lambda: Listed(),
}
WORKERS: dict[str, Callable[[], Any]] = {
    "map": lambda: DataLoader(Noisy(), 3, shuffle=True, num_workers=2),
    "batch sampler": lambda: DataLoader(PAIRS, batch_sampler=Shuffled(), num_workers=2),
    "persistent": lambda: DataLoader(
        PAIRS, 3, shuffle=True, num_workers=2, persistent_workers=True, generator=seeded()
    ),
    "stream": lambda: DataLoader(Stream(), 3, num_workers=2),
}


class Listed:
    """A loader that is nobody's: batches of a list."""

    def __iter__(self) -> Iterator[Any]:
        return zip(X.split(3), Y.split(3), strict=True)


lb.as_dataloader.register(Listed, lambda data, **options: data)


class Own(lb.Metric):
    """A metric without a state_dict: an integer, a tensor, and what its base class keeps."""

    abbrev = "Own"

    def __init__(self, power: int = 1) -> None:
        self.power, self.count, self.total = power, 0, torch.zeros(3)

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.count += len(preds)
        self.total += (preds**self.power).sum()

    def compute(self) -> float:
        return float(self.total.sum()) / self.count


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))


class Seen(lb.Callback):
    """What a fit was given, in its order; it pauses the fit behind one of the batches."""

    def __init__(self, pause: int | None = None) -> None:
        self.batches: list[Any] = []
        self.pause = pause

    def on_fit_begin(self, ctx: Any) -> None:
        torch.rand(3)  # what callbacks draw when a pass is begun again is put back

    on_epoch_begin = on_train_begin = on_valid_begin = on_fit_begin

    def on_train_batch_end(self, ctx: Any) -> None:
        self.batches.append((ctx.data_epoch, ctx.batch[0].tolist()))
        ctx.log_mean("first", float(ctx.batch[0].flatten()[0]))
        if len(self.batches) == self.pause:
            ctx._interrupt()

    on_valid_batch_end = on_train_batch_end


def go(
    path: Path, make: Callable[[], Any], pause: int | None, seed: int, gathers: int, **options: Any
) -> tuple[lb.Fitted, list[Any]]:
    torch.manual_seed(seed)
    np.random.seed(seed)
    metrics = [lb.metrics.MAE(), lb.metrics.R2(), Own(2), torchmetrics.MeanSquaredError()]
    trainable = lb.setup(net, nn.MSELoss(), torch.optim.Adam, metrics=[*metrics, off_by])
    seen = Seen(pause)
    callbacks = [
        lb.callbacks.AutoResume(path),
        lb.callbacks.StepHistory(grad_norm=True),
        lb.callbacks.EMA(0.9),
        seen,
        *([lb.callbacks.GradientAccumulation(gathers)] if gathers > 1 else []),
    ]
    data = make()
    is_loader = hasattr(data, "batch_sampler") or isinstance(data, Listed)
    fitted = trainable.fit(
        data,
        epochs=2,
        callbacks=callbacks,
        valid_data=DataLoader(PAIRS, 4, shuffle=True),
        accelerator=lb.Accelerator(cpu=True),
        verbose=False,
        dataloader_options={} if is_loader else {"batch_size": 3},
        **options,
    )
    return fitted, seen.batches


def off_by(preds: Tensor, target: Tensor) -> Tensor:
    return (preds - target).abs().max()


def end_of(fitted: lb.Fitted) -> list[Any]:
    """All that a fit ends with, but its times."""
    records = {name: each for name, each in fitted.records.items() if name != "profile"}
    steps = fitted.get_steps().drop(columns="seconds").to_numpy().tobytes()
    weights = {name: each.tolist() for name, each in fitted.model.state_dict().items()}
    return [weights, records, steps]


def check_everywhere(
    tmp_path: Path, make: Callable[[], Any], pauses: list[int] | None = None, **options: Any
) -> None:
    whole, batches = go(tmp_path / "whole", make, None, 0, **options)
    for pause in pauses or range(1, len(batches) + 1):
        path = tmp_path / str(pause)
        first, before = go(path, make, pause, 0, **options)
        assert first.paused
        assert path.exists()
        again, after = go(path, make, None, 100 + pause, **options)
        assert before + after == batches, f"paused behind batch {pause}"
        assert end_of(again) == end_of(whole), f"paused behind batch {pause}"
        assert not path.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_at_every_batch_of_a_run(kind: str, tmp_path: Path) -> None:
    check_everywhere(tmp_path, KINDS[kind], gathers=1)


@pytest.mark.parametrize("kind", WORKERS)
def test_at_batches_that_workers_load(kind: str, tmp_path: Path) -> None:
    check_everywhere(tmp_path, WORKERS[kind], [1, 3, 6, 9], gathers=1)


@pytest.mark.parametrize("kind", ["tensors", "map", "stream"])
def test_inside_of_a_window_of_batches(kind: str, tmp_path: Path) -> None:
    check_everywhere(tmp_path, KINDS[kind], gathers=3)


@pytest.mark.parametrize("kind", ["tensors", "map, generator", "batch sampler", "stream"])
@pytest.mark.parametrize("steps", [3, 7])
def test_inside_of_epochs_that_are_slices(kind: str, steps: int, tmp_path: Path) -> None:
    check_everywhere(tmp_path, KINDS[kind], gathers=2, steps_per_epoch=steps)


def test_inside_of_what_is_measured_before_the_first_epoch(tmp_path: Path) -> None:
    check_everywhere(tmp_path, KINDS["map"], gathers=1, valid_first=True, valid_every=2)


def test_workers_may_leave_out_what_was_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume = lb.callbacks.AutoResume

    def skipping(path: Path) -> Any:
        return resume(path, skip="index")

    monkeypatch.setattr(lb.callbacks, "AutoResume", skipping)
    check_everywhere(tmp_path, WORKERS["batch sampler"], [2, 3, 9], gathers=1)
    check_everywhere(tmp_path, WORKERS["persistent"], [2, 9], gathers=1)


def test_workers_that_leave_out_what_was_used_do_not_load_it(tmp_path: Path) -> None:
    class Marking(Dataset[Any]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> Any:
            with (tmp_path / "loaded").open("a") as file:
                file.write(f"{index}\n")
            return X[index], Y[index]

    def fit(skip: Any, pause: int | None) -> list[int]:
        (tmp_path / "loaded").unlink(missing_ok=True)
        seen = Seen(pause)
        loader = DataLoader(Marking(), 2, num_workers=1, prefetch_factor=1)
        callbacks = [lb.callbacks.AutoResume(tmp_path / "state", skip=skip), seen]
        trainable = lb.setup(net, nn.MSELoss(), torch.optim.SGD)
        trainable.fit(loader, epochs=1, callbacks=callbacks, verbose=False)
        return sorted(map(int, (tmp_path / "loaded").read_text().split()))

    fit("replay", 3)
    state = (tmp_path / "state").read_bytes()
    assert fit("replay", None) == [*range(8)]
    (tmp_path / "state").write_bytes(state)
    assert fit("index", None) == [6, 7]


def test_a_run_of_ones_own_leaves_out_the_passes_that_were_done(tmp_path: Path) -> None:
    """Two training passes an epoch, with gradients that are gathered by hand."""

    def go(path: Path, seed: int, pause: int | None = None) -> tuple[list[Any], list[Any], Any]:
        torch.manual_seed(seed)
        np.random.seed(seed)
        model = net()
        seen, between = Seen(pause), []
        loaders = [DataLoader(PAIRS, 3, shuffle=True), DataLoader(Noisy(), 4, shuffle=True)]
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        with lb.run(
            model, optimizer, lb.metrics.MAE(), [lb.callbacks.AutoResume(path), seen], 2,
            nn.MSELoss(), verbose=False,
        ) as ctx:  # fmt: skip
            for epoch in ctx.epochs():
                for number, loader in enumerate(loaders):
                    for x, y in ctx.train(loader):
                        pred = model(x)
                        loss = nn.functional.mse_loss(pred, y)
                        loss.backward()
                        if ctx.step_count % 2 == 0:
                            optimizer.step()
                            optimizer.zero_grad()
                        ctx.record(pred, y, loss)
                    between.append((epoch, number))
                for _ in ctx.valid(loaders[0]):
                    ctx.step(ctx)
        end = [each.tolist() for each in model.state_dict().values()]
        return seen.batches, between, [end, ctx.records["metrics"], ctx.step_count]

    batches, _, whole = go(tmp_path / "whole", 0)
    assert len(batches) == 22
    for pause in range(1, 22):
        before, *_ = go(tmp_path / "state", 0, pause)
        after, between, end = go(tmp_path / "state", 100 + pause)
        assert before + after == batches, f"paused behind batch {pause}"
        assert end == whole, f"paused behind batch {pause}"
        first = 1 if pause <= 11 else 2
        assert between == [(epoch, n) for epoch in range(first, 3) for n in (0, 1)]


# --- asked for elsewhere ------------------------------------------------------------------------

PLACES = [
    "on_fit_begin", "on_epoch_begin", "on_train_begin", "on_train_batch_begin",
    "on_train_batch_after_pred", "on_train_batch_after_step", "on_train_end", "on_valid_begin",
    "on_valid_batch_begin", "on_valid_end", "on_epoch_end",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("interrupts", [True, False])
def test_a_pause_may_be_asked_for_anywhere(place: str, interrupts: bool, tmp_path: Path) -> None:
    def fit(asks: bool, seed: int) -> tuple[lb.Fitted, list[Any]]:
        @lb.on(place)
        def ask(ctx: Any) -> None:
            if asks and ctx.epoch == (0 if place == "on_fit_begin" else 2):
                if interrupts:
                    ctx._interrupt()
                else:
                    ctx.stop("later", resumable=True)

        torch.manual_seed(seed)
        seen = Seen()
        trainable = lb.setup(net, nn.MSELoss(), torch.optim.Adam, metrics=lb.metrics.MAE())
        resume = lb.callbacks.AutoResume(tmp_path / "state")
        callbacks = [resume, lb.callbacks.StepHistory(), seen, ask]
        options = {"batch_size": 3}
        fitted = trainable.fit(
            [X, Y], 3, callbacks, [X, Y], verbose=False, dataloader_options=options
        )
        return fitted, seen.batches

    whole, batches = fit(False, 0)
    assert not (tmp_path / "state").exists()
    paused, before = fit(True, 0)
    assert paused.paused
    again, after = fit(False, 1)
    if not interrupts and place in ("on_valid_begin", "on_valid_batch_begin"):
        # A stop lets the validation finish here; the state is that of where it was asked for.
        before = before[: len(batches) - len(after)]
    assert before + after == batches
    assert end_of(again) == end_of(whole)


def test_what_was_asked_for_in_the_batch_of_the_state_is_kept(tmp_path: Path) -> None:
    """The rest of the epoch is left out, whether the run goes on or not."""
    seen = Seen(2)

    @lb.on("on_train_batch_end")
    def leave(ctx: Any) -> None:
        if ctx.step_count == 2:
            ctx.skip_epoch()

    def fit(seen: Seen) -> lb.Fitted:
        trainable = lb.setup(net, nn.MSELoss(), torch.optim.Adam)
        callbacks = [lb.callbacks.AutoResume(tmp_path / "state"), leave, seen]
        return trainable.fit(
            [X, Y], 2, callbacks, verbose=False, dataloader_options={"batch_size": 3}
        )

    fit(seen)
    assert form.read(tmp_path / "state")["open"]["skips_epoch"]
    rest = Seen()
    fit(rest)
    assert [data_epoch for data_epoch, _ in rest.batches] == [2] * BATCHES


# --- what cannot be exact -----------------------------------------------------------------------


class Mixing(IterableDataset[Any]):
    """Draws in between its batches from the generator that dropout draws from."""

    def __iter__(self) -> Iterator[Any]:
        for x, y in zip(X, Y, strict=True):
            yield x + torch.rand(3), y


class MixingSampler(Epochs):
    def __iter__(self) -> Iterator[int]:
        for _ in range(len(X)):
            yield int(torch.randint(len(X), ()))


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        (lambda: DataLoader(Mixing(), 3), "DataLoader"),
        (lambda: DataLoader(PAIRS, 3, sampler=MixingSampler()), "MixingSampler"),
    ],
)
def test_data_that_draws_where_the_step_draws_is_told(
    loader: Callable[[], Any], name: str, tmp_path: Path
) -> None:
    told = rf"^{name} draws between the batches from torch's generator, and so does the step"

    def fit(make: Callable[[], nn.Module], path: str = "state") -> None:
        trainable = lb.setup(make, nn.MSELoss(), torch.optim.SGD)
        trainable.fit(loader(), 1, lb.callbacks.AutoResume(tmp_path / path), verbose=False)

    with pytest.warns(DataWarning, match=told) as caught:
        fit(net)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(lambda: nn.Linear(3, 1), "other")  # whose step draws nothing


def test_data_with_fewer_batches_than_were_used_is_an_error(tmp_path: Path) -> None:
    class Lasting(Listed):
        lasts = True

        def __iter__(self) -> Iterator[Any]:
            yield from super().__iter__() if self.lasts else [(X[:3], Y[:3])]

    def fit(data: Any, *callbacks: Any) -> None:
        resume = lb.callbacks.AutoResume(tmp_path / "state")
        trainable = lb.setup(net, nn.MSELoss(), torch.optim.SGD)
        trainable.fit(data, 1, [resume, *callbacks], verbose=False)

    fit(Lasting(), Seen(3))
    data = Lasting()
    data.lasts = False
    message = "training data gave 1 batches, and the fit that goes on had used 3 of them"
    with pytest.raises(DataError, match=message):
        fit(data)
