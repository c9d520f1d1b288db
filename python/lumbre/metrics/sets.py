"""The metrics of a run: which are measured on which data, and what is taken as one."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import Module

from lumbre._core import Meter, NativeMetric, nearest
from lumbre.errors import ArgumentError, ArgumentTypeError, MetricError
from lumbre.metrics.base import Metric
from lumbre.metrics.mean import Mean
from lumbre.metrics.native import Native


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
        return {"train": _copied(self.train), "valid": _copied(self.valid)}

    def __repr__(self) -> str:
        return f"MetricSet(train={self.train!r}, valid={self.valid!r})"


class TorchMetric(Metric):
    """A `torchmetrics.Metric` as it is, on the device of what it measures."""

    def __init__(self, held: Any, name: str | None = None) -> None:
        self._held = held
        self.name = getattr(held, "name", None)
        self._called = name or self.name or type(held).__name__.lower()
        better = getattr(held, "higher_is_better", None)
        self.direction = None if better is None else "max" if better else "min"

    @property
    def record_name(self) -> str:
        """The name under which the values are recorded."""
        return self._called

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
    """The metrics that `setup` was given."""
    return metrics if isinstance(metrics, MetricSet) else MetricSet(metrics)


def meter(losses: Iterable[str], metrics: list[Metric]) -> Meter:
    """The accumulator of one set: the losses first, then the metrics as given."""
    keys = list(losses)
    named = [(key, "loss" if len(keys) == 1 else f"loss_{key}") for key in keys]
    taken = {name for _, name in named}
    for each in metrics:
        if not isinstance(each.record_name, str):
            raise ArgumentTypeError(f"A metric's name is a text; got {each.record_name!r}.")
        if each.direction not in ("min", "max", None):
            raise ArgumentError(_NO_DIRECTION.format(each.record_name, each.direction))
        if each.record_name in taken:
            raise MetricError(
                f'Two metrics would be recorded as "{each.record_name}". Give one of them another '
                f'name: name="{each.record_name}_2" where it takes one, or the attribute `name`.'
            )
        taken.add(each.record_name)
    return Meter(named, [(each.record_name, each, _native(each)) for each in metrics])


def _native(metric: Metric) -> Any:
    """The Rust state to feed without a Python frame, unless a subclass has its own `update`."""
    return metric._native if isinstance(metric, Native) and not metric.has_own_update() else None


def _copied(metrics: list[Metric]) -> list[Metric]:
    copies = []
    for each in metrics:
        try:
            copies.append(copy.deepcopy(each))
        except Exception as error:
            raise MetricError(_NO_COPY.format(name=each.record_name, error=error)) from error
    return copies


_NO_DIRECTION = 'direction of the metric "{}" is "min", "max" or None; got {!r}.'
_NO_COPY = (
    'The metric "{name}" cannot be copied ({error}), and a run measures with copies of what it is '
    "given. Let it make what cannot be copied in reset(), or say how a copy is made: "
    "def __deepcopy__(self, memo): return type(self)(...)."
)


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
        return Mean(value)
    if isinstance(value, str):
        raise ArgumentTypeError(
            f"metrics holds the name {value!r} where a metric is due: write {_meant_by(value)}."
        )
    raise ArgumentTypeError(_NO_METRIC.format(value))


def _meant_by(name: str) -> str:
    """How the metric of that name is made, as far as a name tells."""
    known = {each.lower(): each for each in NativeMetric.NAMES}
    near = nearest(name.lower().replace("_", ""), list(known))
    return f"lb.metrics.{known[near]}()" if near else "an instance, such as lb.metrics.Accuracy()"


def _is_torchmetric(value: Any) -> bool:
    # A torchmetric cannot exist before its package was imported: no need to import it to look.
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.Metric)


def _is_collection(value: Any) -> bool:
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.MetricCollection)


_NO_METRIC = (
    "{!r} is no metric. A metric is an instance of a subclass of lb.Metric, of one made by "
    "lb.metric(...), or of a torchmetrics.Metric; or a function of predictions and target. A loss "
    "becomes one by lb.metrics.Mean(loss)."
)
