"""What a user passes as data becomes batches: which, in which order, and what is refused."""

import copy
import functools
import inspect
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from lumbre.data import loaders as data
from lumbre.data.loaders import as_dataloader, eval_loader, loaders, split, train_loader
from lumbre.data.samples import TensorLoader
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
    monkeypatch.setattr(data, "as_dataloader", fresh)
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
    # The wide rows make the chunks that are copied at once shorter than the data.
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
    slow = DataLoader(data.Samples(tree), batch_size=16, shuffle=shuffle)
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


def test_a_batch_of_in_memory_tensors_takes_few_torch_calls(xy):
    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += 1
            return func(*args, **(kwargs or {}))

    tensors = torch.zeros(3200, 4), torch.zeros(3200, dtype=torch.int64)
    for shuffle in (False, True):
        with Count() as count:
            batches = list(as_dataloader(tensors, shuffle=shuffle))
        assert len(batches) == 100
        assert 0 < count.calls < 100


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
    assert pinned == [xy[0].shape, xy[1].shape]


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
        with pytest.raises(ArgumentError, match=r"'batchsize'\. Did you mean 'batch_size'"):
            as_dataloader(value, batchsize=3)
    with pytest.raises(ArgumentError, match=r"'dataset'.*those of torch.utils.data.DataLoader"):
        as_dataloader(torch.zeros(3), dataset=3)


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
    with pytest.warns(DataWarning, match="shuffle=True in dataloader_options has no effect"):
        loader = eval_loader(xy, {"shuffle": True, "batch_size": 20})
    assert torch.equal(torch.cat([y for _, y in loader]), xy[1])
    assert len(eval_loader(xy, {"drop_last": True})) == 1


def test_a_fits_options_about_order_are_for_training_alone(xy):
    options = {"batch_size": 20, "shuffle": True, "drop_last": True, "generator": torch.Generator()}
    train, valid = loaders(xy, xy, options)
    assert (len(train), len(valid)) == (2, 3)
    assert not valid.shuffle
    assert valid.generator is None
    assert loaders(xy, None, options)[1] is None


def test_a_fits_options_are_refused_for_a_loader_and_warned_about_for_a_valid_loader(xy):
    loader = DataLoader(TensorDataset(*xy))
    with pytest.raises(ArgumentError, match="do not apply to a DataLoader"):
        loaders(loader, xy, {"batch_size": 2})
    with pytest.warns(DataWarning, match="do not apply to valid_data") as caught:
        train, valid = loaders(xy, loader, {"batch_size": 2})
    assert len(caught) == 1
    assert valid is loader
    assert train.batch_size == 2
    assert loaders(xy, loader)[1] is loader


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
    error = data.empty(as_dataloader(xy, batch_size=64, drop_last=True), "data")
    assert isinstance(error, DataError)
    assert str(error).startswith("data gave no batch: its 50 samples are fewer than the batch size")
    assert "has no samples." in str(data.empty(DataLoader([]), "valid_data"))
    assert "spent by an earlier pass" in str(data.empty(DataLoader(Stream()), "data"))
    assert "spent by an earlier pass" in str(data.empty([], "data"))
