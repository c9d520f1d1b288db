"""What lies between a loss and its step where the two are not one to one.

A window of batches whose gradients are summed before the optimizer steps, and a loss that is
scaled so that half precision does not lose its gradients. A run without either has no `Updates`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lumbre.data.loaders import length_of
from lumbre.errors import ArgumentError, ContextError

if TYPE_CHECKING:
    from lumbre.engine.context import Context


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

    def take(self) -> float:
        """The sum of the factors; the window begins anew."""
        total = self._total
        self.clear()
        return total


class Updates:
    """The windows and the scalers of a run, by the names of its optimizers.

    Attributes:
        windows: Of the optimizers that do not step with each batch.
        scalers: Of the optimizers whose loss is scaled.
        last_iter: The batch with which the pass ends; None where the loader has no length.
    """

    def __init__(self) -> None:
        self.windows: dict[str, Window] = {}
        self.scalers: dict[str, GradScaler] = {}
        self.last_iter: int | None = None
        # Whose gradients are of a scaled loss, and whose were scaled back for a step.
        self._scaled: set[str] = set()
        self._unscaled: set[str] = set()
        self._hooks: list[RemovableHandle] = []

    def scale(self, name: str, optimizer: Optimizer, scaler: GradScaler) -> None:
        """Scale the loss of an optimizer from here on, and refuse steps on what is scaled."""
        self.scalers[name] = scaler

        def refuse(*_: Any) -> None:
            if name in self._scaled:
                raise ContextError(
                    f"The optimizer {name!r} was told to step on gradients that have the scale of "
                    "float16. Write ctx.step_optimizer() in the place of its own step()."
                )

        self._hooks.append(optimizer.register_step_pre_hook(refuse))

    def close(self) -> None:
        """Let go of the optimizers."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def begin_pass(self, loader: Any) -> None:
        """Forget what an earlier pass has left."""
        self.last_iter = length_of(loader)
        for window in self.windows.values():
            window.clear()

    def weigh(self, ctx: Context, loss: Any) -> Any:
        """The loss as it is to be differentiated; None when nothing is."""
        now = ctx._now
        window = self.windows.get(now.opt_name)
        if window is not None:
            window.last_batch = ctx.step_count
            loss = window.weigh(loss, _weight(ctx))
        scaler = self.scalers.get(now.opt_name)
        if scaler is None or loss is None:
            return loss
        self._scaled.add(now.opt_name)
        return scaler.scale(loss)

    def settle(self, ctx: Context) -> bool:
        """Make the gradients those of the step, if one is due: their mean, and not scaled.

        Without a step the gradients are kept while the window is open, and cleared where they are
        not finite because of the scale.
        """
        now = ctx._now
        name, optimizer = now.opt_name, now.opt
        total = 1.0
        window = self.windows.get(name)
        if window is not None:
            if not window.count and gradients_of(optimizer):
                raise _of_nobody(name)
            if window.count < window.steps and ctx.iter != self.last_iter:
                return False
            total = window.take()
        scaler = self.scalers.get(name)
        grads = gradients_of(optimizer)
        if scaler is not None and grads and name not in self._scaled:
            raise _of_nobody(name)
        self._scaled.discard(name)
        # Without a gradient there is nothing that a scaler could look at.
        finite = scaler is None or not grads or self._unscale(name, scaler, optimizer)
        if not finite or total == 0.0:
            self.finish(name)
            ctx._road.zero_grad(optimizer)
            return False
        if total != 1.0:
            torch._foreach_div_(grads, total)
        return True

    def _unscale(self, name: str, scaler: GradScaler, optimizer: Any) -> bool:
        scaler.unscale_(optimizer)
        self._unscaled.add(name)
        # What GradScaler.step looks at too, here before anybody hears of a step.
        found = scaler._found_inf_per_device(optimizer)
        return not any(each.item() for each in found.values())

    def finish(self, name: str) -> None:
        """Let the scaler learn from the step that was taken or left out."""
        if name in self._unscaled:
            self._unscaled.discard(name)
            self.scalers[name].update()

    def forget(self, name: str) -> None:
        """Let go of what an optimizer has gathered."""
        self.finish(name)
        self._scaled.discard(name)
        if name in self.windows:
            self.windows[name].clear()

    def keeps(self, name: str, batch: int) -> bool:
        """Whether what an optimizer has gathered is of earlier batches only.

        If it is not, its window begins anew: the batch was left when its gradients were in there.
        """
        window = self.windows.get(name)
        if window is not None and window.count and window.last_batch != batch:
            self.finish(name)
            return True
        self.forget(name)
        return False


def _of_nobody(name: str) -> ContextError:
    return ContextError(
        f"The optimizer {name!r} has gradients that did not come by way of ctx.backward(loss), and "
        "those alone count in a window of GradientAccumulation, or have the scale of float16. "
        "Write ctx.backward(loss) in the place of loss.backward()."
    )


def gradients_of(optimizer: Any) -> list[Tensor]:
    """The gradients that an optimizer would step on."""
    return [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]


def _weight(ctx: Context) -> float:
    weight = float(ctx.loss_weight)
    if not (math.isfinite(weight) and weight >= 0.0):
        raise ArgumentError(
            "ctx.loss_weight is what the loss of the batch was divided by, a finite number from 0; "
            f"got {ctx.loss_weight!r}."
        )
    return weight
