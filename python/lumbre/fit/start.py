"""The start of a run: from a recipe, a model and its optimizers to a `ctx` that is complete."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from torch import nn
from torch.optim import Optimizer

from lumbre.accelerator import Accelerator, as_accelerator
from lumbre.callbacks.default import default_callbacks
from lumbre.callbacks.progress import Progress, shown
from lumbre.engine.context import Context
from lumbre.errors import ArgumentTypeError, LumbreWarning
from lumbre.fit.as_saved import as_saved
from lumbre.fit.limits import Limits
from lumbre.fit.recipe import Recipe, no_loss
from lumbre.hooks.foreign import Callbacks, as_callbacks
from lumbre.hooks.schedule import compile_schedule
from lumbre.metrics.sets import MetricSet, meter
from lumbre.state.now import Now
from lumbre.state.run_state import Plan
from lumbre.step.checks import method_of, takes_target
from lumbre.step.step import Step
from lumbre.step.trial import fast_calls
from lumbre.warn import warn

Kind = Literal["fit", "run", "lr_finder", "evaluate", "predict"]


def start(
    kind: Kind,
    recipe: Recipe,
    callbacks: Callbacks,
    accelerator: Accelerator | None,
    verbose: bool | None,
    *,
    model: nn.Module | None = None,
    optimizers: Mapping[str, Optimizer | None] | None = None,
    limits: Limits | None = None,
    metrics: MetricSet | None = None,
    **data: Any,
) -> Context:
    """Make the ctx of a run, its plan compiled.

    Args:
        kind: What it is a run of.
        recipe: How the model is made and trained.
        callbacks: Beside the default callbacks.
        accelerator: Where to run; the best device there is unless given.
        verbose: Whether to show the progress; where somebody looks unless given.
        model: The model; made of the recipe unless given.
        optimizers: The optimizers by name; made of the recipe unless given. In a run that trains
            nothing they are names alone, with None.
        limits: What ends the passes and the run; None where it is no fit.
        metrics: In the place of the recipe's.
        data: The loaders by the names that they have on ctx.
    """
    own = as_callbacks(callbacks)
    accelerator = as_accelerator(accelerator)
    if limits is not None:
        recipe, limits = as_saved(recipe, limits, own)
    whole = recipe
    if model is None:
        recipe = recipe.fresh()
        model = recipe.build()
    model = accelerator.prepare_model(model)
    if optimizers is None:
        optimizers = recipe.optimizers(accelerator.unwrap(model))
    is_chosen, verbose = verbose is not None, shown(verbose)
    own_loop = kind == "run"
    all_ = [*default_callbacks(progress=verbose), *own]
    inner = accelerator.unwrap(model)
    step = _step(recipe, model, inner, optimizers, accelerator, own_loop)
    counted = (metrics or recipe.metrics).copies()
    names = list(optimizers) or ["opt"]
    plan = Plan(
        compile_schedule(all_),
        meter(names, counted["train"]),
        meter(names, counted["valid"]),
        step.now,
        next((each.draw for each in all_ if isinstance(each, Progress)), None),
        own_loop,
    )
    ctx = Context(
        step,
        plan,
        verbose=verbose,
        accelerator=accelerator,
        device=accelerator.device,
        model=model,
        hparams=dict(recipe.hparams),
        opt_hparams=dict(recipe.opt_hparams),
        optimizers=dict(optimizers),
        loss_fn=_loss(recipe, inner, kind not in ("run", "predict")),
        step_opt=step.calls.step,
        callbacks=all_,
        metrics=counted,
        **data,
    )
    ctx._recipe, ctx._limits = whole, limits
    ctx._is_silent = is_chosen and not verbose
    ctx.opt_name = names[0]
    ctx._may_log = step.is_own or not takes_target(ctx.loss_fn)
    # Last, as it puts hooks on the optimizers: what is refused before leaves none behind.
    step.set_precision(accelerator, optimizers)
    if limits is not None:
        given = limits._asdict()
        ctx.min_epochs, ctx.max_epochs = given.pop("min_epochs"), given.pop("max_epochs")
        ctx._valid_first = given.pop("valid_first")
        ctx._set_limits(**given)
        _check_loss(ctx)
    return ctx


def _step(
    recipe: Recipe,
    model: nn.Module,
    inner: nn.Module,
    optimizers: Mapping[str, Any],
    accelerator: Accelerator,
    own_loop: bool,
) -> Step:
    backward = recipe.backward or method_of(inner, "backward")
    if backward is None and type(accelerator).backward is not Accelerator.backward:
        backward = accelerator.backward
    return Step(
        Now(),
        optimizers,
        fast_calls([each for each in optimizers.values() if each is not None], model),
        # Looked up without calling anything: of a compiled or scripted module it is no class's.
        has_forward=inspect.getattr_static(model, "forward") is not nn.Module.forward,
        own=method_of(inner, "step"),
        own_loop=own_loop,
        backward=backward,
    )


def _loss(recipe: Recipe, model: nn.Module, needed: bool) -> Callable[..., Any]:
    loss = recipe.loss if recipe.loss is not None else getattr(model, "loss", None)
    if loss is None:
        if needed and method_of(model, "step") is None:
            no_loss()
        return _missing_loss
    if not callable(loss):
        raise ArgumentTypeError(_NO_FUNCTION.format(type(model).__name__, loss))
    if isinstance(loss, nn.Module):
        # Class weights and the like have to lie where the predictions are.
        return loss.to(next((p.device for p in model.parameters()), None))
    return cast(Callable[..., Any], loss)


def _check_loss(ctx: Context) -> None:
    """Warn of parameters of the loss that nobody steps."""
    if not isinstance(ctx.loss_fn, nn.Module):
        return
    optimizers = [each for each in ctx.optimizers.values() if each is not None]
    stepped = {id(p) for each in optimizers for g in each.param_groups for p in g["params"]}
    own = ctx.loss_fn.named_parameters()
    left = [name for name, p in own if p.requires_grad and id(p) not in stepped]
    if left:
        warn(_NOT_STEPPED.format(type(ctx.loss_fn).__name__, ", ".join(left)), LumbreWarning)


def _missing_loss(pred: Any, target: Any) -> Any:
    no_loss()


_NO_FUNCTION = (
    "{}.loss is {!r}, which is no function of pred and target. Pass the loss, "
    "lb.setup(..., loss=nn.MSELoss()), or give the attribute another name."
)
_NOT_STEPPED = (
    "The loss {} has parameters that no optimizer steps: {}. They stay as they are, and their "
    "gradients grow. Make the loss a submodule of the module, self.loss = ..., or give its "
    "parameters to an optimizer in set_optimizers."
)
