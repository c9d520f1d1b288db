"""No lock is held while Python runs: what runs then may ask for the same thing.

Each in a process of its own, which a lock would leave hanging and faulthandler ends.
"""

import pytest

from forge import in_a_process_of_its_own

BEGIN = """
import faulthandler
import gc

import torch

import lumbre as lb
from lumbre._core import Batches, Meter, NativeMetric, Run, Schedule
from lumbre.state.now import Now
from runs import Scale, at, fit, numbered

faulthandler.dump_traceback_later(60, exit=True)


class Late:
    def __init__(self, then):
        self.then, self.itself = then, self

    def __del__(self):
        print("late")
        self.then()


"""

REFUSED = """
metric, other = NativeMetric("Accuracy"), NativeMetric("MSE")
late = Late(metric.compute)
del late
gc.set_threshold(1)
try:
    {refused}
except lb.errors.MetricError:
    print("refused")
"""

# A loss that is no plain tensor is kept as one on a device is, until the next pass forgets it.
LOSS = """
class Loss(torch.Tensor):
    def __del__(self):
        if seen and "epoch 2" in seen[0].place:
            print("late")
            seen[0].get_metrics("train")


def boom(ctx):
    raise ZeroDivisionError


def begin(ctx):
    seen.append(ctx)
    ctx.epoch_handlers[ZeroDivisionError] = lambda ctx, error: print("refused")


seen = []
first = [at("on_fit_begin", begin), at("on_train_end", boom)]
for each in first:
    each.weight = float("-inf")
fit(Scale, *first, loss=lambda pred, target: (pred - target).mean().as_subclass(Loss))
"""

ITERATOR = """
class Iterator:
    def __init__(self, late):
        self.late = late

    def __iter__(self):
        return self

    def __next__(self):
        return 1


class Loader:
    begun = 0

    def __iter__(self):
        Loader.begun += 1
        if Loader.begun > 1:
            late = Late(lambda: next(batches))
            late.itself = None
            return Iterator(late)
        next(batches)
        return Iterator(None)


run, now, meters = Run(), Now(), [Meter([("opt", "loss")], []) for _ in "ab"]
run._bind(Schedule([], []), *meters, now)
for hook in ["on_fit_begin", "on_epoch_begin", "on_train_begin"]:
    run.call_callbacks(hook)
batches = Batches(run, now, Loader(), None, RuntimeError)
next(batches)
print("refused")
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(REFUSED.format(refused="metric.merge(other)"), id="merge"),
        pytest.param(REFUSED.format(refused="metric.add_state(bytes(56))"), id="add_state"),
        pytest.param(LOSS, id="loss"),
        pytest.param(ITERATOR, id="iterator"),
    ],
)
def test_what_is_let_go_may_ask_for_what_let_go_of_it(script: str) -> None:
    told = in_a_process_of_its_own("-c", BEGIN + script).split()
    assert set(told) == {"late", "refused"}
