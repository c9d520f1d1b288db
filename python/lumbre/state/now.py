"""The batch under way, apart from what is kept for the whole run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Now:
    """The batch under way, and what is done with it.

    `ctx` shows each of these as an attribute of its own. They are kept here because the loop
    touches them several times a batch, and an attribute of a plain class costs a fifth of one of
    `ctx`, which has a hint for every name that is not there.
    """

    batch: Any
    skipped: bool  # whether skip_batch was asked for; set and reset by the run
    loss_fn: Callable[..., Any]
    loss_grad: Any
    loss_weight: float | None
    losses: dict[str, Any] | None
    model: Any
    opt: Any
    opt_name: Any  # a name; None where a step of the user's own has not said which
    optimizers: dict[str, Any]
    pred: Any
    step: Callable[[Any], Any]
    step_opt: Callable[[Any], Any]
    stepped: set[str] | None  # the optimizers that have stepped on a joint loss, if there was one

    __slots__ = tuple(__annotations__)

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, None)
        self.opt_name = "opt"
