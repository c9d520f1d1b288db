"""Where the loop meets devices and processes; it does so nowhere else.

`Accelerator` is the form for one process. Whatever takes its place for several has the same
members, and the loop knows no others.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lumbre.arguments import flag
from lumbre.errors import ArgumentError, ArgumentTypeError
from lumbre.nested import parts_of, rebuilt
from lumbre.text import did_you_mean

_T = TypeVar("_T")
# The half precisions by their names; the first of each is what an accelerator calls it.
_HALVES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}


class Accelerator:
    """One device in one process. Read-only: for other settings, make another.

    Args:
        device: The device to run on, such as `"cuda:1"`; None for the best there is.
        cpu: Run on the CPU, whatever else there is.
        device_placement: Whether model and batches are moved to the device. Without it they stay
            where they are, such as a model that is spread over several devices.
        mixed_precision: `"bf16"` or `"fp16"` to run forward and loss under autocast, with a
            gradient scaler for `"fp16"`; torch's names and dtypes for these, such as
            `torch.bfloat16`, will do too. None or `"no"` for full precision.

    Attributes:
        device: The `torch.device` that the run is on.
        mixed_precision: `"bf16"`, `"fp16"` or `"no"`.
        places: Whether `place` has anything to do; the loop leaves the call out where it has not.
        autocasts: Whether `autocast` has anything to do.
        is_main, rank, world_size: The place of this process among all: True, 0 and 1.

    Raises:
        ArgumentError: when there is no such device, or no such precision.
        ArgumentTypeError: when `device` is neither string, number nor `torch.device`.

    Example:
        >>> import lumbre as lb
        >>> lb.Accelerator(cpu=True)
        Accelerator(device='cpu', device_placement=True, mixed_precision='no')
    """

    device: torch.device
    device_placement: bool
    mixed_precision: str
    places: bool
    autocasts: bool
    is_main: bool
    rank: int
    world_size: int

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        cpu: bool = False,
        device_placement: bool = True,
        mixed_precision: torch.dtype | str | None = None,
    ) -> None:
        cpu = flag(self, "cpu", cpu)
        device_placement = flag(self, "device_placement", device_placement)
        precision = _precision(mixed_precision)
        where = _device(device, cpu)
        vars(self).update(
            device=where,
            device_placement=device_placement,
            mixed_precision=precision,
            # What comes out of a loader lies on the CPU already.
            places=device_placement and where.type != "cpu",
            autocasts=precision != "no",
            is_main=True,
            rank=0,
            world_size=1,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"an Accelerator is read-only: make another to change {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an Accelerator is read-only: {name} cannot be deleted")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(device={str(self.device)!r}, "
            f"device_placement={self.device_placement}, mixed_precision={self.mixed_precision!r})"
        )

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Move the model to the device, in place."""
        return model.to(self.device) if self.device_placement else model

    def place(self, batch: Any) -> Any:
        """Give the batch on the device.

        Tensors are moved inside tuples, lists, mappings and dataclasses of any nesting, and so is
        every object with a method `to`; other leaves stay as they are, and types are kept.
        """
        device = self.device
        if device.type != "cuda":
            return _moved(batch, lambda x: x.to(device, non_blocking=x.is_pinned()), device)
        # CUDA stages memory that is not pinned before the call returns: not to wait is safe for
        # all memory here, as it is not on every other device.
        return _moved(batch, lambda x: x.to(device, non_blocking=True), device)

    def to_cpu(self, tree: Any) -> Any:
        """Give predictions of any nesting on the CPU, without their graph."""
        if type(tree) is Tensor and tree.is_cpu and not tree.requires_grad:
            return tree
        cpu = torch.device("cpu")
        return _moved(tree, lambda x: x.detach().to(cpu), cpu)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Give the context for forward and loss."""
        dtype = half_of(self.mixed_precision)
        if dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)

    def scaler(self) -> torch.amp.GradScaler | None:
        """Give a new gradient scaler, for one optimizer of one run; None unless in `"fp16"`."""
        if self.mixed_precision != "fp16":
            return None
        return torch.amp.GradScaler(self.device.type)

    def in_precision(self, mixed_precision: torch.dtype | str) -> Accelerator:
        """Give an accelerator like this one in another precision."""
        precision = _precision(mixed_precision)
        other = copy.copy(self)
        vars(other).update(mixed_precision=precision, autocasts=precision != "no")
        return other

    def backward(self, loss: Tensor, inputs: Sequence[Tensor] | None = None) -> None:
        """Run backward; a subclass may do it in its own way, and is asked for each loss then.

        Args:
            loss: The loss, at the scale of the scaler where there is one.
            inputs: The leaves that are to get a gradient; None for all.
        """
        loss.backward(inputs=inputs)  # type: ignore[no-untyped-call]

    def unwrap(self, model: nn.Module) -> nn.Module:
        """Give the user's own module, out of `torch.compile` and data parallel wrappers."""
        return unwrapped(model)

    def reduce(self, state: _T) -> _T:
        """Give the metric state summed over all processes: here, as it is."""
        return state

    def wait(self) -> None:
        """Wait until all processes are here."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Give the user's own module, out of `torch.compile` and data parallel wrappers."""
    while True:
        # What torch.compile returns is known by this child; its class is slow to import.
        inner = dict(model.named_children()).get("_orig_mod")
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def as_accelerator(value: Any) -> Accelerator:
    """Give the accelerator of a run: the one passed, or for None the best device there is."""
    if value is None:
        return Accelerator()
    if isinstance(value, Accelerator):
        return value
    if isinstance(value, type):
        got, mend = f"the class {value.__name__}", "pass an instance: lb.Accelerator()"
    elif isinstance(value, str | torch.device):
        got, mend = repr(value), f"pass lb.Accelerator({str(value)!r})"
    else:
        got = f"a {type(value).__module__}.{type(value).__qualname__}"
        mend = "pass lb.Accelerator(), or None for the best device there is"
    raise ArgumentTypeError(f"accelerator is {got}; expected an lb.Accelerator: {mend}")


def half_of(precision: Any) -> torch.dtype | None:
    """Return the dtype of a half precision, by its name or itself; None of all others."""
    found = _HALVES.get(precision) if isinstance(precision, str) else precision
    return found if isinstance(found, torch.dtype) and found in _HALVES.values() else None


def _precision(given: Any) -> str:
    if given is None or (isinstance(given, str) and given == "no"):
        return "no"
    if (half := half_of(given)) is not None:
        return next(name for name, dtype in _HALVES.items() if dtype == half)
    known = "expected None, 'no', 'bf16' or 'fp16'."
    hint = did_you_mean(given, ["no", *_HALVES])
    raise ArgumentError(f"mixed_precision={given!r} is not known; {known} {hint}".rstrip())


def _device(device: torch.device | str | int | None, cpu: bool) -> torch.device:
    if device is None:
        best = None if cpu else torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if best is None else best
    if isinstance(device, bool) or not isinstance(device, str | int | torch.device):
        raise ArgumentTypeError(
            f"device is of type {type(device).__qualname__}; expected a string such as 'cuda:0', "
            "a torch.device, a device's number, or None for the best device there is"
        )
    try:
        found = torch.device(device)
        torch.empty(0, device=found)  # the one question that every backend answers
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArgumentError(
            f"device={device!r} cannot be used: {reason}. "
            f"Leave device out for the best there is, which is {_device(None, cpu)}."
        ) from error
    if cpu and found.type != "cpu":
        raise ArgumentError(f"cpu=True and device={device!r} contradict each other: pass only one")
    return found


def _moved(tree: Any, move: Callable[[Tensor], Tensor], device: torch.device) -> Any:
    if isinstance(tree, Tensor):
        return move(tree)
    kind: Any = type(tree)
    if kind is list:
        return [_moved(item, move, device) for item in tree]
    if kind is tuple:
        return tuple([_moved(item, move, device) for item in tree])
    if callable(getattr(kind, "to", None)):
        return tree.to(device)  # it knows best, such as a PackedSequence or a tokenizer's batch
    parts = parts_of(tree)
    if parts is None:
        return tree
    return rebuilt(tree, {key: _moved(part, move, device) for key, part in parts.items()})
