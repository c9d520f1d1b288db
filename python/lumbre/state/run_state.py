"""The parts of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lumbre._core import Meter, Schedule
from lumbre.data.batch import input_and_target, with_input, with_target
from lumbre.data.counts import least, length_of
from lumbre.errors import ArgumentTypeError, ContextError
from lumbre.state.logbook import Logbook
from lumbre.state.now import Now

Handlers = dict[type[BaseException], Callable[[Any, BaseException], Any]]


def _of_now(name: str, doc: str) -> Any:
    def put(ctx: RunState, value: Any) -> None:
        setattr(ctx._now, name, value)

    return property(attrgetter(f"_now.{name}"), put, doc=doc)


def _handlers_of(name: str, what: str) -> Any:
    def put(ctx: RunState, value: Any) -> None:
        if not isinstance(value, dict):
            raise ArgumentTypeError(_NO_HANDLERS.format(name, value))
        setattr(ctx, f"_{name}", value)

    doc = f"What ends {what} in order: functions of (ctx, exception) by class of exception."
    return property(attrgetter(f"_{name}"), put, doc=doc)


class Plan(NamedTuple):
    """What Rust calls and counts with in a run, in the order of the arguments of `_bind`."""

    schedule: Schedule
    train: Meter
    valid: Meter
    now: Now
    draw: Callable[[Any], Any] | None = None  # draws the bar, if there is one
    own_loop: bool = False  # whether the user writes the loop


class RunState(Logbook):
    """The model, its optimizers and the batch under way of a run, read by all and calling nobody.

    Counters, wishes, records and the compiled plan live in Rust, in the base class.
    """

    accelerator: Any
    buffers: dict[str, Any]
    callbacks: list[Any]
    data: Any
    device: torch.device
    exception: BaseException | None
    hparams: dict[str, Any]
    opt_hparams: dict[str, Any]
    train_data: Any
    valid_data: Any
    verbose: bool
    # The engine's own.
    _now: Now  # the batch under way
    _step: Any  # a step.Step
    _parts: Any  # the engine.Parts of the pass under way
    _loss_parts: Any  # an engine.LossParts, once a pass has begun
    _continued: Any  # a data.Continued, where an epoch is a slice of the passes over the data
    _place: Any  # a data.Position: where the pass under way stands that is a whole one
    _keeper: Any  # an engine.Keeper, where the state is kept in a file
    _going_on: Any  # the state whose open pass the run is to go on in
    _going_on_data: Any  # where that has left the passes over the training data
    _writing: Any  # an engine.Writing: the files that are written while the run goes on
    _checkpoint: str | None
    _is_silent: bool  # whether verbose=False was asked for
    _pass: object | None  # a mark of the pass under way: an old generator does not end a new one
    _grad_outside: bool  # whether gradients are on between the passes
    _ends: dict[int, int]  # the last step of each epoch
    _has_bad_weights: bool  # whether it was told that weights are not finite
    _notes_rates: bool  # whether rows want the learning rates as each step is taken
    _notes_norms: bool  # whether the norms of the gradients are asked for
    _valid_first: bool
    _limits: Any  # the fit.Limits; None where it is no fit
    _recipe: Any  # the fit.Recipe that the run was made of
    _may_log: bool  # whether the loss or the user's own code may log what is not known yet
    _interrupt_fired: bool
    _is_over: bool
    _waiting: dict[str, Any]  # what loaders that are not there yet are to go on from
    _handlers: Handlers
    _epoch_handlers: Handlers

    __slots__ = tuple(__annotations__)

    def __init__(self, step: Any, plan: Plan, **given: Any) -> None:
        """Begin with a step, a plan and the attributes of the run."""
        super().__init__()
        self._step, self._now = step, step.now
        self._parts = self._pass = self._continued = self._loss_parts = None
        self._place = self._keeper = self._going_on = self._going_on_data = None
        self._writing = self._checkpoint = self._limits = self._recipe = None
        self._is_silent = False
        self._waiting = {}
        self._grad_outside = self._interrupt_fired = self._is_over = False
        self._notes_rates = self._notes_norms = self._valid_first = False
        self._may_log = self._has_bad_weights = False
        self.data = self.train_data = self.valid_data = self.exception = None
        self._ends = {}
        self.buffers, self.handlers, self.epoch_handlers = {}, {}, {}
        for name, value in given.items():
            setattr(self, name, value)
        self._bind(*plan)

    handlers = _handlers_of("handlers", "the fit")
    epoch_handlers = _handlers_of("epoch_handlers", "the epoch")

    model = _of_now("model", "The module under training, on its device.")
    loss_fn = _of_now("loss_fn", "Called as `loss_fn(pred, target)`; may be replaced.")

    def _put_optimizers(self, optimizers: dict[str, Any]) -> None:
        known = self._now.optimizers
        if known is not None and set(optimizers) != set(known):
            raise ContextError(_OTHER_NAMES.format(_listed(known), _listed(optimizers)))
        self._now.optimizers = optimizers

    optimizers: Any = property(
        attrgetter("_now.optimizers"),
        _put_optimizers,
        doc="The optimizers by name; one may be put in another's place.",
    )
    opt = _of_now("opt", "The optimizer under way.")
    step = _of_now("step", "The step of the pass under way, called as `step(ctx)`.")
    step_opt = _of_now("step_opt", "Called as `step_opt(optimizer)`; may be replaced.")
    batch = _of_now("batch", "The batch as the loader gave it, on the device.")
    pred = _of_now("pred", "What the model answered; may be replaced.")
    loss_grad = _of_now("loss_grad", "The loss with its graph; may be replaced.")

    @property
    def _pass_length(self) -> int | None:
        """The number of batches in the pass under way, as far as it is known; None where not."""
        length = length_of(self.data)
        if not self.training:
            return least(length, self._valid_steps)
        before = self.step_count - self.iter
        left = None if self.max_steps is None else self.max_steps - before
        return least(self._steps_per_epoch or length, left)

    @property
    def total_steps(self) -> int | None:
        """The number of training batches in the whole run; None where it cannot be known."""
        per_epoch, epochs = self._steps_per_epoch or length_of(self.train_data), self.max_epochs
        if per_epoch is None or epochs is None:
            return self.max_steps
        return least(per_epoch * epochs, self.max_steps)

    @property
    def opt_name(self) -> Any:
        """The name of the optimizer under way; "opt" when there is one.

        None in a step of one's own with several optimizers, until the step says which it means.
        Setting it sets `ctx.opt`.
        """
        return self._now.opt_name

    @opt_name.setter
    def opt_name(self, name: str | None) -> None:
        now = self._now
        before = now.opt_name
        # The loss of the one before stays its own.
        if before is not None and before != name and now.loss_grad is not None:
            now.losses = now.losses or {}
            now.losses.setdefault(before, now.loss_grad)
        now.opt = None if name is None else self._optimizer(name)
        now.opt_name = name

    def _optimizer(self, name: str) -> Any:
        if not self.optimizers:
            return None
        if name not in self.optimizers:
            raise ContextError(
                f"There is no optimizer {name!r}; there are {', '.join(self.optimizers)}."
            )
        return self.optimizers[name]

    @property
    def loss_weight(self) -> float:
        """The number that the loss of the batch was divided by: `ctx.batch_size`, unless set.

        A loss whose denominator is another one (class weights, `ignore_index`) sets it, so that
        `GradientAccumulation` is exact. It is forgotten when the next batch begins.
        """
        weight = self._now.loss_weight
        return self.batch_size if weight is None else weight

    @loss_weight.setter
    def loss_weight(self, weight: float) -> None:
        self._now.loss_weight = weight

    @property
    def input(self) -> Any:
        """The first item of the batch; all of it when the batch is one tensor or a mapping."""
        return input_and_target(self.batch)[0]

    @input.setter
    def input(self, value: Any) -> None:
        self.batch = with_input(self.batch, value)

    @property
    def target(self) -> Any:
        """The second item of the batch; None when there is none."""
        return input_and_target(self.batch)[1]

    @target.setter
    def target(self, value: Any) -> None:
        self.batch = with_target(self.batch, value)

    @property
    def loss(self) -> dict[str, Tensor]:
        """The losses of the batch by optimizer, detached; "opt" when there is one optimizer.

        A step of your own sets it: to a scalar tensor, or to a dict of them.
        """
        now = self._now
        losses = dict(now.losses or {})
        if now.loss_grad is not None and (now.opt_name is not None or not losses):
            losses[now.opt_name or next(iter(self.optimizers), "opt")] = now.loss_grad
        return {k: v.detach() if isinstance(v, Tensor) else v for k, v in losses.items()}

    @loss.setter
    def loss(self, value: Any) -> None:
        now = self._now
        if type(value) is tuple and self._loss_parts is not None:
            value = self._loss_parts.total_of(value)
        now.loss_grad = None
        only = next(iter(self.optimizers), "opt")
        now.losses = dict(value) if isinstance(value, Mapping) else {only: value}
        known = self.optimizers or {only: None}
        if not now.losses.keys() <= known.keys():
            raise ContextError(_OF_NO_OPTIMIZER.format(*map(_listed, (now.losses, known)), only))

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a model made during a run has no run: its `ctx` is None."""
        return

    def __reduce__(self) -> tuple[Any, ...]:
        return (_no_run, ())

    def __repr__(self) -> str:
        return f"<ctx: {self.place}>"


def _no_run() -> None:
    """A pickled `ctx` becomes None."""


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names)) or "none"


_OTHER_NAMES = (
    "Losses are recorded by the names of the optimizers, which are those that the run began with: "
    "{}; got {}. Put another optimizer in the place of one: ctx.optimizers[name] = optimizer."
)
_OF_NO_OPTIMIZER = (
    "ctx.loss is a scalar tensor, or a dict of them by the names of the optimizers: {1}; it was "
    'given {0}. Write ctx.loss = {{"{2}": loss}}, and log what else there is: '
    "ctx.log_mean(name, value)."
)
_NO_HANDLERS = (
    "ctx.{} is a dict of exception classes and functions of (ctx, exception), such as "
    "{{OSError: lambda ctx, error: ...}}; got {!r}."
)
