"""Scores and targets that stay on their device until a value is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

_WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)


class Gathered:
    """The rows of many batches in one tensor, with room for those to come.

    Kept as float32, or as float64 where the dtype has numbers that a float32 has not. Only copies
    on the device: nothing waits for it before `fetch`.
    """

    def __init__(self) -> None:
        self._scores: Tensor | None = None
        self._labels: Tensor | None = None
        self._length = 0
        # Where the last batch begins.
        self._last = 0

    def begin(self) -> None:
        """Begin a batch: what is there stays when it is taken back."""
        self._last = self._length

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Copy a batch in.

        Args:
            scores: Shape (n,) or (n, classes), like those before it.
            labels: Integers, shape (n,).
        """
        # A tensor made in inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            if not self._length:
                self._scores = self._labels = None
            dtype = kept_as(scores)
            if self._scores is not None:
                dtype = torch.promote_types(dtype, self._scores.dtype)
            begin, end = self._length, self._length + len(scores)
            self._scores = self._with_room(self._scores, scores, dtype)
            self._labels = self._with_room(self._labels, labels, labels.dtype)
            self._scores[begin:end].copy_(scores)
            self._labels[begin:end].copy_(labels)
            self._length = end

    def retract(self) -> None:
        """Take the last batch back out, once."""
        self._length = self._last

    def fetch(self) -> list[tuple[Tensor, Tensor]]:
        """All but the last batch, and the last batch, on the host; waits for the device."""
        if self._scores is None or self._labels is None:
            return []
        scores, labels = self._scores[: self._length].cpu(), self._labels[: self._length].cpu()
        parts = slice(0, self._last), slice(self._last, None)
        return [(scores[part], labels[part]) for part in parts]

    def _with_room(self, kept: Tensor | None, new: Tensor, dtype: torch.dtype) -> Tensor:
        needed = self._length + len(new)
        if kept is not None and kept.dtype == dtype and len(kept) >= needed:
            return kept
        rows = needed if kept is None else max(needed, 2 * len(kept))
        device = new.device if kept is None else kept.device
        wider = torch.empty((rows, *new.shape[1:]), dtype=dtype, device=device)
        if kept is not None:
            wider[: self._length].copy_(kept[: self._length])
        return wider


def kept_as(scores: Tensor) -> torch.dtype:
    """The float dtype that holds the scores without loss, where the device has it."""
    is_wide = scores.dtype in _WIDE and scores.device.type != "mps"
    return torch.float64 if is_wide else torch.float32
