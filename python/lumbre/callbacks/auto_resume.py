"""A fit that was killed goes on where it was."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lumbre.arguments import is_whole, time_of
from lumbre.callbacks.terminate_on_nan import TerminateOnNaN
from lumbre.engine.checkpoints import Found, check_savable, go_on
from lumbre.engine.keeper import Every, Keeper
from lumbre.engine.resume import named
from lumbre.engine.writing import writing_of
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
    batch that comes next, in the same bits as if it had never been interrupted, on the CPU, with
    any seed. The file goes when the fit ends, by a stop of `EarlyStopping` too; it stays after an
    exception, after a stop of `TerminateOnNaN`, and after a pause: Ctrl-C, `max_time`,
    `ctx.stop(reason, resumable=True)`, or one of the signals, after which the process ends with
    128 + its number. The state of a pause is that behind the batch under way, before any `_end` is
    fired.

    Acts at `on_fit_begin`, `on_epoch_end` and `on_fit_end`, at weight inf, after all others of that
    weight, wherever it was passed: nobody's state is stale in the file. In between it writes states
    between two batches. At `on_fit_begin` it restores weights, optimizers, callbacks, records,
    counters and random numbers, and says so in a line on stderr, unless `verbose=False`; inside of
    an epoch it does so again behind the `_begin`s that are fired anew.

    Args:
        path: The file; its folder is made. A relative path is that of the folder in which the fit
            begins, and `~` is expanded. One fit has it: a lock beside it keeps others away.
        every: When a state is due: "epoch", a number of training batches, a time such as "10m", or
            a list of these. The first one is written when the fit begins.
        skip: What workers of a loader do with the batches that were used, when the fit goes on
            inside of a pass: "replay" loads them and lets them go, which is exact also where
            samples are augmented at random; "index" does not load them.
        signals: Those that pause the fit, on the main thread. An earlier handler in Python is
            called once the state is on the disk, in the place of the end of the process.

    Raises:
        ArgumentError: when `path` is empty, a folder or a URL, or another argument makes no sense.
        ArgumentTypeError: when `path` is no path.
        SaveError: when the fit begins with something in the state that no file can hold.
        FileError: when the file is no checkpoint, that of another model, or in use by another fit.
        OSError: when the fit begins, if the file cannot be seen or written.

    Example:
        >>> AutoResume("run/state.safetensors", every=1000)
        AutoResume(path='run/state.safetensors', every=1000, skip='replay', signals=(...,))
    """

    weight = math.inf
    _rank = 3

    def __init__(
        self,
        path: str | os.PathLike[str] = "./state.safetensors",
        every: str | int | Sequence[str | int] = "epoch",
        skip: Literal["replay", "index"] = "replay",
        signals: Iterable[int] = (signal.SIGTERM,),
    ) -> None:
        self.path = file_of(self, "path", path, "state.safetensors")
        self.every = every
        self.skip = skip
        self.signals = _signals(signals)
        self._every()
        if skip not in ("replay", "index"):
            raise ArgumentError(_NO_SKIP.format(skip))

    def on_fit_begin(self, ctx: Context) -> None:
        """Go on from the file, if it is there; else write the first state."""
        every = self._every()
        check_savable("AutoResume", ctx)
        self._file = absolute(file_of(self, "path", self.path, "state.safetensors"))
        if ctx.accelerator.is_main:
            check_writable(self._file)
        keeper = ctx._keeper = Keeper(
            ctx, self, self._file, every, self.skip == "index", self.signals
        )
        is_resumed = is_there(self._file)
        if is_resumed:
            mend = "To begin anew, delete the file, or give AutoResume another path."
            try:
                state = form.read(self._file, "checkpoint")
            except FileError as error:
                raise FileError(f"{error} {mend}") from error
            go_on(ctx, Found(self._file, state), mend)
        # A fit of fewer epochs than the file has done must not take the file away.
        self._has_trained = ctx.max_epochs is None or ctx.epoch <= ctx.max_epochs
        keeper.begin(is_resumed)

    def on_epoch_end(self, ctx: Context) -> None:
        """Save, unless the run is about to end: then this epoch would be run again."""
        ctx._keeper.end_epoch()

    def on_fit_end(self, ctx: Context) -> None:
        """Take the file away when all went well; after a pause the fit may go on from it."""
        has_failed = ctx.exception is not None or _is_of_nan(ctx)
        ended_well = not (ctx.paused or has_failed) and self._has_trained
        writing_of(ctx).join()
        if ended_well and ctx.accelerator.is_main:
            remove(self._file)

    def _every(self) -> Every:
        """Return when a state is due, as `every` says."""
        given: Any = self.every if isinstance(self.every, list | tuple) else [self.every]
        found: dict[str, Any] = {"epoch": False}
        value: Any
        for each in given:
            if is_whole(each) and int(each) >= 1:
                name, value = "steps", int(each)
            elif each == "epoch":
                name, value = "epoch", True
            elif isinstance(each, str) and (seconds := time_of(each)) is not None:
                name, value = "seconds", seconds
            else:
                raise ArgumentError(_NO_EVERY.format(each))
            if found.get(name):
                raise ArgumentError(_TWICE.format(self.every))
            found[name] = value
        if not given:
            raise ArgumentError(_NO_EVERY.format(self.every))
        return Every(**found)


def _is_of_nan(ctx: Context) -> bool:
    """True if a loss that was not finite has ended the fit: the state of before it stays."""
    names = (name for name, each in named(ctx) if isinstance(each, TerminateOnNaN))
    return any(str(ctx.stop_reason).startswith(f"{name}: ") for name in names)


def _signals(given: Any) -> tuple[int, ...]:
    numbers = [given] if is_whole(given) else given
    try:
        found = tuple(signal.Signals(int(each)) for each in numbers)
    except (TypeError, ValueError) as error:
        raise ArgumentError(_NO_SIGNALS.format(given)) from error
    if {each.name for each in found} & {"SIGINT", "SIGKILL", "SIGSTOP"}:
        raise ArgumentError(_NO_SIGNALS.format(given))
    return found


_NO_SIGNALS = (
    "AutoResume: signals are those that pause the fit, such as (signal.SIGTERM, signal.SIGUSR1), "
    "or () for none. Ctrl-C pauses it anyway, and nobody can take SIGKILL or SIGSTOP. Got {!r}."
)
_NO_SKIP = (
    'AutoResume: skip is "replay", which loads what was used and lets it go, or "index", which '
    "does not load it; got {!r}."
)
_NO_EVERY = (
    'AutoResume: every is "epoch", a number of training batches, a time such as "10m", or a list '
    "of these; got {!r}."
)
_TWICE = "AutoResume: every has two numbers, or two times: {!r}. Keep one of them."
