"""What it costs to keep what a run says: rows of steps, means, a frame of a million rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import lumbre as lb
from lumbre.state.step_rows import restore_steps, steps_frame, steps_of
from measure import Row, clock, ratio, resident, take_turns
from rows_step import Outcome, fit, linear, turns

MILLION = 1_000_000


class Calls(lb.Callback):
    """Does something at the end of each training batch."""

    def __init__(self, act: Callable[[Any], None]) -> None:
        self.act = act

    def on_train_batch_end(self, ctx: Any) -> None:
        self.act(ctx)


def nothing(ctx: Any) -> None:
    """Be called, and log nothing."""


def numbers(ctx: Any) -> None:
    ctx.log_mean("first", 0.5)
    ctx.log_mean("second", 0.25)


def history() -> list[Row]:
    """A step with a row for each."""
    problem = linear()

    def side(*callbacks: lb.Callback) -> Callable[[], Outcome]:
        return lambda: fit(problem, callbacks=list(callbacks))

    times = turns(
        {
            "rows": side(lb.callbacks.StepHistory()),
            "throughput": side(lb.callbacks.Throughput()),
            "none": side(),
        }
    )
    return [
        ratio("history.rows", "a step with StepHistory / without", times, "rows", "none", 1.02),
        ratio(
            "history.throughput", "a step with Throughput / without", times, "throughput", "none"
        ),
    ]


def means() -> list[Row]:
    """A step with two means, and the time of one of a tensor."""
    problem = linear()

    def side(act: Callable[[Any], None]) -> Callable[[], Outcome]:
        return lambda: fit(problem, callbacks=[Calls(act)])

    times = turns({"two": side(numbers), "none": side(nothing)})
    what = "a step with two log_mean of numbers / the same callback that logs nothing"
    each: list[float] = []
    value = torch.tensor(0.5)

    def tensors(ctx: Any) -> None:
        calls, log_mean = 10_000, ctx.log_mean
        start = clock()
        for _ in range(calls):
            log_mean("value", value)
        each.append((clock() - start) / calls)

    fit(linear(30), callbacks=[Calls(tensors)])
    each.sort()
    return [
        ratio("log_mean", what, times, "two", "none", 1.02),
        Row("log_mean.tensor", "a log_mean of a CPU tensor", each[len(each) // 2], budget=0.5e-6),
    ]


def fill(ctx: lb.Context, count: int) -> None:
    """Give a run so many rows of six columns."""
    rows = torch.from_numpy(np.arange(float(count)))
    names = ("step", "epoch", "samples", "seconds", "loss", "lr")
    assert restore_steps(ctx, dict.fromkeys(names, rows))


def idle() -> lb.Context:
    """A run that does nothing."""
    model = torch.nn.Linear(1, 1)
    with lb.run(model, torch.optim.SGD(model.parameters(), 0.1), epochs=1, verbose=False) as ctx:
        pass
    return ctx


def table() -> list[Row]:
    """A million rows of six columns."""
    ctx = idle()
    fill(ctx, MILLION)

    def frame() -> float:
        start = clock()
        made = steps_frame(steps_of(ctx))
        assert made.shape == (MILLION, 6)
        return clock() - start

    times = take_turns({"frame": frame}, 2.0)["frame"]
    times.sort()
    what = "get_steps() of a million rows of six columns"
    done = [Row("steps.frame", what, times[len(times) // 2], budget=0.3)]
    # In a process of its own, whose memory nothing was freed of before.
    told = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True)
    if told.stdout.strip():
        held = float(told.stdout) / 2**20
        done.append(Row("steps.memory", "what these hold", held, budget=60.0, unit="MiB"))
    return done


ROWS: dict[str, Callable[[], list[Row]]] = {"history": history, "log_mean": means, "steps": table}

if __name__ == "__main__":
    run = idle()
    fill(run, 10)
    before = resident()
    fill(run, MILLION)
    after = resident()
    if before is not None and after is not None:
        print(after - before)
