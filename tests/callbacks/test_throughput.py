"""Throughput: rates over the time of the training pass, and the share of it that waits."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lumbre as lb
from lumbre import callbacks as cb
from lumbre.callbacks import Throughput
from lumbre.errors import ArgumentTypeError
from runs import Scale, at, fit, numbered


class Slow(list[Any]):
    """Batches of three that let the loop wait for each."""

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            time.sleep(0.01)
            yield batch


lb.as_dataloader.register(Slow, lambda data, **_: data)


def slow() -> Slow:
    return Slow([(torch.ones(3, 1), torch.ones(3, 1))] * 5)


def test_rates_of_each_epoch_are_in_the_profile() -> None:
    fitted = fit(Scale, Throughput(), data=slow())
    profile = fitted.profile
    for samples, batches, waiting, seconds in zip(
        profile["samples_per_second"],
        profile["batches_per_second"],
        profile["waiting"],
        profile["train"],
        strict=True,
    ):
        assert samples == pytest.approx(3 * batches)
        assert 5 / seconds <= batches <= 100, "each batch has waited 10 ms"
        assert 0.5 < waiting <= 1
    assert "items_per_second" not in profile
    assert "waiting" not in repr(fitted), "what is shown as times are times"


def test_items_are_counted_in_the_place_of_samples() -> None:
    counts = iter(range(1, 100))
    throughput = Throughput(lambda batch: torch.tensor(next(counts)))
    profile = fit(Scale, throughput, data=slow(), epochs=1).profile
    rate = profile["items_per_second"][0] / profile["batches_per_second"][0]
    assert rate == pytest.approx(3)
    assert "samples_per_second" not in profile


def test_a_batch_that_is_skipped_was_gone_through_too() -> None:
    skips = lb.on("on_train_batch_begin")(lambda ctx: ctx.skip_batch())
    profile = fit(Scale, skips, Throughput(), data=slow(), epochs=1).profile
    assert profile["samples_per_second"][0] == pytest.approx(3 * profile["batches_per_second"][0])


def test_the_loggers_have_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    fitted = fit(Scale, Throughput(), cb.JSONLogger(path), epochs=2)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for name in ("samples_per_second", "batches_per_second", "waiting"):
        assert [line[name] for line in lines if line["set"] == "train"] == fitted.profile[name]
        assert not any(name in line for line in lines if line["set"] == "valid")


def test_the_bar_shows_it() -> None:
    from lumbre.callbacks.progress import _speed

    shown: list[str] = []
    look = at("on_train_batch_end", lambda ctx: shown.append(_speed(ctx)), nth=2, weight=9)
    fit(Scale, Throughput(), look)
    fit(Scale, look)
    (text,) = shown
    assert re.fullmatch(r"\S+ samples/s \S+ batches/s waiting \d+%", text)


def test_rates_are_restored_and_go_on_after_a_kill(tmp_path: Path) -> None:
    def run(*more: lb.Callback) -> lb.Fitted:
        return fit(Scale, Throughput(), cb.AutoResume(tmp_path / "state"), *more, epochs=4)

    seen: list[Any] = []
    keep = at("on_epoch_end", lambda ctx: seen.append(ctx.records["profile"]["waiting"]), nth=2)
    with pytest.raises(ZeroDivisionError):
        run(keep, at("on_epoch_begin", lambda ctx: 1 // 0, nth=3))
    fitted = run()
    assert len(fitted.profile["waiting"]) == 4
    assert fitted.profile["waiting"][:2] == seen[0]


def test_it_is_asked_while_the_pass_runs() -> None:
    throughput = Throughput()
    assert throughput.rates() == {}
    fit(Scale, throughput, data=numbered(4))
    assert set(throughput.rates()) == {"samples_per_second", "batches_per_second", "waiting"}


def test_without_it_nothing_is_timed() -> None:
    assert set(fit(Scale).profile) == {"fit", "epoch", "train", "valid"}


def test_items_is_a_function_that_gives_a_number() -> None:
    with pytest.raises(ArgumentTypeError, match="items is a function of a batch, or None; got 3"):
        Throughput(3)  # type: ignore[arg-type]

    def words(batch: Any) -> Any:
        return "many"

    with pytest.raises(
        ArgumentTypeError, match="number of items in a batch, and words gave 'many'"
    ):
        fit(Scale, Throughput(words))


def test_it_leaves_the_batch_to_those_who_come_later() -> None:
    def run(*more: lb.Callback) -> Any:
        @lb.on("on_train_batch_end", weight=5)
        def change(ctx: Any) -> None:
            ctx.pred = ctx.pred + 1.0

        return fit(Scale, change, *more, metrics=lb.metrics.MAE()).records["metrics"]

    assert run(Throughput()) == run()
