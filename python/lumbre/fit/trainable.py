"""`Trainable`: what `setup` gives, and `fit` is called on."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lumbre.accelerator import Accelerator
from lumbre.data.loaders import loaders
from lumbre.engine import loop
from lumbre.engine.context import Context
from lumbre.engine.guard import RunGuard
from lumbre.errors import ArgumentError
from lumbre.fit.carried import Carried, carry
from lumbre.fit.fitted import Fitted
from lumbre.fit.keywords import explained
from lumbre.fit.limits import TEN, Limits, limits_of
from lumbre.fit.lr_finder import find_lr
from lumbre.fit.lr_records import LRRecords
from lumbre.fit.recipe import Recipe
from lumbre.fit.rehearsal import rehearse
from lumbre.fit.rehearsal_report import Rehearsal
from lumbre.fit.start import start
from lumbre.hooks.foreign import Callbacks
from lumbre.state.step_rows import steps_of
from lumbre.text import name_of


@dataclasses.dataclass(frozen=True, repr=False)
class Trainable(Recipe):
    """A model and how it is trained; made by `setup`. It never changes: methods give a new one."""

    def set_hparams(self, **hparams: Any) -> Trainable:
        """Arguments for the module's class, in addition to those set before."""
        if isinstance(self.module, nn.Module) and hparams:
            raise ArgumentError(
                f"hparams build the module, and this one is there already. Pass the class: "
                f"lb.setup({type(self.module).__name__}, ...)."
            )
        return dataclasses.replace(self, hparams={**self.hparams, **hparams})

    def set_opt_hparams(self, **opt_hparams: Any) -> Trainable:
        """Arguments for the optimizer's class or `set_optimizers`, in addition to those before."""
        if isinstance(self.optimizer, Optimizer) and opt_hparams:
            raise ArgumentError(
                "opt_hparams build the optimizer, and this one is there already. Pass the class: "
                f"optimizer={type(self.optimizer).__name__}."
            )
        return dataclasses.replace(self, opt_hparams={**self.opt_hparams, **opt_hparams})

    @explained
    def fit(
        self,
        data: Any,
        epochs: int | tuple[int, int | None] | None = TEN,
        callbacks: Callbacks = (),
        valid_data: Any = None,
        accelerator: Accelerator | None = None,
        verbose: bool | None = None,
        dataloader_options: Mapping[str, Any] | None = None,
        *,
        steps_per_epoch: int | None = None,
        valid_steps: int | None = None,
        valid_every: int = 1,
        valid_first: bool = False,
        max_steps: int | None = None,
        max_time: float | str | datetime.timedelta | None = None,
    ) -> Fitted:
        """Train.

        Args:
            data: A DataLoader, a Dataset, a list of tensors or arrays, or anything that
                `as_dataloader` has learned.
            epochs: How many, or (min, max): between the two `EarlyStopping` decides. None, also as
                the max, for as many as it takes, which `max_steps` or `max_time` has to end; it
                is None where that is given and `epochs` is not.
            callbacks: What runs beside the default callbacks.
            valid_data: As `data`; or the fraction of it to hold back, between 0 and 1.
            accelerator: Where to train; the best device there is unless given.
            verbose: Whether to show the progress; by default in a terminal or notebook only.
            dataloader_options: Keywords for the loaders that lumbre makes: a batch size of 32, and
                training data shuffled, unless told otherwise. Besides, `sample_seed=True`, or a
                number: random numbers for each sample that do not depend on who loads it.
            steps_per_epoch: Training batches in an epoch, which is then a slice of one continuing
                pass: the data are begun anew only when they are used up. All batches unless given.
            valid_steps: Batches of the validation data in a pass; all of them unless given.
            valid_every: Validate each so many epochs, and in the last one.
            valid_first: Whether to validate once before the first epoch, too. What is measured is
                in `records["before"]`, and epoch 0 in `get_metrics()`.
            max_steps: Training batches in the whole fit. The epoch in which they are reached ends
                there, in order.
            max_time: Seconds, a `timedelta`, or text such as "2h30m", counted from the begin of
                the fit. The epoch ends in order then, and `fitted.paused` is True.

        Returns:
            The trained model with its records; also after a stop, Ctrl-C, or an exception that
            `ctx.handlers` deals with.
        """
        train, valid = loaders(data, valid_data, dataloader_options)
        limits = limits_of(
            epochs, steps_per_epoch, valid_steps, valid_every, max_steps, max_time, valid_first
        )
        _check_validated(limits, valid)
        ctx = start(
            "fit",
            self,
            callbacks,
            accelerator,
            verbose,
            limits=limits,
            train_data=train,
            valid_data=valid,
        )
        try:
            with RunGuard(ctx, "fit"):
                loop.fit(ctx)
        except BaseException as error:
            if ctx.step_count:
                carry(error, self._fitted(ctx, Carried))
            raise
        return self._fitted(ctx, Fitted)

    def _fitted(self, ctx: Context, kind: type[Fitted]) -> Fitted:
        """Return what the run has made of the model."""
        model = ctx.accelerator.unwrap(ctx.model)
        names = list(ctx.optimizers)
        fitted = kind(ctx._recipe, model, ctx.records, ctx.stop_reason, names, ctx.model)
        fitted.paused, fitted.steps, fitted._ends = ctx.paused, steps_of(ctx), dict(ctx._ends)
        return fitted

    @explained
    def lr_finder(
        self,
        data: Any,
        steps: int = 100,
        start_lr: float = 1e-7,
        end_lr: float = 1e-1,
        log_spaced_intervals: bool = True,
        opt_name: str | None = None,
        accelerator: Accelerator | None = None,
        verbose: bool | None = None,
        dataloader_options: Mapping[str, Any] | None = None,
        callbacks: Callbacks = (),
    ) -> LRRecords:
        """Train on learning rates that rise from batch to batch, to see which one to begin with.

        It ends early when the loss explodes: when its average is four times the lowest one, or it
        is not finite. Data with fewer batches than steps is gone through again. Trained is a copy:
        module, optimizer and loss, hparams, and the random numbers of torch, numpy and Python stay
        as they are. A function that makes the module has to make a new one.

        Args:
            data: As in `fit`.
            steps: How many rates, a batch each.
            start_lr: The first rate.
            end_lr: The last one.
            log_spaced_intervals: Whether each rate is the one before times a factor; else the steps
                between them are equal.
            opt_name: Whose rate, where there are several optimizers; the others keep theirs.
            accelerator: Where to train; the best device there is unless given.
            verbose: Whether to show the progress; by default in a terminal or notebook only.
            dataloader_options: As in `fit`.
            callbacks: What runs beside the sweep, such as one that sets `ctx.target`.

        Returns:
            The losses by rate, with `to_pandas()`, `plot()` and `suggestion()`. Of the optimizer's
            options only `lr` is replaced; parameter groups whose `lr` is their own keep its ratio
            to that of the optimizer.

        Raises:
            ArgumentError: when the rates do not rise, or it is not clear whose rate is meant.
        """
        return find_lr(
            self,
            data,
            steps,
            start_lr,
            end_lr,
            log_spaced_intervals,
            opt_name,
            accelerator,
            verbose,
            dataloader_options,
            callbacks,
        )

    @explained
    def explain(
        self,
        data: Any,
        epochs: int | tuple[int, int | None] | None = TEN,
        callbacks: Callbacks = (),
        valid_data: Any = None,
        accelerator: Accelerator | None = None,
        verbose: bool | None = None,
        dataloader_options: Mapping[str, Any] | None = None,
        *,
        steps_per_epoch: int | None = None,
        valid_steps: int | None = None,
        valid_every: int = 1,
        valid_first: bool = False,
        max_steps: int | None = None,
        max_time: float | str | datetime.timedelta | None = None,
    ) -> Rehearsal:
        """Say what `fit` with these arguments would do, by one batch of each pass without a step.

        Nothing is written, and `callbacks` are not called: what they would change in a batch, as
        `Mixup` and `MixedPrecision` do, is not seen. The batches run on a copy: module, optimizer
        and loss, and the random numbers of torch, numpy, Python and of loaders stay as they are. A
        function that makes the module has to make a new one. Workers are started and ended. A data
        set that can be gone through only once loses the batch that is taken out of it, and what
        workers have fetched ahead.

        Args:
            data: As in `fit`, and so are all the others.
            epochs: As in `fit`.
            callbacks: Those whose place in the plan and whose files are shown.
            valid_data: As in `fit`.
            accelerator: As in `fit`.
            verbose: Whether `fit` would show the progress; nothing is shown here.
            dataloader_options: As in `fit`.
            steps_per_epoch: As in `fit`.
            valid_steps: As in `fit`.
            valid_every: As in `fit`.
            valid_first: As in `fit`.
            max_steps: As in `fit`.
            max_time: As in `fit`.

        Returns:
            A report for the terminal and for notebooks: shapes and losses of the batches, the
            parameters by group, memory, the plan of callbacks, files, and what a kill would lose;
            each of them also an attribute.
        """
        limits = limits_of(
            epochs, steps_per_epoch, valid_steps, valid_every, max_steps, max_time, valid_first
        )
        _check_validated(limits, valid_data)
        return rehearse(
            self,
            data,
            callbacks,
            valid_data,
            accelerator,
            verbose,
            dataloader_options,
            limits,
        )

    def __repr__(self) -> str:
        parts = [name_of(self.module)]
        for what in ("loss", "optimizer"):
            value = getattr(self, what)
            if value is not None:
                parts.append(f"{what}={name_of(value)}")
        parts += [f"{k}={dict(v)}" for k in ("hparams", "opt_hparams") if (v := getattr(self, k))]
        return f"Trainable({', '.join(parts)})"


def _check_validated(limits: Limits, valid_data: Any) -> None:
    """Refuse what is about validation data where there is none."""
    about = {
        "valid_first": limits.valid_first,
        "valid_steps": limits.valid_steps is not None,
        "valid_every": limits.valid_every != 1,
    }
    asked = [name for name, is_asked in about.items() if is_asked]
    if asked and valid_data is None:
        raise ArgumentError(_NOTHING_TO_VALIDATE.format(asked[0]))


_NOTHING_TO_VALIDATE = (
    "{} is about the validation data, and there is none. Pass valid_data= to fit, or leave it out."
)
