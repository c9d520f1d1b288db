"""`valid_first=True`: what is measured before the first epoch, and who takes it."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre import callbacks as cb
from lumbre.errors import ArgumentError, ArgumentTypeError, MonitorError
from runs import Scale, Trace, at, fit


class Falls(Scale):
    """Its validation loss is what a list says, one a pass."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.losses = list(losses)

    def loss(self, pred: Any, target: Any) -> Any:
        value = super().loss(pred, target)
        return value if self.training else value * 0 + self.losses.pop(0)


def first(losses: list[float], *callbacks: lb.Callback, **options: Any) -> lb.Fitted:
    return fit(Falls(losses), *callbacks, valid_first=True, **options)


def test_it_is_a_validation_pass_between_the_begin_of_the_fit_and_the_first_epoch() -> None:
    trace = Trace(lambda hook, ctx: (hook, ctx.epoch))
    first([5.0, 4.0, 3.0], trace)
    begins = [event for event in trace.events if "batch" not in event[0]][:4]
    assert begins == [
        ("on_fit_begin", 0),
        ("on_valid_begin", 0),
        ("on_valid_end", 0),
        ("on_epoch_begin", 1),
    ]


def test_its_values_stand_apart_and_are_epoch_0() -> None:
    fitted = first([5.0, 4.0, 3.0], metrics=lb.metrics.MAE())
    assert fitted.records["before"] == {"valid": {"loss": 5.0, "mae": 1.0}}
    assert [entry["loss"] for entry in fitted.records["metrics"]["valid"]] == [4.0, 3.0]
    frame = fitted.get_metrics()
    valid = frame[(frame["set"] == "valid") & (frame["metric"] == "loss")]
    assert list(zip(valid["epoch"], valid["value"], strict=True)) == [(0, 5.0), (1, 4.0), (2, 3.0)]
    assert (frame[frame["set"] == "train"]["epoch"] > 0).all()
    assert len(fitted.profile["valid"]) == 2, "index + 1 is the epoch"
    assert "before" not in fit(Scale).records


def test_callbacks_read_it_while_it_runs_and_after() -> None:
    seen: list[Any] = []
    during = at("on_valid_batch_end", lambda ctx: seen.append(ctx.get_metrics("valid")), weight=9)
    end = at("on_valid_end", lambda ctx: ctx.log_metric("more", 1.0))
    after = at("on_epoch_end", lambda ctx: seen.append(ctx.get_metrics("valid", 0)))
    first([5.0, 4.0, 3.0], during, end, after)
    assert seen == [{"loss": 5.0}, {"loss": 5.0, "more": 1.0}]


@pytest.mark.parametrize(
    ("losses", "best"), [([5.0, 4.0, 3.0], 2), ([1.0, 4.0, 3.0], 0), ([4.0, 3.0, 9.0], 1)]
)
def test_keep_best_model_takes_the_weights_that_the_fit_began_with(
    losses: list[float], best: int
) -> None:
    seen: dict[int, float] = {}

    @lb.on("on_valid_end")
    def keep(ctx: Any) -> None:
        seen[ctx.epoch] = ctx.model.weight.item()

    @lb.on("on_train_batch_after_step")
    def move(ctx: Any) -> None:
        ctx.model.weight.add_(1.0)

    keeps = cb.KeepBestModel()
    fitted = first(losses, keep, move, keeps)
    assert (keeps.best_epoch, keeps.best_value) == (best, min(losses))
    assert fitted.model.weight.item() == seen[best]
    assert len(set(seen.values())) == 3


@pytest.mark.parametrize(
    ("losses", "options", "last"),
    [
        ([1.0, 4.0, 3.0, 2.0], {"patience": 1}, 1),
        ([1.0, 4.0, 3.0, 2.0], {"patience": 2}, 2),
        ([5.0, 4.0, 4.5, 3.0], {"patience": 1}, 2),
        ([5.0, 4.0, 3.0, 2.0], {"patience": 1}, 4),
        ([5.0, 4.0, 3.0, 2.0], {"patience": 1, "baseline": 1.0}, 1),
        ([0.5, 4.0, 3.0, 2.0], {"patience": 1, "baseline": 1.0}, 1),
    ],
)
def test_early_stopping_takes_it_as_the_first_best_value(
    losses: list[float], options: Any, last: int
) -> None:
    fitted = first([*losses, 1.5], cb.EarlyStopping(**options), epochs=4)
    assert len(fitted.records["metrics"]["train"]) == last


def test_the_reason_to_stop_names_the_place_of_the_best_value() -> None:
    fitted = first([1.0, 4.0, 3.0], cb.EarlyStopping(patience=1), epochs=4)
    assert "the best is 1.0000 from before the first epoch" in str(fitted.stop_reason)
    fitted = first([5.0, 4.0, 3.0], cb.EarlyStopping(patience=1, baseline=2.0), epochs=4)
    assert "the best is 2.0000 of the baseline" in str(fitted.stop_reason)


def test_a_name_that_is_missing_there_is_told_after_the_first_epoch() -> None:
    with pytest.raises(MonitorError, match="after epoch 1 the records are train_loss, valid_loss"):
        first([1.0, 1.0, 1.0], cb.EarlyStopping("valid_qq"))


def test_what_a_callback_logs_of_each_epoch_may_be_watched() -> None:
    class Logs(lb.Callback):
        logs = ("valid_f1",)

        def on_epoch_end(self, ctx: Any) -> None:
            ctx.log_metric("f1", ctx.epoch, "valid")

    best = cb.KeepBestModel("valid_f1", mode="max")
    stopping = cb.EarlyStopping("valid_f1", mode="max", patience=9)
    first([1.0, 1.0, 1.0], Logs(), best, stopping)
    assert best.best_epoch == 2


def test_filters_on_epochs_leave_it_out() -> None:
    seen: list[tuple[str, int]] = []

    def see(name: str, **filters: Any) -> lb.Callback:
        return lb.on("on_valid_end", **filters)(lambda ctx: seen.append((name, ctx.epoch)))

    first([1.0, 1.0, 1.0], see("some", epochs=(1, 1)), see("all"))
    assert [epoch for name, epoch in seen if name == "some"] == [1]
    assert [epoch for name, epoch in seen if name == "all"] == [0, 1, 2]


@pytest.mark.parametrize("hook", ["on_valid_end", "on_valid_batch_end", "on_epoch_end"])
def test_schedules_do_not_step_on_it(hook: str) -> None:
    def rates(**options: Any) -> list[float]:
        seen: list[float] = []
        look = lb.on("on_train_batch_begin")(lambda ctx: seen.append(ctx.opt.param_groups[0]["lr"]))
        step = torch.optim.lr_scheduler.StepLR
        schedule = cb.LRScheduler(step, call_on=hook, step_size=1, gamma=0.5)
        fit(Scale, schedule, look, epochs=3, **options)
        return seen

    assert rates(valid_first=True) == rates() == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]


def test_averages_and_checkpoints_go_with_it(tmp_path: Path) -> None:
    plain, other = (
        fit(Scale, cb.EMA(0.5), cb.ModelCheckpoint(f"{tmp_path}/{i}/"), valid_first=bool(i))
        for i in range(2)
    )
    assert torch.equal(plain.model.weight, other.model.weight)
    names = [sorted(each.name for each in (tmp_path / f"{i}").iterdir()) for i in range(2)]
    assert names[0] == names[1] != []


def test_loggers_have_it_as_epoch_0(tmp_path: Path) -> None:
    first([5.0, 4.0, 3.0], cb.CSVLogger(tmp_path / "a.csv"), cb.JSONLogger(tmp_path / "a.jsonl"))
    rows = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert [row[:3] for row in rows] == [
        ["epoch", "set", "loss"],
        ["0", "valid", "5.0"],
        ["1", "train", "3.0"],
        ["1", "valid", "4.0"],
        ["2", "train", "3.0"],
        ["2", "valid", "3.0"],
    ]
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["set"], line["loss"]) for line in lines[:2]] == [
        (0, "valid", 5.0),
        (1, "train", 3.0),
    ]


def test_tensorboard_has_it_at_step_0(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first([5.0, 4.0, 3.0], cb.TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path / "valid")).Reload()
    points = [(each.step, each.value) for each in events.Scalars("loss")]
    assert points == [(0, 5.0), (1, 4.0), (2, 3.0)]


def test_a_line_tells_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    first([5.0, 4.0, 3.0], verbose=True)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "epoch 0/2 · valid loss 5.0000"
    assert out[1].startswith("epoch 1/2 · train loss 3.0000")


def test_a_run_that_goes_on_is_not_measured_again_and_keeps_it(tmp_path: Path) -> None:
    def run(epochs: int, losses: list[float]) -> lb.Fitted:
        resume = cb.AutoResume(tmp_path / "state")
        kill = at("on_epoch_begin", lambda ctx: 1 // 0, nth=2) if epochs == 3 else Trace()
        log = cb.CSVLogger(tmp_path / "log.csv")
        return first(losses, resume, kill, log, cb.KeepBestModel(), epochs=4)

    with pytest.raises(ZeroDivisionError):
        run(3, [1.0, 4.0, 3.0])
    fitted = run(4, [2.5, 2.0, 1.5])
    assert fitted.records["before"] == {"valid": {"loss": 1.0}}
    assert [e["loss"] for e in fitted.records["metrics"]["valid"]] == [4.0, 2.5, 2.0, 1.5]
    epochs = [row.split(",")[:2] for row in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    assert epochs[:3] == [["0", "valid"], ["1", "train"], ["1", "valid"]]
    assert len(epochs) == 9


def test_it_is_in_the_file_of_a_fitted_model_and_in_its_plot(tmp_path: Path) -> None:
    fitted = first([5.0, 4.0, 3.0])
    fitted.save(tmp_path / "net.lumbre")
    loaded = lb.load(tmp_path / "net.lumbre", module=Scale())
    assert loaded.records["before"] == fitted.records["before"]
    lines = {line.get_label(): list(line.get_xdata()) for line in fitted.plot().axes[0].lines}
    assert lines == {"train": [1, 2], "valid": [0, 1, 2]}


def test_the_modes_of_modules_are_as_without_it() -> None:
    def modes(**options: Any) -> list[list[bool]]:
        model = nn.Sequential(nn.Linear(1, 2), nn.Dropout(), nn.Linear(2, 1))
        model[1].eval()
        seen: list[list[bool]] = []
        look = lb.on("on_train_batch_begin")(
            lambda ctx: seen.append([each.training for each in ctx.model.modules()])
        )
        fit(model, look, loss=nn.MSELoss(), **options)
        return seen

    assert modes(valid_first=True) == modes()


def test_it_asks_for_validation_data_and_for_a_flag() -> None:
    for name, value in [("valid_first", True), ("valid_steps", 2), ("valid_every", 2)]:
        with pytest.raises(ArgumentError, match=rf"^{name} is about the .*Pass valid_data="):
            fit(Scale, valid_data=None, **{name: value})
    with pytest.raises(ArgumentTypeError, match="valid_first is True or False; got 'yes'"):
        fit(Scale, valid_first="yes")


def test_a_stop_in_it_ends_the_fit_before_an_epoch() -> None:
    fitted = first([5.0, 4.0, 3.0], at("on_valid_end", lambda ctx: ctx.stop("good enough")))
    assert fitted.records["before"] == {"valid": {"loss": 5.0}}
    assert fitted.records["metrics"]["train"] == []
    assert "good enough" in str(fitted.stop_reason)
