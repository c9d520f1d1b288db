"""mixup and MixupLoss: what each sample is mixed with, and what the loss of a mixture is."""

import copy
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lumbre as lb
from lumbre.errors import ArgumentError, ArgumentTypeError, ShapeError
from lumbre.nn import MixedTarget, MixupLoss, mixup

N, CLASSES = 6, 4
PRED = torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(1))
FIRST = torch.tensor([0, 1, 2, 3, 0, 1])
ORDER = torch.tensor([3, 0, 5, 1, 2, 4])
WEIGHTS = torch.tensor([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 4.0])


def mixed(weight: Any = WEIGHTS, first: Tensor = FIRST) -> MixedTarget:
    return MixedTarget(first, first[ORDER], weight)


# -- mixup ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(N,), (N, 3), (N, 2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_each_sample_is_mixed_with_one_of_its_batch(shape: Any, dtype: torch.dtype) -> None:
    x, y = torch.randn(shape, dtype=dtype), torch.arange(N)
    out, target = mixup(x, y, WEIGHTS)
    assert torch.equal(target.first, y)
    assert target.weight is WEIGHTS
    # The numbers of the samples tell with whom each one was mixed: everybody was once.
    order = target.second
    assert torch.equal(order.sort().values, y)
    weight = WEIGHTS.to(dtype).reshape(N, *[1] * (len(shape) - 1))
    torch.testing.assert_close(out, weight * x + (1 - weight) * x[order])
    assert out.dtype == dtype


@pytest.mark.parametrize("weight", [0.25, torch.tensor(0.25)])
def test_one_weight_holds_for_the_whole_batch(weight: Any) -> None:
    x, y = torch.randn(N, 3), torch.arange(N)
    out, (_, order, _) = mixup(x, y, weight)
    torch.testing.assert_close(out, 0.25 * x + 0.75 * x[order])


@pytest.mark.parametrize("weight", [1, 1.0, torch.ones(N)])
def test_a_weight_of_one_leaves_the_bits_alone(weight: Any) -> None:
    x = torch.randn(N, 3)
    assert torch.equal(mixup(x, torch.arange(N), weight)[0], x)


def test_a_batch_of_one_is_mixed_with_itself() -> None:
    x, y = torch.randn(1, 3), torch.tensor([2])
    out, target = mixup(x, y, torch.tensor([0.5]))
    torch.testing.assert_close(out, x)
    assert torch.equal(target.second, y)


def test_trees_are_mixed_leaf_by_leaf_in_one_order() -> None:
    numbers = torch.arange(N)
    x = {"image": torch.randn(N, 2), "rest": (numbers.double(), [numbers.float()])}
    y = {"a": numbers, "b": [numbers.float()]}
    out, target = mixup(x, y, 0.5)
    order = target.second["a"]
    assert torch.equal(target.second["b"][0], order.float())
    torch.testing.assert_close(out["image"], (x["image"] + x["image"][order]) / 2)
    torch.testing.assert_close(out["rest"][0], (numbers + order) / 2, check_dtype=False)
    assert isinstance(out["rest"], tuple)
    assert isinstance(out["rest"][1], list)


def test_a_target_within_the_input_stays_but_a_target_that_is_the_input_is_mixed() -> None:
    x = torch.randn(N, 2)
    label = torch.arange(N)
    assert mixup({"x": x, "label": label}, label, 0.5)[0]["label"] is label
    out, target = mixup(x, x, 0.5)
    assert not torch.equal(out, x)
    assert target.first is x


def test_the_order_comes_from_torchs_generator() -> None:
    outs = []
    for _ in range(2):
        torch.manual_seed(3)
        outs.append(mixup(torch.arange(100.0), torch.arange(100), 0.0)[0])
    assert torch.equal(*outs)
    assert not torch.equal(outs[0], mixup(torch.arange(100.0), torch.arange(100), 0.0)[0])


@pytest.mark.parametrize(
    ("x", "y", "weight", "error", "message"),
    [
        (torch.arange(N), FIRST, 0.5, ArgumentTypeError, r"x is torch.int64. Make it so, x.float"),
        ({"ids": FIRST.clone()}, FIRST, 0.5, ArgumentTypeError, r"x\['ids'\] is torch.int64"),
        (["a", "b"], FIRST, 0.5, ArgumentTypeError, r"x\[0\] is of type str. Leave it out"),
        (torch.randn(N), None, 0.5, ArgumentTypeError, "y is of type NoneType"),
        (
            nn.utils.rnn.pack_sequence([torch.ones(2), torch.ones(1)]),
            FIRST[:2],
            0.5,
            ArgumentTypeError,
            "x is of type PackedSequence",
        ),
        (torch.randn(5), FIRST, 0.5, ShapeError, r"shapes x \(5,\), y \(6,\)"),
        (torch.tensor(1.0), torch.tensor(1.0), 0.5, ShapeError, r"first dimension is the batch"),
        (torch.randn(N), FIRST, torch.ones(5), ShapeError, r"shape \(6,\).*got the shape \(5,\)"),
        (torch.randn(N), FIRST, torch.ones(N, 1), ShapeError, r"got the shape \(6, 1\)"),
        (torch.randn(N), FIRST, 1.5, ArgumentError, "from 0 to 1, or a tensor of them; got 1.5"),
        (torch.randn(N), FIRST, True, ArgumentError, "got True"),
        (torch.randn(N), FIRST, "half", ArgumentError, "got 'half'"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    x: Any, y: Any, weight: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mixup(x, y, weight)


# -- MixupLoss -----------------------------------------------------------------------------------


def named(loss: Any) -> str:
    """A name without an address in it: all processes of a run call a test the same."""
    return re.sub(r" at 0x\w+", "", str(loss))


def own_mean(pred: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(pred, target, weight=CLASS_WEIGHTS)


def each_sample(pred: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(pred, target, reduction="none")


ANY_LOSS: list[Callable[..., Tensor]] = [
    *(nn.CrossEntropyLoss(CLASS_WEIGHTS, reduction=r) for r in ("mean", "sum", "none")),
    nn.CrossEntropyLoss(ignore_index=2, label_smoothing=0.1),
    F.cross_entropy,
    own_mean,
    each_sample,
]


@pytest.mark.parametrize("loss", ANY_LOSS, ids=named)
def test_of_a_plain_target_it_is_the_loss_itself(loss: Any) -> None:
    assert torch.equal(MixupLoss(loss)(PRED, FIRST), loss(PRED, FIRST).mean())


def test_a_plain_target_that_is_a_tuple_is_no_mixture() -> None:
    seen = []
    MixupLoss(lambda pred, target: seen.append(target))(PRED, (FIRST, FIRST, 0.5))
    assert len(seen) == 1


@pytest.mark.parametrize("loss", ANY_LOSS, ids=named)
@pytest.mark.parametrize("weight", [0.3, torch.tensor(0.3)])
def test_with_one_weight_it_is_between_the_losses_of_both_targets(loss: Any, weight: Any) -> None:
    got = MixupLoss(loss)(PRED, mixed(weight))
    due = 0.3 * loss(PRED, FIRST).mean() + 0.7 * loss(PRED, FIRST[ORDER]).mean()
    torch.testing.assert_close(got, due)


def by_hand(loss: nn.Module, target: MixedTarget, pred: Tensor = PRED) -> Tensor:
    """Sum and mean of a cross entropy over 2 n samples, each counting with its share."""
    weight: Any = target.weight
    total, counted = torch.zeros(()), torch.zeros(())
    ignored, weights = loss.ignore_index, loss.weight
    for i in range(len(weight)):
        for y, share in ((target.first[i], weight[i]), (target.second[i], 1 - weight[i])):
            for at in range(y.numel()):
                one = y.reshape(-1)[at]
                if one == ignored:
                    continue
                scores = pred[i] if y.ndim == 0 else pred[i].reshape(CLASSES, -1)[:, at]
                of_class = 1.0 if weights is None else weights[one]
                whole = copy.copy(loss)
                whole.reduction = "sum"
                total = total + share * whole(scores[None], one[None])
                counted = counted + share * of_class
    return total if loss.reduction == "sum" else total / counted


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("class_weights", [None, CLASS_WEIGHTS])
@pytest.mark.parametrize("options", [{}, {"ignore_index": 2}, {"label_smoothing": 0.2}])
def test_with_a_weight_for_each_sample_it_is_the_weighted_mean_of_all(
    reduction: str, class_weights: Any, options: Any
) -> None:
    loss = nn.CrossEntropyLoss(class_weights, reduction=reduction, **options)
    torch.testing.assert_close(MixupLoss(loss)(PRED, mixed()), by_hand(loss, mixed()))
    assert loss.reduction == reduction


def test_it_is_right_for_a_target_in_every_pixel() -> None:
    pred, first = torch.randn(N, CLASSES, 2, 3), torch.randint(0, CLASSES, (N, 2, 3))
    loss = nn.CrossEntropyLoss(CLASS_WEIGHTS, ignore_index=1)
    torch.testing.assert_close(
        MixupLoss(loss)(pred, mixed(first=first)), by_hand(loss, mixed(first=first), pred)
    )


@pytest.mark.parametrize("weights", [torch.ones(N), torch.full((N,), 0.6)])
@pytest.mark.parametrize("kind", ["module", "nll", "function", "partial"])
def test_equal_weights_give_what_one_weight_gives(weights: Tensor, kind: str) -> None:
    pred = PRED.log_softmax(1)
    loss: Any = {
        "module": nn.CrossEntropyLoss(CLASS_WEIGHTS, ignore_index=3),
        "nll": nn.NLLLoss(CLASS_WEIGHTS, ignore_index=3),
        "function": F.cross_entropy,
        "partial": partial(F.cross_entropy, weight=CLASS_WEIGHTS, ignore_index=3),
    }[kind]
    got = MixupLoss(loss)(pred, mixed(weights))
    torch.testing.assert_close(got, MixupLoss(loss)(pred, mixed(float(weights[0]))))


def test_class_probabilities_are_divided_by_their_number() -> None:
    first = torch.rand(N, CLASSES).softmax(1)
    loss = nn.CrossEntropyLoss(CLASS_WEIGHTS)
    got = MixupLoss(loss)(PRED, mixed(torch.full((N,), 0.6), first))
    torch.testing.assert_close(got, MixupLoss(loss)(PRED, mixed(0.6, first)))


@pytest.mark.parametrize(
    "loss",
    [
        nn.MSELoss(),
        nn.MSELoss(reduction="sum"),
        nn.MSELoss(reduction="none"),
        nn.L1Loss(),
        nn.BCEWithLogitsLoss(pos_weight=torch.rand(CLASSES)),
        nn.KLDivLoss(reduction="batchmean"),
        F.mse_loss,
        partial(F.mse_loss, reduction="sum"),
        lambda pred, target: (pred - target).square().mean(1),
    ],
    ids=named,
)
def test_it_is_right_for_losses_of_many_values_a_sample(loss: Any) -> None:
    target = mixed(WEIGHTS, torch.rand(N, CLASSES))
    # A mixture of whole samples, written out: sample i counts with share w among the n.
    due = torch.zeros(())
    for i in range(N):
        for y, share in ((target.first, WEIGHTS[i]), (target.second, 1 - WEIGHTS[i])):
            due = due + share * loss(PRED[i : i + 1], y[i : i + 1]).mean()
    is_sum = getattr(loss, "reduction", None) == "sum" or isinstance(loss, partial)
    torch.testing.assert_close(MixupLoss(loss)(PRED, target), due if is_sum else due / N)


def test_gradients_flow_and_dtypes_stay() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        pred = PRED.to(dtype).requires_grad_()
        loss = MixupLoss(nn.CrossEntropyLoss())(pred, mixed())
        assert loss.dtype == dtype
        loss.backward()
        assert pred.grad is not None
        assert pred.grad.isfinite().all()


def test_a_loss_that_fails_keeps_its_reduction() -> None:
    loss = nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match="batch_size"):
        MixupLoss(loss)(PRED[:2], mixed())
    assert loss.reduction == "mean"


def test_it_moves_and_saves_with_the_loss_in_it() -> None:
    loss = MixupLoss(nn.CrossEntropyLoss(CLASS_WEIGHTS))
    assert list(loss.state_dict()) == ["loss.weight"]
    double = copy.deepcopy(loss).double()
    assert double.loss.weight.dtype == torch.float64
    torch.testing.assert_close(double(PRED.double(), mixed()), loss(PRED, mixed()).double())


@pytest.mark.parametrize("loss", [own_mean, nn.GaussianNLLLoss])
def test_what_cannot_be_told_by_sample_is_refused_with_the_mend(loss: Any) -> None:
    if isinstance(loss, type):
        with pytest.raises(ArgumentTypeError, match=r"write GaussianNLLLoss\(\)"):
            MixupLoss(loss)
        return
    with pytest.raises(
        ShapeError,
        match=r"own_mean has to give a value for each; it gave a tensor "
        r"of shape \(\)\. Let it take `reduction`",
    ):
        MixupLoss(loss)(PRED, mixed())


def test_other_mistakes_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="a function or a module; got 'mse'"):
        MixupLoss("mse")  # type: ignore[arg-type]
    odd = nn.MSELoss()
    odd.reduction = "median"
    with pytest.raises(ArgumentError, match=r"of MSELoss is \"mean\".*got 'median'"):
        MixupLoss(odd)(PRED, mixed(first=torch.rand(N, CLASSES)))


def test_it_is_plain_torch() -> None:
    assert isinstance(lb.nn.MixupLoss(nn.MSELoss()), nn.Module)
    x, y = torch.randn(8, 2), torch.randn(8, 1)
    net = nn.Linear(2, 1)
    inputs, target = lb.nn.mixup(x, y, torch.rand(8))
    lb.nn.MixupLoss(nn.MSELoss())(net(inputs), target).backward()
    assert net.weight.grad is not None


def test_a_loss_that_gives_its_parts_is_mixed_with_them() -> None:
    def loss(pred: Tensor, target: Tensor) -> Any:
        error = (pred - target).square()
        return error.mean(), {"error": error.mean(), "one": 1.0}

    pred, first, second = torch.zeros(2), torch.ones(2), torch.full((2,), 3.0)
    total, parts = MixupLoss(loss)(pred, MixedTarget(first, second, 0.25))
    assert total.item() == parts["error"].item() == 0.25 * 1 + 0.75 * 9
    assert float(parts["one"]) == 1.0
    total, parts = MixupLoss(loss)(pred, first)
    assert (total.item(), parts["error"].item()) == (1.0, 1.0)
