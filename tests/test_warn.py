"""Where lumbre's warnings point."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

import lumbre as lb

NET = lb.setup(nn.Linear(2, 1), nn.MSELoss(), torch.optim.SGD, metrics=[lb.metrics.MAE()])
WRONG = [torch.zeros(4, 2), torch.zeros(4)]  # predictions are (4, 1)


def in_fit() -> None:
    NET.fit(WRONG, epochs=2, valid_data=0.5)


def in_evaluate() -> None:
    NET.fit([torch.zeros(4, 2), torch.zeros(4, 1)], epochs=1).evaluate(WRONG)


def in_a_loop_of_ones_own() -> None:
    model = nn.Linear(2, 1)
    with lb.run(model, torch.optim.SGD(model.parameters()), [lb.metrics.MAE()], epochs=1) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train([WRONG]):
                ctx.record(torch.zeros(4, 1), torch.zeros(4), torch.zeros(()))


def in_a_closure() -> None:
    lb.setup(nn.Linear(2, 1), nn.MSELoss(), torch.optim.LBFGS).fit(WRONG, epochs=1)


def of_a_metric_by_itself() -> None:
    lb.metrics.MAE().update(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize(
    "use", [in_fit, in_evaluate, in_a_loop_of_ones_own, in_a_closure, of_a_metric_by_itself]
)
def test_a_warning_shows_the_line_of_the_user_and_not_one_of_lumbre(
    use: Callable[[], None],
) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        use()
    shown = [each.filename for each in seen if issubclass(each.category, lb.LumbreWarning)]
    assert shown
    assert set(shown) == {__file__}


def test_what_holds_for_both_passes_is_said_once() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        in_fit()
    said = [str(each.message) for each in seen if issubclass(each.category, lb.LumbreWarning)]
    assert [text.partition(" ")[0] for text in said] == ["MAE:", "MSELoss"]
