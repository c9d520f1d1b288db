"""Runs inside of runs, beside runs, and what they have in use."""

import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb
from lumbre import errors
from runs import Scale, at, fit

CPU = lb.Accelerator(cpu=True)
X, Y = torch.randn(40, 4), torch.randn(40, 1)


def in_a_run(model: nn.Module) -> None:
    sgd = torch.optim.SGD(model.parameters(), 0.01)
    with lb.run(model, sgd, loss=nn.MSELoss(), accelerator=CPU, verbose=False) as test:
        for _ in test.valid(DataLoader(TensorDataset(X, Y), batch_size=8)):
            test.forward()
            test.compute_loss()


def in_a_fit(model: nn.Module) -> None:
    net = lb.setup(model, nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.0)
    net.fit([X, Y], epochs=1, accelerator=CPU, verbose=False)


def in_a_fit_of_a_part(model: nn.Module) -> None:
    in_a_fit(model[1])  # type: ignore[index]


@pytest.mark.parametrize("measure", [in_a_run, in_a_fit, in_a_fit_of_a_part])
def test_a_run_inside_of_a_run_puts_the_modes_back(measure: Any) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1))
    seen: list[bool] = []

    @lb.on("on_train_batch_end")
    def look(ctx: Any) -> None:
        if ctx.step_count == 1:
            measure(model)
        seen.extend(each.training for each in model.modules())

    net = lb.setup(model, nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.01)
    net.fit([X, Y], epochs=1, accelerator=CPU, verbose=False, callbacks=look)
    assert seen == [True] * 6


def test_a_fit_of_another_model_inside_of_a_run_leaves_it_ready_to_be_used() -> None:
    probe = nn.Linear(4, 1)
    fit(Scale, at("on_epoch_end", lambda ctx: in_a_fit(probe)))
    assert not probe.training


@pytest.mark.parametrize("make", [lb.callbacks.GradientClip, lb.callbacks.TerminateOnNaN])
def test_a_callback_is_in_one_run_at_a_time(make: Any) -> None:
    callback = make()
    seen: list[str] = []

    def again(ctx: Any) -> None:
        with pytest.raises(errors.ArgumentError, match="is in a run that is under way") as caught:
            fit(Scale, callback)
        seen.append(str(caught.value))

    fit(Scale, callback, at("on_fit_begin", again))
    assert "Make one for each run." in seen[0]
    fit(Scale, callback)  # the first one is over


def test_a_model_is_in_the_fits_of_one_thread_at_a_time() -> None:
    model = Scale()
    raised: list[BaseException] = []

    def elsewhere() -> None:
        try:
            fit(model)
        except errors.ArgumentError as error:
            raised.append(error)

    def begin(ctx: Any) -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    fit(model, at("on_train_batch_begin", begin))
    assert "Train a copy in the other thread: copy.deepcopy(model)" in str(raised[0])
    elsewhere()
    assert len(raised) == 1


def test_a_refused_run_takes_nothing_with_it() -> None:
    inside, outside = lb.callbacks.GradientClip(), lb.callbacks.GradientClip()

    def again(ctx: Any) -> None:
        with pytest.raises(errors.ArgumentError):
            fit(Scale, outside, inside)
        fit(Scale, outside)

    fit(Scale, inside, at("on_fit_begin", again))


def test_something_of_the_models_own_under_the_name_ctx_stays_in_sight() -> None:
    model = Scale()
    model.ctx = "mine"  # type: ignore[assignment]
    seen: list[Any] = []
    fit(model, at("on_epoch_begin", lambda ctx: seen.append(ctx.model.ctx)))
    assert (seen, model.ctx) == (["mine"], "mine")


@pytest.mark.parametrize("name", ["handlers", "epoch_handlers"])
def test_handlers_are_a_dict(name: str) -> None:
    with pytest.raises(errors.ArgumentTypeError, match=rf"ctx.{name} is a dict .* got 3"):
        fit(Scale, at("on_fit_begin", lambda ctx: setattr(ctx, name, 3)))


@pytest.mark.parametrize("size", [0, -1, "many", None])
def test_a_batch_has_a_sample_at_least(size: Any) -> None:
    with pytest.raises(errors.ArgumentError, match="a whole number from 1; got"):
        fit(Scale, at("on_train_batch_begin", lambda ctx: setattr(ctx, "batch_size", size)))


@pytest.mark.parametrize("epoch", [-1, -2])
def test_epochs_are_counted_from_one(epoch: int) -> None:
    with pytest.raises(
        errors.ArgumentError, match="epochs are counted from 1, and 0 is what comes before; got"
    ):
        fit(Scale, at("on_epoch_end", lambda ctx: ctx.get_metrics("train", epoch)))


def test_a_loss_under_a_name_that_is_no_optimizers_is_refused_with_the_names() -> None:
    class Own(Scale):
        def step(self, ctx: Any) -> None:
            ctx.loss = {"loss": self.weight.detach()}

    with pytest.raises(errors.ContextError, match="names of the optimizers: 'opt'; it was given"):
        fit(Own)


def test_a_step_on_no_gradient_is_told_once() -> None:
    class Own(Scale):
        def step(self, ctx: Any) -> None:
            ctx.loss = self.weight
            ctx.step_optimizer()

    with pytest.warns(lb.LumbreWarning, match="SGD was told to step, and none of its") as caught:
        fit(Own)
    assert len(caught) == 1


def test_items_of_a_batch_that_nobody_uses_are_told() -> None:
    data = [torch.ones(4, 1), torch.ones(4), torch.ones(4)]
    with pytest.warns(errors.DataWarning, match="A batch has 3 items"):
        fit(Scale, data=data, valid_data=None, loss=lambda pred, target: pred.mean())
    fit(Scale, data=data, valid_data=None)  # the module's own loss may look at self.ctx.batch


def test_a_function_at_a_breakpoint_is_taken_in_a_run_inside_of_a_run() -> None:
    seen: list[int] = []

    @lb.on("on_fit_end")
    def note(ctx: Any) -> None:
        seen.append(ctx.epoch)

    fit(Scale, note, at("on_fit_begin", lambda ctx: fit(Scale, note, epochs=1)))
    assert seen == [1, 2]


def elsewhere(act: Any) -> list[BaseException]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except errors.ArgumentError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


def test_a_model_that_is_trained_predicts_and_is_measured_in_its_own_thread_only() -> None:
    model = Scale()
    before = fit(model)
    x = torch.ones(2, 1)
    raised: list[BaseException] = []

    def measure(ctx: Any) -> None:
        raised.extend(elsewhere(lambda: before.predict(x, verbose=False)))
        raised.extend(elsewhere(lambda: before.evaluate([x, x], verbose=False)))
        before.predict(x, verbose=False)

    fit(model, at("on_train_batch_end", measure))
    assert len(raised) == 2


def test_predictions_in_several_threads_leave_nothing_on_the_model() -> None:
    fitted = fit(Scale)
    x = torch.ones(4, 1)
    threads = [
        threading.Thread(target=lambda: [fitted.predict(x, verbose=False) for _ in range(20)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "ctx" not in vars(fitted.model)


def test_a_run_that_ends_in_another_thread_lets_go_of_its_model() -> None:
    model = nn.Linear(4, 1)
    run = lb.run(model, torch.optim.SGD(model.parameters(), 0.1), accelerator=CPU, verbose=False)
    run.__enter__()
    assert elsewhere(lambda: run.__exit__(None, None, None)) == []
    in_a_fit(model)


def test_names_of_optimizers_stay_those_that_the_run_began_with() -> None:
    def rename(ctx: Any) -> None:
        ctx.optimizers = {"other": ctx.opt}

    with pytest.raises(errors.ContextError, match=r"'opt'; got 'other'\. Put another optimizer in"):
        fit(Scale, at("on_fit_begin", rename))
