"""What a run draws at random, kept so that a run that goes on draws what the first one would have.

These are the generators of Python, numpy and torch, those that loaders and samplers have of their
own, and the split of `valid_data=0.2`, which was drawn before the run began.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumbre.data.samples import Part, Samples
from lumbre.errors import LumbreWarning
from lumbre.warn import warn

_KINDS = ("train", "valid")


def draws_of(ctx: Any) -> dict[str, Any]:
    """The parts `rng`, `generators` and `splits` of a run's state."""
    loaders = {kind: getattr(ctx, f"{kind}_data") for kind in _KINDS}
    return {
        "rng": rng_state(ctx.device),
        "generators": {
            kind: [each.get_state() for each in _generators(loader)]
            for kind, loader in loaders.items()
        },
        "splits": {kind: _rows(loader) for kind, loader in loaders.items()},
    }


def restore_draws(ctx: Any, state: Mapping[str, Any]) -> None:
    """Put all where it stood; the loaders of a loop of one's own get theirs when they come."""
    ctx._waiting = {kind: (state["generators"][kind], state["splits"][kind]) for kind in _KINDS}
    for kind in _KINDS:
        loader = getattr(ctx, f"{kind}_data")
        if loader is not None:
            restore_loader(ctx, kind, loader)
            # Workers that live as long as the fit were started in its first epoch, which draws.
            if getattr(loader, "persistent_workers", False):
                iter(loader)
    set_rng_state(state["rng"], ctx.device)


def restore_loader(ctx: Any, kind: str, loader: Any) -> None:
    """Give a loader its part of a state that was restored, once."""
    if not ctx._waiting or kind not in ctx._waiting:
        return
    generators, rows = ctx._waiting.pop(kind)
    for generator, saved in zip(_generators(loader), generators, strict=False):
        generator.set_state(saved)
    own = _rows(loader)
    if rows is None and own is None:
        return
    if rows is None or own is None or len(rows) != len(own):
        saved_as, found = (("no split" if r is None else f"{len(r)} samples") for r in (rows, own))
        warn(
            f"The state is of a fit whose split of the data left {saved_as} for {kind}, and this "
            f"one has {found}: it goes on with its own split. Pass the data and the valid_data "
            "that were saved with it, or samples may be trained on and validated on.",
            LumbreWarning,
        )
        return
    _put_rows(loader, rows)


def rng_state(device: torch.device) -> dict[str, Any]:
    """Where the generators stand that a run draws from: Python's, numpy's, torch's."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the generators where they stood; a device of another kind keeps its own."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "device" in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"], device)


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators of their own that a loader and its samplers have."""
    batches = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _rows(loader: Any) -> Tensor | None:
    """Which samples a split has left to a loader; None where lumbre has split nothing."""
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, Part):
        return torch.as_tensor(dataset.indices)
    return dataset.rows if isinstance(dataset, Samples) else None


def _put_rows(loader: Any, rows: Tensor) -> None:
    if isinstance(loader.dataset, Part):
        loader.dataset.indices = rows.tolist()
    else:
        loader.dataset.rows = rows
