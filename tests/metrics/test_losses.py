"""The losses of a pass on a device: what is taken back is one batch, and no other."""

import torch
from torch import tensor

from lumbre.metrics.losses import Losses


def test_a_batch_that_has_added_nothing_takes_nothing_back() -> None:
    losses = Losses()
    losses.add(0, tensor(1.0), 1.0, 1)
    losses.add(0, tensor(2.0), 1.0, 2)
    losses.retract(3)
    assert [mean for _, mean, *_ in losses.take()] == [1.5]
    losses.add(0, tensor(1.0), 1.0, 1)
    losses.add(0, tensor(2.0), 3.0, 2)
    losses.retract(2)
    assert [mean for _, mean, *_ in losses.take()] == [1.0]


def test_the_first_that_is_not_finite_is_known_and_weighs() -> None:
    losses = Losses()
    losses.add(1, tensor(1.0, dtype=torch.float64), 1.0, 1)
    losses.add(1, tensor(float("inf")), 1.0, 2)
    ((index, mean, weight, bad),) = losses.take()
    assert (index, mean, weight, bad) == (1, float("inf"), 2.0, 2)
