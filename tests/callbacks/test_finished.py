"""AutoResume(finished="keep"): the end of a fit, given again without training, and gone on from."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre.callbacks import EMA, AutoResume, EarlyStopping, KeepBestModel, StepHistory
from lumbre.errors import FileError
from lumbre.files import form
from runs import at

X = torch.linspace(-1, 1, 36).reshape(12, 3)
Y = X.sum(1, keepdim=True)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))


def fit(path: Path, *callbacks: Any, epochs: Any = 3, seed: int = 0, **options: Any) -> lb.Fitted:
    torch.manual_seed(seed)
    trainable = lb.setup(net, nn.MSELoss(), torch.optim.Adam).set_opt_hparams(lr=0.1)
    options = {"valid_data": 0.25, "dataloader_options": {"batch_size": 3}, **options}
    resume = AutoResume(path, finished="keep")
    return trainable.fit([X, Y], epochs, [resume, *callbacks], verbose=False, **options)


def bits(fitted: lb.Fitted) -> Any:
    weights = {name: each.tolist() for name, each in fitted.model.state_dict().items()}
    rows = {name: each for name, each in fitted.steps.items() if name != "seconds"}
    steps = {name: each.tolist() for name, each in rows.items()}
    return weights, fitted.records["metrics"], fitted.stop_reason, steps


OTHERS: dict[str, Any] = {
    "none": list,
    "best": lambda: [KeepBestModel()],
    "average": lambda: [EMA(0.5)],
    "rows": lambda: [StepHistory()],
    "stop": lambda: [EarlyStopping(patience=1, min_delta=9.0)],
}


@pytest.mark.parametrize("others", OTHERS)
def test_the_result_is_given_without_training(others: str, tmp_path: Path) -> None:
    path, make = tmp_path / "state", OTHERS[others]
    whole = fit(path, *make())
    drawn = torch.rand(3)
    before = path.read_bytes()
    seen: list[int] = []
    see = lb.on("on_train_batch_begin")(lambda ctx: seen.append(ctx.iter))
    with pytest.warns(lb.LumbreWarning, match="holds the end of this fit, and nothing is trained"):
        again = fit(path, *make(), see, seed=7)
    assert torch.equal(torch.rand(3), drawn), "the generators stand where the fit had left them"
    assert bits(again) == bits(whole)
    assert again.records == whole.records, "seconds too"
    assert seen == []
    assert path.read_bytes() == before


@pytest.mark.parametrize("others", ["none", "best", "average", "rows"])
def test_with_more_epochs_it_goes_on(others: str, tmp_path: Path) -> None:
    make = OTHERS[others]
    whole = fit(tmp_path / "whole", *make(), epochs=5)
    fit(tmp_path / "state", *make(), epochs=3)
    assert bits(fit(tmp_path / "state", *make(), epochs=5, seed=3)) == bits(whole)


def test_with_more_steps_it_goes_on(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", epochs=9, max_steps=8)
    fit(tmp_path / "state", epochs=9, max_steps=3)
    more = fit(tmp_path / "state", epochs=9, max_steps=8, seed=3)
    assert len(more.records["metrics"]["train"]) >= len(whole.records["metrics"]["train"])


def test_a_fit_that_was_stopped_is_not_gone_on_with(tmp_path: Path) -> None:
    stops = lambda: EarlyStopping(patience=1, min_delta=9.0)  # noqa: E731
    whole = fit(tmp_path / "state", stops(), epochs=9)
    with pytest.warns(lb.LumbreWarning, match="nothing is trained"):
        assert bits(fit(tmp_path / "state", stops(), epochs=20)) == bits(whole)


def test_another_fit_is_refused(tmp_path: Path) -> None:
    fit(tmp_path / "state")
    with pytest.raises(FileError, match="valid_every: 1 → 2"):
        fit(tmp_path / "state", valid_every=2)


def test_code_that_has_changed_since_is_told(tmp_path: Path) -> None:
    def first(self: Any, ctx: Any) -> None:
        self.seen = 1

    def second(self: Any, ctx: Any) -> None:
        self.seen = 2

    def made(method: Any) -> Any:
        return type("Mine", (lb.Callback,), {"on_epoch_end": method})()

    fit(tmp_path / "state", made(first))
    with pytest.warns(lb.LumbreWarning, match="nothing is trained") as caught:
        fit(tmp_path / "state", made(first))
    assert not any("Code that has changed" in str(each.message) for each in caught)
    with pytest.warns(
        lb.LumbreWarning, match="Code that has changed since:\n  code of callbacks Mi"
    ):
        fit(tmp_path / "state", made(second))


def test_a_pause_is_no_end(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole")
    pause = at("on_train_batch_end", lambda ctx: ctx.stop("time", resumable=True), 4)
    assert fit(tmp_path / "state", pause).paused
    assert "finished" not in form.read(tmp_path / "state")
    assert bits(fit(tmp_path / "state", seed=5)) == bits(whole)


def test_what_did_not_change_in_the_end_is_in_the_file_once(tmp_path: Path) -> None:
    fit(tmp_path / "state")
    state = form.read(tmp_path / "state")
    for name, each in state["model"].items():
        assert state["finished"]["model"][name] is each


SCRIPT = """
import os, signal, sys
import torch
from torch import nn
import lumbre as lb
torch.set_num_threads(1)
folder, kill = sys.argv[1], int(sys.argv[2])
steps = 0

class Kill(lb.Callback):
    def on_train_batch_end(self, ctx):
        global steps
        steps += 1
        if steps == kill:
            os.kill(os.getpid(), signal.SIGKILL)

X = torch.linspace(-1, 1, 36).reshape(12, 3)
Y = X.sum(1, keepdim=True)
torch.manual_seed(0 if kill == 0 else os.getpid())
total = torch.zeros(())
for fold in range(3):
    rows = torch.arange(12) % 3 == fold
    setup = lb.setup(nn.Linear, nn.MSELoss(), torch.optim.Adam)
    setup = setup.set_hparams(in_features=3, out_features=1).set_opt_hparams(lr=0.1)
    torch.manual_seed(fold)
    fitted = setup.fit(
        [X[~rows], Y[~rows]], 3, valid_data=[X[rows], Y[rows]], verbose=False,
        callbacks=[lb.callbacks.AutoResume(f"{folder}/{fold}", finished="keep", every=1), Kill()],
        dataloader_options={"batch_size": 2},
    )
    total += fitted.model.weight.detach().sum() + torch.rand(())
print(total.item().hex())
"""


def test_a_script_of_folds_goes_on_in_the_one_where_it_was_killed(tmp_path: Path) -> None:
    def run(folder: str, kill: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / folder), str(kill)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env=environment
        )

    whole = run("whole", 0)
    assert whole.returncode == 0, whole.stderr
    for kill in (17, 7):  # in the second fold, then in what is left, the third
        assert run("killed", kill).returncode == -signal.SIGKILL
    again = run("killed", 0)
    assert (again.returncode, again.stdout) == (0, whole.stdout), again.stderr
