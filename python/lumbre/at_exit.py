"""Runs that the end of the interpreter would meet in daemon threads."""

from __future__ import annotations

import atexit
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumbre.context import Context

# Seconds that Python's end waits: for the runs, in all, and then for what their threads do next.
_PATIENCE = 5.0
_GRACE = 2.0

# By identity: each of these is put in and taken out in one step, whatever other threads do.
_runs: dict[int, tuple[Context, threading.Thread]] = {}
_is_ending = False


def check() -> None:
    """End this thread instead of beginning a run in it, if Python is ending and would cut it off.

    A run inside of another one still begins, so that the outer one comes to its own end.

    Raises:
        SystemExit: Which ends a thread without a word. It is a daemon: Python is not to wait for
            whatever it had in mind.
    """
    thread = threading.current_thread()
    if _is_ending and thread.daemon and all(own is not thread for _, own in _runs.copy().values()):
        raise SystemExit


def watch(ctx: Context) -> None:
    """See to it that a run is over before the interpreter is, if nobody else does.

    Python up to 3.13 ends daemon threads wherever they are when it ends itself. In the middle of a
    call through Rust, or through torch, that would abort the process.
    """
    thread = threading.current_thread()
    if not thread.daemon:
        return
    if not _runs and not _is_ending:
        atexit.unregister(_end)
        atexit.register(_end)
    _runs[id(ctx)] = (ctx, thread)
    if _is_ending:
        ctx._interrupt()


def forget(ctx: Context) -> None:
    """The run is over."""
    _runs.pop(id(ctx), None)


def _end() -> None:
    """As Ctrl-C would: they finish their batch and end in order, and so may what called them."""
    global _is_ending
    _is_ending = True
    threads: set[threading.Thread] = set()
    until = time.monotonic() + _PATIENCE
    # In a fork the threads of the process before it are not alive.
    while any(thread.is_alive() for _, thread in _runs.copy().values()):
        if time.monotonic() > until:
            return
        for ctx, thread in _runs.copy().values():
            ctx._interrupt()
            threads.add(thread)
        time.sleep(0.005)
    until = min(until, time.monotonic() + _GRACE)
    while any(each.is_alive() for each in threads) and time.monotonic() < until:
        time.sleep(0.005)
