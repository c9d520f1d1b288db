"""Names of files with the values of an epoch in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from lumbre.errors import ArgumentError

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
        self._parts = parsed
        for _, field, spec, conversion in self._parts:
            if field is not None:
                self._check(field, spec or "", conversion)
        self.fields = {field for _, field, _, _ in self._parts if field is not None}

    @property
    def start(self) -> str:
        """What is the same in all the paths."""
        return self.text.partition("{")[0]

    def fill(self, values: Mapping[str, Any]) -> str:
        """The path with the values of the fields."""
        pieces = []
        for literal, field, spec, _ in self._parts:
            pieces.append(literal)
            if field is not None:
                pieces.append(format(values[field], spec or ""))
        return "".join(pieces)

    def _check(self, field: str, spec: str, conversion: str | None) -> None:
        known = field in ("epoch", "monitor") or _RECORD.fullmatch(field)
        if not known or conversion:
            shown = f"{field}!{conversion}" if conversion else field
            raise ArgumentError(
                f"{self._owner}: path has the field {{{shown}}}; there are {{epoch}}, {{monitor}} "
                "and the names of records, such as {valid_loss:.3f}. A brace of the path itself is "
                "written twice: {{ or }}."
            )
        try:
            format(1 if field == "epoch" else 1.0, spec)
        except ValueError as error:
            example = "02d" if field == "epoch" else ".3f"
            raise ArgumentError(
                f"{self._owner}: path has the field {{{field}:{spec}}}, and {spec!r} is no format "
                f"of a number ({error}). Use one such as {{{field}:{example}}}."
            ) from None
