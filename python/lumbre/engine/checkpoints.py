"""Checkpoints: the newest one of a folder, and a run that goes on from one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lumbre.engine.context import Context
from lumbre.errors import ArgumentError, FileError, LumbreWarning
from lumbre.files import form
from lumbre.files.expanded import refuse_expanded
from lumbre.output import write
from lumbre.warn import warn

SUFFIX = ".safetensors"


class Found(NamedTuple):
    """A checkpoint that was read whole.

    Attributes:
        path: Its file.
        state: The run as `ctx.state_dict()` gave it when it was saved.
    """

    path: str
    state: dict[str, Any]


def check_savable(owner: str, ctx: Context) -> None:
    """Refuse a run whose state no file can hold, or of which none could go on.

    Raises:
        SaveError: when something in it is neither a tensor nor plain data.
        ArgumentError: when torch could not load the model's own state.
    """
    refuse_expanded(owner, ctx.accelerator.unwrap(ctx.model))
    form.check(ctx.state_dict())


def find(path: str) -> Found | None:
    """Return the checkpoint at a path; of a folder the newest one, or None when it holds none.

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


def go_on(ctx: Context, found: Found, mend: str, is_told: bool = True, **parts: bool) -> None:
    """Let a run go on from a checkpoint; what does not fit is refused with the file's name.

    Args:
        ctx: The run.
        found: The checkpoint.
        mend: What to do about one that does not fit.
        is_told: Whether a line says that the run goes on, and where.
        **parts: As in `ctx.load_state_dict`.

    Raises:
        FileError: when the checkpoint is that of another model, of other optimizers, or of other
            callbacks' states.
    """
    try:
        ctx.load_state_dict(found.state, **parts)
    except ArgumentError as error:
        # What a callback raised is nearer to its author than what was made of it.
        cause = error.__cause__ or error
        raise FileError(f"{found.path} cannot be resumed. {error} {mend}") from cause
    if ctx.max_epochs is not None and ctx.epoch > ctx.max_epochs:
        warn(_DONE_ALREADY.format(found.path, ctx.epoch, ctx.max_epochs), LumbreWarning)
    if is_told and not ctx._is_silent:
        # There, so that a log of a job has it, and what a program prints has not.
        write("stderr", sys.stderr, f"lumbre: resuming {found.path} at {_place(ctx)}\n")


def _place(ctx: Context) -> str:
    """Return the place with which the run goes on."""
    opened = None if ctx._going_on is None else ctx._going_on["open"]
    if opened is None:
        return f"epoch {ctx.epoch + 1}"
    what = "batch" if opened["training"] else "validation batch"
    epoch = f"epoch {opened['epoch']}" if opened["epoch"] else "what is before the first epoch"
    return f"{epoch}, {what} {opened['iter'] + 1}"


def _newest_first(folder: str) -> Iterator[str]:
    """Return the checkpoints of a folder, by their epoch and then by when they were written."""
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


_DONE_ALREADY = (
    "{} is of a fit that has done {} epochs, and this one asks for {}: nothing is trained, the "
    "model is the one in the file. Ask for more epochs to train on; to begin anew, delete the file "
    "or use another path."
)
