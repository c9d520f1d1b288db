"""The monitor that a callback's state is of, so that values of two monitors are never compared."""

from __future__ import annotations

from typing import Any

from lumbre.errors import ArgumentError


def watched(owner: Any) -> dict[str, str]:
    """Return what a callback watches, to be a part of its state."""
    return {"monitor": owner.monitor, "mode": str(owner.mode)}


def check_watched(owner: Any, state: Any) -> None:
    """Refuse a state of another monitor or mode; one that does not say, of lumbre 0.1.0, passes.

    Raises:
        ArgumentError: with both.
    """
    own = watched(owner)
    was = {name: state.get(name, value) for name, value in own.items()}
    if was != own:
        raise ArgumentError(_OF_ANOTHER.format(type(owner).__name__, _shown(was), _shown(own)))


def _shown(what: dict[str, str]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in what.items())


_OF_ANOTHER = (
    "{0}: the state is that of {1}, and this one has {2}; their values cannot be compared. Resume "
    "with {0}({1})."
)
