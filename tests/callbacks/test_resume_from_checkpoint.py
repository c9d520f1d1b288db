"""ResumeFromCheckpoint: which file it takes, what it restores. See test_resume too."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lumbre as lb
from lumbre.callbacks import EarlyStopping, ModelCheckpoint, ResumeFromCheckpoint
from lumbre.errors import ArgumentError, ArgumentTypeError, FileError
from lumbre.files import form
from runs import Pair, Scale, at, fit


class Counting(Scale):
    """Its weight is the number of steps since it was made."""

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return -10 * pred.mean() + 0 * target.mean()


def checkpoints(folder: Path, epochs: int = 3, module: Any = Counting) -> None:
    fit(module, ModelCheckpoint(f"{folder}/{{epoch}}.safetensors"), epochs=epochs)


def begun(
    resume: lb.Callback, *callbacks: lb.Callback, module: Any = Counting, **options: Any
) -> dict[str, Any]:
    """What a fit of nine epochs begins with."""
    seen: dict[str, Any] = {}

    def see(ctx: Any) -> None:
        seen.update(epoch=ctx.epoch, step=ctx.step_count, weight=round(ctx.model.weight.item()))
        seen.update(state=ctx.state_dict(), records=ctx.records)

    fit(module, resume, *callbacks, at("on_epoch_begin", see), epochs=9, **options)
    return seen


def test_it_goes_on_at_the_next_epoch_with_the_counters(tmp_path: Path) -> None:
    checkpoints(tmp_path)
    seen = begun(ResumeFromCheckpoint(tmp_path / "2.safetensors"))
    assert (seen["epoch"], seen["step"], seen["weight"]) == (3, 4, 5)
    assert seen["records"]["metrics"]["train"][:2] in ([], [{}, {}])


def test_it_says_from_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints(tmp_path)
    fit(Counting, ResumeFromCheckpoint(tmp_path), epochs=4, verbose=None)
    expected = f"lumbre: resuming {tmp_path / '3.safetensors'} at epoch 4\n"
    assert capsys.readouterr() == ("", expected)


@pytest.mark.filterwarnings("ignore:The state that is resumed holds one of ModelCheckpoint")
@pytest.mark.parametrize("part", ["model", "records", "optimizer", "callbacks"])
def test_each_part_is_restored_where_it_is_asked_for(part: str, tmp_path: Path) -> None:
    def fresh(**options: Any) -> tuple[Any, ...]:
        stops = EarlyStopping(patience=99, mode="max")
        resume = ResumeFromCheckpoint(tmp_path / "a", **options)
        seen = begun(resume, stops, optimizer=torch.optim.Adam)
        state = seen["state"]
        metrics = seen["records"]["metrics"]["train"]
        assert seen["epoch"] == 4, "it goes on at the next epoch in any case"
        return (
            seen["weight"] != 1,
            any(metrics),
            bool(state["optimizers"]["opt"]["state"]),
            state["callbacks"]["EarlyStopping"],
        )

    stops = EarlyStopping(patience=99, mode="max")
    setup = lb.setup(Counting, optimizer=torch.optim.Adam).set_opt_hparams(lr=1.0)
    one = [(torch.ones(1), torch.ones(1))]
    setup.fit(
        torch.utils.data.DataLoader(one), 3, [ModelCheckpoint(tmp_path / "a"), stops],
        valid_data=torch.utils.data.DataLoader(one), verbose=False,
    )  # fmt: skip
    parts = ["model", "records", "optimizer", "callbacks"]
    names = {"model": "model_state", "records": "records", "optimizer": "optimizer_state",
             "callbacks": "callbacks_state"}  # fmt: skip
    none = {f"restore_{name}": False for name in names.values()}
    nothing = fresh(**none)
    found = fresh(**{**none, f"restore_{names[part]}": True})
    changed = [name for name, a, b in zip(parts, nothing, found, strict=True) if a != b]
    assert changed == [part]
    defaults = fresh()
    assert [name for name, a, b in zip(parts, nothing, defaults, strict=True) if a != b] == [
        "model"
    ]


def test_random_numbers_go_on(tmp_path: Path) -> None:
    drawn: list[float] = []
    draws = lb.on("on_epoch_begin")(lambda ctx: drawn.append(torch.rand(()).item()))
    fit(Scale, ModelCheckpoint(f"{tmp_path}/{{epoch}}"), draws, epochs=4)
    expected = drawn[2:]
    drawn.clear()
    torch.manual_seed(99)
    fit(Scale, ResumeFromCheckpoint(tmp_path / "2"), draws, epochs=4)
    assert drawn == expected


def test_callbacks_have_their_states_by_name_and_not_by_place(tmp_path: Path) -> None:
    def stopping(name: str) -> EarlyStopping:
        made = EarlyStopping(patience=99, mode="max" if name == "two" else "min")
        made.name = name
        return made

    one, two = stopping("one"), stopping("two")
    fit(Counting, ModelCheckpoint(tmp_path / "a"), one, two, epochs=3)
    new_one, new_two = stopping("one"), stopping("two")
    resume = ResumeFromCheckpoint(tmp_path / "a", restore_callbacks_state=True)
    expected = [one.state_dict(), two.state_dict()]
    assert expected[0] != expected[1]
    found: list[dict[str, Any]] = []
    looks = at("on_epoch_begin", lambda ctx: found.extend([new_one.state_dict(),
                                                           new_two.state_dict()]))  # fmt: skip
    with pytest.warns(lb.LumbreWarning, match="holds one of ModelCheckpoint, and no callback of"):
        fit(Counting, new_two, resume, new_one, looks, epochs=4)
    assert found == expected


def test_the_newest_is_that_of_the_last_epoch_then_of_the_last_hour_and_never_of_the_name(
    tmp_path: Path,
) -> None:
    checkpoints(tmp_path)
    (tmp_path / "3.safetensors").rename(tmp_path / "a.safetensors")
    (tmp_path / "1.safetensors").rename(tmp_path / "z.safetensors")
    os.utime(tmp_path / "a.safetensors", (1, 1))
    assert begun(ResumeFromCheckpoint(tmp_path))["epoch"] == 4
    other = tmp_path / "0.safetensors"
    state = form.read(tmp_path / "a.safetensors")
    state["model"]["weight"].fill_(77)
    form.write(other, state, "checkpoint")
    assert begun(ResumeFromCheckpoint(tmp_path))["weight"] == 77, "written later"
    os.utime(other, (0, 0))
    assert begun(ResumeFromCheckpoint(tmp_path))["weight"] == 7


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    flipped = data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]
    path.write_bytes({"torn": data[: len(data) // 2], "empty": b"", "altered": flipped}[how])


@pytest.mark.parametrize("how", ["torn", "empty", "altered"])
def test_a_file_that_cannot_be_read_is_left_out_with_a_warning(how: str, tmp_path: Path) -> None:
    checkpoints(tmp_path)
    damage(tmp_path / "3.safetensors", how)
    with pytest.warns(lb.LumbreWarning, match=r"Left out: .*3\.safetensors"):
        assert begun(ResumeFromCheckpoint(tmp_path))["epoch"] == 3


def test_a_foreign_file_that_looks_like_one_is_left_out_with_a_warning(tmp_path: Path) -> None:
    checkpoints(tmp_path)
    fit(Scale).save(tmp_path / "x.safetensors")
    with pytest.warns(lb.LumbreWarning, match=r"Left out: .*x\.safetensors"):
        assert begun(ResumeFromCheckpoint(tmp_path))["epoch"] == 4


def test_what_does_not_look_like_one_is_left_out_in_silence(tmp_path: Path) -> None:
    checkpoints(tmp_path)
    (tmp_path / "log.csv").write_text("epoch,set,loss\n")
    (tmp_path / ".3.safetensors.12.ab.tmp").write_text("half")
    (tmp_path / ".hidden.safetensors").write_text("half")
    (tmp_path / "folder.safetensors").mkdir()
    assert begun(ResumeFromCheckpoint(tmp_path))["epoch"] == 4


def test_only_one_file_of_a_folder_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints(tmp_path)
    opened: list[str] = []
    read = form.read

    def watched(path: Any, *args: Any, **options: Any) -> Any:
        opened.append(Path(path).name)
        return read(path, *args, **options)

    monkeypatch.setattr(form, "read", watched)
    begun(ResumeFromCheckpoint(tmp_path))
    assert opened == ["3.safetensors"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_where_there_is_nothing_the_fit_begins_anew_with_a_warning(
    make: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    make(path)
    with pytest.warns(lb.LumbreWarning, match=rf"{path}: no.*; the fit begins anew"):
        seen = begun(ResumeFromCheckpoint(path))
    assert (seen["epoch"], seen["weight"]) == (1, 1)


def test_a_single_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    checkpoints(tmp_path, 1)
    damage(tmp_path / "1.safetensors", "torn")
    with pytest.raises(FileError, match=r"1\.safetensors"):
        fit(Counting, ResumeFromCheckpoint(tmp_path / "1.safetensors"))


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    checkpoints(tmp_path, 1)
    resume = ResumeFromCheckpoint(tmp_path)
    with pytest.raises(FileError, match=r"(?s)1\.safetensors cannot be resumed.*Pair.*restore le"):
        fit(Pair, resume, optimizer=None, loss=torch.nn.MSELoss())


def test_a_checkpoint_that_has_done_more_than_is_asked_for_is_a_warning(tmp_path: Path) -> None:
    checkpoints(tmp_path)
    with pytest.warns(lb.LumbreWarning, match="has done 3 epochs, and this one asks for 2"):
        fitted: Any = fit(Counting, ResumeFromCheckpoint(tmp_path), epochs=2)
    assert fitted.model.weight.item() == pytest.approx(7)


def test_it_comes_after_all_others_but_auto_resume() -> None:
    resume, stops = ResumeFromCheckpoint("a"), EarlyStopping()
    stops.weight = math.inf
    rows = lb.schedule([resume, lb.callbacks.AutoResume(), stops, ModelCheckpoint("b")]).rows
    assert [name for hook, name, *_ in rows if hook == "on_fit_begin"][-2:] == [
        "ResumeFromCheckpoint",
        "AutoResume",
    ]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"path": None},
            ArgumentTypeError,
            "path is of type NoneType; expected a string or a path",
        ),
        ({"path": ""}, ArgumentError, "path is empty"),
        ({"restore_model_state": 1}, ArgumentTypeError, "restore_model_state is True or False"),
        ({"restore_records": "no"}, ArgumentTypeError, "restore_records is True or .* got 'no'"),
        ({"restore_optimizer_state": None}, ArgumentTypeError, "restore_optimizer_state is True"),
        ({"restore_callbacks_state": []}, ArgumentTypeError, "restore_callbacks_state is True"),
    ],
)
def test_arguments_are_checked_at_construction(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"ResumeFromCheckpoint: {message}"):
        ResumeFromCheckpoint(**{"path": "a", **options})
