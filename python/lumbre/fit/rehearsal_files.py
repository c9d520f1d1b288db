"""What callbacks will write, and what a kill will leave of a fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lumbre.callbacks.auto_resume import AutoResume
from lumbre.callbacks.loggers.epoch_log import EpochLog
from lumbre.callbacks.loggers.tensorboard import TensorBoard
from lumbre.callbacks.model_checkpoint import ModelCheckpoint
from lumbre.engine.metric_states import why_not
from lumbre.files.path import absolute, is_there, path_of
from lumbre.fit.rehearsal_report import File


def files_of(callbacks: Iterable[Any]) -> list[File]:
    """Return what the callbacks that come with lumbre will write, by their arguments."""
    files = []
    for each in callbacks:
        name = type(each).__name__
        if isinstance(each, AutoResume):
            path = _path(each, "path")
            what = "is there, and the fit goes on from it" if is_there(path) else "state"
        elif isinstance(each, ModelCheckpoint):
            path, what = absolute(each._file_name().text), "checkpoints"
        elif isinstance(each, EpochLog):
            path = _path(each, "path")
            what = "is there, and a new fit begins it anew" if is_there(path) else "log"
        elif isinstance(each, TensorBoard):
            path, what = _path(each, "logdir"), "folder of logs"
        else:
            continue
        files.append(File(name, path, what))
    return files


def losses_of_a_kill(callbacks: Iterable[Any], metrics: Mapping[str, Iterable[Any]]) -> list[str]:
    """Say in sentences what a kill will and will not lose."""
    callbacks = [*callbacks]
    keeps = next((each for each in callbacks if isinstance(each, AutoResume)), None)
    if keeps is None:
        return [_ALL, *([_CHECKPOINTS] if _has_checkpoints(callbacks) else [])]
    path = _path(keeps, "path")
    every = keeps._every()
    why = next((w for each in metrics.values() for m in each if (w := why_not(m))), None)
    due = ["at the end of each epoch"] if every.epoch else []
    if every.steps is not None:
        due.append(f"after each {every.steps} training batches")
    if every.seconds is not None:
        is_long = every.seconds >= 60
        time = f"{every.seconds / 60:g} minutes" if is_long else f"{every.seconds:g} seconds"
        due.append(f"after each {time}")
    said = [_KEPT, _DUE.format(path, ", ".join(due)), _LOST]
    if why is not None:
        return [*said, _ENDS_ONLY.format(why)]
    names = [getattr(each, "name", str(each)) for each in keeps.signals]
    return [*said, _NOTHING.format(" or ".join(["Ctrl-C", *names]))]


def _path(callback: Any, name: str) -> str:
    return absolute(path_of(callback, name, getattr(callback, name)))


def _has_checkpoints(callbacks: Iterable[Any]) -> bool:
    return any(isinstance(each, ModelCheckpoint) for each in callbacks)


_ALL = (
    "A kill loses the whole fit: there is no AutoResume. Pass "
    'callbacks=AutoResume("run/state.safetensors") to go on where it was.'
)
_CHECKPOINTS = (
    "The files of ModelCheckpoint stay. ResumeFromCheckpoint goes on from one, at the epoch after "
    "its own."
)
_KEPT = (
    "A kill does not lose weights, optimizers, records, counters and random numbers: started "
    "again, the fit goes on from the last state."
)
_DUE = "The state is in {}: it is written when the fit begins, then {}."
_LOST = "A kill loses the batches since the last state, which are trained again."
_NOTHING = "A pause by {} loses nothing: the state behind the batch under way is written."
_ENDS_ONLY = (
    "States are those of the ends of epochs only, and a pause loses the epoch under way too: what "
    "a metric has seen cannot be kept. {}"
)
