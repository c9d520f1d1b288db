"""Training for PyTorch: setup, fit, evaluate, predict, with callbacks at every breakpoint."""

import importlib
from typing import TYPE_CHECKING, Any

from lumbre.version import __version__ as __version__

if TYPE_CHECKING:
    from lumbre import callbacks, errors, metrics, nn
    from lumbre._core import HOOKS
    from lumbre.accelerator import Accelerator
    from lumbre.data.loaders import as_dataloader
    from lumbre.engine.context import Context
    from lumbre.errors import LumbreError, LumbreWarning
    from lumbre.fit.checkpoints import load_checkpoint
    from lumbre.fit.fitted import Evaluation, Fitted
    from lumbre.fit.lr_records import LRRecords
    from lumbre.fit.own_loop import run
    from lumbre.fit.saving import load, load_model_weights, save_model_weights
    from lumbre.fit.setup import Trainable, setup
    from lumbre.hooks.callback import Callback, callback, epochs, every, on, once
    from lumbre.hooks.schedule import schedule
    from lumbre.metrics.base import Metric, metric
    from lumbre.metrics.sets import MetricSet

# Where each name lives: it is imported when it is first asked for.
_HOMES = {
    "HOOKS": "_core",
    "Accelerator": "accelerator",
    "Callback": "hooks.callback",
    "Context": "engine.context",
    "Evaluation": "fit.fitted",
    "Fitted": "fit.fitted",
    "LRRecords": "fit.lr_records",
    "LumbreError": "errors",
    "LumbreWarning": "errors",
    "Metric": "metrics.base",
    "MetricSet": "metrics.sets",
    "Trainable": "fit.setup",
    "as_dataloader": "data.loaders",
    "callback": "hooks.callback",
    "callbacks": "",
    "epochs": "hooks.callback",
    "errors": "",
    "every": "hooks.callback",
    "load": "fit.saving",
    "load_checkpoint": "fit.checkpoints",
    "load_model_weights": "fit.saving",
    "metric": "metrics.base",
    "metrics": "",
    "nn": "",
    "on": "hooks.callback",
    "once": "hooks.callback",
    "run": "fit.own_loop",
    "save_model_weights": "fit.saving",
    "schedule": "hooks.schedule",
    "setup": "fit.setup",
}

__all__ = [
    "HOOKS",
    "Accelerator",
    "Callback",
    "Context",
    "Evaluation",
    "Fitted",
    "LRRecords",
    "LumbreError",
    "LumbreWarning",
    "Metric",
    "MetricSet",
    "Trainable",
    "as_dataloader",
    "callback",
    "callbacks",
    "epochs",
    "errors",
    "every",
    "load",
    "load_checkpoint",
    "load_model_weights",
    "metric",
    "metrics",
    "nn",
    "on",
    "once",
    "run",
    "save_model_weights",
    "schedule",
    "setup",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    module = importlib.import_module(f"{__name__}.{home or name}")
    value = getattr(module, name) if home else module
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
