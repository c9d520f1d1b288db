"""The bodies of SGD, Adam and AdamW end in the bits of torch's, whatever becomes of them."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from lumbre.step import trial
from lumbre.step.shortcuts import WAYS, fast_step
from lumbre.step.trial import lookers

KINDS: dict[str, Any] = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}


@pytest.fixture(autouse=True)
def _fresh_trial() -> Iterator[None]:
    trial._proven.cache_clear()
    yield
    trial._proven.cache_clear()


def torchs(optimizer: Optimizer) -> None:
    """Torch's own body, which every step of `step()` goes through."""
    kind: Any = type(optimizer)
    kind.step.__wrapped__.__wrapped__(optimizer)


def ours(optimizer: Optimizer) -> tuple[Callable[[Optimizer], object], list[Optimizer]]:
    """The step of a run, and a list that has an entry for each step that torch has taken."""
    left: list[Optimizer] = []

    def noted(kind: Any) -> Any:
        look = lookers()[kind]

        def looks(optimizer: Optimizer) -> Any:
            kept = look(optimizer)
            body = kept.body

            def step(optimizer: Optimizer, kept: Any) -> bool:
                has_stepped = body(optimizer, kept)
                if not has_stepped:
                    left.append(optimizer)
                return has_stepped

            kept.body = step
            return kept

        return looks

    def public(optimizer: Optimizer, unwatched: bool = False) -> bool:
        raise AssertionError("the public call was made")

    return fast_step(public, {type(optimizer): noted(type(optimizer))}), left


def bits(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().to_dense()
        value = torch.view_as_real(value) if value.is_complex() else value
        return (value.dtype, tuple(value.shape), value.double().flatten().tolist())
    if isinstance(value, dict):
        return {key: bits(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [bits(each) for each in value]
    return value


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    shapes: list[tuple[int, ...]] = [(3, 2), (2,), (), (4,)]
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def give_grads(optimizer: Optimizer, seed: int, without: frozenset[int] = frozenset()) -> None:
    generator = torch.Generator().manual_seed(seed)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for place, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        p.grad = None if place in without else grad


# --- every option -------------------------------------------------------------------------------

rates = st.sampled_from([0.1, 0.0, 1e-3, torch.tensor(0.1), torch.tensor([0.1])])
decays = st.sampled_from([0, 0.1])
ways = st.sampled_from([{}, {}, {"foreach": False}, {"foreach": True}, {"fused": True}])
momenta = st.sampled_from([(0, 0, False), (0.9, 0, False), (0.9, 0.5, False), (0.9, 0, True)])


@st.composite
def optimizers(draw: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    name = draw(st.sampled_from(sorted(KINDS)))
    way = draw(ways)
    # Torch refuses a rate that is a tensor where all are stepped at once.
    lr = draw(rates) if not way else 0.1
    options: dict[str, Any] = {"lr": lr, "weight_decay": draw(decays), **way}
    options["maximize"] = draw(st.booleans())
    if name == "SGD":
        momentum, dampening, nesterov = draw(momenta)
        options |= {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
    else:
        options["amsgrad"] = draw(st.booleans())
        options["eps"] = draw(st.sampled_from([1e-8, 0.1]))
        options["betas"] = draw(st.sampled_from([(0.9, 0.999), (0.0, 0.5)]))
    second = {"lr": 0.3, "weight_decay": draw(decays)}
    return name, options, second


@settings(max_examples=150, deadline=None)
@given(
    made=optimizers(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.complex64]),
    without=st.lists(st.frozensets(st.integers(0, 3)), min_size=4, max_size=4),
)
def test_every_option_means_what_torch_makes_of_it(
    made: tuple[str, dict[str, Any], dict[str, Any]],
    dtype: torch.dtype,
    without: list[frozenset[int]],
) -> None:
    name, options, second = made
    outcomes = []
    for is_ours in (False, True):
        params = parameters(torch.float32 if options.get("fused") else dtype)
        groups: list[dict[str, Any]] = [{"params": params[:3]}, {"params": params[3:], **second}]
        optimizer = KINDS[name](groups, **copy.deepcopy(options))
        step = ours(optimizer)[0] if is_ours else torchs
        with torch.no_grad():
            for seed, idle in enumerate([frozenset[int](), *without]):
                give_grads(optimizer, seed, idle)
                step(optimizer)
        outcomes.append(bits([params, optimizer.state_dict()]))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("SGD", {}, 0),
        ("SGD", {"momentum": 0.9, "nesterov": True}, 0),
        ("SGD", {"foreach": False, "maximize": True}, 0),
        ("Adam", {}, 1),
        ("Adam", {"amsgrad": True, "weight_decay": 0.1}, 1),
        ("AdamW", {}, 1),
        ("SGD", {"lr": torch.tensor(0.1)}, 5),
        ("Adam", {"lr": torch.tensor(0.1)}, 5),
        ("SGD", {"foreach": True}, 5),
        ("Adam", {"fused": True}, 5),
    ],
)
def test_torch_makes_the_states_of_adam_and_steps_where_another_way_is_asked_for(
    name: str, options: dict[str, Any], expected: int
) -> None:
    optimizer = KINDS[name](parameters(), **options)
    step, left = ours(optimizer)
    with torch.no_grad():
        for seed in range(5):
            give_grads(optimizer, seed)
            step(optimizer)
    assert len(left) == expected


# --- what may become of an optimizer ------------------------------------------------------------


def add_group(optimizer: Any) -> None:
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], "lr": 0.5})


def replace_parameter(optimizer: Any) -> None:
    optimizer.param_groups[0]["params"][1] = nn.Parameter(torch.full((2,), 3.0))


def replace_list(optimizer: Any) -> None:
    group = optimizer.param_groups[0]
    group["params"] = [nn.Parameter(torch.full((2,), 3.0)), *group["params"][:2]]


def drop_parameter(optimizer: Any) -> None:
    del optimizer.param_groups[0]["params"][0]


def load(optimizer: Any) -> None:
    state = copy.deepcopy(optimizer.state_dict())
    for each in state["state"].values():
        for name, value in each.items():
            each[name] = value * 0.5 if isinstance(value, Tensor) else value
    state["param_groups"][0]["lr"] = 0.01
    optimizer.load_state_dict(state)


def clear_state(optimizer: Any) -> None:
    optimizer.state.clear()


def empty_states(optimizer: Any) -> None:
    for state in optimizer.state.values():
        state.clear()


def replace_state_of_one(optimizer: Any) -> None:
    for p, state in list(optimizer.state.items())[:1]:
        optimizer.state[p] = {name: copy.deepcopy(value) * 2 for name, value in state.items()}


def replace_tensors(optimizer: Any) -> None:
    for state in optimizer.state.values():
        for name, value in state.items():
            state[name] = value * 0.5


def forget_one(optimizer: Any) -> None:
    for p in list(optimizer.state)[:1]:
        del optimizer.state[p]


def schedule(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.02
        group["weight_decay"] = 0.3
        if "betas" in group:
            group["betas"] = (0.5, 0.7)


def fill_rate(optimizer: Any) -> None:
    optimizer.param_groups[0]["lr"] = torch.tensor(0.25)


def other_momentum(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        if "momentum" in group:
            group["momentum"] = 0.0 if group["momentum"] else 0.8


def all_at_once(optimizer: Any) -> None:
    optimizer.param_groups[0]["foreach"] = True


def initial_rate(optimizer: Any) -> None:
    torch.optim.lr_scheduler.StepLR(optimizer, 1)


def other_data(optimizer: Any) -> None:
    optimizer.param_groups[0]["params"][0].data = torch.full((3, 2), 0.5)


def other_dtype(optimizer: Any) -> None:
    if not optimizer.state:  # torch does not step on states of another dtype
        for p in optimizer.param_groups[0]["params"]:
            p.data = p.data.double()


CHANGES = [
    add_group,
    replace_parameter,
    replace_list,
    drop_parameter,
    load,
    clear_state,
    empty_states,
    replace_state_of_one,
    replace_tensors,
    forget_one,
    schedule,
    fill_rate,
    other_momentum,
    all_at_once,
    initial_rate,
    other_data,
    other_dtype,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize(
    ("name", "options"),
    [("SGD", {}), ("SGD", {"momentum": 0.9}), ("Adam", {"amsgrad": True}), ("AdamW", {})],
)
def test_what_has_changed_between_two_steps_is_seen(
    name: str, options: dict[str, Any], change: Callable[[Any], None]
) -> None:
    outcomes = []
    for is_ours in (False, True):
        optimizer = KINDS[name](parameters(), lr=0.1, **options)
        step, left = ours(optimizer) if is_ours else (torchs, [])
        with torch.no_grad():
            for seed in range(8):
                if seed in (3, 5):
                    change(optimizer)
                give_grads(optimizer, seed)
                step(optimizer)
        # Not by its state_dict, which a parameter that was replaced makes impossible.
        outcomes.append(bits([optimizer.param_groups, list(optimizer.state.values())]))
        if is_ours and change not in (all_at_once, fill_rate):
            assert len(left) <= (0 if name == "SGD" else 3)
    assert outcomes[0] == outcomes[1]


def test_gradients_that_come_and_go_are_seen() -> None:
    for name, options in (("SGD", {"momentum": 0.9}), ("Adam", {})):
        outcomes = []
        for is_ours in (False, True):
            optimizer = KINDS[name](parameters(), lr=0.1, **options)
            step, left = ours(optimizer) if is_ours else (torchs, [])
            with torch.no_grad():
                for seed in range(12):
                    give_grads(optimizer, seed, frozenset({1} if 3 <= seed < 8 else {}))
                    step(optimizer)
            outcomes.append(bits([optimizer.param_groups[0]["params"], optimizer.state_dict()]))
            assert len(left) == (is_ours and name == "Adam")
        assert outcomes[0] == outcomes[1]


def test_sparse_gradients_are_stepped_or_refused_as_torch_does() -> None:
    indices = torch.tensor([[0, 2]])
    for name in KINDS:
        outcomes = []
        for is_ours in (False, True):
            p = nn.Parameter(torch.ones(4, 2))
            optimizer = KINDS[name]([p], lr=0.1)
            step = ours(optimizer)[0] if is_ours else torchs
            error = None
            with torch.no_grad(), torch.sparse.check_sparse_tensor_invariants(False):
                give_grads(optimizer, 0)
                step(optimizer)
                for _ in range(2):
                    p.grad = torch.sparse_coo_tensor(indices, torch.ones(2, 2), (4, 2))
                    try:
                        step(optimizer)
                    except RuntimeError as refused:
                        error = str(refused)
            outcomes.append((bits([p, optimizer.state_dict()]), error))
        assert outcomes[0] == outcomes[1]
        assert (outcomes[0][1] is None) == (name == "SGD")


def test_two_optimizers_of_a_run_are_kept_apart() -> None:
    outcomes = []
    for is_ours in (False, True):
        both = [Adam(parameters(), lr=lr) for lr in (0.1, 0.2)]
        step = ours(both[0])[0] if is_ours else torchs
        with torch.no_grad():
            for seed in range(4):
                for optimizer in both:
                    give_grads(optimizer, seed)
                    step(optimizer)
        outcomes.append(bits([each.state_dict() for each in both]))
    assert outcomes[0] == outcomes[1]


# --- where it gives way -------------------------------------------------------------------------


class Mine(SGD):
    """Of a class of its own; what it overrides is nobody's business."""


def test_a_class_of_ones_own_has_no_body_here() -> None:
    assert set(lookers()) == set(KINDS.values())
    assert Mine not in lookers()


def test_a_patch_of_what_is_left_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    way = WAYS[SGD]

    def wrapped(function: Any) -> Any:
        return lambda *args, **options: function(*args, **options)

    for owner, name in ((SGD, "_init_group"), (way.home, "sgd")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, wrapped(getattr(owner, name)))
            trial._proven.cache_clear()
            assert SGD not in lookers()
            assert Adam in lookers()
    # One that comes after the trial is seen when a run begins, and where an option changes.
    trial._proven.cache_clear()
    assert SGD in lookers()
    for owner, name in ((SGD, "_init_group"), (way.home, "sgd"), (way.home, "_single_tensor_sgd")):
        optimizer = SGD(parameters(), lr=0.1)
        step, left = ours(optimizer)
        with torch.no_grad(), monkeypatch.context() as patch:
            give_grads(optimizer, 0)
            step(optimizer)
            assert len(left) == 0
            patch.setattr(owner, name, wrapped(getattr(owner, name)))
            optimizer.param_groups[0]["lr"] = 0.2
            step(optimizer)
            assert len(left) == 1
    optimizer = SGD(parameters(), lr=0.1)
    step, left = ours(optimizer)
    optimizer._init_group = wrapped(optimizer._init_group)  # type: ignore[method-assign]
    with torch.no_grad():
        give_grads(optimizer, 0)
        step(optimizer)
    assert len(left) == 1


@pytest.mark.parametrize("fault", ["wrong", "gone"])
def test_a_body_that_comes_to_something_else_is_left_to_torch(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = WAYS[SGD]
    if fault == "gone":
        monkeypatch.delattr(way.home, "_single_tensor_sgd")
    else:

        def choose(groups: list[dict[str, Any]]) -> Any:
            return way.choose([{**group, "lr": group["lr"] / 2} for group in groups])

        monkeypatch.setitem(WAYS, SGD, way._replace(choose=choose))
    assert set(lookers()) == {Adam, AdamW}


def test_what_torch_compile_wraps_around_an_optimizer_is_torchs() -> None:
    before = SGD._init_group
    SGD._init_group = torch._dynamo.disable(SGD._init_group)  # type: ignore[method-assign]
    try:
        assert SGD in lookers()
    finally:
        SGD._init_group = before  # type: ignore[method-assign]
