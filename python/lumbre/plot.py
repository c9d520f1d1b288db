"""Plots of the records. matplotlib is imported here, on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_metrics(metrics: dict[str, list[dict[str, Any]]]) -> Figure:
    """A panel for each metric that is a number, a line for each set."""
    plt = _pyplot()
    from matplotlib.ticker import MaxNLocator

    lines: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for set_, entries in metrics.items():
        for epoch, values in enumerate(entries, 1):
            for name, value in values.items():
                if isinstance(value, int | float):
                    lines.setdefault(name, {}).setdefault(set_, []).append((epoch, value))
    panels = max(len(lines), 1)
    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.5 * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(lines) :]:
        axis.set_visible(False)
    for axis, (name, sets) in zip(axes.flat, lines.items(), strict=False):
        for set_, points in sets.items():
            # A line of one point would not be seen.
            axis.plot(
                *zip(*points, strict=True), marker="o" if len(points) < 20 else "", ms=3, label=set_
            )
        axis.set(title=name, xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
        axis.legend()
    if not lines:
        figure.text(0.5, 0.5, "no values were recorded", ha="center", va="center")
    return _shown_once(figure)


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
