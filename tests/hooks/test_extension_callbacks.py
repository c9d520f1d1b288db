"""The three useful callbacks of the test extension, held against torch and against arithmetic."""

import contextlib
import json
import math
import statistics
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import lumbre as lb
from forge import ext
from lumbre.errors import ExtensionError
from runs import Scale, at, fit, notes, numbered


def with_losses(*losses: float) -> torch.utils.data.DataLoader[Any]:
    """A loader whose batches have these losses."""
    rows = [(torch.ones(1), torch.tensor([loss], dtype=torch.float64)) for loss in losses]
    return torch.utils.data.DataLoader(rows, batch_size=1)


# --- LossSpike ----------------------------------------------------------------------------------


def by_hand(losses: list[float], factor: float, window: int) -> list[bool]:
    """Which of the losses are spikes."""
    seen: list[float] = []
    spikes = []
    for loss in losses:
        full = len(seen) >= window
        spike = not math.isfinite(loss) or (
            full and loss > factor * statistics.median(seen[-window:])
        )
        spikes.append(spike)
        if not spike:
            seen.append(loss)
    return spikes


@given(
    st.lists(st.sampled_from([0.5, 1.0, 1.25, 2.0, 3.0, 9.0, 50.0]), min_size=1, max_size=25),
    st.integers(1, 6),
    st.integers(0, 30),
)
def test_batches_with_a_spike_are_left_out(losses: list[float], window: int, cut: int) -> None:
    """The same ones as by hand, and the same when the state goes through a checkpoint midway."""
    spikes = by_hand(losses, 2.0, window)
    spike = ext.LossSpike(2.0, window, "skip")
    stepped: list[int] = []
    step = lb.on("on_train_batch_after_step")(lambda ctx: stepped.append(ctx.step_count))
    fit(Scale, spike, step, data=with_losses(*losses), valid_data=None, epochs=1)
    kept = [at for at, spike in enumerate(spikes, 1) if not spike]
    assert stepped == kept
    state = spike.state_dict()
    assert (
        state
        == [loss for loss, left_out in zip(losses, spikes, strict=True) if not left_out][-window:]
    )

    first, rest = losses[:cut], losses[cut:]
    stepped.clear()
    if first and rest:
        before = ext.LossSpike(2.0, window, "skip")
        fit(Scale, before, data=with_losses(*first), valid_data=None, epochs=1)
        after = ext.LossSpike(2.0, window, "skip")
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        fit(Scale, after, step, data=with_losses(*rest), valid_data=None, epochs=1)
        assert [cut + at for at in stepped] == [at for at in kept if at > cut]
        assert after.state_dict() == state


def test_it_stops_before_the_step_is_taken() -> None:
    weights = []
    see = lb.on("on_train_batch_end")(lambda ctx: weights.append(ctx.model.weight.item()))
    spike = ext.LossSpike(factor=3, window=2)
    fitted = fit(Scale, spike, see, data=with_losses(1, 2, 4, 100, 1), epochs=3)
    assert fitted.stop_reason == "LossSpike: the loss is 100, where the median is 3"
    record = fitted.records["metrics"]["train"][0]
    assert record == {"loss": (1 + 2 + 4) / 3, "spike_ratio": 100 / 3}
    assert len(weights) == 4


def test_a_loss_that_is_not_finite_is_a_spike() -> None:
    spike = ext.LossSpike(window=1, action="skip")
    fitted = fit(Scale, spike, data=with_losses(1, math.nan, math.inf, 1.5), epochs=1)
    assert fitted.records["metrics"]["train"] == [{"loss": 1.25, "spike_ratio": 1.5}]


# --- Throughput ---------------------------------------------------------------------------------


def test_rates_are_logged() -> None:
    rows = [(torch.ones(1), torch.ones(1))] * 10
    loader = torch.utils.data.DataLoader(rows, batch_size=4)
    fitted = fit(Scale, ext.Throughput(), data=loader)
    records = fitted.records["metrics"]["train"]
    assert len(records) == 2
    for record in records:
        samples, batches = record["samples_per_second"], record["batches_per_second"]
        assert batches > 0
        assert samples / batches == pytest.approx(10 / 3)


def test_lines_of_json_are_all_there_when_the_fit_is_over(tmp_path: Path) -> None:
    path = tmp_path / "rates.jsonl"
    path.write_text("what an earlier run wrote\n")
    fit(Scale, ext.Throughput(path, every=2), data=numbered(5))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    told = [[line[name] for name in ("after", "epoch", "step", "batches")] for line in lines]
    assert told == [
        ["batch", 1, 2, 2],
        ["batch", 1, 4, 4],
        ["pass", 1, 5, 5],
        ["batch", 2, 7, 2],
        ["batch", 2, 9, 4],
        ["pass", 2, 10, 5],
    ]
    for line in lines:
        assert line["samples"] == line["batches"]
        assert line["samples_per_second"] == line["batches_per_second"] > 0


@pytest.mark.parametrize("path", ["/no/such/folder/rates.jsonl", "."])
def test_a_file_that_cannot_be_written_ends_the_fit_when_it_begins(path: str) -> None:
    with pytest.raises(ExtensionError, match=r"^Throughput cannot write to ") as caught:
        fit(Scale, ext.Throughput(path))
    assert path in str(caught.value)
    assert notes(caught.value) == ["in Throughput.on_fit_begin: before the first epoch"]


def writers(expected: int) -> int:
    """How many threads of Throughput there are, when that has become what is expected.

    A thread gives itself its name, shortly after it has begun; and its entry here goes shortly
    after it has been waited for. One that stays away, or on, is not waited for without end.
    """
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("there is no /proc here, to ask for threads that Python did not start")
    count = -1
    for _ in range(3000):
        names = []
        for task in tasks.iterdir():
            with contextlib.suppress(OSError):
                names.append((task / "comm").read_text().strip())
        count = names.count("Throughput")
        if count == expected:
            break
        time.sleep(0.01)
    return count


@pytest.mark.parametrize("end", ["well", "stop", "exception", "Ctrl-C"])
def test_the_thread_has_ended_when_the_fit_has(end: str, tmp_path: Path) -> None:
    path = tmp_path / "rates.jsonl"
    during = []

    def act(ctx: Any) -> None:
        during.append(writers(1))
        if end == "stop":
            ctx.stop("enough")
        if end == "exception":
            raise ZeroDivisionError
        if end == "Ctrl-C":
            raise KeyboardInterrupt

    throughput = ext.Throughput(path, every=1)
    try:
        fit(Scale, throughput, at("on_epoch_end", act), data=numbered(3))
    except ZeroDivisionError:
        assert end == "exception"
    assert during == [1]
    assert writers(0) == 0
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps[:4] == [1, 2, 3, 3]


# --- InputStats ---------------------------------------------------------------------------------


class Blind(torch.nn.Module):
    """Answers whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * 1

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return pred.mean()


def stats_of(*inputs: Tensor) -> dict[str, float]:
    rows = [(x, torch.ones(1)) for x in inputs]
    loader = torch.utils.data.DataLoader(rows, batch_size=None)  # type: ignore[arg-type]
    fitted = fit(Blind, ext.InputStats(), data=loader, valid_data=None, epochs=2)
    first, second = (
        {name: record[f"input_{name}"] for name in ("mean", "var", "nans")}
        for record in fitted.records["metrics"]["train"]
    )
    assert repr(first) == repr(second), "an epoch begins anew"
    return first


def by_torch(*inputs: Tensor) -> dict[str, float]:
    whole = torch.cat([x.double().flatten() for x in inputs])
    numbers = whole[~whole.isnan()]
    var, mean = torch.var_mean(numbers)
    nans = whole.isnan().sum()
    return {"mean": mean.item(), "var": var.item(), "nans": nans.item()}


def assert_alike(*inputs: Tensor) -> None:
    ours, theirs = stats_of(*inputs), by_torch(*inputs)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-12, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 2), (7, 31), (4, 256), (1025, 3), (2, 3, 5, 7)])
def test_moments_are_those_of_torch(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, y = torch.randn(2, *shape).to(dtype)
    y = 3 * y + 5
    assert_alike(x, y)
    assert_alike(x.transpose(0, 1), y[::2])
    x[0, ::2] = math.nan
    assert_alike(x, y)
    assert_alike(x.transpose(0, 1), y[::2])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int64])
def test_moments_of_integers(dtype: torch.dtype) -> None:
    assert_alike(torch.randint(0, 2, (3, 700)).to(dtype), torch.ones(1, dtype=dtype))


def test_moments_far_from_zero() -> None:
    x = 1e7 + torch.rand(3000, dtype=torch.float64)
    # Fractions are exact; torch.var is not, so far out.
    exact = statistics.variance([Fraction(value) for value in x.tolist()])
    assert stats_of(x)["var"] == pytest.approx(float(exact), rel=1e-9)
    # Values close to the type's limits do not overflow when they are squared.
    assert_alike(torch.full((2000,), 3e38), torch.full((5,), -3e38))


def test_what_has_no_moments() -> None:
    one = stats_of(torch.tensor([2.5]))
    assert (one["mean"], one["nans"]) == (2.5, 0)
    assert math.isnan(one["var"])
    nothing = stats_of(torch.tensor([math.nan, math.nan]), torch.ones(0, 3))
    assert math.isnan(nothing["mean"])
    assert math.isnan(nothing["var"])
    assert nothing["nans"] == 2
    infinite = stats_of(torch.tensor([1.0, math.inf, 2.0]))
    assert infinite["mean"] == math.inf
    assert math.isnan(infinite["var"])


def test_no_torch_operation_is_needed_for_them() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        ops = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            Count.ops += 1
            return func(*args, **(kwargs or {}))

    def ops(*callbacks: Any) -> int:
        Count.ops = 0
        with Count():
            fit(Scale, *callbacks, data=data, valid_data=None, epochs=3)
        return Count.ops

    data = [(torch.ones(64, 8), torch.ones(64, 1))]
    data = torch.utils.data.DataLoader(data, batch_size=None)
    without = ops()
    assert without > 0
    assert ops(ext.InputStats()) == without


# --- Means --------------------------------------------------------------------------------------


def test_a_mean_from_rust_is_that_of_the_loss() -> None:
    history = lb.callbacks.StepHistory()
    fitted = fit(Scale, ext.Means("mine"), history, data=with_losses(1.0, 2.5, 4.0))
    for set_ in ("train", "valid"):
        for entry in fitted.records["metrics"][set_]:
            assert entry["mine"] == entry["loss"]
    assert [entry["ends"] for entry in fitted.records["metrics"]["train"]] == [4.0, 4.0]
    assert fitted.get_steps()["mine"].tolist() == [1.0, 2.5, 4.0] * 2


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("loss", 'the run itself records "loss"'),
        ("", "a name is a text that is not empty"),
    ],
)
def test_what_no_mean_can_be_is_refused_in_rust_as_in_python(name: str, match: str) -> None:
    with pytest.raises(lb.LumbreError, match=match):
        fit(Scale, ext.Means(name))
