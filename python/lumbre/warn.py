"""Warnings that show the line of the user's that led to them."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from lumbre.output import write

# What may stand between that line and the warning: a context manager or a closure, too.
_BETWEEN = ("lumbre", "torch", "contextlib")


def warn(message: str, category: type[Warning]) -> None:
    """Warn, as of the line that called lumbre: that of `fit`, or of a callback of the user's.

    Python shows a warning once for each line and text, so that what a fit says in both passes is
    said once.
    """
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and _module(frame) in _BETWEEN:
        level += 1
        frame = frame.f_back
    try:
        warnings.warn(message, category, stacklevel=level)
    except Exception as error:
        if isinstance(error, Warning):  # a filter has made an error of it
            raise
        # Python lets pass what a full stream raises, and nothing else, such as a closed one.
        write("stderr", sys.stderr, f"{category.__name__}: {message}\n")


def _module(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__") or ""
    return name.partition(".")[0]
