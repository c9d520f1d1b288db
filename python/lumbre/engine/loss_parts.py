"""A loss that gives its parts beside the total: `(total, {"kl": kl, "rec": rec})`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lumbre.errors import ArgumentError, ArgumentTypeError, LumbreWarning, ShapeError
from lumbre.state.run_state import RunState
from lumbre.text import name_of
from lumbre.warn import warn


class LossParts:
    """Takes the losses of a run apart, and logs the mean of each part."""

    __slots__ = ("_ctx", "_has_told", "_names")

    def __init__(self, ctx: RunState) -> None:
        self._ctx = ctx
        self._names: dict[Any, list[str]] = {}
        self._has_told = False

    def total_of(self, loss: tuple[Any, ...]) -> Any:
        """Return the total, and log the parts.

        Raises:
            ArgumentTypeError: when it is another tuple.
        """
        ctx = self._ctx
        if len(loss) != 2 or not isinstance(loss[1], Mapping):
            raise ArgumentTypeError(_NO_PARTS.format(name_of(ctx.loss_fn), _shown(loss)))
        total, parts = loss
        names = list(parts)
        known = self._names.setdefault((ctx.training, ctx.opt_name), names)
        if names != known and set(names) != set(known) and not self._has_told:
            self._has_told = True
            warn(_OTHERS.format(name_of(ctx.loss_fn), *map(_listed, (known, names))), LumbreWarning)
        is_alone = len(ctx.optimizers) < 2 or ctx.opt_name is None
        behind = "" if is_alone else f"_{ctx.opt_name}"
        for name, value in parts.items():
            try:
                ctx.log_mean(f"{name}{behind}", value)
            except (ArgumentError, ArgumentTypeError, ShapeError) as error:
                why = str(error).partition("): ")[2] or str(error).partition(" takes ")[2]
                raise type(error)(_NO_PART.format(name_of(ctx.loss_fn), name, why)) from None
        return total


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _shown(loss: tuple[Any, ...]) -> str:
    return f"a tuple of {', '.join(type(each).__name__ for each in loss) or 'nothing'}"


_NO_PARTS = (
    "{} gave {} where the loss, a scalar tensor, is due. To have its parts recorded, let it give "
    'the sum and the parts by name: (total, {{"kl": kl, "rec": rec}}).'
)
_NO_PART = "{} gives the part {!r}, which cannot be recorded: {}"
_OTHERS = (
    "{} gave the parts {} in its first batch, and {} in a later one. What is recorded of each is "
    "the mean over the batches that had it. This is told once."
)
