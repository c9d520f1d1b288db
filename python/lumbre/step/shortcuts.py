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
OptimizerCall = Callable[..., bool]


class Calls(NamedTuple):
    """The three calls of a training step.

    Attributes:
        backward: Called with the loss and the tensors to be given gradients, `()` for all leaves.
        step: Called with the optimizer, gradients off.
        zero_grad: Called with the optimizer; gradients become None, as torch does by default.

    Each returns True if nobody watches torch's calls. The next one is told, `unwatched=True`,
    where no line of a user's has run in between, and need not ask again.
    """

    backward: Backward
    step: OptimizerCall
    zero_grad: OptimizerCall


def _public_backward(loss: Tensor, inputs: tuple[Tensor, ...]) -> bool:
    # Without inputs none are named, so that a `backward` of the user's own need not know them.
    if inputs:
        loss.backward(inputs=inputs)  # type: ignore[no-untyped-call]
    else:
        loss.backward()  # type: ignore[no-untyped-call]
    return False


def _public_step(optimizer: Optimizer, unwatched: bool = False) -> bool:
    optimizer.step()
    return False


def _public_zero_grad(optimizer: Optimizer, unwatched: bool = False) -> bool:
    optimizer.zero_grad()
    return False


PUBLIC = Calls(_public_backward, _public_step, _public_zero_grad)

# --- the bodies of SGD, Adam and AdamW --------------------------------------------------------

# At each step torch looks up the state of each parameter, fills half a dozen lists, and finds out
# which of its three ways to step is meant. On the CPU that is one tensor after the other, by a
# function of its own. Here that very function is called with the same lists, so that every option
# means what torch makes of it; but where the states are is known from the step before, and looked
# at for change. Whatever has changed, is missing or asks for another way is left to torch's body.

TorchBody = Callable[[Optimizer], object]
# Takes the step of an optimizer, or has torch's own body take it.
Body = Callable[[Optimizer, TorchBody], object]
_Group = dict[str, Any]
_States = list[dict[str, Any]]

# What runs for each parameter runs in C: a step of a small network is made of little else.
_grad = operator.attrgetter("grad")
_is_sparse = operator.attrgetter("is_sparse")
_same, _differ = operator.is_, operator.is_not
_nothing, _tensors = itertools.repeat(None), itertools.repeat(Tensor)
_Lists = tuple[list[Tensor], ...] | None


class Way(NamedTuple):
    """How torch steps a kind of optimizers, one tensor after the other.

    Attributes:
        kind: The class that has the step.
        home: Its module.
        choose: The name of the function there that chooses the way.
        single: The name of the one that steps.
        options: Gives the options of a group as that one takes them.
        lists: Gives what the states hold as that one takes it, of a group, its gradients and
            states; None where something is missing, or torch is to refuse.
    """

    kind: Any
    home: ModuleType
    choose: str
    single: str
    options: Callable[[_Group], dict[str, Any]]
    lists: Callable[[_Group, list[Tensor], _States], _Lists]


def _sgd_options(group: _Group) -> dict[str, Any]:
    names = "weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize"
    # Sparse gradients are of interest to the other ways alone.
    return {name: group[name] for name in names} | {"has_sparse_grad": False}


def _sgd_lists(group: _Group, grads: list[Tensor], states: _States) -> _Lists:
    if group["momentum"] == 0:
        return ([],)
    buffers = [state.get("momentum_buffer") for state in states]
    if len(buffers) != len(grads) or not all(map(isinstance, buffers, _tensors)):
        return None
    return (buffers,)  # type: ignore[return-value]


def _adam_options(group: _Group) -> dict[str, Any]:
    names = "amsgrad", "lr", "weight_decay", "eps", "maximize", "capturable", "differentiable"
    options = {name: group[name] for name in (*names, "decoupled_weight_decay")}
    options["beta1"], options["beta2"] = group["betas"]
    # Complex parameters are of interest to the other ways alone.
    return options | {"has_complex": False}


_average, _square = operator.itemgetter("exp_avg"), operator.itemgetter("exp_avg_sq")
_greatest, _step = operator.itemgetter("max_exp_avg_sq"), operator.itemgetter("step")


def _adam_lists(group: _Group, grads: list[Tensor], states: _States) -> _Lists:
    if len(states) != len(grads) or any(map(_is_sparse, grads)):
        return None
    try:
        greatest = list(map(_greatest, states)) if group["amsgrad"] else []
        steps = list(map(_step, states))
        lists = list(map(_average, states)), list(map(_square, states)), greatest, steps
    except KeyError:
        return None
    return lists if all(map(isinstance, steps, _tensors)) else None


_SGD = Way(SGD, sgd_module, "sgd", "_single_tensor_sgd", _sgd_options, _sgd_lists)
_ADAM = Way(Adam, adam_module, "adam", "_single_tensor_adam", _adam_options, _adam_lists)
WAYS = {SGD: _SGD, Adam: _ADAM, AdamW: _ADAM}


class _Kept:
    """What a group held when it was looked at.

    Attributes:
        listed: Its parameters.
        params: Those that had gradients.
        idle: Those that had none.
        states: The states of `params`, where there are any.
        values: All that is in the group; None before its options were looked at.
        options: These, as the function that steps takes them.
    """

    __slots__ = ("idle", "listed", "options", "params", "states", "values")

    def __init__(self, group: _Group, state: Mapping[Tensor, dict[str, Any]]) -> None:
        self.listed: list[Tensor] = list(group["params"])
        self.params = [p for p in self.listed if p.grad is not None]
        self.idle = [p for p in self.listed if p.grad is None]
        # Asked with `in`: the state makes an entry for whoever is looked up.
        self.states: _States = [state[p] for p in self.params if p in state]
        self.values: list[Any] | None = None
        self.options: dict[str, Any] = {}


_NOTHING: tuple[_States, list[_Kept]] = ([], [])


def fast_body(way: Way) -> Body:
    """Return the body of a kind of optimizers, for one run."""
    kind, home, choose, single, options_of, lists_of = way
    init, chooser = kind._init_group, getattr(home, choose)
    known: dict[Optimizer, tuple[_States, list[_Kept]]] = {}

    def is_plain(optimizer: Optimizer, group: _Group) -> bool:
        """True if torch steps a group one tensor after the other, and is as it was."""
        return not (
            group["foreach"]
            or group["fused"]
            or group["differentiable"]
            or kind._init_group is not init
            or getattr(home, choose) is not chooser
            or "_init_group" in optimizer.__dict__
        )

    def look(optimizer: Optimizer, torchs_body: TorchBody) -> None:
        """Have torch take the step, and look where it leaves the states."""
        torchs_body(optimizer)
        state = optimizer.state
        groups = [_Kept(group, state) for group in optimizer.param_groups]
        known[optimizer] = list(state.values()), groups

    def step(optimizer: Optimizer, torchs_body: TorchBody) -> None:
        before, all_kept = known.get(optimizer, _NOTHING)
        groups, states = optimizer.param_groups, optimizer.state
        if (
            len(groups) != len(all_kept)
            or len(states) != len(before)
            or not all(map(_same, states.values(), before))
        ):
            look(optimizer, torchs_body)
            return
        work = []
        for group, kept in zip(groups, all_kept, strict=True):
            listed, values = group["params"], kept.values
            if len(listed) != len(kept.listed) or not all(map(_same, listed, kept.listed)):
                look(optimizer, torchs_body)
                return
            if values is None or not all(map(_same, group.values(), values)):
                # Such as a rate that a scheduler has set.
                if not is_plain(optimizer, group):
                    torchs_body(optimizer)
                    return
                kept.values, kept.options = list(group.values()), options_of(group)
            grads = list(map(_grad, kept.params))
            if not all(map(_differ, grads, _nothing)) or any(
                map(_differ, map(_grad, kept.idle), _nothing)
            ):
                look(optimizer, torchs_body)
                return
            # Of parameters on several devices torch does not step all at once, either.
            if grads and not grads[0].is_cpu:
                torchs_body(optimizer)
                return
            lists = lists_of(group, grads, kept.states)
            if lists is None:
                look(optimizer, torchs_body)
                return
            work.append((kept, grads, lists))
        function = getattr(home, single)
        for kept, grads, lists in work:
            function(kept.params, grads, *lists, None, None, **kept.options)

    return step


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
            or has_torch_function(inputs)  # so may subclasses here
            or anomaly()  # its traces are to show the frames that they always show
            or transforming()  # torch words the error
            or compiled.compiled_autograd_enabled  # the engine is not the one that runs
            or logged(debug)  # torch hooks the graph to log it
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
    public: OptimizerCall, fast_bodies: Mapping[type[Optimizer], Body] | None = None
) -> OptimizerCall:
    """`Optimizer.step` without torch's wrappers: profiler range, hooks, switch of grad mode.

    Args:
        public: Called in every other case.
        fast_bodies: What takes the place of torch's own body, by the class of the optimizer.
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
    fast = fast_bodies or {}
    grad_enabled = torch.is_grad_enabled
    profiler, profiling, functions, dispatch = watchers()

    def step(optimizer: Optimizer, unwatched: bool = False) -> bool:
        kind, own = type(optimizer), optimizer.__dict__
        step = getattr(kind, "step", None)
        patch = own.get("step")
        if patch is not None:
            # A scheduler patches the instance to learn of its steps; any other patch is a user's.
            step = patch.__wrapped__ if getattr(patch, "__code__", None) is tracker else None
        known = known_bodies.get(kind)
        if known is None or known[0] is not step:  # new, or patched on the class since
            known = known_bodies[kind] = (step, body_of(step))
        body = known[1]
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
            return public(optimizer)
        if patch is not None:
            own["_opt_called"] = True  # what the scheduler's warning about order looks at
        fast_body = fast.get(kind)
        if fast_body is None:
            body(optimizer)
        else:
            fast_body(optimizer, body)
        return True

    return step


def fast_zero_grad(public: OptimizerCall) -> OptimizerCall:
    """`Optimizer.zero_grad` without its profiler range and its guard against being compiled."""
    method: Any = torchs(Optimizer.zero_grad, torch._compile)
    torchs(method.__wrapped__, optimizer_module)
    profiler, profiling, functions, dispatch = watchers()

    def zero_grad(optimizer: Optimizer, unwatched: bool = False) -> bool:
        if (
            getattr(type(optimizer), "zero_grad", None) is not method  # overridden or patched
            or "zero_grad" in optimizer.__dict__  # patched on the instance
            or (
                not unwatched
                and (profiler._is_profiler_enabled or profiling() or functions() or dispatch())
            )
        ):
            return public(optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        return True

    return zero_grad
