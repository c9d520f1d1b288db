"""What lumbre's own parts cost: dispatch, metrics, records, import, memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
import torchmetrics
from sklearn.metrics import roc_auc_score
from torch import nn

import lumbre as lb
from lumbre._core import Meter
from lumbre.engine.context import Context
from lumbre.hooks.schedule import compile_schedule
from lumbre.state.now import Now
from lumbre.state.run_state import Plan
from lumbre.step.shortcuts import PUBLIC
from lumbre.step.step import Step
from measure import Row, clock, ratio, resident, slopes, statement, take_turns
from rows_step import CPU, LOSS, SGD, linear


def context(callbacks: list[lb.Callback]) -> Context:
    """A run with these callbacks and nothing else, to fire breakpoints of."""
    step = Step(Now(), {}, PUBLIC)
    plan = Plan(compile_schedule(callbacks), Meter([], []), Meter([], []), step.now)
    return Context(step, plan)


class Active(lb.Callback):
    def on_train_batch_after_pred(self, ctx: Any) -> None: ...


def fire() -> list[Row]:
    """A breakpoint at which nobody is called.

    `callable` is the emptiest C function that Python has: it takes one argument, looks at one field
    of its type and returns True or False, as an idle `call_callbacks` does.
    """
    ctx = context([])
    sides = {
        "fire": statement("fire(name)", 10_000, fire=ctx.call_callbacks, name="on_train_batch_end"),
        "empty": statement("empty(name)", 10_000, empty=callable, name="on_train_batch_end"),
    }
    times = take_turns(sides, 5.0)
    what = "fire of an unused breakpoint / an empty C function"
    return [ratio("fire.unused", what, times, "fire", "empty", 2.5)]


def python_callbacks() -> list[Row]:
    """What a callback adds to a breakpoint: the slope from 1 to 101 of them."""
    few, many = 1, 101
    names = {"hook": "on_train_batch_after_pred"}
    sides = {}
    for n in (few, many):
        callbacks = [Active() for _ in range(n)]
        ctx = context(list(callbacks))
        methods = [each.on_train_batch_after_pred for each in callbacks]
        sides[f"fire {n}"] = statement("fire(hook)", 5000 // n, fire=ctx.call_callbacks, **names)
        loop = "for method in methods: method(ctx)"
        sides[f"for {n}"] = statement(loop, 5000 // n, methods=methods, ctx=ctx)
    times = take_turns(sides, 8.0)
    times["fire"] = slopes(times, f"fire {few}", f"fire {many}", many - few)
    times["for"] = slopes(times, f"for {few}", f"for {many}", many - few)
    what = "each further Python callback / a bound method in a for loop"
    return [ratio("fire.python", what, times, "fire", "for", 1.3)]


def accuracy() -> list[Row]:
    """Counting in a batch of 32 with 4 classes."""
    torch.manual_seed(0)
    pred, target = torch.randn(32, 4), torch.randint(4, (32,))
    hits = torch.zeros((), dtype=torch.int64)
    peer = torchmetrics.Accuracy(task="multiclass", num_classes=4, validate_args=False)
    names = {"pred": pred, "target": target}
    sides = {
        "lumbre": statement(
            "update(pred, target)", 500, update=lb.metrics.Accuracy().update, **names
        ),
        "torch": statement("hits.add_((pred.argmax(1) == target).sum())", 50, hits=hits, **names),
        "torchmetrics": statement("update(pred, target)", 20, update=peer.update, **names),
    }
    times = take_turns(sides, 8.0)
    budgets = {"torch": 0.05, "torchmetrics": 0.01}
    return [
        ratio(f"accuracy.{peer}", f"Accuracy.update / {peer}", times, "lumbre", peer, budget)
        for peer, budget in budgets.items()
    ]


def per_class() -> list[Row]:
    """Counting in a batch of 256 with 100 classes, hits and misses without a pattern."""
    torch.manual_seed(0)
    pred, target = torch.randn(256, 100), torch.randint(100, (256,))
    peers = torchmetrics.classification
    pairs = {
        "f1": (lb.metrics.F1(), peers.MulticlassF1Score(100, validate_args=False)),
        "confusion": (
            lb.metrics.ConfusionMatrix(),
            peers.MulticlassConfusionMatrix(100, validate_args=False),
        ),
    }
    rows = []
    for name, (ours, theirs) in pairs.items():
        sides = {
            side: statement("update(pred, target)", 50, update=x.update, pred=pred, target=target)
            for side, x in (("lumbre", ours), ("torchmetrics", theirs))
        }
        what = f"{type(ours).__name__}.update / torchmetrics"
        times = take_turns(sides, 6.0)
        rows.append(ratio(f"per_class.{name}", what, times, "lumbre", "torchmetrics", 0.1))
    return rows


def auroc() -> list[Row]:
    """The exact area over a million scores: taking them in and computing the value."""
    torch.manual_seed(0)
    pred = torch.rand(1_000_000)
    target = (torch.rand(len(pred)) < pred).long()
    arrays = target.numpy(), pred.numpy()

    def measure(kind: Any) -> Callable[[], object]:
        def run() -> object:
            metric = kind()
            metric.update(pred, target)
            return metric.compute()

        return run

    peers = {
        "lumbre": measure(lb.metrics.BinaryAUROC),
        "sklearn": lambda: roc_auc_score(*arrays),
        "torchmetrics": measure(torchmetrics.classification.BinaryAUROC),
    }
    times = take_turns({name: timed(run) for name, run in peers.items()}, 8.0)
    return [
        ratio(f"auroc.{peer}", f"BinaryAUROC of 1e6 / {peer}", times, "lumbre", peer, 0.5)
        for peer in ("sklearn", "torchmetrics")
    ]


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """A side that is long enough to be timed at once."""

    def side() -> float:
        start = clock()
        run()
        return clock() - start

    return side


def records() -> list[Row]:
    """From the last batch of an epoch to the next epoch: late in a long run, and early."""
    epochs, window = 10_000, 1000
    ends: list[float] = []

    class Watch(lb.Callback):
        weight = float("inf")

        def on_train_batch_end(self, ctx: Any) -> None:
            self.start = clock()

        def on_epoch_begin(self, ctx: Any) -> None:
            if ctx.epoch > 1:
                ends.append(clock() - self.start)

    watch = lb.callbacks.EarlyStopping("train_loss", patience=epochs)
    setup = lb.setup(nn.Linear, LOSS, SGD, [lb.metrics.Accuracy()]).set_hparams(
        in_features=16, out_features=4
    )
    data = [torch.randn(32, 16), torch.randint(4, (32,))]
    setup.fit(data, epochs + 1, [watch, Watch()], accelerator=CPU, verbose=False)
    early, late = (statistics.median(part) for part in (ends[:window], ends[-window:]))
    what = "an epoch's end after 10 000 epochs / in the first 1000"
    return [Row("records", what, late, early, late / early, 1.1)]


def import_time() -> list[Row]:
    """The least of several fresh processes, that of importing torch and numpy left out."""
    code = (
        "import time, torch, numpy; start = time.perf_counter(); import lumbre; "
        "print(time.perf_counter() - start)"
    )
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(8)
    ]
    return [Row("import", "import lumbre beyond torch and numpy", min(seconds), budget=0.060)]


def growth_of_fires() -> list[Row]:
    """A million fires that call a Python callback, then a native one, after enough to warm up."""
    ctx = context([Active(), lb.callbacks.Metrics()])
    ctx.skip_batch()

    def fires(n: int) -> None:
        for _ in range(n // 2):
            ctx.call_callbacks("on_train_batch_after_pred")
            ctx.call_callbacks("on_train_batch_end")

    fires(100_000)
    before = resident()
    fires(1_000_000)
    return [growth("resident.fires", "resident memory over 1e6 fires", before)]


def growth_of_steps() -> list[Row]:
    """A hundred thousand steps of one fit, the first tenth left to warm up."""
    sizes: list[float | None] = []

    @lb.on("on_train_batch_end", every=10_000)
    def look(ctx: Any) -> None:
        sizes.append(resident())

    problem = linear(110_000)
    setup = lb.setup(problem.model, LOSS, SGD, [lb.metrics.Accuracy()])
    setup.fit(problem.loader(), 1, look, accelerator=CPU, verbose=False)
    return [growth("resident.steps", "resident memory over 1e5 steps", sizes[0])]


def growth(name: str, what: str, before: float | None) -> Row:
    # One object of the smallest kind lost at each fire would be 16 MB; the allocator's own
    # rounding stays far below one.
    after = resident()
    if before is None or after is None:
        return Row(name, f"{what} (not told by this system)", float("nan"), unit="MiB")
    return Row(name, what, (after - before) / 2**20, budget=1.0, unit="MiB")


ROWS: dict[str, Callable[[], list[Row]]] = {
    "fire.unused": fire,
    "fire.python": python_callbacks,
    "accuracy": accuracy,
    "per_class": per_class,
    "auroc": auroc,
    "import": import_time,
    "records": records,
    "resident.fires": growth_of_fires,
    "resident.steps": growth_of_steps,
}
