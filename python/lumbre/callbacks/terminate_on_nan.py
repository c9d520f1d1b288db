"""Stop at a loss that is not finite."""

from __future__ import annotations

import math

from lumbre._core import NativeCallback
from lumbre.hooks.callback import Callback


class TerminateOnNaN(Callback):
    """Ends the run at the first training batch whose loss is NaN or infinite.

    Acts at `on_train_batch_after_loss`, at weight inf: it sees the loss as the other callbacks have
    left it, that of each optimizer in turn, and spares a batch that one of them has skipped. It
    asks to leave the batch and to stop, so that the weights stay those of the last good step (with
    several optimizers, those that come earlier in the batch have stepped), and warns of the loss,
    which then is in no record. Where a `step` of the module's own never reaches that breakpoint it
    acts at `on_train_batch_end`, when the step has been taken. On an accelerator it waits for the
    loss at each step. Written in Rust.

    Example:
        >>> TerminateOnNaN()
        TerminateOnNaN()
    """

    weight = math.inf

    _native = property(lambda self: NativeCallback.terminate_on_nan())
