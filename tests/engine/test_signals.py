"""SIGTERM and its like: the batch is finished, the state is written, the process ends."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lumbre as lb
from lumbre.files import form
from runs import Scale, at, fit

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals to a process need POSIX")

SCRIPT = """
import os, signal, sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb

folder, place, at, kind = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
torch.manual_seed(int(sys.argv[5]))
torch.set_num_threads(1)
x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
data = TensorDataset(x, x.sum(1, keepdim=True))
workers = 2 if kind == "workers" else 0
train = DataLoader(data, 4, shuffle=True, num_workers=workers)
valid = DataLoader(data, 4)
seen = 0

def end(ctx):
    global seen
    seen += 1
    if seen == at:
        if kind == "workers":
            os.killpg(0, signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

ends = lb.on(place)(end)
net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1))
trace = []
callbacks = [
    lb.callbacks.AutoResume(folder / "state"),
    lb.callbacks.CSVLogger(folder / "log.csv"),
    lb.callbacks.JSONLogger(folder / "log.jsonl", every=1),
    ends,
    lb.on("on_interrupt")(lambda ctx: print("on_interrupt")),
    lb.on("on_fit_end")(lambda ctx: print("on_fit_end", ctx.stop_reason)),
]
if kind == "run":
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    with lb.run(net, optimizer, callbacks=callbacks, epochs=2, loss=nn.MSELoss()) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(train):
                ctx.step(ctx)
            for _ in ctx.valid(valid):
                ctx.step(ctx)
    model = net
else:
    trainable = lb.setup(net, nn.MSELoss(), torch.optim.Adam)
    model = trainable.fit(train, 2, callbacks, valid).model
print([p.tolist() for p in model.parameters()])
"""


def run(
    folder: Path, place: str, at: int, kind: str, seed: int
) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SCRIPT, *map(str, (folder, place, at, kind, seed))]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, start_new_session=True
    )


def logs(folder: Path) -> tuple[str, list[str]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return (folder / "log.csv").read_text(), [line.split(",", 1)[1] for line in lines]


@pytest.mark.parametrize(
    ("place", "at", "kind"),
    [
        ("on_train_batch_begin", 3, "fit"),
        ("on_train_batch_end", 8, "fit"),
        ("on_valid_batch_end", 7, "fit"),
        ("on_train_end", 1, "fit"),
        ("on_epoch_end", 1, "fit"),
        ("on_checkpoint", 1, "fit"),
        ("on_train_batch_end", 7, "run"),
        ("on_valid_batch_begin", 2, "run"),
        ("on_train_batch_end", 3, "workers"),
        ("on_valid_batch_begin", 2, "workers"),
    ],
)
def test_the_state_is_whole_the_code_is_143_and_the_end_is_equal(
    place: str, at: int, kind: str, tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", place, 0, kind, 0)
    assert whole.returncode == 0, whole.stderr
    ended = run(tmp_path / "ended", place, at, kind, 0)
    assert ended.returncode == 143, ended.stderr
    first, last = ended.stdout.splitlines()
    assert first == "on_interrupt"
    assert last.startswith("on_fit_end SIGTERM: ")
    assert "SIGTERM: finishing the batch, writing the state." in ended.stderr
    assert "Traceback" not in ended.stderr
    form.read(tmp_path / "ended" / "state")
    assert not [each for each in os.listdir(tmp_path / "ended") if each.startswith(".")]
    again = run(tmp_path / "ended", place, 0, kind, 99)
    assert again.returncode == 0, again.stderr
    assert "lumbre: resuming" in again.stderr
    assert again.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
    assert logs(tmp_path / "ended") == logs(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path / "ended")) == ["log.csv", "log.jsonl"]


def send(number: int) -> Callable[[Any], None]:
    return lambda ctx: os.kill(os.getpid(), number)


def test_an_earlier_handler_is_called_in_the_place_of_the_end(tmp_path: Path) -> None:
    called: list[Any] = []

    def mine(number: int, frame: Any) -> None:
        called.append((number, form.read(tmp_path / "state")["progress"]["step_count"]))

    before = signal.signal(signal.SIGUSR1, mine)
    try:
        resume = lb.callbacks.AutoResume(tmp_path / "state", signals=signal.SIGUSR1)
        fitted = fit(Scale, resume, at("on_train_batch_end", send(signal.SIGUSR1)), epochs=3)
        assert called == [(signal.SIGUSR1, 1)]
        assert fitted.paused
        assert fitted.stop_reason == "SIGUSR1: epoch 1, iteration 1, training"
        assert signal.getsignal(signal.SIGUSR1) is mine
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_without_a_handler_the_process_ends_and_the_exception_carries_the_model(
    tmp_path: Path,
) -> None:
    resume = lb.callbacks.AutoResume(tmp_path / "state", signals=[signal.SIGUSR2])
    with pytest.raises(SystemExit) as caught:
        fit(Scale, resume, at("on_train_batch_end", send(signal.SIGUSR2)), epochs=3)
    assert caught.value.code == 128 + signal.SIGUSR2
    assert isinstance(caught.value.fitted, lb.Fitted)  # type: ignore[attr-defined]
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_so_and_without_a_fit_nothing_is_taken(
    tmp_path: Path,
) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        resume = lb.callbacks.AutoResume(tmp_path / "state", signals=[signal.SIGUSR1])
        fitted = fit(Scale, resume, at("on_train_batch_end", send(signal.SIGUSR1)), epochs=2)
        assert not fitted.paused
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_in_another_thread_signals_are_left_alone(tmp_path: Path) -> None:
    done: list[bool] = []

    def train() -> None:
        fit(Scale, lb.callbacks.AutoResume(tmp_path / "state"), at("on_epoch_begin", look))
        done.append(True)

    def look(ctx: Any) -> None:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    thread = threading.Thread(target=train)
    thread.start()
    thread.join(60)
    assert done == [True]


def test_an_exception_that_leaves_has_the_last_word(tmp_path: Path) -> None:
    def fail(ctx: Any) -> None:
        raise ZeroDivisionError

    resume = lb.callbacks.AutoResume(tmp_path / "state", signals=[signal.SIGUSR1])
    sends = at("on_train_batch_begin", send(signal.SIGUSR1))
    with pytest.raises(ZeroDivisionError):
        fit(Scale, resume, sends, at("on_train_batch_end", fail), epochs=2)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
