"""Locks of the system on files: they go when the process does, whatever ends it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Any

from lumbre.errors import FileError, LumbreWarning
from lumbre.files import door
from lumbre.files.door import File
from lumbre.warn import warn

fcntl: Any
try:
    import fcntl
except ImportError:  # there is none on Windows
    fcntl = None

# A file that is open in a forked process, too, stays locked until that has ended as well: a worker
# of a loader lives on for seconds after a kill. It lets go of these at once.
_ours: set[int] = set()


def take(number: int) -> bool | None:
    """Lock a file that is open.

    Returns:
        False when another one has it, in this process or in another; None where the system has no
        locks for it.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        return None
    _ours.add(number)
    return True


def forget(number: int) -> None:
    """Say that a file is about to be closed, which lets go of its lock."""
    _ours.discard(number)


def is_at(number: int, path: Path) -> bool:
    """True if a file that is open is the one at a path."""
    try:
        return os.path.samestat(os.fstat(number), os.stat(path))
    except FileNotFoundError:
        return False


class Lock:
    """Keeps a path for one writer, by a file beside it that is locked and says who that is.

    Args:
        path: The path to keep; its folder is there.
        shown: The path as the user knows it.

    Raises:
        FileError: when another writer has it, with the host and the process.
        OSError: when the system refuses the file.
    """

    def __init__(self, path: Path, shown: str) -> None:
        self._path = path.with_name(f".{path.name[:40]}.lock")
        while True:
            file = File(self._path, os.O_CREAT)
            taken = take(file.number)
            # Whoever had it may have deleted it before this one was locked.
            if taken is not True or is_at(file.number, self._path):
                break
            forget(file.number)
            file.close()
        self._file = file
        if taken is False:
            file.close()
            raise FileError(_TAKEN.format(shown, _owner(self._path)))
        if taken is None:
            warn(_NO_LOCKS.format(shown), LumbreWarning)
        with contextlib.suppress(OSError):  # it is locked all the same
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Let others have the path; more than once has no effect."""
        if self._file.number < 0:
            return
        # Deleted while it is locked: nobody else can have it by then.
        with contextlib.suppress(OSError):
            door.unlink(self._path)
        forget(self._file.number)
        self._file.close()


def _owner(path: Path) -> str:
    with contextlib.suppress(OSError):
        if who := path.read_bytes()[:200].decode(errors="replace").strip():
            return who
    return "another process"


def _let_go() -> None:
    for number in _ours:
        with contextlib.suppress(OSError):
            os.close(number)
    _ours.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)

_TAKEN = (
    "{} is in use by a fit that is under way: {}. Wait for that to end, or give this fit a path of "
    "its own."
)
_NO_LOCKS = (
    "The file system of {} has no locks: that no other fit writes there at the same time is not "
    "checked."
)
