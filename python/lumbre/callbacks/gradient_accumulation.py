"""Step once for several batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lumbre.arguments import optimizer_name, optimizers_of, whole
from lumbre.engine.parts import step_of
from lumbre.errors import ArgumentError, LumbreWarning
from lumbre.hooks.callback import Callback
from lumbre.warn import warn

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class GradientAccumulation(Callback):
    """Lets an optimizer step once for so many batches, as if they had been one.

    The step is that of the one big batch also where the last window of a pass has fewer batches, or
    the last batch fewer samples, for losses that are means over samples in models without batch
    statistics: each batch counts by `ctx.loss_weight`, its `batch_size` unless set. A loss with
    another denominator (class weights, `ignore_index`) sets that one, in the loss or at
    `on_train_batch_after_loss`.

    Acts at `on_fit_begin`, at weight -inf. `on_train_batch_before_step` and
    `on_train_batch_after_step` fire only where a step is taken. A short window is stepped on
    in the last batch of the pass; where that is not known beforehand (a loader without a length,
    a stop), when the pass ends. A batch that is skipped before its backward pass leaves the window
    as it is; one that is skipped later takes the window with it.

    Args:
        steps: How many batches, from 1.
        opt_name: The optimizer that waits; each one unless given.

    Raises:
        ArgumentError: when `steps` is no such number; when there is no such optimizer, or it
            evaluates the loss several times a step.
        ArgumentTypeError: when `opt_name` is no name.

    Example:
        >>> GradientAccumulation(4)
        GradientAccumulation(steps=4, opt_name=None)
    """

    weight = -math.inf

    def __init__(self, steps: int, opt_name: str | None = None) -> None:
        self.steps = whole(self, "steps", steps, least=1)
        self.opt_name = optimizer_name(self, opt_name)

    def on_fit_begin(self, ctx: Context) -> None:
        """Give the optimizers their windows."""
        for name in optimizers_of(self, ctx.optimizers):
            step = step_of(ctx)
            if name in step.closures:
                raise ArgumentError(
                    f"GradientAccumulation: {type(ctx.optimizers[name]).__name__} evaluates the "
                    "loss of one batch several times a step. Use a larger batch_size."
                )
            step.windows.gather(name, self.steps)
        if ctx.max_steps is not None and self.steps > 1:
            most = -(-ctx.max_steps // self.steps)
            warn(_COUNTED.format(ctx.max_steps, self.steps, most), LumbreWarning)


_COUNTED = (
    "max_steps={0} counts training batches, of which GradientAccumulation({1}) gathers {1} for a "
    "step of an optimizer: those will be some {2}. For {0} of them, multiply by {1}."
)
