"""Training for PyTorch: setup, fit, evaluate, predict, with callbacks at every breakpoint."""

import importlib
from typing import TYPE_CHECKING, Any

from lumbre.version import __version__ as __version__

if TYPE_CHECKING:
    from lumbre import callbacks as callbacks
    from lumbre import errors as errors
    from lumbre import metrics as metrics
    from lumbre import nn as nn
    from lumbre._core import HOOKS as HOOKS
    from lumbre.accelerator import Accelerator as Accelerator
    from lumbre.data.loaders import as_dataloader as as_dataloader
    from lumbre.engine.context import Context as Context
    from lumbre.errors import LumbreError as LumbreError
    from lumbre.errors import LumbreWarning as LumbreWarning
    from lumbre.fit.evaluation import Evaluation as Evaluation
    from lumbre.fit.fitted import Fitted as Fitted
    from lumbre.fit.lr_records import LRRecords as LRRecords
    from lumbre.fit.own_loop import run as run
    from lumbre.fit.plan import schedule as schedule
    from lumbre.fit.rehearsal_report import Rehearsal as Rehearsal
    from lumbre.fit.saving import load as load
    from lumbre.fit.saving import load_checkpoint as load_checkpoint
    from lumbre.fit.saving import load_model_weights as load_model_weights
    from lumbre.fit.saving import save_model_weights as save_model_weights
    from lumbre.fit.setup import setup as setup
    from lumbre.fit.trainable import Trainable as Trainable
    from lumbre.hooks.callback import Callback as Callback
    from lumbre.hooks.filters import epochs as epochs
    from lumbre.hooks.filters import every as every
    from lumbre.hooks.filters import once as once
    from lumbre.hooks.function import callback as callback
    from lumbre.hooks.function import on as on
    from lumbre.metrics.base import Metric as Metric
    from lumbre.metrics.base import metric as metric
    from lumbre.metrics.sets import MetricSet as MetricSet

# The names of each module, which is imported when one of them is first asked for.
_HOMES = {
    "": "callbacks errors metrics nn",
    "_core": "HOOKS",
    "accelerator": "Accelerator",
    "data.loaders": "as_dataloader",
    "engine.context": "Context",
    "errors": "LumbreError LumbreWarning",
    "fit.evaluation": "Evaluation",
    "fit.fitted": "Fitted",
    "fit.lr_records": "LRRecords",
    "fit.rehearsal_report": "Rehearsal",
    "fit.own_loop": "run",
    "fit.plan": "schedule",
    "fit.saving": "load load_checkpoint load_model_weights save_model_weights",
    "fit.setup": "setup",
    "fit.trainable": "Trainable",
    "hooks.callback": "Callback",
    "hooks.filters": "epochs every once",
    "hooks.function": "callback on",
    "metrics.base": "Metric metric",
    "metrics.sets": "MetricSet",
}
__all__ = [name for names in _HOMES.values() for name in names.split()]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next(home for home, names in _HOMES.items() if name in names.split())
    module = importlib.import_module(f"{__name__}.{home or name}")
    value = getattr(module, name) if home else module
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
