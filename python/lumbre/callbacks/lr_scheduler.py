"""Learning rates that change while the fit runs."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch.optim import lr_scheduler

from lumbre._core import HOOKS, Monitor
from lumbre.arguments import monitor_of, optimizer_name, optimizers_of
from lumbre.callbacks.gradient_accumulation import GradientAccumulation
from lumbre.callbacks.scheduler_call import check_scheduler, is_epoch, wanted_by
from lumbre.callbacks.scheduler_state import loaded_state, saved_state
from lumbre.errors import ArgumentError, ArgumentTypeError, LumbreWarning, MonitorError
from lumbre.hooks.callback import Callback
from lumbre.text import did_you_mean, name_of
from lumbre.warn import warn

if TYPE_CHECKING:
    from lumbre.engine.context import Context

# Breakpoints of an optimizer's own part of the step: there `ctx.opt_name` says whose it is.
_OF_ONE = tuple(f"on_train_batch_{place}" for place in ("after_", "before_"))
# What is reached once in each epoch, whatever data there is.
_OF_EPOCH = ("on_epoch_begin", "on_train_begin", "on_train_end", "on_epoch_end")
# Schedulers of torch that scale the rate of whatever group there is.
_SCALING = (
    lr_scheduler.StepLR,
    lr_scheduler.MultiStepLR,
    lr_scheduler.ExponentialLR,
    lr_scheduler.PolynomialLR,
    lr_scheduler.CosineAnnealingLR,
    lr_scheduler.ReduceLROnPlateau,
)
# Here an epoch has measured nothing yet.
_TOO_EARLY = ("on_fit_begin", "on_epoch_begin", "on_train_begin")


class LRScheduler(Callback):
    """Steps the learning rate by a scheduler of torch, or by one that is made like them.

    Acts at `on_fit_begin`, where the schedulers are made, one for each optimizer, and at the
    breakpoint `call_on`, at weight 0: what others log there is to be watched where they come
    earlier, by a smaller weight or by being passed before. Changes the options of the optimizers
    in `ctx.optimizers`.

    `call_on="on_epoch_end"` counts epochs. `call_on="on_train_batch_after_step"` counts steps of
    the optimizer: a skipped batch is none, and of several optimizers each one's scheduler goes on
    at its own step alone. At another breakpoint each time that it is reached counts. A scheduler
    whose `total_steps` are the run's batches and which counts epochs, or the other way round, is
    warned about when the fit begins.

    What a `step` wants is known by its arguments' names: `epoch` or `t` is `ctx.epoch`, any other
    that it needs is the value of `monitor`. What it can do without is left out where the scheduler
    is torch's own; others, such as timm's `step(epoch, metric=None)`, get the epoch wherever one
    ends or begins, and `metric` or `metrics` where the run has the value.

    Args:
        scheduler: A class or function, called as `scheduler(optimizer, **scheduler_options)`. One
            whose `step` needs a value, such as `ReduceLROnPlateau`, gets that of `monitor`; an
            epoch that has measured nothing is not shown to it.
        call_on: The breakpoint at which it steps.
        opt_name: The optimizer whose rate is meant; None for all of them.
        monitor: What a scheduler that needs a value watches: a set and the name of a record.
        **scheduler_options: What the scheduler takes besides the optimizer. Options that are named
            like an argument above go into a function:
            `LRScheduler(lambda optimizer: MyScheduler(optimizer, monitor=...))`.

    Attributes:
        schedulers: The schedulers of the last fit, by the name of their optimizer.

    Raises:
        ArgumentTypeError: when `scheduler` is not callable or does not take the options; when
            `opt_name` is no name.
        ArgumentError: when there is no such breakpoint, or, as the fit begins, no such optimizer;
            when a group was added to an optimizer whose scheduler has a rate for each that it knew.
        MonitorError: when a value is needed and the fit does not measure it.

    Example:
        >>> import torch
        >>> LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=5)
        LRScheduler(StepLR, step_size=5)
        >>> LRScheduler(
        ...     torch.optim.lr_scheduler.OneCycleLR,
        ...     call_on="on_train_batch_after_step",
        ...     max_lr=0.1,
        ...     total_steps=1000,
        ... )
        LRScheduler(OneCycleLR, call_on='on_train_batch_after_step', max_lr=0.1, total_steps=1000)
    """

    def __init__(
        self,
        scheduler: Callable[..., Any],
        *,
        call_on: str = "on_epoch_end",
        opt_name: str | None = None,
        monitor: str = "valid_loss",
        **scheduler_options: Any,
    ) -> None:
        check_scheduler(scheduler, scheduler_options)
        self._check_breakpoint(call_on)
        self.scheduler = scheduler
        self.call_on = call_on
        self.opt_name = optimizer_name(self, opt_name)
        self.monitor = monitor
        self._watched()
        self.scheduler_options = scheduler_options
        self.schedulers: dict[str, Any] = {}
        # By optimizer: the arguments of the scheduler's step, and whether it needs them.
        self._wants: dict[str, dict[str, bool]] = {}
        self._groups: dict[str, int] = {}
        self._listen()

    def on_fit_begin(self, ctx: Context) -> None:
        """Make the schedulers, which sets the first rates."""
        self.schedulers, self._wants, self._groups = {}, {}, {}
        for name in self._names(ctx):
            made = self.scheduler(ctx.optimizers[name], **self.scheduler_options)
            if not callable(getattr(made, "step", None)):
                raise ArgumentTypeError(_NO_STEP.format(name_of(self.scheduler), made))
            self.schedulers[name], self._wants[name] = made, wanted_by(made, self.call_on)
            self._groups[name] = len(ctx.optimizers[name].param_groups)
            self._check_rate(ctx, name)
        needs = [
            it for wants in self._wants.values() for it, is_needed in wants.items() if is_needed
        ]
        if not all(map(is_epoch, needs)):
            self._check_monitor(ctx)
        if self.call_on == "on_fit_begin":
            self._advance(ctx)

    def _listen(self) -> None:
        # Not by a bound method: it would hold the callback, the schedulers and with them the
        # optimizer, whose memory is to be free when the last one lets go of the callback.
        me = weakref.ref(self)

        def advance(ctx: Context) -> None:
            # What is measured before the first epoch is no step of a schedule.
            if (alive := me()) is not None and not ctx._is_before_epochs:
                alive._advance(ctx)

        if self.call_on != "on_fit_begin":
            setattr(self, self.call_on, advance)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has; it listens by itself."""
        own = None if self.call_on == "on_fit_begin" else self.call_on
        return {name: value for name, value in vars(self).items() if name != own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._listen()

    def _advance(self, ctx: Context) -> None:
        for name in self.schedulers:
            optimizer = ctx.optimizers.get(name)
            if optimizer is None:
                continue  # a validation pass by itself has names of optimizers alone
            if self.call_on.startswith(_OF_ONE) and name != ctx.opt_name:
                continue
            # torch warns where no step came before this one: that is for loops that mix up the
            # two calls, and here it would mean that every batch so far was skipped.
            optimizer._opt_called = True
            arguments = self._arguments(ctx, name) if self._wants[name] else {}
            if arguments is None:
                continue
            if len(optimizer.param_groups) > self._groups[name]:
                self._step_with_more_groups(name, optimizer, arguments)
            else:
                self.schedulers[name].step(**arguments)

    def _step_with_more_groups(self, name: str, optimizer: Any, arguments: dict[str, Any]) -> None:
        scheduler = self.schedulers[name]
        counts = len(optimizer.param_groups), self._groups[name]
        text = _ADDED.format(name, *counts, type(scheduler).__name__)
        is_torchs = type(scheduler).__module__.startswith("torch.")
        if is_torchs and not isinstance(scheduler, _SCALING):
            raise ArgumentError(text)
        try:
            scheduler.step(**arguments)
        except Exception as error:
            if is_torchs:
                raise ArgumentError(text) from error
            raise

    def _arguments(self, ctx: Context, name: str) -> dict[str, Any] | None:
        """Return what the scheduler's step is called with; None where it is not to be called."""
        arguments: dict[str, Any] = {}
        for argument, is_needed in self._wants[name].items():
            if is_epoch(argument):
                arguments[argument] = ctx.epoch
                continue
            try:
                value = self._watched().value(ctx)
            except MonitorError:
                if is_needed:
                    raise
                continue
            if value is not None:
                arguments[argument] = value
            elif is_needed:
                return None
        return arguments

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each scheduler by the name of its optimizer: tensors and JSON values.

        Functions are left out; the scheduler that is made anew has them.

        Raises:
            ArgumentTypeError: when a scheduler holds what is neither tensor nor JSON.
        """
        return {
            name: {
                "scheduler": type(scheduler).__qualname__,
                "state": saved_state(scheduler.state_dict(), type(scheduler).__qualname__),
            }
            for name, scheduler in self.schedulers.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; to be called when the fit has begun.

        Raises:
            ArgumentError: when it is the state of other schedulers.
        """
        kinds = {name: type(each).__qualname__ for name, each in self.schedulers.items()}
        saved = {name: each["scheduler"] for name, each in state.items()}
        if kinds != saved:
            raise ArgumentError(_OTHER_STATE.format(_listed(saved), _listed(kinds)))
        for name, scheduler in self.schedulers.items():
            scheduler.load_state_dict(loaded_state(scheduler, state[name]["state"]))

    def _check_breakpoint(self, call_on: str) -> None:
        known = [*HOOKS, *self.breakpoints]
        if call_on not in known:
            hint = did_you_mean(call_on, known, "They are the keys of lumbre.HOOKS.")
            raise ArgumentError(f"LRScheduler: call_on={call_on!r} is no breakpoint. {hint}")

    def _names(self, ctx: Context) -> list[str]:
        if not ctx.optimizers:
            raise ArgumentError(_NO_OPTIMIZER)
        return optimizers_of(self, ctx.optimizers)

    def _watched(self) -> Monitor:
        # Made anew each time: it is of Rust, and would keep the callback from being copied.
        return monitor_of(self, self.monitor, "min", 0.0)

    def _check_rate(self, ctx: Context, name: str) -> None:
        """Warn where the scheduler is planned for what the run counts, and counts something else.

        A plan that is merely longer than the run, or was rounded, may be meant.
        """
        total = getattr(self.schedulers[name], "total_steps", None)
        steps, epochs = ctx.total_steps, ctx.max_epochs
        if not isinstance(total, int) or steps is None or epochs is None:
            return
        counts = {
            "on_train_batch_after_step": epochs * math.ceil(steps / epochs / _gathered(ctx, name)),
            "on_train_batch_end": steps,
            "on_epoch_end": epochs,
        }
        here = "on_epoch_end" if self.call_on in _OF_EPOCH else self.call_on
        # How often a step of the module's own steps is not known.
        count = counts.get(here)
        if count is None or (here != "on_epoch_end" and _has_step(ctx)):
            return
        meant = [hook for hook, number in counts.items() if abs(number - total) <= epochs]
        if meant and not total / 2 < count < 2 * total:
            kind = type(self.schedulers[name]).__name__
            warn(_OTHER_PLAN.format(kind, total, count, self.call_on, meant[0]), LumbreWarning)

    def _check_monitor(self, ctx: Context) -> None:
        self._watched().check(ctx)
        for scheduler in self.schedulers.values():
            # Schedulers of torch that are shown a value have the mode as an attribute.
            if (mode := getattr(scheduler, "mode", None)) in ("min", "max"):
                monitor_of(self, self.monitor, mode, 0.0).check_mode(ctx)
        of_valid = self.monitor.startswith("valid_")
        if self.call_on in _TOO_EARLY or (of_valid and self.call_on.startswith("on_train_")):
            scheduler = name_of(self.scheduler)
            raise ArgumentError(_NO_VALUE_YET.format(scheduler, self.monitor, self.call_on))

    def __repr__(self) -> str:
        given = {"call_on": self.call_on, "opt_name": self.opt_name, "monitor": self.monitor}
        default = inspect.signature(LRScheduler).parameters
        shown = {k: v for k, v in given.items() if v != default[k].default}
        options = "".join(f", {k}={v!r}" for k, v in {**shown, **self.scheduler_options}.items())
        return f"LRScheduler({name_of(self.scheduler)}{options})"


def _gathered(ctx: Context, name: str) -> int:
    """Return how many batches an optimizer gathers for a step."""
    steps = 1
    for each in ctx.callbacks:
        if isinstance(each, GradientAccumulation) and each.opt_name in (None, name):
            steps = each.steps
    return steps


def _has_step(ctx: Context) -> bool:
    return hasattr(ctx.accelerator.unwrap(ctx.model), "step")


def _listed(kinds: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in kinds.items()) or "no scheduler"


_ADDED = (
    "LRScheduler: the optimizer {!r} has {} parameter groups, and had {} when {} was made: a group "
    "was added since, for which it knows no rate. Have all groups from the start, frozen ones too: "
    'torch.optim.SGD([{{"params": head}}, {{"params": backbone}}], lr).'
)
_NO_STEP = "LRScheduler: {} has to give a scheduler, which has a method step; it gave {!r}."
_OTHER_STATE = (
    "LRScheduler: the state is that of {}; this fit has {}. Pass the scheduler that the state was "
    "saved with."
)
_NO_OPTIMIZER = (
    "LRScheduler: this fit has no optimizer whose rate could be changed. Let the module define "
    "set_optimizers(self, **opt_hparams), which gives one or a dict of them, also where it defines "
    "its own step."
)
_OTHER_PLAN = (
    "LRScheduler: {0} is planned for {1} steps, and this run steps it {2} times, at {3}. Let it "
    'step where there are as many: LRScheduler({0}, call_on="{4}", ...).'
)
_NO_VALUE_YET = (
    'LRScheduler: {} needs {}, which has no value yet at {}. Use call_on="on_epoch_end".'
)
