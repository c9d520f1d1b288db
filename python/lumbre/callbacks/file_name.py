"""Names of files with the values of an epoch in them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from lumbre.errors import ArgumentError
from lumbre.files.path import absolute

_RECORD = re.compile(r"(train|valid)_[^.\[\]]+")


class FileName:
    """A path with `{epoch}`, `{monitor}` and names of records in it, such as `{valid_loss:.3f}`.

    Nothing else is filled in: a name cannot reach into objects.

    Args:
        owner: What messages call the callback.
        text: The path.

    Raises:
        ArgumentError: when a field is none of these, or its format is none of numbers.
    """

    def __init__(self, owner: str, text: str) -> None:
        self.text = text
        self._owner = owner
        try:
            parsed = list(Formatter().parse(text))
        except ValueError as error:
            raise ArgumentError(
                f"{owner}: path {text!r} has braces that do not match ({error}). A brace of the "
                "path itself is written twice: {{ or }}."
            ) from None
        for _, field, spec, conversion in parsed:
            if field is not None:
                self._check(field, spec or "", conversion)
        self.fields = {field for _, field, _, _ in parsed if field is not None}
        self._parts = parsed
        # What comes before the first field is the same in all the paths.
        first = next((i for i, each in enumerate(parsed) if each[1] is not None), len(parsed))
        self._start = "".join(literal for literal, *_ in parsed[: first + 1])
        self._anchored = self._start

    def anchor(self) -> None:
        """Let the paths lie where they would lie now, whatever the working folder will be."""
        self._anchored = absolute(self._start)

    @property
    def folder(self) -> str:
        """The innermost folder that is the same for all the paths."""
        return os.path.dirname(self._anchored)

    def fill(self, values: Mapping[str, Any]) -> str:
        """Return the path with the values of the fields."""
        pieces = []
        for literal, field, spec, _ in self._parts:
            pieces.append(literal)
            if field is not None:
                pieces.append(format(values[field], spec or ""))
        return self._anchored + "".join(pieces)[len(self._start) :]

    def _check(self, field: str, spec: str, conversion: str | None) -> None:
        known = field in ("epoch", "monitor") or _RECORD.fullmatch(field)
        if not known or conversion:
            shown = f"{field}!{conversion}" if conversion else field
            raise ArgumentError(_NO_FIELD.format(self._owner, "{" + shown + "}"))
        try:
            format(1 if field == "epoch" else 1.0, spec)
        except ValueError as error:
            example = "02d" if field == "epoch" else ".3f"
            raise ArgumentError(
                f"{self._owner}: path has the field {{{field}:{spec}}}, and {spec!r} is no format "
                f"of a number ({error}). Use one such as {{{field}:{example}}}."
            ) from None


_NO_FIELD = (
    "{}: path has the field {}; there are {{epoch}}, {{monitor}} and the names of records, such as "
    "{{valid_loss:.3f}}. A brace of the path itself is written twice: {{{{ or }}}}."
)
