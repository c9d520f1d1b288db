"""What holds around a run: Ctrl-C, exceptions and their handlers, and everything put back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch

from lumbre import at_exit
from lumbre.blame import part_of
from lumbre.step import clear_gradients, set_grad

if TYPE_CHECKING:
    from typing import Self

    from lumbre.context import Context

_Handlers = Mapping[type[BaseException], Callable[["Context", BaseException], Any]]


class RunGuard:
    """Around a whole run. The model and the metrics know `ctx` inside.

    Gradients are off, except where the loop is the user's own ("run"): there they are left alone.

    In a fit, an exception with an entry in `ctx.handlers` and a KeyboardInterrupt end the run and
    go no further; `evaluate` and `predict` raise them.
    """

    def __init__(self, ctx: Context, kind: Literal["fit", "run", "evaluate", "predict"]) -> None:
        self._ctx = ctx
        self._is_fit = kind in ("fit", "run")
        self._keeps_grad = kind == "run"

    def __enter__(self) -> Self:
        at_exit.check()
        ctx = self._ctx
        self._grad = torch.is_grad_enabled()
        ctx._grad_outside = self._grad and self._keeps_grad
        set_grad(ctx._grad_outside)
        # A pass inside of a fit, from a callback, must not leave the model in another mode.
        modules = () if self._is_fit else ctx.model.modules()
        self._modes = [(each, each.training) for each in modules]
        model = ctx.accelerator.unwrap(ctx.model)
        # A parameter, buffer or submodule of that name is the model's own, and stays in sight.
        own = any("ctx" in each for each in (model._parameters, model._buffers, model._modules))
        self._bound = [
            *([] if own else [model]),
            *(m for each in ctx.metrics.values() for m in each),
        ]
        self._before = [vars(each).get("ctx", _ABSENT) for each in self._bound]
        for each in self._bound:
            _bind(each, ctx)
        self._sigint = self._take_sigint()
        at_exit.watch(ctx)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        original = None if error is None else _original(error)
        try:
            if original is None:
                return False
            ended = self._end(original)
            if not ended and original is not error:
                context = original.__context__
                try:
                    raise original
                finally:
                    original.__context__ = context
            return ended
        finally:
            self._put_back()
            # An exception holds this frame: it must not hold the exception in turn.
            del error, original, traceback

    def _end(self, error: BaseException) -> bool:
        from lumbre import loop

        ctx = self._ctx
        set_grad(False)
        if isinstance(error, KeyboardInterrupt):
            ctx._interrupt()
            loop.interrupt(ctx)
            if self._is_fit:
                ctx._drop_open_epoch()
                loop.end_fit(ctx)
            return self._is_fit
        if not _handled(ctx, error, ctx.handlers if self._is_fit else {}):
            return False
        ctx.stop(f"{type(error).__name__}: {error}")
        _leave_batch(ctx)
        loop.close(ctx)
        return True

    def _put_back(self) -> None:
        ctx = self._ctx
        if self._sigint is not None:
            signal.signal(signal.SIGINT, self._sigint)
        set_grad(self._grad)
        for module, mode in self._modes:
            module.training = mode
        for each, before in zip(self._bound, self._before, strict=True):
            _bind(each, before)
        # An exception holds the frames that hold ctx: without this, ctx would hold itself.
        ctx.exception = None
        # The quiet step holds the place where it is kept, and with it the model.
        ctx.step = None
        ctx._pass = None
        if ctx._updates is not None:
            ctx._updates.close()
        # Nor may ctx hold the callbacks in Rust: what these hold they show to the garbage collector
        # only when no run can call them any more.
        ctx._unbind()
        at_exit.forget(ctx)
        self._bound, self._before, self._modes = [], [], []

    def _take_sigint(self) -> Any:
        """Turn the first Ctrl-C into a wish; the second one is taken at once."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            return None
        ctx = self._ctx

        def on_sigint(number: int, frame: FrameType | None) -> None:
            if ctx.interrupted:
                raise KeyboardInterrupt
            ctx._interrupt()
            if ctx.verbose:
                # Not by print: its buffer may be in use where the signal came.
                os.write(2, b"\nFinishing the batch; Ctrl-C again stops at once.\n")

        signal.signal(signal.SIGINT, on_sigint)
        return before


class EpochGuard:
    """Around the parts of an epoch: an exception in `ctx.epoch_handlers` ends the epoch only.

    Attributes:
        has_ended: Whether that has happened.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.has_ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        ctx = self._ctx
        if error is None or isinstance(error, KeyboardInterrupt) or not ctx.epoch_handlers:
            return False
        error = _original(error)
        if _find(ctx.epoch_handlers, error) is None:
            return False
        from lumbre import loop

        set_grad(ctx._grad_outside)
        _handled(ctx, error, ctx.epoch_handlers)
        _leave_batch(ctx)
        loop.close(ctx, inside_epoch=True)
        ctx.exception = None
        self.has_ended = True
        return True


def _handled(ctx: Context, error: BaseException, handlers: _Handlers) -> bool:
    """Fire `on_exception` and let the handler see the exception, if there is one for it."""
    from lumbre import loop

    ctx._note_exception(error, part_of(ctx, error))
    ctx.exception = error
    try:
        loop.fail(ctx)
    except BaseException as later:
        # What Rust raises does not know by itself what came before it.
        if later.__context__ is None and later is not error:
            later.__context__ = error
        raise
    handler = _find(handlers, error)
    if handler is None:
        return False
    handler(ctx, error)
    return True


def _leave_batch(ctx: Context) -> None:
    """The batch in which it happened counts in no metric; no gradient is left behind."""
    ctx.skip_batch()
    ctx._pass = None
    clear_gradients(ctx, whole=True)


def _find(handlers: _Handlers, error: BaseException) -> Callable[..., Any] | None:
    return next((handlers[kind] for kind in type(error).__mro__ if kind in handlers), None)


def _original(error: BaseException) -> BaseException:
    """A generator turns a StopIteration inside of it into a RuntimeError; turn ours back."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__", "")
    is_ours = type(error) is RuntimeError and where.startswith("lumbre.")
    return error.__cause__ if is_ours and isinstance(error.__cause__, StopIteration) else error


_ABSENT = object()


def _bind(owner: object, ctx: object) -> None:
    # Past nn.Module.__setattr__, which looks for parameters and refuses before super().__init__.
    if ctx is _ABSENT:
        vars(owner).pop("ctx", None)
    else:
        vars(owner)["ctx"] = ctx
