"""How a model is made and trained, apart from any run."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from torch import nn
from torch.optim import Optimizer

from lumbre.errors import ArgumentError, ArgumentTypeError
from lumbre.metrics.base import MetricSet
from lumbre.step.checks import method_of


@dataclasses.dataclass(frozen=True, repr=False)
class Recipe:
    """The parts that `setup` was given, and the hparams; it never changes.

    Attributes:
        module: A class or factory, or a module that is there already.
        loss: Called as `loss(pred, target)`; None for the module's own.
        optimizer: A class or factory, or an optimizer; None for the module's `set_optimizers`.
        metrics: Which metrics are measured on which data.
        backward: Called as `backward(loss)`; None for the module's own, or the loss's.
        hparams: What builds the module.
        opt_hparams: What builds the optimizer.
    """

    module: nn.Module | Callable[..., nn.Module]
    loss: Callable[..., Any] | None
    optimizer: Any
    metrics: MetricSet
    backward: Callable[..., Any] | None
    hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    opt_hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def build(self) -> nn.Module:
        """Make the module of the hparams, or give the one that is there."""
        if isinstance(self.module, nn.Module):
            return self.module
        with _noted(f"in {name_of(self.module)}, built with {_given('hparams', self.hparams)}"):
            model = self.module(**self.hparams)
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(
                f"{name_of(self.module)} has to give a torch.nn.Module; it gave {model!r}."
            )
        return model

    def optimizers(self, model: nn.Module) -> dict[str, Optimizer]:
        """Make the optimizers of a model, by name; none where its own step does without."""
        made: Any
        given = _given("opt_hparams", self.opt_hparams)
        has_step = method_of(model, "step") is not None
        set_optimizers = method_of(model, "set_optimizers")
        if isinstance(self.optimizer, Optimizer):
            made = self.optimizer
        elif self.optimizer is not None:
            with _noted(f"in {name_of(self.optimizer)}, made with the parameters and {given}"):
                made = self.optimizer(model.parameters(), **self.opt_hparams)
        elif set_optimizers is not None:
            with _noted(f"in {name_of(model)}.set_optimizers, called with {given}"):
                made = set_optimizers(**self.opt_hparams)
        elif has_step:
            made = {}
        else:
            no_optimizer()
        found = {"opt": made} if isinstance(made, Optimizer) else made
        if (
            not isinstance(found, Mapping)
            or not all(isinstance(each, Optimizer) for each in found.values())
            or not (found or has_step)
        ):
            source = "optimizer" if self.optimizer is not None else "set_optimizers"
            raise ArgumentTypeError(
                f"{source} has to give a torch.optim.Optimizer or a dict of them; it gave {made!r}."
            )
        return dict(found)

    def may_have(self, name: str) -> bool:
        """True if the module defines it, as far as that can be known before it is built."""
        if not isinstance(self.module, type):
            return hasattr(self.module, name) or not isinstance(self.module, nn.Module)
        inits = (vars(kind).get("__init__") for kind in self.module.__mro__)
        codes = (getattr(init, "__code__", None) for init in inits)
        sets = any(name in code.co_names for code in codes if code is not None)
        return hasattr(self.module, name) or sets


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


def name_of(value: Any) -> str:
    """Return the name of a class or function, or that of the class of anything else."""
    if inspect.isclass(value) or inspect.isroutine(value):
        return getattr(value, "__name__", repr(value))
    return type(value).__name__


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


def no_loss() -> NoReturn:
    """Say every way to a loss."""
    raise ArgumentError(
        "There is no way to a loss. Pass one, lb.setup(..., loss=nn.MSELoss()), or let the module "
        "define loss(self, pred, target), or the whole step(self, ctx). To evaluate a model from a "
        "file: lb.load(..., loss=nn.MSELoss())."
    )


def no_optimizer() -> NoReturn:
    """Say every way to an optimizer."""
    raise ArgumentError(
        "There is no way to an optimizer. Pass one, lb.setup(..., optimizer=torch.optim.Adam), or "
        "let the module define set_optimizers(self, **opt_hparams), which gives one or a dict of "
        "them, or the whole step(self, ctx)."
    )
