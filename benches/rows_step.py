"""What a training step costs: lumbre's, against the loop that a good user of torch writes."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb
from measure import Row, Side, Times, clock, ratio, take_turns

Model = Callable[[], nn.Module]
LOSS = nn.CrossEntropyLoss()


class Problem(NamedTuple):
    """A model and batches that are ready in memory."""

    model: Model
    loader: Callable[[], Iterable[Any]]
    steps: int
    data: Any = None  # what fit is given, where that is not the loader


class Ready(list[Any]):
    """Batches as they are: what a loader costs would be the same on both sides."""


@lb.as_dataloader.register(Ready)
def _ready(data: Ready, **options: Any) -> Ready:
    return data


class Outcome(NamedTuple):
    """What a loop took, and what it came to."""

    seconds: float  # a step
    weights: list[Tensor]
    numbers: tuple[float, float] | None  # loss and accuracy


def ready(model: Model, shape: tuple[int, int], classes: int, steps: int) -> Problem:
    generator = torch.Generator().manual_seed(1)
    size, features = shape
    few = [
        (
            torch.randn(size, features, generator=generator),
            torch.randint(classes, (size,), generator=generator),
        )
        for _ in range(20)
    ]
    batches = Ready(few[i % len(few)] for i in range(steps))
    return Problem(model, lambda: batches, steps)


def linear(steps: int = 400) -> Problem:
    return ready(lambda: nn.Linear(16, 4), (32, 16), 4, steps)


def mlp(steps: int = 60) -> Problem:
    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    return ready(model, (64, 784), 10, steps)


def loader() -> Problem:
    """The small model, its batches ready in a DataLoader that hands them on."""
    problem = linear()
    batches = problem.loader()
    return problem._replace(loader=lambda: DataLoader(batches, batch_size=None))  # type: ignore[arg-type]


SGD = functools.partial(torch.optim.SGD, lr=0.01)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": SGD,
    "momentum": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "adam": functools.partial(torch.optim.Adam, lr=1e-3),
    "fused": functools.partial(torch.optim.Adam, lr=1e-3, fused=True),
}


# --- the two sides ----------------------------------------------------------------------------


def bare_loop(problem: Problem, optimizer: Callable[..., torch.optim.Optimizer]) -> Outcome:
    """By hand, without any metric."""
    torch.manual_seed(0)
    model = problem.model()
    opt = optimizer(model.parameters())
    loader = problem.loader()
    model.train()
    start = clock()
    for x, y in loader:
        opt.zero_grad()
        loss = LOSS(model(x), y)
        loss.backward()
        opt.step()
    seconds = clock() - start
    return Outcome(seconds / problem.steps, weights(model), None)


def measuring_loop(problem: Problem, optimizer: Callable[..., torch.optim.Optimizer]) -> Outcome:
    """By hand, with the loss and the accuracy kept by torch ops: nothing waits for a value."""
    torch.manual_seed(0)
    model = problem.model()
    opt = optimizer(model.parameters())
    loader = problem.loader()
    model.train()
    start = clock()
    total, hits, seen = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
    for x, y in loader:
        opt.zero_grad()
        pred = model(x)
        loss = LOSS(pred, y)
        loss.backward()
        opt.step()
        total += loss.detach() * len(y)
        hits += (pred.argmax(1) == y).sum()
        seen += len(y)
    numbers = total.item() / seen, hits.item() / seen
    seconds = clock() - start
    return Outcome(seconds / problem.steps, weights(model), numbers)


def useful_loop(problem: Problem, optimizer: Callable[..., torch.optim.Optimizer]) -> Outcome:
    """By hand, without any metric: gradients clipped, a rate for each step, averaged weights."""
    torch.manual_seed(0)
    model = problem.model()
    opt = optimizer(model.parameters())
    schedule = StepLR(opt, 100, 0.9)
    parameters: list[Tensor] = list(model.parameters())
    averages = weights(model)
    loader = problem.loader()
    model.train()
    start = clock()
    for x, y in loader:
        opt.zero_grad()
        loss = LOSS(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        opt.step()
        schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - 0.999)
    seconds = clock() - start
    return Outcome(seconds / problem.steps, averages, None)


class Stopwatch(lb.Callback):
    """Times the training pass, first to last batch: what setting up takes is left out."""

    weight = float("inf")
    seconds = 0.0

    def on_train_begin(self, ctx: Any) -> None:
        self.seconds = -clock()

    def on_train_end(self, ctx: Any) -> None:
        self.seconds += clock()


def fit(
    problem: Problem,
    optimizer: Callable[..., torch.optim.Optimizer] = SGD,
    *,
    public: bool = False,
    metrics: Any = None,
    callbacks: Iterable[lb.Callback] = (),
    verbose: bool = False,
) -> Outcome:
    """By `lb.setup(...).fit(...)`, with loss and accuracy."""
    torch.manual_seed(0)
    stopwatch = Stopwatch()
    metrics = [lb.metrics.Accuracy()] if metrics is None else metrics
    setup = lb.setup(problem.model, loss=LOSS, optimizer=optimizer, metrics=metrics)
    data = problem.loader() if problem.data is None else problem.data
    with environment(LUMBRE_FAST_STEP="0" if public else "1"):
        fitted = setup.fit(data, 1, [*callbacks, stopwatch], accelerator=CPU, verbose=verbose)
    values = fitted.records["metrics"]["train"][0]
    numbers = (values["loss"], values["acc"]) if "acc" in values else None
    return Outcome(stopwatch.seconds / problem.steps, weights(fitted.model), numbers)


CPU = lb.Accelerator(cpu=True)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def turns(sides: dict[str, Callable[[], Outcome]], seconds: float = 10.0) -> Times:
    """Let the sides take turns, once it is sure that they come to the same."""
    outcomes = [side() for side in sides.values()]
    for outcome in outcomes[1:]:
        pairs = zip(outcome.weights, outcomes[0].weights, strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            raise AssertionError(f"the sides end in different bits: {', '.join(sides)}")
    numbers = torch.tensor([each.numbers for each in outcomes if each.numbers])
    torch.testing.assert_close(numbers, numbers[:1].expand_as(numbers), rtol=1e-4, atol=0)

    def timed(side: Callable[[], Outcome]) -> Side:
        return lambda: side().seconds

    return take_turns({name: timed(side) for name, side in sides.items()}, seconds)


# --- rows -------------------------------------------------------------------------------------

PROBLEMS: dict[str, Callable[[], Problem]] = {"linear": linear, "mlp": mlp, "loader": loader}

# (problem, optimizer, road, other side): the most that the ratio may be
BUDGETS = {
    ("linear", "sgd", "fast", "bare"): 0.57,
    ("linear", "adam", "fast", "bare"): 0.67,
    ("loader", "sgd", "fast", "bare"): 0.61,
    ("linear", "sgd", "fast", "metrics"): 0.62,
    ("linear", "sgd", "public", "metrics"): 0.90,
    ("linear", "sgd", "public", "bare"): 1.06,
}


def steps(kind: str, optimizer: str) -> list[Row]:
    """One step with loss and accuracy, on both roads, over both loops by hand."""
    problem = PROBLEMS[kind]()
    opt = OPTIMIZERS[optimizer]
    times = turns(
        {
            "fast": lambda: fit(problem, opt),
            "public": lambda: fit(problem, opt, public=True),
            "bare": lambda: bare_loop(problem, opt),
            "metrics": lambda: measuring_loop(problem, opt),
        }
    )
    others = {
        "bare": "a loop by hand without metrics",
        "metrics": "one that keeps loss and accuracy",
    }
    return [
        ratio(
            f"step.{kind}.{optimizer}.{road}.{other}",
            f"a step on the {road} road / {what}",
            times,
            road,
            other,
            BUDGETS.get((kind, optimizer, road, other)),
        )
        for road in ("fast", "public")
        for other, what in others.items()
    ]


class Idle(lb.Callback):
    """Has a hook, but none inside of a batch."""

    def on_epoch_end(self, ctx: Any) -> None: ...


class Active(lb.Callback):
    """Is called each batch."""

    def on_train_batch_end(self, ctx: Any) -> None: ...


def callbacks(kind: type[lb.Callback]) -> list[Row]:
    """A step with more and more callbacks, over the same with none."""
    problem = linear(200)
    numbers = (1, 10, 100, 1000)

    def side(n: int) -> Callable[[], Outcome]:
        return lambda: fit(problem, callbacks=[kind() for _ in range(n)])

    times = turns({str(n): side(n) for n in (0, *numbers)}, 25.0)
    name = kind.__name__.lower()
    return [
        ratio(
            f"callbacks.{name}.{n}",
            f"a step with {n} {name} callbacks / with none",
            times,
            str(n),
            "0",
            1.02 if (name, n) == ("idle", 10) else None,
        )
        for n in numbers
    ]


def useful() -> list[Row]:
    """A step with three callbacks that many runs have."""
    rows = []
    for kind, budget in (("linear", 0.95), ("mlp", None)):
        problem = PROBLEMS[kind]()

        def side(problem: Problem = problem) -> Outcome:
            each_step = "on_train_batch_after_step"
            callbacks = [
                lb.callbacks.GradientClip(1.0),
                lb.callbacks.LRScheduler(StepLR, call_on=each_step, step_size=100, gamma=0.9),
                lb.callbacks.EMA(0.999),
            ]
            return fit(problem, callbacks=callbacks)

        times = turns({"fit": side, "hand": functools.partial(useful_loop, problem, SGD)})
        what = "a step with GradientClip, LRScheduler, EMA, loss, accuracy / by hand, no metric"
        rows.append(ratio(f"callbacks.useful.{kind}", what, times, "fit", "hand", budget))
    return rows


def metrics() -> list[Row]:
    """A step with more and more metrics, over the same with the loss alone."""
    problem = linear()

    def side(n: int) -> Callable[[], Outcome]:
        return lambda: fit(problem, metrics=[lb.metrics.Accuracy(name=f"acc{i}") for i in range(n)])

    times = turns({str(n): side(n) for n in (0, 1, 10)})
    return [
        ratio(f"metrics.{n}", f"a step with {n} metrics / with the loss alone", times, str(n), "0")
        for n in (1, 10)
    ]


def progress() -> list[Row]:
    """A step with the bar, in passes that are long enough to draw it many times."""
    problem = linear(10_000)
    with terminal():
        times = turns(
            {
                "bar": lambda: fit(problem, verbose=True),
                "none": lambda: fit(problem),
            },
            20.0,
        )
    return [ratio("progress", "a step with the progress bar / without", times, "bar", "none", 1.03)]


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Let what is printed go to a real terminal at which nobody looks."""
    ours, theirs = os.openpty()
    with (
        subprocess.Popen(
            ["cat"], stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as cat,
        os.fdopen(theirs, "w") as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        os.close(ours)
        yield
        stream.flush()
        cat.terminate()


def memory() -> list[Row]:
    """Data in memory, against the way that torch's tutorials take."""
    generator = torch.Generator().manual_seed(1)
    steps = 200
    x = torch.randn(32 * steps, 16, generator=generator)
    y = torch.randint(4, (32 * steps,), generator=generator)

    def loader() -> Iterable[Any]:
        return DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)

    problem = Problem(lambda: nn.Linear(16, 4), loader, steps, [x, y])
    times = turns(
        {
            "fit": lambda: fit(problem),
            "bare": lambda: bare_loop(problem, SGD),
        }
    )
    what = "fit([x, y]) / a loop by hand over DataLoader(TensorDataset(x, y))"
    return [ratio("in_memory", what, times, "fit", "bare", 0.5)]


ROWS: dict[str, Callable[[], list[Row]]] = {
    **{
        f"step.{kind}.{optimizer}": functools.partial(steps, kind, optimizer)
        for kind in ("linear", "mlp")
        for optimizer in OPTIMIZERS
    },
    "step.loader.sgd": functools.partial(steps, "loader", "sgd"),
    "callbacks.idle": functools.partial(callbacks, Idle),
    "callbacks.active": functools.partial(callbacks, Active),
    "callbacks.useful": useful,
    "metrics": metrics,
    "progress": progress,
    "in_memory": memory,
}
