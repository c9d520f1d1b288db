"""Writing a file so that its path never holds half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from lumbre.errors import ArgumentTypeError, FileError


@contextlib.contextmanager
def replacing(path: str) -> Iterator[Path]:
    """Give the path of a temporary file that takes the place of the file if all goes well.

    What is written to it has to be synced by who writes it. Folders that are missing are made; a
    link is followed, so that it stays one. When anything is raised, the path holds what it held
    before, and what the system refused is raised with the path that the user knows.

    Raises:
        FileError: when the path is something else than a file.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "no regular file"
        raise FileError(f"{path} is {what}: pass the path of a file.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder: only there is a rename sure to be one step.
        token = f"{os.getpid()}.{os.urandom(6).hex()}"
        temporary = target.with_name(f".{target.name[:40]}.{token}.tmp")
        # Made here, so that it gets the mode of any new file of the user.
        made = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            mode = stat.S_IMODE(os.fstat(made).st_mode)
            os.close(made)
            yield temporary
            temporary.chmod(mode)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, path) from error


def as_path(path: object) -> str:
    """Give a path as a string.

    Raises:
        ArgumentTypeError: when it is neither a string nor a path.
    """
    if isinstance(path, str | bytes | os.PathLike):
        return os.fsdecode(path)
    raise ArgumentTypeError(
        f"path is of type {type(path).__qualname__}; expected a string or a pathlib.Path, such as "
        "'net.lumbre'."
    )


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
