"""A thread that writes files, one after the other, while training goes on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple


class Written(NamedTuple):
    """A file that was to be written.

    Attributes:
        owner: Who wanted it.
        path: Its path.
        error: Why that was not possible; None when it is on the disk.
        write: Writes it.
    """

    owner: object
    path: str
    error: BaseException | None
    write: Callable[[], None]


class _Task(NamedTuple):
    owner: object
    path: str
    write: Callable[[], None]
    may_be_replaced: bool


class Writer:
    """Writes files in a thread of its own, in the order in which they are wanted.

    Args:
        tell: Called in that thread when a file is done with, or its time has come.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._changed = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._done: list[Written] = []
        self._busy: _Task | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def put(
        self, owner: object, path: str, write: Callable[[], None], may_be_replaced: bool = False
    ) -> None:
        """Write a file when those before it are written.

        One that may be replaced takes the place of a waiting one of its owner. Of the others of an
        owner one waits at most, so that there is an end to what lies in memory.
        """
        task = _Task(owner, path, write, may_be_replaced)
        with self._changed:
            if may_be_replaced:
                kept = [each for each in self._tasks if each.owner is not owner]
                self._tasks = deque(kept)
            else:
                self._changed.wait_for(lambda: all(t.owner is not owner for t in self._tasks))
            self._tasks.append(task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lumbre-writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def done(self) -> list[Written]:
        """Return what was done with since this was last asked."""
        with self._changed:
            done, self._done = self._done, []
        return done

    def join(self) -> None:
        """Wait until all is written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._tasks and self._busy is None)

    def close(self) -> None:
        """Wait until all is written, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or self._is_closed)
                if not self._tasks:
                    return
                task = self._busy = self._tasks.popleft()
            error: BaseException | None = None
            try:
                task.write()
            except BaseException as caught:  # the run hears of it
                error = caught
            with self._changed:
                self._done.append(Written(task.owner, task.path, error, task.write))
                self._busy = None
                self._changed.notify_all()
            del task
            self._tell()
