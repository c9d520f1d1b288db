"""`examples/vae.py`: the two parts of a loss, seen in the records, the plot and by hand."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from places import ROOT


@pytest.fixture(scope="module")
def done() -> Any:
    example = runpy.run_path(str(ROOT / "examples" / "vae.py"))
    return example, *example["main"](epochs=10)


def test_both_parts_are_recorded_and_learned(done: Any) -> None:
    _, fitted, held = done
    before = fitted.records["before"]["valid"]
    first, *_, last = fitted.records["metrics"]["valid"]
    assert list(before) == list(first) == ["loss", "rebuilt", "kl"]
    assert last["rebuilt"] < first["rebuilt"] < before["rebuilt"]
    assert (fitted.predict(held) - held).abs().mean() < 0.15
    frame = fitted.get_steps()
    assert len(frame) == 10 * 47
    # The weight of the second part grows, as the loss of each step shows.
    share = (frame["loss"] - frame["rebuilt"]) / frame["kl"]
    assert share.to_numpy() == pytest.approx(np.minimum(frame["step"] / 400, 1), abs=2e-2)


def test_the_parts_are_those_of_the_model(done: Any) -> None:
    _, fitted, held = done
    model = fitted.model
    with torch.no_grad():
        logits, mean, spread = (each.double() for each in model(held))
        kl = -0.5 * (1 + spread - mean**2 - spread.exp()).sum() / len(held)
        p = logits.sigmoid()
        rebuilt = -(held * p.log() + (1 - held) * (1 - p).log()).sum() / len(held)
    evaluation = fitted.evaluate([held, held])
    assert evaluation.metrics["kl"] == pytest.approx(kl.item(), rel=1e-5)
    assert evaluation.metrics["rebuilt"] == pytest.approx(rebuilt.item(), rel=1e-5)


def test_both_are_seen_in_the_plot(done: Any, tmp_path: Path) -> None:
    _, fitted, _ = done
    figure = fitted.plot()
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible()]
    assert titles == ["loss", "rebuilt", "kl"]
    figure.savefig(tmp_path / "vae.png")
    assert (tmp_path / "vae.png").stat().st_size > 10_000
