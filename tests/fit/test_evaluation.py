"""What evaluate gives: its text."""

import lumbre as lb
from runs import fit, numbered


def test_an_evaluation_shows_as_a_small_table() -> None:
    evaluation = fit(metrics=lb.metrics.MAE()).evaluate(numbered(2))
    assert repr(evaluation).splitlines() == [
        "metric  value",
        "loss    3.0000",
        "mae     2.0000",
    ]
    html = evaluation._repr_html_()
    assert "<td>3.0000</td>" in html
    assert html.count("<tr>") == 3
