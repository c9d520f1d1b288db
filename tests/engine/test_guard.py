"""Ctrl-C, pressed once and twice in a real process, and a KeyboardInterrupt raised by anything."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import lumbre as lb
from forge import in_a_process_of_its_own
from places import TESTS
from runs import Scale, Trace, at, fit, numbered

IN_FIT = [h for h in lb.HOOKS if "predict" not in h]
ANYWHERE = {"on_early_stopping", "on_interrupt", "on_exception", "on_checkpoint"}
IN_FIT = [h for h in IN_FIT if h not in ANYWHERE]

posix = pytest.mark.skipif(
    os.name != "posix", reason="SIGINT to another process needs POSIX signals"
)


# --- in a real process --------------------------------------------------------------------------

PROGRAM = """
import signal, sys, time
import torch
import lumbre as lb
from runs import Scale, Trace, at, numbered

def mine(number, frame):
    pass

signal.signal(signal.SIGINT, mine)
trainable = lb.setup(Scale, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)

def run(kind, hook, presses):
    def wait(ctx):
        # Each "press" asks for a Ctrl-C: the first becomes a wish, the second an exception.
        for _ in range(presses):
            before = ctx.interrupted
            print("press", flush=True)
            while ctx.interrupted == before:
                time.sleep(0.001)
        print("went on")

    callbacks = [Trace(lambda hook, ctx: print(hook)), at(hook, wait)]
    try:
        if kind == "fit":
            fitted = trainable.fit(numbered(2), 3, callbacks, numbered(2), verbose=False)
        else:
            fitted = trainable.fit(numbered(2), 1, verbose=False)
            getattr(fitted, kind)(numbered(2), callbacks=callbacks, verbose=False)
    except KeyboardInterrupt:
        print("KeyboardInterrupt")
    print("handler is back", signal.getsignal(signal.SIGINT) is mine)
    print("predicts", fitted.predict(torch.ones(2, 1)).shape == (2, 1))
    print("epochs", len(fitted.records["metrics"]["train"]))
    print("reason", fitted.stop_reason)
    print("training", fitted.model.training, "gradients", torch.is_grad_enabled())

for line in sys.stdin:
    kind, hook, presses = line.split()
    run(kind, hook, int(presses))
    print("done", flush=True)
"""


class Process:
    """Runs lumbre and gets a Ctrl-C wherever the run asks for one."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=TESTS,
        )

    def run(self, kind: str, hook: str, presses: int) -> tuple[list[str], list[str]]:
        """The breakpoints after the Ctrl-C, and what else was printed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{kind} {hook} {presses}\n")
        self.process.stdin.flush()
        lines: list[str] = []
        after = 0
        for line in self.process.stdout:
            if line == "done\n":
                events = [each for each in lines[after:] if each.startswith("on_")]
                return events, [each for each in lines if not each.startswith("on_")]
            if line == "press\n":
                after = len(lines)
                self.process.send_signal(signal.SIGINT)
            else:
                lines.append(line.rstrip("\n"))
        pytest.fail(f"the process ended with {self.process.wait()}: {lines}")


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    process = Process()
    yield process
    with process.process as ended:
        ended.kill()


@posix
@pytest.mark.parametrize(
    ("hook", "events"),
    [
        (
            "on_train_batch_begin",
            [
                "on_train_batch_after_pred",
                "on_train_batch_after_loss",
                "on_train_batch_before_backward",
                "on_train_batch_before_step",
                "on_train_batch_after_step",
                "on_train_batch_end",
                "on_interrupt",
                "on_train_end",
                "on_epoch_end",
                "on_fit_end",
            ],
        ),
        (
            "on_valid_batch_after_loss",
            ["on_valid_batch_end", "on_interrupt", "on_valid_end", "on_epoch_end", "on_fit_end"],
        ),
    ],
)
def test_one_ctrl_c_finishes_the_batch_and_hands_the_model_back(
    process: Process, hook: str, events: list[str]
) -> None:
    pass_ = "training" if "train" in hook else "validation"
    assert process.run("fit", hook, 1) == (
        events,
        [
            "went on",
            "handler is back True",
            "predicts True",
            "epochs 1",
            f"reason Ctrl-C: epoch 1, iteration 1, {pass_}",
            "training False gradients True",
        ],
    )


@posix
def test_a_second_ctrl_c_is_taken_at_once(process: Process) -> None:
    assert process.run("fit", "on_valid_batch_begin", 2) == (
        ["on_interrupt", "on_fit_end"],
        [
            "handler is back True",
            "predicts True",
            "epochs 0",
            "reason Ctrl-C: epoch 1, iteration 1, validation",
            "training False gradients True",
        ],
    )


@posix
@pytest.mark.parametrize(
    ("kind", "hook", "events"),
    [
        (
            "evaluate",
            "on_valid_batch_begin",
            [
                "on_valid_batch_after_pred",
                "on_valid_batch_after_loss",
                "on_valid_batch_end",
                "on_interrupt",
                "on_valid_end",
            ],
        ),
        (
            "predict",
            "on_predict_batch_begin",
            ["on_predict_batch_end", "on_interrupt", "on_predict_end"],
        ),
    ],
)
@pytest.mark.parametrize("presses", [1, 2])
def test_evaluate_and_predict_fire_on_interrupt_and_raise(
    process: Process, kind: str, hook: str, events: list[str], presses: int
) -> None:
    assert process.run(kind, hook, presses) == (
        events if presses == 1 else ["on_interrupt"],
        [
            *(["went on"] if presses == 1 else []),
            "KeyboardInterrupt",
            "handler is back True",
            "predicts True",
            "epochs 1",
            "reason None",
            "training False gradients True",
        ],
    )


# --- raised in the run --------------------------------------------------------------------------


def interrupt(ctx: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("hook", IN_FIT)
def test_a_keyboard_interrupt_raised_anywhere_gives_a_fitted_model(hook: str) -> None:
    trace = Trace()
    fitted = fit(Scale, trace, at(hook, interrupt))
    events = trace.events[trace.events.index(hook) + 1 :]
    # An on_fit_end that had begun is not fired again.
    assert events == (["on_interrupt"] if hook == "on_fit_end" else ["on_interrupt", "on_fit_end"])
    completed = 2 if hook == "on_fit_end" else 0
    metrics = fitted.records["metrics"]
    if hook != "on_epoch_end":
        assert len(metrics["train"]) == len(metrics["valid"]) == completed
    assert fitted.stop_reason is not None
    assert fitted.stop_reason.startswith("Ctrl-C")
    assert not fitted.model.training
    assert torch.is_grad_enabled()


def test_a_keyboard_interrupt_in_the_second_epoch_keeps_the_first() -> None:
    fitted = fit(Scale, at("on_valid_batch_end", interrupt, nth=2))
    assert fitted.records["metrics"] == {"train": [{"loss": 3.0}], "valid": [{"loss": 2.0}]}
    profile = fitted.records["profile"]
    assert [len(profile[part]) for part in ("fit", "epoch", "train", "valid")] == [1, 1, 1, 1]


def test_a_keyboard_interrupt_of_the_model_or_the_data_gives_a_fitted_model() -> None:
    class Interrupted(Scale):
        def forward(self, x: Any) -> Any:
            raise KeyboardInterrupt

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            raise KeyboardInterrupt

    trace = Trace()
    for fitted in (
        fit(Interrupted, trace),
        fit(Scale, trace, data=torch.utils.data.DataLoader(Rows())),
    ):
        assert isinstance(fitted, lb.Fitted)
        assert trace.events[-2:] == ["on_interrupt", "on_fit_end"]


def test_an_interrupted_run_is_no_exception() -> None:
    trace = Trace()
    fit(Scale, trace, at("on_train_batch_end", interrupt))
    assert "on_exception" not in trace.events


@pytest.mark.parametrize("kind", ["evaluate", "predict"])
def test_a_keyboard_interrupt_leaves_evaluate_and_predict(kind: str) -> None:
    fitted = fit()
    hook = "on_valid_batch_end" if kind == "evaluate" else "on_predict_batch_end"
    trace = Trace()
    with pytest.raises(KeyboardInterrupt):
        getattr(fitted, kind)(numbered(2), callbacks=[trace, at(hook, interrupt)], verbose=False)
    assert trace.events[-1] == "on_interrupt"
    assert trace.events.count("on_interrupt") == 1
    assert "on_exception" not in trace.events


def press(ctx: Any) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("hook", [h for h in IN_FIT if h != "on_fit_end"])
def test_on_interrupt_fires_once_before_the_ends_that_are_open(hook: str) -> None:
    trace = Trace()
    fitted = fit(Scale, trace, at(hook, press))
    events = trace.events
    assert events.count("on_interrupt") == 1
    assert events[-1] == "on_fit_end"
    after = events[events.index("on_interrupt") + 1 :]
    assert all(event.endswith("_end") for event in after)
    # What was open when Ctrl-C was pressed, but for the batch, is closed after on_interrupt.
    before = events[: events.index(hook) + 1]
    scopes: list[str] = []
    for event in before:
        if event.endswith("_begin"):
            scopes.append(event.removesuffix("_begin"))
        elif event.endswith("_end"):
            scopes.remove(event.removesuffix("_end"))
    assert after == [f"{scope}_end" for scope in reversed(scopes) if "batch" not in scope]
    assert fitted.stop_reason is not None


# --- the signal handler -------------------------------------------------------------------------


@pytest.mark.parametrize("ends", ["well", "by an exception", "by Ctrl-C"])
def test_the_previous_handler_is_put_back(ends: str) -> None:
    def mine(number: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGINT, mine)
    inside = []
    look = at("on_fit_begin", lambda ctx: inside.append(signal.getsignal(signal.SIGINT)))
    try:
        if ends == "well":
            fit(Scale, look)
        elif ends == "by Ctrl-C":
            fit(Scale, look, at("on_epoch_end", press))
        else:
            with pytest.raises(ZeroDivisionError):
                fit(Scale, look, at("on_epoch_end", lambda ctx: 1 // 0))
        assert signal.getsignal(signal.SIGINT) is mine
        assert len(inside) == 1
        assert inside != [mine]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_an_ignored_or_default_signal_is_put_back_too(handler: Any) -> None:
    before = signal.signal(signal.SIGINT, handler)
    try:
        fit()
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        fitted = fit(Scale, at("on_epoch_begin", press))
    finally:
        signal.signal(signal.SIGINT, before)
    assert fitted.stop_reason is None
    assert len(fitted.records["metrics"]["train"]) == 2


IN_A_DAEMON = """
import sys
import threading
import time

import torch

import lumbre as lb
from forge import ext
from runs import Scale, at, fit, numbered

what = sys.argv[1]
begun = threading.Event()


def slow(*_):
    begun.set()
    time.sleep(0.01)
    return torch.tensor(1.0)


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            slow()
            yield torch.ones(1), torch.ones(1)


def run():
    own = {"callback": [at("on_train_batch_end", slow)], "extension": [ext.Calls(slow)]}
    own = [*own.get(what, []), at("on_interrupt", lambda ctx: print("interrupted"))]
    data = Endless() if what == "loader" else numbered(9)
    trainable = lb.setup(Scale, torch.nn.MSELoss(), torch.optim.SGD, [slow] * (what == "metric"))
    trainable.set_opt_hparams(lr=0.0).fit(data, epochs=10**6, callbacks=own, verbose=False)
    print("returned")


threading.Thread(target=run, daemon=True).start()
begun.wait()
time.sleep(0.03)
print("end")
"""


@pytest.mark.parametrize("what", ["callback", "extension", "metric", "loader"])
def test_runs_in_a_daemon_thread_end_before_the_interpreter(what: str) -> None:
    # Python cuts such a thread off in mid-call, which no frame of Rust or of torch survives.
    told = in_a_process_of_its_own("-c", IN_A_DAEMON, what).split()
    assert told == ["end", "interrupted", "returned"]


ENDING_WITH = """
import os
import sys
import threading
import time

from lumbre.engine import at_exit
from runs import Scale, at, fit

begun = threading.Event()


def forever(ctx):
    begun.set()
    time.sleep(0.01)


def run(*callbacks):
    return fit(Scale, at("on_train_batch_end", forever), *callbacks, epochs=10**6)


def inner(ctx):
    print(fit().stop_reason)


def work(what):
    if what == "nested":
        print(run(at("on_interrupt", inner)).stop_reason[:6])
    elif what == "idle":
        run()
        print("idle")
        threading.Event().wait()
    elif what == "fork":
        run()


thread = threading.Thread(target=work, args=sys.argv[1:], daemon=True)
thread.start()
begun.wait()
if sys.argv[1] == "fork":
    if not (child := os.fork()):
        # The thread is not in here: to wait for it would be for ever.
        at_exit._PATIENCE = 60.0
        at_exit._end()
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("nested", ["None", "Ctrl-C"]),
        ("idle", ["idle"]),
        pytest.param(
            "fork",
            ["7"],
            marks=pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork"),
        ),
    ],
)
def test_the_end_of_python_waits_for_what_a_daemon_thread_began(what: str, told: list[str]) -> None:
    assert in_a_process_of_its_own("-c", ENDING_WITH, what).split() == told


def test_a_run_in_a_thread_leaves_the_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []

    def work() -> None:
        look = at("on_fit_begin", lambda ctx: seen.append(signal.getsignal(signal.SIGINT)))
        seen.append(fit(Scale, look))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0] is before
    assert len(seen[1].records["metrics"]["train"]) == 2


def test_a_run_inside_of_a_run_puts_each_handler_back() -> None:
    seen: list[Any] = []

    @lb.on("on_epoch_end", weight=9)
    def inner(ctx: Any) -> None:
        outer = signal.getsignal(signal.SIGINT)
        seen.append(fit().stop_reason)
        assert signal.getsignal(signal.SIGINT) is outer

    before = signal.getsignal(signal.SIGINT)
    fit(Scale, inner)
    assert seen == [None, None]
    assert signal.getsignal(signal.SIGINT) is before
