"""The records, and the parameters if wanted, for TensorBoard. Its package comes on first use."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lumbre.arguments import flag
from lumbre.callbacks.loggers.epoch_log import SETS, values_of
from lumbre.callbacks.loggers.in_between import InBetween
from lumbre.engine.writing import writing_of
from lumbre.errors import MissingPackageError
from lumbre.files.atomic import check_folder, naming
from lumbre.files.path import absolute, path_of

if TYPE_CHECKING:
    from torch import nn

    from lumbre.engine.context import Context


_STEPS = "steps"


class TensorBoard(InBetween):
    """Writes the metrics of each epoch where TensorBoard finds them: `tensorboard --logdir ...`.

    Acts at `on_fit_begin`, `on_valid_end` before the first epoch, `on_epoch_end`, `on_fit_end`,
    `on_exception` and, with `every`, `on_train_batch_begin` and `on_train_batch_end`, at weight
    1e6: what others log at `on_epoch_end` is there by then. Changes nothing of `ctx`. Each set is a
    run of its own, `logdir/train` and `logdir/valid`: metrics of one name lie in one chart. A
    vector is written as `name/0`, `name/1` and so on; matrices are left out. The step is the epoch,
    and all is flushed after each one.

    The training has the learning rate besides, and the mean norm of the gradients and the speed
    where these are measured. What is measured before the first epoch is epoch 0. With `every` there
    is a third run, `logdir/steps`, whose step is the training batch, with what that batch has:
    `loss`, `lr`, `grad_norm` where that is measured, and the values of `ctx.log_mean`. On a device
    they are waited for.

    A resumed fit goes on with the curves, without those points that come again; of a new fit in a
    folder of an older one only the new curves are shown. No file is deleted.

    Args:
        logdir: The folder; it is made. A relative path is that of the folder in which the fit
            begins, and `~` is expanded.
        histograms: Whether to write how the values of each parameter are distributed after each
            epoch too, tagged by its name; those that are not finite are left out.
        every: Points for each so many training batches, too: those whose `ctx.step_count` it
            divides. None unless given.

    Raises:
        ArgumentTypeError: when `logdir` is no path, or `histograms` no bool.
        ArgumentError: when `logdir` is empty or a URL; when `every` is no whole number from 1.
        MissingPackageError: when the fit begins, if tensorboard is not installed.
        OSError: when the fit begins, if nothing can be written in the folder.

    Example:
        >>> TensorBoard("runs/first", histograms=True)
        TensorBoard(logdir='runs/first', histograms=True, every=None)
    """

    weight = 1e6

    def __init__(
        self,
        logdir: str | os.PathLike[str],
        histograms: bool = False,
        every: int | None = None,
    ) -> None:
        path_of(self, "logdir", logdir)
        self.logdir = logdir
        self.histograms = flag(self, "histograms", histograms)
        self._set_every(every)
        self._writers: dict[str, Any] = {}

    def on_fit_begin(self, ctx: Context) -> None:
        """See that there is all that is needed, before an epoch is lost."""
        super().on_fit_begin(ctx)
        self._close()
        self._folder = absolute(path_of(self, "logdir", self.logdir))
        if ctx.accelerator.is_main:
            _writer_class()
            check_folder(self._folder)
            for folder in filter(os.path.lexists, map(self._run, (*SETS, _STEPS))):
                check_folder(folder)

    def _write_step(self, ctx: Context, row: dict[str, float]) -> None:
        writing_of(ctx).attempt(self, self._run(_STEPS), lambda: self._add_step(ctx, row))

    def _add_step(self, ctx: Context, row: dict[str, float]) -> None:
        with naming(self._run(_STEPS)):
            # Points behind the last one that is due of before are of a fit that was broken off.
            writer = self._writer(_STEPS, ctx.step_count - (self.every or 1) + 1)
            for tag, number in row.items():
                if tag != "samples":
                    writer.add_scalar(tag, number, ctx.step_count)

    def on_valid_end(self, ctx: Context) -> None:
        """Write what is measured before the first epoch, as epoch 0."""
        if ctx._is_before_epochs:
            self.on_epoch_end(ctx)

    def on_epoch_end(self, ctx: Context) -> None:
        """Write the points of the epoch."""
        if ctx.accelerator.is_main:
            writing_of(ctx).attempt(self, self._folder, lambda: self._add_epoch(ctx))

    def _add_epoch(self, ctx: Context) -> None:
        for set_ in SETS:
            values = values_of(ctx, set_, ctx.epoch)
            is_drawn = self.histograms and set_ == "train"
            # A folder of an older fit is opened too: what this one has not is no longer shown.
            if not (values or is_drawn or os.path.isdir(self._run(set_))):
                continue
            with naming(self._run(set_)):
                writer = self._writer(set_, ctx.epoch)
                for tag, number in _numbers(values):
                    writer.add_scalar(tag, number, ctx.epoch)
                if is_drawn:
                    for name, points in _parameters(ctx.accelerator.unwrap(ctx.model)):
                        writer.add_histogram(name, points, ctx.epoch)
                writer.flush()
        if _STEPS in self._writers:
            with naming(self._run(_STEPS)):
                self._writers[_STEPS].flush()

    def on_fit_end(self, ctx: Context) -> None:
        """Close the files; they are opened again if the fit goes on."""
        try:
            self._close()
        except OSError as error:
            writing_of(ctx).fail(self, self._folder, error)

    on_exception = on_fit_end

    def _writer(self, set_: str, first: int) -> Any:
        if set_ not in self._writers:
            # Points from this one on are of a fit that was broken off, or of an older one.
            folder = self._run(set_)
            _wait_for_later_name(Path(folder))
            self._writers[set_] = _writer_class()(folder, purge_step=first)
        return self._writers[set_]

    def _close(self) -> None:
        while self._writers:
            set_, writer = self._writers.popitem()
            with naming(self._run(set_)):
                writer.close()

    def _run(self, set_: str) -> str:
        return os.path.join(self._folder, set_)


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "TensorBoard writes with the package tensorboard, which is not there: "
            "pip install 'lumbre[tensorboard]'",
            name=error.name,
        ) from error
    return SummaryWriter


def _wait_for_later_name(folder: Path) -> None:
    """Files are read in the order of their names, which tell the second in which each was made."""
    while any(folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
        time.sleep(0.02)


def _numbers(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        shape = getattr(value, "shape", ())
        if len(shape) == 0:
            yield name, float(value)
        elif len(shape) == 1:
            yield from ((f"{name}/{i}", float(each)) for i, each in enumerate(value))


def _parameters(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in model.named_parameters():
        points = parameter.detach()
        if points.is_complex():
            points = points.abs()
        # numpy knows no bfloat16, and refuses a histogram of nothing or up to infinity.
        points = points.float()
        points = points[points.isfinite()]
        if points.numel():
            yield name, points
