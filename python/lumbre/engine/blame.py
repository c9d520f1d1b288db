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
    where = _passed_last(ctx, error)
    names = {
        "forward": f"{model}.forward",
        "loss": name_of(ctx.loss_fn),
        "backward": "the backward pass",
        "gradients": "the gradients of the step",
        "optimizer": f"{type(ctx.opt).__name__}.step",
        "predict": f"{model}.predict",
        "step": f"{model}.step",
    }
    return names.get(where, "the loop")


def is_of_the_batch(ctx: RunState, error: BaseException) -> bool:
    """True if it comes from the model, the loss or the backward pass, and from no callback."""
    return _passed_last(ctx, error) in ("forward", "loss", "backward", "predict")


def _passed_last(ctx: RunState, error: BaseException) -> str:
    own = ("forward", "loss", "backward", "optimizer")
    parts = [*zip(ctx._parts or (), own, strict=False), (step_of(ctx).own, "step")]
    parts += [(Step.predict, "forward"), (Step.compute_loss, "loss")]
    parts += [(Step.prepare_step, "gradients"), (Step.answer, "predict")]
    known = {_code(part): name for part, name in parts}
    where = ""
    traceback = error.__traceback__
    while traceback is not None:
        where = known.get(traceback.tb_frame.f_code, where)
        traceback = traceback.tb_next
    return where


def _code(function: Any) -> Any:
    return getattr(getattr(function, "__wrapped__", function), "__code__", None)
