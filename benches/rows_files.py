"""What a file costs over the same tensors written without a checksum."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from lumbre.files import form
from measure import Row, ratio, take_turns


def save() -> list[Row]:
    """100 MB in a hundred tensors, on the disk that this file is on, until they are safe there.

    Wall time, since waiting for the disk is most of it.
    """
    state = {f"model.{i}.weight": torch.randn(256, 1024) for i in range(100)}
    tree = {"model": {name.removeprefix("model."): each for name, each in state.items()}}
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        mine, other = Path(folder, "mine"), Path(folder, "other")

        def plain() -> None:
            temporary = other.with_suffix(".tmp")
            save_file(state, temporary)
            synced(temporary)
            os.replace(temporary, other)
            synced(other.parent)

        sides = {
            "lumbre": timed(lambda: form.write(mine, tree, "weights")),
            "safetensors": timed(plain),
        }
        times = take_turns(sides, 20.0)
    what = "save of 100 MB / safetensors with the same syncs"
    return [ratio("file.save", what, times, "lumbre", "safetensors", 1.15)]


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """A side of wall time."""

    def side() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return side


def synced(path: Path) -> None:
    """See a file or a folder onto the disk."""
    opened = os.open(path, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


ROWS: dict[str, Callable[[], list[Row]]] = {"file.save": save}
