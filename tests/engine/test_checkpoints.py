"""lb.load_checkpoint: with a fitted model, with a run, from a file, from a folder."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre.callbacks import (
    EMA,
    AutoResume,
    EarlyStopping,
    KeepBestModel,
    LRScheduler,
    ModelCheckpoint,
)
from lumbre.errors import FileError
from runs import Scale, at, fit, without_pickle


class Counting(Scale):
    """Its weight grows by one each step."""

    def loss(self, pred: Any, target: Any) -> Any:
        return -10 * pred.mean() + 0 * target.mean()


def checkpoints(folder: Path, epochs: int = 3) -> lb.Fitted:
    return fit(Counting, ModelCheckpoint(f"{folder}/{{epoch}}.safetensors"), epochs=epochs)


def weight(fitted: Any) -> int:
    return round(fitted.model.weight.item())


def test_a_fitted_model_gets_the_weights_in_place_and_keeps_its_records(tmp_path: Path) -> None:
    fitted = checkpoints(tmp_path)
    records, where = fitted.records, fitted.model.weight.data_ptr()
    lb.load_checkpoint(fitted, tmp_path / "1.safetensors")
    assert weight(fitted) == 3
    assert fitted.records == records
    assert fitted.model.weight.data_ptr() == where


def test_a_folder_means_its_newest_checkpoint(tmp_path: Path) -> None:
    fitted = checkpoints(tmp_path)
    lb.load_checkpoint(fitted, tmp_path / "1.safetensors")
    lb.load_checkpoint(fitted, str(tmp_path))
    assert weight(fitted) == 7


def test_a_run_gets_everything(tmp_path: Path) -> None:
    before = checkpoints(tmp_path)

    @lb.on("on_fit_begin", weight=math.inf)
    def load(ctx: Any) -> None:
        lb.load_checkpoint(ctx, tmp_path / "2.safetensors")

    with pytest.warns(lb.LumbreWarning, match="ModelCheckpoint, and no callback"):
        fitted = fit(Counting, load, epochs=3)
    assert fitted.records["metrics"] == before.records["metrics"]
    assert weight(fitted) == 7


def test_a_model_it_does_not_fit_is_refused_by_name_and_left_as_it_is(tmp_path: Path) -> None:
    checkpoints(tmp_path)
    other = fit(lambda: nn.Linear(1, 1), loss=nn.MSELoss())
    before = [p.detach().clone() for p in other.model.parameters()]
    with pytest.raises(FileError, match=r"1\.safetensors does not fit the model"):
        lb.load_checkpoint(other, tmp_path / "1.safetensors")
    assert all(map(torch.equal, before, other.model.parameters()))


def test_no_pickle_and_no_code_is_used_on_the_way(tmp_path: Path) -> None:
    def callbacks() -> list[lb.Callback]:
        return [
            AutoResume(tmp_path / "state"),
            ModelCheckpoint(f"{tmp_path}/epochs/"),
            LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1),
            EarlyStopping(patience=9),
            KeepBestModel(),
            EMA(0.5),
        ]

    options: dict[str, Any] = {"epochs": 3, "optimizer": torch.optim.Adam}
    fit(Scale)  # imports what is imported late
    with without_pickle():
        with pytest.raises(ZeroDivisionError):
            fit(Scale, *callbacks(), at("on_epoch_end", lambda ctx: 1 // 0, 2), **options)
        fitted = fit(Scale, *callbacks(), **options)
        lb.load_checkpoint(fitted, tmp_path / "epochs")
    assert len(fitted.records["metrics"]["train"]) == 3


def test_other_files_are_refused(tmp_path: Path) -> None:
    fitted = fit(Scale)
    fitted.save(tmp_path / "a")
    with pytest.raises(FileError, match="fitted"):
        lb.load_checkpoint(fitted, tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        lb.load_checkpoint(fitted, tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(FileError, match=r"c is a folder without a checkpoint that could be read"):
        lb.load_checkpoint(fitted, tmp_path / "c")


def test_what_it_is_loaded_into_is_checked(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"fitted_or_ctx is of type Scale; expected what fit"):
        lb.load_checkpoint(Scale(), tmp_path)  # type: ignore[arg-type]
