"""The callbacks that come with lumbre; each is imported when it is first asked for."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumbre.callbacks.auto_resume import AutoResume
    from lumbre.callbacks.default import Interrupt, Metrics, Profile, TrainValid
    from lumbre.callbacks.early_stopping import EarlyStopping
    from lumbre.callbacks.ema import EMA
    from lumbre.callbacks.gradient_accumulation import GradientAccumulation
    from lumbre.callbacks.gradient_clip import GradientClip
    from lumbre.callbacks.keep_best_model import KeepBestModel
    from lumbre.callbacks.loggers.csv_logger import CSVLogger
    from lumbre.callbacks.loggers.json_logger import JSONLogger
    from lumbre.callbacks.loggers.tensorboard import TensorBoard
    from lumbre.callbacks.lr_scheduler import LRScheduler
    from lumbre.callbacks.mixed_precision import MixedPrecision
    from lumbre.callbacks.mixup import Mixup
    from lumbre.callbacks.model_checkpoint import ModelCheckpoint
    from lumbre.callbacks.progress import Progress
    from lumbre.callbacks.resume_from_checkpoint import ResumeFromCheckpoint
    from lumbre.callbacks.terminate_on_nan import TerminateOnNaN

__all__ = [
    "EMA",
    "AutoResume",
    "CSVLogger",
    "EarlyStopping",
    "GradientAccumulation",
    "GradientClip",
    "Interrupt",
    "JSONLogger",
    "KeepBestModel",
    "LRScheduler",
    "Metrics",
    "MixedPrecision",
    "Mixup",
    "ModelCheckpoint",
    "Profile",
    "Progress",
    "ResumeFromCheckpoint",
    "TensorBoard",
    "TerminateOnNaN",
    "TrainValid",
]

# Which file a name is in. A fit needs few of them, and some need packages that are slow to import.
_FILES = {
    "EMA": "ema",
    "AutoResume": "auto_resume",
    "CSVLogger": "loggers.csv_logger",
    "EarlyStopping": "early_stopping",
    "GradientAccumulation": "gradient_accumulation",
    "GradientClip": "gradient_clip",
    "Interrupt": "default",
    "JSONLogger": "loggers.json_logger",
    "KeepBestModel": "keep_best_model",
    "LRScheduler": "lr_scheduler",
    "Metrics": "default",
    "MixedPrecision": "mixed_precision",
    "Mixup": "mixup",
    "ModelCheckpoint": "model_checkpoint",
    "Profile": "default",
    "Progress": "progress",
    "ResumeFromCheckpoint": "resume_from_checkpoint",
    "TensorBoard": "loggers.tensorboard",
    "TerminateOnNaN": "terminate_on_nan",
    "TrainValid": "default",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
