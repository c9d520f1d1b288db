"""Runs that the end of the interpreter would meet in daemon threads."""

from __future__ import annotations

import atexit
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumbre.context import Context

# Seconds that Python's end waits for them, in all.
_PATIENCE = 5.0

# By identity: each of these is put in and taken out in one step, whatever other threads do.
_runs: dict[int, Context] = {}


def watch(ctx: Context) -> None:
    """See to it that a run is over before the interpreter is, if nobody else does.

    Python up to 3.13 ends daemon threads wherever they are when it ends itself. In the middle of a
    call through Rust that would abort the process.
    """
    if not threading.current_thread().daemon:
        return
    if not _runs:
        atexit.unregister(_end)
        atexit.register(_end)
    _runs[id(ctx)] = ctx


def forget(ctx: Context) -> None:
    """The run is over."""
    _runs.pop(id(ctx), None)


def _end() -> None:
    """As Ctrl-C would: they finish their batch and end in order, as does what begins meanwhile."""
    until = time.monotonic() + _PATIENCE
    while _runs and time.monotonic() < until:
        for ctx in _runs.copy().values():
            ctx.interrupt()
        time.sleep(0.005)
