"""What goes wrong in a callback in Rust is an exception in Python: panics, errors, Python's own,
and calls that meet a callback at work."""

import threading
import traceback
from typing import Any

import pytest

import lumbre as lb
from forge import ext
from lumbre._core import NativeCallback
from lumbre.errors import ArgumentError, ExtensionError, LumbreError
from runs import Scale, Trace, at, fit, notes, numbered

BEFORE = "before the first epoch"
SECOND = "epoch 1, iteration 2, training"


# --- panics and errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("callback", "message", "place"),
    [
        (
            ext.Panics("on_fit_begin"),
            "Panics panicked: the fuse blew in on_fit_begin",
            f"in Panics.on_fit_begin: {BEFORE}",
        ),
        (
            ext.Panics("on_train_batch_end"),
            "Panics panicked: the fuse blew in on_train_batch_end",
            f"in Panics.on_train_batch_end: {SECOND}",
        ),
        (
            ext.Panics("value"),
            "Panics panicked: a panic without a text",
            f"in Panics.on_fit_begin: {BEFORE}",
        ),
        (
            ext.Fails("on_train_batch_end"),
            "the settings cannot be read: invalid digit found in string",
            f"in Fails.on_train_batch_end: {SECOND}",
        ),
        (
            ext.Fails("ctx.fail"),
            "batch 2 is not to my taste",
            f"in Fails.on_train_batch_end: {SECOND}",
        ),
        (
            ext.Asks("nonsense"),
            'Asks: there is no "nonsense" to ask for',
            "in Asks.on_train_batch_after_loss: epoch 1, iteration 1, training",
        ),
    ],
    ids=["panic at the begin", "panic", "panic with a value", "error", "fail", "fail too"],
)
def test_what_goes_wrong_is_an_exception(callback: Any, message: str, place: str) -> None:
    trace = Trace()
    with pytest.raises(ExtensionError) as caught:
        fit(Scale, trace, callback)
    assert isinstance(caught.value, LumbreError)
    assert isinstance(caught.value, RuntimeError)
    assert str(caught.value) == message
    assert notes(caught.value) == [place]
    assert trace.events[-1] == "on_exception"
    assert "on_fit_end" not in trace.events


def test_a_handler_may_take_it() -> None:
    def handle(ctx: Any) -> None:
        ctx.handlers[ExtensionError] = lambda ctx, error: ctx.log("caught", "fit", str(error))

    fitted = fit(Scale, at("on_fit_begin", handle), ext.Panics("on_train_batch_end"))
    assert fitted.records["caught"]["fit"] == [
        "Panics panicked: the fuse blew in on_train_batch_end"
    ]


def test_after_a_panic_it_is_not_called_again() -> None:
    panics = ext.Panics("on_train_batch_end")
    capsule = panics.__lumbre_callback__()
    with pytest.raises(ExtensionError, match="the fuse blew in on_train_batch_end") as caught:
        fit(Scale, panics)
    # What on_exception might add is not there, and hides nothing.
    assert caught.value.__context__ is None
    for refused in (lambda: fit(Scale, panics), panics.__lumbre_callback__, panics.state_dict):
        with pytest.raises(RuntimeError, match="panicked earlier"):
            refused()
    with pytest.raises(ExtensionError, match=r"^Panics panicked earlier") as caught:
        fit(Scale, capsule)
    assert caught.value.__context__ is None
    with pytest.raises(ExtensionError, match="panicked earlier"):
        NativeCallback.foreign(capsule).save()


def test_after_an_error_it_is_called_again() -> None:
    fails = ext.Fails("on_train_batch_end")
    fit(Scale, fails, data=numbered(1))
    with pytest.raises(ExtensionError):
        fit(Scale, fails)
    fit(Scale, fails, data=numbered(1))


def test_an_error_in_on_exception_does_not_hide_the_first_one() -> None:
    def boom(ctx: Any) -> None:
        raise ZeroDivisionError("the first one")

    with pytest.raises(Exception) as caught:
        fit(Scale, ext.Fails("on_exception"), at("on_epoch_end", boom))
    told = "".join(traceback.format_exception(caught.value))
    assert "the first one" in told
    assert "the settings cannot be read" in told


def test_a_constructor_that_panics_or_fails_gives_no_object() -> None:
    with pytest.raises(RuntimeError, match=r"^Panics panicked: the fuse blew in new$"):
        ext.Panics("new")
    with pytest.raises(ValueError, match=r"^the settings cannot be read"):
        ext.Fails("new")


def test_what_goes_wrong_with_the_state_is_told() -> None:
    for broken, message in [
        (ext.Panics("save"), "Panics panicked: the fuse blew in save"),
        (ext.Fails("save"), "the settings cannot be read: invalid digit found in string"),
    ]:
        native = NativeCallback.foreign(broken)
        with pytest.raises(RuntimeError, match=message):
            broken.state_dict()
        with pytest.raises(ExtensionError, match="cannot be saved: "):
            native.save()
    for broken, state in [(ext.Panics("load"), b""), (ext.Fails("load"), "{}")]:
        with pytest.raises(ExtensionError, match="cannot be loaded: "):
            NativeCallback.foreign(broken).load(state)


# --- Python's own -------------------------------------------------------------------------------


class MineError(KeyError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        MineError("mine"),
        AttributeError("no such thing"),
        StopIteration(3),
        SystemExit(4),
        GeneratorExit(),
        ExceptionGroup("both", [ValueError(1), TypeError(2)]),
        ImportError("not an ABIError", name="mine"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_of_python_stays_itself(error: BaseException) -> None:
    def boom(ctx: Any) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fit(Scale, ext.Calls(boom))
    assert caught.value is error
    assert notes(error) == ["in Calls.on_train_batch_end: epoch 1, iteration 1, training"]
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert frames[-1] == "boom"


def test_ctrl_c_inside_of_a_callback_in_rust_ends_the_fit_in_order() -> None:
    def interrupt(ctx: Any) -> None:
        raise KeyboardInterrupt

    trace = Trace()
    fitted = fit(Scale, trace, ext.Calls(interrupt))
    assert trace.events[-2:] == ["on_interrupt", "on_fit_end"]
    assert fitted.stop_reason is not None


def test_python_code_in_a_callback_has_no_gradients_but_where_it_should() -> None:
    seen = []
    calls = ext.Calls(lambda ctx: seen.append((ctx.pred.sum() * 2).requires_grad))
    fit(Scale, calls, data=numbered(1), epochs=1)
    assert seen == [False]


def test_what_python_code_asks_of_ctx_counts() -> None:
    fitted = fit(Scale, ext.Calls(lambda ctx: ctx.stop("from inside")), epochs=4)
    assert fitted.stop_reason is not None
    assert "from inside" in fitted.stop_reason
    assert fitted.records["metrics"]["train"] == [{"loss": 2.0}]


# --- at work already ----------------------------------------------------------------------------

BUSY = "is being called already"


def test_a_callback_that_fires_its_own_breakpoint_is_told_so() -> None:
    with pytest.raises(ExtensionError, match=f"Calls {BUSY}: .*it has itself fired") as caught:
        fit(Scale, ext.Calls(lambda ctx: ctx.call_callbacks("on_train_batch_end")))
    assert notes(caught.value) == ["in Calls.on_train_batch_end: epoch 1, iteration 1, training"]


def test_one_that_gets_over_it_goes_on() -> None:
    refused = []

    def again(ctx: Any) -> None:
        with pytest.raises(ExtensionError, match=BUSY) as caught:
            ctx.call_callbacks("on_train_batch_end")
        refused.append(caught.value)

    fit(Scale, ext.Calls(again), epochs=3)
    assert len(refused) == 6


def test_one_may_fire_the_breakpoints_of_others() -> None:
    class Mine(lb.Callback):
        breakpoints = ("on_my_event",)
        count = 0

        def on_my_event(self, ctx: Any) -> None:
            self.count += 1

    mine = Mine()
    calls = ext.Calls(lambda ctx: ctx.call_callbacks("on_my_event"))
    fit(Scale, mine, calls, epochs=1)
    assert mine.count == 2


def test_one_callback_in_two_runs_at_once_is_refused_in_the_later() -> None:
    inside, may_go = threading.Event(), threading.Event()

    def wait(ctx: Any) -> None:
        inside.set()
        assert may_go.wait(60)

    calls = ext.Calls(wait)
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(fit(Scale, calls, epochs=1)))
    thread.start()
    try:
        assert inside.wait(60)
        with pytest.raises(ArgumentError, match="This Calls is in a run that is under way"):
            fit(Scale, calls)
    finally:
        may_go.set()
        thread.join()
    # The earlier run has not noticed anything.
    assert ended[0].stop_reason is None
    assert ended[0].records["metrics"]["train"] == [{"loss": 3.0}]
