"""`ctx`: what a run, its callbacks, its model and its metrics share, and can ask of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from lumbre.data.draws import restore_loader
from lumbre.engine import loop
from lumbre.engine.parts import Parts, parts_of, step_of
from lumbre.engine.resume import restore, state_of
from lumbre.errors import ContextError
from lumbre.state.run_state import RunState
from lumbre.step.checks import check_first_batch
from lumbre.text import did_you_mean


class Context(RunState):
    """Everything about the run under way, and what can be asked of it."""

    __slots__ = ("__weakref__",)

    # -- the passes of a loop of one's own -------------------------------------------------------

    def epochs(self) -> Iterator[int]:
        """The epochs of a run whose loop is your own (see `lb.run`), counted from 1.

        Fires `on_fit_begin`, `on_epoch_begin`, `on_epoch_end` and `on_fit_end` around the body of
        `for epoch in ctx.epochs()`. They end with the last one, or with a stop.
        """
        return loop.epochs(self)

    def train(self, loader: Any) -> Iterator[Any]:
        """The batches of a training pass, on the device; gradients are on.

        Fires `on_train_begin`, `on_train_batch_begin`, `on_train_batch_end` and `on_train_end`
        around the body of `for batch in ctx.train(loader)`. A batch that a callback skips is not
        given. A pass that is left by `break` is closed when the loop around it goes on.

        Args:
            loader: A DataLoader, or anything that gives batches; a new iterator is made of it.
        """
        self.train_data = loader
        restore_loader(loader, "train", self._waiting.pop("train", None))
        return loop.train(self, loader)

    def valid(self, loader: Any) -> Iterator[Any]:
        """The batches of a validation pass, on the device; gradients are off. As `train`."""
        self.valid_data = loader
        restore_loader(loader, "valid", self._waiting.pop("valid", None))
        return loop.valid(self, loader)

    # -- the parts of a step ---------------------------------------------------------------------

    def forward(self) -> Any:
        """Run the model on `ctx.input` and fire the breakpoint after it; returns `ctx.pred`.

        In a batch that was skipped, this and the other parts fire nothing; those that would change
        gradients or weights do nothing at all.
        """
        if self.skipped:
            self.pred = step_of(self).predict(self.batch)
        else:
            self._own_parts().forward()
        return self.pred

    def compute_loss(self) -> Any:
        """Compute `ctx.loss_fn(ctx.pred, ctx.target)` and fire the breakpoint after it.

        Returns:
            `ctx.loss_grad`, the loss with its graph.
        """
        if self.skipped:
            loss = step_of(self).compute_loss(self.batch)
            self.loss_grad = loss[0] if type(loss) is tuple and loss else loss
        else:
            self._own_parts().compute_loss()
        return self.loss_grad

    def backward(self, loss: Tensor | None = None, name: str | None = None) -> None:
        """Fire the breakpoint before the backward pass, then run it; nothing in validation.

        With several optimizers, only the parameters of the one that is named get gradients. With
        none named the loss reaches them all: a joint one, to be stepped on by several, or that of
        the one that steps next; what others have got of it is cleared before the next loss.

        Args:
            loss: A scalar with its graph; `ctx.loss_grad` unless given.
            name: Whose loss it is; `ctx.opt_name` unless given.
        """
        if loss is not None:
            self.loss_grad = loss
        if not self.training or self.skipped:
            return
        before = self.opt_name
        if name is not None:
            self.opt_name = name
        self._own_parts().backward()
        self.opt_name = before

    def step_optimizer(
        self, name: str | None = None, closure: Callable[[], Any] | None = None
    ) -> None:
        """Step an optimizer and clear its gradients, firing the breakpoints before and after.

        Nothing happens in validation, and while a window of `GradientAccumulation` is open.

        Args:
            name: Which of `ctx.optimizers`; unless given `ctx.opt_name`, or each of them in turn.
            closure: For an optimizer that evaluates the loss several times a step, such as LBFGS:
                clears the gradients, computes them anew, and returns the loss.
        """
        now = self._now
        if not self.optimizers:
            raise ContextError(
                "There is no optimizer to step: pass one to lb.setup, or define set_optimizers."
            )
        before = now.opt_name
        names = [name or before] if name or before else list(self.optimizers)
        for each in names:
            if not self.training or self.skipped:
                break
            self.opt_name = each
            if now.losses is None or each not in now.losses:
                step_of(self).keep_loss(self)
            self._own_parts().step_optimizer(closure)
            if now.stepped is not None:
                now.stepped.add(each)
        self.opt_name = before

    def _own_parts(self) -> Parts:
        """Return the parts of the pass under way, or where there is none those of validation."""
        if self._parts is None:
            self._parts = parts_of(self, step_of(self), self.training)
        parts: Parts = self._parts
        return parts

    @property
    def checkpoint(self) -> str | None:
        """The path of the file that was written last, at `on_checkpoint`; None before the first."""
        return self._checkpoint

    def _attend(self) -> None:
        """Between two batches: hear of what was written, and write what is due."""
        if self._writing is not None:
            self._writing.hear()
        if self._keeper is not None:
            self._keeper.attend()

    # -- the state -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to go on later: a tree of tensors and plain values.

        Its parts are `model`, `optimizers` and `scalers` by name, `callbacks` by name (what each
        one's `state_dict()` gives), `records`, `steps` (the columns of `StepHistory`), `progress`
        (epoch, steps), `gradients`, `rng` and the `generators` of the loaders. Tensors are the
        run's own: copy what has to outlive the next step. `ctx.buffers` is no part of it.
        """
        return state_of(self)

    def load_state_dict(
        self,
        state: Mapping[str, Any],
        *,
        model: bool = True,
        optimizers: bool = True,
        callbacks: bool = True,
        records: bool = True,
        progress: bool = True,
        rng: bool = True,
    ) -> None:
        """Go on from what `state_dict` gave at the end of an epoch.

        To be called at `on_fit_begin`, by a callback that comes after those whose state it loads.

        Args:
            state: What `state_dict` gave.
            model: Whether to load the weights.
            optimizers: Whether to load the optimizers' state, and that of the scalers of float16.
            callbacks: Whether to load the callbacks' state, each by its name.
            records: Whether to take over the records.
            progress: Whether to go on with the next epoch, instead of the first.
            rng: Whether to draw the same random numbers as the run that was saved would have.

        Raises:
            ArgumentError: when the optimizers are others than those of the state.
        """
        parts = {
            "model": model,
            "optimizers": optimizers,
            "callbacks": callbacks,
            "records": records,
            "progress": progress,
            "rng": rng,
        }
        restore(self, state, parts)

    def _first_batch(self) -> None:
        """Look once at what is easy to get wrong with shapes."""
        check_first_batch(self, is_own=step_of(self).is_own)


def _names() -> list[str]:
    return sorted(name for name, _ in inspect.getmembers_static(Context) if name[0] != "_")


def unknown(name: str) -> ContextError:
    """Make the error for reading an attribute that is not there."""
    hint = did_you_mean(name, _names(), f"What callbacks keep is in ctx.buffers[{name!r}].")
    return ContextError(f"ctx has no attribute {name!r}. {hint}")


def unsettable(name: str) -> ContextError:
    """Make the error for setting an attribute that is not there or is the run's to count."""
    if name in _names():
        return ContextError(f"ctx.{name} is kept by the run and cannot be set.")
    share = f"To share a value with other callbacks: ctx.buffers[{name!r}] = value."
    hint = did_you_mean(name, _names())
    return ContextError(f"ctx has no attribute {name!r}. {f'{hint} {share}' if hint else share}")
