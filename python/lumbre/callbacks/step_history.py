"""A row for each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lumbre._core import NativeCallback
from lumbre.arguments import flag, whole
from lumbre.callbacks.lr_scheduler import LRScheduler
from lumbre.errors import ArgumentError
from lumbre.hooks.callback import Callback

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class StepHistory(Callback):
    """Keeps a row of each training batch, for `fitted.get_steps()`.

    The columns are `step` and `epoch`; `samples`, the size of the batch; `seconds` since the fit
    began (a fit that was resumed goes on with those of before); `loss`, with several optimizers
    `loss_<optimizer>`; `lr`, the learning rate that the step was taken with, before schedules move
    it (`lr_<optimizer>`, `lr_<group>`); `grad_norm`, the norm of the gradients before they are
    clipped, where `GradientClip` or `grad_norm=True` computes it; and one for each name of
    `ctx.log_mean`, with the value of the batch (the last one, where a batch logs several).

    Every training batch has a row, those too that gather gradients for a later step, and those that
    a callback skips, with what they had by then. What a row has not is NaN.

    Acts at `on_fit_begin`, `on_train_batch_begin`, `on_train_batch_end` and `on_train_end`, at
    weight inf: what others log is there by then. Changes nothing of `ctx`. The rows are a part of
    the run's state: a run that goes on doubles none and loses none. Values on a device are not
    waited for in a batch. Written in Rust.

    Args:
        every: A row for each so many batches only: those whose `ctx.step_count` it divides.
        grad_norm: Whether to compute the 2-norm of each step's gradients, all parameters of an
            optimizer together. It costs some operations of torch a step.

    Raises:
        ArgumentError: when `every` is no whole number from 1; when the fit begins with two of them.
        ArgumentTypeError: when `grad_norm` is no bool.

    Example:
        >>> import lumbre as lb, torch
        >>> net = lb.setup(torch.nn.Linear(1, 1), torch.nn.MSELoss(), torch.optim.SGD)
        >>> net = net.set_opt_hparams(lr=0.1)
        >>> data = [torch.zeros(6, 1), torch.zeros(6, 1)]
        >>> options = {"batch_size": 2}
        >>> history = lb.callbacks.StepHistory()
        >>> fitted = net.fit(data, epochs=1, callbacks=history, dataloader_options=options)
        >>> fitted.get_steps()[["step", "epoch", "samples", "lr"]]
           step  epoch  samples   lr
        0     1      1        2  0.1
        1     2      1        2  0.1
        2     3      1        2  0.1
    """

    weight = math.inf

    def __init__(self, every: int = 1, grad_norm: bool = False) -> None:
        self.every = whole(self, "every", every, least=1)
        self.grad_norm = flag(self, "grad_norm", grad_norm)

    @property
    def _native(self) -> NativeCallback:
        """The part in Rust, which adds the rows to the records."""
        return NativeCallback.step_history(self.every)

    def on_fit_begin(self, ctx: Context) -> None:
        """Say what the rows are to hold."""
        if sum(isinstance(each, StepHistory) for each in ctx.callbacks) > 1:
            raise ArgumentError(_TWO)
        ctx._notes_rates = True
        ctx._rates_stay(not (ctx._step.is_own or any(map(_may_move_rates, ctx.callbacks))))
        ctx._notes_norms = self.grad_norm


def _may_move_rates(callback: object) -> bool:
    """True of schedules, and of everything that lumbre has not written."""
    is_own = type(callback).__module__.startswith("lumbre.callbacks.")
    return not is_own or isinstance(callback, LRScheduler)


_TWO = (
    "A run has one StepHistory, as there is one table of rows: fitted.get_steps(). Leave out all "
    "but one of them."
)
