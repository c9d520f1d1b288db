"""What a tree is after it went through a file: the same, to the bit, or refused by its path."""

import collections
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from lumbre.errors import LumbreError, SaveError
from lumbre.files import form
from lumbre.files import tree as saved_tree
from lumbre.files.tree import QualifiedName

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
    *(torch.complex32, torch.complex64, torch.complex128),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    torch.float8_e8m0fnu,
]
ARRAYS = "? i1 u1 i2 u2 i4 u4 i8 u8 f2 f4 f8 c8 c16 >i4 >f8".split()


def through(tree: Any, folder: Path, kind: str = "checkpoint") -> Any:
    path = folder / "tree.lumbre"
    form.write(path, tree, kind)
    return form.read(path, kind)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(got: Any, put: Any) -> None:
    """Hold two trees to being equal: types, order, the sign of zero and the bits of NaN too."""
    assert type(got) is type(put)
    if isinstance(put, Tensor):
        assert got.dtype == put.dtype
        assert got.shape == put.shape
        assert bits(got) == bits(put)
    elif isinstance(put, np.ndarray | np.generic):
        assert got.dtype.name == put.dtype.name
        assert got.shape == put.shape
        assert got.tobytes() == put.astype(got.dtype).tobytes()
    elif isinstance(put, float):
        assert struct.pack("d", got) == struct.pack("d", put)
    elif isinstance(put, dict):
        assert len(got) == len(put)
        for (key, value), (other, wanted) in zip(got.items(), put.items(), strict=True):
            assert_same(key, other)
            assert_same(value, wanted)
    elif isinstance(put, list | tuple):
        assert len(got) == len(put)
        for value, wanted in zip(got, put, strict=True):
            assert_same(value, wanted)
    else:
        assert got == put


# --- any tree -----------------------------------------------------------------------------------


@st.composite
def raw(draw: st.DrawFn, size: int) -> tuple[bytes, tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    n = math.prod(shape) * size
    return draw(st.binary(min_size=n, max_size=n)), shape


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    data, shape = draw(raw(dtype.itemsize))
    if not data:
        return torch.empty(shape, dtype=dtype)
    tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if dtype is torch.bool:
        tensor = tensor % 2
    tensor = tensor.view(dtype).reshape(shape)
    return tensor.mT if draw(st.booleans()) and tensor.dim() > 1 else tensor


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    dtype = np.dtype(draw(st.sampled_from(ARRAYS)))
    data, shape = draw(raw(dtype.itemsize))
    if dtype.kind == "b":
        data = bytes(byte % 2 for byte in data)
    array = np.frombuffer(data, dtype).reshape(shape)
    # An item of it is a numpy scalar.
    return array if array.shape else array[()]


TEXT = st.text(st.characters(exclude_categories=()), max_size=6) | st.sampled_from(
    [
        "$tensor",
        "$dict",
        "$",
        "dtype",
        "model",
        "a.b",
        "__metadata__",
        "lumbre",
        '"lumbre":"{',
        "\0",
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**62).map(lambda n: n**9)
    | st.binary(min_size=8, max_size=8).map(lambda data: struct.unpack("d", data)[0])
    | st.floats()
    | TEXT
    | st.binary(max_size=6)
    | st.sampled_from([torch.float16, torch.device("cuda:3"), torch.Size([2, 0])])
    | tensors()
    | arrays()
)
KEYS = TEXT | st.integers()
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(TEXT, inner, max_size=3),
    ),
    max_leaves=12,
)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@settings(max_examples=300)
@given(tree=TREES)
def test_any_tree_comes_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, tree: Any
) -> None:
    assert_same(through(tree, tmp_path_factory.getbasetemp()), tree)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@given(tree=TREES)
def test_what_a_file_says_of_itself_is_the_tree_without_tensors(
    tmp_path_factory: pytest.TempPathFactory, tree: Any
) -> None:
    def without(value: Any) -> Any:
        if isinstance(value, Tensor | np.ndarray):
            return None
        if type(value) in (list, tuple):
            return type(value)(without(item) for item in value)
        if type(value) is dict:
            return {key: without(item) for key, item in value.items()}
        return value

    path = tmp_path_factory.getbasetemp() / "tree.lumbre"
    form.write(path, tree, "checkpoint")
    meta = form.read_meta(path)
    assert (meta.kind, meta.format) == ("checkpoint", 1)
    assert_same(meta.tree, without(tree))


def test_the_same_tree_gives_the_same_file(tmp_path: Path) -> None:
    tree = {"model": {"b": torch.ones(3), "a": torch.zeros(2)}, "epoch": 3, "lr": [0.1, None]}
    form.write(tmp_path / "one", tree, "checkpoint")
    form.write(tmp_path / "two", tree, "checkpoint")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_other_kinds_of_dict_come_back_as_dicts_and_counters_as_counters(tmp_path: Path) -> None:
    tree = [
        collections.OrderedDict(b=1, a=2),
        collections.defaultdict(list, {3: [4]}),
        collections.Counter({4: 2, "x": -1}),
    ]
    got = through(tree, tmp_path)
    assert [type(each) for each in got] == [dict, dict, collections.Counter]
    assert got == tree
    assert list(got[0]) == ["b", "a"]


# --- tensors ------------------------------------------------------------------------------------


def test_tensors_are_named_by_their_path(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {0: {"step": torch.ones(())}}
    tree = {"model": model.state_dict(), "opt": {"state": state}, "seen": (torch.ones(1),)}
    form.write(tmp_path / "net.lumbre", tree, "checkpoint")
    with safe_open(tmp_path / "net.lumbre", "pt") as file:
        names = {f"model.{name}" for name in model.state_dict()}
        assert set(file.keys()) == names | {"opt.state.0.step", "seen.0"}
        assert torch.equal(file.get_tensor("model.0.weight"), model[0].weight)


def test_paths_that_read_alike_get_names_of_their_own(tmp_path: Path) -> None:
    tree = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, 1: {"x": torch.full((1,), 2.0)}}
    tree |= {"1": {"x": torch.full((1,), 3.0)}, "\ud800": torch.ones(2), "?": torch.zeros(2)}
    assert_same(through(tree, tmp_path), tree)
    assert_same(through(torch.ones(2), tmp_path), torch.ones(2))


def test_tied_weights_are_stored_once_and_come_back_as_one(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.randn(50, 40))
    tree = {"in": weight, "out": weight.detach(), "flat": weight.detach().view(-1)}
    got = through(tree, tmp_path)
    assert got["in"] is got["out"]
    assert torch.equal(got["flat"], weight.view(-1))
    assert got["flat"].data_ptr() != got["in"].data_ptr()
    with safe_open(tmp_path / "tree.lumbre", "pt") as file:
        assert set(file.keys()) == {"in", "flat"}


def test_overlapping_views_are_stored_whole_and_come_back_apart(tmp_path: Path) -> None:
    base = torch.arange(10.0)
    tree = {"all": base, "left": base[:6], "right": base[4:], "none": base[3:3], "step": base[::2]}
    tree |= {"same": base.expand(2, 10), "turned": base.reshape(2, 5).T}
    got = through(tree, tmp_path)
    assert_same(got, tree)
    got["left"].zero_()
    assert torch.equal(got["all"], base)


def test_a_snapshot_is_of_its_moment(tmp_path: Path) -> None:
    tensor, flipped = torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(2, 3).t()
    array, tree = np.arange(3), {"epoch": 1, "seen": [1]}
    snapshot = form.Snapshot(tree | {"t": tensor, "f": flipped, "a": array}, "checkpoint")
    for each in (tensor, flipped, array):
        each[:] = 0
    tree["seen"].append(2)
    snapshot.write(tmp_path / "file")
    read = form.read(tmp_path / "file")
    assert (read["epoch"], read["seen"], read["a"].tolist()) == (1, [1], [0, 1, 2])
    assert torch.equal(read["t"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(read["f"], torch.arange(6.0).reshape(2, 3).t())


def test_what_comes_back_is_plain_on_the_cpu_and_its_own(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.ones(3))
    read_only = np.arange(3)
    read_only.flags.writeable = False
    got = through({"w": weight, "b": nn.Buffer(torch.zeros(2)), "n": read_only}, tmp_path)
    assert type(got["w"]) is Tensor
    assert not got["w"].requires_grad
    got["w"] += 1
    got["n"] += 1
    again = form.read(tmp_path / "tree.lumbre")
    assert torch.equal(again["w"], torch.ones(3))
    assert again["n"].tolist() == [0, 1, 2]


def test_values_that_torch_has_not_worked_out_yet_are_worked_out(tmp_path: Path) -> None:
    z = torch.randn(3, dtype=torch.complex64)
    tree = {"conj": z.conj(), "neg": z.conj().imag, "zero": torch._efficientzerotensor((2, 3))}
    got = through(tree, tmp_path)
    assert torch.equal(got["conj"], z.conj().resolve_conj())
    assert torch.equal(got["neg"], -z.imag)
    assert torch.equal(got["zero"], torch.zeros(2, 3))


# --- refusals -----------------------------------------------------------------------------------


class Pair(NamedTuple):
    left: int
    right: int


class Wrapped(Tensor):
    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError


def nested() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: object(), "is of type object; files hold tensors, arrays, None, bool"),
        (lambda: {1, 2}, "is a set: save a sorted list of it"),
        (lambda: Pair(1, 2), r"a tuple of another class: save tuple\(...\) of it"),
        (lambda: np.str_("a"), r"is a numpy.str_, a str of another class: save str\(...\)"),
        (lambda: nn.ReLU, "is <class 'torch.nn.modules.activation.ReLU'>, which is code"),
        (lambda: lambda: 1, "which is code"),
        (lambda: QualifiedName("a.B"), "is of type lumbre.files.tree.QualifiedName"),
        (lambda: 1j, "is of type complex"),
        (lambda: np.longdouble(1), "is a numpy.longdouble of dtype"),
        (lambda: np.array(["a"]), "has the dtype <U1; files hold numbers and bools"),
        (lambda: np.array([object()]), "has the dtype object"),
        (lambda: np.ma.array([1]), "is a numpy.ma.MaskedArray of dtype int64"),
        (lambda: {(1, 2): 3}, r"has the key \(1, 2\), a tuple; keys are of type str or int"),
        (lambda: {True: 3}, "has the key True, a bool"),
        (lambda: nested(), "is nested more than 64 levels deep, or contains itself"),
        (lambda: torch.empty(2, device="meta"), r"is on the meta device .*to_empty"),
        (lambda: torch.eye(2).to_sparse(), r"is sparse \(torch.sparse_coo\): save tensor.to_dense"),
        (lambda: torch.eye(2).to_sparse_csr(), r"is sparse \(torch.sparse_csr\)"),
        (
            lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
            "is quantized: save",
        ),
        (
            lambda: torch.nested.nested_tensor([torch.ones(1)]),
            "is a nested tensor: save tensor.unbind",
        ),
        (lambda: nn.LazyLinear(2).weight, "of a lazy module that has seen no batch"),
        (lambda: torch.ones(2).as_subclass(Wrapped), r"Wrapped, which is no plain tensor"),
        (lambda: torch.zeros(2, dtype=torch.uint8).view(torch.bits8), "has the dtype torch.bits8"),
    ],
)
def test_what_cannot_be_saved_is_refused_by_its_path(
    tmp_path: Path, make: Callable[[], Any], reason: str
) -> None:
    tree = {"callbacks": {"Mine": ["fine", {"best": make()}]}}
    with pytest.raises(
        SaveError, match=r"^callbacks\.Mine\.1\.best[\d.]* cannot be saved: it .*" + reason
    ):
        form.check(tree)
    with pytest.raises(TypeError, match=reason) as caught:
        form.write(tmp_path / "new" / "tree.lumbre", tree, "checkpoint")
    assert isinstance(caught.value, LumbreError)
    assert not list(tmp_path.iterdir())


def test_a_check_copies_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("cpu", "clone", "contiguous"):
        monkeypatch.setattr(Tensor, name, lambda *_, name=name: calls.append(name))
    form.check({"w": torch.ones(4, 4).T, "c": torch.ones(2, dtype=torch.complex64)})
    assert not calls


def test_code_is_kept_by_name_among_the_hparams_alone(tmp_path: Path) -> None:
    tree = {"hparams": {"act": nn.ReLU, "deep": [torch.relu, 3]}, "opt_hparams": {"f": math.sqrt}}
    for kind in ("fitted", "checkpoint"):
        got = through(tree, tmp_path, kind)
        assert got["hparams"]["act"] == QualifiedName("torch.nn.modules.activation.ReLU")
        assert got["hparams"]["deep"][0].name.endswith("relu")
        assert got["opt_hparams"] == {"f": QualifiedName("math.sqrt")}
        assert through(got, tmp_path, kind) == got
    with pytest.raises(SaveError, match=r"^hparams\.act cannot be saved"):
        form.check(tree, "weights")
    with pytest.raises(SaveError, match=r"^records\.act cannot be saved"):
        form.check({"records": {"act": nn.ReLU}}, "fitted")


# --- what nobody has encoded --------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"$code": "import os"},
        {"$tuple": 3},
        {"$tuple": [1], "$dict": []},
        {"$tuple": [1], "more": 2},
        {"$dict": [[1]]},
        {"$dict": [[[], 1]]},
        {"$size": ["a"]},
        {"$bytes": "?"},
        {"$int": "0xg"},
        {"$float": "12"},
        {"$float": 3},
        {"$scalar": ["object", "00"]},
        {"$scalar": ["float32", "00"]},
        {"$dtype": "nn"},
        {"$dtype": "_inductor"},
        {"$device": "nowhere"},
        {"$tensor": "w", "dtype": "int64"},
        {"$tensor": "w", "dtype": []},
        {"$tensor": "w", "dtype": "complex64"},
    ],
    ids=str,
)
def test_json_that_is_no_tree_is_an_error(value: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, RuntimeError)):
        saved_tree.decode([value], lambda name: torch.ones(3))
