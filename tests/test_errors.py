"""What a user's code raises leaves as itself with one note; lumbre's own errors say the mend."""

import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import lumbre as lb
from lumbre import errors
from runs import Pair, Scale, Trace, at, fit, notes, numbered

IN_FIT = [h for h in lb.HOOKS if "predict" not in h]
ANYWHERE = {"on_early_stopping", "on_interrupt", "on_exception", "on_checkpoint"}
IN_FIT = [h for h in IN_FIT if h not in ANYWHERE]


def caught_from(run: Any, kind: type[BaseException] = ValueError) -> Any:
    with pytest.raises(kind) as caught:
        run()
    return caught.value


def raises(error: BaseException | type[BaseException]) -> Any:
    def act(*_: Any) -> None:
        raise error

    return act


# --- the classes --------------------------------------------------------------------------------

ERRORS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, Exception)
]


def test_every_error_is_a_lumbre_error_and_a_built_in() -> None:
    own = [e for e in ERRORS if issubclass(e, lb.LumbreError) and e is not lb.LumbreError]
    assert len(own) >= 10
    built_ins = (ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError)
    assert all(issubclass(each, built_ins) for each in own)
    warned = [each for each in ERRORS if issubclass(each, Warning)]
    assert len(warned) >= 4
    assert all(issubclass(each, (lb.LumbreWarning, UserWarning)) for each in warned)
    assert set(ERRORS) == {*own, *warned, lb.LumbreError}
    assert all(each.__doc__ for each in ERRORS)


# --- the note -----------------------------------------------------------------------------------

PLACES = {
    "on_fit_begin": "before the first epoch",
    "on_epoch_begin": "epoch 1",
    "on_train_begin": "epoch 1, training",
    "on_train_batch_end": "epoch 1, iteration 1, training",
    "on_valid_begin": "epoch 1, validation",
    "on_valid_batch_end": "epoch 1, iteration 1, validation",
    "on_epoch_end": "epoch 1",
}


class Boom(ValueError):
    pass


@pytest.mark.parametrize("hook", IN_FIT)
def test_an_exception_of_a_callback_keeps_type_and_text_and_gains_one_note(hook: str) -> None:
    class PrintCallback(lb.Callback):
        pass

    error = Boom("no luck", 3)
    setattr(PrintCallback, hook, raises(error))
    caught = caught_from(lambda: fit(Scale, PrintCallback()), Boom)
    assert caught is error
    assert caught.args == ("no luck", 3)
    (note,) = notes(caught)
    assert note.startswith(f"in PrintCallback.{hook}: ")
    if hook in PLACES:
        assert note == f"in PrintCallback.{hook}: {PLACES[hook]}"


def test_the_note_says_epoch_and_iteration() -> None:
    error = caught_from(lambda: fit(Scale, at("on_train_batch_end", raises(Boom), 4, name="Mine")))
    assert notes(error) == ["in Mine.on_train_batch_end: epoch 2, iteration 2, training"]


@pytest.mark.parametrize("kind", ["evaluate", "predict"])
def test_the_note_says_the_place_in_evaluate_and_predict(kind: str) -> None:
    fitted = fit()
    pass_ = "valid" if kind == "evaluate" else "predict"
    callback = at(f"on_{pass_}_batch_end", raises(Boom), 2, name="Mine")
    error = caught_from(lambda: getattr(fitted, kind)(numbered(2), callbacks=callback))
    what = "validation" if kind == "evaluate" else "prediction"
    assert notes(error) == [f"in Mine.on_{pass_}_batch_end: iteration 2, {what}"]


def test_notes_that_were_there_before_stay() -> None:
    error = Boom("no luck")
    error.add_note("mine")
    caught_from(lambda: fit(Scale, at("on_epoch_end", raises(error), name="Mine")))
    assert notes(error) == ["mine", "in Mine.on_epoch_end: epoch 1"]


def test_an_exception_through_a_breakpoint_of_ones_own_gets_one_note() -> None:
    class Fires(lb.Callback):
        breakpoints = ("on_mine",)

        def on_epoch_end(self, ctx: Any) -> None:
            ctx.call_callbacks("on_mine")

    inner = lb.on("on_mine", name="Inner")(raises(Boom))
    error = caught_from(lambda: fit(Scale, Fires(), inner))
    assert notes(error) == ["in Inner.on_mine: epoch 1"]


def test_an_exception_that_a_callback_deals_with_itself_does_no_harm() -> None:
    class Fires(lb.Callback):
        breakpoints = ("on_mine",)

        def on_epoch_end(self, ctx: Any) -> None:
            with pytest.raises(Boom):
                ctx.call_callbacks("on_mine")
            ctx.stop("dealt with")

    fitted = fit(Scale, Fires(), lb.on("on_mine")(raises(Boom)))
    assert fitted.stop_reason == "Fires: dealt with"


def test_each_of_several_exceptions_gets_its_note() -> None:
    notes = []

    def handler(ctx: Any, error: BaseException) -> None:
        notes.append(list(error.__notes__))

    def begin(ctx: Any) -> None:
        ctx.epoch_handlers[Boom] = handler

    @lb.on("on_train_batch_begin", name="Mine")
    def fail(ctx: Any) -> None:
        raise Boom(ctx.epoch)

    fit(Scale, at("on_fit_begin", begin), fail, epochs=20)
    assert notes == [
        [f"in Mine.on_train_batch_begin: epoch {epoch}, iteration 1, training"]
        for epoch in range(1, 21)
    ]


class Refuses(Exception):
    def add_note(self, note: str) -> None:
        raise RuntimeError("no notes here")


class Slotted(Exception):
    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


ODD = [
    StopIteration("no luck"),
    GeneratorExit("no luck"),
    SystemExit(3),
    StopAsyncIteration("no luck"),
    RuntimeError("generator raised StopIteration"),
    Refuses("no luck"),
    Slotted("no luck"),
    KeyError("a\nb"),
    ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "no luck"),
]
HOOKS_OF_ALL_KINDS = [
    "on_fit_begin",
    "on_train_begin",
    "on_train_batch_begin",
    "on_train_batch_after_loss",
    "on_train_batch_end",
    "on_epoch_end",
    "on_fit_end",
]


@pytest.mark.parametrize("hook", HOOKS_OF_ALL_KINDS)
@pytest.mark.parametrize("error", ODD, ids=lambda e: type(e).__name__)
def test_odd_exceptions_leave_as_themselves(error: BaseException, hook: str) -> None:
    args = error.args
    trace = Trace()
    caught = caught_from(lambda: fit(Scale, at(hook, raises(error)), trace), type(error))
    assert caught is error
    assert caught.args == args
    assert trace.events[-1] == "on_exception"
    assert torch.is_grad_enabled()


def test_an_error_made_of_a_stop_iteration_is_not_taken_apart() -> None:
    def fail(ctx: Any) -> None:
        raise RuntimeError("mine") from StopIteration("its cause")

    error = caught_from(lambda: fit(Scale, at("on_train_begin", fail)), RuntimeError)
    assert (type(error), error.args) == (RuntimeError, ("mine",))
    assert isinstance(error.__cause__, StopIteration)


def test_a_stop_iteration_ends_no_loop_in_silence() -> None:
    fitted = fit()
    for run in (
        lambda: fit(Scale, at("on_train_batch_begin", raises(StopIteration))),
        lambda: fitted.evaluate(numbered(1), callbacks=at("on_valid_begin", raises(StopIteration))),
        lambda: fitted.predict(
            numbered(1), callbacks=at("on_predict_begin", raises(StopIteration))
        ),
    ):
        caught_from(run, StopIteration)


def test_the_traceback_leads_to_the_users_line_through_few_frames() -> None:
    error = caught_from(lambda: fit(Scale, at("on_train_batch_end", raises(Boom))))
    frames = traceback.extract_tb(error.__traceback__)
    assert frames[-1].name == "act"
    package = Path(lb.__file__).parent
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(package)]
    assert 1 <= len(own) <= 4


# --- where else it may come from ----------------------------------------------------------------


class BadForward(Scale):
    def forward(self, x: Any) -> Any:
        raise Boom("no luck")


class BadLoss(Scale):
    def loss(self, pred: Any, target: Any) -> Any:
        raise Boom("no luck")


class BadStep(Scale):
    def step(self, ctx: Any) -> None:
        raise Boom("no luck")


class BadPredict(Scale):
    def predict(self, x: Any) -> Any:
        raise Boom("no luck")


class BadOptimizer(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        raise Boom("no luck")


class BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        raise Boom("no luck")


class BadMetric(lb.Metric):
    where = ""

    def reset(self) -> None:
        self.fail("reset")

    def update(self, preds: Any, target: Any) -> None:
        self.fail("update")

    def compute(self) -> float:
        self.fail("compute")
        return 0.0

    def fail(self, where: str) -> None:
        if where == type(self).where:
            raise Boom("no luck")


def bad_metric(where: str) -> lb.Metric:
    return type("MyMetric", (BadMetric,), {"where": where})()


def bad_loss(pred: Any, target: Any) -> Any:
    raise Boom("no luck")


IN_BATCH = "epoch 1, iteration 1, training"


@pytest.mark.parametrize(
    ("run", "note"),
    [
        (lambda: fit(BadForward), f"in BadForward.forward: {IN_BATCH}"),
        (lambda: fit(BadLoss), f"in BadLoss.loss: {IN_BATCH}"),
        (lambda: fit(Scale, loss=bad_loss), f"in bad_loss: {IN_BATCH}"),
        (lambda: fit(BadStep), f"in BadStep.step: {IN_BATCH}"),
        (lambda: fit(optimizer=BadOptimizer), f"in BadOptimizer.step: {IN_BATCH}"),
        (
            lambda: fit(loss=lambda pred, target: BadBackward.apply(pred).mean()),
            f"in the backward pass: {IN_BATCH}",
        ),
        (
            lambda: fit(backward=bad_loss and raises(Boom("no luck"))),
            f"in the backward pass: {IN_BATCH}",
        ),
        (lambda: fit(metrics=bad_metric("update")), f"in MyMetric.update: {IN_BATCH}"),
        (lambda: fit(metrics=bad_metric("compute")), "in MyMetric.compute: epoch 1"),
        (lambda: fit(metrics=bad_metric("reset")), "in MyMetric.reset: epoch 1"),
        (
            lambda: fit(BadPredict).predict(numbered(1)),
            "in BadPredict.predict: iteration 1, prediction",
        ),
    ],
)
def test_the_note_names_the_part_that_it_came_from(run: Any, note: str) -> None:
    error = caught_from(run, Boom)
    assert str(error) == "no luck"
    (only,) = notes(error)
    assert only.startswith(note)


def test_an_exception_of_the_data_leaves_as_itself() -> None:
    class Bad(Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            raise Boom("no luck")

    error = caught_from(lambda: fit(data=DataLoader(Bad())), Boom)
    (note,) = notes(error)
    assert note.startswith("in ")
    assert "epoch 1" in note


def test_an_exception_of_a_loader_without_workers_leaves_as_itself() -> None:
    def batches() -> Iterator[Any]:
        yield torch.ones(1, 1), torch.ones(1, 1)
        raise Boom("no luck")

    class Loader:
        def __iter__(self) -> Iterator[Any]:
            return batches()

    lb.as_dataloader.register(Loader, lambda data: data)
    error = caught_from(lambda: fit(data=Loader()), Boom)
    assert str(error) == "no luck"
    assert len(notes(error)) == 1


# --- on_exception -------------------------------------------------------------------------------


def test_on_exception_fires_once_with_the_exception() -> None:
    seen = []

    @lb.on("on_exception")
    def look(ctx: Any) -> None:
        seen.append((ctx.exception, ctx.epoch, ctx.iter, torch.is_grad_enabled()))

    error = Boom("no luck")
    for run in (
        lambda: fit(Scale, look, at("on_train_batch_after_loss", raises(error))),
        lambda: fit(BadForward, look),
        lambda: fit(Scale).evaluate(
            numbered(1), callbacks=[look, at("on_valid_batch_begin", raises(error))]
        ),
        lambda: fit(Scale).predict(
            numbered(1), callbacks=[look, at("on_predict_batch_begin", raises(error))]
        ),
    ):
        caught = caught_from(run, Boom)
        assert len(seen) == 1
        assert seen.pop()[0] is caught
    caught_from(lambda: fit(Scale, look, at("on_train_batch_after_loss", raises(error))))
    assert seen == [(error, 1, 1, False)]


def test_no_end_fires_when_an_exception_leaves() -> None:
    trace = Trace()
    caught_from(lambda: fit(Scale, trace, at("on_train_batch_begin", raises(Boom))))
    assert trace.events == [
        "on_fit_begin",
        "on_epoch_begin",
        "on_train_begin",
        "on_train_batch_begin",
        "on_exception",
    ]


def test_what_on_exception_raises_leaves_with_the_first_one_as_its_context() -> None:
    error = caught_from(
        lambda: fit(
            Scale,
            at("on_epoch_end", raises(Boom("first"))),
            at("on_exception", raises(KeyError("second"))),
        ),
        KeyError,
    )
    assert error.args == ("second",)
    assert isinstance(error.__context__, Boom)


def test_a_run_may_follow_one_that_failed() -> None:
    trainable = lb.setup(Scale, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)
    failing = at("on_train_batch_after_loss", raises(Boom))
    caught_from(lambda: trainable.fit(numbered(1), 1, [failing], verbose=False))
    assert trainable.fit(numbered(1), 1, [failing], verbose=False).stop_reason is None


# --- a loss that is not finite ------------------------------------------------------------------


class Bad(Scale):
    value = float("nan")

    def loss(self, pred: Any, target: Any) -> Any:
        fine = not self.training or self.ctx.step_count < 4
        return 0 * pred.mean() + (1.0 if fine else self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_is_warned_about_once_with_its_place(value: float) -> None:
    module = type("Bad", (Bad,), {"value": value})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = fit(module, epochs=4)
    (warning,) = caught
    assert issubclass(warning.category, errors.NonFiniteLossWarning)
    assert "epoch 2, iteration 2, training" in str(warning.message)
    assert str(value) in str(warning.message).lower()
    recorded = fitted.records["metrics"]["train"]
    assert recorded[0] == {"loss": 1.0}
    assert not torch.isfinite(torch.tensor(recorded[1]["loss"]))


def test_as_an_error_the_warning_about_the_loss_ends_the_fit() -> None:
    with pytest.raises(errors.NonFiniteLossWarning, match="epoch 2, iteration 2"):
        fit(Bad, epochs=4)


# --- data and shapes met during a run -----------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* what its DataLoader does:lumbre.errors.DataWarning")
def test_an_empty_loader_is_refused() -> None:
    empty = DataLoader(
        torch.utils.data.TensorDataset(torch.ones(3, 1)), batch_size=4, drop_last=True
    )
    for run in (
        lambda: fit(data=empty),
        lambda: fit(valid_data=empty),
        lambda: fit().evaluate(empty),
        lambda: fit().predict(empty),
    ):
        error = caught_from(run, errors.DataError)
        assert "gave no batch" in str(error)
        assert "drop_last=False" in str(error)


@pytest.mark.parametrize(
    ("loss", "name"),
    [(nn.MSELoss(), "MSELoss"), (nn.functional.mse_loss, "mse_loss")],
)
def test_a_batch_that_is_no_pair_is_refused_where_a_target_is_needed(loss: Any, name: str) -> None:
    error = caught_from(
        lambda: (
            lb.setup(nn.Linear, loss, torch.optim.SGD)
            .set_hparams(in_features=2, out_features=1)
            .fit(torch.ones(4, 2), verbose=False)
        ),
        errors.DataError,
    )
    assert f"{name} needs a target" in str(error)
    assert "(4, 2)" in str(error)
    assert "(input, target)" in str(error)


def test_a_loss_that_is_no_scalar_is_refused_with_its_shape() -> None:
    error = caught_from(
        lambda: fit(loss=nn.L1Loss(reduction="none"), data=two_rows()), errors.ShapeError
    )
    assert "shape (2, 1)" in str(error)
    assert 'L1Loss(reduction="mean")' in str(error)
    assert notes(error) == ["in the backward pass: epoch 1, iteration 1, training"]


def two_rows() -> Any:
    return [torch.ones(2, 1), torch.zeros(2, 1)]


def test_a_loss_that_broadcasts_is_warned_about_the_first_time() -> None:
    data = [torch.ones(4, 1), torch.zeros(4)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(loss=nn.MSELoss(), data=data, valid_data=None, epochs=3)
    ours = [w for w in caught if issubclass(w.category, errors.ShapeWarning)]
    assert len(ours) == 1
    for words in ("(4, 1)", "(4,)", "MSELoss", "unsqueeze(1)"):
        assert words in str(ours[0].message)


@pytest.mark.filterwarnings("ignore:SGD was told to step:lumbre.LumbreWarning")
def test_shapes_that_fit_are_not_warned_about() -> None:
    fit(loss=nn.MSELoss(), data=two_rows(), valid_data=None)
    fit(
        nn.Flatten,
        loss=nn.CrossEntropyLoss(),
        optimizer=lambda params, lr: torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr),
        backward=lambda loss: None,
        data=[torch.ones(4, 3), torch.zeros(4, dtype=torch.long)],
        valid_data=None,
    )


def test_a_target_class_outside_of_the_range_is_refused_by_the_metric() -> None:
    error = caught_from(
        lambda: fit(
            loss=lambda pred, target: pred.mean(),
            metrics=lb.metrics.Accuracy(),
            data=[torch.ones(4, 3), torch.tensor([0, 1, 2, 7])],
        ),
        errors.TargetError,
    )
    assert "7" in str(error)
    assert error.__notes__[0].startswith("in Accuracy.update: epoch 1, iteration 1, training")


def test_a_complex_prediction_is_refused_by_the_metric() -> None:
    error = caught_from(
        lambda: fit(
            loss=lambda pred, target: pred.abs().mean(),
            metrics=lb.metrics.MSE(),
            data=[torch.ones(4, 1, dtype=torch.complex64), torch.ones(4, 1)],
        ),
        errors.DTypeError,
    )
    assert "complex" in str(error)


def test_shapes_that_cannot_fit_are_refused_by_the_metric() -> None:
    error = caught_from(
        lambda: fit(
            loss=lambda pred, target: pred.mean(),
            metrics=lb.metrics.MAE(),
            data=[torch.ones(4, 3), torch.ones(4, 2)],
        ),
        errors.ShapeError,
    )
    assert "3" in str(error)
    assert "2" in str(error)


def test_an_optimizer_that_another_loss_feeds_is_named() -> None:
    class Broken(Pair):
        def loss(self, pred: Any, target: Any) -> Any:
            raise Boom(self.ctx.opt_name)

    error = caught_from(lambda: fit(Broken, optimizer=None), Boom)
    assert error.args == ("a",)
