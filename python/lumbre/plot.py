"""Plots of the records. matplotlib is imported here, on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_metrics(metrics: dict[str, list[dict[str, Any]]]) -> Figure:
    """A panel for each metric that is a number, a line for each set."""
    try:
        import matplotlib as mpl
        from matplotlib import pyplot as plt
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "plot() draws with matplotlib: pip install 'lumbre[plot]'", name=error.name
        ) from error
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
    if "inline" in mpl.get_backend():
        plt.close(figure)  # a notebook shows what is returned: it need not show it twice
    return figure
