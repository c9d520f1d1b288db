"""What a metric has seen of a pass, as plain values: for a fit that goes on inside of it."""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lumbre.errors import LumbreError
from lumbre.files import form
from lumbre.metrics.base import Metric
from lumbre.metrics.native import Native
from lumbre.metrics.sets import TorchMetric

# What a run puts on a metric, and what it was made with.
_OF_THE_RUN = frozenset({"ctx", "_made_with"})
# What is on a device of a metric that counts in Rust: fetched by then.
_FETCHED = frozenset({"_native", "_on_device", "_before", "_gathered"})
# Code, and what stands for it, is no state.
_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def metric_state(metric: Metric) -> dict[str, Any]:
    """Return what a metric has seen: of its own `state_dict` if it has one, else of its attributes.

    Tensors are the metric's own, not copies.

    Raises:
        SaveError: when an attribute is neither plain data nor a tensor.
    """
    if _has_own(metric):
        state: dict[str, Any] = metric.state_dict()  # type: ignore[attr-defined]
    elif isinstance(metric, TorchMetric):
        state = _of_torchmetrics(metric._held)
    else:
        if isinstance(metric, Native):
            metric._fetch()
        state = {name: _of_attribute(each) for name, each in _attributes(metric).items()}
        if isinstance(metric, Native):
            state["_native"] = [metric._native.state, metric._native.width]
    form.check({type(metric).__name__: state})
    return state


def restore_metric(metric: Metric, state: Mapping[str, Any]) -> None:
    """Let a metric go on from what `metric_state` gave."""
    if _has_own(metric):
        metric.load_state_dict(dict(state))  # type: ignore[attr-defined]
        return
    if isinstance(metric, TorchMetric):
        _put_torchmetrics(metric._held, state)
        return
    for name, each in state.items():
        if name == "_native" and isinstance(metric, Native):
            metric._native.reset()
            metric._native.add_state(each[0])
        elif isinstance(own := getattr(metric, name, None), nn.Module):
            own.load_state_dict(each)
        else:
            setattr(metric, name, each)


def why_not(metric: Metric) -> str | None:
    """Say why what a metric has seen cannot be kept; None when it can."""
    try:
        metric_state(metric)
    except LumbreError as error:
        return str(error)
    return None


def _has_own(metric: Metric) -> bool:
    methods = (getattr(metric, name, None) for name in ("state_dict", "load_state_dict"))
    return all(map(callable, methods))


def _attributes(metric: Metric) -> dict[str, Any]:
    slots = {
        name: getattr(metric, name)
        for kind in type(metric).__mro__
        for name in getattr(kind, "__slots__", ())
        if hasattr(metric, name)
    }
    others = _OF_THE_RUN | (_FETCHED if isinstance(metric, Native) else frozenset())
    return {
        name: each
        for name, each in {**slots, **vars(metric)}.items()
        if not (name in others or isinstance(each, _CODE) or inspect.isroutine(each))
    }


def _of_attribute(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return dict(value.state_dict())
    return value if isinstance(value, Tensor) else copy.deepcopy(value)


def _of_torchmetrics(held: Any) -> dict[str, Any]:
    """Return the states of a torchmetric, and of those that it holds, by their places."""
    return {
        place: {
            "states": {name: getattr(each, name) for name in each._defaults},
            "updates": each._update_count,
        }
        for place, each in held.named_modules()
        if hasattr(each, "_defaults")
    }


def _put_torchmetrics(held: Any, state: Mapping[str, Any]) -> None:
    places = dict(held.named_modules())
    for place, saved in state.items():
        each = places[place]
        each._computed = None
        each._update_count = saved["updates"]
        for name, value in saved["states"].items():
            put = [v.to(each.device) for v in value] if isinstance(value, list) else value
            setattr(each, name, put.to(each.device) if isinstance(put, Tensor) else put)
