"""The losses of a pass on a device, summed up there until the pass ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumbre.errors import ArgumentError, ArgumentTypeError, ShapeError
from lumbre.metrics.native import wide

_SUM = (
    'Let the loss function return the sum and its parts by name: (total, {"kl": kl, "rec": rec}).'
)


class Losses:
    """Sums of losses that nothing waits for; the host reads them once, through `take`."""

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        # Of the last batch alone: its number, and the sums before it.
        self._before: tuple[int, dict[int, Tensor]] = (0, {})

    def add(self, index: int, loss: Any, weight: float, iter: int) -> None:
        """Count the loss of a batch.

        Args:
            index: Which loss.
            loss: A tensor of one element.
            weight: The size of the batch.
            iter: The batch in this pass, kept if it is the first whose loss is not finite.
        """
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            mend = _SUM if isinstance(loss, tuple | list | Mapping) else "Reduce it: loss.mean()."
            raise ShapeError(f"A loss is a scalar tensor; got {got}. {mend}")
        if self._before[0] != iter:
            self._before = (iter, dict(self._sums))
        with torch.no_grad():
            value = loss.detach().reshape(())
            value = value.to(wide(value.device))
            # A weight of 0 leaves the mean as it is, even when the loss is NaN. Numbers are filled
            # in on the device: a tensor made from one would be copied there, and waited for.
            part = value * weight if weight else torch.zeros_like(value)
            new = torch.stack([part, torch.full_like(value, weight)])
            bad = torch.full_like(value, iter).masked_fill_(value.isfinite(), torch.inf)
            if index in self._sums:
                old = self._sums[index]
                self._sums[index] = torch.cat([old[:2] + new, torch.minimum(old[2:], bad[None])])
            else:
                self._sums[index] = torch.cat([new, bad[None]])

    def retract(self, iter: int) -> None:
        """Take a batch back out, if it is the last one that was counted."""
        if self._before[0] == iter:
            self._sums = dict(self._before[1])

    def take(self) -> list[tuple[int, float, float, int]]:
        """For each loss its index, mean, weight, and first bad batch or 0; waits for the device."""
        taken = []
        for index, sums in self._sums.items():
            total, weight, bad = sums.tolist()
            mean = total / weight if weight else math.nan
            taken.append((index, mean, weight, 0 if bad == math.inf else int(bad)))
        self._sums = {}
        return taken


def loggable(name: str, value: Any, device: torch.device) -> float | Tensor:
    """Return a value that is logged as a number; one on the run's device as a tensor of its own.

    Args:
        name: Its name, for messages.
        value: A number, or a tensor of one element.
        device: The device of the run.

    Raises:
        ArgumentError: when it lies on another device than the CPU and the run's.
        ArgumentTypeError: when it is no number.
        ShapeError: when it has several elements, or none.
    """
    if not isinstance(value, Tensor):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            raise ArgumentTypeError(_NO_NUMBER.format(name, value)) from None
    if value.numel() != 1:
        raise ShapeError(_NO_SCALAR.format(name, tuple(value.shape)))
    if value.is_complex():
        raise ArgumentTypeError(_NO_NUMBER.format(name, value))
    if value.device.type not in ("cpu", device.type):
        raise ArgumentError(_ELSEWHERE.format(name, value.device, device))
    with torch.no_grad():
        plain = value.detach().reshape(())
        if value.device.type == "cpu":
            return float(plain)
        # Its own memory: the user may go on to change what was logged.
        return plain.to(wide(plain.device), copy=True)


def numbers_of(tensors: list[Tensor]) -> list[float]:
    """Return the numbers of scalar tensors of one device, by one transfer."""
    numbers: list[float] = torch.stack(tensors).tolist()
    return numbers


_NO_NUMBER = (
    'ctx.log_mean("{}", value) takes a number or a scalar tensor; got {!r}. What else there is is '
    "kept by ctx.log(what, set, value)."
)
_NO_SCALAR = (
    'ctx.log_mean("{0}", value) takes a number or a scalar tensor; got one of shape {1}. Reduce '
    "it: value.mean()."
)
_ELSEWHERE = (
    'ctx.log_mean("{0}", value): the value is on {1}, and this run on {2}. Bring it over, by '
    "value.to(ctx.device) or value.cpu()."
)
