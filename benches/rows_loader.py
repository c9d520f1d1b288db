"""What batches cost where people are: a DataLoader over tensors, in fit, evaluate and predict."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler

import lumbre as lb
from measure import Row, Side, clock, ratio, take_turns
from rows_step import CPU, LOSS, SGD, Problem, bare_loop, fit, turns

STEPS, SIZE = 200, 32


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SIZE * STEPS, 16, generator=generator)
    return TensorDataset(x, torch.randint(4, (SIZE * STEPS,), generator=generator))


def shuffled(source: TensorDataset) -> DataLoader[Any]:
    return DataLoader(source, SIZE, shuffle=True)


def in_order(source: TensorDataset) -> DataLoader[Any]:
    return DataLoader(source, SIZE)


def weighted(source: TensorDataset) -> DataLoader[Any]:
    return DataLoader(source, SIZE, sampler=WeightedRandomSampler([1.0] * len(source), len(source)))


def subset(source: TensorDataset) -> DataLoader[Any]:
    return DataLoader(Subset(source, range(len(source))), SIZE, shuffle=True)


KINDS: dict[str, tuple[Callable[[TensorDataset], DataLoader[Any]], float]] = {
    "shuffle": (shuffled, 0.40),
    "order": (in_order, 0.40),
    "weighted": (weighted, 0.50),
    "subset": (subset, 0.50),
}


def linear() -> nn.Module:
    return nn.Linear(16, 4)


def fits(kind: str) -> list[Row]:
    """A fit that keeps loss and accuracy, over a loop by hand over the same loader."""
    make, budget = KINDS[kind]
    source = data()
    problem = Problem(linear, lambda: make(source), STEPS)
    times = turns({"fit": lambda: fit(problem), "bare": lambda: bare_loop(problem, SGD)})
    what = "fit with loss and accuracy / a loop by hand over the same loader that keeps neither"
    return [ratio(f"loader.{kind}", what, times, "fit", "bare", budget)]


# --- evaluate and predict ---------------------------------------------------------------------


def trained() -> lb.Fitted:
    torch.manual_seed(0)
    setup = lb.setup(linear, LOSS, SGD, metrics=[lb.metrics.Accuracy()])
    return setup.fit(in_order(data()), 1, accelerator=CPU, verbose=False)


def measured(model: nn.Module, loader: Iterable[Any]) -> tuple[float, float]:
    """Evaluate by hand, with the loss and the accuracy kept by torch ops."""
    model.eval()
    total, hits, seen = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
    with torch.no_grad():
        for x, y in loader:
            pred = model(x)
            total += LOSS(pred, y) * len(y)
            hits += (pred.argmax(1) == y).sum()
            seen += len(y)
    return total.item() / seen, hits.item() / seen


def predicted(model: nn.Module, loader: Iterable[Any]) -> Tensor:
    """Predict by hand."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(x) for x, _ in loader])


def timed(act: Callable[[], object]) -> Side:
    def side() -> float:
        start = clock()
        act()
        return (clock() - start) / STEPS

    return side


def evaluate() -> list[Row]:
    """The whole call, over a loop by hand that keeps the same numbers."""
    fitted, loader = trained(), in_order(data())

    def ours() -> list[float]:
        return list(fitted.evaluate(loader, accelerator=CPU, verbose=False).metrics.values())

    def hand() -> tuple[float, float]:
        return measured(fitted.model, loader)

    torch.testing.assert_close(torch.tensor(ours()), torch.tensor(hand()), rtol=1e-5, atol=0)
    times = take_turns({"this": timed(ours), "hand": timed(hand)}, 6.0)
    what = "evaluate / a loop by hand over the same loader that keeps the same numbers"
    return [ratio("evaluate", what, times, "this", "hand", 0.40)]


def predict() -> list[Row]:
    """The whole call, over a loop by hand that joins the same predictions."""
    fitted, loader = trained(), in_order(data())

    def ours() -> Any:
        return fitted.predict(loader, accelerator=CPU, verbose=False)

    def hand() -> Tensor:
        return predicted(fitted.model, loader)

    if not torch.equal(ours(), hand()):
        raise AssertionError("predict and the loop by hand give different bits")
    times = take_turns({"this": timed(ours), "hand": timed(hand)}, 6.0)
    what = "predict / a loop by hand over the same loader"
    return [ratio("predict", what, times, "this", "hand", 0.40)]


ROWS: dict[str, Callable[[], list[Row]]] = {
    **{f"loader.{kind}": functools.partial(fits, kind) for kind in KINDS},
    "evaluate": evaluate,
    "predict": predict,
}
