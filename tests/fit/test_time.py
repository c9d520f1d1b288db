"""A run measured in steps and in time: slices of one continuing pass, and what ends it."""

import datetime
import itertools
import math
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lumbre as lb
from lumbre.errors import ArgumentError, DataError
from lumbre.fit.limits import seconds_of
from places import ROOT

CPU = lb.Accelerator(cpu=True)


class Ids(lb.Callback):
    """Keeps the samples of each training batch, and of each validation batch, by epoch."""

    def __init__(self) -> None:
        self.train: dict[int, list[list[int]]] = {}
        self.valid: dict[int, list[list[int]]] = {}
        self.data_epochs: list[int] = []

    def on_train_batch_begin(self, ctx: Any) -> None:
        self.train.setdefault(ctx.epoch, []).append(ctx.target.flatten().int().tolist())
        self.data_epochs.append(ctx.data_epoch)

    def on_valid_batch_begin(self, ctx: Any) -> None:
        self.valid.setdefault(ctx.epoch, []).append(ctx.target.flatten().int().tolist())

    @property
    def flat(self) -> list[list[int]]:
        return [batch for batches in self.train.values() for batch in batches]


def table(count: int = 10) -> TensorDataset:
    ids = torch.arange(float(count)).unsqueeze(1)
    return TensorDataset(ids, ids)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        number = 0
        while True:
            yield torch.tensor([float(number)]), torch.tensor([float(number)])
            number += 1


class Stream(IterableDataset[Any]):
    """A stream that ends, cut among the workers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for number in range(first, self.count, step):
            yield torch.tensor([float(number)]), torch.tensor([float(number)])


def fit(data: Any, *callbacks: Any, **options: Any) -> lb.Fitted:
    torch.manual_seed(0)
    setup = lb.setup(nn.Linear(1, 1), nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=1e-4)
    return setup.fit(data, callbacks=list(callbacks), accelerator=CPU, verbose=False, **options)


def bits(fitted: lb.Fitted) -> list[Any]:
    return [parameter.tolist() for parameter in fitted.model.parameters()]


# --- slices -------------------------------------------------------------------------------------


@given(
    count=st.integers(1, 12),
    size=st.integers(1, 5),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    slices=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_any_slicing_gives_the_same_batches_and_the_same_bits(
    count: int, size: int, drop_last: bool, shuffle: bool, slices: tuple[int, int]
) -> None:
    size = min(size, count)
    steps = slices[0] * slices[1]
    outcomes = []
    for each in (*slices, steps):
        ids = Ids()
        loader = DataLoader(table(count), size, shuffle=shuffle, drop_last=drop_last)
        fitted = fit(loader, ids, steps_per_epoch=each, max_steps=steps)
        assert len(ids.train) == steps // each
        outcomes.append((ids.flat, ids.data_epochs, bits(fitted)))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("data", [lambda: table(11), lambda: Stream(11)], ids=["table", "stream"])
def test_no_sample_is_lost_or_doubled_at_a_seam(data: Any, workers: int) -> None:
    ids = Ids()
    fit(DataLoader(data(), 4, num_workers=workers), ids, steps_per_epoch=2, max_steps=7)
    for number in range(1, max(ids.data_epochs)):  # the last one may be open
        taken = [b for b, e in zip(ids.flat, ids.data_epochs, strict=True) if e == number]
        assert sorted(itertools.chain(*taken)) == list(range(11))
    assert [len(batches) for batches in ids.train.values()] == [2, 2, 2, 1]


def test_an_endless_loader_is_begun_once() -> None:
    ids = Ids()
    fitted = fit(DataLoader(Endless(), 2), ids, steps_per_epoch=3, epochs=4)
    assert list(itertools.chain(*ids.flat)) == list(range(24))
    assert set(ids.data_epochs) == {1}
    assert len(fitted.records["metrics"]["train"]) == 4


def test_an_epoch_of_its_own_length_is_a_pass() -> None:
    whole, sliced = Ids(), Ids()
    plain = fit(DataLoader(table(), 4, shuffle=True), whole, epochs=3)
    same = fit(DataLoader(table(), 4, shuffle=True), sliced, epochs=3, steps_per_epoch=3)
    assert whole.train == sliced.train
    assert bits(plain) == bits(same)


def test_a_skipped_epoch_leaves_the_data_where_they_stand() -> None:
    ids = Ids()
    leave = lb.on("on_train_batch_end")(
        lambda ctx: ctx.skip_epoch() if ctx.epoch == 1 and ctx.iter == 2 else None
    )
    fit(DataLoader(table(12), 1), ids, leave, steps_per_epoch=4, epochs=2)
    assert ids.train == {1: [[0], [1]], 2: [[2], [3], [4], [5]]}


def test_the_iterator_is_let_go_with_the_fit() -> None:
    alive: list[str] = []

    class Batches:
        def __iter__(self) -> Iterator[Any]:
            try:
                alive.append("begun")
                while True:
                    yield torch.ones(2, 1), torch.ones(2, 1)
            finally:
                alive.append("closed")

    batches = Batches()
    lb.as_dataloader.register(Batches, lambda data, **options: data)
    fit(batches, steps_per_epoch=2, epochs=2)
    assert alive == ["begun", "closed"]


def test_each_object_is_told_its_pass_once() -> None:
    told: list[tuple[str, int]] = []

    class Sampler(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch: int) -> None:
            told.append(("sampler", epoch))

    class Data(TensorDataset):
        def set_epoch(self, epoch: int) -> None:
            told.append(("data", epoch))

    data = Data(*table(4).tensors)
    fit(DataLoader(data, 2, sampler=Sampler(data)), epochs=2)
    assert told == [("sampler", 0), ("data", 0), ("sampler", 1), ("data", 1)]
    told.clear()
    fit(DataLoader(data, 2, sampler=Sampler(data)), steps_per_epoch=3, epochs=2)
    assert [epoch for who, epoch in told if who == "data"] == [0, 1, 2]


class Once:
    def __init__(self, batches: int, later: int = 0) -> None:
        self.given = [batches, later]

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.given.pop(0) if self.given else 0):
            yield torch.ones(2, 1), torch.ones(2, 1)


lb.as_dataloader.register(Once, lambda data, **options: data)


@pytest.mark.parametrize("batches", [0, 2])
def test_data_that_give_no_batch_are_an_error_and_no_loop_for_ever(batches: int) -> None:
    with pytest.raises(DataError, match="the training data gave no batch"):
        fit(Once(batches), steps_per_epoch=5, epochs=2)


# --- validation ---------------------------------------------------------------------------------


def test_validation_has_its_steps_and_its_epochs() -> None:
    ids = Ids()
    fitted = fit(
        DataLoader(table(), 5),
        ids,
        epochs=5,
        valid_data=DataLoader(Endless(), 2),
        valid_every=2,
        valid_steps=3,
    )
    assert list(ids.valid) == [2, 4, 5]
    assert ids.valid[4] == [[0, 1], [2, 3], [4, 5]]
    assert [bool(values) for values in fitted.records["metrics"]["valid"]] == [
        False,
        True,
        False,
        True,
        True,
    ]


def test_the_epoch_in_which_the_steps_end_is_validated() -> None:
    ids = Ids()
    fit(
        DataLoader(table(), 5),
        ids,
        valid_data=DataLoader(table(2), 2),
        valid_every=100,
        steps_per_epoch=3,
        max_steps=7,
    )
    assert list(ids.valid) == [3]


def test_early_stopping_counts_the_epochs_that_are_validated() -> None:
    stop = lb.callbacks.EarlyStopping("valid_loss", patience=2, min_delta=1e9)
    fitted = fit(
        DataLoader(table(), 5), stop, epochs=50, valid_data=DataLoader(table(), 5), valid_every=3
    )
    assert len(fitted.records["metrics"]["train"]) == 9


def test_evaluate_and_predict_take_steps() -> None:
    fitted = fit(DataLoader(table(), 5), epochs=1)
    stream = DataLoader(Endless(), 4)
    assert fitted.predict(stream, steps=3, accelerator=CPU).shape == (12, 1)
    assert fitted.predict(
        table(), steps=2, accelerator=CPU, dataloader_options={"batch_size": 3}
    ).shape == (6, 1)
    once = fitted.evaluate(DataLoader(table(8), 4), accelerator=CPU)
    assert fitted.evaluate(stream, steps=2, accelerator=CPU).metrics == once.metrics
    with pytest.raises(ArgumentError, match="predict: steps is a whole number from 1; got 0"):
        fitted.predict(stream, steps=0)


# --- the end ------------------------------------------------------------------------------------


def test_steps_end_the_run_in_order_and_as_no_pause() -> None:
    seen: list[Any] = []
    look = lb.on("on_fit_begin")(lambda ctx: seen.append((ctx.max_epochs, ctx.total_steps)))
    fitted = fit(DataLoader(table(), 4), look, max_steps=7)
    assert [values["loss"] > 0 for values in fitted.records["metrics"]["train"]] == [True] * 3
    assert (fitted.stop_reason, fitted.paused) == (None, False)
    assert seen == [(None, 7)]


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({"epochs": 3}, 9),
        ({"epochs": 3, "steps_per_epoch": 5}, 15),
        ({"epochs": 3, "max_steps": 4}, 4),
        ({"max_time": 60}, None),
        ({"max_time": 60, "max_steps": 5}, 5),
    ],
)
def test_the_steps_of_the_whole_run_are_known_where_they_can_be(
    options: dict[str, Any], total: int | None
) -> None:
    seen: list[Any] = []

    def look(ctx: Any) -> None:
        seen.append(ctx.total_steps)
        ctx.stop()

    fit(DataLoader(table(), 4), lb.on("on_train_begin")(look), **options)
    assert seen == [total]


def test_time_ends_the_epoch_in_order_and_is_a_pause() -> None:
    events: list[str] = []

    class Clock(lb.Callback):
        def on_train_batch_end(self, ctx: Any) -> None:
            if ctx.step_count == 5:
                ctx._move_clock(3600.0)

        def on_valid_end(self, ctx: Any) -> None:
            events.append(f"valid {ctx.epoch}")

        def on_epoch_end(self, ctx: Any) -> None:
            events.append(f"epoch {ctx.epoch}")

    fitted = fit(
        DataLoader(table(), 4),
        Clock(),
        valid_data=DataLoader(table(), 4),
        valid_every=10,
        max_time="1h",
    )
    assert events == ["epoch 1", "valid 2", "epoch 2"]
    assert fitted.paused
    assert fitted.stop_reason == "max_time: epoch 2, iteration 2, training"


def test_a_stop_is_final_unless_it_is_said_to_be_a_pause() -> None:
    for options, paused in (({}, False), ({"resumable": True}, True)):
        stop = lb.on("on_train_batch_end")(lambda ctx, o=options: ctx.stop("enough", **o))  # type: ignore[misc]
        fitted = fit(DataLoader(table(), 4), stop, epochs=2)
        assert fitted.paused is paused


def test_a_stop_outside_of_any_callback_is_credited_to_none() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with lb.run(
        model, optimizer, epochs=2, loss=nn.MSELoss(), accelerator=CPU, verbose=False
    ) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(DataLoader(table(), 4)):
                ctx.step(ctx)
                ctx.stop("by hand")
    assert ctx.stop_reason == "by hand"


def test_a_loop_of_ones_own_is_measured_in_the_same_way() -> None:
    loader, held, ids = DataLoader(table(), 4), DataLoader(Endless(), 2), Ids()
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    options: dict[str, Any] = {
        "steps_per_epoch": 2,
        "max_steps": 7,
        "valid_steps": 1,
        "valid_every": 3,
    }
    with lb.run(
        model,
        optimizer,
        callbacks=ids,
        loss=nn.MSELoss(),
        accelerator=CPU,
        verbose=False,
        **options,
    ) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(loader):
                ctx.step(ctx)
            for _ in ctx.valid(held):
                ctx.step(ctx)
    assert [len(batches) for batches in ids.train.values()] == [2, 2, 2, 1]
    assert ids.flat[:4] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]
    assert ids.valid == {3: [[0, 1]], 4: [[0, 1]]}


# --- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["steps_per_epoch", "valid_steps", "valid_every", "max_steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "three", True])
def test_a_count_is_a_whole_number_from_one(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"{name} is a whole number from 1; got {value!r}"):
        fit(DataLoader(table(), 4), **{name: value})


def test_epochs_without_a_number_need_a_limit() -> None:
    for epochs in (None, (2, None)):
        with pytest.raises(ArgumentError, match="Pass max_steps= or max_time="):
            fit(DataLoader(table(), 4), epochs=epochs)
    fit(DataLoader(table(), 4), epochs=None, max_steps=1)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (90, 90.0),
        (0.5, 0.5),
        ("90s", 90.0),
        ("2h30m", 9000.0),
        ("1.5h", 5400.0),
        ("1d 2h", 93600.0),
        (datetime.timedelta(minutes=2), 120.0),
    ],
)
def test_a_time_is_seconds_a_timedelta_or_text(time: Any, seconds: float) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize("time", ["soon", "", "10", "2h30", "h", 0, -1, math.nan, True, [1], "0s"])
def test_any_other_time_is_refused(time: Any) -> None:
    with pytest.raises(ArgumentError, match="max_time is a time above 0"):
        fit(DataLoader(table(), 4), max_time=time)


def test_that_max_steps_counts_batches_is_told_beside_accumulation() -> None:
    accumulation = lb.callbacks.GradientAccumulation(4)
    with pytest.warns(lb.LumbreWarning, match="counts training batches.*will be some 3"):
        fit(DataLoader(table(), 1), accumulation, max_steps=10)


def test_a_window_ends_with_the_epoch() -> None:
    steps: list[int] = []
    look = lb.on("on_train_batch_after_step")(lambda ctx: steps.append(ctx.step_count))
    accumulation = lb.callbacks.GradientAccumulation(4)
    fit(DataLoader(table(), 2), accumulation, look, steps_per_epoch=6, epochs=2)
    assert steps == [4, 6, 10, 12]


def test_a_fit_that_goes_on_goes_on_in_its_pass_over_the_data(tmp_path: Path) -> None:
    resume = lb.callbacks.AutoResume(tmp_path / "state.safetensors")

    class Killed(Exception):
        pass

    def kill(ctx: Any) -> None:
        raise Killed

    crash = lb.on("on_epoch_begin", epochs=(2, None))(kill)
    with pytest.raises(Killed):
        fit(DataLoader(table(), 2), resume, crash, steps_per_epoch=3, epochs=3)
    ids = Ids()
    fit(DataLoader(table(), 2), resume, ids, steps_per_epoch=3, epochs=3)
    assert ids.train == {2: [[6, 7], [8, 9], [0, 1]], 3: [[2, 3], [4, 5], [6, 7]]}


def test_what_begins_anew_where_a_fit_goes_on_is_told(tmp_path: Path) -> None:
    saves = lb.callbacks.ModelCheckpoint(tmp_path / "last")
    fit(DataLoader(table(), 2), saves, steps_per_epoch=3, epochs=1)
    resume = lb.callbacks.ResumeFromCheckpoint(tmp_path / "last")
    ids = Ids()
    with pytest.warns(lb.LumbreWarning, match="begins a new pass"):
        fit(DataLoader(table(), 2), resume, ids, steps_per_epoch=3, epochs=2)
    assert ids.train == {2: [[0, 1], [2, 3], [4, 5]]}


def test_the_example_ends_as_the_loop_of_ones_own_does() -> None:
    example = runpy.run_path(str(ROOT / "examples" / "stream.py"))
    fitted = example["train"](*example["make_data"]())
    ctx = example["train_by_loop"](*example["make_data"]())
    assert ctx.step_count == 3000
    assert bits(fitted) == [parameter.tolist() for parameter in ctx.model.parameters()]
    assert fitted.records["metrics"] == ctx.records["metrics"]
    assert len(fitted.records["metrics"]["valid"]) == 6
    assert fitted.records["metrics"]["valid"][-1]["loss"] < 0.02


class _Late(lb.Callback):
    """Moves the clock past the end in the fourth step."""

    def on_train_batch_end(self, ctx: Any) -> None:
        if ctx.step_count == 4:
            ctx._move_clock(3600.0)


def test_a_fit_goes_on_from_a_pause(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    resume = lb.callbacks.AutoResume(path)
    loader = DataLoader(table(), 4)
    first = fit(loader, _Late(), resume, epochs=4, max_time="1h")
    assert first.paused
    assert len(first.records["metrics"]["train"]) == 2
    assert path.exists()
    second = fit(loader, resume, epochs=4, max_time="1h")
    assert (second.paused, second.stop_reason) == (False, None)
    assert len(second.records["metrics"]["train"]) == 4
    assert not path.exists()
