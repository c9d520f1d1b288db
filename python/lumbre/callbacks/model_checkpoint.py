"""Save the run while it is under way."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lumbre._core import Monitor
from lumbre.arguments import flag, monitor_of, number, whole
from lumbre.callbacks.file_name import FileName
from lumbre.callbacks.watched import check_watched, watched
from lumbre.engine.checkpoints import SUFFIX, check_savable
from lumbre.engine.writing import writing_of
from lumbre.errors import ArgumentError, SaveError
from lumbre.files import form
from lumbre.files.atomic import check_folder, check_writable, remove
from lumbre.files.path import absolute, is_folder_name, path_of, safe_name
from lumbre.hooks.callback import Callback

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class _Saved(NamedTuple):
    """A file by what its name is made of: a path out of a file is never believed."""

    epoch: int
    values: dict[str, float]


class _Plan(NamedTuple):
    """The work that is left in an epoch."""

    epoch: int
    save: _Saved | None


class ModelCheckpoint(Callback):
    """Saves the whole state of the run at the end of epochs, to go on from or to go back to.

    `lb.load_checkpoint(fitted, path)` takes the weights of such a file, `ResumeFromCheckpoint` goes
    on with the training. Files are written in one step: what was there before is whole until the
    new one is. `keep=3` leaves the best three of those that this callback has written, and deletes
    a file when a better one is safe; of equals the newer one is better. NaN is never an
    improvement, and the worst value to keep.

    Acts at `on_fit_begin` and `on_epoch_end`, at weight inf, after all others of that weight but
    those that resume: the state it saves has what `EarlyStopping` made of the epoch. An epoch that
    a stop, Ctrl-C or an exception has cut short is not saved, nor one that has not measured what is
    watched or is a part of the name.

    Args:
        path: The file. `{epoch}`, `{monitor}` and records such as `{valid_acc}` are filled in, with
            formats if you like; a path that ends in `/` gets
            `epoch-{epoch:02d}-<monitor's name>-{monitor:.3f}.safetensors`, where what a file name
            cannot hold is `_`. Folders are made. A relative path is that of the folder in which the
            fit begins, and `~` is expanded.
        monitor: What to watch: a set and the name of a record. Needed only where it is part of the
            path, or for one of the next two.
        save_best_only: Whether to save only an epoch that is better than all before.
        mode: Whether better is "min", "max" or nearer to "zero".
        min_delta: By how much a value has to be better for `save_best_only`.
        keep: How many files to keep; None for all.

    Raises:
        ArgumentError: when an argument makes no sense, or the path has other fields or is a URL.
        ArgumentTypeError: when `path` is no path or `save_best_only` no bool.
        MonitorError: when the fit begins without the data it watches; when an epoch has ended
            without the value, or with one that is no number.
        SaveError: when the fit begins with something in the state that no file can hold.
        FileError: when the path is a folder.
        OSError: when the system refuses to write, at the latest as the fit begins.

    Example:
        >>> ModelCheckpoint("run/", monitor="valid_acc", mode="max", keep=3)
        ModelCheckpoint(path='run/', monitor='valid_acc', save_best_only=False, mode='max',
        min_delta=0.0, keep=3)
    """

    weight = math.inf
    _rank = 1

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str = "valid_loss",
        save_best_only: bool = False,
        mode: Literal["min", "max", "zero"] = "min",
        min_delta: float = 0.0,
        keep: int | None = None,
    ) -> None:
        self.path = path_of(self, "path", path)
        self.monitor = monitor
        self.save_best_only = flag(self, "save_best_only", save_best_only)
        self.mode = mode
        self.min_delta = number(self, "min_delta", min_delta, least=0.0)
        self.keep = None if keep is None else whole(self, "keep", keep, least=1)
        self._begin()
        if (self.keep or 0) > 1 and not self._name.fields:
            start, end = os.path.splitext(self.path)
            name = f"{start}-{{epoch:02d}}{end}"
            raise ArgumentError(_ONE_FILE.format(path=self.path, keep=self.keep, name=name))

    def _begin(self) -> None:
        self._name = self._file_name()
        self._best = math.nan
        self._kept: list[_Saved] = []
        self._plan = _Plan(0, None)
        # To be deleted once the next file is there; and what the thread that writes has deleted.
        self._doomed: list[_Saved] = []
        self._deleted: list[_Saved] = []
        self._watched("monitor")

    def on_fit_begin(self, ctx: Context) -> None:
        """Refuse what could not be saved before an epoch is lost."""
        self._begin()
        for field in self._watches():
            self._watched(field).check(ctx)
        if self._compares:
            self._watched("monitor").check_mode(ctx)
        check_savable("ModelCheckpoint", ctx)
        if os.path.isdir(absolute(self.path)) and not is_folder_name(self.path):
            raise ArgumentError(
                f"ModelCheckpoint: path {self.path!r} is a folder. End it with a slash to get a "
                f'file for each epoch in it: ModelCheckpoint("{self.path}/").'
            )
        self._name.anchor()
        if ctx.accelerator.is_main:
            if self._name.fields:
                check_folder(self._name.folder)
            else:
                check_writable(self._name.fill({}))

    def on_epoch_end(self, ctx: Context) -> None:
        """Save, and delete what is not to be kept any more."""
        # The file of one holds the state of all: each has to know by then what it will save.
        for each in ctx.callbacks:
            if isinstance(each, ModelCheckpoint):
                each._decide(ctx)
        self._save(ctx)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, what was watched, and the files that it may delete."""
        self._forget_deleted()
        files = {
            name: [[each.epoch, dict(each.values)] for each in saved]
            for name, saved in (("kept", self._kept), ("doomed", self._doomed))
        }
        return {"path": self.path, "best": self._best, **files, **watched(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; files under another path are no longer its own.

        Raises:
            ArgumentError: when it is the state of another monitor or mode, and this one compares.
        """
        if self._compares:
            check_watched(self, state)
        self._best = float(state["best"])
        is_here = state["path"] == self.path
        self._kept, self._doomed = (
            [
                _Saved(int(epoch), {field: float(value) for field, value in values.items()})
                for epoch, values in (state.get(name, ()) if is_here else ())
            ]
            for name in ("kept", "doomed")
        )

    def _decide(self, ctx: Context) -> None:
        """Say what is to be saved in this epoch, once, and remember it as done."""
        if self._plan.epoch == ctx.epoch:
            return
        self._plan = _Plan(ctx.epoch, None)
        # What is behind a pause comes again when the fit goes on.
        is_paused = ctx._keeper is not None and ctx._keeper.is_paused
        if ctx._is_cut or ctx.exception is not None or is_paused:
            return
        values: dict[str, float] = {}
        for field in self._watches():
            value = self._watched(field).value(ctx)
            if value is None:
                return
            values[field] = value
        if self.save_best_only:
            if not self._watched("monitor").improves(values["monitor"], self._best):
                return
            self._best = values["monitor"]
        new = _Saved(ctx.epoch, values)
        if self.keep is not None:
            ranked = sorted([*self._kept, new], key=self._badness)
            best = {self._path(each): each for each in reversed(ranked)}
            kept = [each for each in ranked if best[self._path(each)] is each][: self.keep]
            if new not in kept:
                return
            # What has the path of the new one is written over.
            paths = {self._path(each) for each in kept}
            drop = [each for each in self._kept if self._path(each) not in paths]
            self._kept = kept
            self._forget_deleted()
            self._doomed += drop
        self._plan = _Plan(ctx.epoch, new)

    def _save(self, ctx: Context) -> None:
        new = self._plan.save
        if new is None:
            return
        self._plan = _Plan(ctx.epoch, None)
        state = ctx.state_dict()
        if not ctx.accelerator.is_main:
            return
        writing, path = writing_of(ctx), self._path(new)
        try:
            snapshot = form.Snapshot(state, "checkpoint")
        except SaveError as error:
            writing.fail(self, path, error)
            return
        doomed = [*self._doomed]
        writing.put(self, path, lambda: self._write(snapshot, path, doomed))

    def _write(self, snapshot: form.Snapshot, path: str, doomed: list[_Saved]) -> None:
        """Write a file; then those go that it has taken the place of."""
        snapshot.write(path)
        for each in doomed:
            is_here = self._path(each) in map(self._path, self._kept)
            if each not in self._deleted and not is_here:
                remove(self._path(each))
            self._deleted.append(each)

    def _forget_deleted(self) -> None:
        deleted = [*self._deleted]
        self._doomed = [each for each in self._doomed if each not in deleted]

    @property
    def _compares(self) -> bool:
        return self.save_best_only or self.keep is not None

    def _watches(self) -> list[str]:
        """The fields whose values are needed, `monitor` for the one that is watched."""
        fields = self._name.fields - {"epoch"}
        if self._compares:
            fields |= {"monitor"}
        return sorted(fields)

    def _watched(self, field: str) -> Monitor:
        if field == "monitor":
            return monitor_of(self, self.monitor, self.mode, self.min_delta)
        return Monitor("ModelCheckpoint", field)

    def _path(self, saved: _Saved) -> str:
        return self._name.fill({"epoch": saved.epoch, **saved.values})

    def _badness(self, saved: _Saved) -> tuple[bool, float, int]:
        value = saved.values.get("monitor", math.nan)
        bad = {"min": value, "max": -value, "zero": abs(value)}[self.mode]
        return math.isnan(bad), 0.0 if math.isnan(bad) else bad, -saved.epoch

    def _file_name(self) -> FileName:
        path = path_of(self, "path", self.path)
        if is_folder_name(path):
            monitor = safe_name(str(self.monitor)).replace("{", "{{").replace("}", "}}")
            path += f"epoch-{{epoch:02d}}-{monitor}-{{monitor:.3f}}{SUFFIX}"
        return FileName("ModelCheckpoint", path)


_ONE_FILE = (
    "ModelCheckpoint: path {path!r} is one file, of which none but the newest is there; "
    "keep={keep} needs a name for each epoch. For a folder of them end it with a slash, "
    '"{path}/", or say where the epoch goes: "{name}".'
)
