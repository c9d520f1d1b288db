"""A disk in the hand of a test: each system call of lumbre's is seen, and fails if it is to."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lumbre.files import door

__all__ = ["Disk"]


class Disk:
    """Stands in the door while a test runs.

    Attributes:
        calls: What was called, in order.
        fault: Called with the number of a call, from 0, its name and its path, before it is made.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
        self.calls: list[str] = []
        self.fault: Callable[[int, str, str], None] | None = None
        if monkeypatch is None:
            door.call = self._call
        else:
            monkeypatch.setattr(door, "call", self._call)

    def _call(self, name: str, path: str | Path, do: Callable[[], Any]) -> Any:
        self.calls.append(name)
        if self.fault is not None:
            self.fault(len(self.calls) - 1, name, str(path))
        return do()

    def refuse(self, *numbers: int, name: str | None = None, number: int = errno.ENOSPC) -> None:
        """Refuse the calls of these numbers, or all of a name."""

        def fault(count: int, called: str, path: str) -> None:
            if count in numbers or called == name:
                raise OSError(number, os.strerror(number), path)

        self.fault = fault

    def kill(self, at: int) -> None:
        """End the process at the call of this number."""

        def fault(count: int, called: str, path: str) -> None:
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

        self.fault = fault

    def heal(self) -> None:
        """Let all go well again, and forget what was called."""
        self.fault = None
        self.calls.clear()
