"""Checkpoints: the newest one of a folder, and a run or a model that goes on from one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lumbre.engine.context import Context
from lumbre.errors import ArgumentError, ArgumentTypeError, FileError, LumbreWarning
from lumbre.files import form
from lumbre.files.atomic import as_path
from lumbre.files.form import Pathlike
from lumbre.fit.fitted import Fitted
from lumbre.fit.saving import load_model_weights
from lumbre.output import say
from lumbre.warn import warn

SUFFIX = ".safetensors"


class Found(NamedTuple):
    """A checkpoint that was read whole.

    Attributes:
        path: Its file.
        state: What `ctx.state_dict()` gave when it was saved.
    """

    path: str
    state: dict[str, Any]


def load_checkpoint(fitted_or_ctx: Fitted | Context, path: Pathlike) -> None:
    """Go back to a checkpoint: with a fitted model, or with a run that is about to begin.

    A fitted model gets the weights, in place, all of them or, on an error, none; its records stay
    those of the whole fit. A run gets everything: weights, optimizers, callbacks' states, records,
    the place and the random numbers; call it at `on_fit_begin`, from a callback that comes last.

    Args:
        fitted_or_ctx: What `fit` or `load` gave, or the `ctx` of a run.
        path: A file that `ModelCheckpoint` or `AutoResume` wrote, or a folder of them: of these
            the newest one that can be read, by its epoch, then by the time it was written.

    Raises:
        FileNotFoundError: when there is no such file or folder.
        FileError: when it cannot be read, or does not fit; when a folder holds no checkpoint.
        ArgumentTypeError: when it is neither a `Fitted` nor a `ctx`.

    Example:
        >>> import lumbre as lb, torch, tempfile
        >>> setup = lb.setup(torch.nn.Linear(2, 1), torch.nn.MSELoss(), torch.optim.Adam)
        >>> data = [torch.ones(4, 2), torch.ones(4, 1)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     every = lb.callbacks.ModelCheckpoint(f"{folder}/{{epoch:02d}}.safetensors")
        ...     fitted = setup.fit(data, epochs=3, callbacks=every)
        ...     load_checkpoint(fitted, f"{folder}/01.safetensors")
    """
    path = as_path(path)
    if not isinstance(fitted_or_ctx, Fitted | Context):
        raise ArgumentTypeError(
            f"fitted_or_ctx is of type {type(fitted_or_ctx).__qualname__}; expected what fit(...) "
            "or lb.load(...) gives, or the ctx of a run."
        )
    found = find(path)
    if found is None:
        raise FileError(f"{path} is a folder without a checkpoint that could be read.")
    if isinstance(fitted_or_ctx, Fitted):
        load_model_weights(fitted_or_ctx, found.path)
    else:
        go_on(fitted_or_ctx, found, "Pass the file of this model's own fit.")


def find(path: str) -> Found | None:
    """The checkpoint at a path; of a folder the newest one, or None when it holds none.

    What looks like a checkpoint in a folder and cannot be read is warned about and left out.

    Raises:
        FileNotFoundError: when there is nothing at the path.
        FileError: when it is a file that cannot be read.
    """
    if not os.path.isdir(path):
        return Found(path, form.read(path, "checkpoint"))
    for each in _newest_first(path):
        try:
            return Found(each, form.read(each, "checkpoint"))
        except (FileError, OSError) as error:
            _warn_left_out(error)
    return None


def go_on(ctx: Context, found: Found, mend: str, **parts: bool) -> None:
    """Let a run go on from a checkpoint; what does not fit is refused with the file's name.

    Raises:
        FileError: when the checkpoint is that of another model, or of other optimizers.
    """
    try:
        ctx.load_state_dict(found.state, **parts)
    except ArgumentError as error:
        raise FileError(f"{found.path} cannot be resumed. {error} {mend}") from error
    if ctx.epoch > ctx.max_epochs:
        warn(
            f"{found.path} is of a fit that has done {ctx.epoch} epochs, and this one asks for "
            f"{ctx.max_epochs}: nothing is trained, the model is the one in the file. Ask for more "
            "epochs to train on; to begin anew, delete the file or use another path.",
            LumbreWarning,
        )
    if ctx.verbose:
        say(f"Resuming from {found.path}, after epoch {ctx.epoch}.")


def _newest_first(folder: str) -> Iterator[str]:
    """The checkpoints of a folder, by their epoch and then by when they were written."""
    dated: list[tuple[int, int, str]] = []
    failed: list[tuple[str, Exception]] = []
    for each in sorted(Path(folder).iterdir()):
        if each.name.startswith(".") or not each.is_file():
            continue  # what begins with a dot is a file that was never finished
        try:
            progress = form.read_meta(each, "checkpoint").tree["progress"]
            dated.append((int(progress["epoch"]), each.stat().st_mtime_ns, str(each)))
        except (FileError, OSError, LookupError, TypeError, ValueError) as error:
            failed.append((each.suffix, error))
    # A log or a note beside the checkpoints is nothing to worry about.
    suffixes = {SUFFIX, *(Path(path).suffix for *_, path in dated)}
    for suffix, why in failed:
        if suffix in suffixes:
            _warn_left_out(why)
    return (path for *_, path in sorted(dated, reverse=True))


def _warn_left_out(error: Exception) -> None:
    warn(f"Left out: {error}", LumbreWarning)
