"""The state of a run as one tree of tensors and plain values, and a run that goes on from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from lumbre._core import unique_names
from lumbre.data.draws import draws_of, restore_draws
from lumbre.engine.parts import step_of
from lumbre.errors import ArgumentError, LumbreError, LumbreWarning
from lumbre.files.fits import misfits
from lumbre.files.tree import qualified_name
from lumbre.hooks.callback import Callback
from lumbre.hooks.foreign import Given
from lumbre.state.run_state import RunState
from lumbre.state.step_rows import restore_steps, steps_of
from lumbre.warn import warn

_BEGUN_ANEW = (
    "With steps_per_epoch an epoch is a slice of a pass over the data. The run that goes on begins "
    "a new pass, as the file does not hold where that of the run before was."
)
_OF_THE_RUN = ("metrics", "optimizer", "before")
_OF_DRAWS = ("rng", "generators", "samplers", "splits", "workers")
# The parts that outlive the fit.
_OF_RESULT = ("model", "optimizers", "scalers", "records", "steps", *_OF_DRAWS)
# What each part of a restore reads.
_PARTS = {
    "model": ("model",),
    "optimizers": ("optimizers", "optimizer_kinds", "scalers"),
    "callbacks": ("callbacks",),
    "records": ("records",),
    "progress": ("progress",),
    "rng": ("rng", "generators", "splits"),
}
# What `load_state_dict` raises of itself when the state has another form than it takes.
_RAISED_BY_OTHERS = (KeyError, TypeError, AttributeError, IndexError, ValueError)


def state_of(
    ctx: RunState, opened: dict[str, Any] | None = None, data: dict[str, Any] | None = None
) -> dict[str, Any]:
    """All that a run needs to go on; tensors are the run's own, not copies.

    Args:
        ctx: The run.
        opened: Where the pass under way stands; None between two epochs.
        data: Where the pass over the training data stands, of which an epoch is a slice.
    """
    model = ctx.accelerator.unwrap(ctx.model)
    return {
        "model": dict(model.state_dict()),
        "module": qualified_name(type(model)),
        "hparams": dict(ctx.hparams),
        "opt_hparams": dict(ctx.opt_hparams),
        "optimizers": {name: each.state_dict() for name, each in ctx.optimizers.items()},
        "optimizer_kinds": {name: type(each).__name__ for name, each in ctx.optimizers.items()},
        "scalers": {
            name: scaler.state_dict() for name, scaler in step_of(ctx).windows.scalers.items()
        },
        "callbacks": {
            name: state for name, each in named(ctx) if (state := callback_state(each)) is not None
        },
        "records": ctx.records,
        "steps": steps_of(ctx),
        "progress": {
            "epoch": ctx.epoch if opened is None else max(ctx.epoch - 1, 0),
            "iter": ctx.iter,
            "step_count": ctx.step_count,
            "data_epoch": ctx.data_epoch,
            "ends": list(ctx._ends.items()),
            "used_once": [list(pair) for pair in ctx._used_once()],
            # A pause ends the run that it was in, and no other.
            "stop_reason": None if ctx.paused or ctx.interrupted else ctx.stop_reason,
        },
        "gradients": _gradients(ctx),
        "open": opened,
        "data": data,
        **draws_of(_loaders(ctx), ctx.device),
    }


def result_of(ctx: RunState) -> dict[str, Any]:
    """What a fit has come to, once all its callbacks have ended it."""
    whole = state_of(ctx)
    return {part: whole[part] for part in _OF_RESULT}


def restore_result(ctx: RunState, result: Mapping[str, Any]) -> None:
    """Leave all as a fit had left it that was ended before."""
    ctx.accelerator.unwrap(ctx.model).load_state_dict(result["model"])
    _restore_optimizers(ctx, result)
    _restore_records(ctx, result["records"])
    restore_steps(ctx, result["steps"])
    restore_draws(_loaders(ctx), result, ctx.device)


def restore_again(ctx: RunState, state: Mapping[str, Any]) -> None:
    """Put back what callbacks have changed since the restore, where the run goes on."""
    ctx.accelerator.unwrap(ctx.model).load_state_dict(state["model"])
    _restore_callbacks(ctx, state["callbacks"])
    _restore_optimizers(ctx, state)
    _restore_records(ctx, state["records"])
    restore_steps(ctx, state.get("steps", {}))
    _put_gradients(ctx, state["gradients"])
    ctx._use_once([(name, hook) for name, hook in state["progress"]["used_once"]])
    restore_draws(_loaders(ctx), state, ctx.device)


def restore(ctx: RunState, state: Mapping[str, Any], parts: Mapping[str, bool]) -> None:
    """Make a run go on from a state; `parts` says from which parts of it."""
    _check(ctx, state, [part for part, wanted in parts.items() if wanted])
    if parts["progress"]:
        # First, as it refuses what makes no sense.
        progress = state["progress"]
        epoch = progress["epoch"]
        data_epoch = progress.get("data_epoch", epoch)  # files of 0.1.0 have none
        ctx._resume(epoch, progress["step_count"], data_epoch, progress["stop_reason"])
        ctx._ends = dict(progress.get("ends", ()))
        _restore_open(ctx, state, all(parts.values()))
        ctx._use_once([(name, hook) for name, hook in progress["used_once"]])
    if parts["model"]:
        ctx.accelerator.unwrap(ctx.model).load_state_dict(state["model"])
    if parts["callbacks"]:
        # They may add the groups that the optimizers had by then.
        _restore_callbacks(ctx, state["callbacks"])
    if parts["optimizers"]:
        _check_optimizers(ctx, state, begun=True)
        _restore_optimizers(ctx, state)
        _put_gradients(ctx, state.get("gradients", {}))
    if parts["records"]:
        _restore_records(ctx, state["records"])
        if not restore_steps(ctx, state.get("steps", {})):
            raise ArgumentError(_NO_ROWS)
    if parts["rng"]:
        ctx._waiting = restore_draws(_loaders(ctx), state, ctx.device)


def _restore_open(ctx: RunState, state: Mapping[str, Any], whole: bool) -> None:
    """Have the run go on inside of the pass that the state left open, and of the data."""
    opened, data = state.get("open"), state.get("data")
    if whole and ctx._keeper is not None:
        ctx._going_on_data = data
        if opened is not None:
            ctx._going_on = state
            ctx._resume_in(opened["epoch"], opened["pass"] - 1)
    elif opened is not None:
        warn(_OPEN.format(opened["epoch"]), LumbreWarning)
    if data is None and ctx._steps_per_epoch is not None:
        warn(_BEGUN_ANEW, LumbreWarning)


def _check(ctx: RunState, state: Mapping[str, Any], parts: list[str]) -> None:
    """Refuse what does not fit, before anything is changed."""
    missing = [key for part in parts for key in _PARTS[part] if key not in state]
    if missing:
        raise ArgumentError(
            f"The state has no {', '.join(missing)}; it has {_names(state)}. Pass what "
            "ctx.state_dict() gave, whole."
        )
    if "model" in parts:
        _check_model(ctx, state["model"])
    if "optimizers" in parts:
        _check_optimizers(ctx, state)


def _check_model(ctx: RunState, saved: Mapping[str, Any]) -> None:
    model = ctx.accelerator.unwrap(ctx.model)
    if wrong := misfits(saved, model.state_dict()):
        raise ArgumentError(
            f"The state is of another model than this {type(model).__name__}:{wrong}\n"
            "Build the model as it was when it was saved."
        )


def _check_optimizers(ctx: RunState, state: Mapping[str, Any], *, begun: bool = False) -> None:
    """Refuse other optimizers than those of the state.

    Before the restore has begun one that lacks groups may still get them, by a callback.
    """
    saved, kinds = state["optimizers"], state["optimizer_kinds"]
    if set(saved) != set(ctx.optimizers):
        raise ArgumentError(_OTHER_NAMES.format(_names(saved), _names(ctx.optimizers)))
    for name, each in ctx.optimizers.items():
        was, own = saved[name]["param_groups"], each.param_groups
        forms = [f"{kinds[name]} of {_form(was)}", f"{type(each).__name__} of {_form(own)}"]
        lacks = kinds[name] == type(each).__name__ and len(was) > len(own)
        if forms[0] != forms[1] and (begun or not lacks):
            raise ArgumentError(_UNLIKE.format(name, *forms, _ADD if lacks else _RESUME_WITH))


def _restore_optimizers(ctx: RunState, state: Mapping[str, Any]) -> None:
    for name, each in ctx.optimizers.items():
        each.load_state_dict(state["optimizers"][name])
    for name, scaler in step_of(ctx).windows.scalers.items():
        if state["scalers"].get(name):
            scaler.load_state_dict(state["scalers"][name])


def _gradients(ctx: RunState) -> dict[str, Tensor]:
    """Return the gradients that may be needed: of an open window, or for a step of one's own."""
    step = step_of(ctx)
    if not (step.is_own or step.windows.has_gathered):
        return {}
    return {name: each.grad for name, each in _parameters(ctx).items() if each.grad is not None}


def _put_gradients(ctx: RunState, gradients: Mapping[str, Tensor]) -> None:
    for name, each in _parameters(ctx).items() if gradients else ():
        if name in gradients:
            each.grad = gradients[name].to(device=each.device, dtype=each.dtype)


def _parameters(ctx: RunState) -> dict[str, Tensor]:
    """Return all parameters by name; those that only an optimizer has by their place in it."""
    named = dict(ctx.accelerator.unwrap(ctx.model).named_parameters())
    known = {id(each) for each in named.values()}
    for name, optimizer in ctx.optimizers.items():
        for group, each in enumerate(getattr(optimizer, "param_groups", ())):
            for place, parameter in enumerate(each["params"]):
                if id(parameter) not in known:
                    named[f"{name}.{group}.{place}"] = parameter
    return named


def _restore_callbacks(ctx: RunState, saved: Mapping[str, Any]) -> None:
    own = dict(named(ctx))
    for name, state in saved.items():
        if name in own:
            try:
                load_callback_state(own[name], state)
            except LumbreError:
                raise
            except _RAISED_BY_OTHERS as error:
                text = _OTHER_THAN_TAKEN.format(name, type(error).__name__, error)
                raise ArgumentError(text) from error
        elif state:
            warn(
                f"The state that is resumed holds one of {name}, and no callback of this run has "
                "that name: it is left out.",
                LumbreWarning,
            )


def _restore_records(ctx: RunState, records: Mapping[str, Any]) -> None:
    profile = records["profile"]
    ctx._restore_history(
        records["metrics"], profile, records.get("optimizer"), records.get("before")
    )
    extras = {what: dict(sets) for what, sets in records.items() if what not in _OF_THE_RUN}
    known = ctx._history()["profile"]
    extras["profile"] = {part: v for part, v in profile.items() if part not in known}
    ctx._extras = {
        what: {set_: list(values) for set_, values in sets.items()}
        for what, sets in extras.items()
        if sets
    }


def named(ctx: RunState) -> Iterator[tuple[str, Any]]:
    """The callbacks of a run with their names; of two alike the second is `Name_2`."""
    names = unique_names([Given(each).name for each in ctx.callbacks])
    return zip(names, ctx.callbacks, strict=True)


def callback_state(callback: Any) -> Any:
    """Return the state of a callback; None when it has none."""
    own = getattr(type(callback), "state_dict", None)
    if own is not None and own is not Callback.state_dict:
        return callback.state_dict()
    saved = (native := Given(callback).native) and native.save()
    return json.loads(saved) if isinstance(saved, str) else saved


def load_callback_state(callback: Any, state: Any) -> None:
    """Let a callback go on from its state."""
    own = getattr(type(callback), "load_state_dict", None)
    if own is not None and own is not Callback.load_state_dict:
        callback.load_state_dict(state)
    elif (native := Given(callback).native) is not None:
        native.load(state if isinstance(state, bytes) else json.dumps(state))


def _loaders(ctx: RunState) -> dict[str, Any]:
    return {"train": ctx.train_data, "valid": ctx.valid_data}


def _form(groups: list[dict[str, Any]]) -> str:
    return f"{' + '.join(str(len(each['params'])) for each in groups)} parameters"


def _names(names: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, names)) or "none"


_OPEN = (
    "The state was saved inside of epoch {}, and only AutoResume goes on there: that epoch is "
    "begun anew, with the weights as they were saved."
)
_NO_ROWS = (
    "The rows of single steps in the state are no table: their columns differ in length. Resume "
    "with records=False, or from another file."
)
_RESUME_WITH = "Resume with the optimizers that were saved, or without their state."
_ADD = (
    "A group was added while the run that was saved trained: let the callback that adds it do so "
    "again in its load_state_dict, which comes before the optimizers get theirs."
)
_OTHER_NAMES = f"The state is of the optimizers {{}}, and this run has {{}}. {_RESUME_WITH}"
_UNLIKE = "The state of the optimizer {!r} is that of {}, and this run has {}. {}"


_OTHER_THAN_TAKEN = (
    "The state of {} is of another form than its load_state_dict takes: {}: {}. Resume with the "
    "callback as it was when it was saved, or without the callbacks' states."
)
