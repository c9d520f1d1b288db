"""A fit that was killed goes on where it was."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from lumbre.arguments import whole
from lumbre.engine.checkpoints import Found, check_savable, go_on
from lumbre.errors import ArgumentError, FileError
from lumbre.files import form
from lumbre.files.atomic import check_writable, remove
from lumbre.files.path import absolute, file_of, is_there
from lumbre.hooks.callback import Callback

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class AutoResume(Callback):
    """Keeps the state of the fit in a file, and goes on from it when the fit is started again.

    Start the same script once more after a crash: where the file is found, the fit goes on with the
    epoch that comes next, in the same bits as if it had never been interrupted, on the CPU, with
    any seed. The file goes when the fit ends well, by a stop of `EarlyStopping` too; it stays
    after an exception and after Ctrl-C. An epoch that was not finished is run again.

    Acts at `on_fit_begin`, `on_epoch_end` and `on_fit_end`, at weight inf, after all others of that
    weight, wherever it was passed: nobody's state is stale in the file. At `on_fit_begin` it
    restores weights, optimizers, callbacks, records, counters and random numbers, and says so in a
    line when the run is verbose.

    Args:
        path: The file; its folder is made. A relative path is that of the folder in which the fit
            begins, and `~` is expanded.
        every: "epoch", or a number of training batches: then it saves at the end of the epoch in
            which so many have passed since it last did.

    Raises:
        ArgumentError: when `path` is empty, a folder or a URL, or `every` is something else.
        ArgumentTypeError: when `path` is no path.
        SaveError: when the fit begins with something in the state that no file can hold.
        FileError: when the file is no checkpoint, or that of another model.
        OSError: when the fit begins, if the file cannot be seen or written.

    Example:
        >>> AutoResume("run/state.safetensors", every=1000)
        AutoResume(path='run/state.safetensors', every=1000)
    """

    weight = math.inf
    _rank = 3

    def __init__(
        self, path: str | os.PathLike[str] = "./state.safetensors", every: str | int = "epoch"
    ) -> None:
        self.path = file_of(self, "path", path, "state.safetensors")
        if isinstance(every, str) and every != "epoch":
            raise ArgumentError(
                f'AutoResume: every is "epoch" or a number of training batches; got {every!r}.'
            )
        self.every = every if isinstance(every, str) else whole(self, "every", every, least=1)
        self._saved_at = 0
        self._has_trained = False

    def on_fit_begin(self, ctx: Context) -> None:
        """Go on from the file, if it is there."""
        check_savable("AutoResume", ctx)
        self._file = absolute(file_of(self, "path", self.path, "state.safetensors"))
        if ctx.accelerator.is_main:
            check_writable(self._file)
        if is_there(self._file):
            mend = "To begin anew, delete the file, or give AutoResume another path."
            try:
                state = form.read(self._file, "checkpoint")
            except FileError as error:
                raise FileError(f"{error} {mend}") from error
            go_on(ctx, Found(self._file, state), mend)
        self._saved_at = ctx.step_count
        # A fit of fewer epochs than the file has done must not take the file away.
        self._has_trained = ctx.max_epochs is None or ctx.epoch <= ctx.max_epochs

    def on_epoch_end(self, ctx: Context) -> None:
        """Save, unless the run is about to end: then this epoch would be run again."""
        if ctx.stopped:
            return
        if self.every == "epoch" or ctx.step_count - self._saved_at >= int(self.every):
            state = ctx.state_dict()
            if ctx.accelerator.is_main:
                form.write(self._file, state, "checkpoint")
            self._saved_at = ctx.step_count

    def on_fit_end(self, ctx: Context) -> None:
        """Take the file away when all went well; after a pause the fit may go on from it."""
        is_paused = ctx.paused or ctx.interrupted
        ended_well = not is_paused and ctx.exception is None and self._has_trained
        if ended_well and ctx.accelerator.is_main:
            remove(self._file)
