"""The fast step: the public calls of a training step, made without what surrounds their work.

`model(x)`, `loss.backward()`, `optimizer.step()` and `optimizer.zero_grad()` spend much of their
time on wrappers that have nothing to do in a plain run. Each shortcut here does the same work in
the same bits. It is taken only where its trial against the public call came out equal on the torch
that is installed (`trial.py`), and at each call only while nobody looks at, or has changed, what it
leaves out; in every other case the public call is made.
"""

import functools
import logging
import operator
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler
from torch.optim import adam as adam_module
from torch.optim import optimizer as optimizer_module
from torch.optim import sgd as sgd_module

from lumbre.torchs import torchs, watchers

Backward = Callable[[Tensor, tuple[Tensor, ...]], bool]


class Calls(NamedTuple):
    """The calls of a training step.

    Attributes:
        call: Called with a module, or another function, and its arguments.
        backward: Called with the loss and the tensors to be given gradients, `()` for all leaves.
            Returns True if nobody watches torch's calls.
        step: Called with the optimizer, gradients off. Where no line of a user's has run since
            somebody asked who watches, it is told, `unwatched=True`, and need not ask again. With
            `clears=True` it may clear the gradients too, and returns True if it has.
        zero_grad: Called with the optimizer; gradients become None, as torch does by default.
    """

    call: Callable[..., Any]
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


PUBLIC = Calls(operator.call, _public_backward, _public_step, _public_zero_grad)

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


class Kept:
    """What is known of an optimizer between two steps.

    Attributes:
        step: The method that its class had when it was looked at.
        torchs: What torch's wrappers around that hold; None where it is not torch's alone.
        body: What steps it; where that returns False, `torchs` does.
        values: What was in its groups when it was looked at.
        options: What the body reads of them, by group.
        first: One of its parameters: where it lies is where all of them lie.
        is_cpu: Whether that was the CPU.
        params: Its parameters when their states were looked up, each group behind its own.
        held: The states that it held then.
        work: Each parameter, its state, or None for one that had none, and its options.
    """

    __slots__ = (
        *("body", "first", "held", "is_cpu", "options", "params", "step", "torchs", "values"),
        "work",
    )

    def __init__(self, optimizer: Optimizer, body: Body, options: list[Any]) -> None:
        self.step: object = None
        self.torchs: Callable[[Optimizer], object] | None = None
        self.body, self.options = body, options
        self.values = [dict(group) for group in optimizer.param_groups]
        self.first: Any = next((p for group in self.values for p in group["params"]), None)
        self.is_cpu = self.first is not None and self.first.is_cpu
        self.params: list[Any] = []
        self.held: list[Any] = []
        self.work: list[tuple[Tensor, _State | None, Any]] = []

    def find_states(self, optimizer: Optimizer) -> None:
        """Look the states up again, where parameters or states are others than before."""
        groups, state = optimizer.param_groups, optimizer.state
        params: list[Any] = []
        for group in groups:
            params += group["params"]
            params.append(group)
        if not (_are_same(params, self.params) and _are_same(state.values(), self.held)):
            self.params, self.held = params, list(state.values())
            # By `get`, as the states make an entry for whoever is looked up.
            self.work = [
                (parameter, state.get(parameter), options)
                for group, options in zip(groups, self.options, strict=True)
                for parameter in group["params"]
            ]


def _are_same(these: Any, those: list[Any]) -> bool:
    """True if two collections hold the very same objects."""
    return len(these) == len(those) and all(map(operator.is_, these, those))


class Way(NamedTuple):
    """How torch steps a kind of optimizers, one tensor after the other.

    Attributes:
        kind: The class that has the step.
        home: Its module.
        functions: The names of those there that choose the way and go it.
        never: Options that ask for another way.
        numbers: Options that may be tensors, and are left to torch then.
        choose: Given the groups of an optimizer, it returns what steps it in this way, and what
            that reads of each group.
    """

    kind: Any
    home: ModuleType
    functions: tuple[str, str]
    never: tuple[str, ...]
    numbers: tuple[str, ...]
    choose: Callable[[list[_Group]], tuple[Body, list[Any]]]


def _leave(optimizer: Optimizer, kept: Kept) -> bool:
    return False


def leave_to_torch(optimizer: Optimizer) -> Kept:
    """Look at an optimizer whose steps are torch's."""
    return Kept(optimizer, _leave, [])


def looker(way: Way) -> Look:
    """Return what looks at optimizers in a run: torch is to be as it is now."""
    kind, home, names, never, numbers, choose = way
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
            return Kept(optimizer, *choose(groups))
        return leave_to_torch(optimizer)

    return look


def _choose_sgd(groups: list[_Group]) -> tuple[Body, list[Any]]:
    is_bare = all(
        group["weight_decay"] == 0 and group["momentum"] == 0 and not group["maximize"]
        for group in groups
    )
    if is_bare:
        return _step_bare_sgd, []
    names = "weight_decay", "momentum", "dampening", "nesterov", "maximize"
    return _step_sgd, [(-group["lr"], *(group[name] for name in names)) for group in groups]


def _step_bare_sgd(optimizer: Optimizer, kept: Kept) -> bool:
    for group in optimizer.param_groups:
        rate = -group["lr"]
        for parameter in group["params"]:
            grad = parameter.grad
            if grad is not None:
                parameter.add_(grad, alpha=rate)
    return True


def _step_sgd(optimizer: Optimizer, kept: Kept) -> bool:
    kept.find_states(optimizer)
    for parameter, state, options in kept.work:
        rate, decay, momentum, dampening, nesterov, maximize = options
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
                buffer.mul_(momentum).add_(grad, alpha=1 - dampening)
            grad = grad.add(buffer, alpha=momentum) if nesterov else buffer
        parameter.add_(grad, alpha=rate)
    return True


def _choose_adam(groups: list[_Group]) -> tuple[Body, list[Any]]:
    names = "lr", "eps", "weight_decay", "decoupled_weight_decay", "amsgrad", "maximize"
    options = [(*group["betas"], *(group[name] for name in names)) for group in groups]
    return _step_adam, options


def _step_adam(optimizer: Optimizer, kept: Kept) -> bool:
    kept.find_states(optimizer)
    work = []
    for parameter, state, options in kept.work:
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
    _choose_sgd,
)
_ADAM = Way(
    Adam,
    adam_module,
    ("adam", "_single_tensor_adam"),
    (*_EVERYWHERE, "capturable"),
    ("lr", "weight_decay", "eps"),
    _choose_adam,
)
WAYS = {SGD: _SGD, Adam: _ADAM, AdamW: _ADAM}


# --- the calls ---------------------------------------------------------------------------------


def fast_call(public: Callable[..., Any]) -> Callable[..., Any]:
    """`module(...)` without the two functions that look for hooks around its `forward`."""
    home: Any = torch.nn.modules.module
    method, inner = torchs(Module.__call__, home), torchs(Module._call_impl, home)
    profiler = torch.autograd.profiler

    def call(module: Any, *args: Any) -> Any:
        kind = type(module)
        if (
            kind.__call__ is not method  # no module, or one that is called in its own way
            or kind._call_impl is not inner
            # Looked up in place, as a module's own attributes are found by a detour.
            or "_call_impl" in (own := module.__dict__)
            or "_compiled_call_impl" in own
            or own["_forward_hooks"]
            or own["_forward_pre_hooks"]
            or own["_backward_hooks"]
            or own["_backward_pre_hooks"]
            or home._global_forward_hooks
            or home._global_forward_pre_hooks
            or home._global_backward_hooks
            or home._global_backward_pre_hooks
            or profiler._is_profiler_enabled  # it tells modules by the functions that are left out
        ):
            return public(module, *args)
        return module.forward(*args)

    return call


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
    profiler, functions, dispatch = watchers()
    kinds = torch.float32, torch.float64, torch.float16, torch.bfloat16
    minus_one = {kind: torch.full((), -1.0, dtype=kind, device="cpu") for kind in kinds}

    def backward(loss: Tensor, inputs: tuple[Tensor, ...]) -> bool:
        if (
            type(loss) is not tensor  # a subclass may have its own way
            or "backward" in loss.__dict__  # patched on this tensor
            or tensor.backward is not method  # patched for all of them
            or autograd.backward is not function
            or autograd._engine_run_backward is not engine
            or loss.dim()  # a shape [1] loss is rare; torch words the error of longer ones
            or (negative := minus_one.get(loss.dtype)) is None  # torch words the error
            or (inputs and has_torch_function(inputs))  # so may subclasses here
            or anomaly()  # its traces are to show the frames that they always show
            or transforming()  # torch words the error
            or compiled.compiled_autograd_enabled  # the engine is not the one that runs
            or (levels.get(debug) is not False and logged(debug))  # torch hooks the graph to log it
            or (profiler._is_profiler_enabled or functions() or dispatch())
        ):
            return public(loss, inputs)
        # The seed is made anew each time: a gradient may be a view of it, and clipping or
        # accumulation in place would then change the seed of every later step. There is no quicker
        # way to a tensor of one than to turn the sign of another.
        if loss.is_cpu:
            go, seed = run, negative.neg()
        else:
            # Its backward runs in threads, to which torch's wrapper hands context variables.
            go, seed = engine, ones_like(loss)
        # keep_graph, create_graph, inputs, allow_unreachable, accumulate_grad
        go((loss,), (seed,), False, False, inputs, True, True)
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

    looks, kept = dict(lookers or {}), dict[Optimizer, Kept]()
    grad_enabled = torch.is_grad_enabled
    profiler, functions, dispatch = watchers()

    def look_at(optimizer: Optimizer, step: Any) -> Kept:
        known = kept[optimizer] = looks.get(type(optimizer), leave_to_torch)(optimizer)
        known.step, known.torchs = step, body_of(step)
        return known

    def step(optimizer: Optimizer, unwatched: bool = False, clears: bool = False) -> bool:
        kind, own = type(optimizer), optimizer.__dict__
        step: Any = kind.step
        patch = own.get("step")
        if patch is not None:
            # A scheduler patches the instance to learn of its steps; any other patch is a user's.
            step = patch.__wrapped__ if getattr(patch, "__code__", None) is tracker else None
        known = kept.get(optimizer)
        if known is None or known.step is not step:  # new, or patched on the class since
            known = look_at(optimizer, step)
        torchs_body = known.torchs
        if (
            torchs_body is None
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
                    or (profiler._is_profiler_enabled or functions() or dispatch())
                )
            )
        ):
            public(optimizer)
            return False
        if patch is not None:
            own["_opt_called"] = True  # what the scheduler's warning about order looks at
        try:
            # In one call, by identity first; parameters that are others are no truth together.
            is_known = optimizer.param_groups == known.values and known.first.is_cpu is known.is_cpu
        except Exception:
            is_known = False
        if not is_known:
            known = look_at(optimizer, step)
        if not known.body(optimizer, known):
            torchs_body(optimizer)
        if clears and kind.zero_grad is zero_grad and "zero_grad" not in own:
            _clear(optimizer)
            return True
        return False

    return step


def fast_zero_grad(public: Callable[[Optimizer], object]) -> Callable[[Optimizer], object]:
    """`Optimizer.zero_grad` without its profiler range and its guard against being compiled."""
    method: Any = torchs(Optimizer.zero_grad, torch._compile)
    torchs(method.__wrapped__, optimizer_module)
    profiler, functions, dispatch = watchers()

    def zero_grad(optimizer: Optimizer) -> None:
        if (
            type(optimizer).zero_grad is not method  # overridden or patched
            or "zero_grad" in optimizer.__dict__  # patched on the instance
            or (profiler._is_profiler_enabled or functions() or dispatch())
        ):
            public(optimizer)
        else:
            _clear(optimizer)

    return zero_grad


def _clear(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
