"""`ctx`: what a run, its callbacks, its model and its metrics share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lumbre import loop
from lumbre._core import nearest
from lumbre.backward import keep_loss
from lumbre.data import input_and_target
from lumbre.draws import restore_loader
from lumbre.errors import ContextError
from lumbre.logbook import Logbook
from lumbre.now import Now
from lumbre.state import restore, state_of

if TYPE_CHECKING:
    from lumbre.backward import Part
    from lumbre.fast_step import Road
    from lumbre.update import Updates

_UNSET = ("optimizers", "handlers", "epoch_handlers", "buffers", "hparams", "opt_hparams")


def _of_now(name: str, doc: str) -> Any:
    def put(ctx: Context, value: Any) -> None:
        setattr(ctx._now, name, value)

    return property(attrgetter(f"_now.{name}"), put, doc=doc)


class Context(Logbook):
    """Everything about the run under way.

    Counters, wishes, records and the compiled plan live in Rust, in the base class; the model, its
    optimizers and the tensors of the batch live here.
    """

    __slots__ = (
        "__weakref__",
        "_closures",
        "_compare",
        "_differentiate",
        "_grad_outside",
        "_interrupt_fired",
        "_now",
        "_own_step",
        "_pass",
        "_predict",
        "_road",
        "_steps",
        "_updates",
        "_waiting",
        "accelerator",
        "buffers",
        "callbacks",
        "data",
        "device",
        "epoch_handlers",
        "exception",
        "handlers",
        "hparams",
        "opt_hparams",
        "optimizers",
        "train_data",
        "valid_data",
        "verbose",
    )

    accelerator: Any
    buffers: dict[str, Any]
    callbacks: list[Any]
    data: Any
    device: torch.device
    epoch_handlers: dict[type[BaseException], Callable[[Context, BaseException], Any]]
    exception: BaseException | None
    handlers: dict[type[BaseException], Callable[[Context, BaseException], Any]]
    hparams: dict[str, Any]
    opt_hparams: dict[str, Any]
    optimizers: dict[str, Any]
    train_data: Any
    valid_data: Any
    verbose: bool
    _grad_outside: bool
    _interrupt_fired: bool
    _now: Now
    _closures: frozenset[str]
    _compare: Part
    _differentiate: Part
    _own_step: bool
    _pass: object | None
    _predict: Part
    _road: Road
    _steps: tuple[Callable[[Context], Any], Callable[[Context], Any]]
    _updates: Updates | None
    _waiting: dict[str, Any] | None

    def __init__(self) -> None:
        super().__init__()
        for slot in self.__slots__:
            if slot != "__weakref__":
                setattr(self, slot, {} if slot in _UNSET else None)
        self._grad_outside = self._interrupt_fired = False
        self._closures = frozenset()
        self._now = Now()
        self.callbacks = []

    model = _of_now("model", "The module under training, on its device.")
    loss_fn = _of_now("loss_fn", "Called as `loss_fn(pred, target)`; may be replaced.")
    opt = _of_now("opt", "The optimizer under way.")
    step = _of_now("step", "The step of the pass under way, called as `step(ctx)`.")
    step_opt = _of_now("step_opt", "Called as `step_opt(optimizer)`; may be replaced.")
    batch = _of_now("batch", "The batch as the loader gave it, on the device.")
    pred = _of_now("pred", "What the model answered; may be replaced.")
    loss_grad = _of_now("loss_grad", "The loss with its graph; may be replaced.")

    @property
    def opt_name(self) -> Any:
        """The name of the optimizer under way; "opt" when there is one.

        None in a step of one's own with several optimizers, until the step says which it means.
        Setting it sets `ctx.opt`.
        """
        return self._now.opt_name

    @opt_name.setter
    def opt_name(self, name: str | None) -> None:
        self._now.opt = None if name is None else self._optimizer(name)
        self._now.opt_name = name

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
        """What the loss of the batch was divided by: `ctx.batch_size`, unless set.

        A loss whose denominator is another one (class weights, `ignore_index`) sets it, so that
        `GradientAccumulation` is exact. It is forgotten when the next batch begins.
        """
        weight = self._now.loss_weight
        return self.batch_size if weight is None else weight

    @loss_weight.setter
    def loss_weight(self, weight: float) -> None:
        self._now.loss_weight = weight

    # -- the batch -------------------------------------------------------------------------------

    @property
    def input(self) -> Any:
        """The first item of the batch; all of it when the batch is one tensor or a mapping."""
        return input_and_target(self.batch)[0]

    @input.setter
    def input(self, value: Any) -> None:
        items = _items(self.batch)
        self.batch = value if items is None else [value, *items[1:]]

    @property
    def target(self) -> Any:
        """The second item of the batch; None when there is none."""
        return input_and_target(self.batch)[1]

    @target.setter
    def target(self, value: Any) -> None:
        items = _items(self.batch)
        self.batch = [self.batch, value] if items is None else [items[0], value, *items[2:]]

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
        now.loss_grad = None
        only = next(iter(self.optimizers), "opt")
        now.losses = dict(value) if isinstance(value, Mapping) else {only: value}

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
        restore_loader(self, "train", loader)
        return loop.train(self, loader)

    def valid(self, loader: Any) -> Iterator[Any]:
        """The batches of a validation pass, on the device; gradients are off. As `train`."""
        self.valid_data = loader
        restore_loader(self, "valid", loader)
        return loop.valid(self, loader)

    # -- the parts of a step ---------------------------------------------------------------------

    def forward(self) -> Any:
        """Run the model on `ctx.input` and fire the breakpoint after it; returns `ctx.pred`.

        In a batch that was skipped, this and the other parts fire nothing; those that would change
        gradients or weights do nothing at all.
        """
        loop.forward(self, self._fire())
        return self.pred

    def compute_loss(self) -> Any:
        """Compute `ctx.loss_fn(ctx.pred, ctx.target)` and fire the breakpoint after it.

        Returns:
            `ctx.loss_grad`, the loss with its graph.
        """
        loop.compute_loss(self, self._fire())
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
        now = self._now
        if loss is not None:
            now.loss_grad = loss
        if not self.training or self.skipped:
            return
        before = now.opt_name
        if name is not None:
            self.opt_name = name
        loop.backward(self, self.call_callbacks)
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
        again = None if closure is None else lambda _: closure()
        for each in names:
            if not self.training or self.skipped:
                break
            self.opt_name = each
            if now.losses is None or each not in now.losses:
                keep_loss(self)
            loop.step_optimizer(self, self.call_callbacks, again)
            if now.stepped is not None:
                now.stepped.add(each)
        self.opt_name = before

    def _fire(self) -> Callable[[str], bool]:
        return _silent if self.skipped else self.call_callbacks

    # -- the state -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to go on later: a tree of tensors and plain values.

        Its parts are `model`, `optimizers` and `scalers` by name, `callbacks` by name (what each
        one's `state_dict()` gives), `records`, `progress` (epoch, steps), `rng` and the
        `generators` of the loaders. Tensors are the run's own: copy what has to outlive the next
        step. `ctx.buffers` is no part of it.
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

    # -- the rest --------------------------------------------------------------------------------

    def _first_batch(self) -> None:
        """Look once at what is easy to get wrong with shapes."""
        from lumbre.step import check_shapes

        check_shapes(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a model made during a run has no run: its `ctx` is None."""
        return

    def __reduce__(self) -> tuple[Any, ...]:
        return (_no_context, ())

    def __repr__(self) -> str:
        return f"<ctx: {self.place}>"


def _silent(name: str) -> bool:
    """What fires in a batch that is to be left."""
    return True


def _no_context() -> None:
    """What a pickled `ctx` becomes."""


def _items(batch: Any) -> list[Any] | None:
    return list(batch) if isinstance(batch, tuple | list) else None


def _names() -> list[str]:
    return sorted(name for name, _ in inspect.getmembers_static(Context) if name[0] != "_")


def unknown(name: str) -> ContextError:
    """The error for reading an attribute that is not there."""
    near = nearest(name, _names())
    hint = (
        f'Did you mean "{near}"?' if near else f"What callbacks keep is in ctx.buffers[{name!r}]."
    )
    return ContextError(f"ctx has no attribute {name!r}. {hint}")


def unsettable(name: str) -> ContextError:
    """The error for setting an attribute that is not there or is the run's to count."""
    if name in _names():
        return ContextError(f"ctx.{name} is kept by the run and cannot be set.")
    near = nearest(name, _names())
    hint = f'Did you mean "{near}"? ' if near else ""
    return ContextError(
        f"ctx has no attribute {name!r}. {hint}"
        f"To share a value with other callbacks: ctx.buffers[{name!r}] = value."
    )
