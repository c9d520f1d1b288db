"""How predictions of many batches become one, and what is said where they cannot."""

import dataclasses
import re
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Sampler, Subset, TensorDataset

import lumbre as lb
from lumbre.errors import JoinError
from lumbre.fit import joined
from outputs import Attributes, Classified
from runs import Scale, fit, numbered

FIVE = torch.arange(5.0).reshape(5, 1)


def fitted(answer: Callable[[Any], Any]) -> lb.Fitted:
    """A model that answers a batch as it is told to."""

    class Answers(Scale):
        def predict(self, x: Any) -> Any:
            return answer(x)

    return fit(Answers, data=numbered(1), epochs=1, valid_data=None)


def predict(answer: Callable[[Any], Any], data: Any = FIVE, batch_size: int = 2) -> Any:
    options = None if isinstance(data, DataLoader) else {"batch_size": batch_size}
    return fitted(answer).predict(data, dataloader_options=options)


def refused(answer: Callable[[Any], Any], data: Any = FIVE, batch_size: int = 2) -> JoinError:
    with pytest.raises(JoinError) as caught:
        predict(answer, data, batch_size)
    assert str(caught.value).startswith("The predictions cannot be joined: pred")
    assert "predict(..., stack=False)" in str(caught.value)
    return caught.value


def whole(*batches: Any) -> DataLoader[Any]:
    """A loader of batches as they are."""
    return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


# --- lists --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_a_list_with_an_item_a_sample_is_extended_in_order(batch_size: int) -> None:
    pred = predict(
        lambda x: [{"id": row, "boxes": row.repeat(2, 1)} for row in x], FIVE, batch_size
    )
    assert [each["id"].item() for each in pred] == [0, 1, 2, 3, 4]
    assert {each["boxes"].shape for each in pred} == {(2, 1)}


def test_the_items_of_samples_may_be_anything() -> None:
    assert predict(lambda x: [f"{row.item():g}" for row in x]) == ["0", "1", "2", "3", "4"]
    pred = predict(lambda x: [torch.full((int(row) + 5,), row.item()) for row in x])
    assert [len(each) for each in pred] == [5, 6, 7, 8, 9]


def test_one_sample_a_batch_of_which_the_first_has_one_row_is_by_sample_too() -> None:
    pred = predict(lambda x: [torch.zeros(int(x) + 1)], FIVE, batch_size=1)
    assert [len(each) for each in pred] == [1, 2, 3, 4, 5]


def test_a_list_by_sample_inside_of_a_mapping_is_extended_there() -> None:
    pred = predict(lambda x: {"score": x, "text": [f"{row.item():g}" for row in x]})
    assert torch.equal(pred["score"], FIVE)
    assert pred["text"] == ["0", "1", "2", "3", "4"]


def test_a_list_of_images_has_a_sample_an_image() -> None:
    images = [torch.full((3, 4, 4), float(i)) for i in range(5)]
    pred = predict(
        lambda images: [{"boxes": image[0, :3]} for image in images],
        whole((images[:2], None), (images[2:4], None), (images[4:], None)),
    )
    assert [each["boxes"][0, 0].item() for each in pred] == [0, 1, 2, 3, 4]


def test_a_size_that_a_callback_has_set_is_that_of_the_batch() -> None:
    @lb.on("on_predict_batch_begin")
    def size(ctx: Any) -> None:
        ctx.batch_size = len(ctx.batch.names)

    data = whole(types.SimpleNamespace(names="ab"), types.SimpleNamespace(names="c"))
    assert fitted(lambda x: list(x.names)).predict(data, size) == ["a", "b", "c"]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_list_of_outputs_is_joined_output_by_output(batch_size: int) -> None:
    pred = predict(lambda x: [x, x + 1], FIVE, batch_size)
    assert len(pred) == 2
    assert torch.equal(pred[0], FIVE)
    assert torch.equal(pred[1], FIVE + 1)
    deep = predict(lambda x: [x, {"a": (x + 1, x + 2)}, x], FIVE, batch_size=5)
    assert torch.equal(deep[1]["a"][1], FIVE + 2)


def test_a_tuple_is_never_by_sample() -> None:
    pred = predict(lambda x: tuple({"id": row} for row in x), FIVE[:4])
    assert [each["id"].tolist() for each in pred] == [[0.0, 2.0], [1.0, 3.0]]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: [x, {"a": x[:1]}, x], r"pred\[1\]\['a'\] is of shape \(1, 1\)"),
        (lambda x: [x, "text", x], r"pred\[1\] is of type str, which has no rows"),
        (lambda x: {"a": []}, r"pred\['a'\] is a list of 0, which has no rows; pred\['a'\] is"),
        (lambda x: [{"id": row} for row in x[:1]], r"pred\[0\]\['id'\] is of shape \(1,\)"),
    ],
)
def test_any_other_list_is_refused_with_its_place(answer: Any, said: str) -> None:
    text = str(refused(answer))
    assert re.search(said, text)
    assert re.search(
        r"is a list of \d for a batch of 2 samples, and a list has to hold one item a sample, or "
        "tensors with one row a sample",
        text,
    )


def test_a_list_that_lacks_a_sample_in_a_later_batch_is_refused_and_not_mixed() -> None:
    error = refused(lambda x: [{"id": row} for row in x if row != 3])
    assert "pred is a list of 2 in the first batch and a list of 1 in another; pred is" in str(
        error
    )
    assert "pred is a list of 1 for a batch of 2 samples" in str(error)
    assert [[each["id"].item() for each in batch] for batch in error.batches] == [[0, 1], [2]]


# --- other containers ---------------------------------------------------------------------------


class Two(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass(frozen=True)
class Detected:
    boxes: Any
    scores: Any = None


def test_outputs_of_transformers_keep_type_and_attributes() -> None:
    pred = predict(lambda x: Classified(logits=x, hidden_states=(x + 1, x + 2)))
    assert type(pred) is Classified
    assert list(pred) == ["logits", "hidden_states"]
    assert torch.equal(pred.logits, FIVE)
    assert torch.equal(pred["logits"], FIVE)
    assert torch.equal(pred.hidden_states[1], FIVE + 2)
    assert pred.loss is None


def test_dataclasses_keep_their_type_and_leave_out_what_is_none() -> None:
    pred = predict(lambda x: Detected(x))
    assert type(pred) is Detected
    assert torch.equal(pred.boxes, FIVE)
    assert pred.scores is None


def test_a_dict_with_attributes_has_the_joined_in_both() -> None:
    pred = predict(lambda x: Attributes(a=x))
    assert torch.equal(pred.a, FIVE)
    assert torch.equal(pred["a"], FIVE)


def test_results_of_torch_keep_their_type() -> None:
    pred = predict(lambda x: x.max(dim=1))
    assert isinstance(pred, torch.return_types.max)
    assert torch.equal(pred.values, FIVE[:, 0])


def test_mappings_may_come_in_another_order() -> None:
    pred = predict(lambda x: {"a": x, "b": -x} if x[0] else {"b": -x, "a": x})
    assert torch.equal(pred["a"], FIVE)


# --- what cannot be joined ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: "text", "pred is of type str, which has no rows"),
        (lambda x: None, "pred is None, which has no rows"),
        (lambda x: x.numpy(), "pred is of type ndarray, which has no rows"),
        (lambda x: {"a": (x, None)}, "pred['a'][1] is None"),
        (lambda x: Two(x, np.ones(2)), "pred.right is of type ndarray"),
        (lambda x: Detected(x, "text"), "pred.scores is of type str"),
        (lambda x: Classified(logits=x, loss=x.mean()), "pred['loss'] is one number, a tensor of"),
        (lambda x: x.mean(), "pred is one number, a tensor of shape (), for a batch of 2 samples"),
        (lambda x: pack_sequence([*x]), "pred is of type PackedSequence, which has no rows"),
        (lambda x: (pack_sequence([*x]), x), "pred[0] is of type PackedSequence"),
    ],
)
def test_what_has_no_rows_is_refused_at_the_first_batch(answer: Any, said: str) -> None:
    error = refused(answer)
    assert said in str(error)
    assert len(error.batches) == 1
    assert fitted(answer).predict(FIVE, dataloader_options={"batch_size": 2}, stack=False)


@pytest.mark.parametrize(
    ("forms", "said"),
    [
        (
            [lambda x: x.repeat(1, 5), lambda x: x.repeat(1, 7)],
            "pred is of shape (2, 5) in the first batch and of shape (2, 7) in another",
        ),
        (
            [lambda x: {"a": [x, x, x]}, lambda x: {"a": [x, x[:, 0], x]}],
            "pred['a'][1] is of shape (2, 1) in the first batch and of shape (2,) in another",
        ),
        (
            [lambda x: x, lambda x: (x,)],
            "pred is one tensor of shape (2, 1) in the first batch and",
        ),
        ([lambda x: {"a": x}, lambda x: {"a": None}], "pred['a'] is one tensor of shape (2, 1) in"),
        (
            [lambda x: {"a": x}, lambda x: {"b": x}],
            "pred is made of 'a' in the first batch and",
        ),
        ([lambda x: (x, x), lambda x: (x,)], "pred is a tuple of 2 in the first batch and a tuple"),
    ],
)
def test_what_differs_between_batches_is_refused_as_it_comes(forms: Any, said: str) -> None:
    seen: list[Any] = []

    def answer(x: Tensor) -> Any:
        seen.append(forms[len(seen) == 1](x))
        return seen[-1]

    error = refused(answer, FIVE)
    assert said in str(error)
    assert len(seen) == len(error.batches) == 2  # the third batch was not worked for


def test_the_batches_so_far_are_in_the_error() -> None:
    weight = nn.Parameter(torch.ones(1))
    error = refused(lambda x: x * weight if len(x) == 2 else "text")
    assert [batch.shape for batch in error.batches[:2]] == [(2, 1), (2, 1)]
    assert error.batches[2] == "text"
    assert not error.batches[0].requires_grad
    assert isinstance(error, ValueError)
    assert "those made so far are in `batches` of this error" in str(error)


def test_what_torch_cannot_join_keeps_its_words_and_the_batches() -> None:
    error = refused(lambda x: x.to_sparse() if x[0] else x)
    assert "pred ends in" in str(error)
    assert error.__cause__ is not None
    assert len(error.batches) == 3


# --- one sample that was squeezed ---------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_of_one_sample_that_was_squeezed_to_a_number_is_one_row(
    count: int, batch_size: int
) -> None:
    pred = predict(lambda x: x.squeeze(), FIVE[:count], batch_size)
    assert torch.equal(pred, FIVE[:count, 0])
    both = predict(lambda x: [x.squeeze(), x], FIVE[:count], batch_size)
    assert torch.equal(both[0], FIVE[:count, 0])


def test_a_batch_of_one_sample_that_lost_its_dimension_is_refused_with_the_mend() -> None:
    error = refused(lambda x: x.repeat(1, 3).squeeze())
    assert "pred is of shape (2, 3) in the first batch and of shape (3,) in another" in str(error)
    assert "let it squeeze(1)" in str(error)


# --- cost ---------------------------------------------------------------------------------------


def test_of_plain_tensors_the_first_batch_alone_is_asked_for_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    size_of = joined.size_of
    monkeypatch.setattr(joined, "size_of", lambda tree: asked.append(1) or size_of(tree))
    assert torch.equal(predict(lambda x: x, FIVE, batch_size=1), FIVE)
    assert len(asked) == 1
    predict(lambda x: [x], FIVE, batch_size=1)
    assert len(asked) > 5


def test_plain_tensors_are_looked_at_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    look = joined._joined
    monkeypatch.setattr(joined, "_joined", lambda *args: looks.append(1) or look(*args))
    assert torch.equal(predict(lambda x: x, FIVE, batch_size=1), FIVE)
    assert len(looks) == 1


# --- one tensor for all of them -----------------------------------------------------------------


def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of tensors that are made for all predictions, as they are made."""
    shapes: list[tuple[int, ...]] = []

    class Whole(joined._Whole):
        def __init__(self, first: Tensor, count: int) -> None:
            shapes.append((count, *first.shape[1:]))
            super().__init__(first, count)

    monkeypatch.setattr(joined, "_Whole", Whole)
    return shapes


@pytest.mark.parametrize("make", ["memory", "loader", "subset", "drop_last"])
def test_plain_tensors_are_written_into_one(make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = made(monkeypatch)
    source = TensorDataset(FIVE)
    data: Any = {
        "memory": FIVE,
        "loader": DataLoader(source, 2),
        "subset": DataLoader(Subset(source, range(5)), 2),
        "drop_last": DataLoader(source, 2, drop_last=True),
    }[make]
    kept = 4 if make == "drop_last" else 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.DataWarning)  # one is left out
        pred = predict(lambda x: x.repeat(1, 3), data)
    assert torch.equal(pred, FIVE[:kept].repeat(1, 3))
    assert shapes == [(kept, 3)]
    assert pred.untyped_storage().nbytes() == pred.nbytes


def test_a_model_that_answers_by_one_and_the_same_tensor_is_read_in_time() -> None:
    buffer = torch.zeros(1, 1)
    assert torch.equal(predict(buffer.copy_, FIVE, batch_size=1), FIVE)


ODD: dict[str, Callable[[Tensor], Any]] = {
    "another dtype": lambda x: x.double() if x[0] else x,
    "fewer rows": lambda x: x[:1],
    "more rows": lambda x: x.repeat(2, 1),
    "more rows later": lambda x: x.repeat(2, 1) if x[0] else x,
    "a subclass later": lambda x: x.as_subclass(Plain) if x[0] else x,
    "a number later": lambda x: x.squeeze() if len(x) == 1 else x[:, 0],
    "channels last": lambda x: (
        x.reshape(-1, 1, 1, 1).repeat(1, 3, 2, 2).to(memory_format=torch.channels_last)
    ),
}


class Plain(Tensor):
    """Nothing but another class."""


@pytest.mark.parametrize("kind", ODD)
def test_what_is_not_like_the_first_is_joined_as_torch_joins_it(kind: str) -> None:
    batches = [ODD[kind](FIVE[start : start + 2]) for start in (0, 2, 4)]
    expected = torch.cat([each if each.dim() else each.reshape(1) for each in batches])
    pred = predict(ODD[kind], FIVE)
    assert (type(pred), pred.dtype, pred.stride()) == (
        type(expected),
        expected.dtype,
        expected.stride(),
    )
    assert torch.equal(pred, expected)


def test_batches_that_are_skipped_leave_no_gap() -> None:
    @lb.on("on_predict_batch_end")
    def skip(ctx: Any) -> None:
        if ctx.iter == 2:
            ctx.skip_batch()

    pred = fitted(lambda x: x).predict(FIVE, [skip], dataloader_options={"batch_size": 2})
    assert torch.equal(pred, FIVE[[0, 1, 4]])
    assert pred.untyped_storage().nbytes() == pred.nbytes


def test_predictions_that_no_memory_is_enough_for_are_refused_at_the_first_batch() -> None:
    rows = torch.zeros(1).expand(2**45)
    error = refused(lambda x: x[:, None].repeat(1, 9), rows, batch_size=2)
    assert "RuntimeError" in str(error)
    assert len(error.batches) == 1


@pytest.mark.parametrize("count", [4, 5])
def test_a_sampler_that_counts_wrong_loses_nothing(count: int) -> None:
    class Miscounted(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(5))

        def __len__(self) -> int:
            return count + 2

    loader = DataLoader(TensorDataset(FIVE), 2, sampler=Miscounted())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lb.errors.DataWarning)
        assert torch.equal(predict(lambda x: x, loader), FIVE)
