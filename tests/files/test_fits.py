"""Whether the tensors of a state fit those of a model; the callers' tests have the rest."""

import torch
from torch import nn

from lumbre.files.fits import misfits


def test_what_fits_says_nothing() -> None:
    own = {"a": torch.ones(2, dtype=torch.float16), "extra": {"any": 1}}
    assert misfits({"extra": 3, "a": torch.ones(2, dtype=torch.float64)}, own) == ""
    assert misfits({}, own, optional=own) == ""
    lazy = nn.LazyLinear(2).state_dict()
    assert misfits({name: torch.ones(2, 5) for name in lazy}, lazy) == ""


def test_what_does_not_is_listed_by_kind() -> None:
    saved = {"b": torch.ones(3), "c": torch.ones(1), "d": 1, "e": torch.ones(1) * 1j}
    own = {"a": torch.ones(1), "b": torch.ones(2, 1), "d": torch.ones(1), "e": torch.ones(1)}
    assert misfits(saved, own, optional=["b"]) == (
        "\n  missing in the state: a"
        "\n  not in the model: c"
        "\n  different: b (state: (3,) float32, model: (2, 1) float32), "
        "d (state: int, model: (1,) float32), e (state: (1,) complex64, model: (1,) float32)"
    )


def test_long_lists_are_cut() -> None:
    names = {f"w{i:02}": torch.ones(1) for i in range(30)}
    assert misfits(names, {}).endswith("w18, w19, and 10 more")
