"""Mistakes of R's luz that are not to come back, by their number.

Each one is told in its test's docstring. What a part does beside is tested in that part's own file.
"""

import math
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb
from lumbre.callbacks import (
    AutoResume,
    EarlyStopping,
    KeepBestModel,
    ModelCheckpoint,
    ResumeFromCheckpoint,
)
from runs import Pair, Scale, at, numbered
from runs import fit as small_fit


def rows(count: int = 20) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, generator=draw)
    return [x, x.sum(1, keepdim=True)]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def fit(model: nn.Module, data: Any, *callbacks: Any, **options: Any) -> lb.Fitted:
    trainable = lb.setup(model, nn.MSELoss(), torch.optim.SGD, options.pop("metrics", None))
    options = {"epochs": 1, "verbose": False, **options}
    return trainable.set_opt_hparams(lr=0.1).fit(data, callbacks=callbacks, **options)


def test_01_an_optimizer_steps_on_the_gradients_of_its_own_loss_only() -> None:
    """Each loss reaches all parameters, and only the current optimizer's are cleared."""

    class Gan(Pair):
        def forward(self, x: Tensor) -> Tensor:
            return x

        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            fake = self.b(self.a(pred))
            return fake.mean() if self.ctx.opt_name == "a" else -fake.mean()

    seen: list[tuple[str, list[bool]]] = []

    @lb.on("on_train_batch_before_step")
    def look(ctx: Any) -> None:
        has_grad = [layer.weight.grad is not None for layer in (ctx.model.a, ctx.model.b)]
        seen.append((ctx.opt_name, has_grad))

    x = torch.ones(4, 1)
    trainable = lb.setup(Gan()).set_opt_hparams(lr=0.1)
    trainable.fit([x, x], epochs=2, callbacks=look, verbose=False)
    assert seen == [("a", [True, False]), ("b", [False, True])] * 2


def test_02_a_scheduler_for_a_named_optimizer_works() -> None:
    """A scheduler for a named optimizer always aborts."""
    rates: list[dict[str, float]] = []

    @lb.on("on_epoch_end", weight=float("inf"))
    def look(ctx: Any) -> None:
        rates.append({name: o.param_groups[0]["lr"] for name, o in ctx.optimizers.items()})

    schedule = lb.callbacks.LRScheduler(
        torch.optim.lr_scheduler.StepLR, opt_name="b", step_size=1, gamma=0.5
    )
    x = torch.ones(4, 1)
    lb.setup(Pair(), nn.MSELoss()).set_opt_hparams(lr=0.1).fit(
        [x, x], epochs=2, callbacks=[schedule, look], verbose=False
    )
    assert rates == [{"a": 0.1, "b": 0.05}, {"a": 0.1, "b": 0.025}]


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray])
def test_03_options_hold_for_arrays_and_tensors(kind: Any) -> None:
    """Arrays and tensors drop `batch_size` and `shuffle` silently."""
    sizes: list[int] = []
    order: list[float] = []

    @lb.on("on_train_batch_begin")
    def look(ctx: Any) -> None:
        sizes.append(len(ctx.input))
        order.extend(ctx.target.flatten().tolist())

    x, y = torch.ones(10, 3), torch.arange(10.0).unsqueeze(1)
    options = {"batch_size": 4, "shuffle": False}
    fit(net(), [kind(x), kind(y)], look, dataloader_options=options)
    assert sizes == [4, 4, 2]
    assert order == list(range(10))
    order.clear()
    torch.manual_seed(1)
    fit(net(), [kind(x), kind(y)], look, dataloader_options={"shuffle": True})
    assert order != sorted(order)
    assert sorted(order) == list(range(10))


def test_04_mixup_with_run_valid_and_auto_loss_together_works() -> None:
    """Mixup with `run_valid` and `auto_loss` together fails."""
    mixup = lb.callbacks.Mixup(run_valid=True, auto_loss=True)
    fitted = fit(net(), rows(), mixup, valid_data=rows(8))
    assert np.isfinite(fitted.records["metrics"]["valid"][0]["loss"])


def test_05_mode_zero_compares_with_the_new_value_and_names_may_have_underscores() -> None:
    """Mode "zero" compares with `min_delta`; a name with `_` in it cannot be monitored."""
    values = iter([-3.0, 2.0, -1.0, 1.5, 0.5, 0.6, 0.7])

    class Log(lb.Callback):
        logs = ("valid_my_gap_2",)

        def on_valid_end(self, ctx: Any) -> None:
            ctx.log_metric("my_gap_2", next(values))

    stop = lb.callbacks.EarlyStopping("valid_my_gap_2", mode="zero", patience=2, min_delta=0.1)
    fitted = fit(net(), rows(), Log(), stop, valid_data=rows(4), epochs=7)
    # Nearer to zero at epochs 2, 3 and 5; 6 and 7 are the two in a row that are not.
    assert len(fitted.records["metrics"]["valid"]) == 7
    assert "the best is 0.5" in str(fitted.stop_reason)


def test_06_the_result_shows_the_times_of_validation() -> None:
    """The printed result never shows validation times."""
    shown = repr(fit(net(), rows(), valid_data=rows(4)))
    assert re.search(r"epoch [\d.]+ \S+, train [\d.]+ \S+, valid [\d.]+ \S+", shown)


def test_07_clipping_sees_true_gradients_and_autocast_is_entered_everywhere() -> None:
    """Clipping sees scaled gradients; autocast misses the second optimizer and validation."""
    norms: list[float] = []
    dtypes: set[tuple[str, torch.dtype]] = set()

    class Two(Pair):
        def forward(self, x: Tensor) -> Tensor:
            pred: Tensor = super().forward(x)
            part = self.ctx.opt_name if self.training else "valid"
            dtypes.add((part, pred.dtype))
            return pred

    @lb.on("on_train_batch_before_step")
    def look(ctx: Any) -> None:
        layer = getattr(ctx.model, ctx.opt_name)
        norms.append(torch.nn.utils.get_total_norm([layer.weight.grad]).item())

    x = torch.ones(4, 1)
    callbacks = [lb.callbacks.MixedPrecision("fp16"), look, lb.callbacks.GradientClip(100.0)]
    lb.setup(Two(), nn.MSELoss()).set_opt_hparams(lr=0.01).fit(
        [x, x], epochs=3, valid_data=[x, x], callbacks=callbacks, verbose=False
    )
    assert norms
    assert max(norms) < 100
    assert dtypes == {(part, torch.float16) for part in ("a", "b", "valid")}


def scripted(values: list[float]) -> type[nn.Module]:
    """A model whose weight is the epoch, and whose loss is the next of these values."""

    class Scripted(Scale):
        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.fill_(self.ctx.epoch)
            return 0 * pred.mean() + values[self.ctx.epoch - 1]

    return Scripted


def killed(*callbacks: lb.Callback, epoch: int, **options: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        small_fit(*callbacks, at("on_epoch_begin", lambda ctx: 1 // 0, epoch), **options)


def test_08_patience_and_the_best_value_are_not_lost_when_a_fit_is_resumed(tmp_path: Path) -> None:
    """Patience and best value begin anew when a fit is resumed."""

    module, path = scripted([1, 2, 3, 4, 5, 6]), tmp_path / "state"

    def callbacks() -> list[lb.Callback]:
        return [AutoResume(path), EarlyStopping(patience=3)]

    killed(module, *callbacks(), epoch=3, data=numbered(1), epochs=6)
    fitted = small_fit(module, *callbacks(), data=numbered(1), epochs=6)
    assert len(fitted.records["metrics"]["train"]) == 4
    assert "the best is 1.0000 of epoch 1" in str(fitted.stop_reason)


def test_08_keeping_the_best_needs_no_file_that_was_never_written(tmp_path: Path) -> None:
    """Keep-best loads a file that was never written."""

    module, path = scripted([1, 2, 3]), tmp_path / "state"
    options: dict[str, Any] = {"data": numbered(1), "epochs": 3}
    killed(module, AutoResume(path), KeepBestModel(), epoch=3, **options)
    assert [each.name for each in tmp_path.iterdir()] == ["state"]
    fitted: Any = small_fit(module, AutoResume(path), KeepBestModel(), **options)
    assert round(fitted.model.weight.item()) == 1
    assert list(tmp_path.iterdir()) == []


def test_08_a_checkpoint_knows_its_best_value_when_a_fit_is_resumed(tmp_path: Path) -> None:
    """The best value of a checkpoint begins anew when a fit is resumed."""

    path = tmp_path / "state"

    def callbacks() -> list[lb.Callback]:
        return [AutoResume(path), ModelCheckpoint(f"{tmp_path}/best/", save_best_only=True)]

    module = scripted([2, 3, 2.5, 1])
    killed(module, *callbacks(), epoch=3, data=numbered(1), epochs=4)
    small_fit(module, *callbacks(), data=numbered(1), epochs=4)
    assert sorted(each.name[:8] for each in (tmp_path / "best").iterdir()) == [
        "epoch-01",
        "epoch-04",
    ]


def test_09_states_go_by_name_and_not_by_position(tmp_path: Path) -> None:
    """Each callback gets the state of the one that had its place."""

    class Counts(lb.Callback):
        count = 0

        def on_epoch_end(self, ctx: Any) -> None:
            self.count += 1

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.count = state["count"]

    class Other(Counts):
        count = 100

    path = tmp_path / "state"
    killed(Scale, Other(), Counts(), AutoResume(path), epoch=3, epochs=3)
    counts, other = Counts(), Other()
    between = lb.on("on_epoch_end")(lambda ctx: None)
    small_fit(Scale, AutoResume(path), counts, between, other, epochs=3)
    assert (counts.count, other.count) == (3, 103)


def test_10_epoch_100_comes_after_epoch_99(tmp_path: Path) -> None:
    """The newest checkpoint is looked for by name."""

    small_fit(Scale, ModelCheckpoint(f"{tmp_path}/epoch-{{epoch:02d}}"), epochs=100)
    for path in tmp_path.iterdir():
        if path.name not in ("epoch-99", "epoch-100"):
            path.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-100", "epoch-99"]
    epochs: list[int] = []
    seen = lb.on("on_epoch_begin", weight=math.inf)(lambda ctx: epochs.append(ctx.epoch))
    small_fit(Scale, ResumeFromCheckpoint(tmp_path), seen, epochs=102)
    assert epochs == [101, 102]


def test_10_a_fit_goes_on_at_the_next_epoch_and_not_at_the_first(tmp_path: Path) -> None:
    """A fit that goes on from a checkpoint counts from epoch 1 again."""

    small_fit(Scale, ModelCheckpoint(tmp_path / "a"), epochs=3)
    epochs: list[int] = []
    seen = lb.on("on_epoch_begin")(lambda ctx: epochs.append(ctx.epoch))
    fitted = small_fit(Scale, ResumeFromCheckpoint(tmp_path / "a"), seen, epochs=5)
    assert epochs == [4, 5]
    assert [bool(each) for each in fitted.records["metrics"]["train"]] == [False] * 3 + [True] * 2


def test_11_lr_finder_changes_the_rate_of_one_optimizer_and_no_other_option() -> None:
    """lr_finder replaces every optimizer option and knows one optimizer only."""
    options: list[dict[str, Any]] = []

    class Two(Pair):
        def set_optimizers(self, lr: float = 0.1) -> dict[str, torch.optim.Optimizer]:
            return {
                name: torch.optim.SGD(getattr(self, name).parameters(), lr, momentum=0.5)
                for name in "ab"
            }

        def forward(self, x: Tensor) -> Tensor:
            groups = {name: o.param_groups[0] for name, o in self.ctx.optimizers.items()}
            options.append({k: (g["lr"], g["momentum"]) for k, g in groups.items()})
            return super().forward(x)

    x = torch.ones(32, 1)
    lb.setup(Two, nn.MSELoss()).lr_finder([x, x], steps=5, opt_name="b", verbose=False)
    assert {each["a"] for each in options} == {(0.1, 0.5)}
    assert {momentum for each in options for momentum in [each["b"][1]]} == {0.5}
    assert len({each["b"][0] for each in options}) == 5


@pytest.mark.parametrize("what", ["predict", "evaluate"])
def test_12_an_interrupt_is_seen_in_predict_and_evaluate_too(what: str) -> None:
    """Interrupts work in `fit` only."""
    seen: list[str] = []
    kind = "predict" if what == "predict" else "valid"
    press = at(f"on_{kind}_batch_begin", lambda ctx: signal.raise_signal(signal.SIGINT))

    @lb.on("on_interrupt")
    def look(ctx: Any) -> None:
        seen.append(ctx.place)

    fitted = fit(net(), rows())
    with pytest.raises(KeyboardInterrupt):
        getattr(fitted, what)(rows(), callbacks=[press, look], verbose=False)
    assert len(seen) == 1


def test_13_the_loss_is_a_mean_over_samples() -> None:
    """The loss is the mean of batch means, so a short last batch counts too much."""
    x, y = rows(5)
    fitted = fit(net(), [x, y])
    evaluation = fitted.evaluate(DataLoader(TensorDataset(x, y), batch_size=4), verbose=False)
    with torch.no_grad():
        expected = nn.functional.mse_loss(fitted.model(x), y).item()
    assert evaluation.metrics["loss"] == pytest.approx(expected, rel=1e-6)


def test_14_evaluate_builds_no_optimizer() -> None:
    """`evaluate` has to build optimizers to learn their names."""
    built: list[int] = []

    class Counting(Pair):
        def set_optimizers(self, lr: float = 0.1) -> dict[str, torch.optim.Optimizer]:
            built.append(1)
            return super().set_optimizers(lr)

    x = torch.ones(4, 1)
    fitted = lb.setup(Counting, nn.MSELoss()).fit([x, x], epochs=1, verbose=False)
    assert len(built) == 1
    evaluation = fitted.evaluate([x, x], verbose=False)
    assert set(evaluation.metrics) == {"loss_a", "loss_b"}
    assert len(built) == 1


def test_15_a_hook_that_does_not_exist_is_refused() -> None:
    """A hook that does not exist (`on_batch_end`) is accepted and never called."""

    class Wrong(lb.Callback):
        def on_batch_end(self, ctx: Any) -> None: ...

    with pytest.raises(
        lb.errors.HookError, match=r"Wrong.on_batch_end is no breakpoint .* Did you"
    ):
        fit(net(), rows(), Wrong())
