"""Metrics: what is measured batch by batch and read when a pass ends."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lumbre.text import format_value

if TYPE_CHECKING:
    from typing import Self


class Metric:
    """The base of every metric: define `update` and `compute`.

    A run makes a copy for the training and one for the validation data, calls `reset` when a pass
    begins, `update` after each batch and `compute` when the pass ends. `self.ctx` is the run's
    context while it lasts. Where there is a method `retract`, it is called to take the last batch
    back out, when a callback skips a batch that was counted already.

    Attributes:
        abbrev: The short name, the class name unless given; lower-cased it names the record.
        name: The name of the record where the abbreviation will not do.
        direction: "min" or "max", whichever is better; None when neither is.

    Example:
        >>> class Share(Metric):
        ...     abbrev = "Share"
        ...     def __init__(self):
        ...         self.hits, self.total = 0, 0
        ...     def update(self, preds, target):
        ...         self.hits += int((preds > target).sum())
        ...         self.total += len(target)
        ...     def compute(self):
        ...         return self.hits / self.total
        >>> Share().record_name
        'share'
    """

    abbrev: ClassVar[str] = ""
    direction: Literal["min", "max"] | None = None
    name: str | None = None
    ctx: Any
    # Whether `compute` never gives a dict, so that all names are known before a run.
    _is_one_record: ClassVar[bool] = False
    _made_with: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments: `reset` may have to begin with them again."""
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError(f"{cls.__name__}() takes no arguments")
        self = super().__new__(cls)
        self._made_with = (args, kwargs)
        return self

    @property
    def record_name(self) -> str:
        """The name under which the values are recorded."""
        return self.name or (self.abbrev or type(self).__name__).lower()

    def reset(self) -> None:
        """Forget every batch. Unless defined: `__init__` runs again with the same arguments."""
        args, kwargs = self._made_with
        self.__init__(*args, **kwargs)  # type: ignore[misc]

    def update(self, preds: Any, target: Any) -> None:
        """Count a batch in.

        Args:
            preds: `ctx.pred`, with gradients off.
            target: `ctx.target`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has to define update(self, preds, target)."
        )

    def compute(self) -> Any:
        """The value over all batches since `reset`: a number, or a tensor or array of numbers.

        Or a dict of these: each entry is a record of its own, called as its key is, behind the
        attribute `name` and a "_" where the metric has one.
        """
        raise NotImplementedError(f"{type(self).__name__} has to define compute(self).")

    def format(self, value: Any) -> str:
        """The value as it is shown to people."""
        return format_value(value)

    def __repr__(self) -> str:
        args, kwargs = self._made_with
        shown = [*map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items())]
        return f"{type(self).__name__}({', '.join(shown)})"


def metric(
    name: str,
    /,
    *,
    update: Callable[..., Any],
    compute: Callable[..., Any],
    initialize: Callable[..., Any] | None = None,
    inherit: type[Metric] = Metric,
    **members: Any,
) -> type[Metric]:
    """Make a metric class without a class statement.

    Args:
        name: The name of the class.
        update: Called as `update(self, preds, target)` after each batch.
        compute: Called as `compute(self)` when a pass ends.
        initialize: Its `__init__`, called as `initialize(self, ...)`; without a `reset` of its own
            it runs again, with the same arguments, when a pass begins.
        inherit: The class it extends.
        members: Everything else: `abbrev`, `reset`, `format`, `direction`, other attributes.

    Returns:
        A subclass of `inherit`; calling it makes an instance.
    """
    members |= {"update": update, "compute": compute}
    members["__module__"] = sys._getframe(1).f_globals.get("__name__", __name__)
    if initialize is not None:

        @functools.wraps(initialize)
        def __init__(self: Metric, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            initialize(self, *args, **kwargs)

        members["__init__"] = __init__
    return type(name, (inherit,), members)
