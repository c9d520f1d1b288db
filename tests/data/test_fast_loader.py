"""The fast loader gives torch's batches, of torch's draws, and gives way to torch when it must."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    _utils,
    dataloader,
    random_split,
)

import lumbre as lb
from lumbre.data import fast_loader as module
from lumbre.data.fast_loader import FastLoader, fast_loader


@pytest.fixture(autouse=True)
def _fresh_trial(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test profit from, or suffer by, the trial that another one has run."""
    monkeypatch.delenv("LUMBRE_FAST_LOADER", raising=False)
    module._proof.cache_clear()
    yield
    module._proof.cache_clear()


def data(count: int = 37) -> TensorDataset:
    generator = torch.Generator().manual_seed(count)
    return TensorDataset(torch.randn(count, 3, generator=generator), torch.arange(count))


def is_fast(loader: DataLoader[Any]) -> bool:
    """True if the batches of a loader are not left to torch."""
    return type(iter(fast_loader(loader))) is not dataloader._SingleProcessDataLoaderIter


def bits(tree: Any) -> Any:
    """All that can be told of a batch, comparable."""
    if isinstance(tree, torch.Tensor):
        values = tree.detach().resolve_conj().contiguous().flatten()
        values = torch.view_as_real(values) if values.is_complex() else values
        lazy = tree.is_conj(), tree.is_neg(), getattr(tree.grad_fn, "__class__", None)
        kind = type(tree), tree.dtype, tuple(tree.shape), tree.stride(), *lazy
        return (kind, values.float().tolist())
    if isinstance(tree, dict):
        return (type(tree), {key: bits(each) for key, each in tree.items()})
    if isinstance(tree, list | tuple):
        return (type(tree), [bits(each) for each in tree])
    return (type(tree), str(tree))


Walk = list[tuple[Any, list[list[int]]]]


def walk(
    loader: DataLoader[Any], give: Callable[[Any], Any], seed: int, until: int | None = None
) -> Walk:
    """The batches of two epochs, each with the state of every generator, beside one more at an end.

    Args:
        loader: The loader.
        give: What gives its batches, `fast_loader` or torch's `iter`.
        seed: Where the generators start.
        until: How many batches to take of the first epoch, before it is left.
    """
    sampler = getattr(loader.batch_sampler, "sampler", None)
    parts = loader, loader.sampler, sampler
    found = {id(g): g for p in parts if (g := getattr(p, "generator", None)) is not None}
    generators = [torch.default_generator, *found.values()]
    for place, generator in enumerate(generators):
        generator.manual_seed(seed + place)

    def states() -> list[list[int]]:
        return [generator.get_state().tolist()[:700] for generator in generators]

    seen: Walk = [("begin", states())]
    for epoch in range(2):
        for number, batch in enumerate(give(loader)):
            seen.append((bits(batch), states()))
            if epoch == 0 and number + 1 == until:
                break
        seen.append(("end", states()))
    return seen


def same(loader: Callable[[], DataLoader[Any]], seed: int = 3, until: int | None = None) -> None:
    """Hold both ways against each other."""
    assert walk(loader(), fast_loader, seed, until) == walk(loader(), iter, seed, until)


# --- the same batches, of the same draws --------------------------------------------------------


SAMPLERS: dict[str, Callable[[Any, Any], Any]] = {
    "random": lambda source, g: RandomSampler(source, generator=g),
    "more": lambda source, g: RandomSampler(source, num_samples=2 * len(source) + 3, generator=g),
    "fewer": lambda source, g: RandomSampler(source, num_samples=1 + len(source) // 2, generator=g),
    "replacement": lambda source, g: RandomSampler(source, True, generator=g),
    "sequential": lambda source, g: SequentialSampler(source),
    "subset": lambda source, g: SubsetRandomSampler(range(0, len(source), 2), generator=g),
    "numpy": lambda source, g: SubsetRandomSampler(np.arange(len(source)), generator=g),
    "weighted": lambda source, g: WeightedRandomSampler(
        torch.arange(1, len(source) + 1), 3 * len(source), generator=g
    ),
    "list": lambda source, g: list(range(len(source)))[::-1],
    "negative": lambda source, g: [-1, *range(len(source))],
}


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 80),
    size=st.integers(1, 40),
    drop_last=st.booleans(),
    chooser=st.sampled_from(["shuffle", "none", *SAMPLERS]),
    subsets=st.integers(0, 2),
    own=st.booleans(),
    until=st.none() | st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_batches_draws_and_generators_are_torchs(
    count: int,
    size: int,
    drop_last: bool,
    chooser: str,
    subsets: int,
    own: bool,
    until: int | None,
    seed: int,
) -> None:
    def loader() -> DataLoader[Any]:
        source: Any = data(count)
        for _ in range(subsets):
            source = Subset(source, list(range(len(source)))[::-2] or [0])
        options: dict[str, Any] = {"generator": torch.Generator() if own else None}
        if chooser in SAMPLERS:
            options["sampler"] = SAMPLERS[chooser](source, torch.Generator() if own else None)
        elif chooser == "shuffle":
            options["shuffle"] = True
        return DataLoader(source, size, drop_last=drop_last, **options)

    assert is_fast(loader())
    same(loader, seed, until)


def test_a_permutation_is_drawn_when_torch_draws_it() -> None:
    drawn = []
    for give in (fast_loader, iter):
        for count in (32, 37):
            generator = torch.Generator().manual_seed(0)
            loader = DataLoader(data(count), 32, shuffle=True, generator=generator)
            iterator = iter(give(loader))
            moments = [generator.get_state()]
            for _ in range(3):
                next(iterator, None)
                moments.append(generator.get_state())
            drawn.append([torch.equal(a, b) for a, b in itertools.pairwise(moments)])
    # Of 32 samples the second one is drawn behind the last batch, of 37 for the short last batch.
    assert drawn == [[False, False, True], [False, False, True]] * 2


def test_an_order_without_draws_is_never_there_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART", 8)
    for count in (1, 7, 8, 9, 16, 37):
        for size in (1, 3, 8, 20):
            for drop_last in (False, True):
                same(lambda n=count, s=size, d=drop_last: DataLoader(data(n), s, drop_last=d))
    huge = TensorDataset(torch.zeros(1).expand(2**45))
    assert next(iter(fast_loader(DataLoader(huge, 4))))[0].tolist() == [0.0] * 4


def test_a_batch_sampler_of_ones_own_is_asked() -> None:
    class Own(Sampler[list[int]]):
        def __iter__(self) -> Iterator[list[int]]:
            yield from ([3, 1], [2], [0, 4, 5])

        def __len__(self) -> int:
            return 3

    class Mine(BatchSampler):
        def __iter__(self) -> Iterator[list[int]]:
            return reversed([*super().__iter__()])

    for chooser in (Own(), Mine(RandomSampler(range(37)), 5, False), [[1, 2], (3, 4), [5, 5]]):
        assert is_fast(DataLoader(data(), batch_sampler=chooser))
        same(lambda chooser=chooser: DataLoader(data(), batch_sampler=chooser))


KINDS: dict[str, Callable[[], torch.Tensor]] = {
    "transposed": lambda: torch.randn(3, 20).t(),
    "expanded": lambda: torch.randn(1, 4).expand(20, 4),
    "strided": lambda: torch.randn(40, 3)[::2],
    "channels_last": lambda: torch.randn(20, 2, 3, 4).to(memory_format=torch.channels_last),
    "channels_last_3d": lambda: torch.randn(20, 2, 3, 2, 2).to(
        memory_format=torch.channels_last_3d
    ),
    "one_channel": lambda: torch.randn(20, 1, 3, 3),
    "sliced": lambda: torch.randn(20, 4, 3, 3)[:, 1:3],
    "permuted": lambda: torch.randn(20, 4, 3, 2).permute(0, 2, 3, 1),
    "empty_rows": lambda: torch.randn(20, 0, 2),
    "bf16": lambda: torch.randn(20, 2).to(torch.bfloat16),
    "f8": lambda: torch.randn(20, 2).to(torch.float8_e4m3fn),
    "complex": lambda: torch.randn(20, 2, dtype=torch.complex64),
    "conjugate": lambda: torch.randn(20, 2, dtype=torch.complex64).conj(),
    "imaginary": lambda: torch.randn(20, 2, dtype=torch.complex64).conj().imag,
    "u8": lambda: torch.arange(20).to(torch.uint8),
    "bool": lambda: torch.arange(20) > 3,
    "grad": lambda: torch.randn(20, 2, requires_grad=True),
    "parameter": lambda: nn.Parameter(torch.randn(20, 2)),
    "frozen": lambda: nn.Parameter(torch.randn(20, 2), requires_grad=False),
}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_any_kind_are_laid_out_as_torch_lays_them_out(kind: str, shuffle: bool) -> None:
    x = KINDS[kind]()
    same(lambda: DataLoader(TensorDataset(x, torch.arange(20)), 6, shuffle=shuffle))
    batch = next(iter(fast_loader(DataLoader(TensorDataset(x), 6))))
    assert batch[0].requires_grad == x.requires_grad
    if x.numel():
        assert batch[0].untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def test_rows_on_another_device_are_asked_for_there() -> None:
    x = torch.empty(20, 3, device="meta")
    batches = list(fast_loader(DataLoader(TensorDataset(x), 6, shuffle=True)))
    assert [(each.device.type, len(each)) for (each,) in batches] == [
        ("meta", n) for n in (6, 6, 6, 2)
    ]


READY: dict[str, Any] = {
    "tuple": [(torch.ones(2), torch.zeros(3))] * 3,
    "list": [[torch.ones(2), torch.zeros(3)]] * 3,
    "tensor": [torch.ones(2)] * 3,
    "parameter": [nn.Parameter(torch.ones(2))] * 3,
    "nested": [(torch.ones(2), [torch.ones(1), (torch.zeros(1), "text")], {"a": (1, 2.0)})] * 3,
    "mapping": [{"x": torch.ones(2), "y": np.arange(3)}] * 3,
    "array": [np.arange(3.0)] * 3,
    "numpy number": [(np.float32(2), 3, None)] * 3,
    "empty": [(), [], {}],
    "rows": TensorDataset(torch.randn(5, 3), torch.arange(5)),
    "subset": Subset(TensorDataset(torch.randn(5, 3), torch.arange(5)), [3, 1]),
}


@pytest.mark.parametrize("kind", READY)
def test_ready_batches_are_converted_as_torch_converts_them(kind: str) -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(READY[kind], batch_size=None)

    assert is_fast(loader())
    same(loader)
    same(lambda: DataLoader(READY[kind], batch_size=None, shuffle=True))


def test_a_ready_batch_is_in_a_container_of_its_own_and_its_tensors_are_handed_on() -> None:
    ready: list[Any] = [[torch.ones(2), {"a": torch.ones(1)}]]
    (batch,) = fast_loader(DataLoader(ready, batch_size=None))  # type: ignore[arg-type]
    assert batch is not ready[0]
    assert batch[1] is not ready[0][1]
    assert batch[0] is ready[0][0]
    assert batch[1]["a"] is ready[0][1]["a"]


# --- where it gives way -------------------------------------------------------------------------


class Doubled(TensorDataset):
    def __getitem__(self, index: Any) -> Any:
        return tuple(2 * each for each in super().__getitem__(index))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([torch.ones(2)] * 3)


class Own(DataLoader[Any]):
    def __iter__(self) -> Any:
        return super().__iter__()


def with_items(source: Any) -> Any:
    source.__getitems__ = lambda indices: [source[index] for index in indices]
    return source


def collate(samples: list[Any]) -> Any:
    return _utils.collate.default_collate(samples)


TORCHS: dict[str, Callable[[], DataLoader[Any]]] = {
    "a subclass of TensorDataset": lambda: DataLoader(Doubled(*data().tensors), 4),
    "a stream": lambda: DataLoader(Stream(), 2),
    "a stream of batches": lambda: DataLoader(Stream(), batch_size=None),
    "a loader of one's own": lambda: Own(data(), 4),
    "a data set of one's own": lambda: DataLoader([(torch.ones(1), 1)] * 9, 4),  # type: ignore[arg-type]
    "a collate_fn": lambda: DataLoader(data(), 4, collate_fn=collate),
    "a collate_fn of batches": lambda: DataLoader(data(), batch_size=None, collate_fn=tuple),
    "__getitems__": lambda: DataLoader(with_items(data()), 4),
    "__getitems__ of a subset": lambda: DataLoader(with_items(Subset(data(), [1, 2])), 4),
}


@pytest.mark.parametrize("kind", TORCHS)
def test_what_is_no_plain_loader_of_tensors_is_left_to_torch(kind: str) -> None:
    assert not is_fast(TORCHS[kind]())
    same(TORCHS[kind])


def test_workers_timeout_and_pinning_are_left_to_torch() -> None:
    for options in ({"num_workers": 1}, {"pin_memory": True}):
        loader: DataLoader[Any] = DataLoader(data(), 4, **options)  # type: ignore[arg-type]
        assert fast_loader(loader) is loader


def test_a_variable_of_the_environment_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = DataLoader(data(), 4)
    assert is_fast(loader)
    monkeypatch.setenv("LUMBRE_FAST_LOADER", "0")
    assert fast_loader(loader) is loader


def wrapped(function: Any) -> Any:
    if isinstance(function, property):
        return property(wrapped(function.fget))

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return wrapper


@pytest.mark.parametrize("before", [True, False], ids=["before the trial", "after it"])
@pytest.mark.parametrize("place", range(len(module._LEFT_OUT)))
def test_a_patch_of_anything_that_is_left_out_is_seen(
    place: int, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, _ = module._LEFT_OUT[place]
    if not before:
        assert is_fast(DataLoader(data(), 4))
    monkeypatch.setattr(owner, name, wrapped(getattr(owner, name)))
    assert not is_fast(DataLoader(data(), 4, shuffle=True))


def test_other_ways_to_change_what_is_left_out_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    collates = _utils.collate.default_collate_fn_map
    for before in (True, False):
        for change in (
            lambda patch: patch.setattr(TensorDataset, "__getitems__", print, raising=False),
            lambda patch: patch.setitem(collates, tuple, lambda batch, **_: "mine"),
            lambda patch: patch.setitem(collates, torch.Tensor, lambda batch, **_: "mine"),
        ):
            module._proof.cache_clear()
            assert before or is_fast(DataLoader(data(), 4))
            with monkeypatch.context() as patch:
                change(patch)
                assert not is_fast(DataLoader(data(), 4))
            assert before or is_fast(DataLoader(data(), 4))


@pytest.mark.parametrize("fault", ["other values", "another type", "a draw", "an error", "warns"])
def test_a_trial_that_comes_out_otherwise_leaves_all_to_torch(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = module._cut

    def cut(*args: Any) -> Iterator[Any]:
        for batch in ours(*args):
            if fault == "an error":
                raise AttributeError(fault)
            if fault == "warns":
                import warnings

                warnings.warn(fault, FutureWarning, stacklevel=1)
            if fault == "a draw":
                torch.rand(1)
            if fault == "other values":
                batch[0][-1] += 1
            yield tuple(batch) if fault == "another type" else batch

    monkeypatch.setattr(module, "_cut", cut)
    assert not is_fast(DataLoader(data(), 4))


def test_the_trial_draws_nothing() -> None:
    before = torch.get_rng_state()
    assert module._is_proven()
    assert torch.equal(torch.get_rng_state(), before)


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Seen, Called])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_mode_sees_what_torch_does(mode: Any, shuffle: bool) -> None:
    assert is_fast(DataLoader(data(), 8))
    assert is_fast(DataLoader(READY["nested"], batch_size=None))
    seen = []
    for give in (fast_loader, iter):
        torch.manual_seed(0)
        loader = DataLoader(data(), 8, shuffle=shuffle)
        with mode() as watch:
            for _ in give(loader):
                pass
            for _ in give(DataLoader(READY["nested"], batch_size=None)):
                pass
        seen.append(watch.names)
    assert seen[0] == seen[1]
    assert seen[0].count("stack") == 2 * 5
    if mode is Called:
        assert seen[0].count("_record_function_enter_new") == 6 + 4


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("last", [2, 4])
def test_a_mode_may_come_and_go_at_any_batch(first: int, last: int) -> None:
    walks = []
    for give in (fast_loader, iter):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(5)
        loader = DataLoader(data(), 8, shuffle=True, generator=generator)
        iterator, batches, stacks = iter(give(loader)), [], 0
        for number in range(1, 7):
            with Seen() if first <= number <= last else contextlib.nullcontext() as watch:
                batches.append(bits(next(iterator, None)))
            stacks += watch.names.count("stack") if watch else 0
        walks.append((batches, stacks, generator.get_state().tolist()))
    assert walks[0] == walks[1]
    assert walks[0][1] > 0


def test_a_profiler_sees_torchs_own_range() -> None:
    loader = DataLoader(data(), 8)
    iterator = iter(fast_loader(loader))
    next(iterator)
    with torch.autograd.profiler.profile() as profile:
        next(iterator)
    names = [event.name for event in profile.function_events]
    assert any(name.startswith("enumerate(DataLoader)") for name in names)
    assert len(list(iterator)) == 3


def test_under_a_default_device_the_error_is_torchs() -> None:
    errors = []
    for give in (fast_loader, iter):
        with torch.device("meta"), pytest.raises(RuntimeError) as info:
            list(give(DataLoader(data(), 8, shuffle=True)))
        errors.append(str(info.value))
    assert errors[0] == errors[1]


BROKEN: dict[str, Callable[[Any], DataLoader[Any]]] = {
    "beyond the end": lambda source: DataLoader(source, 2, sampler=[1, 2, 99]),
    "no numbers": lambda source: DataLoader(source, 2, sampler=["a", "b"]),  # type: ignore[arg-type]
    "truths": lambda source: DataLoader(source, 2, sampler=[True, False]),
    "an empty batch": lambda source: DataLoader(source, batch_sampler=[[1], []]),
    "beyond a subset": lambda source: DataLoader(Subset(source, [1, 2]), 2, sampler=[1, 2]),
    "beyond in a subset": lambda source: DataLoader(Subset(source, [1, 99]), 2),
    "beyond in another source": lambda source: DataLoader(
        source, 8, sampler=RandomSampler(range(50), generator=torch.Generator().manual_seed(0))
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_batch_that_fails_fails_in_torchs_words(kind: str) -> None:
    errors = []
    for give in (fast_loader, iter):
        batches: list[Any] = []
        with pytest.raises(Exception) as info:
            batches.extend(give(BROKEN[kind](data())))
        errors.append((type(info.value), str(info.value), bits(batches)))
    assert errors[0] == errors[1]


def test_numbers_that_are_no_plain_ones_are_fetched_by_the_data_set() -> None:
    for numbers in ([-1, -2], [torch.tensor(3), 2], [np.int32(2), 1]):
        same(lambda numbers=numbers: DataLoader(data(), 2, sampler=numbers))
    for indices in (torch.tensor([5, 3, 1]), np.array([5, 3, 1]), range(3, 9), (2, 1, 0)):
        assert is_fast(DataLoader(Subset(data(), indices), 2))  # type: ignore[arg-type]
        same(lambda indices=indices: DataLoader(Subset(data(), indices), 2))


def test_tensors_that_differ_in_length_fail_as_in_torch() -> None:
    source = data()
    source.tensors = (source.tensors[0], source.tensors[1][:5])
    for give in (fast_loader, iter):
        with pytest.raises(IndexError, match="out of bounds"):
            list(give(DataLoader(source, 8)))


# --- in time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
def test_no_batch_is_cut_before_it_is_asked_for(shuffle: bool) -> None:
    x = torch.zeros(12)
    for index, (batch,) in enumerate(fast_loader(DataLoader(TensorDataset(x), 4, shuffle=shuffle))):
        assert batch.tolist() == [float(index)] * 4
        x += 1


def test_what_a_callback_does_to_the_data_is_seen_in_the_next_batch() -> None:
    def change(source: Any) -> Iterator[None]:
        yield
        source.tensors = (source.tensors[0] * 2, source.tensors[1])
        yield
        source.tensors[0].requires_grad_()
        yield
        source.tensors = (source.tensors[0].detach().to_sparse(), source.tensors[1])
        yield

    walks = []
    for give in (fast_loader, iter):
        source = TensorDataset(torch.ones(20, 2), torch.arange(20))
        batches: list[Any] = []
        with contextlib.suppress(RuntimeError):  # torch does not stack sparse samples
            for batch, _ in zip(give(DataLoader(source, 4)), change(source), strict=False):
                batches.append((bits(batch), batch[0].requires_grad))
        walks.append(batches)
    assert walks[0] == walks[1]
    assert [grad for _, grad in walks[0]] == [False, False, False, True]


def test_a_subset_may_change_between_batches() -> None:
    walks = []
    for give in (fast_loader, iter):
        subset = Subset(data(), list(range(12)))
        batches = []
        for batch in give(DataLoader(subset, 4)):
            batches.append(batch[1].tolist())
            subset.indices = [30] * 12
        walks.append(batches)
    assert walks[0] == walks[1]
    assert walks[0][1] == [30] * 4


def test_each_batch_has_memory_of_its_own() -> None:
    batches = list(fast_loader(DataLoader(data(), 4, shuffle=True)))
    pointers = {each.untyped_storage().data_ptr() for batch in batches for each in batch}
    assert len(pointers) == 2 * len(batches)
    assert all(each.untyped_storage().nbytes() == each.nbytes for b in batches for each in b)


@pytest.mark.parametrize(("shuffle", "subset"), [(True, False), (False, False), (True, True)])
def test_a_batch_takes_few_torch_calls(
    shuffle: bool, subset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calls(count: int) -> int:
        source: Any = data(count)
        loader = DataLoader(Subset(source, range(count)) if subset else source, 32, shuffle=shuffle)
        with Seen() as seen:
            assert len(list(fast_loader(loader))) == count // 32
        assert seen.names.count("index_select") == 2 * count // 32
        return len(seen.names)

    assert is_fast(DataLoader(data(), 4))
    never = torch.autograd.profiler, lambda: False, lambda: 0
    monkeypatch.setattr(module, "watchers", lambda: never)
    # A part of the order and two tensors' rows; of a subset also its own numbers of them.
    assert calls(640) - calls(320) == 10 * (4 if subset else 3)


# --- in a run -----------------------------------------------------------------------------------


def test_every_pass_of_a_run_goes_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def spy(tensors: Any, rows: torch.Tensor) -> Any:
        taken.append(len(rows))
        return ours(tensors, rows)

    ours = module._taken
    source = TensorDataset(torch.randn(12, 3), torch.randn(12, 1))
    loader = DataLoader(source, 6)
    setup = lb.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD)
    net = setup.set_hparams(in_features=3, out_features=1).set_opt_hparams(lr=0.1)
    assert is_fast(loader)
    monkeypatch.setattr(module, "_taken", spy)

    def batches(act: Callable[[], object]) -> list[int]:
        taken.clear()
        act()
        return list(taken)

    fitted = net.fit(loader, epochs=1)
    assert batches(lambda: net.fit(loader, epochs=1, valid_data=loader)) == [6] * 4
    assert batches(lambda: fitted.evaluate(loader)) == [6] * 2
    assert batches(lambda: fitted.predict(loader)) == [6] * 2
    assert len(batches(lambda: net.lr_finder(loader, steps=5))) == 5

    def own() -> None:
        model = nn.Linear(3, 1)
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        with lb.run(model, opt, epochs=1, loss=nn.MSELoss()) as ctx:
            for _ in ctx.epochs():
                for _ in ctx.train(loader):
                    ctx.forward()
                    ctx.backward(ctx.compute_loss())
                    ctx.step_optimizer()

    assert batches(own) == [6] * 2


def test_a_fit_ends_in_the_same_bits_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome() -> Any:
        torch.manual_seed(0)
        x, y = torch.randn(70, 5), torch.randint(3, (70,))
        train, valid = random_split(TensorDataset(x, y), [50, 20])
        loaders = DataLoader(train, 8, shuffle=True), DataLoader(valid, 8)
        net = lb.setup(lambda: nn.Linear(5, 3), nn.CrossEntropyLoss(), torch.optim.Adam)
        fitted = net.fit(loaders[0], epochs=2, valid_data=loaders[1])
        state = [each.tolist() for each in fitted.model.state_dict().values()]
        return fitted.records["metrics"], state, torch.get_rng_state().tolist()

    fast = outcome()
    monkeypatch.setenv("LUMBRE_FAST_LOADER", "0")
    assert outcome() == fast


def test_ctx_has_the_loader_of_the_user() -> None:
    loader = DataLoader(TensorDataset(torch.ones(4, 3), torch.ones(4, 1)), 2)
    seen = []

    @lb.on("on_train_batch_begin")
    def look(ctx: Any) -> None:
        seen.append(ctx.data is loader)

    setup = lb.setup(lambda: nn.Linear(3, 1), nn.MSELoss(), torch.optim.SGD)
    setup.fit(loader, epochs=1, callbacks=[look])
    assert seen == [True, True]
    assert isinstance(fast_loader(loader), FastLoader)
