"""A state with the options of the fit that goes on, in the place of those it was saved with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# A callback in which one of these has changed begins anew.
_DECIDING = ("monitor", "mode", "scheduler", "opt_name", "call_on")


def adapted(
    state: Mapping[str, Any], was: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a state with the options of this fit in the place of those it was saved with.

    A value that a schedule has moved keeps its ratio to what it began with.

    Args:
        state: The state.
        was: The identity of its fit.
        now: The identity of this one.
    """
    optimizers = {}
    for name, each in state["optimizers"].items():
        begun = was["groups"].get(name, []), now["groups"].get(name, [])
        groups = [dict(group) for group in each["param_groups"]]
        for group, before, after in zip(groups, *begun, strict=False):
            group.update(_moved_group(group, before, after))
        optimizers[name] = {**each, "param_groups": groups}
    callbacks = {}
    for name, each in state["callbacks"].items():
        before, after = was["schedules"].get(name, {}), now["schedules"].get(name, {})
        if _begins_anew(name, was["fit"], now["fit"]):
            for opt in after.keys() & optimizers.keys():
                _begin_anew(optimizers[opt]["param_groups"], now["groups"][opt])
        elif before and isinstance(each, Mapping):
            callbacks[name] = {
                opt: _moved_schedule(saved, before[opt], after[opt], optimizers[opt])
                if opt in before and opt in after and opt in optimizers
                else saved
                for opt, saved in each.items()
            }
        else:
            callbacks[name] = each
    return {**state, "optimizers": optimizers, "callbacks": callbacks}


def begun_anew(
    was: Mapping[str, Any], now: Mapping[str, Any], state: Mapping[str, Any]
) -> list[str]:
    """Return the names of callbacks whose state is of no use, as they watch something else now."""
    return [name for name in state["callbacks"] if _begins_anew(name, was["fit"], now["fit"])]


def _begins_anew(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    keys = [f"{name}.{part}" for part in _DECIDING]
    is_there = name in was and name in now
    return is_there and any(was.get(key) != now.get(key) for key in keys)


def _begin_anew(groups: list[dict[str, Any]], begun: list[dict[str, Any]]) -> None:
    """Give groups the options with which a schedule begins."""
    for group, options in zip(groups, begun, strict=False):
        group.update({key: value for key, value in options.items() if key in group})


def _moved_group(
    group: Mapping[str, Any], was: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Any]:
    changed = {key for key in now if key in was and key in group and was[key] != now[key]}
    moved = {key: _moved(group[key], was[key], now[key]) for key in changed}
    if "initial_lr" in changed and "lr" in group:
        moved["lr"] = _moved(group["lr"], was["initial_lr"], now["initial_lr"])
    return moved


def _moved(value: Any, was: Any, now: Any) -> Any:
    """Return a value that keeps its ratio to what it began with."""
    if isinstance(value, Tensor):
        return torch.full_like(value, _moved(value.item(), was, now))
    if isinstance(value, tuple | list) and isinstance(now, tuple | list) and len(value) == len(now):
        return type(value)(_moved(*each) for each in zip(value, was, now, strict=True))
    numbers = all(isinstance(each, int | float) for each in (value, was, now))
    if not numbers or isinstance(now, bool) or value == was or not was:
        return now
    return value * now / was


def _moved_schedule(
    saved: Any, was: Mapping[str, Any], now: Mapping[str, Any], optimizer: Mapping[str, Any]
) -> Any:
    if not isinstance(saved, Mapping) or not isinstance(saved.get("state"), Mapping):
        return saved
    state = dict(saved["state"])
    for key, value in now.items():
        if key in was and key in state and was[key] != value:
            state[key] = value
    if "_last_lr" in state:
        state["_last_lr"] = [group["lr"] for group in optimizer["param_groups"]]
    return {**saved, "state": state}
