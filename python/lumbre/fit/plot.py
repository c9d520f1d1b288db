"""Plots of the records. matplotlib is imported here, on first use."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lumbre.errors import ArgumentError
from lumbre.text import did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# {name: {set: [(epoch, value)]}}
Curves = dict[str, dict[str, list[tuple[int, Any]]]]

LEGIBLE = 10  # so many lines have a name, and so many rows of a matrix have numbers


def plot_records(
    records: Mapping[str, Any],
    names: Sequence[str] = (),
    rows: pd.DataFrame | None = None,
    ends: Mapping[int, int] | None = None,
    confusion: Container[str] = (),
) -> Figure:
    """A panel for each name: lines over the epochs or the steps, or the last matrix.

    Args:
        records: The records of a fit.
        names: What to draw; all metrics, or all columns of the rows, unless given.
        rows: The rows of single steps, to draw over these.
        ends: The last step of each epoch.
        confusion: Names of matrices of which rows are true and columns predicted classes.

    Raises:
        ArgumentError: when nothing is recorded under a name.
    """
    if rows is None:
        curves, others = _curves(records), _sides(records)
    else:
        curves, others = _step_curves(records, rows, ends or {}), {}
    if names:
        of_epochs = set(_curves(records)) | set(_sides(records)) if rows is not None else set()
        curves = {
            name: _curve(name, {**others, **curves}, _OF_EPOCHS if name in of_epochs else "")
            for name in names
        }
    plt = _pyplot()
    panels = max(len(curves), 1)
    columns = min(panels, 3)
    lines = -(-panels // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.5 * columns, 3.2 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    for axis, (name, sets) in zip(axes.flat, curves.items(), strict=False):
        # A metric that is a matrix in one set is one in the other, too.
        is_matrix = any(np.ndim(value) == 2 for points in sets.values() for _, value in points)
        (_draw_matrix if is_matrix else _draw_lines)(axis, name, sets)
        if name in confusion:
            axis.set(xlabel="predicted", ylabel="true")
        elif rows is not None:
            axis.set(xlabel="step")
    if not curves:
        figure.text(0.5, 0.5, "no values were recorded", ha="center", va="center")
    return _shown_once(figure)


_OF_EPOCHS = 'It has a value an epoch, and rows of steps have none: plot it with x="epoch".'


def plot_lr(
    rates: list[float], losses: list[float], smoothed: list[float], suggestion: float | None
) -> Figure:
    """The losses of a sweep over learning rates, and the rate that they suggest."""
    figure, axis = _pyplot().subplots(figsize=(6, 4), layout="constrained")
    axis.plot(rates, losses, ".", color="C0", alpha=0.35, label="loss")
    axis.plot(rates[: len(smoothed)], smoothed, color="C0", label="smoothed")
    if suggestion is not None:
        at = rates.index(suggestion)
        axis.axvline(suggestion, color="C1", ls="--", lw=1)
        axis.plot(suggestion, smoothed[at], "o", color="C1", label=f"suggestion {suggestion:.2g}")
    if smoothed:
        # A last loss that has exploded would press all of the others onto the axis.
        top = max(smoothed)
        span = (top - min(smoothed)) or abs(top) or 1.0
        axis.set_ylim(
            min(min(losses[: len(smoothed)]), min(smoothed)) - 0.1 * span, top + 0.3 * span
        )
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axis.grid(alpha=0.3)
    axis.legend()
    return _shown_once(figure)


def _curves(records: Mapping[str, Any]) -> Curves:
    """The metrics, over the epochs; epoch 0 is what was measured before the first one."""
    curves: Curves = {}
    for set_, entries in records["metrics"].items():
        before = records.get("before", {}).get(set_, {})
        for epoch, values in enumerate([before, *entries]):
            for name, value in values.items():
                if np.ndim(value) <= 2 and np.size(value):
                    curves.setdefault(name, {}).setdefault(set_, []).append((epoch, value))
    return curves


def _sides(records: Mapping[str, Any]) -> Curves:
    """What is recorded of the training beside the metrics, over the epochs."""
    rates = {k: v for k, v in records["profile"].items() if k.endswith("_per_second")}
    if waiting := records["profile"].get("waiting"):
        rates["waiting"] = waiting
    columns = {**records.get("optimizer", {}), **rates}
    return {name: {"train": list(enumerate(values, 1))} for name, values in columns.items()}


def _step_curves(
    records: Mapping[str, Any], rows: pd.DataFrame, known: Mapping[int, int]
) -> Curves:
    """The columns of the rows, over the steps, and the validation at the end of each epoch."""
    steps = rows["step"].tolist()
    curves: Curves = {
        str(name): {"train": list(zip(steps, rows[name].tolist(), strict=True))}
        for name in rows.columns
        if name not in ("step", "epoch", "samples", "seconds")
    }
    last: dict[Any, Any] = rows.groupby("epoch")["step"].max().to_dict()
    ends = {0: 0, **last, **known}
    for name, sets in _curves(records).items():
        points = [
            (int(ends[e]), v) for e, v in sets.get("valid", ()) if e in ends and not np.ndim(v)
        ]
        if name in curves and points:
            curves[name]["valid"] = points
    return curves


def _curve(name: str, curves: Curves, mend: str = "") -> dict[str, list[tuple[int, Any]]]:
    """The lines of a panel: those of a name, or one for each name that begins with it."""
    behind = {each[len(name) + 1 :]: each for each in curves if each.startswith(f"{name}_")}
    if name in curves and not (name == "lr" and behind):
        return curves[name]
    if name in curves:
        behind = {name: name} | behind  # there was one group, until others were added
    if not behind:
        there = ", ".join(curves) or "nothing"
        raise ArgumentError(
            f"plot: there are no values of {name!r}; recorded are {there}. "
            f"{mend or did_you_mean(name, list(curves))}".rstrip()
        )
    return {line: curves[each]["train"] for line, each in behind.items() if "train" in curves[each]}


def _draw_lines(axis: Axes, name: str, sets: dict[str, list[tuple[int, Any]]]) -> None:
    """A line for each set; of vectors one for each place, in the color of that place."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    width = max(np.size(value) for points in sets.values() for _, value in points)
    for (set_, points), style in zip(sets.items(), itertools.cycle(("-", "--")), strict=False):
        epochs = [epoch for epoch, _ in points]
        # A line of one point would not be seen.
        look: dict[str, Any] = {"marker": "o" if len(points) < 20 else "", "ms": 3}
        if width == 1:
            axis.plot(epochs, [np.squeeze(value) for _, value in points], label=set_, **look)
            continue
        # A pass that measured nothing has one NaN, whatever the shape.
        values = np.full((len(points), width), np.nan)
        for row, (_, value) in zip(values, points, strict=True):
            row[: np.size(value)] = value
        for place, color in enumerate(_colors(width)):
            axis.plot(epochs, values[:, place], style, color=color, lw=1, **look)
    handles, labels = axis.get_legend_handles_labels()
    if width > 1:
        pairs = zip(sets, ("-", "--"), strict=False)
        handles = [Line2D([], [], color="gray", ls=style, label=set_) for set_, style in pairs]
        if width <= LEGIBLE:
            colors = enumerate(_colors(width))
            handles += [Line2D([], [], color=color, label=str(k)) for k, color in colors]
        labels = [str(handle.get_label()) for handle in handles]
    title = name if width <= LEGIBLE else f"{name}, {width} values"
    axis.set(title=title, xlabel="epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.grid(alpha=0.3)
    axis.legend(
        handles, labels, ncols=1 + (len(labels) > 6), fontsize="small" if width > 1 else None
    )


def _draw_matrix(axis: Axes, name: str, sets: dict[str, list[tuple[int, Any]]]) -> None:
    """The last one, of the validation data if there is one."""
    from matplotlib.ticker import MaxNLocator

    set_ = "valid" if "valid" in sets else next(iter(sets))
    matrices = [(epoch, value) for epoch, value in sets[set_] if np.ndim(value) == 2]
    if not matrices:
        axis.set(title=f"{name}, {set_}: nothing was measured")
        return
    epoch, matrix = matrices[-1]
    image = axis.imshow(matrix, cmap="Blues", vmin=np.nanmin(matrix, initial=0.0))
    axis.set(title=f"{name}, {set_}, epoch {epoch}")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(integer=True))
    if max(matrix.shape) > LEGIBLE:
        axis.figure.colorbar(image, ax=axis)
        return
    middle = sum(image.get_clim()) / 2
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if value > middle else "black"
        text = f"{value:.5g}" if value == round(value, 2) else f"{value:.2f}"
        axis.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    axis.set_xticks(range(matrix.shape[1]))
    axis.set_yticks(range(matrix.shape[0]))


def _colors(number: int) -> Any:
    from matplotlib import colormaps

    if number <= LEGIBLE:
        return colormaps["tab10"](np.arange(number))
    return colormaps["viridis"](np.linspace(0, 1, number))


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "plot() draws with matplotlib: pip install 'lumbre[plot]'", name=error.name
        ) from error
    return pyplot


def _shown_once(figure: Figure) -> Figure:
    """A notebook shows what is returned: it need not show it as it is drawn, too."""
    import matplotlib as mpl
    from matplotlib import pyplot

    if "inline" in mpl.get_backend():
        pyplot.close(figure)
    return figure
