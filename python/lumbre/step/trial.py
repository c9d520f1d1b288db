"""Where each shortcut of a step is tried, once a process, against the public call.

`LUMBRE_FAST_STEP=0` makes the public calls always.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim import optimizer as optimizer_module

from lumbre.step.shortcuts import (
    PUBLIC,
    WAYS,
    Calls,
    Look,
    Way,
    fast_backward,
    fast_call,
    fast_step,
    fast_zero_grad,
    looker,
)
from lumbre.torchs import are_watching, torchs

# Classes from here take gradients into their own hands, and may replace what a step means.
_WRAPPERS = ("torch.nn.parallel", "torch.distributed", "torch._dynamo", "deepspeed", "accelerate")


def fast_calls(optimizers: Iterable[Optimizer], model: object) -> Calls:
    """Choose how a run takes its steps.

    Args:
        optimizers: The run's optimizers, where it trains; one that is not torch's kind gets the
            public calls.
        model: The run's model; so does a wrapped one (data parallel, sharded, compiled).

    Returns:
        The calls, with each shortcut that is proven on this torch, or `PUBLIC`.
    """
    optimizers = list(optimizers)
    if os.environ.get("LUMBRE_FAST_STEP") == "0" or not optimizers:
        return PUBLIC
    try:
        if (
            not all(isinstance(optimizer, Optimizer) for optimizer in optimizers)
            or _is_wrapped(model)
            # Whoever watches from before the run would see the trial, and gets public calls.
            or _is_watched()
        ):
            return PUBLIC
        calls = _proven_calls()
        if calls.step is PUBLIC.step:
            return calls
        method = None if calls.zero_grad is PUBLIC.zero_grad else Optimizer.zero_grad
        return calls._replace(step=fast_step(PUBLIC.step, lookers(), method))
    except Exception:  # a torch whose internals have moved must not break a run
        return PUBLIC


def _is_wrapped(model: object) -> bool:
    modules = model.modules() if isinstance(model, nn.Module) else (model,)
    classes = {base for module in modules for base in type(module).__mro__}
    return any(base.__module__.startswith(_WRAPPERS) for base in classes)


def _is_watched() -> bool:
    steps: Any = optimizer_module
    modules: Any = torch.nn.modules.module
    return bool(
        are_watching()
        or steps._global_optimizer_pre_hooks
        or steps._global_optimizer_post_hooks
        or modules._has_any_global_hook()
    )


# --- the trial --------------------------------------------------------------------------------


class _NotNowError(Exception):
    """A shortcut cannot be tried at the moment: something of the user's calls for public calls."""


def _not_now(*_: object) -> None:
    raise _NotNowError


@functools.cache
def _proven_calls() -> Calls:
    """Put each shortcut in the place of its public call if it passes the trial.

    Raises:
        _NotNowError: when a guard of a shortcut trips; nothing is concluded from that.
    """
    shortcuts: dict[str, Callable[[Any], Any]] = {
        "call": fast_call,
        "backward": fast_backward,
        "step": fast_step,
        "zero_grad": fast_zero_grad,
    }
    calls = PUBLIC
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a torch that warns here is about to change
        expected = _trial(PUBLIC)
        for name, shortcut in shortcuts.items():
            try:
                if _trial(PUBLIC._replace(**{name: shortcut(_not_now)})) == expected:
                    calls = calls._replace(**{name: shortcut(getattr(PUBLIC, name))})
            except _NotNowError:
                raise
            except Exception:  # noqa: S112 (any surprise means the public call)
                continue
    return calls


class _Mean(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.add(first, second, alpha=3).mean()


def _trial(calls: Calls) -> list[object]:
    """Take three steps on a tiny problem; return everything that a step could have changed.

    It draws no random numbers, touches no device, and saves no tensor for backward, so that
    hooks of the user's on saved tensors do not get to see it.
    """
    # Under a default device of the user's choice, too, this stays on the CPU.
    first = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float32, device="cpu", requires_grad=True)
    second = torch.tensor([0.5], dtype=torch.float32, device="cpu", requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": [second], "lr": 0.3}]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    module = _Mean()
    seen: list[object] = []
    rounds: tuple[tuple[Tensor, ...], ...] = ((), (first,), (first, second))
    for inputs in rounds:
        with torch.enable_grad():
            calls.backward(calls.call(module, first, second), inputs)
            seen.append(torch.is_grad_enabled())
        seen += [tensor.grad is not None and tensor.grad.tolist() for tensor in (first, second)]
        with torch.no_grad():
            calls.step(optimizer)
            seen.append(torch.is_grad_enabled())
        calls.zero_grad(optimizer)
        seen += [first.tolist(), second.tolist(), first.grad, second.grad]
        seen.append("_opt_called" in optimizer.__dict__)
        if not inputs:
            lr_scheduler.StepLR(optimizer, 1)  # from here on a scheduler tracks the steps
    return seen


# --- the trial of the bodies ------------------------------------------------------------------


def lookers() -> dict[type[Optimizer], Look]:
    """Return what looks at optimizers in a run, by their class: of those that are proven."""
    return {kind: looker(WAYS[kind]) for kind in _proven()}


@functools.cache
def _proven() -> frozenset[type[Optimizer]]:
    """Return the classes whose bodies come to the same as torch's on the torch installed."""
    return frozenset(kind for kind, way in WAYS.items() if _is_proven(kind, way))


def _is_proven(kind: Any, way: Way) -> bool:
    try:
        torchs(_undisabled(way.kind._init_group), way.home)
        for function in (getattr(way.home, name) for name in way.functions):
            torchs(getattr(function, "__wrapped__", function), way.home)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a torch that warns here is about to change
            return _trial_of_body(kind, None) == _trial_of_body(kind, looker(way))
    except Exception:  # any surprise means torch's own body
        return False


def _undisabled(function: Any) -> Any:
    """Return what torch.compile has wrapped: it does so with each class at its first use."""
    folder = os.path.join(os.path.dirname(torch.__file__), "_dynamo", "")
    is_wrapped = function.__code__.co_filename.startswith(folder)
    return function.__wrapped__ if is_wrapped else function


def _trial_of_body(kind: Any, look: Look | None) -> list[object]:
    """Take a few steps on a tiny problem, on the CPU; return all that they could have changed."""
    always = {"weight_decay": 0.1, "maximize": True}
    more: tuple[dict[str, Any], ...] = ({"amsgrad": True}, {"amsgrad": True, **always})
    if kind is SGD:
        nesterov = {"momentum": 0.9, "nesterov": True}
        more = ({"momentum": 0.9, "dampening": 0.5}, {**nesterov, **always})
    seen: list[object] = []
    for options in ({}, {"weight_decay": 0.2}, *more):
        params = [
            torch.tensor(values, dtype=torch.float32, device="cpu", requires_grad=True)
            for values in ([1.0, -2.0], [0.5])
        ]
        groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.3}]
        optimizer = kind(groups, lr=0.1, **options)
        torchs_body = kind.step.__wrapped__.__wrapped__
        kept = None if look is None else look(optimizer)
        with torch.no_grad():
            for scale in (1.0, -0.5, 0.25):
                for parameter in params:
                    parameter.grad = parameter * scale
                if kept is None or not kept.body(optimizer, kept):
                    torchs_body(optimizer)
                seen += [parameter.tolist() for parameter in params]
        for state in optimizer.state.values():
            seen.append({name: value.tolist() for name, value in state.items()})
    return seen
