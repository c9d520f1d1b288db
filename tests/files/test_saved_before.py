"""What an earlier version has saved, every later one reads.

The files of `tests/saved/0.1.0` were made by that version with `train` below, over two epochs, with
a `ModelCheckpoint` beside the others, and are never made anew.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import lumbre as lb
from lumbre.callbacks import (
    EMA,
    EarlyStopping,
    KeepBestModel,
    LRScheduler,
    ModelCheckpoint,
    ResumeFromCheckpoint,
)
from lumbre.files.container import KINDS
from lumbre.files.form import read, read_meta
from places import TESTS

SAVED = TESTS / "saved" / "0.1.0"
FILES = {
    "fitted": SAVED / "fitted.lumbre",
    "weights": SAVED / "weights.lumbre",
    "checkpoint": SAVED / "checkpoint.safetensors",
}


class Net(nn.Linear):
    """Begins with weights that no generator draws."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        with torch.no_grad():
            self.weight.copy_(torch.arange(12.0).reshape(3, 4) / 16 - 0.25)
            self.bias.zero_()


def data() -> list[Tensor]:
    target = torch.arange(16) % 3
    x = nn.functional.one_hot(target, 4) + (torch.arange(64.0) * 5 % 11).reshape(16, 4) / 16
    return [x, target]


def train(*callbacks: lb.Callback, epochs: int) -> lb.Fitted:
    trainable = lb.setup(Net, nn.CrossEntropyLoss(), torch.optim.Adam, [lb.metrics.Accuracy()])
    trainable = trainable.set_hparams(features=4, classes=3).set_opt_hparams(lr=0.125)
    kept = [
        EarlyStopping(patience=5),
        KeepBestModel(),
        LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
        EMA(decay=0.5),
    ]
    return trainable.fit(
        data(),
        epochs=epochs,
        valid_data=0.25,
        callbacks=[*kept, *callbacks],
        verbose=False,
        dataloader_options={"batch_size": 4, "shuffle": False},
    )


WEIGHTS = {
    "weight": [
        [0.21548420190811157, 0.03044961392879486, -0.40479907393455505, 0.3209090828895569],
        [-0.26902127265930176, 0.19338008761405945, -0.13830731809139252, 0.08055444061756134],
        [-0.1837051957845688, 0.16566172242164612, 0.646239161491394, 0.3430255055427551],
    ],
    "bias": [0.34976887702941895, -0.02755746804177761, -0.04639846086502075],
}
RECORDS = {
    "train": [
        {"loss": 1.2686640620231628, "acc": 0.3333333333333333},
        {"loss": 0.8759536147117615, "acc": 0.6666666666666666},
    ],
    "valid": [
        {"loss": 1.071690559387207, "acc": 0.25},
        {"loss": 0.873697817325592, "acc": 0.75},
    ],
}
# After two epochs more by that version; another torch may end in other last bits.
LATER = {
    "weight": [
        [0.3755303621292114, -0.04956035688519478, -0.5194147825241089, 0.406386137008667],
        [-0.3437368869781494, 0.32722586393356323, -0.20292961597442627, 0.09740644693374634],
        [-0.3271610140800476, 0.04014354944229126, 0.7340672016143799, 0.2691177725791931],
    ],
    "bias": [0.3689676523208618, 0.03940176963806152, -0.10924144089221954],
}
LATER_LOSSES = [0.873697817325592, 0.7908587455749512, 0.75453782081604]


def state(fitted: lb.Fitted) -> dict[str, Any]:
    return {name: value.tolist() for name, value in fitted.model.state_dict().items()}


def test_there_is_a_file_of_every_kind() -> None:
    assert {*FILES} == {*KINDS}
    assert sorted(SAVED.iterdir()) == sorted(FILES.values())
    for kind, path in FILES.items():
        meta = read_meta(path)
        assert (meta.kind, meta.version, meta.format) == (kind, "0.1.0", 1)


def test_a_fitted_model_comes_back_with_its_records() -> None:
    fitted = lb.load(FILES["fitted"], Net)
    assert state(fitted) == WEIGHTS
    assert fitted.records["metrics"] == RECORDS
    assert (fitted.hparams, fitted.opt_hparams) == ({"features": 4, "classes": 3}, {"lr": 0.125})
    weight, bias = (torch.tensor(each) for each in WEIGHTS.values())
    assert_close(fitted.predict(data()[0]), data()[0] @ weight.T + bias)


@pytest.mark.parametrize("kind", FILES)
def test_weights_come_out_of_any_file(kind: str) -> None:
    fitted = train(epochs=1)
    assert state(fitted) != WEIGHTS
    lb.load_model_weights(fitted, FILES[kind])
    assert state(fitted) == WEIGHTS


def test_a_fitted_model_goes_back_to_a_checkpoint() -> None:
    fitted = train(epochs=1)
    lb.load_checkpoint(fitted, FILES["checkpoint"])
    assert state(fitted) == WEIGHTS


def test_a_checkpoint_holds_the_states_of_the_callbacks() -> None:
    assert {*read(FILES["checkpoint"], "checkpoint")["callbacks"]} == {
        "EarlyStopping",
        "KeepBestModel",
        "LRScheduler",
        "EMA",
        "ModelCheckpoint",
    }


def test_a_fit_trains_on_from_a_checkpoint_as_it_would_have_then(tmp_path: Path) -> None:
    resume = ResumeFromCheckpoint(
        FILES["checkpoint"],
        restore_records=True,
        restore_optimizer_state=True,
        restore_callbacks_state=True,
    )
    fitted = train(resume, ModelCheckpoint(tmp_path / "checkpoint"), epochs=4)
    assert {set_: each[:2] for set_, each in fitted.records["metrics"].items()} == RECORDS
    losses = [each["loss"] for each in fitted.records["metrics"]["valid"]]
    assert losses[1:] == pytest.approx(LATER_LOSSES, rel=1e-5)
    for name, value in fitted.model.state_dict().items():
        assert_close(value.cpu(), torch.tensor(LATER[name]))
