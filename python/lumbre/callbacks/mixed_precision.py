"""Compute in half precision where that is good enough."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from lumbre.accelerator import half_of
from lumbre.engine.parts import step_of
from lumbre.errors import ArgumentError
from lumbre.hooks.callback import Callback

if TYPE_CHECKING:
    from lumbre.accelerator import Accelerator
    from lumbre.engine.context import Context


class MixedPrecision(Callback):
    """Runs forward and loss under autocast, of training, validation and prediction alike.

    In float16 each optimizer has a gradient scaler of its own: a step whose gradients are not
    finite is left out, without `on_train_batch_before_step` and `_after_step`, and the scale is
    lowered. At `on_train_batch_before_step` gradients are not scaled any more. A `step` of the
    module's own is under autocast in `ctx.forward()` and `ctx.compute_loss()`.

    Acts at `on_fit_begin`, or without a fit at `on_valid_begin` and `on_predict_begin`, at weight
    -inf. Changes `ctx.accelerator`. Its state is that of the scalers, saved with the optimizers.

    Args:
        dtype: `torch.bfloat16` or `torch.float16`, or their names; bfloat16 unless given, and
            float16 on a GPU that does not have it.

    Raises:
        ArgumentError: when it is another dtype; when the accelerator has a precision already.

    Example:
        >>> MixedPrecision("bf16")
        MixedPrecision(dtype=torch.bfloat16)
    """

    weight = -math.inf

    def __init__(self, dtype: torch.dtype | str | None = None) -> None:
        self.dtype = _dtype(dtype)
        self._accelerator: Accelerator | None = None

    def on_fit_begin(self, ctx: Context) -> None:
        """Set it up."""
        accelerator = ctx.accelerator
        if accelerator is self._accelerator:
            return  # a validation pass before the first epoch has set it up
        if accelerator.autocasts:
            raise ArgumentError(
                "MixedPrecision is given beside an accelerator with "
                f"mixed_precision={accelerator.mixed_precision!r}; use one of the two."
            )
        dtype = self.dtype or _best(accelerator.device)
        ctx.accelerator = self._accelerator = accelerator.in_precision(dtype)
        step_of(ctx).set_precision(ctx.accelerator, ctx.optimizers)

    def on_valid_begin(self, ctx: Context) -> None:
        """Set it up where no fit has done so."""
        if ctx.epoch == 0:
            self.on_fit_begin(ctx)

    def on_predict_begin(self, ctx: Context) -> None:
        """Set it up."""
        self.on_fit_begin(ctx)


def _dtype(value: Any) -> torch.dtype | None:
    found = half_of(value)
    if found is None and value is not None:
        raise ArgumentError(
            'MixedPrecision: dtype is torch.bfloat16 or "bf16", torch.float16 or "fp16", or None '
            f"for the best of them; got {value!r}."
        )
    return found


def _best(device: torch.device) -> torch.dtype:
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16
