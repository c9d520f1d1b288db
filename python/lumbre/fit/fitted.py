"""`Fitted`: a trained model, its history, and what can be done with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from lumbre.accelerator import Accelerator, as_accelerator, unwrapped
from lumbre.arguments import flag, whole
from lumbre.data.loaders import eval_loader
from lumbre.engine import loop
from lumbre.engine.context import Context
from lumbre.engine.guard import RunGuard
from lumbre.errors import ArgumentError
from lumbre.files import form
from lumbre.files.expanded import refuse_expanded
from lumbre.files.tree import qualified_name
from lumbre.fit.evaluation import Evaluation, cell
from lumbre.fit.joined import Joined
from lumbre.fit.keywords import explained
from lumbre.fit.recipe import Recipe
from lumbre.fit.start import start
from lumbre.hooks.foreign import Callbacks
from lumbre.metrics.sets import MetricSet, as_metric_set
from lumbre.state.logbook import metrics_frame
from lumbre.state.step_rows import steps_frame
from lumbre.text import format_value

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Fitted:
    """The outcome of a fit: the trained model, its records, and what can be done with them.

    Attributes:
        model: The trained module, on the device it was trained on; out of `torch.compile` and its
            like, which `predict` and `evaluate` run for as long as this is the module inside.
        records: `{"metrics": {"train": [{name: value}, ...], "valid": [...]}, "profile": {...}}`,
            one dict an epoch and seconds by part.
        hparams: What built the module.
        opt_hparams: What built the optimizer.
        stop_reason: Who stopped the fit and why; None when it ran to its end.
        steps: The columns of `get_steps()` by name, as tensors; empty without a `StepHistory`.
        paused: True if what ended it is something that it may go on from: `max_time`, Ctrl-C, or
            `ctx.stop(reason, resumable=True)`.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        records: dict[str, Any],
        stop_reason: str | None,
        optimizers: list[str],
        wrapped: nn.Module | None = None,
    ) -> None:
        self.model = model
        self._wrapped = model if wrapped is None else wrapped
        self.records = records
        self.hparams = dict(recipe.hparams)
        self.opt_hparams = dict(recipe.opt_hparams)
        self.stop_reason = stop_reason
        self.paused = False
        self.steps: dict[str, Tensor] = {}
        self._ends: dict[int, int] = {}  # the last step of each epoch
        self._recipe = recipe
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
        steps: int | None = None,
    ) -> Any:
        """Predict, by the module's `predict(x)` if it has one, else by `forward`.

        Args:
            data: As in `fit`; of pairs, the input is used. Never shuffled.
            callbacks: What runs at the breakpoints of `predict`.
            accelerator: Where to predict.
            verbose: Whether to show the progress; by default in a terminal or notebook only.
            dataloader_options: Keywords for a loader that lumbre makes.
            stack: Whether to join the batches along their first dimension; else a list of batches.
            steps: How many batches at most, for data without an end; all of them unless given.

        Returns:
            The predictions on the CPU, in the order of the data, in the form the model gives them:
            mappings, tuples, dataclasses and outputs of transformers keep their type. A list with
            one item a sample (and no tuple) is extended; any other list is joined output by output,
            where each of its tensors has one row a sample.

        Raises:
            JoinError: when they cannot be joined, such as text, arrays of numpy, None, or shapes
                that differ, at the batch where that is known; `error.batches` has those so far.
        """
        flag("predict", "stack", stack)
        loader = eval_loader(data, dataloader_options, in_order=True)
        ctx = self._context(
            "predict", callbacks, accelerator, verbose, MetricSet(), steps, data=loader
        )
        joined, batches = Joined(ctx), list[Any]()
        take, to_cpu = joined.add if stack else batches.append, ctx.accelerator.to_cpu
        with RunGuard(ctx, "predict"):
            for pred in loop.predict(ctx):
                take(to_cpu(pred))
        return joined.result() if stack else batches

    @explained
    def evaluate(
        self,
        data: Any,
        metrics: Any = None,
        callbacks: Callbacks = (),
        accelerator: Accelerator | None = None,
        verbose: bool | None = None,
        dataloader_options: Mapping[str, Any] | None = None,
        steps: int | None = None,
    ) -> Evaluation:
        """Measure the loss and the metrics on data, by exactly the validation pass of a fit.

        Args:
            data: As in `fit`, with targets. Never shuffled.
            metrics: In the place of those given to `setup`.
            callbacks: What runs at the breakpoints of validation.
            accelerator: Where to evaluate.
            verbose: Whether to show the progress; by default in a terminal or notebook only.
            dataloader_options: Keywords for a loader that lumbre makes.
            steps: How many batches at most, for data without an end; all of them unless given.
        """
        loader = eval_loader(data, dataloader_options)
        chosen = self._recipe.metrics if metrics is None else as_metric_set(metrics)
        ctx = self._context(
            "evaluate", callbacks, accelerator, verbose, chosen, steps, valid_data=loader
        )
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
        model = unwrapped(self.model)
        refuse_expanded("save", model)
        tree = {
            "model": model.state_dict(),
            "module": qualified_name(type(model)),
            "hparams": self.hparams,
            "opt_hparams": self.opt_hparams,
            "records": self.records,
            "stop_reason": self.stop_reason,
            "optimizers": self._optimizers,
            "steps": self.steps,
            "ends": list(self._ends.items()),
        }
        form.write(path, tree, "fitted")

    def _context(
        self,
        kind: Literal["evaluate", "predict"],
        callbacks: Any,
        accelerator: Any,
        verbose: bool | None,
        metrics: MetricSet,
        steps: int | None,
        **data: Any,
    ) -> Context:
        most = None if steps is None else whole(kind, "steps", steps, least=1)
        accelerator = as_accelerator(accelerator)
        is_kept = accelerator.unwrap(self._wrapped) is self.model
        ctx = start(
            kind,
            self._recipe,
            callbacks,
            accelerator,
            verbose,
            # What was trained, such as compiled, unless the user has put another in its place.
            model=self._wrapped if is_kept else self.model,
            # The losses go by the optimizers' names; these themselves have nothing to do here.
            optimizers=dict.fromkeys(self._optimizers),
            metrics=metrics,
            **data,
        )
        ctx._set_limits(valid_steps=most)
        return ctx

    def get_metrics(self) -> pd.DataFrame:
        """All values as a long data frame: set, metric, epoch, value."""
        return metrics_frame(self.records)

    def get_steps(self) -> pd.DataFrame:
        """A row for each step, as `StepHistory` has kept them; its docstring tells the columns.

        Raises:
            ArgumentError: when the fit had no `StepHistory`.
        """
        if not self.steps:
            raise ArgumentError(_NO_STEPS)
        return steps_frame(self.steps)

    def plot(self, *names: str, x: Literal["epoch", "step"] = "epoch") -> Figure:
        """The values over the epochs: a panel for each metric, a line for each set.

        Of a vector there is a line for each place, of a matrix the last one as an image, that of
        the validation data where there is one.

        Args:
            names: What to draw: metrics, and beside these `"lr"`, `"grad_norm"` and what else is in
                `records["optimizer"]`, and the rates of `Throughput`. With several optimizers or
                groups, `"lr"` is a panel with a line for each. All metrics unless given.
            x: What the axis shows: epochs; or steps, for the columns that `StepHistory` has kept
                (all of them unless names are given), with the validation at the end of each epoch.

        Returns:
            The matplotlib figure.

        Raises:
            ArgumentError: when nothing is recorded under one of the names; when `x` is neither, or
                there are no rows of steps.
        """
        from lumbre.fit.plot import plot_records
        from lumbre.metrics import ConfusionMatrix

        if x not in ("epoch", "step"):
            raise ArgumentError(f'plot: x is "epoch" or "step"; got {x!r}.')
        if x == "step" and not self.steps:
            raise ArgumentError(_NO_STEPS)
        given = self._recipe.metrics
        metrics = [*given.train, *given.valid]
        confusion = {m.record_name for m in metrics if isinstance(m, ConfusionMatrix)}
        rows = self.get_steps() if x == "step" else None
        return plot_records(self.records, names, rows, self._ends, confusion)

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
            for part in ("epoch", "train", "valid")
            if (times := self.profile[part])
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
            + "".join(f"<td>{cell(values.get(name))}</td>" for name in names)
            + "</tr>"
            for set_, values in rows
        )
        stopped = f"<p>stopped: {escape(self.stop_reason)}</p>" if self.stop_reason else ""
        table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<p><b>{escape(self._headline())}</b></p>{table}{stopped}"


_NO_STEPS = (
    "No rows of steps were kept in this fit: it had no StepHistory, or ended before the first step "
    "that its `every` divides. Let it keep them: fit(..., callbacks=lb.callbacks.StepHistory())."
)


def _seconds(seconds: float) -> str:
    for limit, unit, scale in ((1e-3, "µs", 1e6), (1.0, "ms", 1e3), (60.0, "s", 1.0)):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
