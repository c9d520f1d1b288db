"""What callbacks ask of their arguments."""

from __future__ import annotations

import math
import numbers
from typing import TYPE_CHECKING, Any

from lumbre.errors import ArgumentError

if TYPE_CHECKING:
    from lumbre.context import Context


def number(
    owner: object,
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """A number within bounds, as a float.

    Raises:
        ArgumentError: when it is none, is NaN, or lies outside of them.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and value >= least and (value > above or above == -math.inf):
        if value < below or below == math.inf:
            return float(value)
    bounds = [
        *([f"from {least:g}"] if least > -math.inf else []),
        *([f"above {above:g}"] if above > -math.inf else []),
        *([f"below {below:g}"] if below < math.inf else []),
    ]
    wanted = " ".join(["a number", *bounds])
    raise ArgumentError(f"{type(owner).__name__}: {name} is {wanted}; got {value!r}.")


def whole(owner: object, name: str, value: Any, *, least: int) -> int:
    """A whole number from `least`.

    Raises:
        ArgumentError: when it is none.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least:
        return int(value)
    raise ArgumentError(
        f"{type(owner).__name__}: {name} is a whole number from {least}; got {value!r}."
    )


def optimizers_of(owner: Any, ctx: Context) -> list[str]:
    """The names of the optimizers that a callback acts on, by its `opt_name`.

    Raises:
        ArgumentError: when there is none of that name.
    """
    if owner.opt_name is None:
        return list(ctx.optimizers)
    if owner.opt_name not in ctx.optimizers:
        raise ArgumentError(
            f"{type(owner).__name__}: there is no optimizer {owner.opt_name!r}; "
            f"there are {', '.join(map(repr, ctx.optimizers))}."
        )
    return [owner.opt_name]
