"""Keeps the state of a run in one file: when it is due, and where the run is paused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lumbre.engine.honest import bad_weights
from lumbre.engine.metric_states import why_not
from lumbre.engine.open_pass import open_pass, place_of
from lumbre.engine.resume import restore_again, restore_result, result_of, state_of
from lumbre.engine.signals import Signals
from lumbre.engine.writing import writing_of
from lumbre.errors import LumbreWarning, SaveError
from lumbre.files import form
from lumbre.files.locks import Lock
from lumbre.files.trees import copied, shared
from lumbre.state.run_state import RunState
from lumbre.warn import warn


class Every(NamedTuple):
    """When a state is due.

    Attributes:
        epoch: Whether at the end of each epoch.
        steps: After so many training batches; None for never.
        seconds: After so long; None for never.
    """

    epoch: bool
    steps: int | None = None
    seconds: float | None = None


class Keeper:
    """Writes the state of a run to its file, between two batches or two epochs.

    Args:
        ctx: The run.
        owner: The callback that wants it.
        file: The absolute path.
        every: When a state is due.
        skips: Whether workers leave out what was used, when the run goes on inside of a pass.
        signals: The signals that pause the run.
        identity: What the run is made of.
        keeps_end: Whether the file stays when the fit has come to its end.

    Attributes:
        identity: What the fit is made of, which its states hold.
        result: What a fit had come to that was ended before, and is not trained again.
        is_paused: True once the state of a pause is written: what comes then comes again.

    Raises:
        FileError: when another fit keeps its state there.
    """

    def __init__(
        self,
        ctx: RunState,
        owner: object,
        file: str,
        every: Every,
        skips: bool,
        signals: Iterable[int],
        identity: Mapping[str, Any],
        keeps_end: bool,
    ) -> None:
        self._ctx, self._owner, self._file, self._every = ctx, owner, file, every
        self.skips = skips
        is_main = ctx.accelerator.is_main
        self._lock = Lock(Path(os.path.realpath(file)), file) if is_main else None
        self.signals = Signals(ctx, signals)
        self._writing = writing_of(ctx)
        self.identity, self._keeps_end = identity, keeps_end
        self.result: Mapping[str, Any] | None = None
        self._last: dict[str, Any] | None = None  # the run as it was before its end
        self._has_written = False  # whether there is a state that another one would replace
        self.is_paused = False
        self._keeps_passes = True  # whether a state can be one of inside of an epoch
        self._is_late = False  # the time of the next state has come
        self._due_at = 0
        self._timer: threading.Timer | None = None

    def begin(self, is_resumed: bool) -> None:
        """Write the first state, before there is anything to lose."""
        for each in (metric for metrics in self._ctx.metrics.values() for metric in metrics):
            if self._keeps_passes and (why := why_not(each)) is not None:
                self._keeps_passes = False
                warn(_ONLY_EPOCHS.format(why), LumbreWarning)
        if is_resumed:
            self._has_written = True
        else:
            self._save(None)
            self._writing.join()
        self._expect()

    def attend(self) -> None:
        """Between two batches: write the state if it is due, or the run is paused."""
        if self._ctx.paused:
            self._pause(lambda: open_pass(self._ctx, begun=True), inside=True)
        elif self._is_due() and self._keeps_passes and not self._ctx.stopped:
            self._save(open_pass(self._ctx, begun=True))
            self._expect()

    def before_pass(self, training: bool) -> None:
        """Before a pass begins: go on from here if the state is of here; pause here if need be."""
        ctx = self._ctx
        here = {"epoch": ctx.epoch, "pass": ctx._pass_number + 1, "begun": False}
        going_on = ctx._going_on
        if going_on is not None and here.items() <= going_on["open"].items():
            ctx._going_on = None
            restore_again(ctx, going_on)
        if ctx.paused:
            self._pause(lambda: here | {"training": training, "iter": 0}, inside=True)

    def end_epoch(self) -> None:
        """After an epoch: write the state if it is due, or the run was paused behind all passes."""
        if self._ctx.paused:
            self._pause(lambda: None)
        elif not self._ctx.stopped and (self._every.epoch or self._is_due()):
            self._save(None)
            self._expect()

    def keep(self) -> None:
        """Write the state, between two passes of which the run would not go through one again."""
        if not self._ctx.paused:
            self._save(None)

    def before_end(self) -> None:
        """When all epochs are done: keep the run as it is before its end, which is written then."""
        ctx = self._ctx
        if self._keeps_end and not (ctx.paused or self.result is not None):
            self._last = copied(self._state(None))

    def end(self) -> None:
        """When the fit has come to its end: leave the file with what it has come to."""
        if self.result is not None:
            restore_result(self._ctx, self.result)
        elif self._last is not None and self._ctx.accelerator.is_main:
            last, self._last = self._last, None
            tree = last | {"finished": shared(result_of(self._ctx), last)}
            write = form.Snapshot(tree, "checkpoint", copies=False).write
            self._writing.put(self._owner, self._file, lambda: write(self._file))
        self._writing.join()

    def close(self) -> None:
        """Let go of the path and of the signals."""
        self._stop_clock()
        self.signals.close()
        if self._lock is not None:
            self._lock.release()

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _pause(self, where: Callable[[], Any], inside: bool = False) -> None:
        # What fires after a pause is for this process alone.
        if not self.is_paused:
            self.is_paused = True
            if self._keeps_passes or not inside:
                self._save(where())
            self._writing.join()

    def _save(self, opened: dict[str, Any] | None) -> None:
        ctx = self._ctx
        if not ctx.accelerator.is_main:
            return
        if self._has_written and (bad := bad_weights(ctx)):
            warn(_NOT_FINITE.format(self._file, ", ".join(bad[:3])), LumbreWarning)
            return
        self._has_written = True
        write = None
        try:
            write = form.Snapshot(self._state(opened), "checkpoint").write
        except SaveError as error:
            self._writing.fail(self._owner, self._file, error)
            return
        self._writing.put(self._owner, self._file, lambda: write(self._file), may_be_replaced=True)

    def _state(self, opened: dict[str, Any] | None) -> dict[str, Any]:
        continued = self._ctx._continued
        place = None if continued is None else place_of(continued.source, continued.used)
        return state_of(self._ctx, opened, place) | {"fit": self.identity}

    def _is_due(self) -> bool:
        steps = self._every.steps
        return self._is_late or (steps is not None and self._ctx.step_count >= self._due_at)

    def _expect(self) -> None:
        """Have the next state fall due."""
        ctx, every = self._ctx, self._every
        if every.steps is not None:
            self._due_at = ctx.step_count + every.steps
            if self._keeps_passes:
                ctx._call_attention_at(self._due_at)
        if every.seconds is not None:
            self._is_late = False
            self._stop_clock()
            self._timer = threading.Timer(every.seconds, self._be_late)
            self._timer.daemon = True
            self._timer.start()

    def _be_late(self) -> None:
        self._is_late = True
        self._ctx._call_attention()


_NOT_FINITE = (
    "There are weights that are not finite ({1}), so that the state in {0} stays as it was before: "
    "a fit that is started again goes on from there."
)
_ONLY_EPOCHS = (
    "What a metric has seen cannot be kept, so that states are those of the ends of epochs only: "
    "{} Give the metric state_dict(self), which returns plain values and tensors, and "
    "load_state_dict(self, state)."
)
