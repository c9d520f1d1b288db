"""What changes within a batch, which Rust reads and writes where Python keeps it."""

import gc
import sys
from typing import Any

import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre._core import Batches, Run
from lumbre.state.now import Now

SLOTS = ["batch", "loss_grad", "loss_weight", "losses", "opt_name", "pred", "skipped"]


@pytest.mark.parametrize("name", SLOTS)
@pytest.mark.parametrize("kind", ["missing", "attribute", "property"])
def test_what_is_kept_in_no_slot_is_refused(name: str, kind: str) -> None:
    slots = [each for each in Now.__slots__ if each != name]
    made = {"attribute": {name: None}, "property": {name: property(id)}}
    body: dict[str, Any] = {"__slots__": slots, **made.get(kind, {})}
    with pytest.raises((TypeError, AttributeError), match=name):
        Batches(Run(), type("Other", (), body)(), [], None, RuntimeError)


def test_slots_that_a_class_has_borrowed_are_refused() -> None:
    # They tell where objects of another class have their fields: here that is past the end.
    borrowed = {name: vars(Now)[name] for name in Now.__slots__}
    small = type("Small", (), {"__slots__": (), **borrowed})()
    with pytest.raises(TypeError, match="in no slot"):
        Batches(Run(), small, [], None, RuntimeError)


def test_what_was_in_a_slot_is_let_go_once() -> None:
    batch = [torch.randn(4, 2), torch.randint(2, (4,))]
    counts = [sys.getrefcount(each) for each in (batch, *batch)]
    trainable = lb.setup(nn.Linear(2, 2), loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD)
    trainable.fit(torch.utils.data.DataLoader([batch] * 3, batch_size=None), 2, verbose=False)
    gc.collect()
    assert [sys.getrefcount(each) for each in (batch, *batch)] == counts
