"""Containers of tensors, and containers of the same kind around other parts."""

import collections
from typing import Any

import pytest
import torch

import lumbre as lb
from lumbre.nested import parts_of, rebuilt
from outputs import Attributes, Classified


@pytest.mark.parametrize("leaf", ["text", 1, None, torch.zeros(2), int, Classified, object()])
def test_a_leaf_has_no_parts(leaf: Any) -> None:
    assert parts_of(leaf) is None


def test_an_output_of_transformers_is_rebuilt_without_update() -> None:
    output = Classified(logits=1, hidden_states=(2, 3))
    assert parts_of(output) == {"logits": 1, "hidden_states": (2, 3)}
    other = rebuilt(output, {"logits": 10, "hidden_states": (20,)})
    assert type(other) is Classified
    assert dict(other) == {"logits": 10, "hidden_states": (20,)}
    assert (other.loss, other.logits, other.hidden_states) == (None, 10, (20,))
    assert (output.logits, output["logits"]) == (1, 1)


def test_a_dict_whose_items_are_its_attributes_has_the_new_ones_in_both() -> None:
    other = rebuilt(Attributes(a=1, b=2), {"a": 10, "b": 20})
    assert (other["a"], other.a, other["b"], other.b) == (10, 10, 20, 20)


def test_parts_take_the_place_of_those_before_and_are_not_added_to_them() -> None:
    assert rebuilt(collections.Counter("aab"), {"a": 1, "b": 1}) == {"a": 1, "b": 1}


def test_an_output_of_transformers_is_placed_and_brought_back() -> None:
    placed = lb.Accelerator("meta").place(Classified(logits=torch.zeros(2), hidden_states=None))
    assert type(placed) is Classified
    assert list(placed) == ["logits"]
    assert {placed.logits.device.type, placed["logits"].device.type} == {"meta"}
    weight = torch.ones(2, requires_grad=True)
    back = lb.Accelerator(cpu=True).to_cpu(Classified(logits=2 * weight))
    assert not back.logits.requires_grad
