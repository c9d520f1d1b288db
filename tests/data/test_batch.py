"""What a batch is made of."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from lumbre.data.batch import batch_size_of, input_and_target
from lumbre.errors import DataError


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


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
        (object(), 1),
    ],
)
def test_the_batch_size_is_that_of_the_target_else_of_the_input(batch, size):
    assert batch_size_of(batch) == size
