"""Metrics: what is measured batch by batch and read when a pass ends."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor
from torch.nn import Module

from lumbre._core import Meter, nearest
from lumbre.errors import ArgumentTypeError, MetricError

if TYPE_CHECKING:
    from typing import Self

    from lumbre.engine.context import Context


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
    ctx: Context
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
        """The value over all batches since `reset`: a number, or a tensor or array of numbers."""
        raise NotImplementedError(f"{type(self).__name__} has to define compute(self).")

    def format(self, value: Any) -> str:
        """The value as it is shown to people."""
        from lumbre.text import format_value

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


class MetricSet:
    """Which metrics are measured on which data.

    Args:
        metrics: For training and validation data.
        train_metrics: For the training data only.
        valid_metrics: For the validation data only.
    """

    def __init__(
        self,
        metrics: Any = None,
        train_metrics: Any = None,
        valid_metrics: Any = None,
    ) -> None:
        both = _as_list(metrics)
        self.train = [*both, *_as_list(train_metrics)]
        self.valid = [*both, *_as_list(valid_metrics)]

    def copies(self) -> dict[str, list[Metric]]:
        """Fresh instances for a run: those for the training and those for the validation data."""
        return {
            "train": [copy.deepcopy(each) for each in self.train],
            "valid": [copy.deepcopy(each) for each in self.valid],
        }

    def __repr__(self) -> str:
        return f"MetricSet(train={self.train!r}, valid={self.valid!r})"


class TorchMetric(Metric):
    """A `torchmetrics.Metric` as it is, on the device of what it measures."""

    def __init__(self, held: Any, name: str | None = None) -> None:
        self._held = held
        self.name = name or getattr(held, "name", None) or type(held).__name__.lower()
        better = getattr(held, "higher_is_better", None)
        self.direction = None if better is None else "max" if better else "min"

    def reset(self) -> None:
        """Forget every batch."""
        self._held.reset()

    def update(self, preds: Any, target: Any) -> None:
        """Count a batch in."""
        if isinstance(preds, Tensor) and self._held.device != preds.device:
            self._held.to(preds.device)
        self._held.update(preds, target)

    def compute(self) -> Any:
        """The value over all batches since `reset`."""
        return self._held.compute()


def as_metric_set(metrics: Any) -> MetricSet:
    """What `setup` was given as metrics."""
    return metrics if isinstance(metrics, MetricSet) else MetricSet(metrics)


def meter(losses: Iterable[str], metrics: list[Metric]) -> Meter:
    """The accumulator of one set: the losses first, then the metrics as given."""
    keys = list(losses)
    named = [(key, "loss" if len(keys) == 1 else f"loss_{key}") for key in keys]
    taken = {name for _, name in named}
    for each in metrics:
        if each.record_name in taken:
            raise MetricError(
                f'Two metrics would be recorded as "{each.record_name}". Give one of them another '
                f'name: name="{each.record_name}_2" where it takes one, or the attribute `name`.'
            )
        taken.add(each.record_name)
    return Meter(named, [(each.record_name, each, _native(each)) for each in metrics])


def _native(metric: Metric) -> Any:
    """The Rust state to feed without a Python frame, unless a subclass has its own `update`."""
    from lumbre.metrics.native import Native

    return metric._native if isinstance(metric, Native) and not metric.has_own_update() else None


def _as_list(metrics: Any) -> list[Metric]:
    if metrics is None:
        return []
    one = isinstance(metrics, Metric | type | str | Mapping) or _is_torchmetric(metrics)
    if one or not isinstance(metrics, Iterable) or _is_collection(metrics):
        metrics = [metrics]
    found: list[Metric] = []
    for each in metrics:
        if _is_collection(each):
            found += [TorchMetric(held, name=name.lower()) for name, held in each.items()]
        else:
            found.append(_as_metric(each))
    return found


def _as_metric(value: Any) -> Metric:
    if isinstance(value, Metric):
        return value
    if isinstance(value, type):
        raise ArgumentTypeError(
            f"metrics holds the class {value.__name__} where an instance is due: "
            f"write {value.__name__}(...)."
        )
    if _is_torchmetric(value):
        return TorchMetric(value)
    # A loss is a module, and it is sooner among the metrics by mistake than by intent.
    if callable(value) and not isinstance(value, Module):
        from lumbre.metrics.mean import Mean

        return Mean(value)
    if isinstance(value, str):
        raise ArgumentTypeError(
            f"metrics holds the name {value!r} where a metric is due: write {_meant_by(value)}."
        )
    raise ArgumentTypeError(
        f"{value!r} is no metric. A metric is an instance of a subclass of lb.Metric, of one made "
        "by lb.metric(...), or of a torchmetrics.Metric; or a function of predictions and target. "
        "A loss becomes one by lb.metrics.Mean(loss)."
    )


def _meant_by(name: str) -> str:
    """How the metric of that name is made, as far as a name tells."""
    from lumbre import metrics

    # All but Mean, which takes a function.
    known = {each.lower(): each for each in metrics.__all__ if each != "Mean"}
    near = nearest(name.lower().replace("_", ""), list(known))
    return f"lb.metrics.{known[near]}()" if near else "an instance, such as lb.metrics.Accuracy()"


def _is_torchmetric(value: Any) -> bool:
    # A torchmetric cannot exist before its package was imported: no need to import it to look.
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.Metric)


def _is_collection(value: Any) -> bool:
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.MetricCollection)
