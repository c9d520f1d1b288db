"""How a tensor becomes one that a safetensors file can hold, and how it comes back.

A file holds dense values in row-major order. What has no values, or holds them in another way, is
refused by name; what the format does not know (complex numbers, the rarer float8) is stored as
numbers that it knows, with the dtype noted beside.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

_NATIVE = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(torch.bool, torch.float8_e4m3fn, torch.float8_e5m2),
}
_COMPLEX = {torch.complex32, torch.complex64, torch.complex128}
# One byte each, so that their bytes are stored as uint8.
_BYTES = {
    getattr(torch, name)
    for name in ("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
    if hasattr(torch, name)
}
# Bool, the integers, floats of 16 to 64 bits and complex numbers of two of them.
NUMPY = frozenset(np.dtype(code).name for code in "?bBhHiIqQefdFD")
VIEWED = {str(dtype).removeprefix("torch."): dtype for dtype in _COMPLEX | _BYTES}


def refusal(tensor: Tensor) -> str | None:
    """Why a tensor cannot be saved, and what to do; None when it can."""
    if is_lazy(tensor):
        return "is a parameter of a lazy module that has seen no batch: call the module once first"
    kind = type(tensor)
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return (
            f"is a {kind.__module__}.{kind.__qualname__}, which is no plain tensor: "
            "save a plain one that has its values"
        )
    if tensor.is_quantized:
        return "is quantized: save tensor.dequantize(), or tensor.int_repr() and its scale"
    if tensor.is_nested:
        return "is a nested tensor: save tensor.unbind(), a list of its parts"
    if tensor.layout != torch.strided:
        return f"is sparse ({tensor.layout}): save tensor.to_dense()"
    if tensor.is_meta:
        return "is on the meta device and has no values: give it some, module.to_empty(...)"
    if tensor.dtype not in _NATIVE | _COMPLEX | _BYTES:
        return f"has the dtype {tensor.dtype}, which no file holds: save another view of its bytes"
    return None


def array_refusal(array: Any) -> str | None:
    """The same of a numpy array or scalar."""
    if array.dtype.name not in NUMPY:
        return (
            f"has the dtype {array.dtype}; files hold numbers and bools: array.astype(...) of one"
        )
    return None


def mark(tensor: Tensor) -> str | None:
    """The dtype to note for a tensor that is stored as numbers of another one."""
    name = str(tensor.dtype).removeprefix("torch.")
    return name if name in VIEWED else None


def place(tensor: Tensor) -> tuple[Any, ...] | None:
    """The same for two tensors that are one in memory, such as tied weights; None if in none."""
    if not tensor.numel() or tensor._is_zerotensor():
        return None
    flags = tensor.is_conj(), tensor.is_neg()
    where = tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    return (*where, tensor.dtype, tensor.shape, tensor.stride(), flags)


def storable(value: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """Give it on the CPU, contiguous, of a dtype that files know; copied only where needed."""
    if isinstance(value, np.ndarray):
        # The name knows no byte order, so that this is the machine's. Read-only arrays are copied,
        # too: torch has no such tensors and would warn.
        plain = np.require(value, np.dtype(value.dtype.name), ["C", "A", "W"])
        tensor = torch.from_numpy(plain).reshape(value.shape)
    else:
        tensor = value.detach().as_subclass(Tensor)
        tensor = tensor.clone() if tensor._is_zerotensor() else tensor
        tensor = tensor.resolve_conj().resolve_neg().cpu().contiguous()
    if tensor.dtype in _COMPLEX:
        return torch.view_as_real(tensor)
    return tensor.view(torch.uint8) if tensor.dtype in _BYTES else tensor


def copied(value: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """Give it as `storable` does, in memory of its own."""
    tensor = storable(value)
    if isinstance(value, np.ndarray):
        shares = np.shares_memory(tensor.numpy(), value)
    else:
        shares = tensor.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
    return tensor.clone() if shares else tensor


def viewed(tensor: Tensor, dtype: str | None) -> Tensor:
    """The inverse of `storable`, of the values as they were read and the dtype noted beside."""
    if dtype is None:
        return tensor
    wanted = VIEWED[dtype]
    return torch.view_as_complex(tensor) if wanted in _COMPLEX else tensor.view(wanted)
