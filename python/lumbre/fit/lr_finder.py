"""A learning rate to begin with: train on rising rates, and look at the loss."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lumbre.accelerator import Accelerator, as_accelerator
from lumbre.arguments import check_optimizer_name, flag, number, whole
from lumbre.data.counts import empty
from lumbre.data.draws import generator_states, rng_state, set_generator_states, set_rng_state
from lumbre.data.fast_loader import fast_loader
from lumbre.data.loaders import train_loader
from lumbre.engine import loop
from lumbre.engine.guard import RunGuard
from lumbre.errors import ArgumentError, ArgumentTypeError
from lumbre.fit.limits import Limits
from lumbre.fit.lr_records import LRRecords, Smoothed
from lumbre.fit.recipe import Recipe
from lumbre.fit.start import start
from lumbre.hooks.callback import Callback
from lumbre.hooks.foreign import Callbacks, as_callbacks
from lumbre.metrics.sets import MetricSet

if TYPE_CHECKING:
    from lumbre.engine.context import Context


def find_lr(
    recipe: Recipe,
    data: Any,
    steps: int,
    start_lr: float,
    end_lr: float,
    log_spaced_intervals: bool,
    opt_name: str | None,
    accelerator: Accelerator | None,
    verbose: bool | None,
    dataloader_options: Mapping[str, Any] | None,
    callbacks: Callbacks,
) -> LRRecords:
    """Do what `Trainable.lr_finder` says."""
    is_log = flag("lr_finder", "log_spaced_intervals", log_spaced_intervals)
    rates = _rates(steps, start_lr, end_lr, is_log)
    accelerator = as_accelerator(accelerator)
    loader = train_loader(data, dataloader_options)
    with _untouched(loader, accelerator.device):
        copied = recipe.copied("lr_finder")
        model = accelerator.prepare_model(copied.build())
        optimizers = copied.optimizers(model)
        sweep = _Sweep(_choose(optimizers, opt_name), optimizers, rates)
        ctx = start(
            "lr_finder",
            copied,
            [sweep, *as_callbacks(callbacks)],
            accelerator,
            verbose,
            model=model,
            optimizers=optimizers,
            limits=Limits(1, 1),
            metrics=MetricSet(),
            train_data=_Again(loader, len(rates)),
        )
        with RunGuard(ctx, "fit"):
            loop.fit(ctx)
    # Whatever else has ended it: a step of the module's own, or Ctrl-C.
    reason = sweep.reason if sweep.has_ended else ctx.stop_reason
    return LRRecords(sweep.lr, sweep.loss, len(rates), reason)


class _Sweep(Callback):
    """Sets the rate of each batch, and keeps what the loss was.

    Acts at `on_train_batch_begin`, first of all, and at `on_train_batch_end`, before the loss is
    counted: one that is not finite is what a sweep may end in, and nothing to warn about.
    """

    weight = -math.inf

    def __init__(self, name: str, optimizers: Mapping[str, Any], rates: list[float]) -> None:
        self.lr: list[float] = []
        self.loss: list[float] = []
        self.has_ended = False
        self.reason: str | None = None
        self._rates = rates
        self._loss_name = name
        self._optimizer = optimizers[name]
        groups = self._optimizer.param_groups
        if not all("lr" in group for group in groups):
            raise ArgumentTypeError(
                f"lr_finder: {type(self._optimizer).__name__} has no option lr that could be tried."
            )
        own = [float(group["lr"]) for group in groups]
        default = float(self._optimizer.defaults.get("lr", own[0]))
        base = default if default in own else own[0]
        self._factors = [lr / base if base else 1.0 for lr in own]
        self._smoothed = Smoothed()
        self._skipped = 0

    def on_train_batch_begin(self, ctx: Context) -> None:
        """The next rate."""
        lr = self._rates[len(self.lr)]
        for group, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * factor)
            else:
                group["lr"] = lr * factor

    def on_train_batch_end(self, ctx: Context) -> None:
        """The loss at this rate; enough is seen when it has exploded."""
        if ctx.skipped:
            self._skipped += 1
            if self._skipped >= len(self._rates):  # the data would be gone through for ever
                ctx.stop(f"{self._skipped} batches were skipped")
            return
        loss = self._loss(ctx)
        self.lr.append(self._rates[len(self.lr)])
        self.loss.append(loss)
        if not math.isfinite(loss):
            ctx.skip_batch()
            self.reason = f"the loss is {loss} at lr {self.lr[-1]:.3g}"
        elif self._smoothed.explodes(loss):
            self.reason = f"the loss has exploded at lr {self.lr[-1]:.3g}"
        if self.reason or len(self.lr) == len(self._rates):
            self.has_ended = True
            ctx.stop()

    def _loss(self, ctx: Context) -> float:
        losses = ctx.loss
        if self._loss_name not in losses and len(losses) != 1:
            raise ArgumentError(
                f"lr_finder: the step of {type(ctx.model).__name__} has set no loss; expected one "
                f'under the optimizer\'s name: ctx.loss = {{"{self._loss_name}": loss}}.'
            )
        return float(losses.get(self._loss_name, next(iter(losses.values()))))


class _Again:
    """A given number of batches, from a loader that is walked as often as it takes."""

    def __init__(self, loader: Any, count: int) -> None:
        self._loader = loader
        self._count = count

    def __iter__(self) -> Iterator[Any]:
        while True:
            before = True
            for batch in fast_loader(self._loader):
                before = False
                yield batch
            if before:
                raise empty(self._loader, "the training data")

    def __len__(self) -> int:
        return self._count

    def __getattr__(self, name: str) -> Any:
        # What a step of one's own asks of its loader, such as the data set.
        return getattr(self._loader, name)


def _rates(steps: int, start: float, end: float, log_spaced: bool) -> list[float]:
    steps = whole("lr_finder", "steps", steps, least=2)
    for name, rate in (("start_lr", start), ("end_lr", end)):
        number("lr_finder", name, rate, above=0, below=math.inf)
    if not start < end:
        raise ArgumentError(
            f"lr_finder: the rates rise from start_lr to end_lr; got start_lr={start!r} and "
            f"end_lr={end!r}."
        )
    shares = [i / (steps - 1) for i in range(steps - 1)]
    if log_spaced:
        return [*(start * (end / start) ** share for share in shares), float(end)]
    return [*(start + (end - start) * share for share in shares), float(end)]


def _choose(optimizers: Mapping[str, Any], name: str | None) -> str:
    if not optimizers:
        raise ArgumentError(_STEPS_ITSELF)
    if name is None and len(optimizers) > 1:
        first = next(iter(optimizers))
        raise ArgumentError(
            f"lr_finder: there are the optimizers {', '.join(optimizers)}; say whose rate is "
            f'meant, such as opt_name="{first}". The others keep theirs.'
        )
    if name is None:
        return next(iter(optimizers))
    check_optimizer_name("lr_finder", name, optimizers)
    return name


@contextlib.contextmanager
def _untouched(loader: Any, device: torch.device) -> Iterator[None]:
    """Put back what random numbers are drawn from."""
    state, own = rng_state(device), generator_states(loader)
    try:
        yield
    finally:
        set_rng_state(state, device)
        set_generator_states(loader, own)


_STEPS_ITSELF = (
    "lr_finder: the module steps its parameters itself, without an optimizer that lumbre knows. "
    "Let it define set_optimizers(self, **opt_hparams), which gives one or a dict of them."
)
