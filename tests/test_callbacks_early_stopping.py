"""EarlyStopping: when it stops, what it says, and what it refuses to watch."""

import math
import warnings
from typing import Any

import pytest
from torch import Tensor, nn

import lumbre as lb
from lumbre.callbacks import EarlyStopping
from lumbre.errors import ArgumentError, MonitorError, MonitorWarning
from runs import Trace, at, fit, numbered


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
        ({"min_delta": -1}, "min_delta is 0 or more; got -1"),
        ({"min_delta": NAN}, "min_delta is 0 or more; got nan"),
        ({"patience": -1}, "patience is a whole number from 0; got -1"),
        ({"patience": 1.5}, "patience is a whole number from 0; got 1.5"),
    ],
)
def test_arguments_are_checked_at_construction(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        EarlyStopping(**options)
