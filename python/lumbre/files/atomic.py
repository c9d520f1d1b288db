"""Writing a file so that its path never holds half of one, and what else writing asks for."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lumbre.errors import FileError
from lumbre.files.path import is_folder_name


@contextlib.contextmanager
def replacing(path: str) -> Iterator[Path]:
    """Give the path of a temporary file that takes the place of the file if all goes well.

    What is written to it has to be synced by who writes it. Folders that are missing are made; a
    link is followed, so that it stays one. When anything is raised, the path holds what it held
    before, and what the system refused is raised with the path that the user knows.

    Raises:
        FileError: when the path is something else than a file.
    """
    with naming(path):
        target = _target(path)
        with _temporary(target.parent, target.name) as (temporary, made):
            mode = stat.S_IMODE(os.fstat(made).st_mode)
            os.close(made)
            yield temporary
            temporary.chmod(mode)
            os.replace(temporary, target)
        _sync_folder(target.parent)


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
        _make(Path(os.path.realpath(path)).parent)


def remove(path: str) -> None:
    """Delete a file that may be gone already; a link is followed, as it is for writing.

    Raises:
        OSError: when the system refuses, with the path.
    """
    with naming(path):
        Path(os.path.realpath(path)).unlink(missing_ok=True)


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
    with _temporary(folder, name) as (_, made):
        try:
            os.write(made, b"\n")
        finally:
            os.close(made)


@contextlib.contextmanager
def _temporary(folder: Path, name: str) -> Iterator[tuple[Path, int]]:
    """Give a new file by its path and number, open; it is gone at the end, unless renamed."""
    _make(folder)
    # In the same folder: only there is a rename sure to be one step.
    temporary = folder / f".{name[:40]}.{os.getpid()}.{os.urandom(6).hex()}.tmp"
    # Made here, so that it gets the mode of any new file of the user.
    made = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        yield temporary, made
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        # A file in the place of the folder: that it is there is not what is wrong.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        # Some file systems have nothing to sync in a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)
