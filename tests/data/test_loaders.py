"""What a user passes as data becomes batches: which, in which order, and what is refused."""

import copy
import functools
import inspect
import re
import subprocess
import sys
import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lumbre.data.counts import check_count, empty, length_of
from lumbre.data.loaders import (
    as_dataloader,
    eval_loader,
    loaders,
    split,
    train_loader,
)
from lumbre.data.samples import Samples, TensorLoader
from lumbre.errors import ArgumentError, ArgumentTypeError, DataError, DataWarning


class Squares(Dataset):
    def __init__(self, length=10):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor([float(index)]), torch.tensor(float(index**2))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(5.0))


class Pair(NamedTuple):
    x: object
    y: object


@pytest.fixture
def xy():
    return torch.arange(100.0).reshape(50, 2), torch.arange(50)


@pytest.fixture
def registry(monkeypatch):
    """as_dataloader, with nothing registered in a test left behind."""
    known = {cls: as_dataloader.dispatch(cls) for cls in as_dataloader.registry}
    fresh = functools.singledispatch(known.pop(object))
    for cls, function in known.items():
        fresh.register(cls, function)
    monkeypatch.setattr("lumbre.data.loaders.as_dataloader", fresh)
    return fresh


def same(left, right):
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert left.stride() == right.stride()
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            same(left[key], right[key])
    else:
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            same(one, other)


# In-memory tensors: the batches of a DataLoader, without its cost


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 200),
    batch_size=st.integers(1, 70),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    own_generator=st.booleans(),
    wide=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_batches_and_draws_are_those_of_a_dataloader(
    count, batch_size, shuffle, drop_last, own_generator, wide, seed
):
    x = torch.arange(float(count))[:, None].expand(count, 600 if wide else 3).contiguous()
    tensors = x, torch.arange(count)
    options = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last}
    results = []
    for make in (
        lambda **o: as_dataloader(tensors, **o),
        functools.partial(DataLoader, TensorDataset(*tensors)),
    ):
        torch.manual_seed(seed)
        if own_generator:
            options["generator"] = torch.Generator().manual_seed(seed + 1)
        loader = make(**options)
        epochs = [list(loader), list(loader)]
        state = options["generator"].get_state() if own_generator else None
        results.append((loader, epochs, torch.get_rng_state(), state))
    (ours, our_epochs, our_rng, our_state), (theirs, their_epochs, their_rng, their_state) = results
    assert type(ours) is TensorLoader
    assert len(ours) == len(theirs)
    same(our_epochs, their_epochs)
    assert torch.equal(our_rng, their_rng)
    if own_generator:
        assert torch.equal(our_state, their_state)


def test_draws_come_at_the_same_moments_as_a_dataloaders(xy):
    seen = []
    for loader in (
        as_dataloader(xy, shuffle=True),
        DataLoader(TensorDataset(*xy), batch_size=32, shuffle=True),
    ):
        torch.manual_seed(3)
        iterator = iter(loader)
        between = torch.rand(3)
        first = next(iterator)
        seen.append([between, first, torch.rand(3)])
    same(*seen)


@pytest.mark.parametrize(
    "tree",
    [
        torch.arange(40.0),
        [torch.arange(40.0)],
        (torch.arange(40.0), torch.arange(40)),
        ([torch.arange(40.0), torch.ones(40, 2)], torch.arange(40)),
        {"a": torch.arange(40.0), "b": (torch.ones(40, 1),)},
        Pair({"ids": torch.arange(40)}, torch.ones(40)),
    ],
    ids=["tensor", "one", "pair", "nested", "mapping", "namedtuple"],
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_has_the_form_of_the_data_as_collating_leaves_it(tree, shuffle):
    loader = as_dataloader(tree, batch_size=16, shuffle=shuffle)
    # The same data sample by sample, through DataLoader and its collating.
    slow = DataLoader(Samples(tree), batch_size=16, shuffle=shuffle)
    assert type(loader) is TensorLoader
    torch.manual_seed(0)
    batches = list(loader)
    torch.manual_seed(0)
    same(batches, list(slow))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "x",
    [
        torch.randn(3, 70).t(),
        torch.randn(1, 4).expand(70, 4),
        torch.randn(140, 3)[::2],
        torch.randn(70, 2, 3, 3).to(memory_format=torch.channels_last),
        torch.randn(70, 4).to(torch.bfloat16),
        torch.randn(70, 2, dtype=torch.complex64),
        torch.arange(70).to(torch.uint8),
        torch.arange(70) > 3,
    ],
    ids=["transposed", "expanded", "strided", "channels_last", "bf16", "complex", "u8", "bool"],
)
def test_any_strides_and_dtypes_are_batched_as_a_dataloader_does(x, shuffle):
    torch.manual_seed(0)
    ours = list(as_dataloader([x], shuffle=shuffle))
    torch.manual_seed(0)
    same(ours, list(DataLoader(TensorDataset(x), 32, shuffle=shuffle)))


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_changed_in_place_changes_neither_data_nor_other_batches(xy, shuffle):
    before = copy.deepcopy(xy)
    loader = as_dataloader(xy, batch_size=8, shuffle=shuffle)
    torch.manual_seed(0)
    kept = copy.deepcopy(list(loader))
    torch.manual_seed(0)
    batches = list(loader)
    versions = [batch[0]._version for batch in batches]
    batches[0][0].zero_()
    same(batches[1:], kept[1:])
    same(list(xy), list(before))
    # Nor what autograd remembers of the others, which a shared version counter would spoil.
    assert [batch[0]._version for batch in batches[1:]] == versions[1:]


@pytest.mark.parametrize("shuffle", [False, True])
def test_no_batch_is_cut_before_it_is_asked_for(shuffle):
    x = torch.zeros(12)
    for index, batch in enumerate(as_dataloader(x, batch_size=4, shuffle=shuffle)):
        assert batch.tolist() == [float(index)] * 4
        x += 1  # as a callback may that writes into the data


def test_a_batch_of_in_memory_tensors_takes_few_torch_calls(xy):
    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += 1
            return func(*args, **(kwargs or {}))

    def calls(count, shuffle):
        tensors = torch.zeros(count, 4), torch.zeros(count, dtype=torch.int64)
        with Count() as seen:
            assert len(list(as_dataloader(tensors, shuffle=shuffle))) == count // 32
        return seen.calls

    for shuffle in (False, True):
        # A part of the order, and each tensor's rows; the order itself is drawn once.
        assert calls(6400, shuffle) - calls(3200, shuffle) == 3 * 100


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_of_tensors_that_require_grad_are_differentiated_one_by_one(shuffle):
    x = torch.ones(20, 2, requires_grad=True)
    for (batch,) in as_dataloader([x], batch_size=4, shuffle=shuffle):
        (batch**2).sum().backward()
    assert torch.equal(x.grad, torch.full((20, 2), 2.0))


def test_a_tensor_dataset_is_batched_whole_and_its_subclass_is_asked(xy):
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return tuple(2 * part for part in super().__getitem__(index))

    assert type(as_dataloader(TensorDataset(*xy))) is TensorLoader
    batch = next(iter(as_dataloader(Doubled(*xy))))
    assert torch.equal(batch[1], 2 * xy[1][:32])


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 1},
        {"collate_fn": lambda samples: samples},
        {"sampler": range(3)},
        {"batch_sampler": [[0, 1], [2]]},
        {"batch_size": None},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_need_single_samples_go_to_a_dataloader(xy, options):
    loader = as_dataloader(xy, **options)
    assert type(loader) is DataLoader
    expected = 32 if options.keys().isdisjoint({"batch_sampler", "batch_size"}) else None
    assert loader.batch_size == expected


def test_options_at_their_default_ask_for_nothing(xy):
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(DataLoader).parameters.items()
        if name not in ("dataset", "batch_size")
    }
    assert len(options) > 5
    assert type(as_dataloader(xy, **options)) is TensorLoader


def test_sparse_tensors_and_subclasses_are_left_to_a_dataloader():
    class Mine(torch.Tensor):
        pass

    assert type(as_dataloader([torch.eye(3).to_sparse()])) is DataLoader
    assert type(as_dataloader([torch.eye(3).as_subclass(Mine)])) is DataLoader


def test_pin_memory_without_an_accelerator_has_no_effect(xy, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    batch = next(iter(as_dataloader(xy, pin_memory=True)))
    assert not batch[0].is_pinned()


def test_pin_memory_pins_what_lies_on_the_cpu(xy, monkeypatch):
    pinned = []

    def pin(tensor):
        pinned.append(tensor.shape)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    list(as_dataloader(xy, pin_memory=True))
    assert pinned == [(32, 2), (32,), (18, 2), (18,)]


def test_a_tensor_loader_says_what_it_holds(xy):
    loader = as_dataloader(xy, batch_size=7, drop_last=True)
    assert repr(loader) == (
        "TensorLoader(50 samples of (2,) float32, () int64, batch_size=7, shuffle=False, "
        "drop_last=True)"
    )
    assert (loader.batch_size, loader.drop_last, len(loader.dataset)) == (7, True, 50)


# Arrays and frames


def test_float64_arrays_become_the_default_dtype_and_tensors_stay():
    x = np.linspace(0, 1, 10)
    assert as_dataloader(x).dataset.tree.dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert as_dataloader(x).dataset.tree.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert as_dataloader(torch.from_numpy(x)).dataset.tree.dtype == torch.float64
    assert as_dataloader(x.astype(np.float16)).dataset.tree.dtype == torch.float16
    assert as_dataloader(np.arange(10)).dataset.tree.dtype == torch.int64


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", ">i4"])
def test_signed_integers_of_a_target_become_int64_and_inputs_stay(dtype):
    values = np.array([1, 0, 2]).astype(dtype)
    tensor = torch.from_numpy(values.astype("int16"))
    for target in (values, pd.Series(values.astype("int8")), {"a": [values]}):
        x, y = as_dataloader([values, target]).dataset.tree
        assert x.dtype == getattr(torch, np.dtype(dtype).name)
        y = y["a"][0] if isinstance(y, dict) else y
        assert y.dtype == torch.int64
        assert y.tolist() == [1, 0, 2]
    assert as_dataloader(Pair(values, values)).dataset.tree.y.dtype == torch.int64
    assert as_dataloader([values, tensor]).dataset.tree[1].dtype == torch.int16
    assert as_dataloader([values, values.astype("u1")]).dataset.tree[1].dtype == torch.uint8
    inputs = as_dataloader({0: values, 1: values, "a": [values, values]}).dataset.tree
    assert {t.dtype for t in (inputs[1], inputs["a"][1])} == {x.dtype}


def test_a_category_trains_as_the_message_says():
    column = pd.Series(["a", "b", "a"]).astype("category")
    with pytest.raises(DataError, match=r"column\.cat\.codes for a target"):
        as_dataloader([torch.zeros(3, 2), column])
    _, target = next(iter(as_dataloader([torch.zeros(3, 2), column.cat.codes])))
    assert torch.nn.functional.cross_entropy(torch.zeros(3, 2), target) > 0


def test_a_list_of_ready_batches_is_refused(xy):
    batches = [(x, y) for x, y in zip(xy[0].split(10), xy[1].split(10), strict=True)]
    with pytest.raises(DataError, match=r"list of 5 lists of 2 tensors.*batch_size=None"):
        as_dataloader(batches)
    for pairs in (
        [xy, xy],
        [xy, xy, xy[0]],
        [xy, xy, (xy[0], xy[1].float())],
        [[xy[0]], [xy[0]], [xy[0]]],
    ):
        assert len(as_dataloader(pairs).dataset) == 50


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0)[::-1],
        np.arange(6, dtype=">i4"),
        np.arange(6.0, dtype=np.longdouble),
        np.zeros(6, dtype=[("a", "i1"), ("b", "f4")])["b"],
        np.broadcast_to(np.float32(2), (6,)),
    ],
    ids=["reversed", "big endian", "long double", "field", "read only"],
)
def test_odd_arrays_keep_their_values(array):
    tensor = as_dataloader(array).dataset.tree
    assert np.array_equal(tensor.numpy(), array)


def test_frames_become_tensors_and_integers_stay_integers():
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": [1, 2], "c": [True, False]})
    x, y = next(iter(as_dataloader((frame, frame["b"]))))
    assert x.dtype == torch.float32
    assert x.tolist() == [[1.5, 1, 1], [2.5, 2, 0]]
    assert y.dtype == torch.int64
    assert next(iter(as_dataloader(frame[["b", "c"]]))).dtype == torch.int64


def test_missing_values_of_a_nullable_column_become_nan():
    column = pd.Series([1, None, 3], dtype="Int64")
    tensor = as_dataloader(column).dataset.tree
    assert tensor.isnan().tolist() == [False, True, False]


def test_a_frame_of_text_is_refused_by_column():
    frame = pd.DataFrame({"a": [1.0], "city": ["Rome"]})
    with pytest.raises(DataError, match=r"data\[0\] has columns that are no numbers: city \("):
        as_dataloader([frame])
    with pytest.raises(DataError, match="which is no number"):
        as_dataloader(np.array(["a", "b"]))


def test_pandas_is_not_imported_for_it():
    code = (
        "import sys, torch; from lumbre.data.loaders import as_dataloader;"
        "list(as_dataloader(torch.zeros(3)));"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Other forms


def test_a_dataset_gets_batches_of_32_in_order():
    batches = list(as_dataloader(Squares(40)))
    assert [len(x) for x, _ in batches] == [32, 8]
    assert torch.equal(batches[1][1], torch.arange(32.0, 40) ** 2)


def test_a_stream_gets_batches_and_cannot_be_shuffled():
    assert [batch.tolist() for batch in as_dataloader(Stream(), batch_size=3)] == [
        [0, 1, 2],
        [3, 4],
    ]
    with pytest.raises(ArgumentError, match="IterableDataset decides its order itself"):
        as_dataloader(Stream(), shuffle=True)


@pytest.mark.parametrize("make", [lambda xy: DataLoader(TensorDataset(*xy)), as_dataloader])
def test_a_loader_is_itself_and_takes_no_options(xy, make):
    loader = make(xy)
    assert as_dataloader(loader) is loader
    assert train_loader(loader, {}) is loader
    assert eval_loader(loader) is loader
    for function in (as_dataloader, lambda data, **o: train_loader(data, o)):
        with pytest.raises(ArgumentError, match=r"\(batch_size\) do not apply to a"):
            function(loader, batch_size=3)


def test_an_unknown_option_names_the_nearest():
    for value in (torch.zeros(3), Squares(), Stream()):
        with pytest.raises(ArgumentError, match=r"'batchsize'\. Did you mean \"batch_size\""):
            as_dataloader(value, batchsize=3)
    with pytest.raises(ArgumentError, match=r"'dataset'.*those of torch.utils.data.DataLoader"):
        as_dataloader(torch.zeros(3), dataset=3)


@pytest.mark.parametrize("value", [torch.zeros(9), Squares(9), Stream()])
def test_numpys_whole_numbers_are_numbers(value):
    loader = as_dataloader(value, batch_size=np.int64(2), num_workers=np.int32(0))
    assert loader.batch_size == 2
    assert len(next(iter(loader))[0:2]) == 2


@pytest.mark.parametrize("value", [torch.zeros(3), Squares(), Stream()])
def test_a_flag_is_true_or_false(value):
    for name in ("shuffle", "drop_last", "pin_memory"):
        with pytest.raises(ArgumentTypeError, match=f"{name} is True or False; got 'no'"):
            as_dataloader(value, **{name: "no"})
    assert as_dataloader(value, drop_last=np.bool_(True)).drop_last is True


def test_two_options_that_decide_on_the_same_are_refused(xy):
    for value in (xy, Squares()):
        for options in (
            {"sampler": np.arange(3), "shuffle": True},
            {"batch_sampler": [[0]], "shuffle": True},
            {"batch_sampler": [[0]], "drop_last": True},
            {"batch_sampler": [[0]], "batch_size": 8},
            {"batch_sampler": [[0]], "sampler": np.arange(3)},
        ):
            first, second = options
            with pytest.raises(ArgumentError, match=f"Leave out {second}, or {first}"):
                as_dataloader(value, **options)
        loader = as_dataloader(value, sampler=[0, 1], shuffle=False, drop_last=True)
        assert loader.sampler == [0, 1]


class Unsized(Dataset):
    def __getitem__(self, index):
        return torch.zeros(2)


def test_a_data_set_without_a_length_is_refused_unless_a_sampler_knows_it():
    for make in (as_dataloader, train_loader, eval_loader):
        with pytest.raises(
            ArgumentTypeError, match=r"Dataset without __len__.*def __len__\(self\)"
        ):
            make(Unsized())
    assert next(iter(as_dataloader(Unsized(), sampler=range(3)))).shape == (3, 2)


class Untold(IterableDataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        raise self.error

    def __iter__(self):
        return iter(torch.arange(5.0))


@pytest.mark.parametrize("error", [TypeError(), NotImplementedError(), RuntimeError(), OSError()])
def test_a_length_that_raises_is_not_known(error):
    assert length_of([1, 2]) == 2
    loader = train_loader(Untold(error))
    assert length_of(loader) is None
    assert sum(1 for _ in loader) == 1
    assert "spent by an earlier pass" in str(empty(loader, "data"))
    check_count(loader, 1, "data")


def test_fewer_batches_than_the_length_says_are_told():
    loader = DataLoader(Squares(), batch_size=2)
    check_count(loader, 5, "the training data")
    with pytest.warns(DataWarning, match=r"^the training data gave 4 batches.*DataLoader is 5\."):
        check_count(loader, 4, "the training data")


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "8"])
def test_a_batch_size_is_a_positive_whole_number(size):
    for value in (torch.zeros(3), Squares()):
        with pytest.raises(ArgumentError, match="is no number of samples"):
            as_dataloader(value, batch_size=size)


def test_lengths_that_differ_are_named_with_their_places():
    x, y = torch.zeros(10, 2), torch.zeros(9)
    with pytest.raises(DataError, match=r"data\[0\] has 10, data\[1\] has 9\."):
        as_dataloader((x, y))
    with pytest.raises(DataError, match=r"data\['x'\]\[0\] has 10, data\['y'\] has 9\."):
        as_dataloader({"x": [x], "y": y})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(0, 4), r"no samples: data has shape \(0, 4\)"),
        ([], "empty list"),
        ([torch.tensor(1.0)], r"data\[0\] is a single number"),
        (Squares(0), "has length 0"),
        (TensorDataset(torch.zeros(0)), "no samples"),
    ],
    ids=["tensor", "list", "number", "dataset", "tensor dataset"],
)
def test_data_without_samples_is_refused(value, message):
    with pytest.raises(DataError, match=message):
        as_dataloader(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("train.csv", "data is of type str, of which no batches can be made"),
        (None, "NoneType"),
        (iter([]), "lb.as_dataloader.register"),
        (Squares, "data is the class Squares; pass an instance"),
        ([[1, 2], [3, 4]], r"data\[0\]\[0\] is of type int"),
        ((Squares(), torch.zeros(10)), r"data\[0\] is of type \S*Squares; expected a tensor"),
    ],
    ids=["str", "None", "iterator", "class", "numbers", "dataset in tuple"],
)
def test_data_of_no_known_form_is_refused(value, message):
    with pytest.raises(ArgumentTypeError, match=message):
        as_dataloader(value)


def test_a_registered_function_gets_the_options_as_keywords(registry):
    class Table:
        def __init__(self, x):
            self.x = x

    got = []

    @registry.register
    def _(table: Table, **options):
        got.append(options)
        return registry(table.x, **options)

    table = Table(torch.zeros(4))
    train_loader(table, {"batch_size": 2})
    eval_loader(table, {"batch_size": 2})
    train_loader(table, {"shuffle": False})
    assert got == [{"batch_size": 2, "shuffle": True}, {"batch_size": 2}, {"shuffle": False}]


def test_a_registered_function_need_not_know_the_default_options(registry):
    registry.register(set, lambda items: [torch.tensor(sorted(items))])
    assert train_loader({2, 1})[0].tolist() == [1, 2]


def test_a_registered_function_must_return_what_can_be_walked_again(registry):
    registry.register(set, lambda items, **options: iter(items))
    with pytest.raises(ArgumentTypeError, match="begins anew for each epoch"):
        train_loader({1})


# The loaders of a fit, of evaluate and predict


def test_training_data_is_shuffled_unless_it_has_an_order_of_its_own(xy):
    assert train_loader(xy).shuffle
    assert train_loader(xy).batch_size == 32
    assert not train_loader(xy, {"shuffle": False}).shuffle
    for options in ({"sampler": range(3)}, {"batch_sampler": [[0]]}):
        assert type(train_loader(xy, options)) is DataLoader
    assert not isinstance(train_loader(Squares()).sampler, SequentialSampler)
    assert len(list(train_loader(Stream(), {"batch_size": 2}))) == 3


def test_evaluation_keeps_the_order_and_the_last_batch(xy):
    for name, value in (
        ("shuffle", True),
        ("drop_last", True),
        ("sampler", [3, 1]),
        ("batch_sampler", [[3], [1]]),
    ):
        with pytest.warns(DataWarning, match=f"^{name} in dataloader_options.*has no effect"):
            loader = eval_loader(xy, {name: value, "num_workers": 0})
        assert torch.equal(torch.cat([y for _, y in loader]), xy[1])
    asks_nothing = {"shuffle": False, "drop_last": False, "sampler": None, "batch_size": 20}
    assert len(eval_loader(xy, asks_nothing)) == 3


class Foreign(Sampler):
    def __iter__(self):
        return iter(range(50))

    def __len__(self):
        return 50


ORDERS = {
    "shuffle": ({"shuffle": True}, None, "which shuffles. Make it with shuffle=False"),
    "drop_last": (
        {"batch_size": 8, "drop_last": True},
        "drops the last 2 of 50 samples. Make it with drop_last=False",
        "drops the last 2 of 50 samples. Make it with drop_last=False",
    ),
    "nothing to drop": ({"batch_size": 10, "drop_last": True}, None, None),
    "in order": ({"batch_size": 8}, None, None),
    "ready batches": ({"batch_size": None}, None, None),
    "a range": ({"sampler": range(50)}, None, None),
    "certain rows": (
        {"sampler": SubsetRandomSampler(range(10))},
        None,
        r"shuffles the samples of its SubsetRandomSampler\. Pass torch\.utils\.data\.Subset",
    ),
    "some rows": (
        {"sampler": RandomSampler(range(50), num_samples=20)},
        "draws 20 of 50 samples at random, .* repeated. Leave its sampler out",
        "draws 20 of 50 samples at random, .* repeated. Leave its sampler out",
    ),
    "weights": (
        {"sampler": WeightedRandomSampler([1.0] * 50, 50)},
        "draws 50 of 50 samples at random",
        "draws 50 of 50 samples at random",
    ),
    "a sampler of one's own": (
        {"sampler": Foreign()},
        None,
        r"samples that its \S*Foreign names, which may be in any order. Pass the data set",
    ),
    "batches of one's own": ({"batch_sampler": [[3, 2], [1]]}, None, "that its list names"),
    "torch's batches": ({"batch_sampler": BatchSampler(range(50), 8, False)}, None, None),
    "torch's batches without the last": (
        {"batch_sampler": BatchSampler(range(50), 8, True)},
        "drops the last 2 of 50",
        "drops the last 2 of 50",
    ),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("in_order", [False, True], ids=["evaluate", "predict"])
def test_a_loader_of_ones_own_is_taken_and_its_order_told_where_it_matters(xy, name, in_order):
    options, *faults = ORDERS[name]
    loader = DataLoader(TensorDataset(*xy), **options)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert eval_loader(loader, in_order=in_order) is loader
    assert len(seen) == (faults[in_order] is not None)
    for each in seen:
        assert each.category is DataWarning
        assert re.search(faults[in_order], str(each.message))
        says = "predict gives" if in_order else "evaluate measures"
        assert str(each.message).startswith(f"{says} what its DataLoader does, which")


def test_a_loader_of_tensors_or_a_stream_is_told_apart_in_the_same_way(xy):
    for options, fault in (
        ({"shuffle": True}, "which shuffles"),
        ({"drop_last": True}, "drops the last 18 of 50"),
    ):
        with pytest.warns(DataWarning, match=fault):
            eval_loader(as_dataloader(xy, **options), in_order=True)
    for loader in (as_dataloader(xy), DataLoader(Stream(), drop_last=True)):
        assert eval_loader(loader, in_order=True) is loader


def test_a_fits_options_about_order_are_for_training_alone(xy):
    options = {"batch_size": 20, "shuffle": True, "drop_last": True, "generator": torch.Generator()}
    train, valid = loaders(xy, xy, options)
    assert (len(train), len(valid)) == (2, 3)
    assert not valid.shuffle
    assert valid.generator is None
    assert loaders(xy, None, options)[1] is None


def test_a_fits_options_serve_the_loader_that_is_made(xy):
    loader = DataLoader(TensorDataset(*xy))
    train, valid = loaders(xy, loader, {"batch_size": 2})
    assert (train.batch_size, valid) == (2, loader)
    train, valid = loaders(loader, xy, {"batch_size": 2})
    assert (train, valid.batch_size) == (loader, 2)
    assert loaders(xy, loader)[1] is loader
    for other in (None, loader):
        with pytest.raises(ArgumentError, match="do not apply to a DataLoader"):
            loaders(loader, other, {"batch_size": 2})


def test_options_about_order_beside_a_loader_have_no_effect_which_is_told(xy):
    loader = DataLoader(TensorDataset(*xy))
    with pytest.warns(DataWarning, match=r"^shuffle in .* no effect\. Give it to the loader\."):
        _, valid = loaders(loader, xy, {"batch_size": 2, "shuffle": True})
    assert (valid.batch_size, valid.shuffle) == (2, False)


@pytest.mark.parametrize("name", ["sampler", "batch_sampler"])
def test_a_sampler_beside_a_fraction_is_refused(xy, name):
    with pytest.raises(ArgumentError, match=f"^{name} names rows of all the data.*random_split"):
        loaders(xy, 0.2, {name: range(50)})
    assert loaders(xy, 0.2, {name: None})[1] is not None


@pytest.mark.parametrize("kind", ["tensors", "data set"])
def test_shuffle_false_keeps_the_order_of_what_a_fraction_leaves(xy, kind):
    parts = loaders(xy if kind == "tensors" else Squares(50), 0.2, {"shuffle": False})
    seen = [torch.cat([y for _, y in part]).tolist() for part in parts]
    assert [len(each) for each in seen] == [40, 10]
    assert all(each == sorted(each) for each in seen)


def test_dataloader_options_are_a_mapping(xy):
    with pytest.raises(ArgumentTypeError, match="dataloader_options is of type int"):
        train_loader(xy, 64)


def test_an_error_in_valid_data_says_so(xy):
    with pytest.raises(DataError) as caught:
        loaders(xy, (xy[0], xy[1][:3]))
    assert caught.value.__notes__ == ["in valid_data"]


@pytest.mark.parametrize("kind", ["tensors", "arrays", "dataset", "tensor dataset", "subset"])
def test_a_fraction_is_held_back_at_random_and_nothing_is_lost(xy, kind):
    source = {
        "tensors": xy,
        "arrays": [part.numpy() for part in xy],
        "dataset": Squares(50),
        "tensor dataset": TensorDataset(*xy),
        "subset": Subset(TensorDataset(*xy), range(50)),
    }[kind]
    torch.manual_seed(5)
    train, valid = loaders(source, 0.3)
    held = torch.cat([x[:, 0] for x, _ in valid]).tolist()
    left = torch.cat([x[:, 0] for x, _ in train]).tolist()
    assert (len(left), len(held)) == (35, 15)
    assert len(set(left) | set(held)) == 50
    assert held != sorted(held)
    torch.manual_seed(5)
    assert torch.cat([x[:, 0] for x, _ in loaders(source, 0.3)[1]]).tolist() == held
    assert torch.cat([x[:, 0] for x, _ in valid]).tolist() == held  # the same in each pass


def test_a_split_is_the_one_that_torch_makes_and_copies_nothing(xy):
    torch.manual_seed(1)
    left, held = split(xy, 0.2)
    torch.manual_seed(1)
    their_left, their_held = torch.utils.data.random_split(TensorDataset(*xy), [40, 10])
    assert [left[i][1].item() for i in range(40)] == [y.item() for _, y in their_left]
    assert [held[i][1].item() for i in range(10)] == [y.item() for _, y in their_held]
    assert left.tensors[0].data_ptr() == xy[0].data_ptr()
    again, rest = split(left, 0.5)
    seen = {again[i][1].item() for i in range(20)} | {rest[i][1].item() for i in range(20)}
    assert seen == {y.item() for _, y in their_left}


def test_a_split_in_hundredths_counts_as_one_would():
    assert len(split(torch.zeros(100), 0.29)[1]) == 29


@pytest.mark.parametrize("fraction", [2, -1, 1.0, 0, True, False, float("nan"), np.float64(1.5)])
def test_a_bad_fraction_is_refused(xy, fraction):
    with pytest.raises(ArgumentError, match="pass a number between 0 and 1"):
        loaders(xy, fraction)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_fraction_must_leave_both_parts_something(fraction):
    with pytest.raises(DataError, match="of 10 samples leaves"):
        loaders(torch.zeros(10), fraction)


@pytest.mark.parametrize(
    "make",
    [
        lambda xy: DataLoader(TensorDataset(*xy)),
        as_dataloader,
        lambda xy: Stream(),
        lambda xy: "text",
    ],
    ids=["DataLoader", "TensorLoader", "IterableDataset", "str"],
)
def test_a_fraction_of_what_cannot_be_split_is_refused(xy, make):
    with pytest.raises(ArgumentError, match=r"random_split\(dataset, \[0.8, 0.2\]\)"):
        loaders(make(xy), 0.2)


def test_an_empty_loader_says_why(xy):
    error = empty(as_dataloader(xy, batch_size=64, drop_last=True), "data")
    assert isinstance(error, DataError)
    assert str(error).startswith("data gave no batch: its 50 samples are fewer than the batch size")
    assert "has no samples." in str(empty(DataLoader([]), "valid_data"))
    assert "spent by an earlier pass" in str(empty(DataLoader(Stream()), "data"))
    assert "spent by an earlier pass" in str(empty([], "data"))
