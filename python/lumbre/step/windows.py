"""Gradient accumulation windows and GradScalers, by the names of the optimizers.

In a window the gradients of several batches are summed before the optimizer steps; a scaler scales
the loss so that half precision does not lose its gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lumbre.errors import ArgumentError, ContextError


class Window:
    """The batches of one optimizer since its last step.

    Each batch's gradient counts by its weight over that of the window's first batch, and the sum
    is divided by the sum of these: where all batches weigh the same nothing is rounded on the way.
    """

    __slots__ = ("_first", "_total", "count", "last_batch", "steps")

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.count = 0
        self.last_batch = 0
        self._first = self._total = 0.0

    def weigh(self, loss: Any, weight: float) -> Any:
        """The loss as it counts in the window; None when it does not count at all."""
        self.count += 1
        if weight == 0.0:
            return None
        if self._first == 0.0:
            self._first = weight
        factor = weight / self._first
        self._total += factor
        return loss if factor == 1.0 else loss * factor

    def state(self) -> list[float]:
        """Return all of it, for `restore`."""
        return [self.count, self.last_batch, self._first, self._total]

    def restore(self, state: list[float]) -> None:
        """Go on from what `state` gave."""
        count, last_batch, self._first, self._total = state
        self.count, self.last_batch = int(count), int(last_batch)

    def take(self) -> float:
        """The sum of the factors; the window begins anew."""
        total = self._total
        self.clear()
        return total


class Windows:
    """The windows and the scalers of a run, by the names of its optimizers.

    An optimizer without either steps with each batch.

    Attributes:
        in_use: True if there is a window or a scaler.
        scalers: Of the optimizers whose loss is scaled.
        last_iter: The batch with which the pass ends; None where the loader has no length.
    """

    def __init__(self) -> None:
        self.in_use = False
        self.scalers: dict[str, GradScaler] = {}
        self.last_iter: int | None = None
        self._windows: dict[str, Window] = {}
        # The optimizers whose gradients are of a scaled loss, and those whose were unscaled since.
        self._scaled: set[str] = set()
        self._unscaled: set[str] = set()
        self._hooks: list[RemovableHandle] = []

    def gather(self, name: str, steps: int) -> None:
        """Let an optimizer step once for so many batches."""
        self._windows[name], self.in_use = Window(steps), True

    def scale(self, name: str, optimizer: Optimizer, scaler: GradScaler) -> None:
        """Scale the loss of an optimizer from here on, and refuse steps on what is scaled."""
        self.scalers[name], self.in_use = scaler, True

        def refuse(*_: Any) -> None:
            if name in self._scaled:
                raise ContextError(_STILL_SCALED.format(name))

        self._hooks.append(optimizer.register_step_pre_hook(refuse))

    def close(self) -> None:
        """Let go of the optimizers."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def begin_pass(self, length: int | None) -> None:
        """Forget what an earlier pass has left; None stands for a length that is not known."""
        self.last_iter = length
        for window in self._windows.values():
            window.clear()

    @property
    def has_gathered(self) -> bool:
        """True if there are gradients of earlier batches that were not stepped on."""
        return any(window.count for window in self._windows.values())

    def state(self) -> dict[str, Any]:
        """Return the windows, and whose gradients are scaled, between two batches."""
        windows = {name: window.state() for name, window in self._windows.items()}
        return {"windows": windows, "scaled": sorted(self._scaled)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name, window in self._windows.items():
            if name in state["windows"]:
                window.restore(state["windows"][name])
        self._scaled = set(state["scaled"])

    def end_pass(self, iter: int) -> list[str]:
        """Return the optimizers that have gathered batches; the one under way was the last."""
        self.last_iter = iter
        return [name for name, window in self._windows.items() if window.count]

    def weigh(self, name: str, loss: Any, weight: float, batch: int) -> Any:
        """Return the loss as it is to be differentiated; None when nothing is."""
        window = self._windows.get(name)
        if window is not None:
            window.last_batch = batch
            loss = window.weigh(loss, _checked(weight))
        scaler = self.scalers.get(name)
        if scaler is None or loss is None:
            return loss
        self._scaled.add(name)
        return scaler.scale(loss)

    def prepare_step(
        self, name: str, optimizer: Any, iter: int, zero_grad: Callable[[Any], object]
    ) -> bool:
        """Make the gradients those of the step, if one is due: their mean, and not scaled.

        Without a step the gradients are kept while the window is open, and cleared where they are
        not finite because of the scale.
        """
        total = 1.0
        window = self._windows.get(name)
        if window is not None:
            if not window.count and gradients_of(optimizer):
                raise ContextError(_OF_NOBODY.format(name))
            if window.count < window.steps and iter != self.last_iter:
                return False
            total = window.take()
        scaler = self.scalers.get(name)
        grads = gradients_of(optimizer)
        if scaler is not None and grads and name not in self._scaled:
            raise ContextError(_OF_NOBODY.format(name))
        self._scaled.discard(name)
        # Without a gradient there is nothing that a scaler could look at.
        finite = scaler is None or not grads or self._unscale(name, scaler, optimizer)
        if not finite or total == 0.0:
            self.finish(name)
            zero_grad(optimizer)
            return False
        if grads and total != 1.0:
            torch._foreach_div_(grads, total)
        return True

    def _unscale(self, name: str, scaler: GradScaler, optimizer: Any) -> bool:
        scaler.unscale_(optimizer)
        self._unscaled.add(name)
        # GradScaler.step looks at this too; here it is known before anybody hears of a step.
        found = scaler._found_inf_per_device(optimizer)
        return not any(each.item() for each in found.values())

    def finish(self, name: str) -> None:
        """Let the scaler learn from the step that was taken or left out."""
        if name in self._unscaled:
            self._unscaled.discard(name)
            self.scalers[name].update()

    def keeps_earlier(self, name: str, batch: int | None) -> bool:
        """True if what an optimizer has gathered is of earlier batches than this one, and stays.

        If it is not, or no batch is named, all of it goes and its window begins anew: the batch was
        left when its gradients were in there.
        """
        window = self._windows.get(name)
        self.finish(name)
        if batch and window is not None and window.count and window.last_batch != batch:
            return True
        self._scaled.discard(name)
        if window is not None:
            window.clear()
        return False


def gradients_of(optimizer: Any) -> list[Tensor]:
    """Return the gradients that an optimizer would step on."""
    return [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]


def _checked(weight: Any) -> float:
    number = float(weight)
    if not (math.isfinite(number) and number >= 0.0):
        raise ArgumentError(_NO_WEIGHT.format(weight))
    return number


_STILL_SCALED = (
    "The optimizer {!r} was told to step on gradients that have the scale of float16. Write "
    "ctx.step_optimizer() in the place of its own step()."
)
_OF_NOBODY = (
    "The optimizer {!r} has gradients that did not come by way of ctx.backward(loss), and those "
    "alone count in a window of GradientAccumulation, or have the scale of float16. Write "
    "ctx.backward(loss) in the place of loss.backward()."
)
_NO_WEIGHT = (
    "ctx.loss_weight is what the loss of the batch was divided by, a finite number from 0; got "
    "{!r}."
)
