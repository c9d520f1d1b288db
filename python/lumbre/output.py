"""The words of lumbre to people. No stream ends a run: what it cannot take is left out."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

_LOST = "lumbre: what is said on sys.{} is left out, as it cannot be written: {}: {}\n"
# The streams of which that has been told.
_told: set[str] = set()


def say(line: str) -> None:
    """Print a line."""
    write("stdout", sys.stdout, f"{line}\n")


def say_at_once(line: str) -> None:
    """Print a line of which a signal is the reason: the buffers of the streams may be in use."""
    if sys.__stderr__ is not None:  # else the number may be that of any file
        with contextlib.suppress(OSError):
            os.write(2, f"\n{line}\n".encode())


def write(name: str, stream: Any, text: str) -> None:
    """Write to the stream `name`; that it cannot be written to is told once, on the other one."""
    error = _failure(stream, text)
    if error is not None and name not in _told:
        _told.add(name)
        other = sys.stderr if name == "stdout" else sys.stdout
        _failure(other, _LOST.format(name, type(error).__name__, error))


def is_terminal(stream: Any) -> bool:
    """True if a stream says that it is a terminal; one that cannot say it is none."""
    try:
        return bool(stream.isatty())
    except Exception:  # None, closed, or a class of the user's that only writes
        return False


def _failure(stream: Any, text: str) -> Exception | None:
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            plain = text.replace("·", "-").encode(encoding, "backslashreplace")
            stream.write(plain.decode(encoding))
        if hasattr(stream, "flush"):
            stream.flush()
    except Exception as error:  # whatever a class of the user's raises
        return error
    return None
