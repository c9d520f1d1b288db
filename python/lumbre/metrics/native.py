"""What the metrics that accumulate in Rust have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lumbre._core import NativeMetric
from lumbre.errors import DTypeError, TargetError
from lumbre.metric import Metric


class Native(Metric):
    """A metric whose state is in Rust.

    A plain CPU tensor is read where it lies. Any other (on a device, a subclass, a lazy view) goes
    through torch ops into a state beside it, which nothing reads before `compute`.
    """

    _kind: ClassVar[str]

    def __init__(self, *, name: str | None = None, threshold: float | None = None) -> None:
        self.name = name
        self._native = NativeMetric(self._kind, threshold)
        self._on_device: Tensor | None = None

    @classmethod
    def has_own_update(cls) -> bool:
        """Whether a subclass counts batches in its own way."""
        return cls.update is not Native.update

    def reset(self) -> None:
        """Forget every batch."""
        self._native.reset()
        self._on_device = None

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch in; see the class for shapes and dtypes."""
        if not self._native.update(preds, target):
            self.update_with_torch(preds, target)

    def compute(self) -> float:
        """The value over all batches since `reset`; NaN when there was none."""
        self._fetch()
        return self._native.compute()

    def merge(self, other: Native) -> None:
        """Take in what another metric of the same kind has seen.

        Raises:
            MetricError: when the other one measures something else.
        """
        other._fetch()
        self._fetch()
        self._native.merge(other._native)

    def update_with_torch(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch in by torch ops, on whatever device it lies; nothing waits for it."""
        for name, tensor in (("preds", preds), ("target", target)):
            if not isinstance(tensor, Tensor):
                raise DTypeError(
                    f"{type(self).__name__} measures tensors; {name} is {type(tensor).__name__}."
                )
            if tensor.is_complex():
                raise DTypeError(
                    f"{type(self).__name__} cannot measure {name} of dtype {tensor.dtype}. "
                    "Take a real part of it: tensor.abs(), tensor.real."
                )
        with torch.no_grad():
            state = self._measure(preds.detach(), target.detach())
            if self._on_device is None:
                self._on_device = state
            else:
                self._on_device += state.to(self._on_device.device)

    def _measure(self, preds: Tensor, target: Tensor) -> Tensor:
        """A batch as the tensor (sum, count, how many targets were out of range)."""
        raise NotImplementedError

    def _fetch(self) -> None:
        if self._on_device is None:
            return
        total, count, outside = self._on_device.tolist()
        self._on_device = None
        if outside:
            raise TargetError(self._out_of_range(int(outside)))
        self._native.add_state([total, count])

    def _out_of_range(self, number: int) -> str:
        return f"{type(self).__name__}: {number} targets were out of range."


def triple(total: Any, count: int, outside: Any, like: Tensor) -> Tensor:
    """The state of a batch as one tensor; in float64 where the device has it."""
    dtype = torch.float32 if like.device.type == "mps" else torch.float64
    parts = [torch.as_tensor(part, device=like.device, dtype=dtype) for part in (total, outside)]
    # Filled in on the device: a tensor made from a Python number would be copied over.
    return torch.stack([parts[0], torch.full_like(parts[0], count), parts[1]])


def shape_of(tensor: Tensor) -> str:
    """A shape as a message shows it: (32, 4), (32,)."""
    return str(tuple(tensor.shape))
