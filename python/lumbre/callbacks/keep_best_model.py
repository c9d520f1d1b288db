"""End with the best weights that there were."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lumbre.arguments import monitor_of, number
from lumbre.callbacks.watched import check_watched, watched
from lumbre.errors import ArgumentError
from lumbre.files.expanded import refuse_expanded
from lumbre.hooks.callback import Callback

if TYPE_CHECKING:
    from torch import nn

    from lumbre._core import Monitor
    from lumbre.engine.context import Context


class KeepBestModel(Callback):
    """Remembers the weights of the best epoch, and puts them back when the fit ends.

    Also when it ends by a stop, by Ctrl-C, or by an exception that `ctx.handlers` deals with. The
    weights are those that the epoch was validated with, under `EMA` the averaged ones; buffers such
    as batch statistics and the extra state of modules are among them. They stay in memory, on the
    model's device, and are a part of the state that is saved. NaN is never an improvement. An epoch
    that a stop or Ctrl-C has cut short does not count; where none has counted, the model stays as
    it is. With `valid_first=True` the weights that the fit began with are among them, as epoch 0.

    Acts at `on_fit_begin`, `on_valid_end` before the first epoch, `on_epoch_end` and `on_fit_end`,
    at weight 1e8: after the callbacks that log, and after `EMA`. Writes into the weights of
    `ctx.model`, in place.

    Args:
        monitor: What to watch: a set and the name of a record.
        mode: Whether better is "min", "max" or nearer to "zero".
        min_delta: By how much a value has to be better to count.

    Attributes:
        best_epoch: The epoch whose weights it has; None before there is one.
        best_value: What was watched, in that epoch; NaN before.

    Raises:
        ArgumentError: when an argument makes no sense; when the fit begins with a model that torch
            could not put back, because of an expanded buffer or of an extra state that cannot be
            copied.
        MonitorError: when the fit begins without the data it watches; when an epoch has ended
            without the value.

    Example:
        >>> KeepBestModel("valid_acc", mode="max")
        KeepBestModel(monitor='valid_acc', mode='max', min_delta=0.0)
    """

    weight = 1e8

    def __init__(
        self,
        monitor: str = "valid_loss",
        mode: Literal["min", "max", "zero"] = "min",
        min_delta: float = 0.0,
    ) -> None:
        self.monitor = monitor
        self.mode = mode
        self.min_delta = number(self, "min_delta", min_delta, least=0.0)
        self._begin()

    def _begin(self) -> None:
        self._monitor()
        self._value, self._epoch = math.nan, 0
        self._weights: dict[str, Any] = {}

    @property
    def best_epoch(self) -> int | None:
        """The epoch whose weights it has."""
        return None if math.isnan(self._value) else self._epoch

    @property
    def best_value(self) -> float:
        """The value that was watched, in that epoch."""
        return self._value

    def on_fit_begin(self, ctx: Context) -> None:
        """Begin anew."""
        self._begin()
        monitor = self._monitor()
        monitor.check(ctx)
        monitor.check_mode(ctx)
        self._check(ctx.accelerator.unwrap(ctx.model))

    def on_epoch_end(self, ctx: Context) -> None:
        """Remember the weights if they are better."""
        if not (ctx._is_cut or ctx.exception is not None):
            self._look(ctx)

    def on_valid_end(self, ctx: Context) -> None:
        """Remember the weights that the fit begins with, where these are measured."""
        if ctx._is_before_epochs and not ctx.interrupted:
            self._look(ctx)

    def _look(self, ctx: Context) -> None:
        monitor = self._monitor()
        value = monitor.value(ctx)
        if value is not None and monitor.improves(value, self._value):
            self._value, self._epoch = value, ctx.epoch
            self._copy(ctx.accelerator.unwrap(ctx.model))

    def on_fit_end(self, ctx: Context) -> None:
        """Put the best weights back."""
        if self.best_epoch is not None:
            ctx.accelerator.unwrap(ctx.model).load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """The best value, what it is of, its epoch, its weights by name; nothing is copied."""
        state = {"value": self._value, "epoch": self._epoch, "weights": dict(self._weights)}
        return {**state, **watched(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ArgumentError: when it is the state of another monitor or mode.
        """
        check_watched(self, state)
        self._value, self._epoch = float(state["value"]), int(state["epoch"])
        self._weights = dict(state["weights"])

    def _monitor(self) -> Monitor:
        return monitor_of(self, self.monitor, self.mode, self.min_delta)

    def _check(self, model: nn.Module) -> None:
        refuse_expanded("KeepBestModel", model)
        for name, value in model.state_dict(keep_vars=True).items():
            if not isinstance(value, Tensor):
                try:
                    copy.deepcopy(value)
                except Exception as error:
                    text = _NO_COPY.format(name=name, kind=type(value).__name__, error=error)
                    raise ArgumentError(text) from error

    @torch.no_grad()
    def _copy(self, model: nn.Module) -> None:
        # With the parameters themselves, a tied weight is seen to be one, and copied once.
        copies: dict[int, Tensor] = {}
        for name, value in model.state_dict(keep_vars=True).items():
            if not isinstance(value, Tensor):
                self._weights[name] = copy.deepcopy(value)
                continue
            if id(value) not in copies:
                copies[id(value)] = _copy(self._weights.get(name), value)
            self._weights[name] = copies[id(value)]


def _copy(old: Any, value: Tensor) -> Tensor:
    """The value in the memory of an older copy where that will do, else in its own."""
    if (
        isinstance(old, Tensor)
        and old.shape == value.shape
        and old.dtype == value.dtype
        and old.device == value.device
    ):
        return old.copy_(value)
    return value.detach().clone()


_NO_COPY = (
    "KeepBestModel: {name} is of type {kind} and cannot be copied ({error}), so that it could not "
    "be put back as it was. Let get_extra_state give what can be, such as a dict of tensors and "
    "plain values."
)
