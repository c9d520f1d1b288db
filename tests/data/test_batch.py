"""What a batch is made of."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from lumbre.data.batch import (
    batch_size_of,
    input_and_target,
    missing_target,
    with_input,
    with_target,
)
from lumbre.errors import DataError, DataWarning


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@dataclasses.dataclass
class Graphs:
    x: Any = None
    text: str = "four"


class Sized:
    def __init__(self, length):
        self.length = length

    def __len__(self):
        if isinstance(self.length, Exception):
            raise self.length
        return self.length


class Named(Sized):
    batch_size = 5


def test_input_and_target_are_the_first_two_items():
    x, y = torch.zeros(4, 2), torch.zeros(4)
    for batch in ([x, y], (x, y), Pair(x, y), (x, y, "more")):
        got = input_and_target(batch)
        assert got[0] is x
        assert got[1] is y
    packed = pack_sequence([torch.zeros(3), torch.zeros(2)])
    for batch in (x, {"x": x, "y": y}, packed):
        assert input_and_target(batch) == (batch, None)
    assert input_and_target([x])[1] is None
    with pytest.raises(DataError, match="empty list"):
        input_and_target([])


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        ([torch.zeros(4, 2), torch.zeros(3)], 3),
        ([torch.zeros(4, 2), torch.tensor(1.0)], 4),
        (torch.zeros(5, 2), 5),
        ([torch.zeros(6)], 6),
        ({"a": "text", "b": torch.zeros(7)}, 7),
        ([[torch.zeros(8, 2), torch.zeros(8)], ["a"] * 9], 9),
        ([{"ids": torch.zeros(2, 3)}, None], 2),
        (pack_sequence([torch.zeros(3), torch.zeros(2)]), 2),
        ([np.zeros((3, 2)), 1], 3),
        ([torch.zeros(4, 3), [{"boxes": torch.zeros(7, 4)}, {"boxes": torch.zeros(9, 4)}]], 2),
        (Graphs(torch.zeros(6, 2)), 6),
        ([torch.zeros(4), Graphs(torch.zeros(6, 2))], 6),
        (Graphs(Graphs(torch.zeros(3))), 3),
        (Sized(8), 8),
        ([Sized(8), None], 8),
        (Named(2), 5),
        (torch.tensor(1.0), 1),
        ([torch.tensor(1.0), torch.tensor(1)], 1),
        ([0.5, 1], 1),
    ],
)
def test_the_batch_size_is_that_of_the_target_else_of_the_input(batch, size):
    assert batch_size_of(batch) == size


@pytest.mark.parametrize(
    "batch", [object(), [object(), None], Graphs(), Sized(RuntimeError()), "text", [], Graphs]
)
def test_a_size_that_cannot_be_known_is_told_with_the_mend(batch):
    batch = [batch] if batch == [] else batch
    with pytest.warns(DataWarning, match=r"counts as one.*ctx\.batch_size = \.\.\."):
        assert batch_size_of(batch) == 1


def test_a_size_that_cannot_be_known_is_told_once():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            batch_size_of(object())
    assert len(seen) == 1


def test_another_input_or_target_keeps_the_rest_of_the_batch():
    x, y = torch.zeros(4, 2), torch.zeros(4)
    packed = pack_sequence([torch.zeros(3), torch.zeros(2)])
    for batch in ([x, y, "more"], (x, y, "more")):
        assert with_input(batch, 1) == [1, y, "more"]
        assert with_target(batch, 1) == [x, 1, "more"]
    for batch in (x, {"x": x}, packed):
        assert with_input(batch, 1) == 1
        assert with_target(batch, 1)[0] is batch
        assert with_target(batch, 1)[1:] == [1]
    assert with_target([x], 1) == [x, 1]
    assert with_target(Pair(x, y), 1) == [x, 1]


def test_a_batch_without_a_target_names_the_way_to_one():
    pair = str(missing_target(torch.zeros(4, 2), "MSELoss"))
    assert pair == (
        "MSELoss needs a target, and the batch is no pair of input and target: it is one tensor of "
        "shape (4, 2). Pass data that gives (input, target), or a loss that takes pred and ignores "
        "the target."
    )
    mapping = str(missing_target({"x": torch.zeros(4), "y": torch.zeros(4)}, "MSELoss"))
    assert "[data, data['y']]" in mapping
    assert "setattr(ctx, \"target\", ctx.batch['y'])" in mapping
