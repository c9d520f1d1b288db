"""Which part of a run an exception comes from."""

from __future__ import annotations

import linecache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lumbre.engine import quiet_step
from lumbre.step import backward, step
from lumbre.text import name_of

if TYPE_CHECKING:
    from lumbre.engine.context import Context

_FILES = (step.__file__, backward.__file__)


def part_of(ctx: Context, error: BaseException) -> str:
    """Which part of the run an exception comes from, read from the frames that it passed."""
    parts = {
        "predict": f"{type(ctx.model).__name__}.forward",
        "predict_for_user": f"{type(ctx.model).__name__}.predict",
        "compare": name_of(ctx.loss_fn),
        "differentiate": "the backward pass",
        "differentiate_one": "the backward pass",
        "differentiate_own": "the backward pass",
        "update": f"{type(ctx.opt).__name__}.step",
        "settle": "the gradients of the step",
    }
    where = "the loop"
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        part = code.co_qualname.partition(".")[0]
        if code.co_filename == quiet_step.__file__ and part == "quiet_step_of":
            where = parts[_part_of_quiet_step(traceback)]
        elif code.co_filename in _FILES and part in parts:
            where = parts[part]
        elif code.co_name == "step" and ctx._steps and code is _code(ctx._steps[0]):
            where = f"{type(ctx.model).__name__}.step"
        traceback = traceback.tb_next
    return where


def _part_of_quiet_step(traceback: TracebackType) -> str:
    """Its parts are lines: which one was it?"""
    line = linecache.getline(quiet_step.__file__, traceback.tb_lineno)
    lines = {
        "now.model(": "predict",
        "now.loss_fn(": "compare",
        "compare(": "compare",
        "backward(": "differentiate",
        "check_scalar(": "differentiate",
    }
    return next((part for words, part in lines.items() if words in line), "update")


def _code(function: Any) -> Any:
    return getattr(getattr(function, "__wrapped__", function), "__code__", None)
