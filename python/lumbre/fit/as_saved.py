"""A fit that goes on with the options that its state was saved with, whatever the script says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from lumbre.callbacks.auto_resume import AutoResume
from lumbre.files.tree import QualifiedName
from lumbre.fit.limits import Limits
from lumbre.fit.recipe import Recipe


def as_saved(recipe: Recipe, limits: Limits, callbacks: Iterable[Any]) -> tuple[Recipe, Limits]:
    """Return how a model is made and how long it is trained, by `AutoResume(changed="saved")`.

    Args:
        recipe: How the script says that it is made.
        limits: How long the script says that it is trained; its `max_time` stays.
        callbacks: Those of the run; where none of them is such a one nothing changes.
    """
    for each in callbacks:
        state = each.saved() if isinstance(each, AutoResume) else None
        if state is None:
            continue
        recipe = dataclasses.replace(
            recipe,
            hparams=_filled(state["hparams"], recipe.hparams),
            opt_hparams=_filled(state["opt_hparams"], recipe.opt_hparams),
        )
        saved = state["fit"]["fit"]
        of_state = {name: saved[name] for name in Limits._fields if name in saved}
        limits = limits._replace(**of_state)
    return recipe, limits


def _filled(saved: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return saved options; those of which a file has but the names of classes are the script's."""
    return {
        name: own[name] if _is_named(value) and name in own else value
        for name, value in saved.items()
    }


def _is_named(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_named, value))
    if isinstance(value, dict):
        return any(map(_is_named, value.values()))
    return isinstance(value, QualifiedName)
