"""The losses of a pass on a device, summed up there until the pass ends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lumbre.errors import ShapeError


class Losses:
    """Sums of losses that nothing waits for; the host reads them once, through `take`."""

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}

    def add(self, index: int, loss: Any, weight: float, iter: int) -> None:
        """Count the loss of a batch.

        Args:
            index: Which loss.
            loss: A tensor of one element.
            weight: The size of the batch.
            iter: The batch in this pass, kept if it is the first whose loss is not finite.
        """
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ShapeError(f"A loss is a scalar tensor; got {shape}. Reduce it: loss.mean().")
        with torch.no_grad():
            value = loss.detach().reshape(())
            wide = torch.float32 if value.device.type == "mps" else torch.float64
            value = value.to(wide)
            new = torch.stack([value * weight, torch.full_like(value, weight)])
            bad = torch.where(value.isfinite(), torch.inf, float(iter)).to(wide)
            if index in self._sums:
                old = self._sums[index]
                self._sums[index] = torch.cat([old[:2] + new, torch.minimum(old[2:], bad[None])])
            else:
                self._sums[index] = torch.cat([new, bad[None]])

    def take(self) -> list[tuple[int, float, float, int]]:
        """For each loss its index, mean, weight, and first bad batch or 0; waits for the device."""
        taken = []
        for index, sums in self._sums.items():
            total, weight, bad = sums.tolist()
            taken.append((index, total / weight, weight, 0 if bad == float("inf") else int(bad)))
        self._sums = {}
        return taken
