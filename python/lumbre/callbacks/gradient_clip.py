"""Keep gradients from growing too large."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.utils import clip_grad_norm_

from lumbre.arguments import number, optimizer_name, optimizers_of
from lumbre.engine.parts import norm_name
from lumbre.hooks.callback import Callback
from lumbre.step.step import parameters_of

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class GradientClip(Callback):
    """Scales the gradients of a step down to a norm, all parameters of the optimizer together.

    Acts at `on_fit_begin`, where it looks for its optimizer, and at `on_train_batch_before_step`,
    at weight 0. The gradients are those of the step by then: in float16 no longer scaled, under
    `GradientAccumulation` the mean of the window; of an optimizer that evaluates its loss several
    times a step, such as LBFGS, those of the first time. Changes the `grad` of the parameters of
    `ctx.opt`. Their norm before, in the mean of an epoch, is `records["optimizer"]["grad_norm"]`,
    with several optimizers `"grad_norm_<optimizer>"`.

    Args:
        max_norm: The norm that is kept to; 0 freezes the parameters, inf changes nothing.
        norm_type: The p of the p-norm; inf for the largest absolute value.
        opt_name: The optimizer to act on; each one by itself unless given.

    Raises:
        ArgumentError: when a number makes no sense; when there is no such optimizer.
        ArgumentTypeError: when `opt_name` is no name.

    Source: `torch.nn.utils.clip_grad_norm_`.

    Example:
        >>> GradientClip(max_norm=0.5)
        GradientClip(max_norm=0.5, norm_type=2.0, opt_name=None)
    """

    def __init__(
        self, max_norm: float = 1.0, norm_type: float = 2.0, opt_name: str | None = None
    ) -> None:
        self.max_norm = number(self, "max_norm", max_norm, least=0.0)
        self.norm_type = number(self, "norm_type", norm_type, above=0.0)
        self.opt_name = optimizer_name(self, opt_name)

    def on_fit_begin(self, ctx: Context) -> None:
        """Look whether there is an optimizer of that name."""
        optimizers_of(self, ctx.optimizers)

    def on_train_batch_before_step(self, ctx: Context) -> None:
        """Clip."""
        if self.opt_name is None or self.opt_name == ctx.opt_name:
            norm = clip_grad_norm_(parameters_of(ctx.opt), self.max_norm, self.norm_type)
            if not ctx._notes_norms:
                ctx._log_grad_norm(norm, norm_name(ctx))
