"""The callbacks that every run has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from lumbre._core import NativeCallback
from lumbre.callbacks.progress import Progress
from lumbre.hooks.callback import Callback
from lumbre.output import say

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class Profile(Callback):
    """Times the run, its epochs and its passes into `ctx.records["profile"]`, in seconds.

    Acts at the begin and end of fit, epoch, training and validation, at weight 0. Written in Rust.
    """

    _native = property(lambda self: NativeCallback.profile())


class TrainValid(Callback):
    """Puts the model into training or evaluation mode, and the loss with it if that is a module.

    What is frozen stays frozen: where the model is in training mode when the fit begins, submodules
    in evaluation mode stay in it. Where all of it is in evaluation mode, as after a fit or
    `model.eval()`, those submodules stay whose parameters are all frozen by then and are so still,
    with everything below them; the rest is trained. The same holds for the loss.

    Acts at `on_fit_begin`, `on_train_begin`, `on_valid_begin`, `on_predict_begin` and `on_fit_end`
    (a fitted model is left ready to be used), at weight 0. Changes the mode of `ctx.model` and of
    `ctx.loss_fn`.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._has_noted = False
        self._in_eval: list[nn.Module] = []
        self._frozen: list[nn.Module] = []

    def on_fit_begin(self, ctx: Context) -> None:
        """See what is to stay in evaluation mode."""
        if not self._has_noted:
            self._note(ctx)
        self._has_noted = False

    def on_train_begin(self, ctx: Context) -> None:
        """Let dropout drop and batch statistics be gathered, but for what stays as it is."""
        _switch(ctx, True)
        still = [each for each in self._frozen if _is_frozen(each)]
        below = [module for each in still for module in each.modules()]
        # Not by `eval()`, which would take along what is below.
        for module in (*self._in_eval, *below):
            module.training = False

    def on_valid_begin(self, ctx: Context) -> None:
        """Validate the model as it will be used."""
        if ctx.max_epochs != 0 and not ctx.epoch and not self._has_noted:
            self._note(ctx)  # a pass before the epochs of a loop of one's own
            self._has_noted = True
        _switch(ctx, False)

    def on_predict_begin(self, ctx: Context) -> None:
        """Predict by the model as it will be used."""
        _switch(ctx, False)

    def on_fit_end(self, ctx: Context) -> None:
        """Leave the model ready to be used."""
        _switch(ctx, False)
        self._begin()

    def _note(self, ctx: Context) -> None:
        self._begin()
        for root in (ctx.accelerator.unwrap(ctx.model), ctx.loss_fn):
            if not isinstance(root, nn.Module):
                continue
            if root.training:
                self._in_eval += [each for each in root.modules() if not each.training]
            else:
                self._frozen += [each for each in root.modules() if _is_frozen(each)]


def _switch(ctx: Context, training: bool) -> None:
    if isinstance(ctx.loss_fn, nn.Module):
        ctx.loss_fn.train(training)
    ctx.model.train(training)


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(each.requires_grad for each in parameters)


class Metrics(Callback):
    """Feeds the loss and the metrics after each batch, and records their values.

    Acts at the begin, batch end and end of training and validation, at weight 0: when others run at
    `on_train_end` or `on_valid_end`, the values of the pass are in the records. Written in Rust.
    """

    _native = property(lambda self: NativeCallback.metrics())


class Interrupt(Callback):
    """Says where Ctrl-C ended a verbose run. Acts at `on_interrupt`, at weight 0."""

    def on_interrupt(self, ctx: Context) -> None:
        """One line."""
        if ctx.verbose:
            say(f"Interrupted ({ctx.place}).")


def default_callbacks(*, progress: bool) -> list[Callback]:
    """Return the default callbacks, in their order."""
    bar: list[Callback] = [Progress()] if progress else []
    return [Profile(), TrainValid(), Metrics(), *bar, Interrupt()]
