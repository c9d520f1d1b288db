"""The one rule for paths: what is taken for one, and which file it means."""

from __future__ import annotations

import os
import re
from typing import Any

from lumbre.arguments import by
from lumbre.errors import ArgumentError, ArgumentTypeError

# A path object has made one slash of the two.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_URL_IN_A_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# What a file name cannot hold on one system or another.
_UNSAFE = re.compile(r'[\x00-\x1f/\\:*?"<>|]')


def path_of(owner: object | None, name: str, value: Any) -> str:
    """Return a path as a string, as it was written.

    Args:
        owner: The callback whose argument it is; None for a function's.
        name: The name of the argument.
        value: What was passed.

    Raises:
        ArgumentTypeError: when it is neither a string nor a path.
        ArgumentError: when it is empty, which the system would take for the working folder, has a
            NUL in it, or is a URL.
    """
    what = by(owner) + name
    if not isinstance(value, str | bytes | os.PathLike):
        raise ArgumentTypeError(
            f"{what} is of type {type(value).__qualname__}; expected a string or a pathlib.Path, "
            "such as 'run/net.lumbre'."
        )
    path = os.fsdecode(value)
    if not path:
        raise ArgumentError(
            f"{what} is empty; expected the name of a file or folder, such as 'run/net.lumbre'."
        )
    if "\0" in path:
        raise ArgumentError(f"{what} {path!r} has a NUL in it, which no path can have: remove it.")
    if (_URL if isinstance(value, str | bytes) else _URL_IN_A_PATH).match(path):
        raise ArgumentError(
            f"{what} {path!r} is a URL, and lumbre reads and writes files of this machine: pass "
            "the path of one, such as 'run/net.lumbre', and copy it from or to the URL."
        )
    return path


def file_of(owner: object, name: str, value: Any, example: str) -> str:
    """Return the path of one file as a string, as it was written.

    Raises:
        ArgumentTypeError: as `path_of` does.
        ArgumentError: as `path_of` does, and when it is a folder.
    """
    path = path_of(owner, name, value)
    if is_folder_name(path) or os.path.isdir(os.path.expanduser(path)):
        raise ArgumentError(
            f"{by(owner)}{name} is one file; got the folder {path!r}. Use one in it: "
            f"{os.path.join(path, example)!r}."
        )
    return path


def as_path(value: Any) -> str:
    """Return the path that a function was given, with `~` expanded; refused as in `path_of`."""
    return os.path.expanduser(path_of(None, "path", value))


def absolute(path: str) -> str:
    """Return the path that stays the same when the working folder changes, with `~` expanded.

    Links and `..` are left to the system, which alone knows where they lead.
    """
    path = os.path.expanduser(path)
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def is_folder_name(path: str) -> bool:
    """Return True if a path can be that of a folder only."""
    return path.endswith(("/", os.sep))


def is_there(path: str) -> bool:
    """Return True if there is something at a path.

    Raises:
        OSError: when that cannot be seen: for want of a permission, or as the disk is away.
    """
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        error.add_note("Whether a file is there cannot be seen: make the path readable first.")
        raise
    return True


def safe_name(text: str) -> str:
    """Return a text that is a part of one file name on every system; what cannot be is `_`."""
    return _UNSAFE.sub("_", text)
