"""`run`: a loop of one's own, with everything around it that `fit` has."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lumbre.accelerator import Accelerator
from lumbre.engine.context import Context
from lumbre.engine.ends import end_run
from lumbre.engine.guard import RunGuard
from lumbre.errors import ArgumentTypeError
from lumbre.fit.limits import TEN, limits_of
from lumbre.fit.recipe import Recipe, check_optimizer
from lumbre.fit.start import start
from lumbre.hooks.foreign import Callbacks
from lumbre.metrics.sets import as_metric_set


@contextlib.contextmanager
def run(
    model: nn.Module,
    optimizers: Optimizer | Mapping[str, Optimizer],
    metrics: Any = None,
    callbacks: Callbacks = (),
    epochs: int | tuple[int, int | None] | None = TEN,
    loss: Callable[..., Any] | None = None,
    accelerator: Accelerator | None = None,
    verbose: bool | None = None,
    *,
    steps_per_epoch: int | None = None,
    valid_steps: int | None = None,
    valid_every: int = 1,
    max_steps: int | None = None,
    max_time: float | str | datetime.timedelta | None = None,
) -> Iterator[Context]:
    """Give callbacks, metrics, records, stop and files to a loop that you write yourself.

    What fires where is what fires in `fit`, which is written with the same pieces:

    - `for epoch in ctx.epochs()` and, inside of it, `for batch in ctx.train(loader)` and
      `for batch in ctx.valid(loader)` are the epochs and the passes;
    - `ctx.forward()`, `ctx.compute_loss()`, `ctx.backward(loss)` and `ctx.step_optimizer()` are the
      parts of a step; use those you need, or `ctx.step(ctx)` for all of it;
    - `ctx.record(pred, target, loss)` feeds loss and metrics, where the parts have not done so.

    A pass that is left by `break` is closed when the loop around it goes on. Of several passes of
    a kind in one epoch the last one is recorded. An epoch without a validation pass does not count
    for callbacks that watch a value of one. Ctrl-C finishes the batch under way and ends the loops;
    `ctx.records` holds what there is by then.

    Args:
        model: Trained in place; moved to the accelerator's device.
        optimizers: One, or a dict of them by name.
        metrics: One, a list, or a `MetricSet`.
        callbacks: What runs beside the default callbacks.
        epochs: How many there will be at most; or (min, max), as in `fit`.
        loss: Called as `loss(pred, target)` by `ctx.compute_loss()`; the module's own unless given.
        accelerator: Where to train; the best device there is unless given.
        verbose: Whether to show the progress; by default in a terminal or notebook only.
        steps_per_epoch: As in `fit`: `ctx.train(loader)` gives so many batches, and goes on in the
            next epoch where it was.
        valid_steps: As in `fit`.
        valid_every: As in `fit`: in other epochs `ctx.valid(loader)` gives nothing.
        max_steps: As in `fit`.
        max_time: As in `fit`.

    Returns:
        A context manager that gives `ctx`.

    Raises:
        ArgumentTypeError: when `model` or `optimizers` are of another kind.

    Example:
        >>> import lumbre as lb, torch
        >>> model = torch.nn.Linear(2, 1)
        >>> data = [(torch.ones(4, 2), torch.zeros(4, 1))] * 3
        >>> with lb.run(model, torch.optim.SGD(model.parameters(), 0.1), epochs=2) as ctx:
        ...     for _ in ctx.epochs():
        ...         for x, y in ctx.train(data):
        ...             pred = model(x)
        ...             loss = (pred - y).square().mean()
        ...             ctx.backward(loss)
        ...             ctx.step_optimizer()
        ...             ctx.record(pred, y, loss)
        >>> len(ctx.records["metrics"]["train"]), ctx.step_count
        (2, 6)
    """
    if not isinstance(model, nn.Module):
        got = f"the class {model.__name__}" if isinstance(model, type) else repr(model)
        raise ArgumentTypeError(
            f"model is a torch.nn.Module that is there already; got {got}. A class is built by "
            "lb.setup(...).fit(...)."
        )
    found = {"opt": optimizers} if isinstance(optimizers, Optimizer) else optimizers
    if not (
        isinstance(found, Mapping)
        and found
        and all(isinstance(each, Optimizer) for each in found.values())
    ):
        raise ArgumentTypeError(
            "optimizers is a torch.optim.Optimizer or a dict of them by name, such as "
            f"torch.optim.Adam(model.parameters()); got {optimizers!r}."
        )
    for each in found.values():
        check_optimizer(each, model, loss)
    recipe = Recipe(model, loss, None, as_metric_set(metrics), None)
    limits = limits_of(epochs, steps_per_epoch, valid_steps, valid_every, max_steps, max_time)
    ctx = start("run", recipe, callbacks, accelerator, verbose, optimizers=found, limits=limits)
    with RunGuard(ctx, "run"):
        yield ctx
        end_run(ctx)
