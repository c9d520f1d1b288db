"""A pass with fewer batches than its loader has said is told, and one without any is refused."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre import errors
from runs import Scale, at, fit


class Short:
    """Says five batches, and gives three."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.ones(2, 1), torch.ones(2))] * 3)

    def __len__(self) -> int:
        return 5


@pytest.fixture(autouse=True)
def _registered() -> None:
    lb.as_dataloader.register(Short)(lambda data, **options: data)


def test_a_pass_that_ends_before_its_length_is_told() -> None:
    with pytest.warns(errors.DataWarning, match="gave 3 batches, and the length of its Short is 5"):
        fit(Scale, data=Short(), valid_data=None, epochs=1)


def test_a_pass_that_was_left_on_purpose_is_not() -> None:
    for leave in ("stop", "skip_epoch"):
        act = at("on_train_batch_end", lambda ctx, leave=leave: getattr(ctx, leave)(), nth=2)
        fit(Scale, act, data=Short(), valid_data=None, epochs=1)
    model = nn.Linear(1, 1)
    with lb.run(model, torch.optim.SGD(model.parameters(), 0.1), epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(Short()):
                break


def test_evaluate_and_predict_tell_it_too() -> None:
    fitted = fit(Scale, valid_data=None)
    for measure in (fitted.evaluate, fitted.predict):
        with pytest.warns(errors.DataWarning, match="gave 3 batches"):
            measure(Short(), verbose=False)
