"""Which part of a run an exception comes from, told by the code that it passed."""

from __future__ import annotations

from typing import Any

from lumbre.engine.parts import step_of
from lumbre.state.run_state import RunState
from lumbre.step.step import Step
from lumbre.text import name_of


def part_of(ctx: RunState, error: BaseException) -> str:
    """Return the part of the run that the exception passed last."""
    model = type(ctx.model).__name__
    names = (f"{model}.forward", name_of(ctx.loss_fn), "the backward pass", "the step")
    parts = [*zip(ctx._parts or (), names, strict=False)]
    parts += [(Step.predict, names[0]), (Step.compute_loss, names[1])]
    parts += [(Step.prepare_step, "the gradients of the step"), (Step.answer, f"{model}.predict")]
    parts += [(step_of(ctx).own, f"{model}.step")]
    known = {_code(part): name for part, name in parts}
    where = "the loop"
    traceback = error.__traceback__
    while traceback is not None:
        where = known.get(traceback.tb_frame.f_code, where)
        traceback = traceback.tb_next
    return f"{type(ctx.opt).__name__}.step" if where == "the step" else where


def _code(function: Any) -> Any:
    return getattr(getattr(function, "__wrapped__", function), "__code__", None)
