"""Digests of the user's own code: they say whether it has changed, and not how."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterable, Iterator
from typing import Any

# The packages whose code is known by their version.
_KNOWN = ("torch.", "lumbre.", "builtins", "numpy.", "torchmetrics.")


def is_foreign(kind: Any) -> bool:
    """True if a class or function is not the user's own."""
    return f"{getattr(kind, '__module__', '')}.".startswith(_KNOWN)


def code_of(owners: Iterable[Any]) -> dict[str, str]:
    """Return a digest of the code of each class or function, by its name.

    What is not Python, and what is of a package that is known by its version, is left out.

    Args:
        owners: Functions, classes, or objects, of which the class is meant.
    """
    found: dict[str, str] = {}
    for owner in owners:
        owner = getattr(owner, "function", owner)
        owner = getattr(owner, "func", owner)
        known = owner if isinstance(owner, type | types.FunctionType) else type(owner)
        for kind in known.__mro__ if isinstance(known, type) else (known,):
            if is_foreign(kind) or kind.__qualname__ in found:
                continue
            digest = hashlib.sha256()
            for code in _codes(kind):
                for part in _parts(code):
                    digest.update(part)
            found[kind.__qualname__] = digest.hexdigest()[:16]
    return found


def _codes(kind: Any) -> Iterator[types.CodeType]:
    members = [kind] if isinstance(kind, types.FunctionType) else vars(kind).values()
    for each in members:
        each = each.fget if isinstance(each, property) else each
        each = getattr(each, "__func__", each)
        each = getattr(each, "__wrapped__", each)
        if isinstance(each, types.FunctionType):
            yield each.__code__


def _parts(code: types.CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr((code.co_names, code.co_varnames)).encode()
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _parts(each)
        elif isinstance(each, frozenset):
            yield repr(sorted(map(repr, each))).encode()  # they have no order of their own
        else:
            yield repr(each).encode()
