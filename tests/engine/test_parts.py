"""The parts of a step: which breakpoints are fired in it, and what is known where it was left."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import lumbre as lb
from lumbre._core import Run
from lumbre.step import shortcuts, trial
from runs import at

INSIDE = [
    "on_train_batch_after_pred",
    "on_train_batch_after_loss",
    "on_train_batch_before_backward",
    "on_train_batch_before_step",
    "on_train_batch_after_step",
]
CPU = lb.Accelerator(cpu=True)


def fit(module: nn.Module, loss: Any, *callbacks: Any) -> Any:
    net = lb.setup(module, loss, torch.optim.SGD).set_opt_hparams(lr=0.1)
    x, y = torch.ones(6, 2), torch.zeros(6, 1)
    options = {"batch_size": 2}
    return net.fit(
        (x, y),
        1,
        list(callbacks),
        accelerator=CPU,
        verbose=False,
        dataloader_options=options,
    )


def fired_by(monkeypatch: pytest.MonkeyPatch, *callbacks: Any) -> list[str]:
    fired: list[str] = []
    fire = Run.call_callbacks

    def noted(ctx: Any, name: str) -> bool:
        fired.append(name)
        return fire(ctx, name)

    with monkeypatch.context() as patched:
        patched.setattr(lb.engine.context.Context, "call_callbacks", noted)
        fit(nn.Linear(2, 1), nn.MSELoss(), *callbacks)
    return fired


def test_a_step_that_nobody_looks_into_fires_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fired = fired_by(monkeypatch)
    assert fired.count("on_train_batch_begin") == 3
    assert not set(INSIDE) & set(fired)


@pytest.mark.parametrize("hook", [*INSIDE, "on_exception"])
def test_one_who_looks_into_a_step_has_all_of_it_fired(
    hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fired = fired_by(monkeypatch, at(hook, lambda ctx: None))
    assert [name for name in fired if name in INSIDE] == INSIDE * 3


@pytest.mark.parametrize("fails", ["forward", "loss", "backward"])
def test_who_hears_of_an_exception_alone_is_told_how_far_the_step_came(fails: str) -> None:
    seen: dict[str, Any] = {}

    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if fails == "forward":
                raise ValueError("here")
            return super().forward(x)

    def loss(pred: Tensor, target: Tensor) -> Tensor:
        if fails == "loss":
            raise ValueError("here")
        both = nn.functional.mse_loss(pred, target)
        if fails == "backward":
            both.register_hook(raises)
        return both

    def raises(grad: Tensor) -> None:
        raise ValueError("here")

    def look(ctx: Any) -> None:
        seen["loss"] = ctx.loss
        try:
            seen["pred"] = ctx.pred
        except lb.errors.ContextError:
            seen["pred"] = None

    with pytest.raises(ValueError, match="here"):
        fit(Net(2, 1), loss, at("on_exception", look))
    assert (seen["pred"] is not None) == (fails != "forward")
    assert bool(seen["loss"]) == (fails == "backward")


@pytest.mark.parametrize("where", ["forward", "loss"])
def test_a_batch_that_the_model_skips_tells_how_far_it_came(where: str) -> None:
    seen: list[bool] = []

    class Net(nn.Linear):
        ctx: Any

        def forward(self, x: Tensor) -> Tensor:
            if where == "forward":
                self.ctx.skip_batch()
            return super().forward(x)

        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            if where == "loss":
                self.ctx.skip_batch()
            return nn.functional.mse_loss(pred, target)

    def look(ctx: Any) -> None:
        assert ctx.pred.shape == (2, 1)
        seen.append(bool(ctx.loss))

    fit(Net(2, 1), None, lb.on("on_train_batch_end")(look))
    assert seen == [where == "loss"] * 3


# --- who watches is asked behind the last line of the user's -----------------------------------

RANGES = {"Optimizer.step#SGD.step", "Optimizer.zero_grad#SGD.zero_grad"}


class Functions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("hook", INSIDE[:-1])
@pytest.mark.parametrize("nth", [1, 2])
def test_what_is_switched_on_inside_a_step_is_seen_in_that_very_batch(hook: str, nth: int) -> None:
    profile, functions, called = torch.autograd.profiler.profile(), Functions(), list[int]()

    def begin(ctx: Any) -> None:
        profile.__enter__()
        functions.__enter__()
        ctx.opt.register_step_post_hook(lambda *_: called.append(ctx.iter))

    def end(ctx: Any) -> None:
        if ctx.iter == nth:
            functions.__exit__(None, None, None)
            profile.__exit__(None, None, None)

    fit(
        nn.Linear(2, 1),
        nn.MSELoss(),
        at(hook, begin, nth),
        lb.on("on_train_batch_after_step")(end),
    )
    assert {event.name for event in profile.function_events} >= RANGES
    assert ("backward" in functions.names) == (hook != "on_train_batch_before_step")
    assert called == list(range(nth, 4))


@pytest.mark.parametrize("hook", ["on_train_batch_begin", "forward", "loss"])
def test_what_is_switched_on_by_the_last_line_of_the_users_is_seen_at_once(hook: str) -> None:
    functions = Functions()

    def begin(_: Any = None) -> None:
        if not functions.names:
            functions.__enter__()

    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            pred = super().forward(x)
            if hook == "forward":
                begin()
            return pred

    def loss(pred: Tensor, target: Tensor) -> Tensor:
        value = (pred - target).square().mean()
        if hook == "loss":
            begin()
        return value

    callbacks = [at(hook, begin)] if hook.startswith("on_") else []
    leave = lb.on("on_train_batch_end")(
        lambda ctx: functions.__exit__(None, None, None) if ctx.iter == 1 else None
    )
    fit(Net(2, 1), loss, *callbacks, leave)
    assert functions.names.count("backward") == 1


def test_in_a_loop_of_ones_own_it_is_asked_at_each_part() -> None:
    model, functions = nn.Linear(2, 1), Functions()
    opt, profile = torch.optim.SGD(model.parameters(), lr=0.1), torch.autograd.profiler.profile()
    with lb.run(model, opt, epochs=1, loss=nn.MSELoss(), accelerator=CPU, verbose=False) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train([(torch.ones(2, 2), torch.zeros(2, 1))]):
                ctx.forward()
                ctx.backward(ctx.compute_loss())
                with profile, functions:
                    ctx.step_optimizer()
    assert {event.name for event in profile.function_events} >= RANGES


def test_nobody_is_asked_twice_where_no_line_of_the_users_has_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The asking is counted: a batch costs one of it alone, and two where a callback is inside."""
    asked: list[str] = []

    class Profiler:
        @property
        def _is_profiler_enabled(self) -> bool:
            asked.append("profiler")
            return False

    never = Profiler(), lambda: False, lambda: 0
    monkeypatch.setattr(shortcuts, "watchers", lambda: never)
    monkeypatch.setenv("LUMBRE_FAST_STEP", "1")
    trial._proven_calls.cache_clear()
    try:
        counts = []
        for callbacks in ([], [lb.on("on_train_batch_after_loss")(lambda ctx: None)]):
            fit(nn.Linear(2, 1), nn.MSELoss())  # the trial is over
            asked.clear()
            fit(nn.Linear(2, 1), nn.MSELoss(), *callbacks)
            counts.append(len(asked))
        # Three batches, and the gradients that are cleared before the first.
        assert counts == [1 + 3, 1 + 2 * 3]
    finally:
        trial._proven_calls.cache_clear()
