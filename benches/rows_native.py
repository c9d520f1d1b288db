"""What callbacks in Rust cost: those of lumbre, and those of another wheel, tests/extension."""

from __future__ import annotations

import bisect
import collections
import statistics
from collections.abc import Callable
from typing import Any

import lumbre_test_extension as extension
import torch
from torch import Tensor

import lumbre as lb
from measure import Row, ratio, slopes, statement, take_turns
from rows_core import context
from rows_step import fit, linear, turns

COUNTS = (1, 10, 100)


def each(name: str, what: str, hook: str, make: Callable[[], Any], budget: float) -> list[Row]:
    """What one callback adds to a fire, when 1, 10 and 100 are added to one that is there."""
    sides = {}
    for n in (0, *COUNTS):
        ctx = context([make() for _ in range(n + 1)])
        ctx.skip_batch()  # Metrics has nothing to do then
        fire = ctx.call_callbacks
        sides[f"{n}"] = statement("fire(name)", 20_000 // (n + 10), fire=fire, name=hook)
    times = take_turns(sides, 8.0)
    rows = []
    for n in COUNTS:
        seconds = statistics.median(slopes(times, "0", f"{n}", n))
        rows.append(Row(f"{name}.{n}", f"{what}, {n} of them", seconds, budget=budget))
    return rows


def native() -> list[Row]:
    """A built-in callback: what remains is the call."""
    what = "a native callback in a fire"
    return each("fire.native", what, "on_train_batch_end", lb.callbacks.Metrics, 5e-9)


def foreign() -> list[Row]:
    """A callback of another wheel that looks at the step's number: the call with all its guards."""
    what = "a foreign callback in a fire"
    idle = "on_train_batch_after_loss"
    return each("fire.foreign", what, idle, lambda: extension.Asks("stop", 2**60), 30e-9)


class LossSpike(lb.Callback):
    """The one in Rust, again in Python: the last losses in order, and the median among them."""

    def __init__(self, factor: float, window: int) -> None:
        self.factor, self.window = factor, window
        self._seen: collections.deque[float] = collections.deque()
        self._sorted: list[float] = []

    def on_train_batch_after_loss(self, ctx: Any) -> None:
        loss = ctx.loss["opt"].item()
        if len(self._seen) >= self.window:
            lower, upper = (self.window - 1) // 2, self.window // 2
            median = (self._sorted[lower] + self._sorted[upper]) / 2
            if not loss <= self.factor * median:
                ctx.skip_batch()
                return
            del self._sorted[bisect.bisect_left(self._sorted, self._seen.popleft())]
        self._seen.append(loss)
        bisect.insort(self._sorted, loss)


def loss_spike() -> list[Row]:
    """A guard that looks at each loss, in a whole fit."""
    problem, factor, window = linear(), 1e6, 50
    times = turns(
        {
            "rust": lambda: fit(
                problem, callbacks=[extension.LossSpike(factor, window, action="skip")]
            ),
            "python": lambda: fit(problem, callbacks=[LossSpike(factor, window)]),
            "none": lambda: fit(problem, callbacks=[extension.Asks("stop", 2**60)]),
        }
    )
    what = "a step of fit with LossSpike in Rust / in Python"
    idle = "a step of fit with LossSpike in Rust / with a foreign callback that does nothing"
    return [
        ratio("loss_spike", what, times, "rust", "python", 1.0),
        ratio("loss_spike.idle", idle, times, "rust", "none"),
    ]


class InputStats(lb.Callback):
    """The one in Rust, again with torch ops."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())
        self.nans = torch.zeros((), dtype=torch.int64)

    def on_train_batch_begin(self, ctx: Any) -> None:
        values: Tensor = ctx.input
        self.nans += torch.isnan(values).sum()
        var, mean = torch.var_mean(values)
        count = self.count + values.numel()
        distance = mean - self.mean
        self.mean += distance * (values.numel() / count)
        self.squares += var * (values.numel() - 1) + distance**2 * (
            self.count * values.numel() / count
        )
        self.count = count


def input_stats() -> list[Row]:
    """Mean, variance and NaNs of a batch of (4096, 256) float32."""
    torch.manual_seed(0)
    hook, sides = "on_train_batch_begin", {}
    for name, callback in {"rust": extension.InputStats(), "torch": InputStats()}.items():
        ctx = context([callback])
        ctx.batch = [torch.randn(4096, 256), torch.zeros(4096)]
        sides[name] = statement("fire(name)", 1, fire=ctx.call_callbacks, name=hook)
    times = take_turns(sides, 10.0)
    what = "InputStats of (4096, 256) float32 in Rust / with torch ops"
    return [ratio("input_stats", what, times, "rust", "torch", 1.0)]


ROWS: dict[str, Callable[[], list[Row]]] = {
    "fire.native": native,
    "fire.foreign": foreign,
    "loss_spike": loss_spike,
    "input_stats": input_stats,
}
