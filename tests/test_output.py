"""Output never decides whether a run lives, whatever the streams are."""

import errno
import functools
import io
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lumbre as lb
from lumbre import output
from runs import Scale, at, fit, numbered


class Tee:
    """What thousands of training scripts put in the place of `sys.stdout`."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


class Full(Tee):
    def write(self, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


class FullTerminal(Full):
    def isatty(self) -> bool:
        return True


class Gone(Tee):
    def flush(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


class Deleted(FullTerminal):
    """As a widget that is no more."""

    def write(self, text: str) -> None:
        raise RuntimeError("wrapped C/C++ object has been deleted")


class Hostile:
    """It has nothing that a stream has."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError


class AsciiTerminal(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii")

    def isatty(self) -> bool:
        return True


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def full() -> Any:
    return open("/dev/full", "w")


def broken_pipe() -> Any:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def deserted_terminal() -> Any:
    """A terminal whose window was closed."""
    window, terminal = os.openpty()
    stream = os.fdopen(terminal, "w")
    os.close(window)
    return stream


STREAMS: list[Callable[[], Any]] = [
    *(Tee, type(None), closed, Full, FullTerminal, Gone, Deleted, Hostile, AsciiTerminal),
    *([full] if Path("/dev/full").exists() else []),
    *([broken_pipe, deserted_terminal] if hasattr(os, "openpty") else []),
]


class Precise(lb.Metric):
    abbrev = "précision·→"

    def update(self, preds: Any, target: Any) -> None: ...

    def compute(self) -> float:
        return 0.5


def interrupt(ctx: Any) -> None:
    raise KeyboardInterrupt


def fit_loudly(*callbacks: Any, **options: Any) -> Any:
    fitted = fit(Scale, *callbacks, verbose=True, metrics=Precise(), **options)
    return fitted.records["metrics"], fitted.stop_reason


def resume(path: Path) -> Any:
    fit(Scale, lb.callbacks.ModelCheckpoint(path), epochs=1, metrics=Precise())
    return fit_loudly(lb.callbacks.ResumeFromCheckpoint(path, restore_optimizer_state=True))


def own_loop(path: Path) -> Any:
    model = Scale()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with lb.run(model, opt, Precise(), verbose=True, epochs=2) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(numbered(2)):
                ctx.step(ctx)
    return ctx.records["metrics"]


def sweep(path: Path) -> Any:
    net = lb.setup(Scale, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)
    return net.lr_finder(numbered(2), steps=3, verbose=True).loss


CALLS: dict[str, Callable[[Path], Any]] = {
    "fit": lambda path: fit_loudly(),
    "fit that looks for a terminal": lambda path: fit(verbose=None).records["metrics"],
    "fit that stops early": lambda path: fit_loudly(
        lb.callbacks.EarlyStopping(monitor="valid_loss", patience=1), epochs=9
    ),
    "fit under Ctrl-C": lambda path: fit_loudly(at("on_train_batch_end", interrupt, 3)),
    "fit that resumes": resume,
    "evaluate": lambda path: fit().evaluate(numbered(2), Precise(), verbose=True).metrics,
    "predict": lambda path: fit().predict(numbered(2), verbose=True).tolist(),
    "lr_finder": sweep,
    "run": own_loop,
}


@functools.cache
def _ordinary(call: str) -> Any:
    """How a call ends where the streams are as they should be."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        return CALLS[call](Path(folder) / "saved")


@pytest.mark.parametrize("name", ["stdout", "stderr", "both"])
@pytest.mark.parametrize("stream", STREAMS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("call", CALLS)
def test_every_call_ends_as_it_would_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, stream: Any, name: str
) -> None:
    expected = _ordinary(call)
    torch.manual_seed(0)
    names = ["stdout", "stderr"] if name == "both" else [name]
    placed = {each: stream() for each in names}
    with monkeypatch.context() as patch:
        patch.setattr(output, "_told", set())
        for each in names:
            patch.setattr(sys, each, placed[each])
        got = CALLS[call](tmp_path / "saved")
        assert {each: getattr(sys, each) for each in names} == placed, "the streams are back"
    assert got == expected
    for each in placed.values():
        if hasattr(type(each), "fileno") and not isinstance(each, io.StringIO | AsciiTerminal):
            _discard(each)


def _discard(stream: Any) -> None:
    """Close a stream that cannot be flushed."""
    try:
        stream.close()
    except OSError:
        assert stream.closed


def test_what_cannot_be_encoded_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = AsciiTerminal(), AsciiTerminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    fit_loudly(epochs=1, valid_data=None)
    line = r"epoch 1/1 - train loss 3.0000 pr\xe9cision-\u2192 0.5000"
    assert out.buffer.getvalue().decode().endswith(f"{line}\n")  # type: ignore[attr-defined]
    assert rb"loss 2.0000 pr\xe9cision-\u2192" in err.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_stream_takes_what_it_can_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    output.say("größe · 1")
    output.say("größe → 1")
    assert out.buffer.getvalue() == "größe · 1\ngröße \\u2192 1\n".encode("latin-1")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "other"), [("stdout", "stderr"), ("stderr", "stdout")])
def test_a_stream_that_fails_is_told_once_on_the_other_one(
    monkeypatch: pytest.MonkeyPatch, name: str, other: str
) -> None:
    works = Tee()
    monkeypatch.setattr(output, "_told", set())
    monkeypatch.setattr(sys, name, FullTerminal())
    monkeypatch.setattr(sys, other, works)
    fit_loudly(epochs=3)
    fit_loudly(epochs=3)
    told = [line for line in works.text.splitlines() if line.startswith("lumbre:")]
    assert told == [
        f"lumbre: what is said on sys.{name} is left out, as it cannot be written: "
        "OSError: [Errno 28] No space left on device"
    ]


def test_what_has_no_isatty_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    tee, err = Tee(), Tee()
    monkeypatch.setattr(sys, "stdout", tee)
    monkeypatch.setattr(sys, "stderr", err)
    fit(verbose=None)
    assert tee.text == ""
    fit(verbose=True, epochs=1)
    assert tee.text == "epoch 1/1 · train loss 3.0000 · valid loss 2.0000\n"
    assert err.text == "", "a bar is drawn in a terminal alone"


# Everything that is said, each by the way in which it is said: run with descriptors that fail.
SCRIPT = """
import os, signal, sys, warnings
from pathlib import Path

# Where a stream was closed, its number is that of the next file.
report = [open(f"{sys.argv[1]}.{i}", "w") for i in range(3)]
import torch
import lumbre as lb
from lumbre.warn import warn

def press(ctx):
    signal.raise_signal(signal.SIGINT)

def fit(*callbacks, valid=None):
    net = lb.setup(torch.nn.Linear(1, 1), torch.nn.MSELoss(), torch.optim.SGD)
    data = [torch.ones(4, 1), torch.zeros(4, 1)]
    return net.set_opt_hparams(lr=0.0).fit(
        data, 4, callbacks, valid_data=data, accelerator=lb.Accelerator(cpu=True), verbose=True
    )

signal.signal(signal.SIGINT, signal.default_int_handler)
ended = [
    len(fit().records["metrics"]["train"]),
    fit(lb.callbacks.EarlyStopping(patience=1)).stop_reason.partition(":")[0],
    fit(lb.on("on_train_batch_end", once=True)(press)).stop_reason.partition(":")[0],
]
warnings.simplefilter("always")
warn("a warning → of lumbre's", lb.LumbreWarning)
sys.stderr = open(os.devnull)
sys.stderr.close()
warn("another one", lb.LumbreWarning)
for file in report:
    print(*ended, sep="|", end="", file=file, flush=True)
os._exit(0)  # Python's own flush at its end is none of lumbre's business
"""


def test_descriptors_that_fail_end_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    command = f'"{sys.executable}" "{script}" "$REPORT"'
    kinds = {
        "ascii": f"PYTHONIOENCODING=ascii {command}",
        "closed": f"{command} >&- 2>&-",
        "broken pipe": f"{command} 2>&1 | true",
    }
    processes = {
        kind: subprocess.Popen(
            ["/bin/sh", "-c", shell],
            env={**os.environ, "REPORT": str(tmp_path / kind)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for kind, shell in kinds.items()
    }
    said = {kind: process.communicate(timeout=120) for kind, process in processes.items()}
    for kind in kinds:
        for i in range(3):
            report = tmp_path / f"{kind}.{i}"
            text = report.read_text(encoding="utf-8")
            assert text == "4|EarlyStopping|Ctrl-C", (kind, said[kind])
    out, err = said["ascii"]
    assert b"epoch 1/4 - train loss" in out
    assert b"Early stopping at epoch 2" in out
    assert b"Finishing the batch; Ctrl-C again stops at once." in err
    assert b"a warning \\u2192 of lumbre's" in err
    assert b"what is said on sys.stderr is left out" in out


def test_a_filter_that_makes_errors_of_warnings_is_obeyed() -> None:
    from lumbre.warn import warn

    with pytest.raises(lb.LumbreWarning, match="told"):
        warn("told", lb.LumbreWarning)


def test_verbose_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsure(torch.utils.data.DataLoader[Any]):
        def __len__(self) -> int:
            raise RuntimeError("not known")

    class AtTheEnd(lb.Metric):
        """One that has no value in the middle of a pass."""

        count = 0

        def reset(self) -> None:
            self.count = 0

        def update(self, preds: Any, target: Any) -> None:
            self.count += 1

        def compute(self) -> int:
            if self.count < 2:
                raise ValueError("too few batches")
            return self.count

    def run(verbose: bool) -> Any:
        rows = [(torch.ones(1), torch.ones(1))] * 2
        options = {"data": Unsure(rows, batch_size=1), "valid_data": Unsure(rows, batch_size=1)}
        fitted = fit(Scale, metrics=AtTheEnd(), verbose=verbose, **options)
        return fitted.records["metrics"]

    terminal = FullTerminal()
    terminal.write = lambda text: None  # type: ignore[method-assign, assignment]
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run(verbose=True) == run(verbose=False)


def test_a_callback_may_print_beside_a_bar_where_there_is_no_stdout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", AsciiTerminal())
    fitted = fit(Scale, at("on_train_batch_end", lambda ctx: print("as ever")), verbose=True)
    assert fitted.stop_reason is None
