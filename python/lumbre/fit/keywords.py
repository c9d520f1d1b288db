"""Answers to calls with the arguments of another library."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from lumbre._core import nearest
from lumbre.errors import ArgumentTypeError

Given = ParamSpec("Given")
Result = TypeVar("Result")

_TARGETS = {"y", "target", "targets", "labels"}
# Words of Keras, scikit-learn and Lightning, and lumbre's for the same.
_WORDS = {
    **dict.fromkeys(("dataset", "train_data", "x"), "data"),
    **dict.fromkeys(("max_epochs", "n_epochs", "num_epochs"), "epochs"),
    **dict.fromkeys(("validation_data", "validation_split"), "valid_data"),
    **dict.fromkeys(("criterion", "loss_fn"), "loss"),
    **dict.fromkeys(("validation_steps", "limit_val_batches"), "valid_steps"),
    **dict.fromkeys(("validation_freq", "check_val_every_n_epoch"), "valid_every"),
    "limit_train_batches": "steps_per_epoch",
    "num_sanity_val_steps": "valid_first",
    "eval_on_start": "valid_first",
    "learning_rate": "lr",
}
# What to write for an argument that belongs elsewhere.
_PLACES = {
    'dataloader_options={{"{}": ...}}': "batch_size collate_fn drop_last num_workers "
    "persistent_workers pin_memory prefetch_factor sample_seed sampler shuffle",
    "accelerator=lb.Accelerator({}=...)": "cpu device device_placement mixed_precision",
    "lb.setup(...).set_opt_hparams({}=...)": "betas eps lr momentum nesterov weight_decay",
    "lb.setup(..., {}=...)": "backward loss metrics module optimizer",
    "fit(..., {}=...)": "accelerator callbacks data dataloader_options epochs max_steps max_time "
    "steps_per_epoch valid_data valid_every valid_first valid_steps verbose",
}


def explained(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Refuse, before a call, arguments that the function has not, and say where they belong."""
    names = list(inspect.signature(function).parameters)
    own = [name for name in names if name != "self"]
    targets = names.index("data") + 1 if "data" in own else len(names)

    @functools.wraps(function)
    def call(*args: Given.args, **options: Given.kwargs) -> Result:
        unknown = next((name for name in options if name not in own), None)
        # Beside the data an array can only be targets; a number of numpy's has an empty shape.
        is_array = any(getattr(each, "shape", ()) for each in args[targets : targets + 1])
        if is_array or ("data" in own and unknown in _TARGETS):
            raise ArgumentTypeError(f"Data is one argument: {function.__name__}([x, y], ...).")
        if unknown is not None:
            raise ArgumentTypeError(
                f'{function.__name__}() has no argument "{unknown}"{_mend(unknown, own)}'
            )
        return function(*args, **options)

    return call


def _mend(unknown: str, own: list[str]) -> str:
    """Say what to write in the place of a keyword."""
    word = _WORDS.get(unknown, unknown)
    near = word if word in own else nearest(unknown, own)
    for place, names in _PLACES.items():
        if word not in own and word in names.split():
            inside = place.partition("=")[0]  # of fit, where the function does not have it
            shown = f"fit(..., {place})" if inside.isidentifier() and inside not in own else place
            return f". Write {shown.format(word)}."
    return f'. Did you mean "{near}"?' if near else f"; it takes {', '.join(own)}."
