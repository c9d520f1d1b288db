"""The errors and warnings that lumbre raises itself.

Each one is a `LumbreError` and also the built-in a user would catch. What a user's own callback,
metric or model raises is never wrapped: it keeps its type and gains one note that names the place.
"""

from typing import Any


class LumbreError(Exception):
    """The base of every error that lumbre raises itself."""


class ArgumentError(LumbreError, ValueError):
    """An argument has a value that cannot work; the message says which one would."""


class ArgumentTypeError(LumbreError, TypeError):
    """An argument is of a type that cannot work, such as a class where an instance is due."""


class JoinError(ArgumentError):
    """Predictions cannot be joined; `batches` holds those that were made so far."""

    batches: list[Any]


class HookError(LumbreError, ValueError):
    """A method or breakpoint is named like a hook and is none."""


class ScheduleError(LumbreError, ValueError):
    """Callbacks cannot be put in order: a NaN weight, a cycle, a filter that never holds."""


class ShapeError(LumbreError, ValueError):
    """The shapes of predictions and targets do not fit together."""


class DTypeError(LumbreError, TypeError):
    """A tensor has a dtype that cannot be measured, such as a complex one."""


class TargetError(LumbreError, ValueError):
    """A target names a class that the predictions do not have."""


class MetricError(LumbreError, ValueError):
    """A metric cannot be used as given: two share a name, states do not merge."""


class MonitorError(LumbreError, ValueError, KeyError):
    """A callback watches a value that the records do not hold: a bad argument, a missing key."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would escape the line breaks.
        return str(self.args[0]) if self.args else ""


class ContextError(LumbreError, AttributeError):
    """`ctx` has no such attribute, or it has no value outside of the run."""


class DataError(LumbreError, ValueError):
    """Data cannot be trained on: an empty loader, a batch without a target, a bad fraction."""


class SaveError(LumbreError, TypeError):
    """A value cannot be saved: it is neither a tensor nor what JSON can hold."""


class FileError(LumbreError, ValueError):
    """A file cannot be used: truncated, altered, of another kind, or not lumbre's at all."""


class ABIError(LumbreError, ImportError):
    """A callback of a foreign library cannot be called: built for another version, or broken."""


class ExtensionError(LumbreError, RuntimeError):
    """A callback written in Rust failed, panicked, or was called while it was being called."""


class MissingPackageError(LumbreError, ModuleNotFoundError):
    """Something wants a package that lumbre does without; the message says how to install it."""


class LumbreWarning(UserWarning):
    """The base of every warning that lumbre gives."""


class NonFiniteLossWarning(LumbreWarning):
    """The loss of a batch is NaN or infinite."""


class ShapeWarning(LumbreWarning):
    """Shapes fit by broadcasting only, which is seldom what is meant."""


class MetricWarning(LumbreWarning):
    """A metric has no value, or not of every class: the data so far do not define it."""


class MonitorWarning(LumbreWarning):
    """A callback watches a name that is no metric of the run (yet), or the wrong way round."""


class DataWarning(LumbreWarning):
    """An option about data has no effect, or one that is seldom meant."""
