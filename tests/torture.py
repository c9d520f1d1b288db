"""Kill fits anywhere, start them again, and compare the ends: `python tests/torture.py [KILLS]`.

Half of the kills come at a random moment, the other half at a random file operation; besides, each
file operation of a run is the place of a kill once. Every start has another seed. Printed is how
many states were lost, how many ends differ in a bit, and what was left behind.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchmetrics
from torch import nn

import lumbre as lb
from disk import Disk
from forge import ext
from lumbre.errors import FileError
from lumbre.files import form

C = lb.callbacks
S = torch.optim.lr_scheduler
X = torch.linspace(-1, 1, 72).reshape(24, 3)
Y = X.sum(1, keepdim=True).sin()
# No life of a script lasts longer.
_LIMIT = 60.0
# What differs in any two runs.
_TIMES = ("seconds", "time", "wall")


class Net(nn.Module):
    """A network that draws."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.3))
        self.last = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict."""
        out: torch.Tensor = self.last(self.net(x).tanh())
        return out


class Pair(Net):
    """Two optimizers, that of the last layer slower."""

    def set_optimizers(self, lr: float) -> dict[str, torch.optim.Optimizer]:
        """Make them."""
        return {
            "net": torch.optim.SGD(self.net.parameters(), lr, momentum=0.9),
            "last": torch.optim.Adam(self.last.parameters(), lr / 10),
        }


class Spread(lb.Metric):
    """A metric of the user's own, with state in attributes."""

    name = "spread"

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = torch.tensor(9.0), -9.0

    def update(self, pred: torch.Tensor, target: torch.Tensor) -> None:
        """Look at a batch."""
        self.low = torch.minimum(self.low, pred.min())
        self.high = max(self.high, float(pred.max()))

    def compute(self) -> float:
        """Give the span."""
        return self.high - float(self.low)


def metrics() -> list[Any]:
    return [lb.metrics.MAE(), Spread(), torchmetrics.MeanSquaredError()]


def one_fit(folder: Path) -> Any:
    """One fit with everything in it."""
    fitted = lb.setup(Net, nn.MSELoss(), torch.optim.SGD, metrics())
    fitted = fitted.set_opt_hparams(lr=0.05, momentum=0.9).fit(
        [X, Y],
        4,
        [
            C.AutoResume(folder / "state", every=["epoch", 2]),
            C.EMA(0.9),
            C.GradientAccumulation(2),
            C.EarlyStopping(patience=9),
            C.KeepBestModel(),
            C.LRScheduler(S.CosineAnnealingLR, T_max=4),
            C.ModelCheckpoint(f"{folder}/epochs/{{epoch:02d}}.safetensors", keep=2),
            C.CSVLogger(folder / "log.csv"),
            C.JSONLogger(folder / "log.jsonl", every=2),
            C.StepHistory(),
            ext.InputStats(),
        ],
        valid_data=[X[:9], Y[:9]],
        verbose=False,
        dataloader_options={"batch_size": 4},
    )
    return [end_of(fitted.model, fitted.records, fitted.steps)]


def slices(folder: Path) -> Any:
    """Two optimizers, and epochs that are slices of the data."""
    fitted = lb.setup(Pair, nn.MSELoss(), None, metrics()).set_opt_hparams(lr=0.05)
    fitted = fitted.fit(
        [X, Y],
        5,
        [
            C.AutoResume(folder / "state", every=3),
            C.LRScheduler(S.StepLR, step_size=2, opt_name="net"),
            C.JSONLogger(folder / "log.jsonl"),
            C.StepHistory(grad_norm=True),
        ],
        valid_data=[X[:9], Y[:9]],
        verbose=False,
        steps_per_epoch=4,
        dataloader_options={"batch_size": 4},
    )
    return [end_of(fitted.model, fitted.records, fitted.steps)]


def folds(folder: Path) -> Any:
    """Three folds that keep their finished states."""
    ends = []
    for fold in range(3):
        rows = torch.arange(24) % 3 == fold
        setup = lb.setup(Net, nn.MSELoss(), torch.optim.Adam, metrics()).set_opt_hparams(lr=0.05)
        fitted = setup.fit(
            [X[~rows], Y[~rows]],
            2,
            [C.AutoResume(folder / f"fold{fold}", every=2, finished="keep"), C.KeepBestModel()],
            valid_data=[X[rows], Y[rows]],
            verbose=False,
            dataloader_options={"batch_size": 4},
        )
        ends.append(end_of(fitted.model, fitted.records, fitted.steps))
    return ends


def own_loop(folder: Path) -> Any:
    """A loop of one's own."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    order = torch.Generator().manual_seed(3)
    data = torch.utils.data.TensorDataset(X, Y)
    loader = torch.utils.data.DataLoader(data, 4, shuffle=True, generator=order)
    callbacks = [C.AutoResume(folder / "state", every=2), C.StepHistory()]
    with lb.run(model, optimizer, metrics(), callbacks, 4, loss=nn.MSELoss(), verbose=False) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(loader):
                ctx.step(ctx)
            for _ in ctx.valid([(X[:9], Y[:9])]):
                ctx.step(ctx)
    return [end_of(model, ctx.records, {})]


SCRIPTS: dict[str, Callable[[Path], Any]] = {
    "one fit": one_fit,
    "slices": slices,
    "folds": folds,
    "loop of one's own": own_loop,
}


def end_of(model: nn.Module, records: Any, steps: Any) -> Any:
    """What a fit has come to, but for times."""
    weights = {k: v.double().flatten().tolist() for k, v in model.state_dict().items()}
    rows = {k: v.tolist() for k, v in steps.items() if k not in _TIMES}
    plain = {what: each for what, each in records.items() if what != "profile"}
    return json.loads(json.dumps([weights, plain, rows], default=lambda v: v.tolist()))


def live(script: str, folder: Path, seed: int, fault: Callable[[Disk], None] | None) -> None:
    """Be the process that runs a script, and write down its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    log = os.open(folder.parent / f"{folder.name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random.seed(seed)
    disk = Disk()
    if fault is not None:
        fault(disk)
    end = SCRIPTS[script](folder)
    kept = folder.parent / f"{folder.name}.end"
    kept.with_suffix(".part").write_text(json.dumps([end, len(disk.calls)]))
    kept.with_suffix(".part").rename(kept)


def start(script: str, folder: Path, seed: int, fault: Callable[[Disk], None] | None = None) -> int:
    """Start a script in a process of its own, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        live(script, folder, seed, fault)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def wait(pid: int, after: float = _LIMIT) -> int:
    """Return how a process has ended, which is killed when its time is over."""
    until = time.monotonic() + after
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Whole(NamedTuple):
    """A script that nobody has killed."""

    end: Any
    operations: int
    files: dict[str, Any]
    seconds: float


class Tally:
    """What was counted."""

    def __init__(self) -> None:
        self.kills = self.lost = self.differing = self.left = self.failed = 0
        self.told: list[str] = []

    def __str__(self) -> str:
        return (
            f"{self.kills} kills: {self.lost} states lost or unreadable, "
            f"{self.differing} ends that differ, {self.left} files left or changed, "
            f"{self.failed} starts that failed"
        )

    @property
    def is_clean(self) -> bool:
        """True if nothing went wrong."""
        return not (self.lost or self.differing or self.left or self.failed)


def files_of(folder: Path) -> dict[str, Any]:
    """The files of a run: logs by their lines but for times, of others that they are there."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.endswith(".lock"):
            continue
        found[name] = list(_lines(path)) if path.suffix in (".csv", ".jsonl") else "is there"
    return found


def _lines(path: Path) -> Iterator[Any]:
    for line in path.read_text().splitlines():
        if path.suffix == ".jsonl":
            yield {key: v for key, v in json.loads(line).items() if key not in _TIMES}
        else:
            yield line


def whole(script: str, folder: Path) -> Whole:
    """Run a script once without a kill."""
    folder.mkdir()
    began = time.monotonic()
    code = wait(start(script, folder, 0))
    seconds = time.monotonic() - began
    if code:
        raise RuntimeError((folder.parent / f"{folder.name}.err").read_text())
    end, operations = json.loads((folder.parent / f"{folder.name}.end").read_text())
    return Whole(end, operations, files_of(folder), seconds)


def look(script: str, folder: Path, tally: Tally) -> None:
    """See that every state that is there can be read."""
    for path in _states(folder):
        try:
            form.read(path, "checkpoint")
        except (FileError, OSError) as error:
            tally.lost += 1
            tally.told.append(f"{script}: {error}")


def go_to_end(script: str, folder: Path, seed: int, known: Whole, tally: Tally) -> None:
    """Start a script without a kill, and compare its end with that of one that nobody killed."""
    code = wait(start(script, folder, seed))
    if code:
        tally.failed += 1
        tally.told.append((folder.parent / f"{folder.name}.err").read_text()[-1500:])
        return
    end, _ = json.loads((folder.parent / f"{folder.name}.end").read_text())
    if end != known.end:
        tally.differing += 1
        tally.told.append(f"{script}: another end, in {folder}")
    elif (files := files_of(folder)) != known.files:
        tally.left += 1
        odd = {k: v for k, v in files.items() if known.files.get(k) != v}
        gone = sorted(known.files.keys() - files.keys())
        tally.told.append(f"{script}: files that differ {str(odd)[:600]}, or are gone {gone}")


def is_begun(folder: Path) -> bool:
    """True if there is a state: from then on the seed of a start has no effect."""
    return any(True for _ in _states(folder))


def _states(folder: Path) -> Iterator[Path]:
    return (path for name in ("state", "fold?") for path in folder.glob(name))


def at_operation(number: int) -> Callable[[Disk], None]:
    return lambda disk: disk.kill(number)


def torture(
    script: str, base: Path, kills: int, chance: random.Random, known: Whole, tally: Tally
) -> None:
    """Kill lives of a script until there were so many kills."""
    done, run = 0, 0
    while done < kills:
        run += 1
        folder = base / f"random{run}"
        folder.mkdir()
        for _ in range(chance.randint(1, 4)):
            seed = chance.randrange(1 << 30) if is_begun(folder) else 0
            if done % 2:
                fault = at_operation(chance.randrange(known.operations))
                code = wait(start(script, folder, seed, fault))
            else:
                code = wait(start(script, folder, seed), chance.uniform(0, known.seconds))
            look(script, folder, tally)
            if code != -signal.SIGKILL:
                break
            done += 1
            tally.kills += 1
        seed = chance.randrange(1 << 30) if is_begun(folder) else 0
        go_to_end(script, folder, seed, known, tally)
        _clear(base, folder)


def every_operation(
    script: str, base: Path, chance: random.Random, known: Whole, tally: Tally, step: int = 1
) -> None:
    """Kill a script at each of its file operations in turn."""
    for number in range(chance.randrange(step), known.operations, step):
        folder = base / f"operation{number}"
        folder.mkdir()
        if wait(start(script, folder, 0, at_operation(number))) == -signal.SIGKILL:
            tally.kills += 1
        look(script, folder, tally)
        seed = chance.randrange(1 << 30) if is_begun(folder) else 0
        go_to_end(script, folder, seed, known, tally)
        _clear(base, folder)


def _clear(base: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    for suffix in (".end", ".err"):
        (base / f"{folder.name}{suffix}").unlink(missing_ok=True)


def main(kills: int, step: int = 1, seed: int | None = None) -> Tally:
    """Torture all scripts; with `step` a kill comes only at each so many-th file operation."""
    seed = random.randrange(1 << 30) if seed is None else seed  # noqa: S311
    print(f"seed {seed}")
    chance, total = random.Random(seed), Tally()  # noqa: S311
    torch.set_num_threads(1)
    # In memory where that is possible: whether the disk keeps what was synced is not asked here.
    memory = "/dev/shm"  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as top:
        for script, run in SCRIPTS.items():
            warm = Path(top) / "warm"
            warm.mkdir()
            run(warm)  # imports what is imported late, for all that are forked from here
            shutil.rmtree(warm)
            base = Path(top) / script.replace(" ", "_").replace("'", "")
            base.mkdir()
            known, tally = whole(script, base / "whole"), Tally()
            torture(script, base, -(-kills // len(SCRIPTS)), chance, known, tally)
            every_operation(script, base, chance, known, tally, step)
            print(f"{script} ({known.operations} file operations, {known.seconds:.1f} s): {tally}")
            for name in ("kills", "lost", "differing", "left", "failed"):
                setattr(total, name, getattr(total, name) + getattr(tally, name))
            total.told += tally.told
    print(f"all: {total}")
    for text in total.told[:10]:
        print(text)
    return total


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else 300).is_clean)
