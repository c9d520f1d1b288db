"""The guard around a run: Ctrl-C, exceptions and their handlers, and everything put back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Literal, Self

import torch

from lumbre.engine import at_exit, ends
from lumbre.engine.blame import is_of_the_batch, part_of
from lumbre.engine.parts import step_of
from lumbre.errors import ArgumentError
from lumbre.hooks.function import FunctionCallback
from lumbre.output import say_at_once
from lumbre.state.run_state import Handlers, RunState
from lumbre.step.mends import CLOSURE, is_of_closure, mend_of
from lumbre.step.step import set_grad

# The guards of the runs under way, by the threads they are in; and which guard has what in use.
_under_way = threading.local()
_in_use: dict[int, RunGuard] = {}


class RunGuard:
    """Around a whole run. The model and the metrics know `ctx` inside.

    Gradients are off, except where the loop is the user's own ("run"): there they are left alone.

    In a fit, an exception with an entry in `ctx.handlers` and a KeyboardInterrupt end the run and
    go no further; `evaluate` and `predict` raise them.
    """

    def __init__(self, ctx: RunState, kind: Literal["fit", "run", "evaluate", "predict"]) -> None:
        self._ctx = ctx
        self._is_fit = kind in ("fit", "run")
        self._measures = kind == "evaluate"
        self._keeps_grad = kind == "run"
        self._thread = threading.get_ident()
        self._grad = torch.is_grad_enabled()
        self._taken: list[int] = []
        self._runs: list[RunGuard] = []
        self._modes: list[tuple[torch.nn.Module, bool]] = []
        self._bound: list[tuple[Any, object]] = []
        self._sigint: Any = None

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._put_back()
            raise
        return self

    def _begin(self) -> None:
        ctx = self._ctx
        self._take()
        ctx._grad_outside = self._grad and self._keeps_grad
        set_grad(ctx._grad_outside)
        # A run inside of another one must not leave the model of that in another mode.
        self._runs = _runs_here()
        shared = {id(each) for run in self._runs for each in _modules_of(run._ctx)}
        self._modes = [
            (each, each.training)
            for each in _modules_of(ctx)
            if not self._is_fit or id(each) in shared
        ]
        self._runs.append(self)
        model = ctx.accelerator.unwrap(ctx.model)
        owners = [
            *([] if _has_own_ctx(model) else [model]),
            *(m for each in ctx.metrics.values() for m in each),
        ]
        self._bound = [(each, vars(each).get("ctx", _ABSENT)) for each in owners]
        for each in owners:
            _bind(each, ctx)
        self._sigint = self._take_sigint()
        at_exit.watch(ctx)
        if self._is_fit:
            step_of(ctx).clear(ctx, whole=True)

    def _take(self) -> None:
        """Note what this run has in use.

        Raises:
            ArgumentError: when another run has a callback of this one, or, in another thread, its
                model.
        """
        ctx = self._ctx
        model = ctx.accelerator.unwrap(ctx.model)
        # A function at a breakpoint has no state that two runs could change.
        stateful = [each for each in ctx.callbacks if type(each) is not FunctionCallback]
        for each in (*stateful, model):
            # Predictions of one model may be made in several threads at once.
            takes = each is not model or self._is_fit or self._measures
            user = _in_use.setdefault(id(each), self) if takes else _in_use.get(id(each), self)
            if user is self:
                self._taken += [id(each)] if takes else []
            elif each is not model or user._thread != self._thread:
                raise ArgumentError(_IN_USE.format(type(each).__name__, _HOW[each is model]))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        keeper = self._ctx._keeper
        try:
            has_ended = self._leave(error)
        finally:
            del error, traceback  # an exception holds this frame
        # An exception that leaves the run has the last word.
        if keeper is not None and (kind is None or has_ended):
            keeper.signals.end()
        return has_ended

    def _leave(self, error: BaseException | None) -> bool:
        original = None if error is None else _original(error)
        try:
            if original is None:
                self._finish_writing()
                return False
            ended = self._end(original)
            if not ended and is_of_the_batch(self._ctx, original):
                _raise_mend(self._ctx, original)
            if not ended and original is not error:
                context = original.__context__
                try:
                    raise original
                finally:
                    original.__context__ = context
            if ended:
                self._finish_writing()
            return ended
        finally:
            self._put_back()
            # An exception holds this frame: it must not hold the exception in turn.
            del error, original

    def _finish_writing(self) -> None:
        if self._ctx._writing is not None:
            self._ctx._writing.finish()

    def _end(self, error: BaseException) -> bool:
        ctx = self._ctx
        set_grad(False)
        if isinstance(error, KeyboardInterrupt):
            ctx._interrupt()
            ends.interrupt(ctx)
            if self._is_fit:
                ends.end_at_once(ctx)
            return self._is_fit
        if not _handled(ctx, error, ctx.handlers if self._is_fit else {}):
            return False
        ctx.stop(f"{type(error).__name__}: {error}")
        _leave_batch(ctx)
        ends.close(ctx)
        return True

    def _put_back(self) -> None:
        ctx = self._ctx
        # Elsewhere Python lets nobody do so; ours hands on what comes after the run.
        if self._sigint is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._sigint)
        set_grad(self._grad)
        for module, mode in self._modes:
            module.training = mode
        for each, before in self._bound:
            if vars(each).get("ctx") is ctx:
                # The run that it was bound to before may be over, in another thread.
                is_over = isinstance(before, RunState) and before._is_over
                _bind(each, _ABSENT if is_over else before)
        if ctx._keeper is not None:
            ctx._keeper.close()
        if ctx._writing is not None:
            ctx._writing.close()
        # An exception holds the frames that hold ctx: without this, ctx would hold itself.
        ctx.exception = None
        # The parts of a step hold ctx, which would hold them.
        ctx.step = ctx._parts = ctx._pass = ctx._continued = ctx._loss_parts = None
        ctx._place = ctx._keeper = ctx._writing = ctx._going_on = ctx._going_on_data = None
        ctx._is_over = True
        step_of(ctx).windows.close()
        # Nor may ctx hold the callbacks in Rust: what these hold they show to the garbage collector
        # only when no run can call them any more.
        ctx._unbind()
        at_exit.forget(ctx)
        if self in self._runs:  # where it began: it may end in another thread
            self._runs.remove(self)
        while self._taken:
            del _in_use[self._taken.pop()]
        self._bound, self._modes = [], []

    def _take_sigint(self) -> Any:
        """Turn the first Ctrl-C into a wish; the second one is taken at once."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            return None
        ctx = self._ctx

        def on_sigint(number: int, frame: FrameType | None) -> None:
            if ctx._is_over:
                before(number, frame)
                return
            if ctx.interrupted:
                raise KeyboardInterrupt
            ctx._interrupt()
            if ctx.verbose:
                say_at_once("Finishing the batch; Ctrl-C again stops at once.")

        signal.signal(signal.SIGINT, on_sigint)
        return before


class EpochGuard:
    """Around the parts of an epoch: an exception in `ctx.epoch_handlers` ends the epoch only.

    Attributes:
        has_ended: Whether that has happened.
    """

    def __init__(self, ctx: RunState) -> None:
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
        set_grad(ctx._grad_outside)
        _handled(ctx, error, ctx.epoch_handlers)
        _leave_batch(ctx)
        ends.close(ctx, inside_epoch=True)
        self.has_ended = True
        return True


def _handled(ctx: RunState, error: BaseException, handlers: Handlers) -> bool:
    """Fire `on_exception` and let the handler see the exception, if there is one for it."""
    part = part_of(ctx, error)
    ctx._note_exception(error, part)
    if part.endswith(".step") and is_of_closure(error):
        error.add_note(CLOSURE)
    ctx.exception = error
    try:
        ends.fail(ctx)
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


def _leave_batch(ctx: RunState) -> None:
    """The batch in which it happened counts in no metric; no gradient is left behind."""
    ctx.skip_batch()
    ctx._pass = None
    step_of(ctx).clear(ctx, whole=True)


def _find(handlers: Handlers, error: BaseException) -> Callable[..., Any] | None:
    return next((handlers[kind] for kind in type(error).__mro__ if kind in handlers), None)


def _original(error: BaseException) -> BaseException:
    """A generator turns a StopIteration inside of it into a RuntimeError; turn ours back."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = "" if traceback is None else traceback.tb_frame.f_globals.get("__name__", "")
    is_ours = type(error) is RuntimeError and where.startswith("lumbre.")
    return error.__cause__ if is_ours and isinstance(error.__cause__, StopIteration) else error


def _runs_here() -> list[RunGuard]:
    """Return the runs under way in this thread, from the outside in."""
    runs: list[RunGuard] = vars(_under_way).setdefault("runs", [])
    return runs


def _raise_mend(ctx: RunState, error: BaseException) -> None:
    """Raise the error that says how what torch has refused is mended, if there is one."""
    mend = mend_of(ctx, error)
    try:
        if mend is not None:
            for note in getattr(error, "__notes__", ()):
                mend.add_note(note)
            raise mend from error
    finally:
        del mend, error  # it holds this frame, which must not hold it


def _modules_of(ctx: RunState) -> list[torch.nn.Module]:
    """Return all that is switched between training and evaluation: the model and the loss."""
    loss = ctx.loss_fn.modules() if isinstance(ctx.loss_fn, torch.nn.Module) else ()
    return [*ctx.model.modules(), *loss]


def _has_own_ctx(model: torch.nn.Module) -> bool:
    """True if the model has something of its own under the name `ctx`, which stays in sight."""
    registered = (model._parameters, model._buffers, model._modules)
    there = vars(model).get("ctx")
    return any("ctx" in each for each in registered) or not isinstance(there, RunState | None)


_IN_USE = "This {} is in a run that is under way, and would be changed by both. {}"
_HOW = {
    False: "Make one for each run.",
    True: "Train a copy in the other thread: copy.deepcopy(model).",
}

_ABSENT = object()


def _bind(owner: object, ctx: object) -> None:
    # Past nn.Module.__setattr__, which looks for parameters and refuses before super().__init__.
    if ctx is _ABSENT:
        vars(owner).pop("ctx", None)
    else:
        vars(owner)["ctx"] = ctx
