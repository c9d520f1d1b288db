"""Fitted models and weights in files, and models that go back to a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lumbre.accelerator import unwrapped
from lumbre.engine.checkpoints import find, go_on
from lumbre.engine.context import Context
from lumbre.errors import ArgumentError, ArgumentTypeError, FileError, LumbreWarning
from lumbre.files import form
from lumbre.files.fits import misfits
from lumbre.files.form import Pathlike
from lumbre.files.path import as_path
from lumbre.files.tree import QualifiedName, qualified_name
from lumbre.fit.fitted import Fitted
from lumbre.fit.recipe import Recipe, check_parts
from lumbre.metrics.sets import as_metric_set
from lumbre.warn import warn


def load(
    path: Pathlike,
    module: nn.Module | Callable[..., nn.Module] | Recipe | None = None,
    *,
    hparams: Mapping[str, Any] | None = None,
    loss: Callable[..., Any] | None = None,
    metrics: Any = None,
) -> Fitted:
    """Read what `Fitted.save` wrote.

    The file holds no code and none is run: the module's class comes from here.

    Args:
        path: The file.
        module: The class or factory that made the model, called with the hparams of the file; or a
            module, which the weights are loaded into; or a `Trainable`, whose loss and metrics are
            taken too.
        hparams: In addition to those of the file, or in their place. Classes and functions among
            the hparams are in the file by name only and have to be given here.
        loss: What `evaluate` needs unless the module defines it, as in `setup`.
        metrics: What `evaluate` measures, as in `setup`.

    Returns:
        The fitted model, in evaluation mode and, when it was made here, on the CPU; with its
        records, hparams and reason to stop.

    Raises:
        FileNotFoundError: when there is no such file.
        FileError: when it cannot be read, or its weights do not fit the module.
        ArgumentError: when the module or one of the hparams is missing.
        ArgumentTypeError: when the module is nothing that makes one.

    Example:
        >>> import lumbre as lb, torch, tempfile
        >>> setup = lb.setup(torch.nn.Linear, torch.nn.MSELoss(), torch.optim.SGD)
        >>> setup = setup.set_hparams(in_features=2, out_features=1)
        >>> fitted = setup.fit([torch.ones(4, 2), torch.ones(4, 1)], epochs=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fitted.save(f"{folder}/line.lumbre")
        ...     loaded = lb.load(f"{folder}/line.lumbre", module=torch.nn.Linear)
        >>> torch.equal(loaded.model.weight, fitted.model.weight)
        True
    """
    path = as_path(path)
    if not isinstance(hparams, Mapping | None):
        raise ArgumentTypeError(
            f'hparams is a dict of arguments, such as {{"width": 7}}; got {hparams!r}.'
        )
    if module is None:
        name = form.read_meta(path, "fitted").tree["module"]
        raise ArgumentError(
            f"{path} holds a {name}, but no code: pass the class, "
            f"lb.load({path!r}, module={name.rpartition('.')[2]})."
        )
    tree = form.read(path, "fitted")
    if not _is_whole(tree):
        raise FileError(f"{path} is altered: it does not hold what a fitted file has to.")
    trainable = _trainable(module, loss, metrics)
    trainable = dataclasses.replace(
        trainable,
        hparams=_hparams(path, tree["hparams"], trainable, hparams),
        opt_hparams={**tree["opt_hparams"], **trainable.opt_hparams},
    )
    model = _built(path, tree["module"], trainable)
    _fill(path, model, tree["model"])
    model.eval()
    records, why, optimizers = tree["records"], tree["stop_reason"], tree["optimizers"]
    fitted = Fitted(trainable, model, records, why, optimizers)
    # None in a file of lumbre 0.1.0.
    fitted.steps, fitted._ends = tree.get("steps", {}), dict(tree.get("ends", ()))
    return fitted


def save_model_weights(fitted: Fitted, path: Pathlike) -> None:
    """Write the model's weights, and nothing else, to a file.

    The tensors are named `model.<name in state_dict>`, for all who read safetensors files.

    Args:
        fitted: What `fit` gave.
        path: The file; folders that are missing are made.

    Raises:
        ArgumentTypeError: when it is no `Fitted`.
        SaveError: when the model's state holds what no file can hold.
        OSError: when the system refuses; the path holds what it held before.
    """
    model = _model_of(fitted)
    tree = {"model": model.state_dict(), "module": qualified_name(type(model))}
    form.write(path, tree, "weights")


def load_model_weights(fitted: Fitted, path: Pathlike) -> None:
    """Put the weights of a file into the model, in place; all of them or, on an error, none.

    Args:
        fitted: What `fit` or `load` gave.
        path: Any file of lumbre's that holds a model: fitted, weights, or a checkpoint.

    Raises:
        ArgumentTypeError: when it is no `Fitted`.
        FileNotFoundError: when there is no such file.
        FileError: when it cannot be read, or its weights do not fit the model.
    """
    model = _model_of(fitted)
    path = as_path(path)
    tree = form.read(path, parts=["model"])
    if not isinstance(tree.get("model"), dict):
        raise FileError(f"{path} holds no model; expected a file with one: fitted.save(path).")
    _fill(path, model, tree["model"])


def load_checkpoint(fitted_or_ctx: Fitted | Context, path: Pathlike) -> None:
    """Go back to a checkpoint: with a fitted model, or with a run that is about to begin.

    A fitted model gets the weights, in place, all of them or, on an error, none; its records stay
    those of the whole fit. A run gets everything: weights, optimizers, callbacks' states, records,
    the place and the random numbers; call it at `on_fit_begin`, from a callback that comes last.

    Args:
        fitted_or_ctx: What `fit` or `load` gave, or the `ctx` of a run.
        path: A file that `ModelCheckpoint` or `AutoResume` wrote, or a folder of them: of these
            the newest one that can be read, by its epoch, then by the time it was written.

    Raises:
        FileNotFoundError: when there is no such file or folder.
        FileError: when it cannot be read, or does not fit; when a folder holds no checkpoint.
        ArgumentTypeError: when it is neither a `Fitted` nor a `ctx`.

    Example:
        >>> import lumbre as lb, torch, tempfile
        >>> setup = lb.setup(torch.nn.Linear(2, 1), torch.nn.MSELoss(), torch.optim.Adam)
        >>> data = [torch.ones(4, 2), torch.ones(4, 1)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     every = lb.callbacks.ModelCheckpoint(f"{folder}/{{epoch:02d}}.safetensors")
        ...     fitted = setup.fit(data, epochs=3, callbacks=every)
        ...     load_checkpoint(fitted, f"{folder}/01.safetensors")
    """
    path = as_path(path)
    if not isinstance(fitted_or_ctx, Fitted | Context):
        raise ArgumentTypeError(
            f"fitted_or_ctx is of type {type(fitted_or_ctx).__qualname__}; expected what fit(...) "
            "or lb.load(...) gives, or the ctx of a run."
        )
    found = find(path)
    if found is None:
        raise FileError(f"{path} is a folder without a checkpoint that could be read.")
    if isinstance(fitted_or_ctx, Fitted):
        load_model_weights(fitted_or_ctx, found.path)
    else:
        go_on(fitted_or_ctx, found, "Pass the file of this model's own fit.")


def _model_of(fitted: Any) -> nn.Module:
    if isinstance(fitted, Fitted):
        return unwrapped(fitted.model)
    raise ArgumentTypeError(
        f"fitted is of type {type(fitted).__qualname__}; expected what fit(...) or lb.load(...) "
        "gives."
    )


def _is_whole(tree: Any) -> bool:
    """True if a tree is one that `save` could have made."""
    kinds: dict[str, Any] = {"module": str, "hparams": dict, "opt_hparams": dict, "records": dict}
    kinds |= {"model": dict, "optimizers": list, "stop_reason": str | None}
    return isinstance(tree, dict) and all(
        key in tree and isinstance(tree[key], kind) for key, kind in kinds.items()
    )


def _trainable(module: Any, loss: Any, metrics: Any) -> Recipe:
    if not isinstance(module, Recipe):
        check_parts(module, loss)
        return Recipe(module, loss, None, as_metric_set(metrics), None)
    check_parts(module.module, loss)
    return dataclasses.replace(
        module,
        loss=module.loss if loss is None else loss,
        metrics=module.metrics if metrics is None else as_metric_set(metrics),
    )


def _hparams(
    path: str, saved: dict[str, Any], trainable: Recipe, given: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The file's hparams, with what is there by name only put in."""
    if isinstance(trainable.module, nn.Module):
        if given:
            raise ArgumentError(
                "hparams build the module, and this one is there already. Pass the class: "
                f"module={type(trainable.module).__name__}."
            )
        return saved
    names = {key: found for key, value in saved.items() if (found := list(_names(value)))}
    filled = {key: trainable.hparams[key] for key in names if key in trainable.hparams}
    complete = {**saved, **filled, **(given or {})}
    missing = {key: found for key, found in names.items() if key not in {*filled, *(given or {})}}
    if missing:
        shown = "; ".join(f"{key}: {', '.join(found)}" for key, found in missing.items())
        due = ", ".join(f"{key!r}: ..." for key in missing)
        raise ArgumentError(
            f"{path} has classes and functions by name only, as they are code ({shown}). Pass "
            f"these hparams: lb.load({path!r}, module=..., hparams={{{due}}})."
        )
    for key, value in saved.items():
        if isinstance(value, QualifiedName):
            was, now = value.name, qualified_name(complete[key])
            # What has moved to another module is the same for all that is known.
            if was.rpartition(".")[2] != now.rpartition(".")[2]:
                warn(
                    f"{path} was saved with {key}={was} and is loaded with {now}: unless that is "
                    "the same under another name, the model predicts something else.",
                    LumbreWarning,
                )
    return complete


def _names(value: Any) -> Iterable[str]:
    """The names of what a value had of code."""
    if isinstance(value, QualifiedName):
        yield value.name
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _names(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _names(item)


def _built(path: str, name: str, trainable: Recipe) -> nn.Module:
    if isinstance(trainable.module, nn.Module):
        return unwrapped(trainable.module)
    try:
        return unwrapped(trainable.build()).cpu()
    except Exception as error:
        error.add_note(f"making the module of {path}, a {name}, with its hparams")
        raise


def _fill(path: str, model: nn.Module, state: dict[str, Any]) -> None:
    """Load the weights, once all of them are known to fit."""
    own = model.state_dict()
    if any(isinstance(each, Tensor) and each.is_meta for each in own.values()):
        raise ArgumentError(
            f"The {type(model).__name__} is on the meta device and cannot take weights: give it "
            "memory first, module.to_empty(device='cpu')."
        )
    if wrong := misfits(state, own):
        raise FileError(
            f"{path} does not fit the model, a {qualified_name(type(model))}:{wrong}\n"
            "Pass the class and the hparams that it was saved with."
        )
    model.load_state_dict(state)
