"""Which memory may be read as it lies, and what becomes of every other tensor."""

import gc
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from lumbre._core import NativeMetric
from lumbre.metrics import MAE, Accuracy

DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool),
]


class Foreign(torch.Tensor):
    pass


class OwnParameter(nn.Parameter):
    pass


def is_read(tensor):
    """Whether Rust reads it where it lies, whichever of the two tensors it is."""
    other = torch.zeros(tensor.shape)
    reads = {
        NativeMetric("MAE").update(tensor, other),
        NativeMetric("MAE").update(other, tensor),
    }
    assert len(reads) == 1
    return reads.pop()


def total(tensor):
    """The sum of the absolute values, as a metric sees them."""
    metric = MAE()
    metric.update(tensor, torch.zeros(tensor.shape))
    return metric.compute() * tensor.numel()


# Read where they lie


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_plain_memory_is_read_whatever_its_dtype(dtype):
    tensor = torch.tensor([0, 1, 1, 0, 1]).to(dtype)
    assert is_read(tensor)
    assert total(tensor) == 3


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3, requires_grad=True),
        torch.ones(3, requires_grad=True) * 1,
        nn.Parameter(torch.ones(3)),
        torch.ones(6)[::2],
        torch.ones(3, 2).T,
        torch.ones(1).expand(3),
        torch.ones(4, 3)[2],
        torch.ones(3).detach(),
        torch.ones(()),
        torch.ones(0),
        torch.ones(2, 0, 3),
        torch.complex(torch.ones(3), torch.ones(3)).imag,
        torch.view_as_real(torch.complex(torch.ones(3), torch.zeros(3))),
    ],
    ids=lambda tensor: f"{tuple(tensor.shape)}, {tensor.stride()}",
)
def test_views_and_leaves_are_read(tensor):
    assert is_read(tensor)
    if tensor.numel():
        assert total(tensor) == tensor.detach().sum()


def test_what_is_read_is_the_view_and_not_what_lies_around_it():
    base = torch.arange(100.0).reshape(10, 10)
    for view in (base[2:5, 3:9:2], base.T[1:7:3], base.diagonal(), base[:, 4:5].expand(10, 7)):
        assert is_read(view)
        assert total(view) == view.sum()


def test_reading_leaves_no_trace_on_the_tensor():
    tensor = (torch.ones(3, requires_grad=True) * 2).detach()
    version, seen = tensor._version, weakref.ref(tensor)
    metric = MAE()
    metric.update(tensor, tensor)
    assert tensor._version == version
    assert tensor.data_ptr() == seen().data_ptr()
    gc.disable()
    try:
        del tensor
        assert seen() is None, "the metric keeps no tensor"
    finally:
        gc.enable()


def test_an_inference_tensor_is_read():
    with torch.inference_mode():
        tensor = torch.ones(3) * 2
    assert is_read(tensor)
    assert total(tensor) == 6


# Read by torch ops, for memory does not say what they hold


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_the_negative_bit_is_not_lost(dtype):
    z = torch.complex(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -4.0])).to(dtype)
    lazy = z.conj().imag
    single = (lazy[:1], lazy[1], lazy[1:].squeeze(), lazy[:1].expand(2))
    for tensor in (lazy, *single, lazy.detach(), nn.Parameter(lazy), lazy.as_strided((1,), (1,))):
        assert tensor.is_neg(), "this torch keeps the sign as a bit"
        assert not is_read(tensor)
        metric = MAE()
        metric.update(tensor, tensor.resolve_neg())
        metric.update(tensor.resolve_neg(), tensor)
        assert metric.compute() == 0
    assert is_read(lazy.resolve_neg())
    metric = Accuracy()
    metric.update(lazy[None], torch.tensor([1]))
    assert metric.compute() == 1


def test_the_negative_bit_is_seen_of_a_view_that_lies_as_a_tensor_of_its_own_would():
    r = torch.tensor([2.0, 3.0, 4.0, 5.0])
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            lazy = torch.complex(r, r).conj().imag.as_strided((4, 1), (1, 1), 0)
            assert lazy.is_contiguous()
            assert lazy.data_ptr() % 8 == 0
            for view in (lazy, lazy[0, 0], lazy.view(2, 2)):
                assert view.is_neg()
                assert not is_read(view)
                assert total(view - view.resolve_neg()) == 0
                for pair in ((view, view.resolve_neg()), (view.resolve_neg(), view)):
                    metric = MAE()
                    metric.update(*pair)
                    assert metric.compute() == 0


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_negative_bit_is_seen_where_autograd_keeps_no_account_of_views(mode):
    r = torch.tensor([2.0, 3.0, 4.0, 5.0])
    with mode():
        lazy = torch.complex(r, r).conj().imag
        for view in (lazy.data, lazy.detach()[1:], lazy.data[2], lazy.reshape(2, 2).detach()):
            assert view.is_neg()
            assert not is_read(view)
            assert total(view - view.resolve_neg()) == 0


def test_torch_gives_no_integer_the_negative_bit():
    lazy = torch.complex(torch.ones(2), torch.ones(2)).conj().imag
    assert lazy.is_neg()
    for made in (lazy.int(), lazy.to(torch.uint8), torch.empty_like(lazy, dtype=torch.int64)):
        assert not made.is_neg(), "or Rust, which does not ask integers, would lose a sign"
    with pytest.raises(RuntimeError, match="negative bit"):
        lazy.view(torch.int32)


def test_a_zero_tensor_has_no_memory():
    zero = torch._efficientzerotensor((2, 3))
    assert not is_read(zero)
    assert total(zero) == 0
    metric = Accuracy()
    metric.update(zero, torch.tensor([0, 1]))
    assert metric.compute() == 0.5


@pytest.mark.parametrize("make", [lambda x: x.as_subclass(Foreign), OwnParameter])
def test_a_subclass_is_asked_and_not_read(make):
    tensor = make(torch.tensor([1.0, -2.0]))
    assert type(tensor) not in (torch.Tensor, nn.Parameter)
    assert not is_read(tensor)
    assert total(tensor) == 3


def test_a_subclass_may_hold_something_else_than_its_memory():
    class Doubled(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            with torch._C.DisableTorchFunctionSubclass():
                args = tuple(x.as_subclass(torch.Tensor) * 2 if type(x) is cls else x for x in args)
                return func(*args, **(kwargs or {}))

    assert total(torch.ones(3).as_subclass(Doubled)) > 3


@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_mkldnn"])
def test_another_layout_is_made_dense(layout):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR")  # torch calls it a beta
        tensor = getattr(torch.tensor([[0.0, 2.0], [3.0, 0.0]]), layout)()
    assert not is_read(tensor)
    assert total(tensor) == 5
    metric = Accuracy()
    metric.update(tensor, torch.tensor([1, 0]))
    assert metric.compute() == 1


def test_a_quantized_tensor_is_dequantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in torch, and still to be met
        tensor = torch.quantize_per_tensor(torch.tensor([1.0, -2.0]), 0.5, 10, torch.quint8)
    assert not is_read(tensor)
    assert total(tensor) == 3


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_a_dtype_that_rust_does_not_know_goes_through_torch(dtype):
    tensor = torch.tensor([[0.0, 2.0], [4.0, 0.0]]).to(dtype)
    assert not is_read(tensor)
    assert total(tensor) == 6
    metric = Accuracy()
    metric.update(tensor, torch.tensor([1, 0]))
    assert metric.compute() == 1


def test_a_tensor_inside_a_transform_is_not_read():
    reads = []

    def look(x):
        reads.append(NativeMetric("MAE").update(x, torch.zeros(x.shape)))
        return x.sum()

    for transform in (torch.func.grad, torch.vmap, torch.func.functionalize):
        transform(look)(torch.ones(2, 3) if transform is torch.vmap else torch.ones(3))
    assert reads == [False, False, False]


# Refused, by torch, when the value is read: there is no number to be had


def test_a_fake_tensor_has_no_value():
    with FakeTensorMode():
        fake = torch.ones(3)
        metric = MAE()
        assert not NativeMetric("MAE").update(fake, fake)
        metric.update(fake, fake)
        with pytest.raises(DataDependentOutputException):
            metric.compute()


def test_a_meta_tensor_has_no_value():
    metric = MAE()
    metric.update(torch.ones(3, device="meta"), torch.ones(3))
    assert not is_read(torch.ones(3, device="meta"))
    with pytest.raises(NotImplementedError, match="meta"):
        metric.compute()


@pytest.mark.parametrize("thing", [None, 1, 1.0, "x", [1.0], object(), torch.Tensor, nn.Linear])
def test_what_is_no_tensor_is_not_read(thing):
    assert not NativeMetric("MAE").update(thing, torch.ones(1))
    assert not NativeMetric("MAE").update(torch.ones(1), thing)


def test_one_tensor_that_is_not_read_leaves_the_other_uncounted():
    metric = NativeMetric("MAE")
    assert not metric.update(torch.ones(3), torch.ones(3).as_subclass(Foreign))
    assert metric.state == bytes(24)
