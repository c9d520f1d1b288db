"""EarlyStopping: when it stops, what it says, and what it refuses to watch."""

import copy
import json
import math
import pickle
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lumbre as lb
from lumbre.callbacks import EarlyStopping
from lumbre.errors import ArgumentError, MonitorError, MonitorWarning
from lumbre.text import format_value
from runs import Scale, Trace, at, fit, numbered


def scripted(values: list[float]) -> type[nn.Module]:
    """A model whose validation loss is the next of these values each epoch."""

    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(Tensor([1.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            return 0 * pred.mean() + values[self.ctx.epoch - 1]

    return Scripted


def epochs_run(values: list[float], epochs: Any = None, **options: Any) -> int:
    epochs = len(values) if epochs is None else epochs
    stopping = EarlyStopping(**options)
    fitted = fit(scripted(values), stopping, data=numbered(1), epochs=epochs)
    return len(fitted.records["metrics"]["train"])


NAN = math.nan


@pytest.mark.parametrize(
    ("values", "options", "stops_at"),
    [
        ([5, 4, 3, 2], {}, 4),
        ([5, 6, 1, 1], {}, 2),
        ([5, 5, 1, 1], {}, 2),
        ([5, 6, 1, 1], {"patience": 1}, 2),
        ([5, 6, 7, 1, 1], {"patience": 2}, 3),
        ([5, 6, 4, 6, 7, 1], {"patience": 2}, 5),
        ([5, 4.5, 4.2, 3, 3], {"min_delta": 0.5}, 2),
        ([5, 4.4, 3.8, 3.5], {"min_delta": 0.5}, 4),
        ([1, 2, 3, 2], {"mode": "max"}, 4),
        ([1, 2, 1, 9], {"mode": "max"}, 3),
        ([-3, 2, -1, 1, 0], {"mode": "zero"}, 4),
        ([5, 4, 3], {"baseline": 4.5}, 1),
        ([4, 3, 2], {"baseline": 4.5}, 3),
        ([5, 4, 3], {"baseline": 4.5, "patience": 2}, 3),
    ],
)
def test_it_stops_at_the_patience_th_epoch_without_improvement(
    values: list[float], options: dict[str, Any], stops_at: int
) -> None:
    assert epochs_run(values, **options) == stops_at


@pytest.mark.parametrize(
    ("values", "options", "stops_at"),
    [
        ([5, NAN, 4], {}, 2),
        ([5, NAN, 4, 3], {"patience": 2}, 4),
        ([5, NAN, NAN, 3], {"patience": 2}, 3),
        ([NAN, 3, 2], {}, 3),
        ([NAN, NAN, 2], {}, 2),
        ([NAN, 5], {"baseline": 4.0, "mode": "max"}, 1),
    ],
)
@pytest.mark.filterwarnings("ignore::lumbre.errors.NonFiniteLossWarning")
def test_nan_is_never_an_improvement(
    values: list[float], options: dict[str, Any], stops_at: int
) -> None:
    assert epochs_run(values, **options) == stops_at


def test_it_never_stops_before_min_epochs_and_patience_counts_on() -> None:
    assert epochs_run([5, 6, 7, 8, 9, 9], epochs=(4, 6)) == 4
    assert epochs_run([5, 6, 7, 8, 1, 9], epochs=(5, 6)) == 6
    assert epochs_run([5, 6, 7, 1, 1, 9], epochs=(3, 6), patience=2) == 3
    assert epochs_run([5, 6, 7, 1, 2, 3], epochs=(4, 6), patience=2) == 6


def test_on_early_stopping_fires_after_the_epochs_end_and_the_fit_ends() -> None:
    trace = Trace()
    fitted = fit(scripted([5, 6, 7]), EarlyStopping(), trace, data=numbered(1), epochs=3)
    assert trace.events[-3:] == ["on_epoch_end", "on_early_stopping", "on_fit_end"]
    assert trace.events.count("on_early_stopping") == 1
    assert trace.events.count("on_epoch_end") == 2
    assert fitted.stop_reason == (
        "EarlyStopping: valid_loss has not improved for 1 epoch; the best is 5.0000 of epoch 1"
    )


def test_on_early_stopping_is_its_own_another_stop_does_not_fire_it() -> None:
    trace = Trace()
    fit(
        scripted([5, 4]),
        EarlyStopping(),
        at("on_epoch_end", lambda ctx: ctx.stop("me")),
        trace,
        data=numbered(1),
    )
    assert "on_early_stopping" not in trace.events


def test_it_says_one_line_when_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    fit(scripted([5, 6, 7]), EarlyStopping(), data=numbered(1), epochs=3, verbose=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "arly" in line]
    assert len(said) == 1
    assert said[0].startswith("Early stopping at epoch 2")
    assert "valid_loss has not improved for 1 epoch" in said[0]
    fit(scripted([5, 6, 7]), EarlyStopping(), data=numbered(1), epochs=3, verbose=False)
    assert capsys.readouterr().out == ""


def test_it_sees_what_the_other_callbacks_of_the_epochs_end_log() -> None:
    class Logs(lb.Callback):
        logs = ("score",)
        weight = 100

        def on_epoch_end(self, ctx: Any) -> None:
            ctx.log_metric("score", -ctx.epoch, set="valid")

    stopping = EarlyStopping("valid_score", mode="max")
    fitted = fit(scripted([1] * 5), stopping, Logs(), data=numbered(1), epochs=5)
    assert fitted.stop_reason is not None
    assert "valid_score" in fitted.stop_reason
    assert len(fitted.records["metrics"]["train"]) == 2


def test_it_watches_the_training_set_where_it_is_told_to() -> None:
    stopping = EarlyStopping("train_loss")
    fitted = fit(scripted([5, 6]), stopping, data=numbered(1), epochs=2, valid_data=None)
    assert fitted.stop_reason is not None


def test_an_epoch_that_measured_nothing_counts_for_nothing() -> None:
    @lb.on("on_train_end", epochs=(2, 3))
    def skip(ctx: Any) -> None:
        ctx.skip_epoch()

    fitted = fit(scripted([5, 9, 9, 4, 6]), EarlyStopping(), skip, data=numbered(1), epochs=5)
    assert len(fitted.records["metrics"]["train"]) == 5


def test_each_fit_begins_anew() -> None:
    stopping = EarlyStopping()
    for _ in range(2):
        fitted = fit(scripted([5, 4, 3, 9, 9]), stopping, data=numbered(1), epochs=5)
        assert len(fitted.records["metrics"]["train"]) == 4


# --- what it refuses ----------------------------------------------------------------------------


def test_a_monitor_of_the_validation_without_validation_is_refused_when_the_fit_begins() -> None:
    trace = Trace()
    with pytest.raises(MonitorError) as caught:
        fit(nn.Flatten and scripted([1]), EarlyStopping(), trace, epochs=1, valid_data=None)
    assert isinstance(caught.value, KeyError)
    for words in ('EarlyStopping cannot watch "valid_loss"', "valid_data=", 'monitor="train_loss"'):
        assert words in str(caught.value)
    assert "on_epoch_begin" not in trace.events


def test_an_unknown_name_is_warned_about_at_once_and_an_error_after_the_first_epoch() -> None:
    trace = Trace()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(MonitorError) as error:
            fit(
                scripted([1, 2]),
                EarlyStopping("valid_accc"),
                trace,
                metrics=type("Acc", (lb.metrics.MAE,), {"abbrev": "acc"})(),
            )
    (warning,) = caught
    assert issubclass(warning.category, MonitorWarning)
    assert 'watches "valid_accc", which is no metric of this run' in str(warning.message)
    assert 'Did you mean "valid_acc"?' in str(warning.message)
    assert trace.events.count("on_epoch_end") == 1
    first, second = str(error.value).splitlines()
    assert first == (
        'EarlyStopping cannot watch "valid_accc": after epoch 1 the records are '
        "train_loss, train_acc, valid_loss, valid_acc."
    )
    assert second == 'Did you mean "valid_acc"?'


def test_a_name_that_a_callback_says_it_logs_is_not_warned_about() -> None:
    class Logs(lb.Callback):
        logs = ("valid_score",)

        def on_epoch_end(self, ctx: Any) -> None:
            ctx.log_metric("score", 1, set="valid")

    fit(scripted([1, 2]), EarlyStopping("valid_score"), Logs(), data=numbered(1))


def test_an_array_cannot_be_watched() -> None:
    each = lb.metric("Each", update=lambda self, preds, target: None, compute=lambda self: [1, 2])
    with pytest.raises(MonitorError, match=r'"train_each": it is an array of shape \(2,\)'):
        fit(scripted([1, 2]), EarlyStopping("train_each"), metrics=each())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"monitor": "loss"}, "monitor is a set and the name of a record.*got 'loss'"),
        ({"monitor": "test_loss"}, "got 'test_loss'"),
        ({"monitor": "valid_"}, "got 'valid_'"),
        ({"monitor": None}, "got None"),
        ({"mode": "least"}, 'mode is "min", "max" or "zero"; got \'least\''),
        ({"min_delta": -1}, "min_delta is a number from 0; got -1"),
        ({"min_delta": NAN}, "min_delta is a number from 0; got nan"),
        ({"min_delta": "0"}, "min_delta is a number from 0; got '0'"),
        ({"baseline": NAN}, "baseline is a number; got nan"),
        ({"baseline": "0.5"}, "baseline is a number; got '0.5'"),
        ({"patience": True}, "patience is a whole number from 0; got True"),
        ({"patience": -1}, "patience is a whole number from 0; got -1"),
        ({"patience": 1.5}, "patience is a whole number from 0; got 1.5"),
    ],
)
def test_arguments_are_checked_at_construction(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        EarlyStopping(**options)


@pytest.mark.parametrize("best", [5.0, 0.03125, 4e-5, 1234567.0, -2.5e-9, math.inf, NAN])
@pytest.mark.filterwarnings("ignore::lumbre.errors.NonFiniteLossWarning")
def test_the_reason_writes_the_best_value_as_the_records_are_written(best: float) -> None:
    fitted = fit(scripted([best, NAN]), EarlyStopping(), data=numbered(1), epochs=2)
    as_tensor = float(torch.tensor(best))
    assert fitted.stop_reason is not None
    assert fitted.stop_reason.endswith(f"the best is {format_value(as_tensor)} of epoch 1")


def test_an_argument_may_be_changed_between_fits() -> None:
    stopping = EarlyStopping(patience=1)
    stopping.patience = 3
    fitted = fit(scripted([5, 6, 7, 8, 9]), stopping, data=numbered(1), epochs=5)
    assert len(fitted.records["metrics"]["train"]) == 4
    stopping.patience = -1
    with pytest.raises(ArgumentError, match="patience is a whole number from 0; got -1"):
        fit(scripted([5]), stopping, data=numbered(1))


def test_of_two_the_one_that_asked_for_the_stop_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    both = (EarlyStopping(patience=1), EarlyStopping("train_loss", patience=9))
    fit(scripted([5, 6, 7]), *both, data=numbered(1), epochs=3, verbose=True)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Early")]
    assert len(said) == 1
    assert "valid_loss" in said[0]


def test_within_a_pass_it_sees_the_value_up_to_now_and_computes_no_other() -> None:
    computed: list[str] = []

    def made(name: str) -> Any:
        def compute(self: Any) -> float:
            computed.append(name)
            return float(self.count)

        def update(self: Any, preds: Any, target: Any) -> None:
            self.count += 1

        start = {"initialize": lambda self: setattr(self, "count", 0)}
        return lb.metric(name, abbrev=name, update=update, compute=compute, **start)()

    stopping = EarlyStopping("train_mine", mode="max")
    best: list[Any] = []

    @lb.on("on_train_batch_end", weight=1)
    def look(ctx: Any) -> None:
        computed.clear()
        ctx.call_callbacks("on_epoch_end")
        best.append((stopping.state_dict()["best"], *computed))

    metrics = [made("mine"), made("other")]
    fit(Scale, stopping, look, data=numbered(3), epochs=1, metrics=metrics)
    assert best == [(1.0, "mine"), (2.0, "mine"), (3.0, "mine")]


# --- its state ----------------------------------------------------------------------------------


def test_its_state_is_plain_and_tells_what_it_has_seen() -> None:
    stopping = EarlyStopping(baseline=9.0)
    own = {"monitor": "valid_loss", "mode": "min"}
    assert stopping.state_dict() == {"best": 9.0, "best_epoch": 0, "waited": 0, "why": "", **own}
    fit(scripted([5, 4.5, 6]), stopping, data=numbered(1), epochs=3)
    state = stopping.state_dict()
    assert state.pop("why").startswith("valid_loss has not improved")
    assert state == {"best": 4.5, "best_epoch": 2, "waited": 1, **own}


@pytest.mark.filterwarnings("ignore::lumbre.errors.NonFiniteLossWarning")
@given(
    values=st.lists(st.sampled_from([1.0, 2.0, 3.0, 0.1, math.inf, -math.inf, NAN]), min_size=2),
    cut=st.integers(1, 9),
    patience=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_a_fit_taken_up_again_ends_as_one_never_interrupted(
    values: list[float], cut: int, patience: int
) -> None:
    cut = min(cut, len(values) - 1)
    whole = EarlyStopping(patience=patience)
    run = fit(scripted(values), whole, data=numbered(1), epochs=len(values))
    first = EarlyStopping(patience=patience)
    part = fit(scripted(values[:cut]), first, data=numbered(1), epochs=cut)
    if part.stop_reason is not None:
        assert part.stop_reason == run.stop_reason
        return
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    second = EarlyStopping(patience=patience)
    resume = lb.on("on_fit_begin", after="EarlyStopping")(lambda ctx: second.load_state_dict(state))
    rest = fit(scripted(values[cut:]), second, resume, data=numbered(1), epochs=len(values) - cut)
    assert len(rest.records["metrics"]["train"]) + cut == len(run.records["metrics"]["train"])
    assert (rest.stop_reason is None) == (run.stop_reason is None)
    assert _without_epochs(second) == _without_epochs(whole)


def _without_epochs(stopping: EarlyStopping) -> dict[str, Any]:
    """Its state, without the numbers of epochs: those of a second fit begin at 1."""
    state = stopping.state_dict()
    del state["best_epoch"]
    return {**state, "why": state["why"].split(" of epoch")[0]}


def test_a_state_that_is_none_is_refused() -> None:
    stopping = EarlyStopping()
    for state in ({}, {**stopping.state_dict(), "waited": -1}, {"best": NAN}):
        with pytest.raises(ArgumentError, match="cannot go on from this state"):
            stopping.load_state_dict(state)
    assert stopping.state_dict()["best"] is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])  # noqa: S301
def test_a_copy_has_its_state_and_goes_on_by_itself(copied: Any) -> None:
    stopping = EarlyStopping(patience=2, mode="max", baseline=1.0)
    fit(scripted([5, 6, 7]), stopping, data=numbered(1), epochs=3)
    seen = stopping.state_dict()
    assert seen["best"] == 7.0
    twin = copied(stopping)
    assert repr(twin) == repr(stopping)
    assert twin.state_dict() == seen
    fit(scripted([9]), twin, data=numbered(1), epochs=1)
    assert (twin.state_dict()["best"], stopping.state_dict()) == (9.0, seen)
