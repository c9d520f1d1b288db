"""StepHistory: a row for each training batch, equal to a log by hand."""

import copy
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb
from lumbre import callbacks as cb
from lumbre.callbacks import StepHistory
from lumbre.errors import ArgumentError
from lumbre.files import form
from runs import Scale, at, fit, numbered

CPU = lb.Accelerator(cpu=True)


class ByHand(lb.Callback):
    """The log that a user would write, in Python, a dict a batch."""

    weight = math.inf

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_begin(self, ctx: Any) -> None:
        self.rates = [g["lr"] for each in ctx.optimizers.values() for g in each.param_groups]
        self.loss = math.nan
        self.norm = math.nan

    def on_train_batch_after_loss(self, ctx: Any) -> None:
        self.loss = ctx.loss_grad.item()

    def on_train_batch_end(self, ctx: Any) -> None:
        row = {"step": ctx.step_count, "epoch": ctx.epoch, "samples": len(ctx.target)}
        self.rows.append({**row, "loss": self.loss, "lr": self.rates[0]})


def rows_of(fitted: lb.Fitted) -> list[dict[str, Any]]:
    frame = fitted.get_steps()
    rows: list[dict[str, Any]] = frame.drop(columns="seconds").to_dict("records")
    return rows


def same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    """True if rows are alike, to the bit, with NaN for NaN."""
    one, other = pd.DataFrame(left), pd.DataFrame(right)
    return bool(one.astype(float).equals(other.astype(float)[one.columns]))


def line(*callbacks: lb.Callback, count: int = 10, **options: Any) -> lb.Fitted:
    torch.manual_seed(3)
    x = torch.randn(count, 2)
    optimizer = options.pop("optimizer", torch.optim.SGD)
    loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 4)
    given = {"epochs": 3, "verbose": False, "accelerator": CPU, **options}
    net = lb.setup(nn.Linear(2, 1), nn.MSELoss(), optimizer).set_opt_hparams(lr=0.05)
    return net.fit(loader, callbacks=callbacks, **given)


# --- the rows -----------------------------------------------------------------------------------


@given(
    fates=st.lists(st.sampled_from(["", "", "", "begin", "loss", "end", "epoch"]), max_size=14),
    stop=st.integers(1, 14),
    every=st.integers(1, 4),
    window=st.integers(1, 3),
)
def test_rows_equal_a_log_by_hand_whatever_is_skipped_or_stopped(
    fates: list[str], stop: int, every: int, window: int
) -> None:
    class Skips(lb.Callback):
        def act(self, ctx: Any, where: str) -> None:
            fate = fates[ctx.step_count - 1] if ctx.step_count <= len(fates) else ""
            if fate == where:
                ctx.skip_batch()
            if fate == "epoch" and where == "end":
                ctx.skip_epoch()

        def on_train_batch_begin(self, ctx: Any) -> None:
            self.act(ctx, "begin")

        def on_train_batch_after_loss(self, ctx: Any) -> None:
            self.act(ctx, "loss")

        def on_train_batch_end(self, ctx: Any) -> None:
            self.act(ctx, "end")
            if ctx.step_count == stop:
                ctx.stop("enough")

    by_hand = ByHand()
    schedule = cb.LRScheduler(
        torch.optim.lr_scheduler.StepLR,
        call_on="on_train_batch_after_step",
        step_size=1,
        gamma=0.9,
    )
    fitted = line(
        Skips(), schedule, by_hand, StepHistory(every), cb.GradientAccumulation(window), epochs=4
    )
    due = [row for row in by_hand.rows if row["step"] % every == 0]
    if not due:
        assert fitted.steps == {}
        return
    assert same(due, rows_of(fitted))


def test_the_columns_are_in_their_order_and_whole_numbers_are_whole() -> None:
    logs = lb.on("on_train_batch_begin")(lambda ctx: ctx.log_mean("kl", 0.5))
    frame = line(StepHistory(), cb.GradientClip(), logs).get_steps()
    assert list(frame.columns) == [
        "step", "epoch", "samples", "seconds", "loss", "lr", "grad_norm", "kl",
    ]  # fmt: skip
    assert [str(frame[name].dtype) for name in ("step", "epoch", "samples")] == ["int64"] * 3
    assert frame["step"].tolist() == list(range(1, 10))
    assert frame["epoch"].tolist() == [1] * 3 + [2] * 3 + [3] * 3
    assert frame["samples"].tolist() == [4, 4, 2] * 3
    assert (np.diff(frame["seconds"]) > 0).all()
    assert (frame["kl"] == 0.5).all()


@pytest.mark.parametrize(
    "call_on",
    [
        "on_train_batch_begin",
        "on_train_batch_after_pred",
        "on_train_batch_before_step",
        "on_train_batch_after_step",
        "on_train_batch_end",
        "on_epoch_end",
    ],
)
def test_the_rate_is_the_one_that_the_step_was_taken_with(call_on: str) -> None:
    used: list[float] = []

    class Optimizer(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            used.append(self.param_groups[0]["lr"])
            return super().step(closure)

    schedule = cb.LRScheduler(
        torch.optim.lr_scheduler.StepLR, call_on=call_on, step_size=1, gamma=0.5
    )
    fitted = line(schedule, StepHistory(), optimizer=Optimizer)
    assert fitted.get_steps()["lr"].tolist() == used
    assert len(set(used)) > 2


def test_a_rate_may_be_a_tensor() -> None:
    def adam(params: Any, lr: float) -> Any:
        return torch.optim.Adam(params, lr=torch.tensor(0.25, dtype=torch.float64))

    fitted = line(StepHistory(), optimizer=adam)
    assert set(fitted.get_steps()["lr"]) == {0.25}
    assert fitted.records["optimizer"]["lr"] == [0.25] * 3


@pytest.mark.parametrize("rate", [None, "auto", 1, np.float32(0.5)])
def test_what_is_no_rate_has_no_column(rate: Any) -> None:
    class Own(torch.optim.SGD):
        """One that keeps its rate elsewhere."""

        def __init__(self, params: Any, lr: float) -> None:
            super().__init__(params, lr)
            self.param_groups[0]["lr"] = rate

        def step(self, closure: Any = None) -> None:
            """Stay where it is."""

    fitted = line(StepHistory(), optimizer=Own)
    frame = fitted.get_steps()
    if isinstance(rate, str | None):
        assert "lr" not in frame
        assert "optimizer" not in fitted.records
    else:
        assert frame["lr"].tolist() == [float(rate)] * 9


class Two(nn.Module):
    def __init__(self, groups: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.groups = nn.Linear(1, 1), nn.Linear(1, 1), groups

    def set_optimizers(self, lr: float) -> dict[str, Any]:
        groups = [
            {"params": [self.b.weight], "lr": 0.25, "name": "slow"},
            {"params": [self.b.bias], "lr": 0.5},
        ]
        return {
            "a": torch.optim.SGD(self.a.parameters(), lr),
            "b": torch.optim.SGD(groups if self.groups else self.b.parameters(), 2 * lr),
        }

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x) + self.b(x)
        return out

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).square().mean()


def test_several_optimizers_and_groups_have_columns_of_their_own() -> None:
    fitted = fit(Two, StepHistory(grad_norm=True), optimizer=None)
    frame = fitted.get_steps()
    names = ["loss_a", "loss_b", "lr_a", "lr_b", "grad_norm_a", "grad_norm_b"]
    assert list(frame.columns)[4:] == names
    assert frame[["lr_a", "lr_b"]].drop_duplicates().to_numpy().tolist() == [[0.1, 0.2]]
    assert list(fitted.records["optimizer"]) == ["lr_a", "lr_b", "grad_norm_a", "grad_norm_b"]
    frame = fit(Two(groups=True), StepHistory(), optimizer=None).get_steps()
    assert list(frame.columns)[6:] == ["lr_a", "lr_b_slow", "lr_b_1"]
    assert frame[["lr_b_slow", "lr_b_1"]].drop_duplicates().to_numpy().tolist() == [[0.25, 0.5]]


def test_groups_of_one_optimizer_have_the_names_or_numbers_of_theirs() -> None:
    def grouped(params: Any, lr: float) -> Any:
        first, second = params
        return torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 0.5}], lr)

    fitted = line(StepHistory(), optimizer=grouped)
    assert fitted.records["optimizer"] == {"lr_0": [0.05] * 3, "lr_1": [0.5] * 3}
    assert {"lr_0", "lr_1"} < set(fitted.get_steps().columns)
    panel = fitted.plot("lr").axes[0]
    assert [each.get_label() for each in panel.lines] == ["0", "1"]


# --- norms of gradients -------------------------------------------------------------------------


class Norms(lb.Callback):
    """The norms of the gradients as they are before anybody clips them."""

    weight = -math.inf

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_before_step(self, ctx: Any) -> None:
        grads = [p.grad.flatten() for p in ctx.model.parameters()]
        self.seen.append(torch.cat(grads).norm().item())


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("grad_norm", [False, True])
@pytest.mark.parametrize("clips", [0, 1, 2])
def test_norms_are_those_of_the_steps_before_they_are_clipped(
    clips: int, grad_norm: bool, window: int
) -> None:
    norms = Norms()
    clip = [cb.GradientClip(0.01)] if clips == 1 else []
    if clips == 2:
        clip = [lb.on("on_train_batch_before_step")(lambda ctx: ctx.model.weight.grad.zero_())]
    fitted = line(norms, *clip, StepHistory(grad_norm=grad_norm), cb.GradientAccumulation(window))
    frame = fitted.get_steps()
    if not (grad_norm or clips == 1):
        assert "grad_norm" not in frame
        assert "grad_norm" not in fitted.records["optimizer"]
        return
    given = frame["grad_norm"].dropna().tolist()
    assert given == pytest.approx(norms.seen, rel=1e-6)
    assert len(given) == (9 if window == 1 else 6), "a batch that is only gathered has none"
    per_epoch = np.array(norms.seen).reshape(3, -1).mean(1)
    assert fitted.records["optimizer"]["grad_norm"] == pytest.approx(per_epoch, rel=1e-6)


def test_no_step_no_norm() -> None:
    skips = lb.on("on_train_batch_begin")(lambda ctx: ctx.skip_batch() if ctx.epoch == 2 else None)
    fitted = line(skips, StepHistory(grad_norm=True))
    frame = fitted.get_steps()
    assert frame["grad_norm"].isna().tolist() == [False] * 3 + [True] * 3 + [False] * 3
    kept = fitted.records["optimizer"]["grad_norm"]
    assert [math.isnan(each) for each in kept] == [False, True, False]


@pytest.mark.parametrize("grad_norm", [False, True])
def test_it_changes_no_bit(grad_norm: bool) -> None:
    plain, other = line(), line(StepHistory(grad_norm=grad_norm))
    assert torch.equal(plain.model.weight, other.model.weight)
    assert plain.records["metrics"] == other.records["metrics"]


# --- what is kept -------------------------------------------------------------------------------


def test_rows_survive_a_kill_and_a_resume_and_none_is_doubled_or_lost(tmp_path: Path) -> None:
    def run(name: str, *more: lb.Callback) -> lb.Fitted:
        logs = lb.on("on_train_batch_end")(lambda ctx: ctx.log_mean("v", ctx.loss["opt"] * 2))
        return line(cb.AutoResume(tmp_path / name), StepHistory(), logs, *more, epochs=5)

    whole = run("whole")
    for nth in (1, 4, 5, 9, 11, 14):
        with pytest.raises(ZeroDivisionError):
            run("killed", at("on_train_batch_end", lambda ctx: 1 // 0, nth=nth))
        fitted = run("killed")
        assert same(rows_of(whole), rows_of(fitted)), nth
        assert (np.diff(fitted.get_steps()["seconds"]) > 0).all()


def test_a_state_with_other_rows_is_refused(tmp_path: Path) -> None:
    states: list[Any] = []
    look = lb.on("on_epoch_end", weight=math.inf, epochs=(1, 1))(
        lambda ctx: states.append(copy.deepcopy(ctx.state_dict()))
    )
    line(StepHistory(), look)
    (state,) = states
    for wrong in (
        {"step": torch.ones(2, dtype=torch.float64), "loss": torch.ones(3, dtype=torch.float64)},
        {"step": torch.ones(2, 2, dtype=torch.float64)},
        {"step": torch.ones(2)},
        {"step": [1.0]},
    ):
        load = lb.on("on_fit_begin", weight=math.inf)(
            lambda ctx, wrong=wrong: ctx.load_state_dict({**state, "steps": wrong})
        )
        with pytest.raises(ArgumentError, match="rows of single steps in the state are no table"):
            line(StepHistory(), load)
    del state["steps"]  # as lumbre 0.1.0 wrote it
    load = lb.on("on_fit_begin", weight=math.inf)(lambda ctx: ctx.load_state_dict(state))
    assert line(StepHistory(), load).get_steps()["step"].tolist() == [4, 5, 6, 7, 8, 9]


def test_a_fitted_model_keeps_them_in_its_file(tmp_path: Path) -> None:
    fitted = line(StepHistory())
    fitted.save(tmp_path / "net.lumbre")
    loaded = lb.load(tmp_path / "net.lumbre", module=nn.Linear(2, 1))
    assert loaded.get_steps().equals(fitted.get_steps())
    assert form.read(str(tmp_path / "net.lumbre"), "fitted")["steps"]["loss"].dtype == torch.float64


def test_each_fit_has_rows_of_its_own() -> None:
    history = StepHistory()
    first, second = line(history), line(history, epochs=1)
    assert (len(first.get_steps()), len(second.get_steps())) == (9, 3)


def test_a_loop_of_ones_own_has_rows_in_its_state() -> None:
    model = nn.Linear(1, 1)
    data = numbered(3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with lb.run(
        model, optimizer, epochs=2, loss=nn.MSELoss(), callbacks=StepHistory(), verbose=False
    ) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(data):
                ctx.forward()
                ctx.backward(ctx.compute_loss())
                for group in optimizer.param_groups:
                    group["lr"] = 0.1 * ctx.iter
                ctx.step_optimizer()
        steps = ctx.state_dict()["steps"]
    assert steps["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert steps["lr"].tolist() == pytest.approx([0.1, 0.2, 0.3] * 2)
    assert not steps["loss"].isnan().any()


def test_without_it_there_are_no_rows_and_it_says_what_to_do() -> None:
    fitted = line()
    for ask in (fitted.get_steps, lambda: fitted.plot(x="step")):
        with pytest.raises(ArgumentError, match=r"callbacks=lb\.callbacks\.StepHistory\(\)"):
            ask()


def test_two_of_them_are_refused() -> None:
    with pytest.raises(ArgumentError, match="A run has one StepHistory"):
        line(StepHistory(), StepHistory(10))


@pytest.mark.parametrize("every", [0, -1, 1.5, "all", None, True])
def test_every_is_a_whole_number_from_1(every: Any) -> None:
    with pytest.raises(ArgumentError, match="every is a whole number from 1; got"):
        StepHistory(every)
    for kind in (cb.JSONLogger, cb.TensorBoard):
        if every is not None:
            with pytest.raises(ArgumentError, match="every is a whole number from 1; got"):
                kind("file", every=every)


# --- the loggers and the plot -------------------------------------------------------------------


def test_json_lines_in_between_are_the_rows_of_their_steps(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    logs = lb.on("on_train_batch_end")(lambda ctx: ctx.log_mean("time", 2.0 * ctx.iter))
    schedule = cb.LRScheduler(
        torch.optim.lr_scheduler.StepLR,
        call_on="on_train_batch_after_step",
        step_size=1,
        gamma=0.5,
    )
    fitted = line(logs, schedule, cb.GradientClip(), StepHistory(2), cb.JSONLogger(path, every=2))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    between = [line for line in lines if "step" in line]
    assert [(line["epoch"], line["step"]) for line in between] == [(1, 2), (2, 4), (2, 6), (3, 8)]
    for line_, row in zip(between, rows_of(fitted), strict=True):
        assert line_.pop("metric_time") == row.pop("time")
        assert line_.pop("set") == "train"
        assert line_.pop("time").endswith("Z")
        assert line_ == row
    order = [(line["epoch"], line.get("step")) for line in lines]
    assert order == [(1, 2), (1, None), (2, 4), (2, 6), (2, None), (3, 8), (3, None)]


def test_json_lines_in_between_survive_a_kill(tmp_path: Path) -> None:
    def run(folder: str, *more: lb.Callback) -> list[dict[str, Any]]:
        path = tmp_path / folder / "log.jsonl"
        resume = cb.AutoResume(tmp_path / folder / "state")
        line(resume, cb.JSONLogger(path, every=2), *more, epochs=5)
        return [{**json.loads(each), "time": ""} for each in path.read_text().splitlines()]

    whole = run("whole")
    for nth in (2, 7, 8):
        with pytest.raises(ZeroDivisionError):
            run("killed", at("on_train_batch_end", lambda ctx: 1 // 0, nth=nth, weight=2e6))
        assert run("killed") == whole


def test_tensorboard_has_the_steps_in_a_run_of_their_own(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def points(tag: str) -> list[tuple[int, float]]:
        events = EventAccumulator(str(tmp_path / "b" / "steps")).Reload()
        return [(each.step, each.value) for each in events.Scalars(tag)]

    def run(*more: lb.Callback) -> lb.Fitted:
        board = cb.TensorBoard(tmp_path / "b", every=2)
        return line(cb.AutoResume(tmp_path / "state"), board, StepHistory(2), *more)

    with pytest.raises(ZeroDivisionError):
        run(at("on_train_batch_end", lambda ctx: 1 // 0, nth=7))
    frame = run().get_steps()
    for tag in ("loss", "lr"):
        due = list(zip(frame["step"], frame[tag].astype(np.float32), strict=True))
        assert points(tag) == due
    line(cb.TensorBoard(tmp_path / "b", every=3), epochs=1)
    assert [step for step, _ in points("loss")] == [3]


def test_loggers_without_every_are_not_called_in_a_batch(tmp_path: Path) -> None:
    for logger in (cb.JSONLogger(tmp_path / "a"), cb.TensorBoard(tmp_path / "b")):
        rows = lb.schedule([logger]).rows
        assert not [row for row in rows if row[1] == type(logger).__name__ and "batch" in row[0]]


def test_lines_of_the_training_have_rate_and_norm(tmp_path: Path) -> None:
    line(cb.CSVLogger(tmp_path / "log.csv"), cb.GradientClip(), epochs=2)
    frame = pd.read_csv(tmp_path / "log.csv")
    assert list(frame.columns) == ["epoch", "set", "loss", "lr", "grad_norm"]
    assert frame["lr"].tolist() == [0.05, 0.05]
    mine = lb.on("on_train_end")(lambda ctx: ctx.log_metric("lr", 7.0))
    line(mine, cb.CSVLogger(tmp_path / "own.csv"), epochs=1)
    assert pd.read_csv(tmp_path / "own.csv")["lr"].tolist() == [7.0], "the user's own stays"


def test_the_plot_shows_what_is_asked_for_over_epochs_or_steps() -> None:
    x = torch.randn(8, 2)
    clip = cb.GradientClip()
    logs = lb.on("on_train_batch_end")(lambda ctx: ctx.log_mean("v", 1.0))
    fitted = line(
        clip, StepHistory(), logs, cb.Throughput(), valid_data=[x, x.sum(1, keepdim=True)]
    )

    def panels(*names: str, **options: Any) -> dict[str, dict[str, list[float]]]:
        figure = fitted.plot(*names, **options)
        return {
            axis.get_title(): {each.get_label(): list(each.get_xdata()) for each in axis.lines}
            for axis in figure.axes
            if axis.get_visible()
        }

    assert list(panels()) == ["loss", "v"]
    assert panels("lr", "grad_norm") == {
        "lr": {"train": [1, 2, 3]},
        "grad_norm": {"train": [1, 2, 3]},
    }
    steps = list(range(1, 10))
    assert panels("loss", "lr", x="step") == {
        "loss": {"train": steps, "valid": [3, 6, 9]},
        "lr": {"train": steps},
    }
    assert list(panels(x="step")) == ["loss", "lr", "grad_norm", "v"]
    assert fitted.plot("lr", x="step").axes[0].get_xlabel() == "step"
    assert list(panels("samples_per_second", "waiting")) == ["samples_per_second", "waiting"]
    with pytest.raises(ArgumentError, match=r"no values of 'grad_nrm'.*Did you mean \"grad_norm\""):
        fitted.plot("grad_nrm")
    with pytest.raises(ArgumentError, match='x is "epoch" or "step"; got \'batch\''):
        fitted.plot(x="batch")  # type: ignore[arg-type]


def test_the_validation_is_drawn_where_its_epoch_has_ended_whatever_is_kept(tmp_path: Path) -> None:
    x = torch.randn(8, 2)
    data = [x, x.sum(1, keepdim=True)]
    fitted = line(StepHistory(every=2), valid_data=data, valid_first=True)
    fitted.save(tmp_path / "fitted")
    again = lb.load(tmp_path / "fitted", fitted.model)
    for each in (fitted, again):
        _, valid = each.plot("loss", x="step").axes[0].lines
        assert list(valid.get_xdata()) == [0, 3, 6, 9]


def test_the_rates_of_groups_that_came_later_are_drawn_too() -> None:
    def add(ctx: Any) -> None:
        for _ in range(2):
            ctx.opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.5})

    fitted = line(at("on_epoch_begin", add, 2))
    assert [each.get_label() for each in fitted.plot("lr").axes[0].lines] == ["lr", "0", "1", "2"]


def test_what_rows_do_not_have_is_told_with_the_mend() -> None:
    x = torch.randn(8, 2)
    trainable = lb.setup(nn.Linear(2, 1), nn.MSELoss(), torch.optim.SGD, metrics=lb.metrics.MAE())
    fitted = trainable.fit([x, x.sum(1, keepdim=True)], 1, StepHistory(), verbose=False)
    with pytest.raises(ArgumentError, match=r"no values of .mae.*plot it with x=\"epoch\""):
        fitted.plot("mae", x="step")
    rare = line(StepHistory(every=100))
    with pytest.raises(ArgumentError, match="no StepHistory, or ended before the first step that"):
        rare.get_steps()


def test_nothing_is_warned_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Scale, StepHistory(grad_norm=True))


def test_a_norm_that_was_asked_for_is_not_mixed_with_that_of_a_clip() -> None:
    norms = Norms()
    fitted = line(norms, cb.GradientClip(0.01, norm_type=math.inf), StepHistory(grad_norm=True))
    assert fitted.get_steps()["grad_norm"].tolist() == pytest.approx(norms.seen, rel=1e-6)
