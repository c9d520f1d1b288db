"""`Fitted`: a trained model, its history, and what can be done with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lumbre.accelerator import Accelerator, as_accelerator
from lumbre.data import loaders as data_module
from lumbre.engine import loop
from lumbre.engine.guard import RunGuard
from lumbre.errors import ArgumentError
from lumbre.fit.keywords import explained
from lumbre.hooks.foreign import Callbacks, as_callbacks
from lumbre.metrics.sets import MetricSet, as_metric_set
from lumbre.text import format_value

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from lumbre.fit.setup import Trainable


class Fitted:
    """What `fit` gives back.

    Attributes:
        model: The trained module, on the device it was trained on.
        records: `{"metrics": {"train": [{name: value}, ...], "valid": [...]}, "profile": {...}}`,
            one dict an epoch and seconds by part.
        hparams: What built the module.
        opt_hparams: What built the optimizer.
        stop_reason: Who stopped the fit and why; None when it ran to its end.
    """

    def __init__(
        self,
        trainable: Trainable,
        model: nn.Module,
        records: dict[str, Any],
        stop_reason: str | None,
        optimizers: list[str],
    ) -> None:
        self.model = model
        self.records = records
        self.hparams = dict(trainable.hparams)
        self.opt_hparams = dict(trainable.opt_hparams)
        self.stop_reason = stop_reason
        self._trainable = trainable
        self._optimizers = optimizers

    @property
    def profile(self) -> dict[str, list[float]]:
        """Seconds: of the fit, of each epoch, of each training and validation pass."""
        profile: dict[str, list[float]] = self.records["profile"]
        return profile

    @explained
    def predict(
        self,
        data: Any,
        callbacks: Callbacks = (),
        accelerator: Accelerator | None = None,
        verbose: bool | None = None,
        dataloader_options: Mapping[str, Any] | None = None,
        stack: bool = True,
    ) -> Any:
        """Predict, by the module's `predict(x)` if it has one, else by `forward`.

        Args:
            data: As in `fit`; of pairs, the input is used. Never shuffled.
            callbacks: What runs at the breakpoints of `predict`.
            accelerator: Where to predict.
            verbose: Whether to show the progress; by default in a terminal or notebook only.
            dataloader_options: Keywords for a loader that lumbre makes.
            stack: Whether to join the batches along their first dimension; else a list of batches.

        Returns:
            The predictions on the CPU, in the order of the data, in the form the model gives them.
        """
        loader = data_module.eval_loader(data, dataloader_options)
        ctx = self._context(callbacks, accelerator, verbose, MetricSet(), needs_loss=False)
        ctx.data = loader
        batches = []
        with RunGuard(ctx, "predict"):
            batches = [ctx.accelerator.to_cpu(pred) for pred in loop.predict(ctx)]
        return _stacked(batches) if stack else batches

    @explained
    def evaluate(
        self,
        data: Any,
        metrics: Any = None,
        callbacks: Callbacks = (),
        accelerator: Accelerator | None = None,
        verbose: bool | None = None,
        dataloader_options: Mapping[str, Any] | None = None,
    ) -> Evaluation:
        """Measure the loss and the metrics on data, by exactly the validation pass of a fit.

        Args:
            data: As in `fit`, with targets. Never shuffled.
            metrics: In the place of those given to `setup`.
            callbacks: What runs at the breakpoints of validation.
            accelerator: Where to evaluate.
            verbose: Whether to show the progress; by default in a terminal or notebook only.
            dataloader_options: Keywords for a loader that lumbre makes.
        """
        loader = data_module.eval_loader(data, dataloader_options)
        chosen = self._trainable.metrics if metrics is None else as_metric_set(metrics)
        ctx = self._context(callbacks, accelerator, verbose, chosen)
        ctx.valid_data = loader
        with RunGuard(ctx, "evaluate"):
            loop.evaluate(ctx)
        valid = ctx.records["metrics"]["valid"]
        return Evaluation(valid[0] if valid else {})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, its records and its hparams to a file, for `lb.load`.

        The path holds the old file or the new one at any moment. Classes and functions among the
        hparams are kept by name. The loss, the metrics and the optimizer's state are not written.

        Args:
            path: The file, such as `"net.lumbre"`; folders that are missing are made.

        Raises:
            SaveError: when a value is neither a tensor nor plain data; the message has its place.
            OSError: when the system refuses; the path holds what it held before.
        """
        from lumbre.fit.saving import save

        save(self, path)

    def _context(
        self,
        callbacks: Any,
        accelerator: Any,
        verbose: bool | None,
        metrics: MetricSet,
        needs_loss: bool = True,
    ) -> Any:
        from lumbre.fit.setup import make_context

        accelerator = as_accelerator(accelerator)
        model = accelerator.prepare_model(self.model)
        # The losses go by the optimizers' names; the optimizers themselves have nothing to do here.
        names = dict.fromkeys(self._optimizers)
        own = as_callbacks(callbacks)
        return make_context(
            self._trainable,
            model,
            names,
            accelerator,
            own,
            verbose,
            metrics,
            needs_loss=needs_loss,
        )

    def get_metrics(self) -> pd.DataFrame:
        """All values as a long data frame: set, metric, epoch, value."""
        return metrics_frame(self.records)

    def plot(self) -> Figure:
        """The values over the epochs: a panel for each metric, a line for each set.

        Of a vector there is a line for each place, of a matrix the last one as an image, that of
        the validation data where there is one.

        Returns:
            The matplotlib figure.
        """
        from lumbre.fit.plot import plot_metrics
        from lumbre.metrics import ConfusionMatrix

        given = self._trainable.metrics
        metrics = [*given.train, *given.valid]
        confusion = {m.record_name for m in metrics if isinstance(m, ConfusionMatrix)}
        return plot_metrics(self.records["metrics"], confusion)

    def _summary(self) -> list[tuple[str, dict[str, Any]]]:
        last = []
        for set_, entries in self.records["metrics"].items():
            seen = [values for values in entries if values]
            if seen:
                last.append((set_, seen[-1]))
        return last

    def _headline(self) -> str:
        epochs = len(self.records["metrics"]["train"])
        seconds = self.profile["fit"]
        took = f" in {_seconds(seconds[-1])}" if seconds else ""
        return f"{type(self.model).__name__}, fitted for {epochs} epoch{'s' * (epochs != 1)}{took}"

    def __repr__(self) -> str:
        lines = [self._headline()]
        for set_, values in self._summary():
            shown = "  ".join(f"{name} {format_value(value)}" for name, value in values.items())
            lines.append(f"  {set_}  {shown}")
        timing = [
            f"{part} {_seconds(sum(times) / len(times))}"
            for part, times in self.profile.items()
            if part != "fit" and times
        ]
        if timing:
            lines.append(f"  mean time  {', '.join(timing)}")
        if self.stop_reason:
            lines.append(f"  stopped  {self.stop_reason}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = self._summary()
        names = list(dict.fromkeys(name for _, values in rows for name in values))
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        body = "".join(
            f"<tr><th>{escape(set_)}</th>"
            + "".join(f"<td>{_cell(values.get(name))}</td>" for name in names)
            + "</tr>"
            for set_, values in rows
        )
        stopped = f"<p>stopped: {escape(self.stop_reason)}</p>" if self.stop_reason else ""
        table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<p><b>{escape(self._headline())}</b></p>{table}{stopped}"


class Evaluation:
    """What `evaluate` gives back.

    Attributes:
        metrics: `{name: value}`, the loss first.
    """

    def __init__(self, metrics: dict[str, Any]) -> None:
        self.metrics = metrics

    def get_metrics(self) -> pd.DataFrame:
        """The values as a data frame: metric, value."""
        import pandas as pd

        return pd.DataFrame(list(self.metrics.items()), columns=["metric", "value"])

    def __repr__(self) -> str:
        shown = [("metric", "value"), *((n, format_value(v)) for n, v in self.metrics.items())]
        width = max(len(name) for name, _ in shown)
        return "\n".join(f"{name:{width}}  {value}" for name, value in shown)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{_cell(value)}</td></tr>"
            for name, value in self.metrics.items()
        )
        head = "<thead><tr><th>metric</th><th>value</th></tr></thead>"
        return f"<table>{head}<tbody>{rows}</tbody></table>"


def metrics_frame(records: Mapping[str, Any]) -> pd.DataFrame:
    """The metrics of the records as a long data frame."""
    import pandas as pd

    rows = [
        (set_, name, epoch, value)
        for set_, entries in records["metrics"].items()
        for epoch, values in enumerate(entries, 1)
        for name, value in values.items()
    ]
    return pd.DataFrame(rows, columns=["set", "metric", "epoch", "value"])


def _stacked(batches: list[Any]) -> Any:
    """Batches joined along their first dimension, in the form of one of them."""
    if not batches:
        return torch.empty(0)
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(batches) if first.dim() else torch.stack(batches)
    if isinstance(first, Mapping):
        return {key: _stacked([batch[key] for batch in batches]) for key in first}
    if isinstance(first, tuple | list):
        parts = [_stacked(list(column)) for column in zip(*batches, strict=True)]
        if hasattr(first, "_fields"):
            return type(first)(*parts)
        return type(first)(parts)
    raise ArgumentError(
        f"The predictions are {type(first).__name__}, which cannot be joined. "
        "Take them batch by batch: predict(..., stack=False)."
    )


def _seconds(seconds: float) -> str:
    for limit, unit, scale in ((1e-3, "µs", 1e6), (1.0, "ms", 1e3), (60.0, "s", 1.0)):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if getattr(value, "ndim", 0) == 2 and max(value.shape) <= 10:
        rows = ("".join(f"<td>{x:.4g}</td>" for x in row) for row in value)
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
    return escape(format_value(value))
