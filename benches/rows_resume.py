"""What a run that can go on costs: its states while it trains, and the way back from one."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

import lumbre as lb
from lumbre.data.samples import Samples, TensorLoader
from lumbre.files import form
from measure import Row, ratio, take_turns
from rows_files import timed

MEGABYTE = 1 << 20


def tree_of(megabytes: int) -> dict[str, dict[str, torch.Tensor]]:
    """A state of so many tensors of 1 MB."""
    return {"model": {f"{i}.weight": torch.randn(256, 1024) for i in range(megabytes)}}


def every() -> list[Row]:
    """300 steps with a state of 20 MB after each 100, over none; wall time, the disk's too."""
    x, y = torch.randn(9600, 1600), torch.randn(9600, 1600)
    loader = DataLoader(torch.utils.data.TensorDataset(x, y), 32)
    number = itertools.count()

    def side(folder: str | None) -> Callable[[], float]:
        def run() -> None:
            torch.manual_seed(0)
            model = nn.Linear(1600, 1600)
            optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9)
            callbacks = []
            if folder is not None:
                path = Path(folder, f"state{next(number)}")  # each fit has its own
                callbacks = [lb.callbacks.AutoResume(path, every=100)]
            lb.setup(model, nn.MSELoss(), optimizer).fit(loader, 1, callbacks, verbose=False)

        return timed(run)

    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        times = take_turns({"states": side(folder), "none": side(None)}, 40.0)
    what = "300 steps with AutoResume(every=100) of 20 MB / without"
    return [ratio("resume.every", what, times, "states", "none", 1.03)]


def stop() -> list[Row]:
    """For how long training stops for a save."""
    tree = tree_of(200)
    sides = {
        "stop": timed(lambda: form.Snapshot(tree, "checkpoint")),
        "copy": timed(lambda: [each.clone() for each in tree["model"].values()]),
    }
    times = take_turns(sides, 10.0)
    what = "training stops for a save of 200 MB / a copy of it"
    return [ratio("resume.stop", what, times, "stop", "copy", 1.3)]


def read() -> list[Row]:
    """A state of 100 MB, with all that is checked of it."""
    tree = tree_of(100)
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        mine, other = Path(folder, "mine"), Path(folder, "other")
        form.write(mine, tree, "checkpoint")
        save_file(tree["model"], other)
        sides = {
            "lumbre": timed(lambda: form.read(mine)),
            # Its tensors are views of the mapped file until they are used.
            "safetensors": timed(lambda: [each.clone() for each in load_file(other).values()]),
        }
        times = take_turns(sides, 10.0)
    what = "reading a state of 100 MB / the same by safetensors"
    return [ratio("resume.read", what, times, "lumbre", "safetensors", 1.2)]


def place() -> list[Row]:
    """To batch 100 000 of data in memory, shuffled."""
    loader = TensorLoader(Samples.of([torch.zeros(800_040, 1)]), 8, shuffle=True)
    times: list[float] = []
    for _ in range(15):
        start = time.perf_counter()
        next(loader.begin(100_000))
        times.append(time.perf_counter() - start)
    times.sort()
    return [Row("resume.place", "going to batch 100 000", times[len(times) // 2], budget=0.05)]


ROWS: dict[str, Callable[[], list[Row]]] = {
    "resume.every": every,
    "resume.stop": stop,
    "resume.read": read,
    "resume.place": place,
}
