"""What torch does in a step: model, loss, gradients, optimizer. No breakpoint is fired here."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lumbre._core import HOOKS
from lumbre.data import input_and_target
from lumbre.errors import (
    ArgumentError,
    ArgumentTypeError,
    ContextError,
    DataError,
    LumbreWarning,
    ShapeError,
    ShapeWarning,
)
from lumbre.fast_step import PUBLIC
from lumbre.update import Updates, gradients_of
from lumbre.warn import warn

if TYPE_CHECKING:
    from lumbre.context import Context

# A part of the step: `ctx` and the batch, or the loss.
Part = Callable[["Context", Any], Any]

# A bare switch: torch.set_grad_enabled costs a microsecond for what this does in 50 ns.
set_grad = torch._C._set_grad_enabled


def predict(ctx: Context, batch: Any) -> Any:
    """The model's answer to the input of the batch."""
    kind = type(batch)
    if (kind is list or kind is tuple) and batch:
        return ctx._now.model(batch[0])
    return ctx._now.model(input_and_target(batch)[0])


def identity(ctx: Context, batch: Any) -> Any:
    """The input of the batch: what a model without a `forward` answers."""
    return input_and_target(batch)[0]


def predict_for_user(ctx: Context) -> Any:
    """The model's `predict` on the input of the batch if it has one, else `forward`."""
    own = getattr(ctx.model, "predict", None)
    if own is None:
        return ctx._predict(ctx, ctx.batch)
    with ctx.accelerator.autocast():
        return own(ctx.input)


def compare(ctx: Context, batch: Any) -> Any:
    """The loss of prediction and target, a scalar with its graph."""
    kind = type(batch)
    now = ctx._now
    if (kind is list or kind is tuple) and len(batch) > 1:
        return now.loss_fn(now.pred, batch[1])
    target = input_and_target(batch)[1]
    if target is None and isinstance(ctx.loss_fn, nn.Module):
        raise DataError(
            f"{_name(ctx.loss_fn)} needs a target, and the batch is no pair of input and target: "
            f"it is {_shape_of(batch)}. Pass data that gives (input, target), or a loss that takes "
            "pred and ignores the target."
        )
    return ctx.loss_fn(ctx.pred, target)


def set_precision(ctx: Context) -> None:
    """Put model and loss under the accelerator's autocast, and the scalers where it has them."""
    accelerator = ctx.accelerator
    if accelerator.autocasts:
        ctx._predict = under_autocast(ctx._predict)
        ctx._compare = under_autocast(ctx._compare)
    for name, optimizer in ctx.optimizers.items():
        scaler = None if optimizer is None else accelerator.scaler()
        if scaler is not None:
            if name in ctx._closures:
                raise ArgumentError(
                    f"{type(optimizer).__name__} evaluates the loss several times a step, which "
                    "does not go with the scaled loss of float16. Use bfloat16."
                )
            updates_of(ctx).scalers[name] = scaler


def updates_of(ctx: Context) -> Updates:
    """The run's windows and scalers; from here on its backward passes go through them."""
    if ctx._updates is None:
        ctx._updates = Updates()
        ctx._differentiate = _weighed(ctx._differentiate)
    return ctx._updates


def _weighed(part: Part) -> Part:
    """The backward pass, of the loss as it counts in its window and at its scale."""

    def run(ctx: Context, value: Any) -> None:
        if ctx._now.opt_name is None:
            raise ContextError(
                "With several optimizers, accumulation and float16 have to know whose loss it is: "
                f'ctx.backward(loss, "{next(iter(ctx.optimizers))}").'
            )
        _check_scalar(ctx, value)
        keep_loss(ctx)
        weighed = ctx._updates.weigh(ctx, value)  # type: ignore[union-attr]
        if weighed is not None:
            part(ctx, weighed)

    return run


def under_autocast(part: Part) -> Part:
    """A part of the step, in mixed precision."""

    def run(ctx: Context, batch: Any) -> Any:
        with ctx.accelerator.autocast():
            return part(ctx, batch)

    return run


def is_quiet(ctx: Context) -> bool:
    """Whether the default training step comes down to `quiet_step` in this run."""
    inside = (
        hook
        for hook in HOOKS
        if hook.startswith("on_train_batch_") and not hook.endswith(("_begin", "_end"))
    )
    plain = (predict, compare, differentiate)
    return (
        not ctx._own_step
        and not ctx._closures
        and (ctx._predict, ctx._compare, ctx._differentiate) == plain
        and len(ctx.optimizers) == 1
        and not any(ctx.is_used(hook) for hook in inside)
    )


def training_step(ctx: Context) -> Callable[[Context], Any]:
    """The step of a training pass; asked for as each one begins, as optimizers may be replaced."""
    return quiet_step_of(ctx) if is_quiet(ctx) else ctx._steps[0]


def quiet_step_of(ctx: Context) -> Callable[[Context], None]:
    """`loop.train_step` where nobody is called inside of it: one optimizer, and no breakpoint.

    Step for step it does the same; what is left out is looking for somebody to call.
    """
    now, road = ctx._now, ctx._road
    ((now.opt_name, optimizer),) = ctx.optimizers.items()
    now.opt = optimizer
    backward, step, zero_grad = road
    is_public = road is PUBLIC

    def quiet_step(ctx: Context) -> None:
        batch = now.batch
        kind = type(batch)
        if (kind is list or kind is tuple) and len(batch) > 1:
            pred = now.pred = now.model(batch[0])
            if now.batch is batch:
                loss = now.loss_grad = now.loss_fn(pred, batch[1])
            else:  # the model has put another one in its place
                loss = now.loss_grad = compare(ctx, now.batch)
        else:
            now.pred = predict(ctx, batch)
            loss = now.loss_grad = compare(ctx, now.batch)
        if now.left:
            return  # the model or the loss has asked for it
        try:
            if is_public:
                loss.backward()
                step_opt = now.step_opt
                if step_opt is step:  # the public one, without a function in between
                    optimizer.step()
                else:
                    set_grad(False)
                    step_opt(optimizer)
                    set_grad(True)
                optimizer.zero_grad()
            else:
                # The engine sets its own mode; what the fast step calls needs gradients off.
                set_grad(False)
                backward(loss, ())
                now.step_opt(optimizer)
                zero_grad(optimizer)
                set_grad(True)
        except (RuntimeError, AttributeError):
            _check_scalar(ctx, loss)
            raise

    return quiet_step


def keep_loss(ctx: Context) -> None:
    """With several optimizers, put the loss under the name of its own."""
    now = ctx._now
    if len(ctx.optimizers) > 1 and now.opt_name is not None:
        if now.losses is None:
            now.losses = {}
        now.losses[now.opt_name] = now.loss_grad


def differentiate(ctx: Context, value: Any) -> None:
    """The backward pass for one optimizer: every leaf gets its gradient."""
    try:
        ctx._road.backward(value, ())
    except (RuntimeError, AttributeError):
        _check_scalar(ctx, value)
        raise


def differentiate_one(ctx: Context, value: Any) -> None:
    """The backward pass for one of several optimizers: none but its parameters get gradients."""
    now = ctx._now
    if (now.opt_name is None or now.stepped) and _is_joint(ctx):
        differentiate(ctx, value)
        return
    keep_loss(ctx)
    inputs = parameters_of(ctx.opt)
    if not inputs:
        return  # all of it is frozen, and without inputs every leaf would get a gradient
    try:
        ctx._road.backward(value, inputs)
    except (RuntimeError, AttributeError):
        _check_scalar(ctx, value)
        raise


def _is_joint(ctx: Context) -> bool:
    """Whether the loss was said to be of no optimizer; it reaches all of them then.

    What an earlier such loss has left on those that did not step on it is cleared: where some
    stepped, it was meant for these.
    """
    now = ctx._now
    if now.stepped:
        for name, optimizer in ctx.optimizers.items():
            if name not in now.stepped:
                ctx._road.zero_grad(optimizer)
        now.stepped = None
    if now.opt_name is not None:
        return False
    now.stepped = set()
    return True


def differentiate_own(own: Callable[[Any], Any]) -> Part:
    """The backward pass by a function of the user's."""

    def run(ctx: Context, value: Any) -> None:
        if len(ctx.optimizers) <= 1:
            own(value)
            return
        if _is_joint(ctx):
            own(value)
            return
        keep_loss(ctx)
        # What it leaves on parameters that are not this optimizer's is taken away again.
        mine = {id(p) for p in parameters_of(ctx.opt)}
        steppable = [p for each in ctx.optimizers.values() for p in parameters_of(each)]
        others = [p for p in (*steppable, *ctx.model.parameters()) if id(p) not in mine]
        before = [p.grad for p in others]
        for p in others:
            p.grad = None
        own(value)
        for p, grad in zip(others, before, strict=True):
            p.grad = grad

    return run


def _check_scalar(ctx: Context, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(
            f"There is nothing to differentiate: ctx.loss_grad is {value!r} where a scalar tensor "
            "with its graph is due. A callback replaces the loss by ctx.loss_grad = ..., and "
            "ctx.loss is what is kept of it."
        )
    if value.numel() != 1:
        raise ShapeError(
            f"The loss is a tensor of shape {tuple(value.shape)} where a scalar is due. "
            f'Reduce it: {_name(ctx.loss_fn)}(reduction="mean"), or loss.mean().'
        )


def begin_updates(ctx: Context, loader: Any) -> None:
    """Begin a training pass with no batch gathered."""
    if ctx._updates is not None:
        ctx._updates.begin_pass(loader)
        clear_gradients(ctx, whole=True)


def open_windows(ctx: Context) -> list[str]:
    """The optimizers that have gathered batches; the one under way is taken to be the last."""
    updates = ctx._updates
    if updates is None:
        return []
    updates.last_iter = ctx.iter
    return [name for name, window in updates.windows.items() if window.count]


def settle(ctx: Context) -> bool:
    """Whether the optimizer under way is to step now; its gradients are then those of the step."""
    updates = ctx._updates
    if updates is None:
        return True
    set_grad(False)
    due = updates.settle(ctx)
    set_grad(True)
    return due


def update(ctx: Context, again: Callable[[Context], Any] | None) -> None:
    """Step the optimizer under way and clear its gradients.

    `again` evaluates the batch once more, for an optimizer that asks for it.
    """
    now = ctx._now
    optimizer = now.opt
    set_grad(False)
    if now.opt_name in ctx._closures and now.step_opt is ctx._road.step:
        _step_with_closure(ctx, optimizer, again)
    else:
        now.step_opt(optimizer)
    ctx._road.zero_grad(optimizer)
    if ctx._updates is not None:
        ctx._updates.finish(ctx.opt_name)
    set_grad(True)


def needs_closure(optimizer: Any) -> bool:
    """Whether an optimizer cannot step without a closure, as LBFGS cannot."""
    try:
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    except (AttributeError, TypeError, ValueError):
        return False
    return closure is not None and closure.default is closure.empty


def _step_with_closure(
    ctx: Context, optimizer: Any, again: Callable[[Context], Any] | None
) -> None:
    if again is None:
        raise ContextError(
            f"{type(optimizer).__name__} evaluates the loss several times a step. Say how: "
            "ctx.step_optimizer(closure=...), a function that gives the loss, its gradients done."
        )
    now = ctx._now
    pred, loss = now.pred, now.loss_grad
    # LBFGS asks first for where it stands. That is known where the batch was differentiated;
    # another optimizer may have moved by then.
    is_known = isinstance(optimizer, torch.optim.LBFGS) and loss is not None
    known = [loss] if is_known and gradients_of(optimizer) else []

    def closure() -> Any:
        if known:
            return known.pop()
        with torch.enable_grad():
            return again(ctx)

    optimizer.step(closure)
    # The batch counts as it was before the step.
    now.pred, now.loss_grad = pred, loss


def clear_gradients(ctx: Context, whole: bool = False) -> None:
    """Clear the gradients of every optimizer: the batch under way was left.

    With `whole`, also those that earlier batches have gathered.
    """
    updates = ctx._updates
    for name, optimizer in ctx.optimizers.items():
        if updates is not None:
            if whole:
                updates.forget(name)
            elif updates.keeps(name, ctx.step_count):
                continue
        ctx._road.zero_grad(optimizer)


def parameters_of(optimizer: Any) -> tuple[Tensor, ...]:
    """The parameters that an optimizer steps and that take gradients."""
    return tuple(p for g in optimizer.param_groups for p in g["params"] if p.requires_grad)


def check_shapes(ctx: Context) -> None:
    """Warn when a loss of torch would broadcast (n, 1) against (n,) to (n, n), or there is none."""
    if ctx.loss_grad is None and not ctx._now.losses:
        warn(
            f"{type(ctx.model).__name__}.step has set no loss, so that its record is NaN. "
            "Let it set ctx.loss = loss.",
            LumbreWarning,
        )
    pred, target = ctx.pred, ctx.target
    if not (isinstance(pred, Tensor) and isinstance(target, Tensor)):
        return
    if not (pred.is_floating_point() and target.is_floating_point()):
        return
    if not type(ctx.loss_fn).__module__.startswith("torch.nn") and not getattr(
        ctx.loss_fn, "__module__", ""
    ).startswith("torch.nn"):
        return  # a loss of the user's own knows what it does
    wide = [[n for n in t.shape if n != 1] for t in (pred, target)]
    if pred.shape != target.shape and wide[0] == wide[1] and pred.dim() != target.dim() and wide[0]:
        warn(
            f"{_name(ctx.loss_fn)} gets predictions of shape {tuple(pred.shape)} and a target of "
            f"shape {tuple(target.shape)}, which torch broadcasts against each other. Make them "
            "alike: `pred.squeeze(1)` or `target.unsqueeze(1)`.",
            ShapeWarning,
        )


def part_of(ctx: Context, error: BaseException) -> str:
    """Which part of the run an exception comes from, read from the frames that it passed."""
    parts = {
        "predict": f"{type(ctx.model).__name__}.forward",
        "predict_for_user": f"{type(ctx.model).__name__}.predict",
        "compare": _name(ctx.loss_fn),
        "differentiate": "the backward pass",
        "differentiate_one": "the backward pass",
        "differentiate_own": "the backward pass",
        "update": f"{type(ctx.opt).__name__}.step",
        "settle": "the gradients of the step",
    }
    where = "the loop"
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        part = code.co_qualname.partition(".")[0]
        if code.co_filename == __file__ and part == "quiet_step_of":
            where = parts[_part_of_quiet_step(traceback)]
        elif code.co_filename == __file__ and part in parts:
            where = parts[part]
        elif code.co_name == "step" and ctx._steps and code is _code(ctx._steps[0]):
            where = f"{type(ctx.model).__name__}.step"
        traceback = traceback.tb_next
    return where


def _part_of_quiet_step(traceback: TracebackType) -> str:
    """Its parts are lines: which one was it?"""
    line = linecache.getline(__file__, traceback.tb_lineno)
    lines = {
        "now.model(": "predict",
        "now.loss_fn(": "compare",
        "compare(": "compare",
        "backward(": "differentiate",
        "_check_scalar(": "differentiate",
    }
    return next((part for words, part in lines.items() if words in line), "update")


def _code(function: Any) -> Any:
    return getattr(getattr(function, "__wrapped__", function), "__code__", None)


def _name(function: Any) -> str:
    """A function's name as its owner would say it."""
    return getattr(function, "__qualname__", None) or type(function).__name__


def _shape_of(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"one tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"
