"""The door to the disk: every system call by which lumbre writes a file is made here.

Each goes through `call`. A test that puts something in its place can make any one of them fail,
wait, or end the process.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

# No write of the system takes more at once on every system.
_MOST = 1 << 30


def call(name: str, path: str | Path, do: Callable[[], Any]) -> Any:
    """Make a system call.

    Args:
        name: "mkdir", "open", "write", "truncate", "fsync", "rename", "unlink" or
            "fsync_folder".
        path: What it is made on; of a rename the path that the file gets.
        do: Makes it.
    """
    return do()


class File:
    """A file that is open for writing.

    Args:
        path: Where it is.
        flags: How the system opens it, besides for writing.

    Attributes:
        number: The number that the system has given it.
    """

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        flags |= os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        self.number: int = call("open", path, lambda: os.open(path, flags, 0o666))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of the bytes."""
        rest = memoryview(data)
        while rest:
            write = functools.partial(os.write, self.number, rest[:_MOST])
            rest = rest[call("write", self.path, write) :]

    def seek(self, place: int) -> None:
        """Write on from a place, counted from the begin."""
        os.lseek(self.number, place, os.SEEK_SET)

    def truncate(self, size: int) -> None:
        """Cut the file to so many bytes."""
        call("truncate", self.path, lambda: os.ftruncate(self.number, size))

    def sync(self) -> None:
        """See what was written onto the disk."""
        call("fsync", self.path, lambda: os.fsync(self.number))

    def close(self) -> None:
        """Let go of the file; more than once has no effect."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing."""
    if folder.is_dir():
        return
    try:
        call("mkdir", folder, lambda: folder.mkdir(parents=True, exist_ok=True))
    except FileExistsError as error:
        # A file in the place of the folder: that it is there is not what is wrong.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


def rename(old: Path, new: Path) -> None:
    """Give a file the path of another one, whose place it takes in one step."""
    call("rename", new, lambda: os.replace(old, new))


def unlink(path: Path) -> None:
    """Delete a file, if it is there."""
    call("unlink", path, lambda: path.unlink(missing_ok=True))


def sync_folder(folder: Path) -> None:
    """See onto the disk which files a folder has."""
    if os.name == "nt":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        call("fsync_folder", folder, lambda: os.fsync(opened))
    except OSError as error:
        # Some file systems have nothing to sync in a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)
