"""The fast step ends in the bits of the public calls, and gives way to them when it must."""

import contextlib
import copy
import functools
import logging
import operator
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo.compiled_autograd
from torch import nn
from torch.nn.modules import module as module_module
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam, lr_scheduler
from torch.optim import optimizer as optimizer_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lumbre.step import shortcuts as module
from lumbre.step import trial
from lumbre.step.shortcuts import PUBLIC, WAYS, Calls
from lumbre.step.trial import fast_calls

NAMES = Calls._fields


@pytest.fixture(autouse=True)
def _fresh_trial(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test profit from, or suffer by, the trial that another one has run."""
    monkeypatch.delenv("LUMBRE_FAST_STEP", raising=False)
    kept = trial._proven_calls, trial._proven, module._wrappers
    for each in kept:
        each.cache_clear()
    yield
    for each in kept:
        each.cache_clear()


def shortcuts(road: Calls) -> set[str]:
    """The names of the calls that the road takes itself."""
    return {name for name in NAMES if getattr(road, name) is not getattr(PUBLIC, name)}


def any_road() -> Calls:
    return fast_calls([SGD([torch.zeros(1)])], nn.Linear(1, 1))


def all_fast() -> Calls:
    road = any_road()
    assert shortcuts(road) == set(NAMES)
    return road


# --- the same bits ------------------------------------------------------------------------------


class Net(nn.Module):
    """Matrices, a vector used through a view, shape-[1] parameters, and one that is never used.

    `bias` enters the loss by nothing but a view, so that its gradient may be one of the seed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(8, 16) / 4)
        self.second = nn.Parameter(torch.randn(8, 4) / 3)
        self.shift = nn.Parameter(torch.randn(4))
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))
        self.idle = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(x @ self.first.t()) * self.scale
        return hidden @ self.second + self.shift.view(2, 2).reshape(1, 4)

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self(x), y) + self.bias.squeeze()


def batches(count: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(12, 16, generator=generator),
            torch.randint(0, 4, (12,), generator=generator),
        )
        for _ in range(count)
    ]


def new_net() -> Net:
    torch.manual_seed(2)
    return Net()


def train(
    road: Calls,
    model: Net,
    optimizer: torch.optim.Optimizer,
    *,
    accumulate: int = 1,
    clip: bool = False,
    after_step: Callable[[int], None] = lambda index: None,
) -> None:
    """A loop of one's own on a road."""
    for index, (x, y) in enumerate(batches()):
        road.backward(model.loss(x, y), ())
        if (index + 1) % accumulate == 0:
            if clip:
                clip_grad_norm_(model.parameters(), 0.1)
            with torch.no_grad():
                road.step(optimizer)
            road.zero_grad(optimizer)
            after_step(index)


def bits(value: object) -> object:
    """Replace every tensor in a tree of states by what can be compared exactly."""
    if isinstance(value, torch.Tensor):
        dense = value.detach().to_dense()
        return (dense.dtype, tuple(dense.shape), dense.contiguous().view(-1).tolist())
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    return value


def outcome(model: nn.Module, *optimizers: torch.optim.Optimizer) -> object:
    gradients = [parameter.grad for parameter in model.parameters()]
    states = [optimizer.state_dict() for optimizer in optimizers]
    return bits([model.state_dict(), gradients, states])


CLASSES = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and kind is not torch.optim.Optimizer
}
# These two have tests of their own: one wants a closure, the other takes sparse gradients only.
APART = {"LBFGS", "SparseAdam"}
VARIANTS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    name: kind for name, kind in CLASSES.items() if name not in APART
} | {
    "SGD momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "SGD foreach": lambda p: SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "SGD fused": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
    "SGD maximize": lambda p: SGD(p, lr=0.1, maximize=True),
    "SGD tensor lr": lambda p: SGD(p, lr=torch.tensor(0.1)),
    "Adam amsgrad": lambda p: Adam(p, lr=0.1, amsgrad=True, weight_decay=1e-2),
    "Adam foreach": lambda p: Adam(p, lr=0.1, foreach=True),
    "Adam fused": lambda p: Adam(p, lr=0.1, fused=True),
    "RMSprop centered": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
}


def new_optimizer(variant: str, model: nn.Module) -> torch.optim.Optimizer:
    matrices_only = variant == "Muon"
    chosen = [p for p in model.parameters() if p.dim() == 2 or not matrices_only]
    return VARIANTS[variant](chosen)


def test_every_optimizer_of_torch_is_looked_at() -> None:
    assert len(CLASSES) > 10
    assert set(CLASSES) >= APART
    assert set(CLASSES) - APART <= set(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_optimizer_of_torch_takes_the_shortcut(variant: str) -> None:
    model = new_net()
    optimizer = new_optimizer(variant, model)
    step, calls = counted(module.fast_step)
    with torch.no_grad():
        step(optimizer)
    assert not calls


def assert_same_end(run: Callable[[Calls], object]) -> None:
    """Hold both roads together; a run starts from one seed and returns its outcome."""
    assert run(PUBLIC) == run(all_fast())


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("clip", [False, True], ids=["plain", "clip"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_roads_end_in_the_same_bits(variant: str, clip: bool, accumulate: int) -> None:
    def run(road: Calls) -> object:
        model = new_net()
        optimizer = new_optimizer(variant, model)
        before = bits(model.state_dict())
        train(road, model, optimizer, accumulate=accumulate, clip=clip)
        assert bits(model.state_dict()) != before
        return outcome(model, optimizer)

    assert_same_end(run)


@pytest.mark.parametrize("variant", ["SGD", "SGD momentum", "Adam"])
def test_the_road_ends_in_the_bits_of_a_loop_written_by_hand(variant: str) -> None:
    by_hand, model = new_net(), new_net()
    optimizer = new_optimizer(variant, by_hand)
    for x, y in batches():
        optimizer.zero_grad()
        by_hand.loss(x, y).backward()
        optimizer.step()
    train(all_fast(), model, new_optimizer(variant, model))
    assert bits(model.state_dict()) == bits(by_hand.state_dict())


def add_noise(parameter: torch.Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.add_(0.01)


@pytest.mark.parametrize("variant", ["SGD", "Adam"])
def test_gradient_hooks_that_write_in_place_reach_no_later_step(variant: str) -> None:
    def run(road: Calls) -> object:
        model = new_net()
        for parameter in model.parameters():
            parameter.register_hook(lambda grad: grad.mul_(0.5))
            parameter.register_post_accumulate_grad_hook(add_noise)
        optimizer = new_optimizer(variant, model)
        train(road, model, optimizer, accumulate=2, clip=True)
        return outcome(model, optimizer)

    assert_same_end(run)


def test_the_seed_is_made_anew_when_a_gradient_is_a_view_of_it() -> None:
    road = all_fast()
    parameter = torch.zeros(1, requires_grad=True)
    for _ in range(3):
        road.backward(parameter.squeeze(), ())
        assert parameter.grad is not None
        assert parameter.grad.tolist() == [1.0]
        parameter.grad.mul_(0.25)
        parameter.grad = None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_seed_has_the_dtype_of_the_loss(dtype: torch.dtype) -> None:
    parameter = torch.ones(3, dtype=dtype, requires_grad=True)
    all_fast().backward(parameter.sum(), ())
    assert parameter.grad is not None
    assert parameter.grad.dtype == dtype
    assert parameter.grad.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", [SGD, torch.optim.SparseAdam, torch.optim.Adagrad])
def test_sparse_gradients_end_in_the_same_bits(kind: Any) -> None:
    def run(road: Calls) -> object:
        torch.manual_seed(0)
        model = nn.Embedding(10, 3, sparse=True)
        optimizer = kind(model.parameters(), lr=0.1)
        for index in range(4):
            loss = model(torch.tensor([index, index + 1, 9])).square().sum()
            road.backward(loss, ())
            assert model.weight.grad is not None
            assert model.weight.grad.is_sparse
            with torch.no_grad():
                road.step(optimizer)
            road.zero_grad(optimizer)
        return outcome(model, optimizer)

    with torch.sparse.check_sparse_tensor_invariants(False):  # torch warns where nobody chose
        assert_same_end(run)


def test_an_optimizer_that_wants_a_closure_gets_torchs_own_words() -> None:
    # Before any test that compiles: torch then patches this class, and the guards would see that.
    road = all_fast()
    optimizer = torch.optim.LBFGS([torch.zeros(1)])
    step, calls = counted(module.fast_step)
    with torch.no_grad():
        step(optimizer)
        assert len(calls) == 1
        with pytest.raises(TypeError, match="closure"):
            road.step(optimizer)


def test_a_loss_on_another_device_takes_the_shortcut() -> None:
    parameter = torch.ones(3, device="meta", requires_grad=True)
    backward, calls = counted(module.fast_backward)
    backward(parameter.sum(), ())
    assert not calls
    assert parameter.grad is not None
    assert parameter.grad.device.type == "meta"


def test_several_optimizers_give_gradients_to_their_own_parameters_only() -> None:
    def run(road: Calls) -> object:
        model = new_net()
        own = ((model.first, model.scale), (model.second, model.shift))
        optimizers = [SGD(own[0], lr=0.1, momentum=0.9), Adam(own[1], lr=0.1)]
        for x, y in batches():
            for inputs, optimizer in zip(own, optimizers, strict=True):
                road.backward(model.loss(x, y), inputs)
                assert all(p.grad is not None for p in inputs)
                assert sum(p.grad is not None for p in model.parameters()) == len(inputs)
                with torch.no_grad():
                    road.step(optimizer)
                road.zero_grad(optimizer)
        return outcome(model, *optimizers)

    assert_same_end(run)


def test_groups_that_are_added_and_unfrozen_in_mid_run_are_seen() -> None:
    def run(road: Calls) -> object:
        model = new_net()
        model.shift.requires_grad_(False)
        optimizer = SGD([model.first, model.shift], lr=0.1, momentum=0.9)

        def change(index: int) -> None:
            if index == 1:
                model.zero_grad()
                optimizer.add_param_group({"params": [model.second], "lr": 0.5})
            if index == 2:
                model.shift.requires_grad_(True)
            if index == 3:
                optimizer.param_groups[0]["lr"] = 0.01

        before = bits([model.second, model.shift])
        train(road, model, optimizer, after_step=change)
        assert bits([model.second, model.shift]) != before
        assert model.first.grad is model.second.grad is model.shift.grad is None
        return outcome(model, optimizer)

    assert_same_end(run)


def test_a_copied_optimizer_goes_on_in_the_same_bits() -> None:
    def run(road: Calls) -> object:
        model = new_net()
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        train(road, model, optimizer)
        model, optimizer = copy.deepcopy((model, optimizer))
        train(road, model, optimizer)
        return outcome(model, optimizer)

    assert_same_end(run)


def test_the_grad_mode_is_left_as_it_was_even_by_an_error() -> None:
    road = all_fast()
    optimizer = Adam([torch.zeros(2, requires_grad=True)])
    optimizer.param_groups[0]["betas"] = None
    with torch.no_grad():
        with pytest.raises(TypeError):
            road.step(optimizer)
        assert not torch.is_grad_enabled()


# --- schedulers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("attached", ["before", "during"])
@pytest.mark.parametrize("variant", ["SGD", "Adam"])
def test_a_scheduler_keeps_its_books(variant: str, attached: str) -> None:
    def run(road: Calls) -> object:
        model = new_net()
        optimizer = new_optimizer(variant, model)
        schedulers: list[lr_scheduler.LRScheduler] = []

        def attach() -> None:
            schedulers.append(lr_scheduler.ExponentialLR(optimizer, 0.9))
            schedulers.append(lr_scheduler.StepLR(optimizer, 2))

        def schedule(index: int) -> None:
            for scheduler in schedulers:
                scheduler.step()
            if index == 1 and attached == "during":
                attach()

        if attached == "before":
            attach()
        train(road, model, optimizer, after_step=schedule)
        assert vars(optimizer)["_opt_called"] is True
        counts = [scheduler._step_count for scheduler in schedulers]
        return outcome(model, optimizer), counts

    assert_same_end(run)


def test_a_scheduler_does_not_end_the_shortcut() -> None:
    optimizer = SGD([torch.zeros(1)])
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    step, calls = counted(module.fast_step)
    with torch.no_grad():
        step(optimizer)
    assert not calls
    scheduler.step()  # no warning: the step has been seen


def test_a_scheduler_that_steps_first_still_warns() -> None:
    road = all_fast()
    optimizer = SGD([torch.zeros(1)])
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match=r"lr_scheduler.step\(\)` before `optimizer.step\(\)"):
        scheduler.step()
    with torch.no_grad():
        road.step(optimizer)


def test_a_patch_over_or_under_the_schedulers_is_called() -> None:
    road = all_fast()
    seen: list[str] = []

    over = SGD([torch.zeros(1)])
    lr_scheduler.StepLR(over, 1)
    over.step = decorated(over.step, seen, "over")  # type: ignore[method-assign]

    class Under(SGD):
        step = decorated(SGD.step, seen, "under")  # type: ignore[assignment]

    under = Under([torch.zeros(1)])
    lr_scheduler.StepLR(under, 1)
    with torch.no_grad():
        road.step(over)
        road.step(under)
    assert seen == ["over", "under"]


# --- guards -------------------------------------------------------------------------------------


def decorated(function: Callable[..., Any], seen: list[str], word: str) -> Callable[..., Any]:
    """A user's own decorator, as well behaved as `functools.wraps` makes it."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        seen.append(word)
        return function(*args, **kwargs)

    return wrapper


def counted(make: Callable[[Any], Any]) -> tuple[Callable[..., object], list[object]]:
    """A shortcut, and the list of the public calls that it falls back on."""
    calls: list[object] = []

    def public(*args: object) -> None:
        calls.append(args)

    return make(public), calls


class SeeingFunctions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class SeeingDispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def profiled_from_cpp() -> Iterator[None]:
    profiler = torch.autograd.profiler
    with profiler.profile():
        profiler._set_is_profiler_enabled(False)
        try:
            yield
        finally:
            profiler._set_is_profiler_enabled(True)


WATCHERS: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
    "profiler": torch.autograd.profiler.profile,
    "profiler of another thread": lambda: attribute(
        torch.autograd.profiler, "_is_profiler_enabled", True
    ),
    "function mode": SeeingFunctions,
    "default device": lambda: torch.device("cpu"),
    "dispatch mode": SeeingDispatch,
}


@contextlib.contextmanager
def attribute(owner: Any, name: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value, raising=False)
        yield


@contextlib.contextmanager
def registered(register: Callable[..., Any]) -> Iterator[None]:
    handle = register(lambda *args: None)
    yield
    handle.remove()


def other(*args: object, **kwargs: object) -> None:
    """Stands for anything that a user puts in the place of a call."""


def default(name: str, value: object, optimizer: Any) -> contextlib.AbstractContextManager[None]:
    @contextlib.contextmanager
    def changed() -> Iterator[None]:
        before = dict(optimizer.defaults)
        optimizer.defaults[name] = value
        yield
        optimizer.defaults = before

    return changed()


STEP_GUARDS: dict[str, Callable[[Any], contextlib.AbstractContextManager[object]]] = {
    "hook before": lambda o: registered(o.register_step_pre_hook),
    "hook after": lambda o: registered(o.register_step_post_hook),
    "global hook before": lambda o: registered(optimizer_module.register_optimizer_step_pre_hook),
    "global hook after": lambda o: registered(optimizer_module.register_optimizer_step_post_hook),
    "patched on the instance": lambda o: attribute(o, "step", other),
    "decorated on the instance": lambda o: attribute(o, "step", decorated(o.step, [], "")),
    "compiled": lambda o: attribute(o, "step", torch.compile(o.step, backend="eager")),
    "patched on the class": lambda o: attribute(type(o), "step", other),
    "decorated on the class": lambda o: attribute(type(o), "step", decorated(SGD.step, [], "")),
    "patched on the base class": lambda o: attribute(SGD, "step", other),
    "differentiable": lambda o: default("differentiable", True, o),
    "scaler": lambda o: attribute(o, "grad_scale", torch.ones(())),
    "gradients on": lambda o: torch.enable_grad(),
} | {name: lambda o, watcher=watcher: watcher() for name, watcher in WATCHERS.items()}  # type: ignore[misc]


@pytest.mark.parametrize("guard", STEP_GUARDS)
def test_a_guard_on_the_step_means_the_public_call_while_it_holds(guard: str) -> None:
    class Plain(SGD):
        """Overrides nothing, so that it is torch's kind; tests may patch it."""

    SGD([torch.zeros(1)])  # torch wraps a class' step at its first instance: here the base's
    optimizer = Plain([torch.zeros(1)])
    step, calls = counted(module.fast_step)
    with torch.no_grad():
        step(optimizer)
        assert not calls
        with STEP_GUARDS[guard](optimizer):
            step(optimizer)
        assert len(calls) == 1
        step(optimizer)
        assert len(calls) == 1


def test_a_step_that_is_not_torchs_own_is_called_with_all_around_it() -> None:
    seen: list[str] = []
    SGD([torch.zeros(1)])
    bare = SGD.step.__wrapped__  # type: ignore[attr-defined]

    class Overridden(SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            seen.append("overridden")

    class Decorated(SGD):
        step = decorated(SGD.step, seen, "decorated")  # type: ignore[assignment]

    class DecoratedBeneath(SGD):
        """Torch wraps it at the first instance; to unwrap too far would lose the decorator."""

        step = decorated(bare, seen, "beneath")  # type: ignore[assignment]

    class Written(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 1.0})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            seen.append("written")

    kinds: tuple[Any, ...] = (Overridden, Decorated, DecoratedBeneath, Written)
    for kind in kinds:
        optimizer = kind([torch.zeros(1)])
        step, calls = counted(module.fast_step)
        with torch.no_grad():
            step(optimizer)
            assert len(calls) == 1
            all_fast().step(optimizer)
    assert seen == ["overridden", "decorated", "beneath", "written"]


def test_hooks_registered_in_mid_run_are_called() -> None:
    road, seen = all_fast(), []
    optimizer = SGD([torch.zeros(1)])
    with torch.no_grad():
        road.step(optimizer)
        optimizer.register_step_pre_hook(lambda *args: seen.append("before"))
        optimizer.register_step_post_hook(lambda *args: seen.append("after"))
        road.step(optimizer)
    assert seen == ["before", "after"]


CALL_GUARDS: dict[str, Callable[[Any], contextlib.AbstractContextManager[object]]] = {
    "hook": lambda m: registered(m.register_forward_hook),
    "hook before": lambda m: registered(m.register_forward_pre_hook),
    "hook backward": lambda m: registered(m.register_full_backward_hook),
    "hook before backward": lambda m: registered(m.register_full_backward_pre_hook),
    "global hook": lambda m: registered(module_module.register_module_forward_hook),
    "global hook before": lambda m: registered(module_module.register_module_forward_pre_hook),
    "global hook backward": lambda m: registered(module_module.register_module_full_backward_hook),
    "global hook before backward": lambda m: registered(
        module_module.register_module_full_backward_pre_hook
    ),
    "compiled": lambda m: attribute(m, "_compiled_call_impl", other),
    "patched on the class": lambda m: attribute(type(m), "__call__", other),
    "patched on Module": lambda m: attribute(nn.Module, "__call__", other),
    "patched within": lambda m: attribute(nn.Module, "_call_impl", other),
    "patched within the instance": lambda m: attribute(m, "_call_impl", other),
    "profiler": lambda m: torch.autograd.profiler.profile(),
}


@pytest.mark.parametrize("guard", CALL_GUARDS)
def test_a_guard_on_a_call_means_the_public_call_while_it_holds(guard: str) -> None:
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor, y: int = 1) -> torch.Tensor:
            return x * 2 + y

    model, x = Doubled(), torch.ones(1)
    call, calls = counted(module.fast_call)
    assert call(model, x) == 3
    assert call(model, x, 5) == 7
    assert not calls
    with CALL_GUARDS[guard](model):
        call(model, x, 5)
    assert calls == [(model, x, 5)]
    assert call(model, x) == 3
    assert len(calls) == 1


def test_what_is_no_module_is_called_as_it_is() -> None:
    class Mean:
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean()

    class Own(nn.Module):
        def __call__(self, x: torch.Tensor) -> str:
            return "own"

    call, x = all_fast().call, torch.tensor([1.0, 3.0])
    assert call(Mean(), x) == call(torch.mean, x) == call(lambda x: x.mean(), x) == 2
    assert call(Own(), x) == "own"
    model = nn.Linear(2, 1)
    model.forward = lambda x: "patched"  # type: ignore[method-assign, assignment, misc]
    assert call(model, x) == model(x) == "patched"


def test_hooks_on_a_module_that_change_what_it_gives_are_called_in_mid_run() -> None:
    model, x = nn.Identity(), torch.ones(1)
    call = all_fast().call
    assert call(model, x) == 1
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model.register_forward_hook(lambda module, args, result: result * 10)
    assert call(model, x) == 20


ZERO_GRAD_GUARDS: dict[str, Callable[[Any], contextlib.AbstractContextManager[object]]] = {
    "patched on the instance": lambda o: attribute(o, "zero_grad", other),
    "patched on the class": lambda o: attribute(type(o), "zero_grad", other),
    "decorated on the base class": lambda o: attribute(
        torch.optim.Optimizer, "zero_grad", decorated(torch.optim.Optimizer.zero_grad, [], "")
    ),
} | {name: lambda o, watcher=watcher: watcher() for name, watcher in WATCHERS.items()}  # type: ignore[misc]


@pytest.mark.parametrize("guard", ZERO_GRAD_GUARDS)
def test_a_guard_on_zero_grad_means_the_public_call_while_it_holds(guard: str) -> None:
    class Plain(SGD):
        pass

    parameter = torch.zeros(1, requires_grad=True)
    optimizer = Plain([parameter])
    zero_grad, calls = counted(module.fast_zero_grad)
    zero_grad(optimizer)
    assert not calls
    with ZERO_GRAD_GUARDS[guard](optimizer):
        zero_grad(optimizer)
    assert len(calls) == 1
    parameter.grad = torch.ones(1)
    zero_grad(optimizer)
    assert len(calls) == 1
    assert parameter.grad is None


def test_a_zero_grad_of_the_users_own_is_called() -> None:
    class Keeping(SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            super().zero_grad(set_to_none=False)

    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.ones(1)
    all_fast().zero_grad(Keeping([parameter]))
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [0.0]


class Subclass(torch.Tensor):
    pass


@contextlib.contextmanager
def debug_log() -> Iterator[None]:
    log = torch.autograd.graph.log
    before = log.level
    log.setLevel(logging.DEBUG)
    yield
    log.setLevel(before)


BACKWARD_GUARDS: dict[str, Callable[[Any], contextlib.AbstractContextManager[object]]] = {
    "patched on the loss": lambda loss: attribute(loss, "backward", other),
    "patched on Tensor": lambda loss: attribute(torch.Tensor, "backward", other),
    "decorated on Tensor": lambda loss: attribute(
        torch.Tensor, "backward", decorated(torch.Tensor.backward, [], "")
    ),
    "patched in autograd": lambda loss: attribute(torch.autograd, "backward", other),
    "engine patched": lambda loss: attribute(torch.autograd, "_engine_run_backward", other),
    "anomaly mode": lambda loss: quiet_anomaly_mode(),
    "compiled autograd": lambda loss: attribute(
        torch._dynamo.compiled_autograd, "compiled_autograd_enabled", True
    ),
    "debug log": lambda loss: debug_log(),
} | {name: lambda loss, watcher=watcher: watcher() for name, watcher in WATCHERS.items()}  # type: ignore[misc]


@contextlib.contextmanager
def quiet_anomaly_mode() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is slow
        with torch.autograd.detect_anomaly():
            yield


@pytest.mark.parametrize("guard", BACKWARD_GUARDS)
def test_a_guard_on_backward_means_the_public_call_while_it_holds(guard: str) -> None:
    parameter = torch.ones(2, requires_grad=True)
    loss = parameter.sum()
    backward, calls = counted(module.fast_backward)
    backward(loss, ())
    assert not calls
    with BACKWARD_GUARDS[guard](loss):
        backward(loss, ())
    assert len(calls) == 1
    backward(loss, ())
    assert len(calls) == 1


def test_a_loss_that_is_not_plain_means_the_public_call() -> None:
    parameter = torch.ones(2, requires_grad=True)
    plain = parameter.sum()
    losses = {
        "subclass": plain.as_subclass(Subclass),
        "parameter": nn.Parameter(torch.ones(())),
        "shape [1]": plain.view(1),
        "more than one value": parameter * 2,
        "complex": plain + 1j,
        "integers": torch.ones((), dtype=torch.int64),
    }
    for name, loss in losses.items():
        backward, calls = counted(module.fast_backward)
        backward(loss, ())
        assert len(calls) == 1, name
    backward, calls = counted(module.fast_backward)
    backward(plain, (nn.Parameter(torch.ones(2)).data.as_subclass(Subclass),))
    assert len(calls) == 1


def test_a_functorch_transform_means_the_public_call() -> None:
    parameter = torch.ones(2, requires_grad=True)
    backward, calls = counted(module.fast_backward)

    def inside(x: torch.Tensor) -> torch.Tensor:
        backward(parameter.sum(), ())
        return x.sum()

    torch.func.grad(inside)(torch.ones(2))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "loss",
    [
        torch.ones(2, requires_grad=True) * 2,
        torch.ones((), requires_grad=True) * 1j,
        torch.ones(()),
        torch.ones((), dtype=torch.int64),
    ],
    ids=["many values", "complex", "without a graph", "integer"],
)
def test_a_loss_that_cannot_be_differentiated_is_refused_in_torchs_words(
    loss: torch.Tensor,
) -> None:
    with pytest.raises(RuntimeError) as expected:
        loss.backward()
    with pytest.raises(RuntimeError) as got:
        all_fast().backward(loss, ())
    assert str(got.value) == str(expected.value)


def test_a_backward_of_the_users_own_is_called_without_inputs_it_may_not_know() -> None:
    seen: list[str] = []
    loss = torch.ones(1, requires_grad=True).sum()
    loss.backward = lambda: seen.append("own")  # type: ignore[method-assign, assignment]
    all_fast().backward(loss, ())
    assert seen == ["own"]


def test_hooks_on_saved_tensors_are_the_engines_matter() -> None:
    unpacked: list[torch.Tensor] = []

    def double(tensor: torch.Tensor) -> torch.Tensor:
        unpacked.append(tensor)
        return tensor * 2 if tensor.is_floating_point() else tensor

    def run(road: Calls) -> object:
        model = new_net()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, double):
            train(road, model, SGD(model.parameters(), lr=0.1))
        return outcome(model)

    assert_same_end(run)
    assert unpacked


# --- the choice of a road -----------------------------------------------------------------------


def test_the_switch_means_the_public_road(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, model = SGD([torch.zeros(1)]), nn.Linear(1, 1)
    assert shortcuts(fast_calls([optimizer], model)) == set(NAMES)
    monkeypatch.setenv("LUMBRE_FAST_STEP", "0")
    assert fast_calls([optimizer], model) is PUBLIC


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: nn.Sequential(nn.DataParallel(model)),
        lambda model: torch.compile(model, backend="eager"),
    ],
    ids=["data parallel", "inside another module", "compiled"],
)
def test_a_wrapped_model_means_the_public_road(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters())
    assert fast_calls([optimizer], model) is not PUBLIC
    assert fast_calls([optimizer], wrap(model)) is PUBLIC


def test_an_optimizer_that_is_none_of_torchs_means_the_public_road() -> None:
    class Duck:
        def step(self) -> None: ...

        def zero_grad(self) -> None: ...

    assert fast_calls([Duck()], nn.Linear(1, 1)) is PUBLIC  # type: ignore[list-item]


WATCHED = WATCHERS | {
    "profiler from C++": profiled_from_cpp,
    "global hook before": lambda: registered(optimizer_module.register_optimizer_step_pre_hook),
    "global hook after": lambda: registered(optimizer_module.register_optimizer_step_post_hook),
    "global hook on modules": lambda: registered(module_module.register_module_forward_hook),
    "anomaly mode": quiet_anomaly_mode,
    "debug log": debug_log,
}


@pytest.mark.parametrize("watcher", WATCHED)
def test_a_run_that_is_watched_from_its_start_is_public_and_the_next_one_fast(watcher: str) -> None:
    with WATCHED[watcher]():
        assert any_road() is PUBLIC
    all_fast()


# --- the trial ----------------------------------------------------------------------------------


@pytest.fixture
def _warnings_are_seldom_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


@pytest.mark.parametrize("name", NAMES)
def test_a_shortcut_that_raises_is_left_out_alone(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("the internals have moved")

    monkeypatch.setattr(trial, f"fast_{name}", lambda public: broken)
    assert shortcuts(any_road()) == set(NAMES) - {name}
    monkeypatch.setattr(trial, f"fast_{name}", broken)
    trial._proven_calls.cache_clear()
    assert shortcuts(any_road()) == set(NAMES) - {name}


def halved(loss: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> None:
    PUBLIC.backward(loss / 2, inputs)


def twice(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.step()


def unswitched(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    torch.set_grad_enabled(True)


def zeros(optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=False)


def warning(optimizer: torch.optim.Optimizer) -> None:
    warnings.warn("this will go", FutureWarning, stacklevel=2)
    optimizer.step()


@pytest.mark.usefixtures("_warnings_are_seldom_errors")
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("call", lambda *args: PUBLIC.call(*args) * 2),
        ("backward", halved),
        ("step", twice),
        ("step", unswitched),
        ("step", warning),
        ("zero_grad", zeros),
        ("zero_grad", operator.attrgetter("state")),
    ],
)
def test_a_shortcut_that_does_anything_else_is_left_out_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[..., object]
) -> None:
    monkeypatch.setattr(trial, f"fast_{name}", lambda public: wrong)
    assert shortcuts(any_road()) == set(NAMES) - {name}


@pytest.mark.parametrize(
    ("owner", "attribute_name", "left"),
    [
        (torch._C._autograd, "_profiler_enabled", set()),
        (torch._C, "_len_torch_dispatch_stack", set()),
        (torch.autograd.graph, "_engine_run_backward", {"call", "step", "zero_grad"}),
        (optimizer_module, "_use_grad_for_differentiable", {"call", "backward", "zero_grad"}),
    ],
)
def test_an_internal_of_torch_that_is_gone_takes_its_shortcuts_along(
    monkeypatch: pytest.MonkeyPatch, owner: Any, attribute_name: str, left: set[str]
) -> None:
    monkeypatch.delattr(owner, attribute_name)
    assert shortcuts(any_road()) == left


@pytest.mark.parametrize(
    ("owner", "method", "left"),
    [
        (torch.Tensor, "backward", {"call", "step", "zero_grad"}),
        (torch.autograd, "backward", {"call", "step", "zero_grad"}),
        (torch.optim.Optimizer, "zero_grad", {"call", "backward", "step"}),
        (nn.Module, "__call__", {"backward", "step", "zero_grad"}),
    ],
)
def test_what_was_decorated_before_the_trial_is_never_taken_for_torchs(
    monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, left: set[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(owner, method, decorated(getattr(owner, method), seen, "called"))
    road = any_road()
    assert shortcuts(road) == left
    seen.clear()
    parameter = torch.zeros(1, requires_grad=True)
    road.backward(road.call(nn.Identity(), parameter).sum(), ())
    road.zero_grad(SGD([parameter]))
    assert seen == ["called"]


def test_the_trial_leaves_no_trace() -> None:
    packed: list[torch.Tensor] = []
    optimizer, model = SGD([torch.zeros(1)]), nn.Linear(1, 1)
    random = torch.get_rng_state()
    hooks = torch.autograd.graph.saved_tensors_hooks(packed.append, lambda tensor: tensor)
    with warnings.catch_warnings(record=True) as caught, torch.no_grad(), hooks:
        warnings.simplefilter("always")
        assert shortcuts(fast_calls([optimizer], model)) == set(NAMES)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), random)
    assert not caught
    assert not packed


def test_whoever_watches_does_not_see_the_trial() -> None:
    seen: list[object] = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, *args: Any) -> Any:
            seen.append(func)

    class Dispatch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, *args: Any) -> Any:
            seen.append(func)

    optimizer, model = SGD([torch.zeros(1)]), nn.Linear(1, 1)
    hooks = (
        optimizer_module.register_optimizer_step_pre_hook,
        optimizer_module.register_optimizer_step_post_hook,
        module_module.register_module_forward_hook,
        module_module.register_module_forward_pre_hook,
    )
    for register in hooks:
        handle = register(lambda *args: seen.append(args))
        assert fast_calls([optimizer], model) is PUBLIC
        handle.remove()
    for mode in (Functions(), Dispatch()):
        with mode:
            road = fast_calls([optimizer], model)
        assert road is PUBLIC
    assert not seen


def test_the_trial_is_run_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    trials: list[Calls] = []
    of_bodies: list[object] = []
    ours = trial._trial

    def counting(road: Calls) -> list[object]:
        trials.append(road)
        return ours(road)

    monkeypatch.setattr(trial, "_trial", counting)
    monkeypatch.setattr(trial, "_trial_of_body", lambda kind, body: of_bodies.append(kind))
    first, second = all_fast(), all_fast()
    assert first[0] is second[0]
    assert len(trials) == 1 + len(NAMES)
    assert len(of_bodies) == 2 * len(WAYS)
