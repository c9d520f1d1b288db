"""`lb.run`: a loop of one's own is the loop of `fit`."""

import gc
import re
import runpy
import signal
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb
from lumbre.errors import ArgumentTypeError, ContextError
from places import ROOT
from runs import Pair, Trace, at


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2))


def batches(count: int = 5, seed: int = 1) -> DataLoader[Any]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * count, 3, generator=draw)
    y = torch.randint(2, (4 * count,), generator=draw)
    return DataLoader(TensorDataset(x, y), batch_size=4)


def test_a_hand_written_loop_has_the_events_and_the_bits_of_fit() -> None:
    data, held = batches(), batches(2, seed=2)
    fitted, own = Trace(), Trace()
    metrics = [lb.metrics.Accuracy()]
    torch.manual_seed(3)
    result = (
        lb.setup(net(), nn.CrossEntropyLoss(), torch.optim.Adam, metrics)
        .set_opt_hparams(lr=0.01)
        .fit(data, epochs=3, valid_data=held, callbacks=fitted, verbose=False)
    )
    weights = result.model.state_dict()

    torch.manual_seed(3)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loss_fn = nn.CrossEntropyLoss()
    with lb.run(model, optimizer, metrics, own, epochs=3, loss=loss_fn, verbose=False) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(data):
                ctx.forward()
                loss = ctx.compute_loss()
                ctx.backward(loss)
                ctx.step_optimizer()
            for _ in ctx.valid(held):
                ctx.forward()
                ctx.compute_loss()

    assert own.events == fitted.events
    assert own.events.count("on_train_batch_after_step") == 15
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert ctx.records["metrics"] == result.records["metrics"]
    assert len(ctx.records["profile"]["epoch"]) == 3


def test_the_step_of_fit_can_be_taken_whole() -> None:
    data = batches()
    torch.manual_seed(3)
    fitted = lb.setup(net(), nn.CrossEntropyLoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)
    weights = fitted.fit(data, epochs=2, verbose=False).model.state_dict()
    torch.manual_seed(3)
    model = net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with lb.run(model, sgd, epochs=2, loss=nn.CrossEntropyLoss(), verbose=False) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(data):
                ctx.step(ctx)
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())


def test_a_plain_torch_step_feeds_the_records_by_hand() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    acc = lb.metrics.Accuracy()
    expected: list[float] = []
    with lb.run(model, optimizer, acc, epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for x, y in ctx.train(batches()):
                pred = model(x)
                loss = nn.functional.cross_entropy(pred, y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                ctx.record(pred, y, loss)
                expected.append(loss.item())
    (entry,) = ctx.records["metrics"]["train"]
    assert entry["loss"] == pytest.approx(sum(expected) / 5)
    assert 0 <= entry["acc"] <= 1


def test_batches_of_which_nothing_is_said_count_in_nothing() -> None:
    model = nn.Linear(1, 1)
    with lb.run(
        model, torch.optim.SGD(model.parameters(), 0.1), lb.metrics.MSE(), epochs=2, verbose=False
    ) as ctx:
        for epoch in ctx.epochs():
            for x in ctx.train([torch.ones(1, 1)] * 3):
                if epoch == 2:
                    ctx.record(model(x), x, torch.tensor(2.0))
    first, second = ctx.records["metrics"]["train"]
    assert first == {}
    assert second["loss"] == 2.0
    assert ctx.step_count == 6


def test_gradients_are_on_in_training_off_in_validation_and_else_as_they_were() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for outside in (True, False):
        seen = []
        look = lambda seen=seen: seen.append(torch.is_grad_enabled())  # noqa: E731
        with torch.set_grad_enabled(outside):
            with lb.run(model, optimizer, epochs=1, verbose=False) as ctx:
                look()
                for _ in ctx.epochs():
                    look()
                    for _ in ctx.train([torch.ones(1, 1)]):
                        look()
                    look()
                    for _ in ctx.valid([torch.ones(1, 1)]):
                        look()
                    look()
            look()
        assert seen == [outside, outside, True, outside, False, outside, outside]


def test_the_model_is_in_the_mode_of_the_pass() -> None:
    model = net()
    modes = []
    look = lambda: modes.append(model.training)  # noqa: E731
    with lb.run(model, torch.optim.SGD(model.parameters(), 0.1), epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(batches(1)):
                look()
            for _ in ctx.valid(batches(1)):
                look()
    assert [*modes, model.training] == [True, False, False]


# --- leaving a pass ------------------------------------------------------------------------------


def simple(callbacks: Any = (), epochs: int = 2, **options: Any) -> Any:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return lb.run(
        model, optimizer, callbacks=callbacks, epochs=epochs, loss=nn.MSELoss(), verbose=False,
        **options,
    )  # fmt: skip


ONES = DataLoader(TensorDataset(torch.ones(3, 1), torch.ones(3, 1)))

ONE = DataLoader(TensorDataset(torch.ones(1, 1), torch.ones(1, 1)))


def test_a_pass_left_by_break_is_closed_when_the_loop_around_it_goes_on() -> None:
    trace = Trace()
    with simple(trace) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(ONES):
                if ctx.iter == 2:
                    break
            trace.events.append("between")
            for _ in ctx.valid(ONES):
                break
            trace.events.append("after")
    one = [
        "on_epoch_begin", "on_train_begin",
        "on_train_batch_begin", "on_train_batch_end", "on_train_batch_begin",
        "between", "on_train_batch_end", "on_train_end",
        "on_valid_begin", "on_valid_batch_begin",
        "after", "on_valid_batch_end", "on_valid_end", "on_epoch_end",
    ]  # fmt: skip
    assert trace.events == ["on_fit_begin", *one, *one, "on_fit_end"]


def test_a_break_out_of_the_epochs_ends_the_run_in_order() -> None:
    trace = Trace()
    with simple(trace, epochs=5) as ctx:
        for epoch in ctx.epochs():
            for _ in ctx.train(ONE):
                pass
            if epoch == 2:
                break
    assert trace.events[-2:] == ["on_epoch_end", "on_fit_end"]
    assert trace.events.count("on_epoch_end") == 2
    assert len(ctx.records["profile"]["epoch"]) == 2


def test_a_run_without_epochs_fires_nothing() -> None:
    trace = Trace()
    with simple(trace):
        pass
    assert trace.events == []


def test_a_training_pass_outside_of_the_epochs_is_refused() -> None:
    with simple() as ctx, pytest.raises(ContextError, match=r"inside of one: `for epoch in ctx.ep"):
        next(ctx.train(ONE))


def test_what_the_last_epoch_has_recorded_stays_when_the_epochs_are_over() -> None:
    with simple(epochs=1) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(ONE):
                ctx.step(ctx)
        for loop in (ctx.train, ctx.valid):
            with pytest.raises(ContextError, match=r"epochs of this run are over.* as test: for"):
                next(loop(ONE))
    with simple() as test:
        for _ in test.valid(ONE):
            test.step(test)
    assert [len(entry) for entry in test.records["metrics"]["valid"]] == [1]


def test_the_epochs_of_a_run_begin_once() -> None:
    best = lb.callbacks.KeepBestModel("train_loss")
    with simple(best, epochs=5) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(ONE):
                ctx.step(ctx)
            break
        with pytest.raises(ContextError, match=r"begun already \(epoch 1, .*another lb.run"):
            next(ctx.epochs())
    assert best.best_epoch == 1  # it was not told to begin anew


def test_a_break_out_of_a_validation_pass_gives_the_gradients_back() -> None:
    with simple(epochs=1) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.valid(ONES):
                assert not torch.is_grad_enabled()
                break
            assert torch.is_grad_enabled()
            kept = ctx.valid(ONES)
            next(kept)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        del kept  # an old pass that is let go of changes nothing
        assert not torch.is_grad_enabled()


def test_batches_that_were_kept_over_the_end_of_their_pass_are_refused() -> None:
    with simple() as ctx:
        for epoch in ctx.epochs():
            if epoch == 1:
                kept = ctx.train(ONES)
                next(kept)
                continue
            with pytest.raises(
                ContextError, match=r"has ended \(epoch 2, training\).* one in each epoch"
            ):
                next(kept)
    assert ctx.step_count == 1


def test_a_pass_whose_batches_are_kept_is_closed_with_its_epoch() -> None:
    kept = []
    with simple() as ctx:
        for _ in ctx.epochs():
            kept.append(ctx.train(ONES))
            next(kept[-1])
            ctx.step(ctx)
    assert [len(entry) for entry in ctx.records["metrics"]["train"]] == [1, 1]


def test_a_batch_that_is_skipped_and_left_by_break_leaves_the_window_as_it_is() -> None:
    accumulate = lb.callbacks.GradientAccumulation(4)
    steps = Trace(lambda hook, ctx: (hook, ctx.iter))
    with simple([accumulate, steps], epochs=1) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(ONES):
                if ctx.iter == 2:
                    ctx.skip_batch()
                    break
                ctx.step(ctx)
            before = ctx.model.weight.item()
        stepped = steps.events.count(("on_train_batch_after_step", 2))
        assert (stepped, ctx.model.weight.item() != before) == (1, True)
    assert len(ctx.records["metrics"]["train"]) == 1


def test_a_record_outside_of_a_pass_is_refused() -> None:
    with simple() as ctx:
        for _ in ctx.epochs():
            with pytest.raises(ContextError, match=r"none is under way \(epoch \d\)\. Call it ins"):
                ctx.record(torch.ones(1), torch.ones(1), torch.ones(()))


def test_a_pass_inside_of_a_pass_is_refused() -> None:
    with simple() as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(ONES):
                with pytest.raises(ContextError, match=r"epoch 1, iteration 1, training"):
                    next(iter(ctx.valid(ONES)))
                break
            kept = ctx.train(ONES)
            next(kept)
            with pytest.raises(ContextError, match=r"in a variable ends by `batches.close\(\)`"):
                next(ctx.valid(ONES))
            kept.close()
            assert next(ctx.valid(ONES))
            break


@pytest.mark.parametrize("wish", ["stop", "skip_epoch", "skip_batch"])
def test_wishes_hold_as_in_fit(wish: str) -> None:
    def ask(ctx: Any) -> None:
        getattr(ctx, wish)()

    traces = Trace(), Trace()
    loss = nn.MSELoss()
    lb.setup(nn.Linear(1, 1), loss, torch.optim.SGD).set_opt_hparams(lr=0.1).fit(
        ONES, epochs=2, callbacks=[traces[0], at("on_train_batch_begin", ask, 2)],
        valid_data=ONES, verbose=False,
    )  # fmt: skip
    with simple([traces[1], at("on_train_batch_begin", ask, 2)]) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(ONES):
                ctx.step(ctx)
            for _ in ctx.valid(ONES):
                ctx.step(ctx)
    assert traces[1].events == traces[0].events


def test_the_parts_of_a_skipped_batch_give_values_and_change_nothing() -> None:
    trace = Trace()
    skip = at("on_train_batch_after_pred", lambda ctx: ctx.skip_batch(), 1)
    model = nn.Linear(1, 1)
    before = model.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    options: Any = {"callbacks": [skip, trace], "epochs": 1, "verbose": False}
    with lb.run(model, optimizer, loss=nn.MSELoss(), **options) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(ONE):
                ctx.forward()
                loss = ctx.compute_loss() + 1
                ctx.backward(loss)
                ctx.step_optimizer()
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None
    assert "on_train_batch_after_loss" not in trace.events
    assert ctx.records["metrics"]["train"] == [{}]


def test_a_ctrl_c_finishes_the_batch_and_ends_the_loops() -> None:
    trace = Trace()
    with simple(trace) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(ONES):
                if ctx.iter == 2:
                    signal.raise_signal(signal.SIGINT)
                ctx.step(ctx)
    assert trace.events.count("on_train_batch_after_step") == 2
    assert trace.events[-4:] == ["on_interrupt", "on_train_end", "on_epoch_end", "on_fit_end"]
    assert ctx.stop_reason.startswith("Ctrl-C")


def test_an_exception_of_the_body_leaves_as_itself_and_fires_on_exception() -> None:
    trace = Trace()
    with pytest.raises(ZeroDivisionError) as caught, simple(trace) as ctx:  # noqa: PT012
        for _ in ctx.epochs():
            for _ in ctx.train(ONES):
                1 / 0  # noqa: B018
    assert trace.events[-1] == "on_exception"
    assert any("epoch 1, iteration 1, training" in note for note in caught.value.__notes__)


def test_an_exception_with_a_handler_ends_the_run_in_order() -> None:
    trace, seen = Trace(), []
    with simple(trace) as ctx:
        ctx.handlers[ZeroDivisionError] = lambda ctx, error: seen.append(error)
        for _ in ctx.epochs():
            for _ in ctx.train(ONES):
                1 / 0  # noqa: B018
    assert len(seen) == 1
    assert trace.events[-5:] == [
        "on_exception", "on_train_batch_end", "on_train_end", "on_epoch_end", "on_fit_end"
    ]  # fmt: skip


def test_early_stopping_and_a_valid_monitor_work() -> None:
    stop = lb.callbacks.EarlyStopping("valid_loss", patience=1)
    with simple(stop, epochs=9) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(ONES):
                pass
            for _ in ctx.valid(ONES):
                ctx.record(torch.ones(1), torch.ones(1), torch.tensor(1.0))
    assert ctx.epoch == 2
    assert "EarlyStopping" in ctx.stop_reason


def test_an_epoch_without_a_validation_pass_does_not_count_for_a_monitor_of_it() -> None:
    stop = lb.callbacks.EarlyStopping("valid_loss", patience=1)
    with simple(stop, epochs=9) as ctx:
        for epoch in ctx.epochs():
            for _ in ctx.train(ONES):
                pass
            if epoch % 3 == 0:
                for _ in ctx.valid(ONES):
                    ctx.record(torch.ones(1), torch.ones(1), torch.tensor(1.0))
    assert ctx.epoch == 6
    assert ctx.records["metrics"]["valid"] == [{}, {}, {"loss": 1.0}] * 2


# --- several optimizers --------------------------------------------------------------------------


def test_gradients_stay_with_the_optimizer_that_is_named() -> None:
    model = Pair()
    seen = []
    with lb.run(model, model.set_optimizers(), epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for x in ctx.train([torch.ones(1, 1)]):
                ctx.backward(model(x).sum(), "a")
                seen.append((model.a.weight.grad is None, model.b.weight.grad is None))
                ctx.step_optimizer("a")
                ctx.backward(model(x).sum(), "b")
                seen.append((model.a.weight.grad is None, model.b.weight.grad is None))
                ctx.step_optimizer("b")
    assert seen == [(False, True), (True, False)]
    assert set(ctx.records["metrics"]["train"][0]) == {"loss_a", "loss_b"}


def test_what_a_loss_leaks_into_other_optimizers_is_gone_before_the_next_loss() -> None:
    def by_hand(model: Pair) -> None:
        optimizers = model.set_optimizers()
        for _ in range(3):
            for name in "ab":
                model.zero_grad()
                model(torch.ones(1, 1)).square().sum().backward()
                optimizers[name].step()

    torch.manual_seed(0)
    expected = Pair()
    by_hand(expected)
    torch.manual_seed(0)
    model = Pair()
    with lb.run(model, model.set_optimizers(), epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for x in ctx.train([torch.ones(1, 1)] * 3):
                for name in "ab":
                    ctx.backward(model(x).square().sum())
                    ctx.step_optimizer(name)
    assert all(
        torch.equal(a, b) for a, b in zip(expected.parameters(), model.parameters(), strict=True)
    )


@pytest.mark.parametrize("first", ["a", "b"])
def test_nor_does_it_leak_into_a_loss_that_has_a_name(first: str) -> None:
    order = first + {"a": "b", "b": "a"}[first]
    torch.manual_seed(0)
    expected = Pair()
    optimizers = expected.set_optimizers()
    for _ in range(3):
        for name in order:
            expected.zero_grad()
            expected(torch.ones(1, 1)).square().sum().backward()
            optimizers[name].step()
    torch.manual_seed(0)
    model = Pair()
    with lb.run(model, model.set_optimizers(), epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for x in ctx.train([torch.ones(1, 1)] * 3):
                for name in order:
                    ctx.backward(model(x).square().sum(), "a" if name == "a" else None)
                    ctx.step_optimizer(name)
    assert all(
        torch.equal(a, b) for a, b in zip(expected.parameters(), model.parameters(), strict=True)
    )


def test_gradients_that_are_gathered_by_hand_stay_where_each_loss_has_a_name() -> None:
    model = Pair()
    with lb.run(model, model.set_optimizers(), epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for x in ctx.train([torch.ones(1, 1)] * 3):
                ctx.backward(model(x).sum(), "a")
                ctx.step_optimizer("a")
                ctx.backward(model.b(x).sum(), "b")
    assert model.b.weight.grad.tolist() == [[3.0]]  # type: ignore[union-attr]


def test_one_loss_may_be_stepped_on_by_all() -> None:
    torch.manual_seed(0)
    expected = Pair()
    joint = torch.optim.SGD(expected.parameters(), 0.1)
    for _ in range(3):
        joint.zero_grad()
        expected(torch.ones(1, 1)).square().sum().backward()
        joint.step()
    torch.manual_seed(0)
    model = Pair()
    names = Trace(lambda hook, ctx: (hook, ctx.opt_name))
    optimizers = model.set_optimizers()
    with lb.run(model, optimizers, callbacks=names, epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for x in ctx.train([torch.ones(1, 1)] * 3):
                ctx.backward(model(x).square().sum())
                ctx.step_optimizer()
    assert all(
        torch.equal(a, b) for a, b in zip(expected.parameters(), model.parameters(), strict=True)
    )
    steps = [name for hook, name in names.events if hook == "on_train_batch_after_step"]
    assert steps == ["a", "b"] * 3


def test_setting_the_name_sets_the_optimizer() -> None:
    model = Pair()
    optimizers = model.set_optimizers()
    with lb.run(model, optimizers, epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for x in ctx.train([torch.ones(1, 1)]):
                assert ctx.opt_name is None
                for ctx.opt_name in ctx.optimizers:
                    assert ctx.opt is optimizers[ctx.opt_name]
                    ctx.backward(model(x).sum())
                    ctx.step_optimizer()
                with pytest.raises(ContextError, match="no optimizer 'c'; there are a, b"):
                    ctx.opt_name = "c"


# --- arguments and ends --------------------------------------------------------------------------


def test_wrong_arguments_are_refused() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ArgumentTypeError, match="the class Linear"), lb.run(nn.Linear, optimizer):  # type: ignore[arg-type]
        pass
    for wrong in (torch.optim.SGD, None, {}, [optimizer], {"a": 1}):
        with pytest.raises(ArgumentTypeError, match="optimizers is a torch"), lb.run(model, wrong):  # type: ignore[arg-type]
            pass
    with pytest.raises(lb.errors.ArgumentError, match="epochs"), lb.run(model, optimizer, epochs=0):
        pass


def test_a_missing_loss_says_so_where_it_is_asked_for() -> None:
    model = nn.Linear(1, 1)
    with (  # noqa: PT012
        pytest.raises(lb.errors.ArgumentError, match=re.escape("loss")),
        lb.run(model, torch.optim.SGD(model.parameters(), 0.1), verbose=False) as ctx,
    ):
        for _ in ctx.epochs():
            for _ in ctx.train(ONES):
                ctx.forward()
                ctx.compute_loss()


def test_nothing_is_left_behind() -> None:
    with simple() as ctx:
        model = weakref.ref(ctx.model)
        for _ in ctx.epochs():
            for _ in ctx.train(ONES):
                assert ctx.model.ctx is ctx
                ctx.step(ctx)
        assert "ctx" in vars(ctx.model)
    assert "ctx" not in vars(ctx.model)
    gc.collect()
    gc.disable()
    try:
        del ctx, _
        assert model() is None
    finally:
        gc.enable()


# --- the example ---------------------------------------------------------------------------------


def test_the_example_ends_in_the_bits_of_fit_with_its_events_in_their_order() -> None:
    path = ROOT / "examples" / "own_loop.py"
    example = runpy.run_path(str(path))
    results = []
    for name in ("train", "train_by_fit"):
        trace = Trace()
        torch.manual_seed(5)
        model, result = example[name](*example["make_data"](), callbacks=trace, epochs=2)
        results.append((model, result.records["metrics"], trace.events))
    (model, records, events), (other, expected, of_fit) = results
    assert all(torch.equal(other.state_dict()[k], v) for k, v in model.state_dict().items())
    assert records == expected
    # Its validation uses no part of a step: what fires inside of one does not.
    inside = ("on_valid_batch_after_pred", "on_valid_batch_after_loss")
    assert events == [event for event in of_fit if event not in inside]
    assert len(events) > 500
