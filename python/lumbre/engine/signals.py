"""Signals that pause a run whose state is kept, such as the one that a scheduler sends first."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any

from lumbre.output import say_at_once
from lumbre.state.run_state import RunState

# What is in the hands of a run under way: a forked worker is none of its process.
_taken: list[Signals] = []


class Signals:
    """Turns signals into a pause: the batch is finished, the state is written, the process ends.

    An earlier handler in Python is called in the place of that end, when the state is on the disk;
    a signal that is ignored stays so. Only on the main thread.

    Args:
        ctx: The run.
        numbers: The signals.
    """

    def __init__(self, ctx: RunState, numbers: Iterable[int]) -> None:
        self._ctx = ctx
        self._before: dict[int, Any] = {}
        self._came: tuple[int, FrameType | None] | None = None
        if threading.current_thread() is not threading.main_thread():
            return
        for number in numbers:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN and before is not None:
                self._before[number] = before
                signal.signal(number, self._on)
        _taken.append(self)

    def close(self) -> None:
        """Put the earlier handlers back."""
        before, self._before = self._before, {}
        if self in _taken:
            _taken.remove(self)
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)

    def end(self) -> None:
        """After the run: let the earlier handler have the signal that came, or end the process.

        Raises:
            SystemExit: with 128 and the number of the signal.
        """
        if self._came is None:
            return
        self.close()
        number, frame = self._came
        if callable(earlier := signal.getsignal(number)):
            earlier(number, frame)
        else:
            raise SystemExit(128 + number)

    def _on(self, number: int, frame: FrameType | None) -> None:
        if self._came is not None:
            # It was asked for twice: the state of before is on the disk.
            raise SystemExit(128 + number)
        self._came = number, frame
        self._be_deaf_to_workers()
        self._ctx._interrupt(signal.Signals(number).name)
        if not self._ctx._is_silent:
            say_at_once(f"{signal.Signals(number).name}: finishing the batch, writing the state.")

    def _be_deaf_to_workers(self) -> None:
        """The same signal may have ended the workers of a loader, of which torch makes an error."""
        number = getattr(signal, "SIGCHLD", None)
        if number is not None and callable(before := signal.getsignal(number)):
            self._before[number] = before
            signal.signal(number, _nothing)


def _nothing(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


def _forget() -> None:
    """In a process that was forked from that of a run: its signals are its own."""
    for each in _taken:
        for number, before in each._before.items():
            with contextlib.suppress(ValueError, OSError):
                signal.signal(number, before)
    _taken.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
