"""The callbacks that come with lumbre."""

from lumbre.callbacks.auto_resume import AutoResume
from lumbre.callbacks.csv_logger import CSVLogger
from lumbre.callbacks.default import Interrupt, Metrics, Profile, TrainValid
from lumbre.callbacks.early_stopping import EarlyStopping
from lumbre.callbacks.ema import EMA
from lumbre.callbacks.gradient_accumulation import GradientAccumulation
from lumbre.callbacks.gradient_clip import GradientClip
from lumbre.callbacks.json_logger import JSONLogger
from lumbre.callbacks.keep_best_model import KeepBestModel
from lumbre.callbacks.lr_scheduler import LRScheduler
from lumbre.callbacks.mixed_precision import MixedPrecision
from lumbre.callbacks.mixup import Mixup
from lumbre.callbacks.model_checkpoint import ModelCheckpoint
from lumbre.callbacks.progress import Progress
from lumbre.callbacks.resume_from_checkpoint import ResumeFromCheckpoint
from lumbre.callbacks.tensorboard import TensorBoard
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
