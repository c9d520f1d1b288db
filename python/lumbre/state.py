"""The state of a run as one tree of tensors and plain values, and a run that goes on from it."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lumbre._core import unique_names
from lumbre.callback import Callback
from lumbre.errors import ArgumentError, LumbreWarning
from lumbre.foreign import Given

if TYPE_CHECKING:
    from lumbre.context import Context

_SPANS = ("fit", "epoch", "train", "valid")


def state_of(ctx: Context) -> dict[str, Any]:
    """All that a run needs to go on; tensors are the run's own, not copies."""
    updates = ctx._updates
    return {
        "model": dict(ctx.accelerator.unwrap(ctx.model).state_dict()),
        "optimizers": {name: each.state_dict() for name, each in ctx.optimizers.items()},
        "scalers": {
            name: scaler.state_dict()
            for name, scaler in (updates.scalers if updates is not None else {}).items()
        },
        "callbacks": {
            name: state for name, each in named(ctx) if (state := callback_state(each)) is not None
        },
        "records": ctx.records,
        "progress": {
            "epoch": ctx.epoch,
            "iter": ctx.iter,
            "step_count": ctx.step_count,
            "used_once": [list(pair) for pair in ctx.used_once()],
            "stop_reason": ctx.stop_reason,
        },
        "rng": rng_state(ctx.device),
        "generators": {
            "train": [each.get_state() for each in _generators(ctx.train_data)],
            "valid": [each.get_state() for each in _generators(ctx.valid_data)],
        },
    }


def restore(ctx: Context, state: Mapping[str, Any], parts: Mapping[str, bool]) -> None:
    """Make a run go on from a state; `parts` says from which parts of it."""
    if parts["model"]:
        ctx.accelerator.unwrap(ctx.model).load_state_dict(state["model"])
    if parts["optimizers"]:
        _restore_optimizers(ctx, state)
    if parts["callbacks"]:
        _restore_callbacks(ctx, state["callbacks"])
    if parts["records"]:
        _restore_records(ctx, state["records"])
    if parts["progress"]:
        progress = state["progress"]
        ctx.resume(progress["epoch"], progress["step_count"], progress["stop_reason"])
        ctx.use_once([(name, hook) for name, hook in progress["used_once"]])
    if parts["rng"]:
        for kind in ("train", "valid"):
            own = _generators(getattr(ctx, f"{kind}_data"))
            for generator, saved in zip(own, state["generators"][kind], strict=False):
                generator.set_state(saved)
        set_rng_state(state["rng"], ctx.device)


def _restore_optimizers(ctx: Context, state: Mapping[str, Any]) -> None:
    saved = state["optimizers"]
    if set(saved) != set(ctx.optimizers):
        raise ArgumentError(
            f"The state is of the optimizers {_names(saved)}, and this run has "
            f"{_names(ctx.optimizers)}. Resume with the optimizers that were saved, or without "
            "their state."
        )
    for name, each in ctx.optimizers.items():
        each.load_state_dict(saved[name])
    scalers = ctx._updates.scalers if ctx._updates is not None else {}
    for name, scaler in scalers.items():
        if name in state["scalers"]:
            scaler.load_state_dict(state["scalers"][name])


def _restore_callbacks(ctx: Context, saved: Mapping[str, Any]) -> None:
    own = dict(named(ctx))
    for name, state in saved.items():
        if name not in own:
            warnings.warn(
                f"The state that is resumed holds one of {name}, and no callback of this run has "
                "that name: it is left out.",
                LumbreWarning,
                stacklevel=2,
            )
            continue
        load_callback_state(own[name], state)


def _restore_records(ctx: Context, records: Mapping[str, Any]) -> None:
    profile = records["profile"]
    ctx.restore_history(records["metrics"], {part: profile[part] for part in _SPANS})
    extras = {what: dict(sets) for what, sets in records.items() if what != "metrics"}
    extras["profile"] = {part: v for part, v in profile.items() if part not in _SPANS}
    ctx._extras = {
        what: {set_: list(values) for set_, values in sets.items()}
        for what, sets in extras.items()
        if sets
    }


def named(ctx: Context) -> Iterator[tuple[str, Any]]:
    """The callbacks of a run with their names; of two alike the second is `Name_2`."""
    names = unique_names([Given(each).name for each in ctx.callbacks])
    return zip(names, ctx.callbacks, strict=True)


def callback_state(callback: Any) -> Any:
    """What a callback has to say of its state; None when it has none."""
    own = getattr(type(callback), "state_dict", None)
    if own is not None and own is not Callback.state_dict:
        return callback.state_dict()
    saved = (native := Given(callback).native) and native.save()
    return json.loads(saved) if isinstance(saved, str) else saved


def load_callback_state(callback: Any, state: Any) -> None:
    """Let a callback go on from its state."""
    own = getattr(type(callback), "load_state_dict", None)
    if own is not None and own is not Callback.load_state_dict:
        callback.load_state_dict(state)
    elif (native := Given(callback).native) is not None:
        native.load(state if isinstance(state, bytes) else json.dumps(state))


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


def _names(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names)) or "none"
