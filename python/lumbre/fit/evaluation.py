"""`Evaluation`: what a fitted model has measured on data."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from lumbre.text import format_value

if TYPE_CHECKING:
    import pandas as pd


class Evaluation:
    """The values that `evaluate` has measured.

    Attributes:
        metrics: `{name: value}`, the loss first.
    """

    def __init__(self, metrics: dict[str, Any]) -> None:
        self.metrics = metrics

    def get_metrics(self) -> pd.DataFrame:
        """Return the values as a data frame: metric, value."""
        import pandas as pd

        return pd.DataFrame(list(self.metrics.items()), columns=["metric", "value"])

    def __repr__(self) -> str:
        shown = [("metric", "value"), *((n, format_value(v)) for n, v in self.metrics.items())]
        width = max(len(name) for name, _ in shown)
        return "\n".join(f"{name:{width}}  {value}" for name, value in shown)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{cell(value)}</td></tr>"
            for name, value in self.metrics.items()
        )
        head = "<thead><tr><th>metric</th><th>value</th></tr></thead>"
        return f"<table>{head}<tbody>{rows}</tbody></table>"


def cell(value: Any) -> str:
    """Return a value as the HTML of a table's cell."""
    if value is None:
        return ""
    if getattr(value, "ndim", 0) == 2 and max(value.shape) <= 10:
        rows = ("".join(f"<td>{x:.4g}</td>" for x in row) for row in value)
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
    return escape(format_value(value))
