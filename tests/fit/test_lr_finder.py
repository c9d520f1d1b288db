"""lr_finder: the sweep of a loop by hand, over a copy; what is suggested, and what is refused."""

import copy
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import lumbre as lb
from lumbre.errors import ArgumentError, ArgumentTypeError, ContextError, DataError
from runs import Pair, Scale, numbered

SGD = torch.optim.SGD


class Net(nn.Sequential):
    """With dropout and running statistics: random numbers and buffers."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
        )


def data() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(40, 3, generator=generator)
    return [x, x.sum(1, keepdim=True)]


def loader(**options: Any) -> torch.utils.data.DataLoader[Any]:
    dataset = torch.utils.data.TensorDataset(*data())
    return torch.utils.data.DataLoader(dataset, batch_size=8, **options)


def ready(module: Any = Net, optimizer: Any = SGD, **opt_hparams: Any) -> Any:
    return lb.setup(module, nn.MSELoss(), optimizer).set_opt_hparams(**opt_hparams)


def find(trainable: Any = None, given: Any = None, **options: Any) -> lb.LRRecords:
    options = {"verbose": False, "steps": 12, "start_lr": 1e-4, "end_lr": 1e-2, **options}
    return (trainable or ready()).lr_finder(loader() if given is None else given, **options)


def walked(loader: Any, count: int) -> Iterator[Any]:
    while True:
        for batch in loader:
            yield batch
            count -= 1
            if not count:
                return


def by_hand(rates: list[float], momentum: float = 0.0, weight_decay: float = 0.0) -> list[float]:
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=weight_decay)
    losses = []
    for rate, (x, y) in zip(rates, walked(loader(), len(rates)), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("steps", [2, 5, 12])
def test_losses_are_those_of_a_loop_by_hand_also_where_the_data_is_short(steps: int) -> None:
    records = find(steps=steps)
    assert len(records.lr) == steps
    assert records.stop_reason is None
    torch.manual_seed(0)
    assert records.loss == by_hand(records.lr)


def test_only_the_rate_is_replaced() -> None:
    options = {"momentum": 0.9, "weight_decay": 0.1}
    records = find(ready(lr=0.5, **options))
    torch.manual_seed(0)
    assert records.loss == by_hand(records.lr, **options)
    torch.manual_seed(0)
    assert records.loss != by_hand(records.lr)


def test_rates_rise_by_a_factor_or_by_equal_steps_from_the_first_to_the_last() -> None:
    by_factor = find(scripted([1.0] * 5), numbered(2), steps=5, start_lr=1e-4, end_lr=1.0).lr
    assert by_factor == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    by_steps = find(
        scripted([1.0] * 5), numbered(2), steps=5, start_lr=1, end_lr=3, log_spaced_intervals=False
    ).lr
    assert by_steps == [1.0, 1.5, 2.0, 2.5, 3.0]
    assert (by_factor[0], by_factor[-1]) == (1e-4, 1.0)


class Rates(SGD):
    """Writes down the rate of each group at each step."""

    seen: list[list[float]]

    def step(self, closure: Any = None) -> Any:
        self.seen.append([float(group["lr"]) for group in self.param_groups])
        return super().step(closure)


def rates_of(groups: Any, **options: Any) -> list[list[float]]:
    class Seen(Rates):
        seen: list[list[float]] = []  # noqa: RUF012

    def make(params: Any) -> Any:
        first, second = list(params)[:2]
        return Seen([{"params": [first], **groups[0]}, {"params": [second], **groups[1]}], lr=0.1)

    find(ready(optimizer=make), steps=3, start_lr=1, end_lr=4, **options)
    return Seen.seen


def test_groups_keep_the_ratio_of_their_rates_to_that_of_the_optimizer() -> None:
    assert rates_of([{}, {}]) == [[1, 1], [2, 2], [4, 4]]
    assert rates_of([{"lr": 0.05}, {}]) == [[0.5, 1], [1, 2], [2, 4]]
    assert rates_of([{"lr": 0.5}, {"lr": 0.25}]) == [[1, 0.5], [2, 1], [4, 2]]
    assert rates_of([{"lr": 0.0}, {"lr": 0.0}]) == [[1, 1], [2, 2], [4, 4]]


def test_a_rate_that_is_a_tensor_stays_one() -> None:
    rate = torch.tensor(0.5)
    records = find(ready(lr=rate, foreach=False, weight_decay=0.1))
    assert rate == 0.5
    torch.manual_seed(0)
    assert records.loss == pytest.approx(by_hand(records.lr, weight_decay=0.1), rel=1e-4)


def test_of_several_optimizers_the_named_one_is_swept_and_the_others_keep_their_rates() -> None:
    class Seen(Rates):
        seen: list[list[float]] = []  # noqa: RUF012

    class Two(Pair):
        def set_optimizers(self, lr: float = 0.1) -> dict[str, torch.optim.Optimizer]:
            return {name: Seen(getattr(self, name).parameters(), lr) for name in "ab"}

        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            return pred.mean() * (1 if self.ctx.opt_name == "a" else 0)

    records = find(lb.setup(Two), numbered(2), opt_name="b", steps=3, start_lr=1, end_lr=4)
    assert Seen.seen == [[0.1], [1.0], [0.1], [2.0], [0.1], [4.0]]
    assert records.loss == [0.0, 0.0, 0.0]


def test_a_step_of_the_modules_own_is_taken() -> None:
    class Own(Scale):
        def step(self, ctx: Any) -> None:
            ctx.backward(self.weight.square())
            ctx.loss = self.weight.square()
            ctx.step_optimizer()

    records = find(lb.setup(Own, optimizer=SGD), numbered(2), steps=3, start_lr=0.1, end_lr=0.4)
    weight, expected = torch.ones(()), []
    for rate in records.lr:
        expected.append(float(weight.square()))
        weight = weight - rate * (2 * weight)
    assert records.loss == pytest.approx(expected)


def test_a_step_of_the_modules_own_has_to_set_the_loss() -> None:
    class Own(Pair):
        losses: Any = None

        def step(self, ctx: Any) -> None:
            if self.losses is not None:
                ctx.loss = self.losses

    with pytest.raises(ArgumentError, match=r'set no loss; expected.*ctx\.loss = \{"a": loss\}'):
        find(lb.setup(Own), numbered(2), opt_name="a")
    Own.losses = {"c": torch.zeros(()), "d": torch.ones(())}
    with pytest.raises(ContextError, match="the optimizers: 'a', 'b'; it was"):
        find(lb.setup(Own), numbered(2), opt_name="a")


def test_it_ends_when_a_step_asks_for_it_or_skips_for_ever() -> None:
    class Own(Scale):
        def step(self, ctx: Any) -> None:
            ctx.loss = self.weight
            if ctx.step_count == 3:
                ctx.stop("enough")

    records = find(lb.setup(Own, optimizer=SGD), numbered(2))
    assert len(records.lr) == 3
    assert str(records.stop_reason).endswith("enough")

    class Skips(Scale):
        def step(self, ctx: Any) -> None:
            ctx.loss = self.weight
            ctx.skip_batch()

    records = find(lb.setup(Skips, optimizer=SGD), numbered(2))
    assert records.lr == []
    assert "12 batches were skipped" in str(records.stop_reason)
    assert repr(records) == "LRRecords: no steps"


def test_ctrl_c_gives_what_there_is() -> None:
    class Own(Scale):
        def step(self, ctx: Any) -> None:
            ctx.loss = self.weight
            if ctx.step_count == 3:
                raise KeyboardInterrupt

    assert len(find(lb.setup(Own, optimizer=SGD), numbered(2)).lr) == 2


# -- what ends it --------------------------------------------------------------------------------


def scripted(losses: list[float]) -> lb.Trainable:
    class Scripted(Scale):
        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            return 0 * pred.mean() + losses[self.ctx.step_count - 1]

    return lb.setup(Scripted, optimizer=SGD)


@pytest.mark.parametrize(
    ("losses", "count"),
    [
        ([1.0] * 10, 10),
        ([2.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0], 10),
        ([1.0, 1.0, 1.0, 1.0, 40.0, 1.0, 1.0, 1.0, 1.0, 1.0], 5),
        ([1.0, 1.0, 1.0, 1.0, 10.0, 10.0, 10.0, 1.0, 1.0, 1.0], 6),
        ([-1.0, -2.0, -2.0, -1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0], 10),
        ([-1.0, -2.0, -2.0, 30.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0], 4),
        ([0.0] * 10, 10),
    ],
)
def test_it_ends_when_the_loss_has_exploded(losses: list[float], count: int) -> None:
    records = find(scripted(losses), numbered(3), steps=10)
    assert records.loss == losses[:count]
    if count < 10:
        assert records.stop_reason == f"the loss has exploded at lr {records.lr[-1]:.3g}"
        assert f"stopped  after {count} of 10: the loss has exploded" in repr(records)
    else:
        assert records.stop_reason is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_it_without_a_warning(bad: float) -> None:
    records = find(scripted([3.0, 2.0, bad, 1.0]), numbered(3), steps=4)
    assert records.loss[:2] == [3.0, 2.0]
    assert len(records.loss) == 3
    assert records.stop_reason == f"the loss is {bad} at lr {records.lr[-1]:.3g}"
    assert records.smoothed() == pytest.approx([3.0, (0.98 * 3 + 2) / 1.98])


# -- nothing of the caller's changes -------------------------------------------------------------


def state_of(module: nn.Module) -> dict[str, Any]:
    state = {name: value.clone() for name, value in module.state_dict().items()}
    modes = {name: each.training for name, each in module.named_modules()}
    grads = {name: p.grad is not None and p.grad.clone() for name, p in module.named_parameters()}
    return {"state": state, "modes": modes, "grads": grads, "names": set(vars(module))}


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return torch.equal(first, second) if isinstance(first, Tensor) else bool(first == second)


def test_the_callers_module_and_optimizer_stay_as_they_are() -> None:
    model = Net()
    model[0].eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    model(data()[0]).sum().backward()
    optimizer.step()
    before = copy.deepcopy((state_of(model), optimizer.state_dict()))
    trainable = lb.setup(model, nn.MSELoss(), optimizer)
    records = find(trainable, end_lr=1.0)
    assert len(set(records.loss)) == 12
    assert equal((state_of(model), optimizer.state_dict()), before)
    assert trainable.module is model
    assert trainable.optimizer is optimizer


def test_gradients_that_were_left_over_are_not_stepped() -> None:
    model = Scale()
    optimizer = SGD(model.parameters(), lr=0.1)
    model.weight.square().backward()
    trainable = lb.setup(model, lambda pred, target: pred.mean(), optimizer)
    assert find(trainable, numbered(2), steps=2, start_lr=1, end_lr=2).loss == [1.0, 0.0]
    assert model.weight.grad == 2.0


def test_the_optimizers_state_is_begun_with() -> None:
    """Momentum of the caller's optimizer belongs to the sweep, as it will to the fit."""
    model = Scale()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.weight.square().backward()
    optimizer.step()
    by_loss = lb.setup(model, lambda pred, target: pred.mean(), optimizer)
    found = find(by_loss, numbered(2), steps=2, start_lr=1, end_lr=2).loss
    assert found == pytest.approx([0.8, 0.8 - (0.9 * 2 + 1)])


@pytest.mark.filterwarnings("ignore:The loss Learned has parameters:lumbre.LumbreWarning")
def test_a_loss_with_weights_and_modules_among_hparams_stay_as_they_are() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, pred: Tensor, target: Tensor) -> Tensor:
            self.calls += 1
            return self.scale * (pred - target).square().mean()

    class Headed(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body
            self.head = nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    loss, body = Learned(), Net()
    before = copy.deepcopy((state_of(loss), state_of(body)))
    records = find(lb.setup(Headed, loss, SGD).set_hparams(body=body).set_opt_hparams(lr=1.0))
    assert len(set(records.loss)) == 12
    assert loss.calls == 0
    assert equal((state_of(loss), state_of(body)), before)


def test_random_numbers_go_on_as_if_nothing_had_been() -> None:
    def drawn() -> list[Any]:
        return [torch.rand(3), np.random.rand(3).tolist(), random.random()]  # noqa: S311

    class Noisy(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + random.random() + np.random.rand()  # noqa: S311

    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = drawn()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    find(ready(Noisy), data())
    assert equal(drawn(), expected)
    with pytest.raises(ArgumentError):
        find(ready(lambda: (torch.rand(1), Noisy())[1]), data(), opt_name="no")
    torch.set_rng_state(states[0])
    assert torch.equal(torch.rand(3), expected[0])


class Shuffled(torch.utils.data.Sampler[int]):
    """Draws its order from a generator of numpy's, of either kind, and one of Python's."""

    def __init__(self) -> None:
        self.new, self.old = np.random.default_rng(1), np.random.RandomState(2)
        self.python = random.Random(3)  # noqa: S311

    def __iter__(self) -> Iterator[int]:
        order = self.old.permutation(self.new.permutation(40)).tolist()
        self.python.shuffle(order)
        return iter(order)

    def __len__(self) -> int:
        return 40


def orders(given: Any) -> list[Tensor]:
    return [batch[0] for batch in given]


@pytest.mark.parametrize("kind", ["generator", "sampler", "batch_sampler", "in memory"])
def test_the_order_of_the_callers_loader_goes_on_as_if_nothing_had_been(kind: str) -> None:
    def make() -> Any:
        generator = torch.Generator().manual_seed(7)
        dataset = torch.utils.data.TensorDataset(*data())
        if kind == "generator":
            return loader(shuffle=True, generator=generator)
        if kind == "sampler":
            return loader(sampler=Shuffled())
        if kind == "batch_sampler":
            batches = torch.utils.data.BatchSampler(Shuffled(), 8, drop_last=False)
            return torch.utils.data.DataLoader(dataset, batch_sampler=batches)
        return lb.as_dataloader(data(), shuffle=True, generator=generator)

    used, fresh = make(), make()
    find(given=used, steps=7)
    first = orders(used)
    assert equal(first, orders(fresh))
    assert not equal(first, orders(used))


def test_what_cannot_be_copied_says_what_to_pass() -> None:
    class Stuck(Scale):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("stuck")

    with pytest.raises(TypeError, match="stuck") as info:
        find(lb.setup(Stuck(), optimizer=SGD), numbered(2))
    assert "Pass the class of the module" in info.value.__notes__[0]
    assert len(find(lb.setup(Stuck, optimizer=SGD), numbered(2)).lr) == 12


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 1}, "steps is a whole number from 2; got 1"),
        ({"steps": 2.5}, "got 2.5"),
        ({"steps": True}, "got True"),
        ({"start_lr": 0}, "start_lr is a number above 0; got 0"),
        ({"start_lr": math.nan}, "start_lr is a number above 0; got nan"),
        ({"end_lr": math.inf}, "end_lr is a number above 0; got inf"),
        ({"end_lr": "1"}, "end_lr is a number above 0; got '1'"),
        ({"start_lr": 0.1, "end_lr": 0.1}, "the rates rise from start_lr to end_lr; got"),
        ({"opt_name": "adam"}, "there is no optimizer 'adam'; there are 'opt'."),
        ({"opt_name": "op"}, 'Did you mean "opt"?'),
        ({"opt_name": 3}, "there is no optimizer 3"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError) as info:
        find(**options)
    assert words in str(info.value)


def test_several_optimizers_ask_for_a_name() -> None:
    with pytest.raises(ArgumentError, match=r'optimizers a, b; say .* opt_name="a"'):
        find(lb.setup(Pair, nn.MSELoss()), numbered(2))


def test_without_optimizers_there_is_no_rate() -> None:
    class Own(nn.Module):
        def step(self, ctx: Any) -> None: ...

    class NoRate(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

    with pytest.raises(ArgumentError, match="Let it define set_optimizers"):
        find(lb.setup(Own), numbered(2))
    with pytest.raises(ArgumentTypeError, match="NoRate has no option lr"):
        find(ready(optimizer=NoRate), numbered(2))


def test_data_that_is_spent_says_so() -> None:
    class Once(torch.utils.data.IterableDataset[Any]):
        def __init__(self) -> None:
            self.rows = iter([(torch.ones(1), torch.ones(1))] * 3)

        def __iter__(self) -> Iterator[Any]:
            return self.rows

    with pytest.raises(DataError, match="the training data gave no batch"):
        find(lb.setup(Scale, optimizer=SGD), Once(), dataloader_options={"batch_size": 1})


def test_a_loader_has_no_options_and_data_has() -> None:
    with pytest.raises(ArgumentError, match="do not apply"):
        find(dataloader_options={"batch_size": 4})
    assert len(find(given=data(), dataloader_options={"batch_size": 40}).loss) == 12


def test_a_step_of_ones_own_sees_the_loader() -> None:
    seen = []

    class Own(Scale):
        def step(self, ctx: Any) -> None:
            ctx.loss = self.weight
            seen.append((len(ctx.data.dataset), len(ctx.data)))

    find(lb.setup(Own, optimizer=SGD), numbered(2), steps=3)
    assert seen == [(2, 3)] * 3


def test_a_verbose_sweep_shows_what_a_fit_shows(capsys: pytest.CaptureFixture[str]) -> None:
    find(verbose=True)
    assert "epoch 1/1 · train loss" in capsys.readouterr().out
    find(verbose=False)
    assert capsys.readouterr().out == ""


# -- records -------------------------------------------------------------------------------------


def bowl(count: int = 100) -> lb.LRRecords:
    """A loss that is flat, falls, and explodes."""
    rates = [1e-6 * 10 ** (6 * i / (count - 1)) for i in range(count)]
    at = [math.log10(rate) for rate in rates]
    return lb.LRRecords(rates, [2 - math.tanh(2 * (x + 3)) + 10 ** (3 * x) for x in at], count)


def valley_of_fastai(losses: list[float]) -> int:
    """Its loops over all pairs, as they are described there."""
    longest = [1] * len(losses)
    start = end = 0
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and longest[i] < longest[j] + 1:
                longest[i] = longest[j] + 1
            if longest[end] < longest[i]:
                end, start = i, i - longest[i]
    third = (end - start) / 3
    return start + int(third) + int(third / 2)


@pytest.mark.parametrize("seed", range(20))
def test_the_valley_is_that_of_fastai(seed: int) -> None:
    generator = np.random.default_rng(seed)
    records = bowl()
    records.loss = [loss + 0.3 * generator.normal() for loss in records.loss]
    rates, losses = records.lr[10:-5], records.smoothed()[10:-5]
    assert records.suggestion() == rates[valley_of_fastai(losses)]


def test_the_smoothed_loss_is_that_of_fastai() -> None:
    average, expected = 0.0, []
    for i, loss in enumerate(bowl().loss, 1):
        average = 0.98 * average + (1 - 0.98) * loss
        expected.append(average / (1 - 0.98**i))
    assert bowl().smoothed() == pytest.approx(expected, rel=1e-12)


def test_suggestions_lie_where_the_loss_falls() -> None:
    records = bowl()
    falling = [r for r in records.lr if 1e-5 < r < 1e-1]
    assert records.suggestion("valley") in falling
    steep = records.suggestion("steepest")
    assert 1e-3 < steep < 1e-1
    losses = records.smoothed()
    slopes = np.diff(losses) / np.diff(np.log(records.lr))
    assert steep == records.lr[10 + int(np.argmin(slopes[10:94]))]


def test_a_fall_after_an_explosion_is_no_steepest_one() -> None:
    records = bowl()
    records.loss[80:] = [50.0] * 8 + [0.5] * 12
    assert min(records.smoothed()[:80]) < records.smoothed()[-1]
    assert records.suggestion("steepest") < records.lr[80]


@pytest.mark.parametrize("method", ["valley", "steepest"])
def test_a_loss_that_never_falls_suggests_nothing_and_says_what_to_do(method: Any) -> None:
    records = lb.LRRecords([10.0**-i for i in range(20, 0, -1)], [*map(float, range(20))], 20)
    with pytest.raises(ArgumentError, match=r"falls nowhere between lr .*start_lr=1e-20"):
        records.suggestion(method)
    assert "suggestion" not in repr(records)


def test_too_few_losses_suggest_nothing_and_say_what_to_do() -> None:
    few = lb.LRRecords([0.1, 0.2, 0.3], [3.0, 2.0, 1.0], 3)
    with pytest.raises(ArgumentError, match=r"3 finite losses are too few.*steps=100"):
        few.suggestion()
    exploded = lb.LRRecords([0.1, 0.2], [3.0, math.nan], 100, "the loss is nan at lr 0.2")
    with pytest.raises(ArgumentError, match=r"1 finite losses.*nan at lr 0.2. .*start_lr=1e-03"):
        exploded.suggestion()
    with pytest.raises(ArgumentError, match="0 finite losses"):
        lb.LRRecords([], [], 100).suggestion()


def test_losses_from_the_first_that_is_not_finite_on_are_left_out() -> None:
    whole, cut = bowl(), bowl()
    cut.loss[90:] = [math.nan] * 10
    assert cut.smoothed() == whole.smoothed()[:90]
    assert cut.suggestion() in whole.lr[:90]


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ArgumentError, match='"valley" or "steepest"; got \'minimum\''):
        bowl().suggestion("minimum")  # type: ignore[arg-type]


def test_the_frame_has_rates_and_losses() -> None:
    records = bowl(10)
    expected = pd.DataFrame({"lr": records.lr, "loss": records.loss})
    pd.testing.assert_frame_equal(records.to_pandas(), expected)


def test_it_shows_itself() -> None:
    lines = repr(bowl()).splitlines()
    assert lines[0] == "LRRecords: 100 steps from lr 1e-06 to 1"
    assert lines[1].startswith("  loss  3.0000 at first, 1.")
    assert lines[2] == f"  suggestion  lr {bowl().suggestion():.3g} (valley)"


def test_the_plot_has_a_log_axis_and_marks_the_suggestion(tmp_path: Path) -> None:
    figure = bowl().plot()
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["loss", "smoothed", f"suggestion {bowl().suggestion():.2g}"]
    assert axis.get_lines()[0].get_xdata().tolist() == bowl().lr
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize("losses", [[], [math.nan], [1.0], [1.0, 1.0, math.inf]])
def test_what_suggests_nothing_is_plotted_too(losses: list[float], tmp_path: Path) -> None:
    records = lb.LRRecords([0.1, 0.2, 0.3][: len(losses)], losses, 3)
    figure = records.plot()
    figure.savefig(tmp_path / "plot.png")
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["loss", "smoothed"]


def test_log_spaced_intervals_is_a_flag() -> None:
    intervals: Any = "no"
    with pytest.raises(ArgumentTypeError, match="lr_finder: log_spaced_intervals is True or False"):
        find(scripted([1.0]), numbered(1), log_spaced_intervals=intervals)
