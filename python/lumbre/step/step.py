"""One step of torch: predict, compare, differentiate, step. No breakpoint is fired here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lumbre.data.batch import input_and_target
from lumbre.errors import ArgumentError, ContextError
from lumbre.step.checks import check_scalar, check_target, needs_closure
from lumbre.step.shortcuts import Calls
from lumbre.step.windows import Windows, gradients_of

if TYPE_CHECKING:
    from lumbre.accelerator import Accelerator
    from lumbre.state.now import Now
    from lumbre.state.run_state import RunState

# A bare switch: torch.set_grad_enabled costs a microsecond for what this does in 50 ns.
set_grad = torch._C._set_grad_enabled


class Step:
    """How a run takes a step; made once, when it starts.

    Model, loss and optimizers may be replaced while it lasts: they are read from `now` and from the
    run at each use.

    Args:
        now: The batch under way.
        optimizers: The optimizers of the run by name; None for one that only lends its name.
        calls: The calls of a training step.
        has_forward: False for a model that answers with its input.
        own: The module's own step, if it has one.
        own_loop: True if the user writes the loop.
        backward: Called as `backward(loss)` in the place of `loss.backward()`.

    Attributes:
        closures: The optimizers that evaluate the loss several times a step.
        is_own: True if it is the user who takes the step.
        is_plain: True if predicting and comparing are bare calls of the model and the loss.
        is_direct: True if a loss is differentiated as it is, for the one optimizer, which steps
            then; known when a training pass has begun.
        unchecked: The optimizers that have not stepped yet.
        windows: Which batches a step is for, and at which scale.
    """

    __slots__ = (
        "_backward",
        "_has_forward",
        "_kinds",
        "_precision",
        "calls",
        "closures",
        "is_direct",
        "is_own",
        "is_plain",
        "now",
        "own",
        "unchecked",
        "windows",
    )

    def __init__(
        self,
        now: Now,
        optimizers: Mapping[str, Any],
        calls: Calls,
        *,
        has_forward: bool = True,
        own: Callable[[Any], Any] | None = None,
        own_loop: bool = False,
        backward: Callable[[Any], Any] | None = None,
    ) -> None:
        self.now, self.calls, self.own = now, calls, own
        self.closures = _closures(optimizers)
        self._kinds = {name: type(each) for name, each in optimizers.items()}
        self.is_own = own_loop or own is not None
        self.is_plain, self.is_direct = has_forward, False
        self.unchecked = set(optimizers)
        self.windows = Windows()
        self._has_forward, self._backward = has_forward, backward
        self._precision: Callable[[], Any] = contextlib.nullcontext

    def set_precision(self, accelerator: Accelerator, optimizers: Mapping[str, Any]) -> None:
        """Put model and loss under autocast, and a scaler on each loss where the precision asks."""
        if accelerator.autocasts:
            self.is_plain, self._precision = False, accelerator.autocast
        for name, optimizer in optimizers.items():
            scaler = None if optimizer is None else accelerator.scaler()
            if scaler is not None:
                if name in self.closures:
                    raise ArgumentError(_TWO_SCALES.format(type(optimizer).__name__))
                self.windows.scale(name, optimizer, scaler)

    def begin_pass(self, run: RunState, length: int | None) -> None:
        """Begin a training pass: its windows are empty.

        Args:
            run: The run.
            length: The number of batches in the pass; None where it is not known.
        """
        if self.windows.in_use:
            self.windows.begin_pass(length)
            self.clear(run, whole=True)

    def see_optimizers(self, run: RunState) -> None:
        """Look at the optimizers, which callbacks may have replaced: how do losses reach them?"""
        kinds = {name: type(each) for name, each in run.optimizers.items()}
        if kinds != self._kinds:
            self._kinds, self.closures = kinds, _closures(run.optimizers)
        is_alone = len(run.optimizers) == 1 and self._backward is None
        self.is_direct = is_alone and not self.windows.in_use

    # -- the model and the loss ------------------------------------------------------------------

    def predict(self, batch: Any) -> Any:
        """Return the model's answer to the input of the batch."""
        source = input_and_target(batch)[0]
        if not self._has_forward:
            return source
        with self._precision():
            return self.now.model(source)

    def answer(self, batch: Any, own: Callable[[Any], Any] | None) -> Any:
        """Return what a user is given: by the module's own `predict`, where it has one."""
        if own is None:
            kind = type(batch)
            if self.is_plain and (kind is list or kind is tuple) and batch:
                return self.now.model(batch[0])
            return self.predict(batch)
        with self._precision():
            return own(input_and_target(batch)[0])

    def compute_loss(self, batch: Any) -> Any:
        """Return the loss of prediction and target, a scalar with its graph."""
        now, target = self.now, input_and_target(batch)[1]
        if target is None:
            check_target(now.loss_fn, batch)
        with self._precision():
            return now.loss_fn(now.pred, target)

    def keep_loss(self, run: RunState) -> None:
        """Put the loss under the name of its optimizer, where there are several."""
        now = self.now
        if len(run.optimizers) > 1 and now.opt_name is not None:
            now.losses = now.losses or {}
            now.losses[now.opt_name] = now.loss_grad

    # -- the backward pass -----------------------------------------------------------------------

    def backward(self, run: RunState, loss: Any) -> None:
        """Run the backward pass of a loss: none but the parameters it is of get gradients."""
        now = self.now
        if self.windows.in_use:
            if now.opt_name is None:
                raise ContextError(_WHOSE.format(next(iter(run.optimizers))))
            if type(loss) is not Tensor or loss.dim():
                check_scalar(loss, now.loss_fn)
            self.keep_loss(run)
            weight = run.batch_size if now.loss_weight is None else now.loss_weight
            loss = self.windows.weigh(now.opt_name, loss, weight, run.step_count)
            if loss is None:
                return
        if len(run.optimizers) <= 1 or self._prepare_joint(run):
            self._run_backward(loss)
            return
        self.keep_loss(run)
        own = parameters_of(now.opt)
        if self._backward is not None:
            self._run_backward_apart(run, own, loss)
        elif own:  # else all of it is frozen, and without inputs every leaf would get a gradient
            self.calls.backward(loss, own)

    def _run_backward(self, loss: Any) -> None:
        if self._backward is None:
            self.calls.backward(loss, ())
        else:
            self._backward(loss)

    def _run_backward_apart(self, run: RunState, own: tuple[Tensor, ...], loss: Any) -> None:
        """Differentiate by the user's function; what it leaves on others is taken away again."""
        mine = {id(p) for p in own}
        steppable = [p for each in run.optimizers.values() for p in parameters_of(each)]
        others = [p for p in (*steppable, *self.now.model.parameters()) if id(p) not in mine]
        before = [p.grad for p in others]
        for p in others:
            p.grad = None
        self._run_backward(loss)
        for p, grad in zip(others, before, strict=True):
            p.grad = grad

    def _prepare_joint(self, run: RunState) -> bool:
        """True if the loss was said to be of no optimizer: it reaches all of them.

        What an earlier such loss has left on those that did not step on it is cleared: where some
        stepped, it was meant for these.
        """
        now = self.now
        if now.stepped:
            for name, optimizer in run.optimizers.items():
                if name not in now.stepped:
                    self.calls.zero_grad(optimizer)
            now.stepped = None
        if now.opt_name is not None:
            return False
        now.stepped = set()
        return True

    # -- the optimizer ---------------------------------------------------------------------------

    def prepare_step(self, run: RunState) -> bool:
        """True if the optimizer under way is to step; its gradients are then those of the step."""
        set_grad(False)
        due = self.windows.prepare_step(
            self.now.opt_name, self.now.opt, run.iter, self.calls.zero_grad
        )
        set_grad(True)
        return due

    def step_with_closure(self, optimizer: Any, again: Callable[[], Any] | None) -> None:
        """Step an optimizer that evaluates the batch several times, which `again` does."""
        if again is None:
            raise ContextError(_NO_CLOSURE.format(type(optimizer).__name__))
        evaluate, now = again, self.now
        pred, loss = now.pred, now.loss_grad
        # LBFGS asks first for where it stands. That is known where the batch was differentiated;
        # another optimizer may have moved by then.
        is_known = isinstance(optimizer, torch.optim.LBFGS) and loss is not None
        known = [loss] if is_known and gradients_of(optimizer) else []

        def closure() -> Any:
            if known:
                return known.pop()
            with torch.enable_grad():
                return evaluate()

        optimizer.step(closure)
        # The batch counts as it was before the step.
        now.pred, now.loss_grad = pred, loss

    def clear(self, run: RunState, whole: bool = False) -> None:
        """Clear the gradients of every optimizer: the batch under way was left.

        With `whole`, also those that earlier batches have gathered.
        """
        for name, optimizer in run.optimizers.items():
            if not self.windows.keeps_earlier(name, None if whole else run.step_count):
                self.calls.zero_grad(optimizer)


def _closures(optimizers: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name for name, each in optimizers.items() if needs_closure(each))


def parameters_of(optimizer: Any) -> tuple[Tensor, ...]:
    """Return the parameters that an optimizer steps and that take gradients."""
    return tuple(p for g in optimizer.param_groups for p in g["params"] if p.requires_grad)


_TWO_SCALES = (
    "{} evaluates the loss several times a step, which does not go with the scaled loss of "
    "float16. Use bfloat16."
)
_WHOSE = (
    "With several optimizers, accumulation and float16 have to know whose loss it is: "
    'ctx.backward(loss, "{}").'
)
_NO_CLOSURE = (
    "{} evaluates the loss several times a step. Say how: ctx.step_optimizer(closure=...), a "
    "function that gives the loss, its gradients done."
)
