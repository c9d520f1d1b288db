"""The model as it was trained so far, on an exception that leaves a fit."""

from __future__ import annotations

import contextlib
from typing import Any

from lumbre.fit.fitted import Fitted


class Carried(Fitted):
    """A `Fitted` that an exception carries; pickled with that, such as to another process, None."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_nothing, ())


def carry(error: BaseException, fitted: Fitted) -> None:
    """Put a model onto an exception, as `error.fitted`, unless it has one of an inner fit."""
    if isinstance(getattr(error, "fitted", None), Fitted):
        return
    with contextlib.suppress(Exception):  # a class that takes no attributes
        error.fitted = fitted  # type: ignore[attr-defined]
        error.add_note("error.fitted is the model as it was trained so far.")


def _nothing() -> None:
    """A pickled `error.fitted` becomes None."""
