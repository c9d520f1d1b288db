"""Runs that the end of the interpreter meets in daemon threads."""

from __future__ import annotations

import atexit
import threading

from lumbre.state.run_state import RunState

# Seconds that Python's end waits for each of them.
_PATIENCE = 5.0

_runs: dict[int, tuple[RunState, threading.Thread]] = {}


def watch(ctx: RunState) -> None:
    """See to it that a run is over before the interpreter is, if nobody else does.

    Python up to 3.13 ends daemon threads wherever they are when it ends itself. In the middle of a
    call through Rust, or through torch, that would abort the process.
    """
    thread = threading.current_thread()
    if thread.daemon:
        atexit.unregister(_end)
        atexit.register(_end)
        _runs[id(ctx)] = (ctx, thread)


def forget(ctx: RunState) -> None:
    """The run is over."""
    _runs.pop(id(ctx), None)


def _end() -> None:
    """Let them finish their batch and end in order, as Ctrl-C would."""
    for ctx, thread in list(_runs.values()):
        ctx._interrupt()
        thread.join(_PATIENCE)
