"""What data are, in a few plain values: their kind, length and order, and some of their samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import RandomSampler, SequentialSampler, Subset, TensorDataset

from lumbre.data.counts import length_of
from lumbre.data.samples import Part, Samples, TensorLoader, type_name
from lumbre.data.seeded import dataset_of, unkeyed

# So many samples are looked at, and of each tensor at most so many bytes.
_LOOKED_AT = 64
_BYTES = 1 << 22


def described(loader: Any) -> dict[str, Any]:
    """Return what the data of a loader are, by name: plain values, equal for equal data.

    Samples that lie in memory are looked at, some of them, evenly spaced. Data sets whose samples
    are made by code of their own are not: to look would run it, and may draw.

    Args:
        loader: What gives the batches; None for no data.
    """
    if loader is None:
        return {}
    dataset = dataset_of(loader)
    source = loader if dataset is None else dataset
    # What lumbre has split is known by the data that it has split.
    whole = source.dataset if isinstance(source, Part) else source
    found = {
        "": type_name(whole),
        ".batches": length_of(loader),
        ".samples": None if dataset is None else length_of(dataset),
        ".batch_size": _batch_size(loader),
        ".order": _order(loader),
        ".content": _digest(_content(whole)),
    }
    return {name: value for name, value in found.items() if value is not None}


def _batch_size(loader: Any) -> Any:
    batches = getattr(loader, "batch_sampler", None)
    found = getattr(loader, "batch_size", None) or getattr(batches, "batch_size", None)
    return found if isinstance(found, int) else None


def _order(loader: Any) -> str | None:
    if isinstance(loader, TensorLoader):
        return "shuffled" if loader.shuffle else "as it is"
    batches: Any = getattr(loader, "batch_sampler", None)
    sampler = getattr(batches, "sampler", None) or unkeyed(getattr(loader, "sampler", None))
    if isinstance(sampler, RandomSampler):
        return "shuffled"
    if sampler is None or isinstance(sampler, SequentialSampler):
        return None if sampler is None and batches is None else "as it is"
    return type_name(sampler)


def digest_of(value: Any) -> str:
    """Return a digest of a tensor, an array, a text, or a tree of them; of long ones in parts."""
    return _digest(_of_sample(value)) or "nothing"


def _digest(parts: Iterable[bytes]) -> str | None:
    digest, is_empty = hashlib.sha256(), True
    for each in parts:
        digest.update(each)
        is_empty = False
    return None if is_empty else digest.hexdigest()[:16]


def _content(source: Any) -> Iterator[bytes]:
    if isinstance(source, Samples | TensorDataset):
        for each in source.tensors:
            yield from _of_tensor(each)
    elif isinstance(source, Subset):
        inner = list(_content(source.dataset))
        if inner:
            yield from inner
            yield from _of_tensor(torch.as_tensor(list(source.indices)))
    elif type(source) in (list, tuple):
        for place in _spaced(len(source)):
            yield from _of_sample(source[place])


def _of_sample(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield from _of_tensor(value)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        flat = np.ascontiguousarray(value).reshape(-1)
        yield repr((value.shape, value.dtype.str)).encode()
        yield from _of_tensor(torch.from_numpy(flat.view(np.uint8)))
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield repr(name).encode()
            yield from _of_sample(each)
    elif isinstance(value, list | tuple):
        for each in value[:_LOOKED_AT]:
            yield from _of_sample(each)
    elif isinstance(value, int | float | str | bytes | None):
        yield repr(value).encode()


def _of_tensor(value: Tensor) -> Iterator[bytes]:
    yield repr((tuple(value.shape), str(value.dtype))).encode()
    if not value.numel() or value.layout != torch.strided or value.is_meta:
        return
    value = value.detach()
    if value.ndim and len(value) > _LOOKED_AT:
        value = value[torch.tensor(list(_spaced(len(value))), device=value.device)]
    flat = value.reshape(-1)
    step = max(1, flat.numel() * flat.element_size() // _BYTES)
    yield flat[::step].contiguous().cpu().view(torch.uint8).numpy().tobytes()


def _spaced(length: int) -> list[int]:
    if length <= _LOOKED_AT:
        return list(range(length))
    return [place * (length - 1) // (_LOOKED_AT - 1) for place in range(_LOOKED_AT)]
