"""Progress: a bar in a terminal, a line an epoch, and how seldom it is drawn."""

import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import lumbre as lb
from lumbre.errors import ArgumentTypeError
from runs import Scale, at, fit, numbered


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in the place of stderr; a fixture cannot, pytest's capture comes after it."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def many(count: int) -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader([(torch.ones(1), torch.ones(1))] * count, batch_size=1)


def test_a_bar_shows_the_pass_its_length_and_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    fit(Scale, data=many(3), metrics=lb.metrics.MAE(), verbose=True, epochs=2)
    drawn = terminal.getvalue()
    for words in ("epoch 1/2 train", "epoch 1/2 valid", "epoch 2/2 train", "1/3", "loss", "mae"):
        assert words in drawn


def test_evaluate_and_predict_have_a_bar_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    fitted = fit()
    fitted.evaluate(numbered(2), verbose=True)
    fitted.predict(numbered(2), verbose=True)
    assert "evaluate" in terminal.getvalue()
    assert "predict" in terminal.getvalue()
    assert "epoch" not in terminal.getvalue()


def test_the_bar_is_drawn_far_less_often_than_there_are_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal_of(monkeypatch)
    draws = []
    draw = lb.callbacks.Progress.draw

    def count(self: Any, ctx: Any) -> None:
        draws.append(ctx.iter)
        draw(self, ctx)

    monkeypatch.setattr(lb.callbacks.Progress, "draw", count)
    fit(Scale, data=many(400), verbose=True, epochs=1, valid_data=None)
    assert draws[0] == 1
    assert len(draws) < 100


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.ones(1), torch.ones(1))] * 3)


class Unsure(Stream):
    def __len__(self) -> int:
        raise NotImplementedError


@pytest.mark.parametrize("kind", [Stream, Unsure])
def test_a_loader_without_a_length_has_a_bar_too(
    monkeypatch: pytest.MonkeyPatch, kind: type[Stream]
) -> None:
    terminal = terminal_of(monkeypatch)
    data = torch.utils.data.DataLoader(kind())
    fit(Scale, data=data, verbose=True, epochs=1)
    assert "epoch 1/1 train" in terminal.getvalue()


def test_without_a_terminal_there_are_lines_alone(capsys: pytest.CaptureFixture[str]) -> None:
    fit(verbose=True, epochs=1)
    printed = capsys.readouterr()
    assert printed.out == "epoch 1/1 · train loss 3.0000 · valid loss 2.0000\n"
    assert printed.err == ""


@pytest.mark.parametrize("shown", [True, False])
def test_verbose_none_shows_progress_where_somebody_looks(
    monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    output = Terminal() if shown else io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    fit(verbose=None, epochs=1)
    assert bool(output.getvalue()) == shown


def test_the_bar_goes_when_the_run_ends_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal_of(monkeypatch)
    bars = []

    def look(ctx: Any) -> None:
        bars.append(next(c for c in ctx.callbacks if isinstance(c, lb.callbacks.Progress)))
        assert bars[0]._bar is not None
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(Scale, at("on_train_batch_end", look), verbose=True)
    assert bars[0]._bar is None


def test_epochs_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    fit(verbose=True, epochs=10, valid_data=None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("epoch  1/10 · train loss")
    assert lines[9].startswith("epoch 10/10 · train loss")


def test_vectors_and_matrices_are_left_out_of_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Shown(lb.Metric):
        def update(self, preds: Any, target: Any) -> None: ...

        def compute(self) -> Any:
            return torch.tensor([0.25, 0.75])

        def format(self, value: Any) -> str:
            return f"{value[0]:.2f}/{value[1]:.2f}"

    class Hidden(Shown):
        format = lb.Metric.format

    fit(metrics=[Hidden(), Shown()], verbose=True)
    line = capsys.readouterr().out.splitlines()[0]
    assert "shown 0.25/0.75" in line
    assert "hidden" not in line


def test_an_epoch_that_measured_nothing_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    fit(Scale, lb.on("on_epoch_begin")(lambda ctx: ctx.skip_epoch()), verbose=True, epochs=1)
    assert capsys.readouterr().out == "epoch 1/1\n"


def test_ctrl_c_is_said_when_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(ctx: Any) -> None:
        raise KeyboardInterrupt

    for verbose in (True, False):
        fit(Scale, at("on_train_batch_end", interrupt), verbose=verbose)
        printed = capsys.readouterr().out
        assert ("Interrupted (epoch 1, iteration 1, training)." in printed) == verbose


def test_what_a_callback_prints_takes_the_bar_away_and_stays_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = terminal_of(monkeypatch)
    monkeypatch.setattr(sys, "stdout", terminal)
    fit(Scale, at("on_train_batch_end", lambda ctx: print("two", "words")), verbose=True)
    assert sys.stdout is terminal
    assert sys.stderr is terminal
    assert "\rtwo words\n" in terminal.getvalue(), "the bar is wiped, and once a line only"


def test_an_exception_gives_the_streams_back(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    stdout = sys.stdout

    def boom(ctx: Any) -> None:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fit(Scale, at("on_train_batch_end", boom), verbose=True)
    assert sys.stdout is stdout
    assert sys.stderr is terminal


@pytest.mark.parametrize("value", ["no", "", 2, [], torch.ones(2)])
def test_verbose_is_a_flag_in_every_call(value: Any) -> None:
    fitted, model = fit(), Scale()
    net = lb.setup(Scale, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)
    calls: list[Callable[[], Any]] = [
        lambda: fit(verbose=value),
        lambda: fitted.predict(numbered(1), verbose=value),
        lambda: fitted.evaluate(numbered(1), verbose=value),
        lambda: net.lr_finder(numbered(1), steps=2, verbose=value),
        lambda: lb.run(model, torch.optim.SGD(model.parameters()), verbose=value).__enter__(),
    ]
    for call in calls:
        with pytest.raises(ArgumentTypeError, match=r"^verbose is True or False; got "):
            call()


def test_a_flag_of_numpy_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for value in (np.True_, np.False_):
        fit(verbose=value, epochs=1)
        assert bool(capsys.readouterr().out) == bool(value)
