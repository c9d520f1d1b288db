"""Train on from a checkpoint."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from lumbre.arguments import flag
from lumbre.engine.checkpoints import find, go_on
from lumbre.errors import LumbreWarning
from lumbre.files.path import absolute, is_there, path_of
from lumbre.hooks.callback import Callback
from lumbre.warn import warn

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class ResumeFromCheckpoint(Callback):
    """Begins the fit with what a checkpoint has, at the epoch after its own.

    Counters go on, and so do the random numbers: the next epoch draws what it would have drawn in
    the fit that was saved. A stop of that fit is not taken over. Without `restore_records` the
    records hold `{}` for the epochs before. For a fit that ends in the same bits as one that was
    never interrupted, restore everything, or use `AutoResume`.

    Acts at `on_fit_begin`, at weight inf, after all others of that weight but `AutoResume`, whose
    file wins where there is one.

    Args:
        path: A file that `ModelCheckpoint` or `AutoResume` wrote, or a folder of them: of these the
            newest one that can be read, by its epoch, then by the time it was written, never by
            its name. A path where there is nothing, or a folder without a checkpoint, is a
            warning, and the fit begins anew.
        restore_model_state: Whether to load the weights.
        restore_records: Whether to take over the records.
        restore_optimizer_state: Whether to load the optimizers' state.
        restore_callbacks_state: Whether to load the callbacks' states, each by its name.

    Raises:
        ArgumentError: when `path` is empty or a URL.
        ArgumentTypeError: when `path` is no path, or another argument no bool.
        FileError: when the path is a file that cannot be read, or the checkpoint does not fit.
        OSError: when the fit begins, if the path cannot be seen.

    Example:
        >>> ResumeFromCheckpoint("run/", restore_optimizer_state=True)
        ResumeFromCheckpoint(path='run/', restore_model_state=True, restore_records=False,
        restore_optimizer_state=True, restore_callbacks_state=False)
    """

    weight = math.inf
    _rank = 2

    def __init__(
        self,
        path: str | os.PathLike[str],
        restore_model_state: bool = True,
        restore_records: bool = False,
        restore_optimizer_state: bool = False,
        restore_callbacks_state: bool = False,
    ) -> None:
        self.path = path_of(self, "path", path)
        self.restore_model_state = flag(self, "restore_model_state", restore_model_state)
        self.restore_records = flag(self, "restore_records", restore_records)
        self.restore_optimizer_state = flag(
            self, "restore_optimizer_state", restore_optimizer_state
        )
        self.restore_callbacks_state = flag(
            self, "restore_callbacks_state", restore_callbacks_state
        )

    def on_fit_begin(self, ctx: Context) -> None:
        """Load what was asked for."""
        path = absolute(path_of(self, "path", self.path))
        found = find(path) if is_there(path) else None
        if found is None:
            there = "no checkpoint in it" if os.path.isdir(path) else "nothing there"
            warn(
                f"ResumeFromCheckpoint: {self.path}: {there}; the fit begins anew.",
                LumbreWarning,
            )
            return
        found.state.get("progress", {})["stop_reason"] = None
        go_on(
            ctx,
            found,
            "Pass a checkpoint of this model's own fit, or restore less of it.",
            model=self.restore_model_state,
            records=self.restore_records,
            optimizers=self.restore_optimizer_state,
            callbacks=self.restore_callbacks_state,
        )
