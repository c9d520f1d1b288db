"""`Monitor`, by which callbacks written in Python watch a value of the records."""

import warnings
from typing import Any

import pytest
from torch.optim.lr_scheduler import ReduceLROnPlateau

import lumbre as lb
from lumbre._core import Monitor
from lumbre.errors import ArgumentError, MonitorError, MonitorWarning
from runs import Scale, at, fit


def test_it_gives_the_value_of_the_epoch_under_way() -> None:
    monitor, seen = Monitor("Me", "train_loss"), []
    look = at("on_epoch_end", lambda ctx: seen.append(monitor.value(ctx)), nth=1)
    early = at("on_epoch_begin", lambda ctx: seen.append(monitor.value(ctx)), nth=1)
    fit(Scale, early, look)
    assert seen == [None, 3.0]


def test_it_asks_for_what_it_watches() -> None:
    monitor = Monitor("Me", "valid_loss")
    with pytest.raises(MonitorError, match='Me cannot watch "valid_loss": this fit has no valid'):
        fit(Scale, at("on_fit_begin", monitor.check), valid_data=None)
    wrong = Monitor("Me", "train_los")
    with pytest.raises(MonitorError, match="records are train_loss, valid_loss"):
        fit(Scale, at("on_epoch_end", wrong.value))


C = lb.callbacks


@pytest.mark.parametrize(
    ("make", "reads"),
    [
        (lambda path, **mode: C.EarlyStopping("valid_r2", **mode), True),
        (lambda path, **mode: C.KeepBestModel("valid_r2", **mode), True),
        (lambda path, **mode: C.ModelCheckpoint(path, "valid_r2", keep=1, **mode), True),
        (lambda path, **mode: C.ModelCheckpoint(path, "valid_r2", True, **mode), True),
        (lambda path, **mode: C.ModelCheckpoint(path, "valid_r2", **mode), False),
        (
            lambda path, **mode: C.LRScheduler(ReduceLROnPlateau, monitor="valid_r2", **mode),
            True,
        ),
    ],
)
@pytest.mark.parametrize("given", ["min", None, "max"])
def test_a_metric_that_is_watched_the_wrong_way_round_is_warned_about(
    make: Any, reads: bool, given: str | None, tmp_path: Any
) -> None:
    callback = make(f"{tmp_path}/", **({} if given is None else {"mode": given}))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit(Scale, callback, metrics=[lb.metrics.R2()])
    said = [str(each.message) for each in seen if each.category is MonitorWarning]
    name = type(callback).__name__
    wrong = (
        f'{name} takes a lower valid_r2 for the better one, and the higher one is. Pass mode="max".'
    )
    assert said == ([wrong] if reads and given != "max" else [])


def test_it_compares() -> None:
    assert Monitor("Me", "train_loss", "min", 0.5).improves(1.0, 2.0)
    assert not Monitor("Me", "train_loss", "min", 1.0).improves(1.0, 2.0)
    assert Monitor("Me", "train_loss", mode="max").improves(2.0, 1.0)
    assert not Monitor("Me", "train_loss").improves(float("nan"), 1.0)


@pytest.mark.parametrize(
    "arguments", [("loss",), ("train_loss", "best"), ("train_loss", "min", -1)]
)
def test_it_refuses_what_it_cannot_watch(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ArgumentError, match="Me: "):
        Monitor("Me", *arguments)  # type: ignore[arg-type]


def test_it_shows_what_it_watches() -> None:
    assert repr(Monitor("Me", "valid_acc", mode="max")) == "<watches valid_acc>"
