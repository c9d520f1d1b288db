"""A fit that was killed goes on where it was."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lumbre.arguments import is_whole, time_of
from lumbre.callbacks.progress import Progress
from lumbre.callbacks.terminate_on_nan import TerminateOnNaN
from lumbre.engine.adapted import adapted, begun_anew
from lumbre.engine.checkpoints import Found, check_savable, go_on
from lumbre.engine.identity import Difference, differences, identity_of
from lumbre.engine.keeper import Every, Keeper
from lumbre.engine.resume import named
from lumbre.engine.writing import writing_of
from lumbre.errors import ArgumentError, FileError, LumbreWarning
from lumbre.files import form
from lumbre.files.atomic import check_writable, remove
from lumbre.files.path import absolute, file_of, is_there
from lumbre.hooks.callback import Callback
from lumbre.warn import warn

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class AutoResume(Callback):
    """Keeps the state of the fit in a file, and goes on from it when the fit is started again.

    Start the same script once more after a crash: where the file is found, the fit goes on with the
    batch that comes next, in the same bits as if it had never been interrupted, on the CPU, with
    any seed. The file goes when the fit ends, by a stop of `EarlyStopping` too, unless it is to be
    kept; it stays after an exception, after a stop of `TerminateOnNaN`, and after a pause: Ctrl-C,
    `max_time`, `ctx.stop(reason, resumable=True)`, or one of the signals, after which the process
    ends with 128 + its number. The state of a pause is that behind the batch under way, before any
    `_end` is fired.

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
        finished: What becomes of the file when the fit has come to its end: "delete", or "keep",
            after which the same fit, started again, gives its result without training, and one of
            more epochs goes on. So a script of several fits, each with a path of its own, goes on
            in the one where it was killed.
        changed: What to do with the state of a fit that differs from this one, in its model,
            options, loss, metrics, data or callbacks with state: "refuse" it, with a list of all
            that differs; go on with the "new" options, those of this script; or with the "saved"
            hparams, opt_hparams and epochs. More epochs or steps alone are no difference.
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
        AutoResume(path='run/state.safetensors', every=1000, finished='delete', ...)
    """

    weight = math.inf
    _rank = 3

    def __init__(
        self,
        path: str | os.PathLike[str] = "./state.safetensors",
        every: str | int | Sequence[str | int] = "epoch",
        finished: Literal["delete", "keep"] = "delete",
        changed: Literal["refuse", "new", "saved"] = "refuse",
        skip: Literal["replay", "index"] = "replay",
        signals: Iterable[int] = (signal.SIGTERM,),
    ) -> None:
        self.path = file_of(self, "path", path, "state.safetensors")
        self.every = every
        self.finished = finished
        self.changed = changed
        self.skip = skip
        self.signals = _signals(signals)
        self._every()
        for name, known in _CHOICES.items():
            if (given := getattr(self, name)) not in known:
                raise ArgumentError(_NO_CHOICE.format(name, "; ".join(known.values()), given))

    def on_fit_begin(self, ctx: Context) -> None:
        """Go on from the file, if it is there; else write the first state."""
        every = self._every()
        check_savable("AutoResume", ctx)
        self._file = absolute(file_of(self, "path", self.path, "state.safetensors"))
        if ctx.accelerator.is_main:
            check_writable(self._file)
        identity = identity_of(ctx, (AutoResume, Progress))
        keeper = ctx._keeper = Keeper(
            ctx,
            self,
            self._file,
            every,
            self.skip == "index",
            self.signals,
            identity,
            self.finished == "keep",
        )
        is_resumed = is_there(self._file)
        if is_resumed:
            self._go_on(ctx, keeper)
        elif os.path.realpath(self._file) in _ENDED and self.finished == "delete":
            warn(_USED_BEFORE.format(self._file), LumbreWarning)
        # A fit of fewer epochs than the file has done must not take the file away.
        self._has_trained = ctx.max_epochs is None or ctx.epoch <= ctx.max_epochs
        keeper.begin(is_resumed)

    def _go_on(self, ctx: Context, keeper: Keeper) -> None:
        """Go on from the file, if it is that of this fit."""
        try:
            state = form.read(self._file, "checkpoint")
        except FileError as error:
            raise FileError(f"{error} {_MEND}") from error
        if "fit" in state:
            state = self._fitting(keeper.identity, state)
            if self.changed == "saved":
                # Its options are those of the file, and so are those of its own states.
                of_file = {part: state["fit"][part] for part in ("fit", "groups", "schedules")}
                keeper.identity = {**keeper.identity, **of_file}
        result = state.pop("finished", None)
        is_over = result is not None and _is_over(ctx, state["progress"])
        go_on(ctx, Found(self._file, state), _MEND, is_told=not is_over)
        if is_over:
            keeper.result = result
            code = differences(state.get("fit", keeper.identity), keeper.identity, "code")
            changed = "".join(f"\n  {each.what}" for each in code if each.was and each.now)
            told = _CODE.format(changed) if changed else ""
            warn(_OVER.format(self._file, told), LumbreWarning)

    def _fitting(self, identity: Mapping[str, Any], state: dict[str, Any]) -> dict[str, Any]:
        """Return the state of this fit; what differs in it is refused, or told.

        Raises:
            FileError: when it is that of another fit, with all that differs.
        """
        was = state["fit"]
        found = differences(was, identity, "fit")
        begins_anew = any(map(_is_of_data, found))
        refused = found
        if self.changed == "new":
            refused = [each for each in found if _is_of_kind(each.what)]
        elif self.changed == "saved":
            refused = [each for each in found if not _is_restored(each.what)]
        if refused:
            mend = _CHANGED[self.changed]
            raise FileError(_OTHER_FIT.format(self._file, _listed(refused), mend))
        told = differences(was, identity, "told")
        if told or found:
            how = {"new": _NEW, "saved": _SAVED}.get(self.changed, "") if found else ""
            warn(_TOLD.format(self._file, _listed([*found, *told]), how), LumbreWarning)
        if self.changed == "new" and found:
            for name in begun_anew(was, identity, state):
                warn(_BEGINS_ANEW.format(name), LumbreWarning)
            state = adapted(state, was, identity)
            if begins_anew:
                state |= {"open": None, "data": None, "gradients": {}}
        return state

    def saved(self) -> dict[str, Any] | None:
        """Return the parts of the state with which the fit is to go on, if there are any."""
        if self.changed != "saved":
            return None
        try:
            path = absolute(file_of(self, "path", self.path, "state.safetensors"))
            parts = ["hparams", "opt_hparams", "fit"]
            state = form.read(path, "checkpoint", parts=parts) if is_there(path) else {}
        except (FileError, OSError):
            return None  # the fit will say so when it begins
        return state if len(state) == len(parts) else None

    def on_epoch_end(self, ctx: Context) -> None:
        """Save, unless the run is about to end: then this epoch would be run again."""
        ctx._keeper.end_epoch()

    def on_fit_end(self, ctx: Context) -> None:
        """Take the file away when all went well; after a pause the fit may go on from it."""
        has_failed = ctx.exception is not None or _is_of_nan(ctx)
        ended_well = not (ctx.paused or has_failed) and self._has_trained
        if ended_well and ctx.accelerator.is_main:
            _ENDED.add(os.path.realpath(self._file))
        if ended_well:
            ctx._keeper.end()
        writing_of(ctx).join()
        if ended_well and ctx.accelerator.is_main and self.finished == "delete":
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


def _is_over(ctx: Context, progress: Mapping[str, Any]) -> bool:
    """True if there is nothing left to train of a fit that has come to its end."""
    epochs = ctx.max_epochs is not None and progress["epoch"] >= ctx.max_epochs
    steps = ctx.max_steps is not None and progress["step_count"] >= ctx.max_steps
    return epochs or steps or progress["stop_reason"] is not None


def _is_of_kind(what: str) -> bool:
    """True for what no options make up for: another module, or optimizers of another class."""
    return what in ("module", "dtypes") or (what.startswith("optimizer ") and "." not in what)


def _is_of_data(difference: Difference) -> bool:
    """True for what moves the place in the open epoch."""
    of_data = "training data", "validation data", "steps_per_epoch", "valid_steps"
    return difference.what.startswith(of_data)


def _is_restored(what: str) -> bool:
    """True for what a state brings along: options of optimizers and of schedules."""
    return (what.startswith("optimizer ") and ".group" in what) or ".scheduler_options" in what


def _listed(differences: Sequence[Difference]) -> str:
    return "".join(f"\n  {each}" for each in differences)


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


# The paths of fits of this process that have come to their end.
_ENDED: set[str] = set()

_CHOICES = {
    "finished": {
        "delete": '"delete", by which the file goes when the fit has come to its end',
        "keep": '"keep", by which it stays',
    },
    "changed": {
        "refuse": '"refuse", which goes on with nothing but the same fit',
        "new": '"new", which takes the options of this script',
        "saved": '"saved", which takes those of the state',
    },
    "skip": {
        "replay": '"replay", which loads what was used and lets it go',
        "index": '"index", which does not load it',
    },
}
_NO_CHOICE = "AutoResume: {} is one of {}. Got {!r}."
_MEND = "To begin anew, delete the file, or give AutoResume another path."
_CHANGED = {
    "refuse": 'To go on with what this script says, pass changed="new"; with the hparams, '
    f'opt_hparams and epochs of the file, changed="saved". {_MEND}',
    "new": f'With changed="new" options may differ, and not what is trained. {_MEND}',
    "saved": 'With changed="saved" hparams, opt_hparams, epochs and the options of schedules are '
    f"those of the file; the rest has to be as it was. {_MEND}",
}
_OTHER_FIT = "{} is the state of another fit than this one (was → is):{}\n{}"
_TOLD = "{} was saved by a fit that differs from this one (was → is):{}{}"
_NEW = "\nThe fit goes on with what it is now."
_SAVED = "\nThe fit goes on with the options of the file."
_BEGINS_ANEW = "{} watches or does something else than in the state: it begins anew."
_OVER = (
    "{} holds the end of this fit, and nothing is trained: the result is what it was.{} To train "
    "anew, delete the file, or give AutoResume another path; to train on, ask for more epochs."
)
_CODE = " Code that has changed since:{}\n"
_USED_BEFORE = (
    "{} was the path of a fit of this process that has come to its end. After a kill that one "
    "would meet the state of this one: give each fit a path of its own."
)
_NO_SIGNALS = (
    "AutoResume: signals are those that pause the fit, such as (signal.SIGTERM, signal.SIGUSR1), "
    "or () for none. Ctrl-C pauses it anyway, and nobody can take SIGKILL or SIGSTOP. Got {!r}."
)
_NO_EVERY = (
    'AutoResume: every is "epoch", a number of training batches, a time such as "10m", or a list '
    "of these; got {!r}."
)
_TWICE = "AutoResume: every has two numbers, or two times: {!r}. Keep one of them."
