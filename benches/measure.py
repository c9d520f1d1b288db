"""How the rows of the table are measured.

Processor time of the whole process on one thread, the garbage collector off. The sides of a row
take turns in short rounds, each round in another order, and a ratio is the median of the ratios of
the rounds: what else the machine does falls on both sides, or is left out.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
import timeit
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

clock = time.process_time
Side = Callable[[], float]
Times = dict[str, list[float]]


class Row(NamedTuple):
    """A line of the table.

    Attributes:
        name: What `run.py NAME` takes.
        what: What is compared, for people.
        this: Seconds of lumbre's side, or the amount that has no other side.
        other: Seconds of the other side.
        ratio: this / other, by rounds; None when there is no other side.
        budget: The most that the ratio, or else `this`, may be.
        unit: Of this and other.
    """

    name: str
    what: str
    this: float
    other: float | None = None
    ratio: float | None = None
    budget: float | None = None
    unit: str = "s"

    @property
    def holds(self) -> bool | None:
        """Whether it keeps its budget; None without one."""
        measured = self.this if self.ratio is None else self.ratio
        return None if self.budget is None else measured <= self.budget


def take_turns(sides: Mapping[str, Side], seconds: float = 10.0, rounds: int = 15) -> Times:
    """Run the sides in turns.

    Args:
        sides: Each returns the processor time of what is measured.
        seconds: How long to go on.
        rounds: How many rounds to take at least.

    Returns:
        The times of each side, by rounds.
    """
    for side in sides.values():
        side()
    times: Times = {name: [] for name in sides}
    # In a fixed order each side would always find what the same neighbor has left in the caches.
    order, chance = list(sides), random.Random(0)
    end = time.monotonic() + seconds
    while len(times[order[0]]) < rounds or time.monotonic() < end:
        chance.shuffle(order)
        for name in order:
            gc.collect()
            gc.disable()
            try:
                times[name].append(sides[name]())
            finally:
                gc.enable()
    return times


def ratio(
    name: str, what: str, times: Times, this: str, other: str, budget: float | None = None
) -> Row:
    """The row that compares two sides of the same rounds."""
    ratios = [a / b for a, b in zip(times[this], times[other], strict=True)]
    medians = statistics.median(times[this]), statistics.median(times[other])
    return Row(name, what, *medians, statistics.median(ratios), budget)


def slopes(times: Times, few: str, many: str, steps: int) -> list[float]:
    """The time of each further step, by rounds."""
    return [(b - a) / steps for a, b in zip(times[few], times[many], strict=True)]


def statement(code: str, number: int, **names: object) -> Side:
    """A side that runs a line of code: its time once, without a loop's own."""
    unrolled = 20
    timer = timeit.Timer("\n".join([code] * unrolled), timer=clock, globals=names)
    return lambda: timer.timeit(number) / (number * unrolled)


def resident() -> float | None:
    """Bytes of memory that the process has in use; None where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return None
    gc.collect()
    return int(statm.read_text().split()[1]) * 4096.0


def text(value: float | None, unit: str) -> str:
    """A number with three digits and a unit that suits it."""
    if value is None:
        return "-"
    if unit != "s":
        return f"{value:.3g} {unit}"
    for scale, name in ((1e-3, "ms"), (1e-6, "µs")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value / 1e-9:.3g} ns"
