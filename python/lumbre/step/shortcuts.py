"""The fast step: three public calls of a training step, made without what surrounds their work.

`loss.backward()`, `optimizer.step()` and `optimizer.zero_grad()` spend much of their time on
wrappers that have nothing to do in a plain run. Each shortcut here does the same work in the same
bits. It is taken only where its trial against the public call came out equal on the torch that is
installed (`trial.py`), and at each call only while nobody looks at, or has changed, what it leaves
out; in every other case the public call is made.
"""

import functools
import itertools
import logging
import operator
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler
from torch.optim import adam as adam_module
from torch.optim import optimizer as optimizer_module
from torch.optim import sgd as sgd_module

from lumbre.torchs import torchs, watchers

Backward = Callable[[Tensor, tuple[Tensor, ...]], bool]


class Calls(NamedTuple):
    """The three calls of a training step.

    Attributes:
        backward: Called with the loss and the tensors to be given gradients, `()` for all leaves.
            Returns True if nobody watches torch's calls.
        step: Called with the optimizer, gradients off. Where no line of a user's has run since
            somebody asked who watches, it is told, `unwatched=True`, and need not ask again. With
            `clears=True` it may clear the gradients too, and returns True if it has.
        zero_grad: Called with the optimizer; gradients become None, as torch does by default.
    """

    backward: Backward
    step: Callable[..., bool]
    zero_grad: Callable[[Optimizer], object]


def _public_backward(loss: Tensor, inputs: tuple[Tensor, ...]) -> bool:
    # Without inputs none are named, so that a `backward` of the user's own need not know them.
    if inputs:
        loss.backward(inputs=inputs)  # type: ignore[no-untyped-call]
    else:
        loss.backward()  # type: ignore[no-untyped-call]
    return False


def _public_step(optimizer: Optimizer, unwatched: bool = False, clears: bool = False) -> bool:
    optimizer.step()
    return False


def _public_zero_grad(optimizer: Optimizer) -> None:
    optimizer.zero_grad()


PUBLIC = Calls(_public_backward, _public_step, _public_zero_grad)

# --- the bodies of SGD, Adam and AdamW --------------------------------------------------------

# At each step torch looks up the state of each parameter, fills half a dozen lists, and finds out
# which of its three ways to step is meant. On the CPU that is one tensor after the other. Here the
# same operations run, of the same tensors and numbers, but options and states are known from the
# step before, and looked at for change. Whatever is missing or asks for another way is left to
# torch's own body.

# Takes the step of an optimizer, of which this is known; false where torch is to take it.
Body = Callable[[Optimizer, "Kept"], bool]
Look = Callable[[Optimizer], "Kept"]
_Group = dict[str, Any]
_State = dict[str, Any]
_Options = tuple[Any, ...]

_same = operator.is_


class Kept:
    """What is known of an optimizer between two steps.

    Attributes:
        body: What steps it.
        values: What was in its groups when their options were read.
        options: These, by group.
        first: One of its parameters: where it lies is where all of them lie.
        held: The states that it held when they were looked up.
        params: The parameters then, by group.
        states: Their states, by group; None for one that had none.
    """

    __slots__ = ("body", "first", "held", "options", "params", "states", "values")

    def __init__(self, optimizer: Optimizer, body: Body, options: list[_Options]) -> None:
        self.body, self.options = body, options
        self.values = [dict(group) for group in optimizer.param_groups]
        self.first: Any = next((p for group in self.values for p in group["params"]), None)
        self.held: list[Any] = []
        self.params: list[list[Tensor]] = []
        self.states: list[list[_State | None]] = []

    def find_states(self, optimizer: Optimizer) -> None:
        """Look the states up again, where parameters or states are others than before."""
        state = optimizer.state
        lists = [group["params"] for group in optimizer.param_groups]
        if not (
            _are_same(state.values(), self.held)
            and len(lists) == len(self.params)
            and all(map(_are_same, lists, self.params))
        ):
            self.held, self.params = list(state.values()), list(map(list, lists))
            # By `get`, as the states make an entry for whoever is looked up.
            self.states = [[state.get(p) for p in params] for params in lists]


def _are_same(these: Any, those: list[Any]) -> bool:
    """True if two collections hold the very same objects."""
    return len(these) == len(those) and all(map(_same, these, those))


class Way(NamedTuple):
    """How torch steps a kind of optimizers, one tensor after the other.

    Attributes:
        kind: The class that has the step.
        home: Its module.
        functions: The names of those there that choose the way and go it.
        never: Options that ask for another way.
        numbers: Options that may be tensors, and are left to torch then.
        options: Gives what a step reads of a group.
        body: Steps an optimizer in this way.
    """

    kind: Any
    home: ModuleType
    functions: tuple[str, str]
    never: tuple[str, ...]
    numbers: tuple[str, ...]
    options: Callable[[_Group], _Options]
    body: Body


def _leave(optimizer: Optimizer, kept: Kept) -> bool:
    """Leave an optimizer to torch."""
    return False


def looker(way: Way) -> Look:
    """Return what looks at optimizers in a run: torch is to be as it is now."""
    kind, home, names, never, numbers, options_of, body = way
    init, functions = kind._init_group, [getattr(home, name) for name in names]

    def is_plain(optimizer: Optimizer, group: _Group) -> bool:
        """True if torch steps a group as it is known to do."""
        return not (
            any(group[name] for name in never)
            # Tensors among them have ways of their own.
            or not all(isinstance(group[name], int | float) for name in numbers)
            # Of parameters on several devices torch does not step all at once, either.
            or not all(parameter.is_cpu for parameter in group["params"])
            or kind._init_group is not init
            or [getattr(home, name, None) for name in names] != functions
            or "_init_group" in optimizer.__dict__
        )

    def look(optimizer: Optimizer) -> Kept:
        groups = optimizer.param_groups
        if all(is_plain(optimizer, group) for group in groups):
            return Kept(optimizer, body, [options_of(group) for group in groups])
        return Kept(optimizer, _leave, [])

    return look


def _sgd_options(group: _Group) -> _Options:
    decay, momentum, maximize = group["weight_decay"], group["momentum"], group["maximize"]
    is_bare = decay == 0 and momentum == 0 and not maximize
    dampened = 1 - group["dampening"]
    return is_bare, -group["lr"], decay, momentum, dampened, group["nesterov"], maximize


def _step_sgd(optimizer: Optimizer, kept: Kept) -> bool:
    places = itertools.count()
    for group, options in zip(optimizer.param_groups, kept.options, strict=True):
        is_bare, rate, decay, momentum, dampened, nesterov, maximize = options
        place = next(places)
        if is_bare:
            for parameter in group["params"]:
                grad = parameter.grad
                if grad is not None:
                    parameter.add_(grad, alpha=rate)
            continue
        kept.find_states(optimizer)
        for parameter, state in zip(group["params"], kept.states[place], strict=True):
            grad = parameter.grad
            if grad is None:
                continue
            if maximize:
                grad = -grad
            if decay != 0:
                grad = grad.add(parameter, alpha=decay)
            if momentum != 0:
                state = optimizer.state[parameter] if state is None else state
                buffer = state.get("momentum_buffer")
                if buffer is None:
                    buffer = state["momentum_buffer"] = grad.detach().clone()
                else:
                    buffer.mul_(momentum).add_(grad, alpha=dampened)
                grad = grad.add(buffer, alpha=momentum) if nesterov else buffer
            parameter.add_(grad, alpha=rate)
    return True


def _adam_options(group: _Group) -> _Options:
    names = "lr", "eps", "weight_decay", "decoupled_weight_decay", "amsgrad", "maximize"
    return (*group["betas"], *(group[name] for name in names))


def _step_adam(optimizer: Optimizer, kept: Kept) -> bool:
    kept.find_states(optimizer)
    work = []
    for options, params, states in zip(kept.options, kept.params, kept.states, strict=True):
        for parameter, state in zip(params, states, strict=True):
            grad = parameter.grad
            if grad is None:
                continue
            # A state that is to be made, an error that is to be worded, or two numbers in one.
            if not state or grad.is_sparse or parameter.is_complex():
                return False
            work.append((parameter, grad, state, options))
    for parameter, grad, state, options in work:
        beta1, beta2, lr, eps, decay, decoupled, amsgrad, maximize = options
        if maximize:
            grad = -grad
        count = state["step"]
        count += 1
        if decay != 0:
            if decoupled:
                parameter.mul_(1 - lr * decay)
            else:
                grad = grad.add(parameter, alpha=decay)
        average, square = state["exp_avg"], state["exp_avg_sq"]
        average.lerp_(grad, 1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        number = count.item()
        if amsgrad:
            greatest = state["max_exp_avg_sq"]
            square = torch.maximum(greatest, square, out=greatest)
        root = (1 - beta2**number) ** 0.5
        size = (square.sqrt() / root).add_(eps)
        parameter.addcdiv_(average, size, value=-(lr / (1 - beta1**number)))
    return True


_EVERYWHERE = "foreach", "fused", "differentiable"
_SGD = Way(
    SGD,
    sgd_module,
    ("sgd", "_single_tensor_sgd"),
    _EVERYWHERE,
    ("lr", "weight_decay", "momentum", "dampening"),
    _sgd_options,
    _step_sgd,
)
_ADAM = Way(
    Adam,
    adam_module,
    ("adam", "_single_tensor_adam"),
    (*_EVERYWHERE, "capturable"),
    ("lr", "weight_decay", "eps"),
    _adam_options,
    _step_adam,
)
WAYS = {SGD: _SGD, Adam: _ADAM, AdamW: _ADAM}


# --- the three calls ---------------------------------------------------------------------------


def fast_backward(public: Backward) -> Backward:
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
    levels = getattr(graph.log, "_cache", {})  # what a logger has answered before
    profiler, profiling, functions, dispatch = watchers()

    def backward(loss: Tensor, inputs: tuple[Tensor, ...]) -> bool:
        if (
            type(loss) is not tensor  # a subclass may have its own way
            or "backward" in loss.__dict__  # patched on this tensor
            or tensor.backward is not method  # patched for all of them
            or autograd.backward is not function
            or autograd._engine_run_backward is not engine
            or loss.dim()  # a shape [1] loss is rare; torch words the error of longer ones
            or not loss.dtype.is_floating_point  # torch words the error for a complex one
            or (inputs and has_torch_function(inputs))  # so may subclasses here
            or anomaly()  # its traces are to show the frames that they always show
            or transforming()  # torch words the error
            or compiled.compiled_autograd_enabled  # the engine is not the one that runs
            or (levels.get(debug) is not False and logged(debug))  # torch hooks the graph to log it
            or (profiler._is_profiler_enabled or profiling() or functions() or dispatch())
        ):
            return public(loss, inputs)
        # The seed is made anew each time: a gradient may be a view of it, and clipping or
        # accumulation in place would then change the seed of every later step.
        seed = (ones_like(loss),)
        # A device's backward runs in threads, to which torch's wrapper hands context variables.
        go = run if loss.is_cpu else engine
        # keep_graph, create_graph, inputs, allow_unreachable, accumulate_grad
        go((loss,), seed, False, False, inputs, True, True)
        return True

    return backward


@functools.cache
def _wrappers() -> tuple[Any, Any, Any, str]:
    """Return what torch puts around a step: three code objects, and the file of a fourth.

    Each wrapper is known by its code object, never by `__wrapped__` alone: a decorator of the
    user's own has that too, and must not be lost.
    """
    hooks: Any = optimizer_module

    def function() -> None: ...

    hooked = torchs(cast(Any, Optimizer).profile_hook_step(function), hooks).__code__
    switched = torchs(hooks._use_grad_for_differentiable(function), hooks).__code__
    tracked = SGD([torch.zeros(1, device="cpu")])
    lr_scheduler.StepLR(tracked, 1)
    tracker = torchs(tracked.__dict__["step"], lr_scheduler).__code__
    no_grad = torchs(torch.no_grad()(function), torch.utils._contextlib)
    return hooked, switched, tracker, no_grad.__code__.co_filename


def fast_step(
    public: Callable[[Optimizer], object],
    lookers: Mapping[type[Optimizer], Look] | None = None,
    zero_grad: object = None,
) -> Callable[..., bool]:
    """`Optimizer.step` without torch's wrappers: profiler range, hooks, switch of grad mode.

    Args:
        public: Called in every other case.
        lookers: What looks at optimizers of the classes that have a body here.
        zero_grad: The public method whose work is done at once, where it is asked for.
    """
    hooks: Any = optimizer_module
    hooked, switched, tracker, no_grad_file = _wrappers()
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

    known_bodies: dict[type, tuple[Any, Callable[[Optimizer], object] | None]] = {}
    looks, kept = dict(lookers or {}), dict[Optimizer, Kept]()
    grad_enabled = torch.is_grad_enabled
    profiler, profiling, functions, dispatch = watchers()

    def step(optimizer: Optimizer, unwatched: bool = False, clears: bool = False) -> bool:
        kind, own = type(optimizer), optimizer.__dict__
        step: Any = kind.step
        patch = own.get("step")
        if patch is not None:
            # A scheduler patches the instance to learn of its steps; any other patch is a user's.
            step = patch.__wrapped__ if getattr(patch, "__code__", None) is tracker else None
        found = known_bodies.get(kind)
        if found is None or found[0] is not step:  # new, or patched on the class since
            found = known_bodies[kind] = (step, body_of(step))
        body = found[1]
        if (
            body is None
            or own["_optimizer_step_pre_hooks"]  # hooks may come and go at any time
            or own["_optimizer_step_post_hooks"]
            or hooks._global_optimizer_pre_hooks
            or hooks._global_optimizer_post_hooks
            or own["defaults"].get("differentiable")  # the step itself is to be recorded
            or "grad_scale" in own  # a scaler is at work
            or (
                not unwatched
                and (
                    grad_enabled()  # the body counts on gradients being off
                    or (profiler._is_profiler_enabled or profiling() or functions() or dispatch())
                )
            )
        ):
            public(optimizer)
            return False
        if patch is not None:
            own["_opt_called"] = True  # what the scheduler's warning about order looks at
        known, look = kept.get(optimizer), looks.get(kind)
        is_known = False
        if known is not None:
            try:
                # In one call, by identity first; parameters that are others are no truth together.
                is_known = optimizer.param_groups == known.values and known.first.is_cpu
            except Exception:
                is_known = False
        if not is_known and look is not None:
            known = kept[optimizer] = look(optimizer)
        if known is None or not known.body(optimizer, known):
            body(optimizer)
        if clears and kind.zero_grad is zero_grad and "zero_grad" not in own:
            _clear(optimizer)
            return True
        return False

    return step


def fast_zero_grad(public: Callable[[Optimizer], object]) -> Callable[[Optimizer], object]:
    """`Optimizer.zero_grad` without its profiler range and its guard against being compiled."""
    method: Any = torchs(Optimizer.zero_grad, torch._compile)
    torchs(method.__wrapped__, optimizer_module)
    profiler, profiling, functions, dispatch = watchers()

    def zero_grad(optimizer: Optimizer) -> None:
        if (
            type(optimizer).zero_grad is not method  # overridden or patched
            or "zero_grad" in optimizer.__dict__  # patched on the instance
            or (profiler._is_profiler_enabled or profiling() or functions() or dispatch())
        ):
            public(optimizer)
        else:
            _clear(optimizer)

    return zero_grad


def _clear(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
