"""`schedule`: the plan of a run, to look at."""

from __future__ import annotations

from lumbre._core import Schedule
from lumbre.callbacks.default import default_callbacks
from lumbre.hooks.foreign import Callbacks, as_callbacks
from lumbre.hooks.schedule import compile_schedule


def schedule(callbacks: Callbacks = ()) -> Schedule:
    """Show the plan of a run with these callbacks: its repr is a table.

    The default callbacks come first, as they do in `fit`.

    Args:
        callbacks: What would be given to `fit`.

    Returns:
        The plan; `rows` holds it as tuples (breakpoint, callback, kind, weight, filter).

    Raises:
        ScheduleError: when a weight is NaN or constraints form a cycle.
        HookError: when a method is named like a breakpoint and is none.
        ABIError: when a callback of a foreign library cannot be used.
    """
    return compile_schedule([*default_callbacks(progress=True), *as_callbacks(callbacks)])
