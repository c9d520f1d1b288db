"""Weights that are not finite: found once an epoch, and before a state replaces another."""

from __future__ import annotations

import torch

from lumbre.errors import LumbreWarning
from lumbre.state.run_state import RunState
from lumbre.warn import warn

# So many weights are named.
_LISTED = 3


def bad_weights(ctx: RunState) -> list[str]:
    """Return the names of the parameters with a value that is NaN or infinite.

    Looked at is the sum of each, which is finite only if all values are; where it is not, for it
    may be too great a number, the values themselves. On a device it is waited for once.
    """
    model = ctx.accelerator.unwrap(ctx.model)
    weights = {
        name: each.detach()
        for name, each in model.named_parameters()
        if each.is_floating_point() and each.numel() and not each.is_meta
    }
    if not weights:
        return []
    sums = torch.stack([each.sum(dtype=torch.float32).cpu() for each in weights.values()])
    if bool(sums.isfinite().all()):
        return []
    return [name for name, each in weights.items() if not bool(each.isfinite().all())]


def look_at_weights(ctx: RunState) -> None:
    """Tell, once in a run, that weights are not finite."""
    if ctx._has_bad_weights or not (bad := bad_weights(ctx)):
        return
    ctx._has_bad_weights = True
    more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
    warn(_BAD.format(ctx.epoch, ", ".join(bad[:_LISTED]) + more), LumbreWarning)


_BAD = (
    "After epoch {} there are weights that are not finite: {}. Nothing will be learned any more. "
    "A lower learning rate, lb.callbacks.GradientClip() or lb.callbacks.TerminateOnNaN() may help."
)
