"""ModelCheckpoint: what it saves, under which name, what it keeps, and what it refuses."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lumbre as lb
from disk import Disk
from lumbre.callbacks import EarlyStopping, ModelCheckpoint, ResumeFromCheckpoint
from lumbre.errors import ArgumentError, LumbreWarning, MonitorError, SaveError
from lumbre.files import form
from runs import Scale, at, fit, numbered

NAN = math.nan
quiet_nan = pytest.mark.filterwarnings("ignore::lumbre.errors.NonFiniteLossWarning")


def scripted(values: list[float]) -> type[nn.Module]:
    """A model whose validation loss is the next of these values each epoch."""

    class Scripted(Scale):
        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            return 0 * pred.mean() + values[self.ctx.epoch - 1]

    return Scripted


def saved(folder: Path, values: list[float], *callbacks: lb.Callback, **options: Any) -> list[str]:
    """The names of the files that a fit with these losses leaves."""
    options = {"path": f"{folder}/", **options}
    checkpoint = ModelCheckpoint(**options)
    fit(scripted(values), checkpoint, *callbacks, data=numbered(1), epochs=len(values))
    return sorted(path.name for path in folder.iterdir())


@lb.on("on_epoch_begin")
def waits(ctx: Any) -> None:
    """Have all on the disk that was to be written, before the next epoch."""
    if ctx._writing is not None:
        ctx._writing.join()


def epoch_of(path: Path) -> int:
    return int(form.read_meta(path, "checkpoint").tree["progress"]["epoch"])


def test_each_epoch_gets_a_file_with_the_whole_state(tmp_path: Path) -> None:
    assert saved(tmp_path, [3, 2.12345]) == [
        "epoch-01-valid_loss-3.000.safetensors",
        "epoch-02-valid_loss-2.123.safetensors",
    ]
    state = form.read(tmp_path / "epoch-02-valid_loss-2.123.safetensors", "checkpoint")
    assert state["model"].keys() == {"weight"}
    assert {"optimizers", "callbacks", "records", "progress", "rng"} <= state.keys()
    assert state["progress"]["epoch"] == 2
    assert len(state["records"]["metrics"]["valid"]) == 2


def test_folders_are_made_when_the_fit_begins(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "{epoch}" / "c"
    seen: list[bool] = []
    looks = at("on_epoch_begin", lambda ctx: seen.append((tmp_path / "a" / "b").is_dir()))
    fit(Scale, ModelCheckpoint(path), looks, epochs=1)
    assert seen == [True]
    assert epoch_of(tmp_path / "a" / "b" / "1" / "c") == 1


def test_a_name_has_what_one_asks_for(tmp_path: Path) -> None:
    path = f"{tmp_path}/{{{{x}}}}-{{epoch}}-{{train_loss:.1e}}-{{valid_acc:07.3f}}-{{monitor}}"
    logs = lb.on("on_epoch_end")(lambda ctx: ctx.log_metric("acc", 0.25, "valid"))
    logs.logs = ("acc",)
    assert saved(tmp_path, [2], logs, path=path, monitor="train_loss") == [
        "{x}-1-2.0e+00-000.250-2.0"
    ]


@pytest.mark.parametrize(
    ("values", "options", "kept"),
    [
        ([3, 2, 4, 1], {}, [1, 2, 3, 4]),
        ([3, 2, 4, 1], {"save_best_only": True}, [1, 2, 4]),
        ([3, 2, 4, 5], {"save_best_only": True, "mode": "max"}, [1, 3, 4]),
        ([3, -2, -4, 1], {"save_best_only": True, "mode": "zero"}, [1, 2, 4]),
        ([3, 2.6, 2.4, 1], {"save_best_only": True, "min_delta": 0.5}, [1, 3, 4]),
        ([3, 2, 4, 1], {"keep": 2}, [2, 4]),
        ([3, 2, 4, 1], {"keep": 2, "mode": "max"}, [1, 3]),
        ([3, -2, -4, 1], {"keep": 1, "mode": "zero"}, [4]),
        ([3, 2, 4, 1], {"keep": 2, "save_best_only": True}, [2, 4]),
        ([3, 3, 3, 3], {"keep": 2}, [3, 4]),
        ([3, 3, 3], {"save_best_only": True}, [1]),
        ([NAN, 3, NAN, 4], {"keep": 2}, [2, 4]),
        ([NAN, NAN], {"keep": 1}, [2]),
        ([NAN, 3, NAN, 2], {"save_best_only": True}, [2, 4]),
        ([NAN, NAN], {"save_best_only": True, "keep": 1}, []),
    ],
)
@quiet_nan
def test_it_keeps_what_is_best(
    values: list[float], options: dict[str, Any], kept: list[int], tmp_path: Path
) -> None:
    saved(tmp_path, values, **options)
    assert sorted(map(epoch_of, tmp_path.iterdir())) == kept


@quiet_nan
def test_a_nan_stands_in_a_name(tmp_path: Path) -> None:
    assert saved(tmp_path, [NAN]) == ["epoch-01-valid_loss-nan.safetensors"]


def test_epochs_with_one_name_share_a_file(tmp_path: Path) -> None:
    assert saved(tmp_path, [1, 2], path=tmp_path / "last") == ["last"]
    assert epoch_of(tmp_path / "last") == 2


def test_a_worse_epoch_does_not_take_the_name_of_a_better_one_that_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "{monitor:.0f}"
    assert saved(tmp_path, [1.1, 1.2, 5, 4.9, 9], path=path, keep=2) == ["1", "5"]
    assert [epoch_of(tmp_path / name) for name in "15"] == [1, 4]


def test_it_deletes_only_what_it_has_written_and_only_after_the_new_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "epoch-00-valid_loss-9.000.safetensors"
    foreign.write_text("mine")
    there: list[int] = []
    unlink = Path.unlink

    def watched(path: Path, **options: Any) -> None:
        if path.suffix != ".tmp":
            there.append(len(list(tmp_path.iterdir())))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", watched)
    names = saved(tmp_path, [3, 2, 1], keep=1)
    assert names == [foreign.name, "epoch-03-valid_loss-1.000.safetensors"]
    assert there == [3, 3], "the foreign file, the old one and the new one"


def test_a_file_that_somebody_else_has_deleted_is_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "epoch-01-valid_loss-3.000.safetensors"
    deletes = at("on_epoch_begin", lambda ctx: path.unlink(), 2)
    assert len(saved(tmp_path, [3, 2], waits, deletes, keep=1))
    assert not path.exists()


def test_a_save_that_fails_is_told_and_tried_again_and_the_old_file_stays_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, there = Disk(monkeypatch), []

    def fault(count: int, name: str, path: str) -> None:
        if name == "write" and "epoch-02" in path:
            raise OSError(28, "No space left on device", path)

    disk.fault = fault
    see = lb.on("on_checkpoint")(lambda ctx: there.append(names_of(tmp_path)))
    options: dict[str, Any] = {"keep": 1, "save_best_only": True}
    with pytest.warns(
        LumbreWarning, match=r"ModelCheckpoint could not write .*epoch-02.*: \[Errno 28"
    ):
        names = saved(tmp_path, [3, 2, 2.5, 1], see, waits, **options)
    assert there == [["epoch-01-valid_loss-3.000.safetensors"], names]
    assert names == ["epoch-04-valid_loss-1.000.safetensors"], "what was doomed went with the next"


def test_a_last_save_that_fails_is_tried_once_more_and_then_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    tries = 0

    def fault(count: int, name: str, path: str) -> None:
        nonlocal tries
        if name == "write" and "epoch-02" in path:
            tries += 1
            raise OSError(28, "No space left on device", path)

    disk.fault = fault
    with pytest.warns(LumbreWarning), pytest.raises(OSError, match="No space left") as caught:
        saved(tmp_path, [3, 2])
    assert tries == 2
    assert names_of(tmp_path) == ["epoch-01-valid_loss-3.000.safetensors"]
    assert isinstance(caught.value.fitted, lb.Fitted)  # type: ignore[attr-defined]
    assert len(caught.value.fitted.records["metrics"]["train"]) == 2  # type: ignore[attr-defined]


def names_of(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_it_goes_on_with_its_best_value_and_its_files(tmp_path: Path) -> None:
    options: dict[str, Any] = {"path": f"{tmp_path}/", "save_best_only": True, "keep": 2}
    fit(scripted([3, 2]), ModelCheckpoint(**options), data=numbered(1))
    name = "epoch-02-valid_loss-2.000.safetensors"
    state = form.read(tmp_path / name)["callbacks"]["ModelCheckpoint"]
    assert state["best"] == 2.0, "the state in a file is that of after its own save"
    assert [epoch for epoch, _ in state["kept"]] == [2, 1]

    resume = ResumeFromCheckpoint(tmp_path, restore_callbacks_state=True)
    again = scripted([NAN, NAN, 2.5, 1])
    fit(again, ModelCheckpoint(**options), resume, data=numbered(1), epochs=4)
    # 2.5 was no improvement, and of the three files the first fit's worse one went.
    assert sorted(map(epoch_of, tmp_path.iterdir())) == [2, 4]


def test_a_state_cannot_make_it_delete_what_is_not_its_own(tmp_path: Path) -> None:
    name = "epoch-01-valid_loss-9.000.safetensors"
    victims = [tmp_path / name, tmp_path / "new" / name, tmp_path / "victim"]
    (tmp_path / "new").mkdir()
    for victim in victims:
        victim.write_text("mine")
    checkpoint = ModelCheckpoint(f"{tmp_path}/new/", keep=1)
    state = {"path": f"{tmp_path}/", "best": 9.0, "kept": [[1, {"monitor": 9.0}]]}
    loads = at(
        "on_fit_begin", lambda ctx: checkpoint.load_state_dict(state), after="ModelCheckpoint"
    )
    fit(scripted([3, 2]), checkpoint, loads, data=numbered(1))
    assert [victim.read_text() for victim in victims] == ["mine"] * 3
    hostile = {**state, "path": f"{tmp_path}/new/", "kept": [[1, {"monitor": "../../victim"}]]}
    with pytest.raises(ValueError, match="could not convert"):
        checkpoint.load_state_dict(hostile)


def test_of_two_the_first_knows_what_the_second_will_save(tmp_path: Path) -> None:
    last = ModelCheckpoint(tmp_path / "last")
    best = ModelCheckpoint(f"{tmp_path}/best/", save_best_only=True)
    fit(scripted([3, 2]), last, best, data=numbered(1))
    states = form.read(tmp_path / "last")["callbacks"]
    assert states["ModelCheckpoint_2"]["best"] == 2.0


def test_it_saves_after_early_stopping_has_looked_wherever_it_was_passed(tmp_path: Path) -> None:
    checkpoint, stopping = ModelCheckpoint(tmp_path / "a"), EarlyStopping()
    fit(scripted([3, 4, 5]), checkpoint, stopping, data=numbered(1), epochs=3)
    state = form.read(tmp_path / "a")
    assert state["progress"]["epoch"] == 2, "the epoch of the stop is whole, and is saved"
    assert state["callbacks"]["EarlyStopping"] == stopping.state_dict()


@pytest.mark.parametrize(
    "cut",
    [
        at("on_train_batch_end", lambda ctx: ctx.stop("enough"), 3),
        at("on_train_batch_end", lambda ctx: ctx._interrupt(), 3),
        at("on_valid_batch_begin", lambda ctx: ctx._interrupt(), 2),
    ],
    ids=["stop", "Ctrl-C", "Ctrl-C in validation"],
)
def test_an_epoch_that_was_cut_short_is_not_saved(cut: lb.Callback, tmp_path: Path) -> None:
    fit(Scale, ModelCheckpoint(tmp_path / "a"), cut, epochs=3)
    assert epoch_of(tmp_path / "a") == 1


@pytest.mark.parametrize("resumes", [True, False])
def test_behind_a_pause_nothing_is_written_where_the_epoch_comes_again(
    resumes: bool, tmp_path: Path
) -> None:
    late = at("on_train_batch_end", lambda ctx: ctx._move_clock(7200.0), 3)
    resume = [lb.callbacks.AutoResume(tmp_path / "state")] if resumes else []
    checkpoint = ModelCheckpoint(str(tmp_path / "{epoch}"))
    fit(Scale, checkpoint, late, *resume, epochs=3, max_time="1h")
    assert names_of(tmp_path) == (["1", "state"] if resumes else ["1", "2"])


def test_an_epoch_that_an_exception_has_cut_short_is_not_saved(tmp_path: Path) -> None:
    def handle(ctx: Any) -> None:
        ctx.handlers[ZeroDivisionError] = lambda ctx, error: None

    breaks = at("on_train_batch_end", lambda ctx: 1 // 0, 3)
    fit(Scale, ModelCheckpoint(tmp_path / "a"), at("on_fit_begin", handle), breaks, epochs=3)
    assert epoch_of(tmp_path / "a") == 1


def test_an_epoch_that_has_measured_nothing_is_saved_only_where_nothing_is_watched(
    tmp_path: Path,
) -> None:
    skips = lb.on("on_train_begin")(lambda ctx: ctx.skip_epoch())
    assert saved(tmp_path, [1, 2], skips, keep=1) == []
    assert saved(tmp_path, [1, 2], skips, path=tmp_path / "a") == ["a"]


def test_without_validation_data_a_monitor_that_is_needed_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    for needed in [
        {"path": f"{path}/"},
        {"path": path, "keep": 1},
        {"path": path, "save_best_only": True},
        {"path": f"{path}{{valid_loss}}"},
    ]:
        with pytest.raises(MonitorError, match=r'ModelCheckpoint cannot watch "valid_loss": this '):
            fit(Scale, ModelCheckpoint(**needed), valid_data=None)
    fit(Scale, ModelCheckpoint(path), valid_data=None)
    assert epoch_of(tmp_path / "a") == 2


@pytest.mark.filterwarnings("ignore::lumbre.errors.MonitorWarning")
def test_a_record_that_is_not_there_is_an_error_that_lists_those_there_are(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(f"{tmp_path}/{{valid_los}}")
    with pytest.raises(
        MonitorError, match=r'(?s)watch "valid_los": after epoch 1 .* mean "valid_loss'
    ):
        fit(Scale, checkpoint)


def test_a_record_that_is_an_array_is_refused(tmp_path: Path) -> None:
    logs = lb.on("on_epoch_end")(lambda ctx: ctx.log_metric("each", torch.ones(2), "valid"))
    logs.logs = ("each",)
    with pytest.raises(MonitorError, match="an array of shape"):
        fit(Scale, ModelCheckpoint(f"{tmp_path}/{{valid_each}}"), logs)


def test_what_cannot_be_saved_is_refused_when_the_fit_begins(tmp_path: Path) -> None:
    class Odd(lb.Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"things": [1, object()]}

    epochs: list[int] = []
    seen = at("on_epoch_begin", lambda ctx: epochs.append(ctx.epoch))
    with pytest.raises(SaveError, match=r"callbacks\.Odd\.things.*1.* cannot be saved"):
        fit(Scale, ModelCheckpoint(tmp_path / "a"), Odd(), seen)
    assert epochs == []


def test_a_folder_without_a_slash_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r'End it with a slash .*: ModelCheckpoint\(".*/"\)'):
        fit(Scale, ModelCheckpoint(tmp_path))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{loss}", r"field \{loss\}; there are \{epoch\}, \{monitor\} and the names of records"),
        ("{}", r"field \{\}; there are"),
        ("{0}", r"field \{0\}; there are"),
        ("{test_loss}", r"field \{test_loss\}; there are"),
        ("{epoch.real}", r"field \{epoch.real\}; there are"),
        ("{monitor.__class__}", r"field \{monitor.__class__\}"),
        ("{valid_loss[0]}", r"field \{valid_loss\[0\]\}"),
        ("{valid_loss.__init__.__globals__}", r"the field"),
        ("{epoch!r}", r"field \{epoch!r\}; there are"),
        ("{epoch", r"has braces that do not match"),
        ("epoch}", r"has braces that do not match"),
        ("{epoch:.3q}", r"'.3q' is no format of a number .* Use one such as \{epoch:02d\}"),
        ("{monitor:d}", r"'d' is no format of a number .* Use one such as \{monitor:.3f\}"),
        ("{monitor:{epoch}}", r"is no format of a number"),
    ],
)
def test_a_path_with_other_fields_is_refused_at_construction(path: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ModelCheckpoint(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor": 3}, "ModelCheckpoint: monitor is a set and the name of a record.*; got 3"),
        ({"monitor": "val_loss"}, 'Did you mean "valid_loss"'),
        ({"mode": "least"}, "ModelCheckpoint: mode is"),
        ({"min_delta": -1}, "ModelCheckpoint: min_delta is a number from 0; got -1"),
        ({"keep": 0}, "ModelCheckpoint: keep is a whole number from 1; got 0"),
        ({"keep": 1.5}, "ModelCheckpoint: keep is a whole number from 1; got 1.5"),
        ({"keep": True}, "ModelCheckpoint: keep is a whole number from 1; got True"),
        ({"path": 3}, "ModelCheckpoint: path is of type int; expected a string or a pathlib.Path"),
        ({"path": ""}, "ModelCheckpoint: path is empty; expected the name of a file or folder"),
        ({"save_best_only": "no"}, "ModelCheckpoint: save_best_only is True or False; got 'no'"),
    ],
)
def test_arguments_are_checked_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ArgumentError, TypeError), match=message):
        ModelCheckpoint(**{"path": "a/", **options})


def pickled(it: Any) -> Any:
    return pickle.loads(pickle.dumps(it))  # noqa: S301


@pytest.mark.parametrize("clone", [copy.deepcopy, pickled])
def test_it_can_be_copied(clone: Callable[[Any], Any], tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(f"{tmp_path}/", save_best_only=True, keep=1)
    fit(scripted([3, 2]), checkpoint, data=numbered(1))
    assert clone(checkpoint).state_dict() == checkpoint.state_dict()


def test_several_files_to_keep_need_several_names() -> None:
    words = (
        r'keep=3 needs a name for .*slash, "run/last.st/", or .*: "run/last-\{epoch:02d\}.st"\.$'
    )
    with pytest.raises(ArgumentError, match=words):
        ModelCheckpoint("run/last.st", keep=3)
    for path, keep in (("run/last.st", 1), ("run/last.st", None), ("run/", 3), ("{valid_loss}", 2)):
        ModelCheckpoint(path, keep=keep)
