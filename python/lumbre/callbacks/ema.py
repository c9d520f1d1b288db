"""Averaged weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lumbre.arguments import number
from lumbre.errors import ArgumentError, LumbreWarning
from lumbre.files.fits import misfits
from lumbre.hooks.callback import Callback
from lumbre.warn import warn

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class EMA(Callback):
    """Keeps an exponential moving average of the model's parameters, and validates with it.

    After each step of an optimizer, its parameters move the averages:
    `average.lerp_(parameter, 1 - decay)`. Averages begin at the weights that the fit begins with.

    The averaged weights are in the model from `on_valid_begin` (without `ctx.valid_data`, as in a
    loop of one's own, from `on_train_end`) until the epoch has ended: what validates or saves by
    then sees them. The plain weights are back at the next `on_epoch_begin` or `on_train_begin`, and
    when an exception leaves the fit. A fit that has ended, also by a stop or Ctrl-C, leaves the
    averaged ones in the model.

    What is averaged are the parameters of floating point that an optimizer of the fit steps.
    Buffers, such as running statistics, and frozen parameters stay as the model has them. Averages
    of half precision are kept in float32, in which small moves are not lost.

    Acts at `on_fit_begin`, `on_train_begin`, `on_train_batch_after_step`, `on_train_batch_end`
    (where a `step` of the module's own never reaches the breakpoint before), `on_train_end`,
    `on_valid_begin`, `on_epoch_begin`, `on_epoch_end`, `on_fit_end` and `on_exception`, at weight
    1e7: before the callbacks that save. Writes into the parameters of `ctx.model`, in place: they
    stay the same objects in the same memory.

    Args:
        decay: How much of the average stays at each step, from 0 to below 1. The average reaches
            back over some `1 / (1 - decay)` steps, 1000 of them unless told otherwise: a shorter
            fit needs a smaller one, and is warned about.

    Raises:
        ArgumentError: when `decay` is out of range, or, as the fit begins, a parameter has no
            values yet.

    Example:
        >>> EMA(decay=0.99)
        EMA(decay=0.99)
    """

    weight = 1e7

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = number(self, "decay", decay, least=0, below=1)
        self._begin()

    def _begin(self) -> None:
        self._parameters: dict[str, Tensor] = {}
        # None while the model holds it, which is in place then.
        self._averages: dict[str, Tensor | None] = {}
        # While the averaged weights are in place: what they have taken the place of.
        self._plain: dict[str, Tensor] | None = None
        self._has_stepped = False
        self._is_fresh = True
        # The optimizer that steps each parameter; "" where the fit has none.
        self._owners: dict[str, str] = {}
        self._pairs: dict[str, list[tuple[list[Tensor], list[Tensor]]]] = {}

    def on_fit_begin(self, ctx: Context) -> None:
        """Begin at the weights that are there."""
        self._begin()
        self._gather(ctx)

    def on_epoch_begin(self, ctx: Context) -> None:
        """Train on with the plain weights."""
        self._put_back()

    def on_train_begin(self, ctx: Context) -> None:
        """See which parameters the optimizers step by now."""
        self._put_back()
        if self._is_fresh:
            # Weights may have been loaded since the fit began.
            self._averages, self._is_fresh = {}, False
        self._gather(ctx)

    def on_train_batch_after_step(self, ctx: Context) -> None:
        """Move the averages of the optimizer's parameters."""
        self._has_stepped = True
        self._move(self._pairs.get(ctx.opt_name, ()))

    def on_train_batch_end(self, ctx: Context) -> None:
        """Move all averages, where the steps are not known."""
        # Before the first step averages are the weights themselves: a batch without one is safe.
        if not (self._has_stepped or ctx.skipped):
            for pairs in self._pairs.values():
                self._move(pairs)

    def on_train_end(self, ctx: Context) -> None:
        """Without validation, the epoch has ended here."""
        if ctx.valid_data is None:
            self._put_in_place()

    def on_valid_begin(self, ctx: Context) -> None:
        """Validate the averaged weights."""
        if ctx.max_epochs != 0:  # a pass by itself measures the model that it was given
            self._put_in_place()

    def on_epoch_end(self, ctx: Context) -> None:
        """Where validation was left out, they are due now."""
        self._put_in_place()

    def on_fit_end(self, ctx: Context) -> None:
        """The averaged weights are the result."""
        self._put_in_place()
        old = self.decay**ctx.step_count
        if ctx.step_count and old > 0.5:
            shorter = max(0.5, 1 - 5 / ctx.step_count)
            warn(_MOSTLY_OLD.format(ctx.step_count, old, shorter), LumbreWarning)

    def on_exception(self, ctx: Context) -> None:
        """Leave the model as if there had been no average."""
        self._put_back()

    def state_dict(self) -> dict[str, Any]:
        """The weights that are not in the model, by name, and which these are; nothing is copied.

        "plain" is None while the model has the plain weights. While it has the averaged ones,
        "averages" holds only those that the model does not have in full precision.
        """
        return {
            "averages": {k: v for k, v in self._averages.items() if v is not None},
            "plain": None if self._plain is None else dict(self._plain),
            "has_stepped": self._has_stepped,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; to be called when the fit has begun.

        Raises:
            ArgumentError: when it is the state of another model.
        """
        averages, plain = state["averages"], state["plain"]
        self._check("averages", averages, whole=plain is None)
        if plain is not None:
            self._check("plain", plain, whole=True)
        for name, parameter in self._parameters.items():
            if name in averages:
                own = torch.empty_like(parameter, dtype=_wide(parameter.dtype))
                self._averages[name] = own.copy_(averages[name])
            else:
                self._averages[name] = None
        self._plain = plain and {
            name: torch.empty_like(parameter).copy_(plain[name])
            for name, parameter in self._parameters.items()
        }
        self._has_stepped, self._is_fresh = bool(state["has_stepped"]), False
        self._pair()

    def _gather(self, ctx: Context) -> None:
        """Average what the optimizers step; what is new begins at what it is."""
        model = ctx.accelerator.unwrap(ctx.model)
        optimizers = {name: each for name, each in ctx.optimizers.items() if each is not None}
        owners = {
            id(parameter): name
            for name, optimizer in optimizers.items()
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        self._owners = {}
        for name, parameter in model.named_parameters():
            owner = owners.get(id(parameter)) if owners else ""
            if owner is None or not (parameter.requires_grad or name in self._averages):
                continue
            if is_lazy(parameter):
                raise ArgumentError(_NO_VALUES.format(name))
            if not (parameter.is_floating_point() or parameter.is_complex()):
                continue
            self._owners[name] = owner
            self._parameters[name] = parameter
            if name not in self._averages:
                wide = _wide(parameter.dtype)
                self._averages[name] = parameter.detach().to(wide, copy=True)
        self._pair()

    def _pair(self) -> None:
        """Lay averages and parameters side by side: by optimizer, then by whether they differ."""
        self._pairs = {}
        if self._plain is not None:
            return
        split: dict[tuple[str, bool], tuple[list[Tensor], list[Tensor]]] = {}
        for name, owner in self._owners.items():
            average, parameter = self._averages[name], self._parameters[name]
            if average is not None:
                differ = average.dtype != parameter.dtype
                averages, parameters = split.setdefault((owner, differ), ([], []))
                averages.append(average)
                parameters.append(parameter)
        for (owner, _), pair in split.items():
            self._pairs.setdefault(owner, []).append(pair)

    def _move(self, pairs: Any) -> None:
        for averages, parameters in pairs:
            if averages[0].dtype != parameters[0].dtype:
                parameters = [p.to(a.dtype) for p, a in zip(parameters, averages, strict=True)]
            torch._foreach_lerp_(averages, parameters, 1 - self.decay)

    @torch.no_grad()
    def _put_in_place(self) -> None:
        # Before the first training pass an average is a copy of weights that others may have
        # replaced since.
        if self._plain is not None or self._is_fresh:
            return
        self._plain = {}
        for name, parameter in self._parameters.items():
            average = self._averages[name]
            self._plain[name] = parameter.detach().clone()
            if average is not None:
                parameter.copy_(average)
                if average.dtype == parameter.dtype:
                    self._averages[name] = None
        self._pairs = {}

    @torch.no_grad()
    def _put_back(self) -> None:
        if self._plain is None:
            return
        for name, parameter in self._parameters.items():
            if self._averages[name] is None:
                self._averages[name] = parameter.detach().clone()
            parameter.copy_(self._plain[name])
        self._plain = None
        self._pair()

    def _check(self, what: str, weights: Mapping[str, Tensor], whole: bool) -> None:
        if wrong := misfits(weights, self._parameters, () if whole else self._parameters):
            raise ArgumentError(
                f"EMA: the state is that of another model, or of other optimizers; its {what}:"
                f"{wrong}\nBuild the model and the optimizers as they were when it was saved."
            )


def _wide(dtype: torch.dtype) -> torch.dtype:
    is_half = dtype.is_floating_point and dtype.itemsize < 4
    return torch.float32 if is_half else dtype


_MOSTLY_OLD = (
    "EMA: after {} batches the averaged weights, which the model has now, are to {:.0%} those that "
    "the fit began with. Train longer, or average over less: EMA(decay={:.2g})."
)
_NO_VALUES = (
    "EMA: the parameter {} has no values yet, from which an average could begin. Run a batch "
    "through the module in its __init__, or give the layer its sizes."
)
