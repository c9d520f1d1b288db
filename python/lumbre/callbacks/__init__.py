"""The callbacks that come with lumbre; each is imported when it is first asked for."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumbre.callbacks.auto_resume import AutoResume as AutoResume
    from lumbre.callbacks.default import Interrupt as Interrupt
    from lumbre.callbacks.default import Metrics as Metrics
    from lumbre.callbacks.default import Profile as Profile
    from lumbre.callbacks.default import TrainValid as TrainValid
    from lumbre.callbacks.early_stopping import EarlyStopping as EarlyStopping
    from lumbre.callbacks.ema import EMA as EMA
    from lumbre.callbacks.gradient_accumulation import GradientAccumulation as GradientAccumulation
    from lumbre.callbacks.gradient_clip import GradientClip as GradientClip
    from lumbre.callbacks.keep_best_model import KeepBestModel as KeepBestModel
    from lumbre.callbacks.loggers.csv_logger import CSVLogger as CSVLogger
    from lumbre.callbacks.loggers.json_logger import JSONLogger as JSONLogger
    from lumbre.callbacks.loggers.tensorboard import TensorBoard as TensorBoard
    from lumbre.callbacks.lr_scheduler import LRScheduler as LRScheduler
    from lumbre.callbacks.mixed_precision import MixedPrecision as MixedPrecision
    from lumbre.callbacks.mixup import Mixup as Mixup
    from lumbre.callbacks.model_checkpoint import ModelCheckpoint as ModelCheckpoint
    from lumbre.callbacks.progress import Progress as Progress
    from lumbre.callbacks.resume_from_checkpoint import ResumeFromCheckpoint as ResumeFromCheckpoint
    from lumbre.callbacks.step_history import StepHistory as StepHistory
    from lumbre.callbacks.terminate_on_nan import TerminateOnNaN as TerminateOnNaN
    from lumbre.callbacks.throughput import Throughput as Throughput

# The names in each file. A fit needs few of them, and some need packages that are slow to import.
_HOMES = {
    "auto_resume": "AutoResume",
    "default": "Interrupt Metrics Profile TrainValid",
    "early_stopping": "EarlyStopping",
    "ema": "EMA",
    "gradient_accumulation": "GradientAccumulation",
    "gradient_clip": "GradientClip",
    "keep_best_model": "KeepBestModel",
    "loggers.csv_logger": "CSVLogger",
    "loggers.json_logger": "JSONLogger",
    "loggers.tensorboard": "TensorBoard",
    "lr_scheduler": "LRScheduler",
    "mixed_precision": "MixedPrecision",
    "mixup": "Mixup",
    "model_checkpoint": "ModelCheckpoint",
    "progress": "Progress",
    "resume_from_checkpoint": "ResumeFromCheckpoint",
    "step_history": "StepHistory",
    "terminate_on_nan": "TerminateOnNaN",
    "throughput": "Throughput",
}
__all__ = [name for names in _HOMES.values() for name in names.split()]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next(home for home, names in _HOMES.items() if name in names.split())
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
