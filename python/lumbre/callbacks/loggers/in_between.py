"""What the loggers write of single training batches, in between the epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lumbre.arguments import whole
from lumbre.hooks.callback import Callback

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class InBetween(Callback):
    """The part of a logger that writes each n-th training batch; a subclass says how.

    Attributes:
        every: A batch is written whose `ctx.step_count` it divides; none where it is None.
    """

    every: int | None

    def _set_every(self, every: Any) -> None:
        self.every = None if every is None else whole(self, "every", every, least=1)
        if every is None:  # nothing is called
            vars(self).update(on_train_batch_begin=None, on_train_batch_end=None)

    def on_fit_begin(self, ctx: Context) -> None:
        """Ask for the learning rates as each step is taken."""
        ctx._notes_rates |= self.every is not None

    def on_train_batch_begin(self, ctx: Context) -> None:
        """See the learning rates of the step."""
        if self._is_due(ctx):
            ctx._note_rates()

    def on_train_batch_end(self, ctx: Context) -> None:
        """Write the batch, where it is due."""
        if self._is_due(ctx) and ctx.accelerator.is_main:
            self._write_step(ctx, ctx._step_row())

    def _is_due(self, ctx: Context) -> bool:
        return self.every is not None and ctx.step_count % self.every == 0

    def _write_step(self, ctx: Context, row: dict[str, float]) -> None:
        """Write what a batch has, by name."""
        raise NotImplementedError
