"""How a model is made and trained, apart from any run."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from torch import nn
from torch.optim import Optimizer

from lumbre.accelerator import unwrapped
from lumbre.errors import ArgumentError, ArgumentTypeError, LumbreWarning
from lumbre.metrics.sets import MetricSet
from lumbre.step.checks import method_of
from lumbre.text import name_of
from lumbre.warn import warn


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

    def fresh(self) -> Recipe:
        """Give the same with copies of the hparams: what a run does to them is its own affair.

        Module and loss that are there already, and what is theirs, stay the user's.
        """
        kept = [each for each in (self.module, self.loss) if isinstance(each, nn.Module)]
        memo = {id(each): each for module in kept for each in _all_of(module)}
        both = {"hparams": dict(self.hparams), "opt_hparams": dict(self.opt_hparams)}
        try:
            # In one go: what stands in both stays one.
            copies = copy.deepcopy(both, dict(memo))
        except Exception:
            copies = {kind: _copied(kind, given, memo) for kind, given in both.items()}
        return dataclasses.replace(
            self, hparams=copies["hparams"], opt_hparams=copies["opt_hparams"]
        )

    def copied(self, who: str) -> Recipe:
        """Give the same with copies of what is there already, which a run would change.

        Args:
            who: What works on a copy, for the note of an error.
        """
        fields = (each.name for each in dataclasses.fields(self) if each.name != "metrics")
        held = {name: getattr(self, name) for name in fields}
        with _noted(_NO_COPY_OF.format(who)):
            # In one go, so that an optimizer's parameters are those of the copied module.
            return dataclasses.replace(self, **copy.deepcopy(held))

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
        if "_parameters" not in vars(model):
            raise ArgumentTypeError(_NO_INIT.format(type(model).__name__))
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
        if isinstance(self.module, nn.Module):
            return hasattr(unwrapped(self.module), name)
        if not isinstance(self.module, type):
            return True
        inits = (vars(kind).get("__init__") for kind in self.module.__mro__)
        codes = (getattr(init, "__code__", None) for init in inits)
        sets = any(name in code.co_names for code in codes if code is not None)
        return hasattr(self.module, name) or sets


def _all_of(module: nn.Module) -> Iterator[Any]:
    yield from module.modules()
    yield from module.parameters()
    yield from module.buffers()


def _copied(kind: str, given: Mapping[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """Copy what can be copied; the rest is handed on."""
    copies = dict(given)
    for name, value in given.items():
        try:
            copies[name] = copy.deepcopy(value, dict(memo))
        except Exception as error:
            warn(_NO_COPY.format(kind, name, type(value).__name__, error), LumbreWarning)
    return copies


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


def check_optimizer(optimizer: Optimizer, module: nn.Module, loss: Any = None) -> None:
    """Refuse an optimizer that steps nothing of what is trained.

    Raises:
        ArgumentError: when it is that of another module.
    """
    modules = [module, *([loss] if isinstance(loss, nn.Module) else [])]
    own = {id(p) for each in modules for p in each.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        names = type(optimizer).__name__, type(module).__name__
        raise ArgumentError(_OF_NO_PARAMETER.format(*names))


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
    raise ArgumentError(_NO_LOSS)


def no_optimizer() -> NoReturn:
    """Say every way to an optimizer."""
    raise ArgumentError(_NO_OPTIMIZER)


_NO_COPY = (
    "{}: {} is a {} that cannot be copied ({}), so that each fit works on the very one that was "
    "given, and may change it for the next. Give its class a __deepcopy__, or make it anew for "
    "each setup."
)
_NO_COPY_OF = (
    "{} works on a copy, and copy.deepcopy cannot make one of what setup was given. Pass the class "
    "of the module and not an instance: lb.setup(Net, ...)."
)
_NO_INIT = (
    "{0}.__init__ does not call super().__init__(), without which a module has no parameters. Let "
    "it begin with that: def __init__(self, ...): super().__init__()."
)
_OF_NO_PARAMETER = (
    "The {0} steps no parameter of this {1}: it would learn nothing. Make it of the module's own: "
    "{0}(module.parameters(), ...)."
)
_NO_LOSS = (
    "There is no way to a loss. Pass one, lb.setup(..., loss=nn.MSELoss()), or let the module "
    "define loss(self, pred, target), or the whole step(self, ctx). To evaluate a model from a "
    "file: lb.load(..., loss=nn.MSELoss())."
)
_NO_OPTIMIZER = (
    "There is no way to an optimizer. Pass one, lb.setup(..., optimizer=torch.optim.Adam), or let "
    "the module define set_optimizers(self, **opt_hparams), which gives one or a dict of them, or "
    "the whole step(self, ctx)."
)
