"""The device and the processes of a run. The meta device stands for an accelerator."""

import collections
import copy
import dataclasses
import pickle
import types
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import lumbre as lb
from lumbre.accelerator import Accelerator, as_accelerator
from lumbre.errors import ArgumentError, ArgumentTypeError


class Pair(NamedTuple):
    x: object
    y: object


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    name: str = "a"
    count: int = dataclasses.field(init=False, default=3)


@dataclasses.dataclass(slots=True)
class Slotted:
    x: torch.Tensor


class Items(list):
    source = None


@pytest.fixture
def meta():
    return Accelerator(device="meta")


# The device


@pytest.mark.parametrize("best", [None, "cuda", "mps"])
def test_the_best_device_is_the_accelerator_that_torch_finds(monkeypatch, best):
    found = None if best is None else torch.device(best)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found)
    assert Accelerator().device == torch.device(best or "cpu")
    assert Accelerator(cpu=True).device == torch.device("cpu")


def test_a_device_may_be_a_string_or_a_device():
    assert Accelerator("cpu").device == torch.device("cpu")
    assert Accelerator(torch.device("meta")).device == torch.device("meta")
    assert Accelerator("cpu", cpu=True).device == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ArgumentError, match=r"cannot be used: .*Leave device out for the best"):
        Accelerator(device)


@pytest.mark.parametrize("device", [True, 1.0, nn.Linear(1, 1)])
def test_a_device_of_another_type_is_refused(device):
    with pytest.raises(ArgumentTypeError, match="expected a string such as"):
        Accelerator(device)


@pytest.mark.parametrize("name", ["cpu", "device_placement"])
@pytest.mark.parametrize("value", ["no", 1, None])
def test_flags_are_true_or_false(name, value):
    with pytest.raises(ArgumentTypeError, match=f"Accelerator: {name} is True or False; got "):
        lb.Accelerator(**{name: value})


def test_cpu_and_another_device_contradict_each_other():
    with pytest.raises(ArgumentError, match="contradict each other"):
        Accelerator("meta", cpu=True)


@pytest.mark.parametrize(("given", "nearest"), [("bf6", "bf16"), ("float61", "float16")])
def test_an_unknown_precision_names_the_nearest(given, nearest):
    with pytest.raises(ArgumentError, match=f'{given}.*Did you mean "{nearest}"'):
        Accelerator(mixed_precision=given)
    for other in (torch.float32, "fp8", 16, ["bf16"]):
        with pytest.raises(ArgumentError, match="expected None, 'no', 'bf16' or 'fp16'"):
            Accelerator(mixed_precision=other)


@pytest.mark.parametrize(
    ("name", "dtype", "others"),
    [("bf16", torch.bfloat16, ["bfloat16"]), ("fp16", torch.float16, ["float16"])],
)
def test_a_precision_goes_by_torchs_names_too_as_in_mixed_precision(name, dtype, others):
    for given in (name, dtype, *others):
        assert Accelerator(cpu=True, mixed_precision=given).mixed_precision == name
        assert Accelerator(cpu=True).in_precision(given).mixed_precision == name
        assert lb.callbacks.MixedPrecision(given).dtype is dtype


def test_an_accelerator_is_read_only_and_can_be_copied():
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    with pytest.raises(AttributeError, match="make another to change device"):
        accelerator.device = torch.device("meta")
    with pytest.raises(AttributeError, match="read-only"):
        del accelerator.device
    for other in (copy.deepcopy(accelerator), pickle.loads(pickle.dumps(accelerator))):  # noqa: S301
        assert repr(other) == repr(accelerator)
    assert repr(accelerator) == (
        "Accelerator(device='cpu', device_placement=True, mixed_precision='bf16')"
    )


def test_what_a_run_is_given_becomes_an_accelerator():
    accelerator = Accelerator(cpu=True)
    assert as_accelerator(accelerator) is accelerator
    assert isinstance(as_accelerator(None), Accelerator)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Accelerator, "the class Accelerator; expected an lb.Accelerator: pass an instance"),
        ("cuda", r"'cuda'; expected an lb.Accelerator: pass lb.Accelerator\('cuda'\)"),
        (types.SimpleNamespace(), "a types.SimpleNamespace; expected an lb.Accelerator"),
    ],
    ids=["class", "string", "object"],
)
def test_what_is_no_accelerator_is_refused(value, message):
    with pytest.raises(ArgumentTypeError, match=message):
        as_accelerator(value)


# Placing


def test_only_what_has_somewhere_to_go_is_placed(meta):
    assert meta.places
    assert not Accelerator(cpu=True).places
    assert not Accelerator("meta", device_placement=False).places


def test_the_model_is_moved_in_place_unless_placement_is_off(meta):
    model = nn.Linear(2, 2)
    assert Accelerator("meta", device_placement=False).prepare_model(model) is model
    assert model.weight.device.type == "cpu"
    assert meta.prepare_model(model) is model
    assert model.weight.device.type == "meta"


def test_batches_of_any_nesting_are_placed_and_keep_their_types(meta):
    leaf = object()
    batch = {
        "list": [torch.zeros(2), (torch.zeros(2, dtype=torch.int8), "text")],
        "named": Pair(torch.zeros(2), {"a": torch.zeros(2)}),
        "ordered": collections.OrderedDict(a=torch.zeros(2)),
        "default": collections.defaultdict(list, a=torch.zeros(2)),
        "frozen": Frozen(torch.zeros(2), name="b"),
        "slotted": Slotted(torch.zeros(2)),
        "packed": pack_sequence([torch.zeros(3), torch.zeros(2)]),
        "items": Items([torch.zeros(2)]),
        "proxy": types.MappingProxyType({"a": torch.zeros(2)}),
        "size": torch.Size([2]),
        "leaves": [1, None, leaf, torch.float32, Frozen],
    }
    batch["items"].source = "disk"
    placed = meta.place(batch)

    assert [type(value) for value in placed.values()] == [type(value) for value in batch.values()]
    tensors = [
        placed["list"][0],
        placed["list"][1][0],
        placed["named"].x,
        placed["named"].y["a"],
        placed["ordered"]["a"],
        placed["default"]["a"],
        placed["frozen"].x,
        placed["slotted"].x,
        placed["packed"].data,
        placed["items"][0],
        placed["proxy"]["a"],
    ]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert placed["list"][1][1] == "text"
    assert placed["list"][1][0].dtype == torch.int8
    assert placed["default"].default_factory is list
    assert (placed["frozen"].name, placed["frozen"].count) == ("b", 3)
    assert placed["items"].source == "disk"
    assert placed["leaves"] == batch["leaves"]
    # What the loader made is left as it was.
    assert batch["frozen"].x.device.type == "cpu"
    assert batch["items"][0].device.type == "cpu"
    assert batch["default"]["a"].device.type == "cpu"


def test_an_object_that_can_be_moved_is_asked_to(meta):
    class Graph:
        device = "cpu"

        def to(self, device):
            other = Graph()
            other.device = device
            return other

    assert meta.place([Graph()])[0].device == torch.device("meta")


@pytest.mark.parametrize(
    ("kind", "pinned", "waits"),
    [("cuda", True, False), ("cuda", False, False), ("mps", True, False), ("mps", False, True)],
)
def test_a_copy_waits_only_where_it_must(monkeypatch, kind, pinned, waits):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device(kind))
    accelerator = Accelerator()
    calls = []
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda _: pinned)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda _, device, non_blocking: calls.append((device, non_blocking))
    )
    accelerator.place(torch.zeros(2))
    assert calls == [(torch.device(kind), not waits)]


def test_predictions_come_to_the_cpu_without_their_graph():
    weight = torch.ones(2, requires_grad=True)
    tree = Accelerator(cpu=True).to_cpu({"pred": [2 * weight, None]})
    assert not tree["pred"][0].requires_grad
    assert tree["pred"][0].device.type == "cpu"
    assert tree["pred"][1] is None


# Precision, backward and step


@pytest.mark.parametrize(
    ("precision", "dtype"), [(None, torch.float32), ("no", torch.float32), ("bf16", torch.bfloat16)]
)
def test_autocast_gives_the_precision_asked_for(precision, dtype):
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    with accelerator.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
    assert accelerator.autocasts == (dtype != torch.float32)
    assert accelerator.scaler() is None


def test_backward_can_be_kept_to_some_leaves():
    a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    Accelerator(cpu=True).backward(b(a(torch.ones(1, 1))).sum(), inputs=list(b.parameters()))
    assert a.weight.grad is None
    assert b.weight.grad is not None


def test_fp16_has_a_new_scaler_for_whoever_asks():
    accelerator = Accelerator(cpu=True, mixed_precision="fp16")
    one, other = accelerator.scaler(), accelerator.scaler()
    assert one is not None
    assert one is not other


def test_another_precision_makes_another_accelerator():
    plain = Accelerator(cpu=True, device_placement=False)
    half = plain.in_precision("bf16")
    assert (half.mixed_precision, half.autocasts, half.device_placement) == ("bf16", True, False)
    assert (plain.mixed_precision, plain.autocasts) == ("no", False)
    with pytest.raises(lb.errors.ArgumentError, match='Did you mean "bf16"'):
        plain.in_precision("bf6")


def test_a_backward_of_a_subclass_is_asked_for_each_loss():
    class Own(Accelerator):
        def backward(self, loss, inputs=None):
            seen.append(float(loss.detach()))
            super().backward(loss, inputs)

    seen = []
    data = [torch.ones(4, 1), torch.zeros(4, 1)]
    trainable = lb.setup(nn.Linear(1, 1), nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)
    trainable.fit(data, epochs=3, accelerator=Own(cpu=True), verbose=False)
    assert len(seen) == 3
    assert seen[2] < seen[0]


# Processes


def test_one_process_is_the_main_one_and_waits_for_nobody():
    accelerator = Accelerator(cpu=True)
    assert (accelerator.is_main, accelerator.rank, accelerator.world_size) == (True, 0, 1)
    state = torch.ones(3)
    assert accelerator.reduce(state) is state
    accelerator.wait()


def test_the_users_own_module_is_found_inside_its_wrappers():
    model = nn.Linear(2, 2)
    accelerator = Accelerator(cpu=True)
    assert accelerator.unwrap(model) is model
    wrapped = torch.compile(nn.DataParallel(torch.compile(model)))
    assert accelerator.unwrap(wrapped) is model
