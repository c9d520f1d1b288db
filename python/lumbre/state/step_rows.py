"""The rows of single steps, between Rust, files and data frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lumbre._core import Run

if TYPE_CHECKING:
    import pandas as pd

_WHOLE = ("step", "epoch", "samples")


def steps_of(ctx: Run) -> dict[str, Tensor]:
    """Return the columns of the rows by name, shape (rows,), float64."""
    columns = ctx._steps().items()
    return {name: torch.from_numpy(np.frombuffer(each, np.float64)) for name, each in columns}


def restore_steps(ctx: Run, columns: Mapping[str, Any]) -> bool:
    """Put columns in the place of the rows there are; False when they make no table."""
    if not all(
        isinstance(each, Tensor) and each.dim() == 1 and each.dtype == torch.float64
        for each in columns.values()
    ):
        return False
    return ctx._restore_steps({name: each.numpy().tobytes() for name, each in columns.items()})


def steps_frame(columns: Mapping[str, Tensor]) -> pd.DataFrame:
    """Return the rows as a data frame, a column for each name."""
    import pandas as pd

    arrays = {name: column.numpy() for name, column in columns.items()}
    for name in _WHOLE:
        if name in arrays and np.isfinite(arrays[name]).all():
            arrays[name] = arrays[name].astype(np.int64)
    return pd.DataFrame(arrays)
