"""AutoResume: when it saves, when its file goes, and which file it refuses. See test_resume too."""

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre.callbacks import AutoResume, EarlyStopping, ModelCheckpoint, ResumeFromCheckpoint
from lumbre.errors import ArgumentError, FileError, SaveError
from lumbre.files import form
from runs import Scale, Trace, at, fit


def epoch_of(path: Path) -> int:
    return int(form.read_meta(path, "checkpoint").tree["progress"]["epoch"])


class Named(Scale):
    """Its optimizer has a name of its own."""

    def set_optimizers(self, lr: float) -> dict[str, torch.optim.Optimizer]:
        return {"mine": torch.optim.SGD(self.parameters(), lr)}


def fails(nth: int, hook: str = "on_train_batch_end") -> lb.Callback:
    return at(hook, lambda ctx: 1 // 0, nth)


def left(path: Path, module: Any = Scale, epochs: int = 3, **options: Any) -> None:
    """Leave the file of a fit that was killed in its second epoch."""
    with pytest.raises(ZeroDivisionError):
        fit(module, AutoResume(path), fails(4), epochs=epochs, **options)
    assert epoch_of(path) == 1


def trained(*callbacks: lb.Callback, module: Any = Scale, **options: Any) -> list[int]:
    """The epochs that a fit trains."""
    epochs: list[int] = []
    seen = lb.on("on_train_begin")(lambda ctx: epochs.append(ctx.epoch))
    fit(module, seen, *callbacks, **options)
    return epochs


def test_it_goes_on_with_the_epoch_that_was_not_finished_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "state.safetensors"
    left(path)
    capsys.readouterr()
    assert trained(AutoResume(path), epochs=3, verbose=None) == [2, 3]
    assert capsys.readouterr() == ("", f"lumbre: resuming {path} at epoch 2\n")
    left(path)
    capsys.readouterr()
    trained(AutoResume(path), epochs=3, verbose=False)
    assert capsys.readouterr() == ("", "")


def test_without_a_file_a_fit_begins_as_always(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "state.safetensors"
    assert trained(AutoResume(path), verbose=True) == [1, 2]
    assert "resuming" not in capsys.readouterr().err


@pytest.mark.parametrize("first", [True, False])
def test_it_runs_after_all_others_whatever_they_weigh_and_wherever_it_is_passed(
    first: bool, tmp_path: Path
) -> None:
    mine = Trace()
    mine.weight, mine.name = math.inf, "EarlyStopping_3"
    others = [EarlyStopping(), EarlyStopping(), mine, ModelCheckpoint(tmp_path / "a")]
    resume = AutoResume(tmp_path / "b")
    plan = lb.schedule([resume, *others] if first else [*others, resume])
    for hook in ("on_fit_begin", "on_epoch_end", "on_fit_end"):
        assert [name for at_, name, *_ in plan.rows if at_ == hook][-1] == "AutoResume"


def test_the_state_of_two_that_stop_early_is_the_one_of_after_the_epoch(tmp_path: Path) -> None:
    path = tmp_path / "state"
    stops = [EarlyStopping(patience=9), EarlyStopping("train_loss", patience=9)]
    with pytest.raises(ZeroDivisionError):
        fit(Scale, AutoResume(path), *stops, fails(5), epochs=4)
    states = form.read(path)["callbacks"]
    found = [states[name] for name in ("EarlyStopping", "EarlyStopping_2")]
    assert found == [each.state_dict() for each in stops]


def test_one_that_has_to_come_after_it_does(tmp_path: Path) -> None:
    late = lb.on("on_epoch_end", after="AutoResume", name="late")(lambda ctx: None)
    rows = lb.schedule([late, AutoResume(tmp_path / "a")]).rows
    assert [name for hook, name, *_ in rows if hook == "on_epoch_end"][-2:] == [
        "AutoResume",
        "late",
    ]


@pytest.mark.parametrize(
    "end", [None, EarlyStopping(), at("on_train_batch_end", lambda ctx: ctx.stop("enough"), 3)]
)
def test_the_file_goes_when_the_fit_ends_well(end: lb.Callback | None, tmp_path: Path) -> None:
    path = tmp_path / "state"
    there: list[bool] = []
    looks = lb.on("on_fit_end", weight=math.inf)(lambda ctx: there.append(path.exists()))
    fit(Scale, AutoResume(path), looks, *([end] if end else []), epochs=3)
    assert there == [True], "the others see it still"
    assert not path.exists()


def test_it_stays_after_ctrl_c_and_the_epoch_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "state"
    fit(
        Scale, AutoResume(path), at("on_train_batch_end", lambda ctx: ctx._interrupt(), 3), epochs=3
    )
    assert epoch_of(path) == 1
    assert trained(AutoResume(path), epochs=3) == [2, 3]


@pytest.mark.filterwarnings("ignore::lumbre.errors.NonFiniteLossWarning")
@pytest.mark.parametrize("every", ["epoch", 1])
def test_it_stays_as_it_was_before_a_loss_that_is_not_finite(every: Any, tmp_path: Path) -> None:
    path = tmp_path / "state"

    def spoil(ctx: Any) -> None:
        ctx.target = ctx.target * math.nan

    spoils = at("on_train_batch_begin", spoil, 4)
    fit(Scale, AutoResume(path, every=every), lb.callbacks.TerminateOnNaN(), spoils, epochs=3)
    state = form.read(path)
    assert state["progress"]["step_count"] == (2 if every == "epoch" else 3)
    assert state["model"]["weight"].isfinite()


def test_one_fit_has_its_path(tmp_path: Path) -> None:
    path = tmp_path / "state"

    def other(ctx: Any) -> None:
        with pytest.raises(FileError, match=rf"^{path} is in use by a fit .*process {os.getpid()}"):
            fit(Scale, AutoResume(path))

    fit(Scale, AutoResume(path), at("on_train_begin", other))
    fit(Scale, AutoResume(path))
    assert os.listdir(tmp_path) == []


def test_it_stays_after_a_second_ctrl_c(tmp_path: Path) -> None:
    def press(ctx: Any) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "state"
    fit(Scale, AutoResume(path), at("on_train_batch_end", press, 3), epochs=3)
    assert epoch_of(path) == 1


def test_it_stays_after_an_exception_though_that_was_dealt_with(tmp_path: Path) -> None:
    def handle(ctx: Any) -> None:
        ctx.handlers[ZeroDivisionError] = lambda ctx, error: None

    path = tmp_path / "state"
    fit(Scale, AutoResume(path), at("on_fit_begin", handle), fails(3), epochs=3)
    assert epoch_of(path) == 1
    assert trained(AutoResume(path), epochs=3) == [2, 3]


def test_the_epoch_that_early_stopping_ends_is_run_again_if_the_end_was_not_reached(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    with pytest.raises(ZeroDivisionError):
        fit(Scale, AutoResume(path), EarlyStopping(), fails(1, "on_fit_end"), epochs=5)
    trace = Trace()
    assert trained(AutoResume(path), EarlyStopping(), trace, epochs=5) == [2]
    assert "on_early_stopping" in trace.events
    assert not path.exists()


@pytest.mark.parametrize(
    ("every", "saved"),
    [
        ("epoch", [0, 2, 4, 6, 8]),
        (1, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (3, [0, 3, 6]),
        (99, [0]),
        ("9h", [0]),
        (["epoch", 3], [0, 2, 4, 6, 8]),
        (("9h", 5), [0, 5]),
    ],
)
def test_it_saves_as_the_fit_begins_and_whenever_a_state_is_due(
    every: Any, saved: list[int], tmp_path: Path
) -> None:
    steps: list[int] = []

    @lb.on("on_checkpoint")
    def see(ctx: Any) -> None:
        state = form.read(ctx.checkpoint)
        steps.append(state["progress"]["step_count"])
        assert (state["open"] or {}).get("iter", 0) % 2 == steps[-1] % 2

    waits = lb.on("on_train_batch_begin")(lambda ctx: ctx._writing.join())
    fit(Scale, AutoResume(tmp_path / "state", every=every), see, waits, epochs=4)
    assert steps == saved


def test_the_first_state_is_on_the_disk_before_the_first_batch(tmp_path: Path) -> None:
    path = tmp_path / "state"
    looks = at("on_epoch_begin", lambda ctx: form.read(path))
    fit(Scale, AutoResume(path, every=99), looks)


def test_a_state_is_due_after_a_time_too(tmp_path: Path) -> None:
    steps: list[int] = []
    see = lb.on("on_checkpoint")(lambda ctx: steps.append(ctx.step_count))
    slow = lb.on("on_train_batch_end")(lambda ctx: time.sleep(0.05))
    fit(Scale, AutoResume(tmp_path / "state", every="0.12s"), see, slow, epochs=10)
    assert 1 < len(steps) < 12


def test_steps_are_counted_on_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for step in (3, 6):
        with pytest.raises(ZeroDivisionError):
            fit(Scale, AutoResume(path, every=3), fails(4), epochs=9)
        assert form.read(path)["progress"]["step_count"] == step


def test_a_file_that_has_done_more_epochs_than_asked_for_is_a_warning_and_stays(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    with pytest.raises(ZeroDivisionError):
        fit(Scale, AutoResume(path), fails(7), epochs=4)
    assert epoch_of(path) == 3
    with pytest.raises(FileError, match="max_epochs: 4 → 2"):
        fit(Scale, AutoResume(path), epochs=2)
    with pytest.warns(lb.LumbreWarning, match=r"has done 3 epochs, and this one asks for 2: noth"):
        fitted = fit(Scale, AutoResume(path, changed="new"), epochs=2)
    assert len(fitted.records["metrics"]["train"]) == 3
    assert path.exists()
    assert trained(AutoResume(path, changed="new"), epochs=3) == []
    assert not path.exists(), "all that was asked for is done"


def test_a_file_of_another_model_is_refused_by_name_and_nothing_is_changed(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    left(path, lambda: nn.Linear(1, 2), loss=lambda pred, target: pred.mean())
    model = nn.Linear(1, 3)
    before = model.weight.detach().clone()
    with pytest.raises(FileError) as caught:
        lb.setup(model, lambda p, t: p.mean(), torch.optim.SGD).fit(
            [torch.ones(4, 1), torch.ones(4)], 2, AutoResume(path), verbose=False
        )
    text = str(caught.value)
    assert text.startswith(f"{path} is the state of another fit than this one")
    assert "model: Linear(in_features=1, out_features=2, bias=True) → Linear(in_f" in text
    with pytest.raises(FileError) as caught:
        lb.setup(model, lambda p, t: p.mean(), torch.optim.SGD).fit(
            [torch.ones(4, 1), torch.ones(4)], 2, AutoResume(path, changed="new"), verbose=False
        )
    text = str(caught.value)
    assert text.startswith(f"{path} cannot be resumed. The state is of another model than this Lin")
    assert "weight (state: (2, 1) float32, model: (3, 1) float32)" in text
    assert "delete the file, or give AutoResume another path" in text
    assert torch.equal(model.weight, before)
    assert path.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": torch.optim.Adam}, r"optimizer opt: torch.*SGD → torch.*Adam"),
        ({"module": Named, "optimizer": None}, "optimizer opt: .*SGD → nothing.*mine: nothing → "),
    ],
)
def test_a_file_of_other_optimizers_is_refused_by_name(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    left(path)
    with pytest.raises(FileError, match=rf"(?s){path} is the state.*{message}.*delete the"):
        fit(options.pop("module", Scale), AutoResume(path, changed="new"), **options)


def test_a_file_that_is_no_checkpoint_or_damaged_is_refused_with_the_mend(tmp_path: Path) -> None:
    path = tmp_path / "state"
    fitted = fit(Scale)
    fitted.save(path)
    with pytest.raises(FileError, match="delete the file, or give AutoResume another path"):
        fit(Scale, AutoResume(path))
    path.unlink()
    left(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"altered.*delete the file, or give AutoResume another"):
        fit(Scale, AutoResume(path))


def test_what_cannot_be_saved_is_refused_when_the_fit_begins(tmp_path: Path) -> None:
    class Odd(lb.Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"things": {"a": object()}}

    with pytest.raises(SaveError, match=r"callbacks\.Odd\.things\.a cannot be saved"):
        fit(Scale, AutoResume(tmp_path / "state"), Odd())


def test_its_file_wins_over_a_checkpoint_to_begin_with(tmp_path: Path) -> None:
    path = tmp_path / "state"
    fit(Scale, ModelCheckpoint(tmp_path / "old"), epochs=2)
    begins = ResumeFromCheckpoint(tmp_path / "old")
    with pytest.raises(ZeroDivisionError):
        fit(Scale, AutoResume(path), begins, fails(3), epochs=5)
    assert epoch_of(path) == 3
    assert trained(AutoResume(path), begins, epochs=5) == [4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "folder/"}, r"path is one file; got the folder 'folder/'. Use one in it: 'fold"),
        ({"path": "."}, "path is one file; got the folder"),
        ({"path": ""}, "path is empty; expected the name of a file"),
        ({"every": "step"}, r'every is "epoch", a number of .*, or a list of these; got .step'),
        ({"every": 0}, "every is .*; got 0"),
        ({"every": 2.5}, "every is .*; got 2.5"),
        ({"every": True}, "every is .*; got True"),
        ({"every": ()}, r"every is .*; got \(\)"),
        ({"every": [3, 4]}, r"every has two numbers, or two times: \[3, 4\]"),
        ({"every": ["epoch", "epoch"]}, "every has two"),
        ({"skip": "no"}, 'skip is one of "replay", .*; "index", .*Got .no'),
        ({"changed": "no"}, 'changed is one of "refuse", .*; "new", .*; "saved", .*Got .no'),
        ({"finished": None}, 'finished is one of "delete", .*; "keep", .*Got None'),
        ({"signals": "SIGTERM"}, "signals are those that pause the fit, .*Got 'SIGTERM'"),
        ({"signals": (signal.SIGINT,)}, "signals are those that pause the fit"),
        ({"signals": (signal.SIGSTOP,)}, "signals are those that pause the fit"),
        ({"signals": (-1,)}, "signals are those that pause the fit"),
    ],
)
def test_arguments_are_checked_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"AutoResume: {message}"):
        AutoResume(**options)


def test_without_arguments_it_has_a_place() -> None:
    path = "path='./state.safetensors', every='epoch', finished='delete', changed='refuse'"
    assert repr(AutoResume()).startswith(f"AutoResume({path}, skip='replay', signals=(")
