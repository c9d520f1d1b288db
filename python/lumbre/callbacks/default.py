"""The callbacks that every run has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumbre._core import NativeCallback
from lumbre.hooks.callback import Callback
from lumbre.output import say

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class Profile(Callback):
    """Times the run, its epochs and its passes into `ctx.records["profile"]`, in seconds.

    Acts at the begin and end of fit, epoch, training and validation, at weight 0. Written in Rust.
    """

    @property
    def _native(self) -> NativeCallback:
        return NativeCallback.profile()


class TrainValid(Callback):
    """Puts the model into training or evaluation mode.

    Acts at `on_train_begin`, `on_valid_begin`, `on_predict_begin` and `on_fit_end` (a fitted model
    is left ready to be used), at weight 0. Changes the mode of `ctx.model`.
    """

    def on_train_begin(self, ctx: Context) -> None:
        """Dropout drops, batch statistics are gathered."""
        ctx.model.train()

    def on_valid_begin(self, ctx: Context) -> None:
        """The model as it will be used."""
        ctx.model.eval()

    def on_predict_begin(self, ctx: Context) -> None:
        """The model as it will be used."""
        ctx.model.eval()

    def on_fit_end(self, ctx: Context) -> None:
        """The model as it will be used."""
        ctx.model.eval()


class Metrics(Callback):
    """Feeds the loss and the metrics after each batch, and records their values.

    Acts at the begin, batch end and end of training and validation, at weight 0: when others run at
    `on_train_end` or `on_valid_end`, the values of the pass are in the records. Written in Rust.
    """

    @property
    def _native(self) -> NativeCallback:
        return NativeCallback.metrics()


class Interrupt(Callback):
    """Says where Ctrl-C ended a verbose run. Acts at `on_interrupt`, at weight 0."""

    def on_interrupt(self, ctx: Context) -> None:
        """One line."""
        if ctx.verbose:
            say(f"Interrupted ({ctx.place}).")


def default_callbacks(*, progress: bool) -> list[Callback]:
    """The default callbacks, in their order."""
    from lumbre.callbacks.progress import Progress

    bar: list[Callback] = [Progress()] if progress else []
    return [Profile(), TrainValid(), Metrics(), *bar, Interrupt()]
