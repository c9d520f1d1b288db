"""Training on mixtures of samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import Gamma

from lumbre.arguments import flag, number
from lumbre.data.batch import input_and_target
from lumbre.engine.parts import step_of
from lumbre.errors import ArgumentError, DataError
from lumbre.hooks.callback import Callback
from lumbre.nn import MixedTarget, MixupLoss, mixup
from lumbre.text import name_of

if TYPE_CHECKING:
    from lumbre.engine.context import Context


class Mixup(Callback):
    """Mixes each sample with another one of its batch, the input and the loss alike.

    Acts at `on_train_begin`, `on_train_batch_begin` and `on_train_batch_end`, and at
    `on_valid_begin`, `on_valid_batch_begin` and `on_valid_batch_end` where `run_valid` is set, at
    weight 0: pass it after callbacks that change the batch. When a batch begins it replaces
    `ctx.input` by the mixture and `ctx.target` by a `lb.nn.MixedTarget` of the first target, the
    second and the weight; when the batch ends, `ctx.target` is the first again, which has the
    greater weight. That is what metrics see. `ctx.loss_fn` is replaced by `auto_loss` only.

    The weight is drawn for each sample as `max(w, 1 - w)`, w from Beta(alpha, alpha); one is drawn
    for the whole batch where the loss cannot be asked for the value of a sample, see
    `lb.nn.MixupLoss`. It is drawn by torch's generator of the device, and nothing waits for it.

    The loss has to be a `lb.nn.MixupLoss`, unless `auto_loss` is set or the model has a `step` of
    its own, which then deals with the mixed target. So does a loop of your own, which gives the
    metrics theirs by `ctx.record(pred, target.first, loss)`.

    Args:
        alpha: Above 0; the greater, the more alike are the shares of the two.
        run_valid: Whether to mix in validation and `evaluate` too.
        auto_loss: Whether to put `lb.nn.MixupLoss` around `ctx.loss_fn`, for this run.

    Raises:
        ArgumentError: when `alpha` is no finite number above 0; when a pass begins and the loss
            does not take mixed targets.
        ArgumentTypeError: when another argument is no bool; when the input cannot be mixed.
        DataError: when a batch has no target.

    Example:
        >>> import lumbre as lb
        >>> net = lb.setup(torch.nn.Linear(1, 1), torch.nn.MSELoss(), torch.optim.SGD)
        >>> data = [torch.zeros(4, 1), torch.zeros(4, 1)]
        >>> fitted = net.fit(data, epochs=1, callbacks=lb.callbacks.Mixup(auto_loss=True))

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412.
    """

    def __init__(
        self, alpha: float = 0.4, run_valid: bool = False, auto_loss: bool = False
    ) -> None:
        self.alpha = number(self, "alpha", alpha, above=0)
        if not math.isfinite(self.alpha):
            raise ArgumentError(
                "Mixup: alpha is finite; got inf, at which every weight would be a half. Take a "
                "large number: Mixup(alpha=1000)."
            )
        self.run_valid = flag(self, "run_valid", run_valid)
        self.auto_loss = flag(self, "auto_loss", auto_loss)

    def on_train_begin(self, ctx: Context) -> None:
        """See that the loss takes mixed targets."""
        self._see_to_loss(ctx)

    def on_valid_begin(self, ctx: Context) -> None:
        """The same; `evaluate` begins here."""
        if self.run_valid:
            self._see_to_loss(ctx)

    def on_train_batch_begin(self, ctx: Context) -> None:
        """Mix."""
        self._mix(ctx)

    def on_valid_batch_begin(self, ctx: Context) -> None:
        """Mix, if it is wanted in validation."""
        if self.run_valid:
            self._mix(ctx)

    def on_train_batch_end(self, ctx: Context) -> None:
        """Let metrics see the first target."""
        if isinstance(ctx.target, MixedTarget):
            ctx.target = ctx.target.first

    on_valid_batch_end = on_train_batch_end

    def _see_to_loss(self, ctx: Context) -> None:
        if isinstance(ctx.loss_fn, MixupLoss):
            return
        if self.auto_loss:
            ctx.loss_fn = MixupLoss(ctx.loss_fn)
        elif not step_of(ctx).is_own:
            raise ArgumentError(_NOT_WRAPPED.format(name_of(ctx.loss_fn)))

    def _mix(self, ctx: Context) -> None:
        x, y = input_and_target(ctx.batch)
        if y is None:
            raise DataError(
                "Mixup mixes the targets too, and the batch is all input. Pass data that gives "
                "(input, target), or set ctx.target in a callback that comes before Mixup."
            )
        loss = ctx.loss_fn
        is_whole = isinstance(loss, MixupLoss) and loss.reduction is None
        shape = torch.Size([] if is_whole else [ctx.batch_size])
        ctx.input, ctx.target = mixup(x, y, self._weight(shape, ctx.device))

    def _weight(self, shape: torch.Size, device: torch.device) -> Tensor:
        # Of Gamma variables g and h, g / (g + h) is a Beta one. They are drawn as logarithms, by
        # way of alpha + 1, since small alphas make both so small that floats know them as 0.
        alpha = torch.full((2, *shape), self.alpha + 1.0, device=device)
        larger = Gamma(alpha, torch.ones_like(alpha), validate_args=False).sample()
        logs = larger.log() - torch.empty_like(alpha).exponential_() / self.alpha
        return (logs[0] - logs[1]).abs().sigmoid()


_NOT_WRAPPED = (
    "Mixup: the loss is to take mixed targets, and {} does not. Let it be wrapped, "
    "Mixup(auto_loss=True), or wrap it: lb.setup(..., loss=lb.nn.MixupLoss(loss))."
)
