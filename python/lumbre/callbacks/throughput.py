"""How fast training goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from lumbre._core import NativeCallback
from lumbre.errors import ArgumentTypeError
from lumbre.hooks.callback import Callback
from lumbre.text import name_of

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class Throughput(Callback):
    """Measures how fast training goes, and whether it waits for data.

    For each epoch's training pass `records["profile"]` gets `samples_per_second`,
    `batches_per_second` and `waiting`, the share of the time from 0 to 1 in which the loop waited
    for the next batch: near 1 the data is what limits it, and `num_workers` may help. The bar and
    the loggers show them, too.

    On an accelerator batches are queued faster than they are computed: over a whole pass the rates
    are right, in the middle of one they run ahead.

    Acts at `on_train_begin`, `on_train_batch_begin` (where there are `items`), `on_train_batch_end`
    and `on_train_end`, at weight 0. Changes nothing of `ctx`. Written in Rust.

    Args:
        items: Called as `items(batch)` for each batch; gives the number of tokens, frames or
            whatever is to be counted in the place of samples, as a number. The record is
            `items_per_second` then.

    Raises:
        ArgumentTypeError: when `items` is no function; when it gives no number.

    Example:
        >>> Throughput()
        Throughput(items=None)
    """

    def __init__(self, items: Callable[[Any], float] | None = None) -> None:
        if items is not None and not callable(items):
            raise ArgumentTypeError(
                f"Throughput: items is a function of a batch, or None; got {items!r}."
            )
        self.items = items
        self._built = NativeCallback.throughput(items is not None)
        if items is None:
            vars(self)["on_train_batch_begin"] = None  # nothing is called

    @property
    def _native(self) -> NativeCallback:
        return self._built

    def rates(self) -> dict[str, float]:
        """Return what was measured of the pass under way, or of the last one, by name."""
        return self._built.rates

    def on_train_batch_begin(self, ctx: Context) -> None:
        """Count the items of the batch."""
        items = cast(Callable[[Any], float], self.items)
        count = items(ctx.batch)
        try:
            self._built.count(float(count))
        except (TypeError, ValueError):
            name = name_of(items)
            raise ArgumentTypeError(_NO_NUMBER.format(name, count)) from None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_built"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._built = NativeCallback.throughput(self.items is not None)


_NO_NUMBER = (
    "Throughput: items is a function that gives the number of items in a batch, and {} gave {!r}."
)
