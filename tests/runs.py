"""Small runs that many tests share, and callbacks that look at them."""

import builtins
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lumbre as lb


class Trace(lb.Callback):
    """Writes down every breakpoint that is reached, or what `see` makes of it."""

    def __init__(self, see: Callable[[str, Any], Any] | None = None) -> None:
        self.events: list[Any] = []
        self.see = see

    def write(self, hook: str, ctx: Any) -> None:
        self.events.append(hook if self.see is None else self.see(hook, ctx))


def _traced(hook: str) -> Callable[[Trace, Any], None]:
    return lambda self, ctx: self.write(hook, ctx)


for _hook in lb.HOOKS:
    setattr(Trace, _hook, _traced(_hook))


def at(hook: str, act: Callable[[Any], Any], nth: int = 1, **options: Any) -> lb.Callback:
    """A callback that acts when a breakpoint is reached for the nth time."""
    seen = iter(range(1, 1_000_000))

    @lb.on(hook, **options)
    def ask(ctx: Any) -> None:
        if next(seen) == nth:
            act(ctx)

    return ask


def notes(error: BaseException) -> list[str]:
    """The notes of an exception, but for the one that names `error.fitted`."""
    return [note for note in getattr(error, "__notes__", ()) if "error.fitted" not in note]


class Scale(nn.Module):
    """One weight; its loss is the mean of the target, whatever is predicted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return target.mean() + 0 * pred.mean()


class Pair(nn.Module):
    """Two weights with an optimizer each, "a" and "b"."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(1, 1)
        self.b = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))

    def set_optimizers(self, lr: float = 0.1) -> dict[str, torch.optim.Optimizer]:
        return {name: torch.optim.SGD(getattr(self, name).parameters(), lr) for name in "ab"}


def numbered(count: int) -> torch.utils.data.DataLoader[Any]:
    """A loader whose batch i is one sample with the target 2 ** i: sums tell who was there."""
    rows = [(torch.ones(1), torch.tensor([2.0**i])) for i in range(1, count + 1)]
    return torch.utils.data.DataLoader(rows, batch_size=1)


def fit(module: Any = Scale, *callbacks: lb.Callback, **options: Any) -> lb.Fitted:
    """A fit of two epochs over two batches, one of validation, unless told otherwise."""
    given = {"loss": None, "metrics": None, "backward": None}
    given = {name: options.pop(name, value) for name, value in given.items()}
    optimizer = options.pop("optimizer", torch.optim.SGD)
    trainable = lb.setup(module, optimizer=optimizer, **given).set_opt_hparams(lr=0.1)
    options = {"epochs": 2, "valid_data": numbered(1), "verbose": False, **options}
    return trainable.fit(options.pop("data", numbered(2)), callbacks=callbacks, **options)


class Watched:
    """Knows whether the ctx of a run is still alive, without keeping it."""

    def __init__(self) -> None:
        self.refs: list[weakref.ref[Any]] = []

    def callback(self, hook: str = "on_fit_begin") -> lb.Callback:
        return at(hook, lambda ctx: self.refs.append(weakref.ref(ctx)))

    def alive(self) -> Iterator[Any]:
        assert self.refs, "no run was seen"
        return (ctx for ref in self.refs if (ctx := ref()) is not None)


@contextmanager
def without_pickle() -> Iterator[None]:
    """A block in which pickle, torch.load, torch.save, eval or exec fail the test."""

    def banned(*_: Any, **__: Any) -> None:
        pytest.fail("pickle, torch.load, torch.save, eval or exec was called")

    with pytest.MonkeyPatch.context() as patched:
        for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
            patched.setattr(pickle, name, banned)
        for name in ("load", "save"):
            patched.setattr(torch, name, banned)
        for name in ("eval", "exec"):
            patched.setattr(builtins, name, banned)
        yield
