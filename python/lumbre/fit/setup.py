"""`setup`: how a model is trained, before there is any data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lumbre.errors import ArgumentTypeError
from lumbre.fit.keywords import explained
from lumbre.fit.recipe import check_optimizer, check_parts, no_loss, no_optimizer
from lumbre.fit.trainable import Trainable
from lumbre.metrics.sets import as_metric_set


@explained
def setup(
    module: nn.Module | Callable[..., nn.Module],
    loss: Callable[..., Any] | None = None,
    optimizer: Any = None,
    metrics: Any = None,
    backward: Callable[..., Any] | None = None,
) -> Trainable:
    """Say how a model is trained.

    What is given here wins over what the module defines: it may have `loss(self, pred, target)`,
    `set_optimizers(self, **opt_hparams)`, `step(self, ctx)`, `predict(self, x)` and
    `backward(self, loss)`.

    Args:
        module: A class or factory, called with the hparams at fit; or a module, trained in place.
        loss: Called as `loss(pred, target)`; gives a scalar.
        optimizer: A class or factory, called as `optimizer(params, **opt_hparams)`; or, with a
            module that is there already, an optimizer of its parameters.
        metrics: One, a list, or a `MetricSet`.
        backward: Called as `backward(loss)` in the place of `loss.backward()`.

    Returns:
        What `fit` is called on.

    Raises:
        ArgumentTypeError: when a class is passed for an instance or the other way round.
        ArgumentError: when there is no way to a loss or to an optimizer; when the optimizer is
            that of another module.

    Example:
        >>> import lumbre as lb, torch
        >>> lb.setup(torch.nn.Linear, torch.nn.MSELoss(), torch.optim.SGD)
        Trainable(Linear, loss=MSELoss, optimizer=SGD)
    """
    check_parts(module, loss, backward)
    if isinstance(optimizer, Optimizer):
        if not isinstance(module, nn.Module):
            raise ArgumentTypeError(
                f"An optimizer's instance belongs to a module's instance. Pass the class: "
                f"optimizer={type(optimizer).__name__}, and its options by set_opt_hparams(...)."
            )
        check_optimizer(optimizer, module, loss)
    elif optimizer is not None and not callable(optimizer):
        raise ArgumentTypeError(
            f"optimizer is a class such as torch.optim.Adam, or a function; got {optimizer!r}."
        )
    trainable = Trainable(module, loss, optimizer, as_metric_set(metrics), backward)
    if not trainable.may_have("step"):
        if loss is None and not trainable.may_have("loss"):
            no_loss()
        if optimizer is None and not trainable.may_have("set_optimizers"):
            no_optimizer()
    return trainable
