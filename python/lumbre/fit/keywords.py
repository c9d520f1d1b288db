"""What is said to who calls lumbre with the arguments of another library."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from lumbre._core import nearest
from lumbre.errors import ArgumentTypeError

Given = ParamSpec("Given")
Result = TypeVar("Result")

# Other words for an argument of lumbre's, as Keras, scikit-learn and Lightning have them.
_WORDS = {
    "dataset": "data",
    "max_epochs": "epochs",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "train_data": "data",
    "validation_data": "valid_data",
    "validation_split": "valid_data",
    "x": "data",
}
_TARGETS = {"y", "target", "targets", "labels"}


def explained(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let a function that is called with arguments it has not say where they belong."""

    @functools.wraps(function)
    def call(*args: Given.args, **options: Given.kwargs) -> Result:
        if len(args) > 1 and _are_two_data(function, args):
            raise _of_two_data(function)
        try:
            return function(*args, **options)
        except TypeError:
            mend = _mend(function, options)
            if mend is None:
                raise
        raise mend

    return call


def _mend(function: Callable[..., Any], options: Mapping[str, Any]) -> ArgumentTypeError | None:
    """What to write in the place of a keyword that the function lacks; None when it has all."""
    own = [name for name in inspect.signature(function).parameters if name != "self"]
    unknown = next((name for name in options if name not in own), None)
    if unknown is None:
        return None
    if unknown in _TARGETS and "data" in own:
        return _of_two_data(function)
    home, near = _home(unknown, own), _WORDS.get(unknown) or nearest(unknown, own)
    if home is not None:
        mend = f". Write {home}."
    elif near in own:
        mend = f'. Did you mean "{near}"?'
    else:
        mend = f"; it takes {', '.join(own)}."
    return ArgumentTypeError(f'{function.__name__}() has no argument "{unknown}"{mend}')


def _are_two_data(function: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether an array follows the data, where no array can be meant."""
    own = list(inspect.signature(function).parameters)
    after = args[own.index("data") + 1 :] if "data" in own else ()
    # A number of numpy's has a shape, too: an empty one.
    return bool(after and getattr(after[0], "shape", ()))


def _of_two_data(function: Callable[..., Any]) -> ArgumentTypeError:
    return ArgumentTypeError(f"Data is one argument: {function.__name__}([x, y], ...).")


def _home(name: str, own: list[str]) -> str | None:
    """Where an argument of that name belongs."""
    from torch.optim import SGD, Adam
    from torch.utils.data import DataLoader

    from lumbre.accelerator import Accelerator
    from lumbre.fit.setup import setup
    from lumbre.fit.trainable import Trainable

    if name in _WORDS:
        return None
    for kind in (DataLoader, Accelerator):
        if name in inspect.signature(kind).parameters:
            keyword = "dataloader_options" if kind is DataLoader else "accelerator"
            value = f'{{"{name}": ...}}' if kind is DataLoader else f"lb.Accelerator({name}=...)"
            where = "" if keyword in own else "fit(..., "
            return f"{where}{keyword}={value}{')' if where else ''}"
    if any(name in inspect.signature(kind).parameters for kind in (Adam, SGD)):
        return f"lb.setup(...).set_opt_hparams({name}=...)"
    for function, shown in ((setup, "lb.setup"), (Trainable.fit, "fit")):
        if name in inspect.signature(function).parameters:
            return f"{shown}(..., {name}=...)"
    return None
