"""`setup`: how a model is trained, before there is any data."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import numbers
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, cast

from torch import nn
from torch.optim import Optimizer

from lumbre.accelerator import Accelerator, as_accelerator
from lumbre.callbacks.default import default_callbacks
from lumbre.callbacks.progress import Progress, is_shown
from lumbre.data import loaders as data_module
from lumbre.engine import loop
from lumbre.engine.context import Context
from lumbre.engine.guard import RunGuard
from lumbre.errors import ArgumentError, ArgumentTypeError
from lumbre.fit.keywords import explained
from lumbre.hooks.foreign import Callbacks, as_callbacks
from lumbre.hooks.schedule import compile_schedule
from lumbre.metrics.sets import MetricSet, as_metric_set, meter
from lumbre.step import backward as backward_pass
from lumbre.step import step
from lumbre.step.shortcuts import fast_road

if TYPE_CHECKING:
    from lumbre.fit.fitted import Fitted
    from lumbre.fit.lr_records import LRRecords


@explained
def setup(
    module: nn.Module | Callable[..., nn.Module],
    loss: Callable[..., Any] | None = None,
    optimizer: Any = None,
    metrics: Any = None,
    backward: Callable[..., Any] | None = None,
) -> Trainable:
    """Say how a model is trained.

    What is given here wins over what the module defines: it may have `loss(self, pred, target)`,
    `set_optimizers(self, **opt_hparams)`, `step(self, ctx)`, `predict(self, x)` and
    `backward(self, loss)`.

    Args:
        module: A class or factory, called with the hparams at fit; or a module, trained in place.
        loss: Called as `loss(pred, target)`; gives a scalar.
        optimizer: A class or factory, called as `optimizer(params, **opt_hparams)`; or, with a
            module that is there already, an optimizer of its parameters.
        metrics: One, a list, or a `MetricSet`.
        backward: Called as `backward(loss)` in the place of `loss.backward()`.

    Returns:
        What `fit` is called on.

    Raises:
        ArgumentTypeError: when a class is passed for an instance or the other way round.
        ArgumentError: when there is no way to a loss or to an optimizer; when the optimizer is
            that of another module.

    Example:
        >>> import lumbre as lb, torch
        >>> lb.setup(torch.nn.Linear, torch.nn.MSELoss(), torch.optim.SGD)
        Trainable(Linear, loss=MSELoss, optimizer=SGD)
    """
    check_parts(module, loss, backward)
    if isinstance(optimizer, Optimizer):
        if not isinstance(module, nn.Module):
            raise ArgumentTypeError(
                f"An optimizer's instance belongs to a module's instance. Pass the class: "
                f"optimizer={type(optimizer).__name__}, and its options by set_opt_hparams(...)."
            )
        own = set(map(id, module.parameters()))
        if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            raise ArgumentError(
                f"The {type(optimizer).__name__} steps no parameter of this "
                f"{type(module).__name__}: it would learn nothing. Make it of the module's own: "
                f"{type(optimizer).__name__}(module.parameters(), ...)."
            )
    elif optimizer is not None and not callable(optimizer):
        raise ArgumentTypeError(
            f"optimizer is a class such as torch.optim.Adam, or a function; got {optimizer!r}."
        )
    trainable = Trainable(module, loss, optimizer, as_metric_set(metrics), backward)
    if not trainable._may_have("step"):
        if loss is None and not trainable._may_have("loss"):
            _no_loss()
        if optimizer is None and not trainable._may_have("set_optimizers"):
            _no_optimizer()
    return trainable


def check_parts(module: Any, loss: Any, backward: Any = None) -> None:
    """Refuse what can be neither a module, or what makes one, nor a loss, nor a backward."""
    if not (isinstance(module, nn.Module) or callable(module)):
        raise ArgumentTypeError(
            "module is a subclass of torch.nn.Module, a function that makes a module, or a module; "
            f"got {module!r}."
        )
    if isinstance(loss, type):
        raise ArgumentTypeError(
            f"loss is the class {loss.__name__} where an instance is due: write {loss.__name__}()."
        )
    for name, value in (("loss", loss), ("backward", backward)):
        if value is not None and not callable(value):
            raise ArgumentTypeError(f"{name} is a function or a module; got {value!r}.")


@dataclasses.dataclass(frozen=True, repr=False)
class Trainable:
    """A model and how it is trained; made by `setup`. It never changes: methods give a new one."""

    module: nn.Module | Callable[..., nn.Module]
    loss: Callable[..., Any] | None
    optimizer: Any
    metrics: MetricSet
    backward: Callable[..., Any] | None
    hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    opt_hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def set_hparams(self, **hparams: Any) -> Trainable:
        """Arguments for the module's class, in addition to those set before."""
        if isinstance(self.module, nn.Module) and hparams:
            raise ArgumentError(
                f"hparams build the module, and this one is there already. Pass the class: "
                f"lb.setup({type(self.module).__name__}, ...)."
            )
        return dataclasses.replace(self, hparams={**self.hparams, **hparams})

    def set_opt_hparams(self, **opt_hparams: Any) -> Trainable:
        """Arguments for the optimizer's class or `set_optimizers`, in addition to those before."""
        if isinstance(self.optimizer, Optimizer) and opt_hparams:
            raise ArgumentError(
                "opt_hparams build the optimizer, and this one is there already. Pass the class: "
                f"optimizer={type(self.optimizer).__name__}."
            )
        return dataclasses.replace(self, opt_hparams={**self.opt_hparams, **opt_hparams})

    @explained
    def fit(
        self,
        data: Any,
        epochs: int | tuple[int, int] = 10,
        callbacks: Callbacks = (),
        valid_data: Any = None,
        accelerator: Accelerator | None = None,
        verbose: bool | None = None,
        dataloader_options: Mapping[str, Any] | None = None,
    ) -> Fitted:
        """Train.

        Args:
            data: A DataLoader, a Dataset, a list of tensors or arrays, or anything that
                `as_dataloader` has learned.
            epochs: How many, or (min, max): between the two `EarlyStopping` decides.
            callbacks: What runs beside the default callbacks.
            valid_data: As `data`; or the fraction of it to hold back, between 0 and 1.
            accelerator: Where to train; the best device there is unless given.
            verbose: Whether to show the progress; by default in a terminal or notebook only.
            dataloader_options: Keywords for the loaders that lumbre makes: a batch size of 32, and
                training data shuffled, unless told otherwise.

        Returns:
            The trained model with its records; also after a stop, Ctrl-C, or an exception that
            `ctx.handlers` deals with.
        """
        from lumbre.fit.fitted import Fitted

        min_epochs, max_epochs = epochs_pair(epochs)
        own = as_callbacks(callbacks)
        accelerator = as_accelerator(accelerator)
        model = accelerator.prepare_model(self.build())
        optimizers = self._optimizers(model)
        train, valid = data_module.loaders(data, valid_data, dataloader_options)
        ctx = make_context(self, model, optimizers, accelerator, own, verbose)
        ctx.min_epochs, ctx.max_epochs = min_epochs, max_epochs
        ctx.train_data, ctx.valid_data = train, valid
        for each in optimizers.values():
            each.zero_grad()
        with RunGuard(ctx, "fit"):
            loop.fit(ctx)
        return Fitted(
            self, accelerator.unwrap(ctx.model), ctx.records, ctx.stop_reason, list(optimizers)
        )

    @explained
    def lr_finder(
        self,
        data: Any,
        steps: int = 100,
        start_lr: float = 1e-7,
        end_lr: float = 1e-1,
        log_spaced_intervals: bool = True,
        opt_name: str | None = None,
        accelerator: Accelerator | None = None,
        verbose: bool | None = None,
        dataloader_options: Mapping[str, Any] | None = None,
    ) -> LRRecords:
        """Train on learning rates that rise from batch to batch, to see which one to begin with.

        It ends early when the loss explodes: when its average is four times the lowest one, or it
        is not finite. Data with fewer batches than steps is gone through again. Trained is a copy:
        module, optimizer and loss, hparams, and the random numbers of torch, numpy and Python stay
        as they are. A function that makes the module has to make a new one.

        Args:
            data: As in `fit`.
            steps: How many rates, a batch each.
            start_lr: The first rate.
            end_lr: The last one.
            log_spaced_intervals: Whether each rate is the one before times a factor; else the steps
                between them are equal.
            opt_name: Whose rate, where there are several optimizers; the others keep theirs.
            accelerator: Where to train; the best device there is unless given.
            verbose: Whether to show the progress; by default in a terminal or notebook only.
            dataloader_options: As in `fit`.

        Returns:
            The losses by rate, with `to_pandas()`, `plot()` and `suggestion()`. Of the optimizer's
            options only `lr` is replaced; parameter groups whose `lr` is their own keep its ratio
            to that of the optimizer.

        Raises:
            ArgumentError: when the rates do not rise, or it is not clear whose rate is meant.
        """
        from lumbre.fit.lr_finder import find_lr

        return find_lr(
            self,
            data,
            steps,
            start_lr,
            end_lr,
            log_spaced_intervals,
            opt_name,
            accelerator,
            verbose,
            dataloader_options,
        )

    def build(self) -> nn.Module:
        """Make the module of the hparams, or give the one that is there."""
        if isinstance(self.module, nn.Module):
            return self.module
        with _noted(f"in {_name(self.module)}, built with {_given('hparams', self.hparams)}"):
            model = self.module(**self.hparams)
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(
                f"{_name(self.module)} has to give a torch.nn.Module; it gave {model!r}."
            )
        return model

    def _optimizers(self, model: nn.Module) -> dict[str, Optimizer]:
        made: Any
        if isinstance(self.optimizer, Optimizer):
            made = self.optimizer
        elif self.optimizer is not None:
            given = _given("opt_hparams", self.opt_hparams)
            with _noted(f"in {_name(self.optimizer)}, made with the parameters and {given}"):
                made = self.optimizer(model.parameters(), **self.opt_hparams)
        elif hasattr(model, "set_optimizers"):
            given = _given("opt_hparams", self.opt_hparams)
            with _noted(f"in {_name(model)}.set_optimizers, called with {given}"):
                made = cast(Any, model).set_optimizers(**self.opt_hparams)
        elif hasattr(model, "step"):
            made = {}
        else:
            _no_optimizer()
        found = {"opt": made} if isinstance(made, Optimizer) else made
        if (
            not isinstance(found, Mapping)
            or not all(isinstance(each, Optimizer) for each in found.values())
            or not (found or hasattr(model, "step"))
        ):
            source = "optimizer" if self.optimizer is not None else "set_optimizers"
            raise ArgumentTypeError(
                f"{source} has to give a torch.optim.Optimizer or a dict of them; it gave {made!r}."
            )
        return dict(found)

    def _may_have(self, name: str) -> bool:
        """Whether the module defines it, as far as that can be known before it is built."""
        if not isinstance(self.module, type):
            return hasattr(self.module, name) or not isinstance(self.module, nn.Module)
        inits = (vars(kind).get("__init__") for kind in self.module.__mro__)
        sets = any(name in getattr(i, "__code__", _NO_CODE).co_names for i in inits if i)
        return hasattr(self.module, name) or sets

    def __repr__(self) -> str:
        parts = [_name(self.module)]
        for what in ("loss", "optimizer"):
            value = getattr(self, what)
            if value is not None:
                parts.append(f"{what}={_name(value)}")
        parts += [f"{k}={dict(v)}" for k in ("hparams", "opt_hparams") if (v := getattr(self, k))]
        return f"Trainable({', '.join(parts)})"


class _NO_CODE:  # noqa: N801
    co_names: tuple[str, ...] = ()


def make_context(
    trainable: Trainable,
    model: nn.Module,
    optimizers: Mapping[str, Optimizer | None],
    accelerator: Accelerator,
    callbacks: list[Any],
    verbose: bool | None,
    metrics: MetricSet | None = None,
    own_loop: bool = False,
    needs_loss: bool = True,
) -> Context:
    """The context of a run, with its plan compiled."""
    ctx = Context()
    ctx.verbose = is_shown() if verbose is None else bool(verbose)
    ctx.accelerator, ctx.device, ctx.model = accelerator, accelerator.device, model
    ctx.hparams, ctx.opt_hparams = dict(trainable.hparams), dict(trainable.opt_hparams)
    ctx.optimizers = dict(optimizers)
    if optimizers:
        ctx.opt_name, ctx.opt = next(iter(optimizers.items()))
    ctx.loss_fn = _loss(trainable, model, needs_loss and not own_loop)
    # Looked up without calling anything: of a compiled or a scripted module it is not the class's.
    has_forward = inspect.getattr_static(model, "forward") is not nn.Module.forward
    ctx._predict = step.predict if has_forward else step.identity
    ctx._compare = step.compare
    own = getattr(model, "step", None)
    ctx._own_step = own_loop or own is not None
    ctx._steps = (loop.train_step, loop.valid_step) if own is None else (_own_step(own),) * 2
    ctx.step = ctx._steps[0]
    ctx._road = fast_road([each for each in optimizers.values() if each is not None], model)
    ctx.step_opt = ctx._road.step
    own_backward = trainable.backward or getattr(model, "backward", None)
    if own_backward is None and type(accelerator).backward is not Accelerator.backward:
        own_backward = accelerator.backward
    if own_backward is not None:
        ctx._differentiate = backward_pass.differentiate_own(own_backward)
    else:
        several = len(optimizers) > 1
        ctx._differentiate = (
            backward_pass.differentiate_one if several else backward_pass.differentiate
        )
    closures = (name for name, each in optimizers.items() if step.needs_closure(each))
    ctx._closures = frozenset(closures)
    step.set_precision(ctx)
    ctx.callbacks = [*default_callbacks(progress=ctx.verbose), *callbacks]
    ctx.metrics = (metrics or trainable.metrics).copies()
    names = list(optimizers) or ["opt"]
    draw = next((each.draw for each in ctx.callbacks if isinstance(each, Progress)), None)
    ctx.bind(
        compile_schedule(ctx.callbacks),
        meter(names, ctx.metrics["train"]),
        meter(names, ctx.metrics["valid"]),
        ctx._now,
        draw,
        own_loop,
    )
    return ctx


def _loss(trainable: Trainable, model: nn.Module, needed: bool) -> Callable[..., Any]:
    loss = trainable.loss if trainable.loss is not None else getattr(model, "loss", None)
    if loss is None:
        if needed and not hasattr(model, "step"):
            _no_loss()
        return _missing_loss
    if isinstance(loss, nn.Module):
        # Class weights and the like have to lie where the predictions are.
        return loss.to(next((p.device for p in model.parameters()), None))
    return cast(Callable[..., Any], loss)


def _missing_loss(pred: Any, target: Any) -> NoReturn:
    _no_loss()


def _own_step(own: Callable[[Context], Any]) -> Callable[[Context], None]:
    def run(ctx: Context) -> None:
        own(ctx)
        if ctx.skipped and ctx.training:
            step.clear_gradients(ctx)

    run.__wrapped__ = own  # type: ignore[attr-defined]
    return run


def epochs_pair(epochs: int | tuple[int, int]) -> tuple[int, int]:
    """The least and the greatest number of epochs."""
    pair = epochs if isinstance(epochs, tuple | list) else (1, epochs)
    whole = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in pair)
    if len(pair) != 2 or not whole:
        raise ArgumentError(f"epochs is a whole number or a pair (min, max); got {epochs!r}.")
    least, most = map(int, pair)
    if most < 1 or least < 0 or least > most:
        raise ArgumentError(
            "epochs is at least 1, and of a pair (min, max) the min is not above the max; "
            f"got {epochs!r}."
        )
    return least, most


@contextlib.contextmanager
def _noted(note: str) -> Iterator[None]:
    """Tell an exception where it comes from."""
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise


def _given(kind: str, options: Mapping[str, Any]) -> str:
    """Options as they were given, for the notes of errors."""
    shown = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in options.items())
    return f"the {kind} {shown}" if shown else f"no {kind}"


def _name(value: Any) -> str:
    if inspect.isclass(value) or inspect.isroutine(value):
        return getattr(value, "__name__", repr(value))
    return type(value).__name__


def _no_loss() -> NoReturn:
    raise ArgumentError(
        "There is no way to a loss. Pass one, lb.setup(..., loss=nn.MSELoss()), or let the module "
        "define loss(self, pred, target), or the whole step(self, ctx). To evaluate a model from a "
        "file: lb.load(..., loss=nn.MSELoss())."
    )


def _no_optimizer() -> NoReturn:
    raise ArgumentError(
        "There is no way to an optimizer. Pass one, lb.setup(..., optimizer=torch.optim.Adam), or "
        "let the module define set_optimizers(self, **opt_hparams), which gives one or a dict of "
        "them, or the whole step(self, ctx)."
    )
