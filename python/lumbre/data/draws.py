"""The random draws of a run, kept so that one that goes on draws what the first one would have.

These are the generators of Python, numpy and torch, those that loaders, samplers and data sets
hold, the state of samplers and data sets that have one, and the split of `valid_data=0.2`, which
was drawn before the run began.
"""

from __future__ import annotations

import copy
import dis
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from lumbre.data.samples import Part, Samples, type_name
from lumbre.data.seeded import dataset_of, keys_of, unkeyed
from lumbre.data.stateful import has_state, is_stateful_loader, is_torchdatas
from lumbre.errors import LumbreWarning
from lumbre.warn import warn

_GENERATORS = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)
# Those that the files of 0.1.0 hold, as a list of the states of torch's generators in this order.
_FIRST = tuple(
    f"{place}.generator"
    for place in ("loader", "sampler", "batch_sampler", "batch_sampler.sampler")
)

_NEXT = "next_iter_state"
_NAMES = {"dataset": "data set"}


def draws_of(loaders: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return the parts `rng`, `generators`, `samplers`, `splits`, `workers` of a run's state.

    Args:
        loaders: The loaders by their kind, "train" and "valid"; None where there is none.
        device: The device whose generator is drawn from too.
    """
    return {
        "rng": rng_state(device),
        "generators": {kind: generator_states(loader) for kind, loader in loaders.items()},
        "samplers": {kind: _sampler_states(loader) for kind, loader in loaders.items()},
        "splits": {kind: _rows(loader) for kind, loader in loaders.items()},
        "workers": {kind: has_workers(loader) for kind, loader in loaders.items()},
    }


def restore_draws(
    loaders: Mapping[str, Any], state: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    """Put all where it stood.

    Returns:
        By kind, the part of each loader that is not there yet, for `restore_loader` when it comes.
    """
    parts = {
        kind: {
            part: state[part][kind]
            for part in ("generators", "samplers", "splits", "workers")
            if part in state  # files of 0.1.0 have only the first and the third
        }
        for kind in loaders
    }
    for kind, loader in loaders.items():
        if loader is not None:
            restore_loader(loader, kind, parts.pop(kind), starts_workers=True)
    set_rng_state(state["rng"], device)
    return parts


def draws_of_pass(loader: Any, device: torch.device) -> dict[str, Any]:
    """Return what a pass is begun with: the generators, the states of samplers and data sets."""
    return {
        "rng": rng_state(device),
        "generators": generator_states(loader),
        "samplers": copy.deepcopy(_sampler_states(loader)),
        "workers": has_workers(loader),
    }


def has_workers(loader: Any) -> bool:
    """True if a loader has workers that live from pass to pass, and has started them."""
    lives_on = getattr(loader, "persistent_workers", False)
    return bool(lives_on) and getattr(loader, "_iterator", None) is not None


def restore_draws_of_pass(loader: Any, state: Mapping[str, Any], device: torch.device) -> None:
    """Put all where it stood when a pass was begun."""
    if has_workers(loader) and not state["workers"]:
        loader._iterator = None  # the pass is the one that starts them
    set_generator_states(loader, state["generators"])
    restore_states(loader, state["samplers"])
    set_rng_state(state["rng"], device)


def restore_loader(
    loader: Any, kind: str, saved: Mapping[str, Any] | None, starts_workers: bool = False
) -> None:
    """Give a loader its part of a state, if there is one."""
    if saved is None:
        return
    _restore_rows(loader, kind, saved["splits"])
    # Workers that live as long as the fit were started in its first pass, which draws.
    had_workers = saved.get("workers", getattr(loader, "persistent_workers", False))
    if starts_workers and had_workers and not has_workers(loader):
        iter(loader)
    left = set_generator_states(loader, saved["generators"])
    left += restore_states(loader, saved.get("samplers", {}))
    if left:
        warn(
            f"The state holds the {', '.join(left)} of the {kind} data, and the loader of this fit "
            "has none there: its order is another one. Pass the data that was saved with it.",
            LumbreWarning,
        )


def _restore_rows(loader: Any, kind: str, rows: Tensor | None) -> None:
    """Split the data as it was split when the state was saved."""
    own = _rows(loader)
    if rows is None and own is None:
        return
    if rows is None or own is None or len(rows) != len(own):
        saved_as, found = (("no split" if r is None else f"{len(r)} samples") for r in (rows, own))
        warn(_OTHER_SPLIT.format(saved_as, kind, found), LumbreWarning)
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


def generator_states(loader: Any) -> dict[str, Any]:
    """Return the states of the generators that a loader, its samplers and its data set hold.

    They are tensors and plain values, by the place of each: `"sampler.generator"`.
    """
    return {place: _state_of(each) for place, each in _generators(loader).items()}


def set_generator_states(loader: Any, states: Any) -> list[str]:
    """Put the generators of a loader where they stood.

    Returns:
        The places of states for which there is no generator, or one of another kind.
    """
    own = _generators(loader)
    if isinstance(states, list):
        torchs = [place for place in _FIRST if isinstance(own.get(place), torch.Generator)]
        states = dict(zip(torchs, states, strict=False))
    return [
        place
        for place, state in states.items()
        if place not in own or not _put_state(own[place], state)
    ]


def _generators(loader: Any) -> dict[str, Any]:
    """Return the generators that are attributes of a loader's parts, by their place."""
    found: dict[int, tuple[str, Any]] = {}
    for place, part in _parts(loader).items():
        held = {"generator": getattr(part, "generator", None), **getattr(part, "__dict__", {})}
        for name, value in held.items():
            if isinstance(value, _GENERATORS) and not isinstance(value, random.SystemRandom):
                found.setdefault(id(value), (f"{place}.{name}", value))
    return dict(found.values())


def _parts(loader: Any) -> dict[str, Any]:
    """Return a loader, its samplers and its data sets, by their place."""
    batches = unkeyed(getattr(loader, "batch_sampler", None))
    parts = {
        "loader": loader,
        "sampler": unkeyed(getattr(loader, "sampler", None)),
        "batch_sampler": batches,
        "batch_sampler.sampler": getattr(batches, "sampler", None),
        "sample_seed": keys_of(loader),
    }
    dataset, place = dataset_of(loader), "dataset"
    while dataset is not None and all(dataset is not part for part in parts.values()):
        parts[place] = dataset  # and the one that a Subset has its samples from
        dataset, place = getattr(dataset, "dataset", None), f"{place}.dataset"
    return parts


def _state_of(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return _saved(generator.get_state(legacy=False))
    return _saved(generator.bit_generator.state)


def _put_state(generator: Any, state: Any) -> bool:
    """Put a generator where it stood; false where the state is of another kind."""
    own = _state_of(generator)
    if type(own) is not type(state):
        return False
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif own["bit_generator"] != state["bit_generator"]:
        return False
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_given(state))
    else:
        generator.bit_generator.state = _given(state)
    return True


def _saved(state: Any) -> Any:
    """Return a state of numpy's with tensors in the place of its arrays."""
    if isinstance(state, Mapping):
        return {name: _saved(each) for name, each in state.items()}
    # The bits stay: what is above int64 wraps, and wraps back.
    return torch.from_numpy(state.astype(np.int64)) if isinstance(state, np.ndarray) else state


def _given(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {name: _given(each) for name, each in state.items()}
    return state.cpu().numpy().astype(np.uint64) if isinstance(state, Tensor) else state


def _sampler_states(loader: Any) -> dict[str, Any]:
    """Return what a loader, its samplers and data sets say of their state, by their place."""
    states, seen = {}, set()
    for place, part in _parts(loader).items():
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        if has_state(part):
            states[place] = part.state_dict()
        elif is_stateful_loader(part):
            states[place] = {_NEXT: part.next_iter_state}
        elif _may_carry(loader, place, part) and (carried := _carried(type(part))):
            name = f"{_NAMES.get(place, place)} {type_name(part)}"
            warn(_NO_STATE.format(name, ", ".join(carried)), LumbreWarning)
    return states


def _may_carry(loader: Any, place: str, part: Any) -> bool:
    """True if what a part changes in its `__iter__` is seen by the next pass."""
    if isinstance(part, IterableDataset):
        return not getattr(loader, "num_workers", 0)  # each of these has a copy of its own
    return place != "loader" and not place.startswith("dataset") and not is_torchdatas(part)


def dataset_states(loader: Any) -> dict[str, Any]:
    """Return a copy of what the data sets of a loader say of their state, by their place."""
    return {
        place: copy.deepcopy(part.state_dict())
        for place, part in _parts(loader).items()
        if place.startswith("dataset") and has_state(part)
    }


def restore_states(loader: Any, states: Mapping[str, Any]) -> list[str]:
    """Give samplers and data sets their states; returns the places where nobody takes one."""
    own, left = _parts(loader), []
    for place, state in states.items():
        part: Any = own.get(place)
        if has_state(part):
            part.load_state_dict(state)
        elif is_stateful_loader(part):
            # What its user has told it to go on from; a pass that has begun has taken it.
            part.next_iter_state = state.get(_NEXT)
        elif not (place == "loader" and _NEXT in state):
            left.append(place)
    return left


def _carried(kind: type) -> list[str]:
    """Return the attributes that a class reads and then sets in `__iter__`, such as a count."""
    read: set[str] = set()
    carried: dict[str, None] = {}
    code = getattr(getattr(kind, "__iter__", None), "__code__", None)
    for step in dis.get_instructions(code) if code is not None else ():
        if step.opname == "LOAD_ATTR":
            read.add(step.argval)
        elif step.opname == "STORE_ATTR" and step.argval in read:
            carried[step.argval] = None
    return list(carried)


def _rows(loader: Any) -> Tensor | None:
    """Which samples a split has left to a loader; None where lumbre has split nothing."""
    dataset = dataset_of(loader)
    if isinstance(dataset, Part):
        return torch.as_tensor(dataset.indices)
    return dataset.rows if isinstance(dataset, Samples) else None


def _put_rows(loader: Any, rows: Tensor) -> None:
    dataset = dataset_of(loader)
    if isinstance(dataset, Part):
        dataset.indices = rows.tolist()
    else:
        dataset.rows = rows


_OTHER_SPLIT = (
    "The state is of a fit whose split of the data left {} for {}, and this one has {}: it goes on "
    "with its own split. Pass the data and the valid_data that were saved with it, or samples may "
    "be trained on and validated on."
)
_NO_STATE = (
    "The {} changes its {} from epoch to epoch and has no state_dict(): a fit that resumes "
    "begins with it anew. Give it state_dict(self), which returns plain values, and "
    "load_state_dict(self, state)."
)
