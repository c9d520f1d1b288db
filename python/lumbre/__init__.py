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
    from lumbre.fit.evaluation import Evaluation
    from lumbre.fit.fitted import Fitted
    from lumbre.fit.lr_records import LRRecords
    from lumbre.fit.own_loop import run
    from lumbre.fit.plan import schedule
    from lumbre.fit.saving import load, load_checkpoint, load_model_weights, save_model_weights
    from lumbre.fit.setup import setup
    from lumbre.fit.trainable import Trainable
    from lumbre.hooks.callback import Callback
    from lumbre.hooks.filters import epochs, every, once
    from lumbre.hooks.function import callback, on
    from lumbre.metrics.base import Metric, metric
    from lumbre.metrics.sets import MetricSet

# Where each name lives: it is imported when it is first asked for.
_HOMES = {
    "HOOKS": "_core",
    "Accelerator": "accelerator",
    "Callback": "hooks.callback",
    "Context": "engine.context",
    "Evaluation": "fit.evaluation",
    "Fitted": "fit.fitted",
    "LRRecords": "fit.lr_records",
    "LumbreError": "errors",
    "LumbreWarning": "errors",
    "Metric": "metrics.base",
    "MetricSet": "metrics.sets",
    "Trainable": "fit.trainable",
    "as_dataloader": "data.loaders",
    "callback": "hooks.function",
    "callbacks": "",
    "epochs": "hooks.filters",
    "errors": "",
    "every": "hooks.filters",
    "load": "fit.saving",
    "load_checkpoint": "fit.saving",
    "load_model_weights": "fit.saving",
    "metric": "metrics.base",
    "metrics": "",
    "nn": "",
    "on": "hooks.function",
    "once": "hooks.filters",
    "run": "fit.own_loop",
    "save_model_weights": "fit.saving",
    "schedule": "fit.plan",
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
