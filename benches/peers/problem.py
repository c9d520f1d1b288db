"""What every library is given: the same model, data and order; and how its program measures.

A program is `FILE CASE`: it trains a little, which warms up and shows that all come to the same
end, measures, and prints one line of JSON. `FILE -` reads cases line by line and runs each in a
fork of its own, so that the library is imported once. Only torch is imported here, so that
`importing` sees what a library adds to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib.metadata
import json
import os
import statistics
import struct
import subprocess
import sys
import termios
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

# What a library has to say of itself would be in the way of the line that is read.
warnings.filterwarnings("ignore")
torch.set_num_threads(1)

# Steps of the training whose end is compared, and batches of a call that evaluates or predicts.
CHECKED, BATCHES = 200, 500
SECONDS, ROUNDS = 0.8, 3
ORDER = 2  # the seed of the order of a shuffled loader

Form = Callable[[Tensor, Tensor], Any]
Clocks = tuple[float, float]  # processor, wall


class Trained(NamedTuple):
    """What a library's fit came to.

    Attributes:
        network: Gives logits for inputs: a torch module, or what can be called like one.
        kept: The loss and the accuracy of the epoch as the library kept them, where it did.
        evaluate: Loss and accuracy over the data of a job.
        predict: The joined predictions over the data of a job.
    """

    network: Callable[[Tensor], Tensor]
    kept: dict[str, float]
    evaluate: Callable[[Job], tuple[float, float]]
    predict: Callable[[Job], Any]


class Job(NamedTuple):
    """What a library is asked to do, in one epoch.

    Attributes:
        data: "ready" batches in memory, "shuffled" or "ordered" samples that a DataLoader
            collects, or "arrays" that the library may cut itself, in order.
        steps: How many batches.
        images: Whether it is the convnet on images, with Adam; else linear 16→4, with SGD.
        metrics: Whether loss and accuracy are kept.
        callbacks: How many idle callbacks there are.
        bar: Whether the library's progress bar is shown.
    """

    data: str = "ready"
    steps: int = CHECKED
    images: bool = False
    metrics: bool = True
    callbacks: int = 0
    bar: bool = False

    @property
    def size(self) -> int:
        """The samples of a batch."""
        return 64 if self.images else 32

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return 10 if self.images else 4

    @property
    def lr(self) -> float:
        """The learning rate."""
        return 1e-3 if self.images else 0.01

    def model(self) -> nn.Module:
        """The model, always with the same weights."""
        torch.manual_seed(0)
        return convnet() if self.images else nn.Linear(16, 4)

    def optimizer(self) -> type[torch.optim.Optimizer]:
        """The class of the optimizer."""
        return torch.optim.Adam if self.images else torch.optim.SGD

    def arrays(self) -> tuple[Tensor, Tensor]:
        """All samples in two tensors; those of fewer steps are the first of those of more."""
        x, y = samples(self)
        return x[: self.steps * self.size], y[: self.steps * self.size]

    def loader(
        self, form: Form | None = None, kind: type[DataLoader[Any]] = DataLoader
    ) -> DataLoader[Any]:
        """The loader, whose batches are lists of x and y unless `form` makes something else."""
        if self.data == "ready":
            few = [form(x, y) if form else [x, y] for x, y in ready(self)]
            batches: Any = [few[i % len(few)] for i in range(self.steps)]
            return DataLoader(batches, batch_size=None)
        collate = None if form is None else lambda each: form(*default_collate(each))
        return kind(
            TensorDataset(*self.arrays()),
            batch_size=self.size,
            shuffle=self.data == "shuffled",
            generator=torch.Generator().manual_seed(ORDER),
            collate_fn=collate,
        )


CASES = {
    "step": Job(metrics=False),
    "metrics": Job(),
    "callbacks": Job(callbacks=10),
    "bar": Job(bar=True),
    "loader": Job("shuffled"),
    "memory": Job("arrays"),
    "evaluate": Job("ordered", BATCHES),
    "predict": Job("ordered", BATCHES),
    # Keras adds Adam's epsilon elsewhere, and Adam makes more and more of such a difference.
    "convnet": Job(images=True, steps=5),
}
_cache: dict[bool, tuple[Tensor, Tensor]] = {}


def convnet() -> nn.Module:
    """A small network on images of 28x28."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 10),
    )


def samples(job: Job) -> tuple[Tensor, Tensor]:
    """At least as many samples as the job has, made once and lengthened when more are needed."""
    needed = job.size * job.steps
    if job.images not in _cache or len(_cache[job.images][1]) < needed:
        generator = torch.Generator().manual_seed(1)
        shape = (1, 28, 28) if job.images else (16,)
        # Drawn batch by batch, so that the first ones do not depend on how many there are.
        drawn = [
            (
                torch.randn(job.size, *shape, generator=generator),
                torch.randint(job.classes, (job.size,), generator=generator),
            )
            for _ in range(job.steps)
        ]
        x, y = zip(*drawn, strict=True)
        _cache[job.images] = torch.cat(x), torch.cat(y)
    return _cache[job.images]


def ready(job: Job) -> Iterable[tuple[Tensor, Tensor]]:
    """The 20 batches that are used again and again, each with memory of its own."""
    x, y = samples(job._replace(steps=20))
    for i in range(20):
        part = slice(i * job.size, (i + 1) * job.size)
        yield x[part].clone(), y[part].clone()


def final_loss(network: Callable[[Tensor], Tensor], job: Job) -> float:
    """The cross-entropy of a trained network over the ready batches, by torch for all alike."""
    if isinstance(network, nn.Module):
        network.eval()
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(network(x), y) for x, y in ready(job)]
    return torch.stack(losses).double().mean().item()


# --- measuring --------------------------------------------------------------------------------


class Importing:
    """`with importing:` around the library's import says what that took."""

    cpu = wall = 0.0
    memory: float | None = None

    def __enter__(self) -> None:
        self._memory, self._start = resident(), clocks()

    def __exit__(self, *_: object) -> None:
        self.cpu, self.wall = since(self._start)
        after = resident()
        if after is not None and self._memory is not None:
            self.memory = after - self._memory


importing = Importing()


def resident() -> float | None:
    """Bytes of memory that the process has in use; None where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return None
    return float(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def clocks() -> Clocks:
    """Both clocks now."""
    return time.process_time(), time.perf_counter()


def since(start: Clocks) -> Clocks:
    """What both clocks have counted since."""
    cpu, wall = clocks()
    return cpu - start[0], wall - start[1]


def timed(call: Callable[[], object]) -> Clocks:
    """What a call takes. The garbage collector stays on, as users have it."""
    gc.collect()
    start = clocks()
    call()
    return since(start)


def slope(fit: Callable[[Job], Trained], job: Job, n: int) -> Clocks:
    """What each further step takes: a fit of 3n steps less one of n, so that set-up falls out."""
    few = timed(lambda: fit(job._replace(steps=n)))
    many = timed(lambda: fit(job._replace(steps=3 * n)))
    return (many[0] - few[0]) / (2 * n), (many[1] - few[1]) / (2 * n)


def median(rounds: list[Clocks]) -> dict[str, float]:
    """The median of each clock."""
    cpu, wall = zip(*rounds, strict=True)
    return {"cpu": statistics.median(cpu), "wall": statistics.median(wall)}


def training(fit: Callable[[Job], Trained], job: Job) -> dict[str, Any]:
    """The end of a short training, then the time of a step."""
    trained = fit(job)
    found = {"loss": final_loss(trained.network, job), **_kept(trained)}
    # As many steps as fill the time; the guess has set-up in it, which takes its time as well.
    few = 25 if job.images else 100
    guess = timed(lambda: fit(job._replace(steps=few)))[1] / few
    n = min(max(int(SECONDS / (4 * ROUNDS * guess)), few), 5000)
    samples(job._replace(steps=3 * n))
    return {**found, **median([slope(fit, job, n) for _ in range(ROUNDS)]), "steps": n}


def _kept(trained: Trained) -> dict[str, float]:
    return {f"kept_{name}": float(value) for name, value in trained.kept.items()}


def calling(call: Callable[[], Any], say: Callable[[Any], dict[str, float]]) -> dict[str, Any]:
    """What one call came to, and its time by batches. The first call warms up."""
    found = say(call())
    rounds: list[Clocks] = []
    end = time.monotonic() + SECONDS
    while len(rounds) < ROUNDS or time.monotonic() < end:
        cpu, wall = timed(call)
        rounds.append((cpu / BATCHES, wall / BATCHES))
    return {**found, **median(rounds), "steps": BATCHES}


def total(predictions: Any) -> dict[str, float]:
    """The sum of the predictions, and how many there are."""
    whole = torch.as_tensor(predictions).detach().double()
    return {"loss": whole.sum().item(), "kept_rows": float(len(whole))}


@contextlib.contextmanager
def terminal(drawn: dict[str, Any]) -> Iterator[None]:
    """Let 1 and 2 be a real terminal at which nobody looks; says how many bytes were drawn."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    before = os.dup(1), os.dup(2)
    # Another process reads, so that reading is not in the processor time of this one.
    with subprocess.Popen(
        ["wc", "-c"], stdin=ours, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as reader:
        os.close(ours)
        os.dup2(theirs, 1)
        os.dup2(theirs, 2)
        os.close(theirs)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in zip((1, 2), before, strict=True):
                os.dup2(old, number)
                os.close(old)
            drawn["drawn"] = int((reader.communicate()[0] or b"0").split()[0])


def measure(fit: Callable[[Job], Trained], case: str) -> dict[str, Any]:
    """Run a case."""
    job = CASES[case]
    if case == "evaluate":
        trained = fit(job._replace(steps=CHECKED))
        return calling(lambda: trained.evaluate(job), lambda two: {"loss": two[0], "acc": two[1]})
    if case == "predict":
        trained = fit(job._replace(steps=CHECKED))
        return calling(lambda: trained.predict(job), total)
    if case == "bar":
        drawn: dict[str, Any] = {}
        with terminal(drawn):
            found = training(fit, job)
        return {**found, **drawn}
    return training(fit, job)


def answer(fit: Callable[[Job], Trained], package: str, case: str) -> None:
    """Run a case, and print what was found as one line of JSON."""
    found: dict[str, Any]
    if case == "import":
        found = {"cpu": importing.cpu, "wall": importing.wall}
    elif case == "first":
        cpu, wall = timed(lambda: fit(Job(steps=1)))
        found = {"cpu": importing.cpu + cpu, "wall": importing.wall + wall}
    else:
        found = measure(fit, case)
    found["import_cpu"], found["import_memory"] = importing.cpu, importing.memory
    found["version"] = importlib.metadata.version(package)
    print("\n" + json.dumps({"case": case, **found}), flush=True)


def forked(call: Callable[[], None]) -> int:
    """Run something in a process that has what is imported here; returns its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        call()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        # What this process would tidy up as it ends belongs to its parent.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(fit: Callable[[Job], Trained], package: str) -> None:
    """Run the case that the command line names, or with `-` those that come by standard input.

    Args:
        fit: Trains as the job says.
        package: The distribution whose version is told.
    """
    (case,) = sys.argv[1:]
    if case != "-":
        answer(fit, package, case)
        return
    for line in sys.stdin:
        name = line.strip()
        if forked(lambda name=name: answer(fit, package, name)):  # type: ignore[misc]
            print("\n" + json.dumps({"case": name, "failed": True}), flush=True)
