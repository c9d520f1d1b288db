"""Writing a file so that its path never holds half of one, and what else writing asks for."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from lumbre.errors import FileError
from lumbre.files import door, locks
from lumbre.files.door import File
from lumbre.files.path import is_folder_name

_TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{12}\.tmp")


@contextlib.contextmanager
def replacing(path: str) -> Iterator[File]:
    """Give a new file that takes the place of the one at a path if all goes well.

    Folders that are missing are made; a link is followed, so that it stays one. The file is on the
    disk when this is left. When anything is raised, the path holds what it held before, and what
    the system refused is raised with the path that the user knows.

    Raises:
        FileError: when the path is something else than a file.
    """
    with naming(path):
        target = _target(path)
        with _temporary(target.parent, target.name) as file:
            yield file
            file.sync()
            if os.name == "nt":
                file.close()  # no file that is open can be renamed there
            door.rename(file.path, target)
        door.sync_folder(target.parent)


def append(path: str, data: bytes, cut: int | None = None, sync: bool = False) -> None:
    """Write bytes behind those that a file has; it is made if it is not there.

    Args:
        path: The file, in a folder that is there; a link is followed.
        data: The bytes.
        cut: How many bytes of the file stay; None for all.
        sync: Whether the bytes are on the disk when this returns.

    Raises:
        OSError: when the system refuses, with the path; what could be written of the bytes is
            taken back where that is possible.
    """
    with naming(path), File(Path(path), os.O_CREAT | os.O_APPEND) as file:
        is_regular = stat.S_ISREG(os.fstat(file.number).st_mode)
        if cut is not None and is_regular:
            file.truncate(cut)
        before = os.fstat(file.number).st_size
        try:
            file.write(data)
        except OSError:
            if is_regular:
                with contextlib.suppress(OSError):
                    file.truncate(before)
            raise
        if sync:
            file.sync()


def check_writable(path: str) -> None:
    """See that a file can be written at a path, before there is anything to lose.

    Folders that are missing are made; a file is written beside the path and removed.

    Raises:
        FileError: when the path is something else than a file.
        OSError: when the system refuses, with the path.
    """
    with _told_before(path):
        target = _target(path)
        _try(target.parent, target.name)


def check_folder(folder: str) -> None:
    """See that files can be written in a folder, as `check_writable` does.

    Raises:
        OSError: when the system refuses, with the path of the folder.
    """
    with _told_before(folder):
        _try(Path(os.path.realpath(folder)), "file")


def make_folder(path: str) -> None:
    """Make the folder of a file, and those above it, where they are missing.

    Raises:
        OSError: when the system refuses, with the path of the file.
    """
    with _told_before(path):
        door.make_folder(Path(os.path.realpath(path)).parent)


def remove(path: str) -> None:
    """Delete a file that may be gone already; a link is followed, as it is for writing.

    Raises:
        OSError: when the system refuses, with the path.
    """
    with naming(path):
        door.unlink(Path(os.path.realpath(path)))


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Let what the system refuses within name the path that the user knows."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            error.add_note(f"writing {path}")
            raise
        raise OSError(error.errno, error.strerror, path) from error


@contextlib.contextmanager
def _told_before(path: str) -> Iterator[None]:
    try:
        with naming(path):
            yield
    except OSError as error:
        error.add_note("Nothing can be written there: pass a path in a folder that can be used.")
        raise


def _target(path: str) -> Path:
    target = Path(os.path.realpath(path))
    if target.is_dir() or is_folder_name(path):
        raise FileError(f"{path} is a folder: pass the path of a file.")
    if target.exists() and not target.is_file():
        raise FileError(f"{path} is no regular file: pass the path of a file.")
    return target


def _try(folder: Path, name: str) -> None:
    with _temporary(folder, name) as file:
        file.write(b"\n")


@contextlib.contextmanager
def _temporary(folder: Path, name: str) -> Iterator[File]:
    """Give a new file, open; it is gone at the end, unless renamed.

    It is locked, by which others see that its writer lives: those of the same name whose writers
    do not are deleted.
    """
    door.make_folder(folder)
    stem = f".{name[:40]}"
    _clean(folder, stem)
    file = _new(folder, stem)
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            if file.path.exists():
                door.unlink(file.path)
        locks.forget(file.number)
        file.close()


def _new(folder: Path, stem: str) -> File:
    # In the same folder: only there is a rename sure to be one step. It gets the mode of any new
    # file of the user.
    while True:
        path = folder / f"{stem}.{os.urandom(6).hex()}.tmp"
        file = File(path, os.O_CREAT | os.O_EXCL)
        # Somebody who cleans up may have been quicker with the lock.
        if locks.take(file.number) is not False and locks.is_at(file.number, path):
            return file
        locks.forget(file.number)
        file.close()


def _clean(folder: Path, stem: str) -> None:
    """Delete the temporary files of a name that killed writers have left."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for each in entries:
            found = _TEMPORARY.fullmatch(each.name)
            if found is None or f".{found[1]}" != stem or not each.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError), File(Path(each.path), 0) as file:
                if locks.take(file.number):
                    door.unlink(file.path)
                    locks.forget(file.number)
