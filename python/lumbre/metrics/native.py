"""The base of the metrics that accumulate in Rust."""

from __future__ import annotations

from array import array
from typing import Any, ClassVar

import torch
from torch import Tensor

from lumbre._core import NativeMetric
from lumbre.errors import MetricError, TargetError
from lumbre.metrics.base import Metric


class Native(Metric):
    """A metric whose state is in Rust.

    A plain CPU tensor is read where it lies. Any other (on a device, a subclass, a lazy view) goes
    through torch ops into a state beside it, which nothing reads before `compute`.
    """

    _kind: ClassVar[str]
    _is_one_record = True
    # What targets do that are out of range.
    _fault = (
        "name a class that preds do not have. Classes count from 0; is the model's last layer wide "
        "enough?"
    )

    def __init__(self, *, name: str | None = None) -> None:
        self._begin(name)

    def _begin(self, name: str | None, **options: Any) -> None:
        self.name = name
        self._native = NativeMetric(self._kind, options)
        self._on_device: Tensor | None = None
        self._before: Tensor | None = None

    @classmethod
    def has_own_update(cls) -> bool:
        """Return whether a subclass counts batches in its own way."""
        return cls.update is not Native.update

    def reset(self) -> None:
        """Forget every batch."""
        self._native.reset()
        self._on_device = self._before = None

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch in; see the class for shapes and dtypes."""
        if not self._native.update(preds, target):
            self.update_with_torch(preds, target)

    def compute(self) -> Any:
        """The value over all batches since `reset`; NaN when there was none."""
        self._fetch()
        return self._native.compute()

    def merge(self, other: Metric) -> None:
        """Take in what another metric of the same kind has seen.

        Raises:
            MetricError: when the other one measures something else.
        """
        if not isinstance(other, Native):
            raise MetricError(f"{self!r} cannot take in {other!r}; merge metrics of one kind.")
        other._fetch()
        self._fetch()
        self._native.merge(other._native)

    def update_with_torch(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch in by torch ops, on whatever device it lies; nothing waits for it."""
        self._native.leave(preds, target)
        with torch.no_grad():
            self._count(dense(preds), dense(target))

    def retract(self) -> None:
        """Take the last batch back out, once; on a device unless its value has been read."""
        if not self._native.retract():
            self._on_device = self._before

    def _count(self, preds: Tensor, target: Tensor) -> None:
        # First, so that a batch at which torch fails is not there to be taken back.
        before = self._before = self._on_device
        state = self._measure(preds, target)
        if target.numel():
            self._on_device = (
                state if before is None else self._joined(before, state.to(before.device))
            )

    def _measure(self, preds: Tensor, target: Tensor) -> Tensor:
        """A batch as a vector: the state, then how many targets were out of range."""
        raise NotImplementedError

    def _joined(self, before: Tensor, batch: Tensor) -> Tensor:
        """Return what `_measure` made of all batches before and of this one, joined: their sum."""
        return before + batch

    def _fetch(self) -> None:
        if self._on_device is None:
            return
        state, outside = self._read(self._on_device)
        self._on_device = self._before = None
        if outside:
            raise self._out_of_range(int(outside))
        self._native.add_state(array("d", state).tobytes())

    def _read(self, joined: Tensor) -> tuple[list[float], float]:
        """The state of `NativeMetric`, and how many targets were out of range; waits."""
        *state, outside = joined.tolist()
        return state, outside

    def _out_of_range(self, number: int) -> TargetError:
        return TargetError(f"{type(self).__name__}: {number} targets {self._fault}")


def wide(device: torch.device) -> torch.dtype:
    """The widest float that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def paired(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and target of one shape, on one device, in the widest float there is."""
    dtype = wide(preds.device)
    return preds.to(dtype), target.reshape(preds.shape).to(device=preds.device, dtype=dtype)


def counted(total: Tensor, count: int, *more: Tensor) -> Tensor:
    """The state of a batch as one tensor, in the widest float there is."""
    total = total.to(wide(total.device))
    # Filled in on the device: a tensor made from a Python number would be copied there.
    number = torch.full_like(total, count)
    return torch.stack([total, number, *(each.to(total.dtype) for each in more)])


def ordered(tensor: Tensor) -> Tensor:
    """The tensor in a dtype that torch can compare: it cannot all of them."""
    few = tensor.dtype in (torch.bool, torch.uint16, torch.uint32, torch.uint64)
    tiny = tensor.is_floating_point() and tensor.itemsize < 2
    return tensor.to(wide(tensor.device)) if few or tiny else tensor


def dense(tensor: Tensor) -> Tensor:
    """The tensor as torch's operations take it, with no gradient behind it."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    tensor = tensor.detach()
    return tensor if tensor.layout is torch.strided else tensor.to_dense()
