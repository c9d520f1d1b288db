"""The fast step: three public calls of a training step, made without what surrounds their work.

`loss.backward()`, `optimizer.step()` and `optimizer.zero_grad()` spend much of their time on
wrappers that have nothing to do in a plain run. Each shortcut here does the same work in the same
bits. It is taken only where its trial against the public call came out equal on the torch that is
installed, and at each call only while nobody looks at, or has changed, what it leaves out; in
every other case the public call is made. `LUMBRE_FAST_STEP=0` makes the public calls always.
"""

import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim import optimizer as optimizer_module

from lumbre.torchs import are_watching, torchs, watchers

Backward = Callable[[Tensor, tuple[Tensor, ...]], None]
OptimizerCall = Callable[[Optimizer], object]


class Calls(NamedTuple):
    """The three calls of a training step.

    Attributes:
        backward: Called with the loss and the tensors to be given gradients, `()` for all leaves.
        step: Called with the optimizer, gradients off.
        zero_grad: Called with the optimizer; gradients become None, as torch does by default.
    """

    backward: Backward
    step: OptimizerCall
    zero_grad: OptimizerCall


def _public_backward(loss: Tensor, inputs: tuple[Tensor, ...]) -> None:
    # Without inputs none are named, so that a `backward` of the user's own need not know them.
    if inputs:
        loss.backward(inputs=inputs)  # type: ignore[no-untyped-call]
    else:
        loss.backward()  # type: ignore[no-untyped-call]


def _public_step(optimizer: Optimizer) -> None:
    optimizer.step()


def _public_zero_grad(optimizer: Optimizer) -> None:
    optimizer.zero_grad()


PUBLIC = Calls(_public_backward, _public_step, _public_zero_grad)

# Classes from here take gradients into their own hands, and may replace what a step means.
_WRAPPERS = ("torch.nn.parallel", "torch.distributed", "torch._dynamo", "deepspeed", "accelerate")


def fast_calls(optimizers: Iterable[Optimizer], model: object) -> Calls:
    """Choose how a run takes its steps.

    Args:
        optimizers: The run's optimizers; one that is not torch's kind gets the public calls.
        model: The run's model; so does a wrapped one (data parallel, sharded, compiled).

    Returns:
        The calls, with each shortcut that is proven on this torch, or `PUBLIC`.
    """
    if os.environ.get("LUMBRE_FAST_STEP") == "0":
        return PUBLIC
    try:
        if (
            not all(isinstance(optimizer, Optimizer) for optimizer in optimizers)
            or _is_wrapped(model)
            # Whoever watches from before the run would see the trial, and gets public calls.
            or _is_watched()
        ):
            return PUBLIC
        return _proven_calls()
    except Exception:  # a torch whose internals have moved must not break a run
        return PUBLIC


def _is_wrapped(model: object) -> bool:
    modules = model.modules() if isinstance(model, nn.Module) else (model,)
    classes = {base for module in modules for base in type(module).__mro__}
    return any(base.__module__.startswith(_WRAPPERS) for base in classes)


def _is_watched() -> bool:
    hooks = optimizer_module
    return bool(
        are_watching() or hooks._global_optimizer_pre_hooks or hooks._global_optimizer_post_hooks
    )


# --- the shortcuts ----------------------------------------------------------------------------


def _fast_backward(public: Backward) -> Backward:
    """`Tensor.backward` for a real, plain, scalar loss: one seed and one call of the engine."""
    autograd: Any = torch.autograd
    graph, tensor = autograd.graph, torch.Tensor
    method = torchs(tensor.backward, torch._tensor)
    function = torchs(autograd.backward, torch.autograd)
    engine = torchs(graph._engine_run_backward, graph)
    run = autograd.Variable._execution_engine.run_backward
    ones_like, has_torch_function = torch.ones_like, torch._C._has_torch_function
    transforming, anomaly = torch._C._are_functorch_transforms_active, torch.is_anomaly_enabled
    import torch._dynamo.compiled_autograd as compiled  # heavy, but each optimizer imports it

    logged, debug = graph.log.isEnabledFor, logging.DEBUG
    profiler, profiling, functions, dispatch = watchers()

    def backward(loss: Tensor, inputs: tuple[Tensor, ...]) -> None:
        if (
            type(loss) is not tensor  # a subclass may have its own way
            or "backward" in loss.__dict__  # patched on this tensor
            or tensor.backward is not method  # patched for all of them
            or autograd.backward is not function
            or autograd._engine_run_backward is not engine
            or loss.dim()  # a shape [1] loss is rare; torch words the error of longer ones
            or not loss.dtype.is_floating_point  # torch words the error for a complex one
            or has_torch_function(inputs)  # so may subclasses here
            or anomaly()  # its traces are to show the frames that they always show
            or transforming()  # torch words the error
            or compiled.compiled_autograd_enabled  # the engine is not the one that runs
            or logged(debug)  # torch hooks the graph to log it
            or (profiler._is_profiler_enabled or profiling() or functions() or dispatch())
        ):
            public(loss, inputs)
            return
        # The seed is made anew each time: a gradient may be a view of it, and clipping or
        # accumulation in place would then change the seed of every later step.
        seed = (ones_like(loss),)
        # A device's backward runs in threads, to which torch's wrapper hands context variables.
        go = run if loss.is_cpu else engine
        # keep_graph, create_graph, inputs, allow_unreachable, accumulate_grad
        go((loss,), seed, False, False, inputs, True, True)

    return backward


def _fast_step(public: OptimizerCall) -> OptimizerCall:
    """`Optimizer.step` without torch's wrappers: profiler range, hooks, switch of grad mode."""
    hooks: Any = optimizer_module

    def function() -> None: ...

    # Each wrapper is known by its code object, never by `__wrapped__` alone: a decorator of the
    # user's own has that too, and must not be lost.
    hooked = torchs(cast(Any, Optimizer).profile_hook_step(function), hooks).__code__
    switched = torchs(hooks._use_grad_for_differentiable(function), hooks).__code__
    tracked = SGD([torch.zeros(1, device="cpu")])
    lr_scheduler.StepLR(tracked, 1)
    tracker = torchs(tracked.__dict__["step"], lr_scheduler).__code__
    no_grad_file = torchs(torch.no_grad()(function), torch.utils._contextlib).__code__.co_filename
    folder = os.path.dirname(hooks.__file__) + os.sep

    def body_of(step: Any) -> Callable[[Optimizer], object] | None:
        """Return what torch's wrappers hold, or None where anyone else has had a hand in it."""
        if getattr(step, "__code__", None) is not hooked:
            return None
        body = step.__wrapped__
        if getattr(body, "__code__", None) is switched:
            body = body.__wrapped__
        code = getattr(body, "__code__", None)
        # Some of torch's optimizers are under `torch.no_grad()` instead, which stays.
        inner = body.__wrapped__ if code and code.co_filename == no_grad_file else body
        code = getattr(inner, "__code__", None)
        if code is None or not code.co_filename.startswith(folder):
            return None  # written or decorated by someone else
        return body if inner.__defaults__ else None  # one that cannot go without a closure

    bodies: dict[type, tuple[Any, Callable[[Optimizer], object] | None]] = {}
    grad_enabled = torch.is_grad_enabled
    profiler, profiling, functions, dispatch = watchers()

    def step(optimizer: Optimizer) -> None:
        kind, own = type(optimizer), optimizer.__dict__
        step = getattr(kind, "step", None)
        patch = own.get("step")
        if patch is not None:
            # A scheduler patches the instance to learn of its steps; any other patch is a user's.
            step = patch.__wrapped__ if getattr(patch, "__code__", None) is tracker else None
        known = bodies.get(kind)
        if known is None or known[0] is not step:  # new, or patched on the class since
            known = bodies[kind] = (step, body_of(step))
        body = known[1]
        if (
            body is None
            or own["_optimizer_step_pre_hooks"]  # hooks may come and go at any time
            or own["_optimizer_step_post_hooks"]
            or hooks._global_optimizer_pre_hooks
            or hooks._global_optimizer_post_hooks
            or own["defaults"].get("differentiable")  # the step itself is to be recorded
            or "grad_scale" in own  # a scaler is at work
            or grad_enabled()  # the body counts on gradients being off
            or (profiler._is_profiler_enabled or profiling() or functions() or dispatch())
        ):
            public(optimizer)
            return
        if patch is not None:
            own["_opt_called"] = True  # what the scheduler's warning about order looks at
        body(optimizer)

    return step


def _fast_zero_grad(public: OptimizerCall) -> OptimizerCall:
    """`Optimizer.zero_grad` without its profiler range and its guard against being compiled."""
    method: Any = torchs(Optimizer.zero_grad, torch._compile)
    torchs(method.__wrapped__, optimizer_module)
    profiler, profiling, functions, dispatch = watchers()

    def zero_grad(optimizer: Optimizer) -> None:
        if (
            getattr(type(optimizer), "zero_grad", None) is not method  # overridden or patched
            or "zero_grad" in optimizer.__dict__  # patched on the instance
            or (profiler._is_profiler_enabled or profiling() or functions() or dispatch())
        ):
            public(optimizer)
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    return zero_grad


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
        "backward": _fast_backward,
        "step": _fast_step,
        "zero_grad": _fast_zero_grad,
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
    seen: list[object] = []
    rounds: tuple[tuple[Tensor, ...], ...] = ((), (first,), (first, second))
    for inputs in rounds:
        with torch.enable_grad():
            calls.backward(torch.add(first, second, alpha=3).mean(), inputs)
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
