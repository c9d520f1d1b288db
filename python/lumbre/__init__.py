"""Training for PyTorch: setup, fit, evaluate, predict, with callbacks at every breakpoint."""

from lumbre import callbacks, errors, metrics, nn
from lumbre._core import HOOKS
from lumbre.accelerator import Accelerator
from lumbre.callback import Callback, callback, epochs, every, on, once
from lumbre.checkpoints import load_checkpoint
from lumbre.context import Context
from lumbre.data import as_dataloader
from lumbre.errors import LumbreError, LumbreWarning
from lumbre.files import load, load_model_weights, save_model_weights
from lumbre.fitted import Evaluation, Fitted
from lumbre.lr_records import LRRecords
from lumbre.metric import Metric, MetricSet, metric
from lumbre.own_loop import run
from lumbre.schedule import schedule
from lumbre.setup import Trainable, setup

__version__ = "0.1.0"

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
