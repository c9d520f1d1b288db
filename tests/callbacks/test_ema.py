"""EMA: the averages of a loop by hand, in the model when it is looked at and not when it learns."""

import copy
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import lumbre as lb
from lumbre.callbacks import EMA
from lumbre.errors import ArgumentError
from runs import Pair, Scale, Trace, at, fit, numbered

DECAY = 0.9

# Most fits here are far too short for their average; one test is about the warning.
pytestmark = pytest.mark.filterwarnings("ignore:EMA. after")


class Net(nn.Module):
    """Weights, a frozen one, a tied one, running statistics."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(2, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 2)
        self.again = self.last
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x)))) + self.frozen


def data(seed: int = 1, count: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 2, generator=generator) for _ in "xy"]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def by_hand(epochs: int) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """The plain and the averaged weights at the end of each epoch, without lumbre."""
    model, loss_fn = Net(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    averages = weights(model)
    x, y = data()
    for _ in range(epochs):
        for xs, ys in zip(x.split(4), y.split(4), strict=True):
            loss_fn(model(xs), ys).backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    averages[name].lerp_(parameter, 1 - DECAY)
        yield weights(model), {name: average.clone() for name, average in averages.items()}


def run(*callbacks: Any, module: Any = Net, **options: Any) -> lb.Fitted:
    trainable = lb.setup(module, nn.MSELoss(), torch.optim.SGD)
    options = {"data": data(), "epochs": 3, "valid_data": data(2), "verbose": False, **options}
    options.setdefault("dataloader_options", {"batch_size": 4, "shuffle": False})
    return trainable.set_opt_hparams(lr=0.1, momentum=0.9).fit(callbacks=callbacks, **options)


class Weights(Trace):
    """The weights at some breakpoints, by their name."""

    weight = 1e8

    def __init__(self, *hooks: str) -> None:
        super().__init__(lambda hook, ctx: (hook, weights(ctx.model)))
        self.hooks = hooks

    def of(self, hook: str) -> list[dict[str, Tensor]]:
        return [seen for at, seen in self.events if at == hook]


@pytest.mark.parametrize("validates", [True, False])
def test_averages_are_those_of_a_loop_by_hand_where_it_is_looked_and_plain_ones_learn(
    validates: bool,
) -> None:
    seen = Weights()
    fitted = run(EMA(DECAY), seen, valid_data=data(2) if validates else None)
    plain, averaged = zip(*by_hand(3), strict=True)
    assert not same(plain[0], averaged[0])
    ends = {name: seen.of(name) for name in lb.HOOKS}
    for i in range(3):
        assert same(ends["on_train_batch_end"][3 * i + 2], plain[i])
        assert same(ends["on_train_end"][i], plain[i] if validates else averaged[i])
        if validates:
            assert same(ends["on_valid_begin"][i], averaged[i])
            assert same(ends["on_valid_end"][i], averaged[i])
        assert same(ends["on_epoch_end"][i], averaged[i])
        if i:
            assert same(ends["on_epoch_begin"][i], plain[i - 1])
    assert same(ends["on_fit_end"][0], averaged[2])
    assert same(weights(fitted.model), averaged[2])


def test_training_is_the_one_without_it() -> None:
    seen, bare = Weights(), Weights()
    run(EMA(DECAY), seen)
    run(bare)
    pairs = zip(seen.of("on_train_batch_end"), bare.of("on_train_batch_end"), strict=True)
    assert all(same(*pair) for pair in pairs)


def test_validation_measures_the_averaged_weights() -> None:
    fitted = run(EMA(DECAY), epochs=1)
    measured = fitted.evaluate(data(2), verbose=False).metrics
    assert fitted.records["metrics"]["valid"][0] == measured
    assert measured != run(epochs=1).records["metrics"]["valid"][0]


def test_buffers_are_the_models_own() -> None:
    averaged, bare = run(EMA(DECAY)).model, run().model
    assert len(dict(averaged.named_buffers())) == 3
    for name, buffer in averaged.named_buffers():
        assert torch.equal(buffer, bare.get_buffer(name))


def test_parameters_stay_the_same_objects_in_the_same_memory() -> None:
    model = Net()
    before = [(id(p), p.data_ptr()) for p in model.parameters()]
    run(EMA(DECAY), module=model)
    assert [(id(p), p.data_ptr()) for p in model.parameters()] == before
    assert model.again.weight is model.last.weight


def fail(ctx: Any) -> None:
    raise RuntimeError("no")


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_valid_batch_end", "on_epoch_end"])
def test_an_exception_leaves_the_plain_weights(hook: str) -> None:
    model, nth = Net(), 1 if hook == "on_epoch_end" else 3
    with pytest.raises(RuntimeError, match="no"):
        run(EMA(DECAY), at(hook, fail, nth=nth, weight=1e8), module=model, epochs=1)
    assert same(weights(model), next(by_hand(1))[0])


def test_an_exception_that_is_dealt_with_ends_in_the_averaged_weights() -> None:
    handle = at("on_fit_begin", lambda ctx: ctx.handlers.update({RuntimeError: lambda c, e: None}))
    fitted = run(EMA(DECAY), handle, at("on_valid_end", fail))
    assert same(weights(fitted.model), next(by_hand(1))[1])
    handle = at(
        "on_fit_begin", lambda ctx: ctx.epoch_handlers.update({RuntimeError: lambda c, e: None})
    )
    fitted = run(EMA(DECAY), handle, at("on_valid_end", fail))
    assert same(weights(fitted.model), list(by_hand(3))[-1][1])


def test_a_stop_in_training_leaves_the_averaged_weights() -> None:
    seen = Weights()
    fitted = run(EMA(DECAY), seen, at("on_train_batch_end", lambda ctx: ctx.stop("now"), nth=6))
    assert "on_valid_end" not in [hook for hook, _ in seen.events][-4:]
    averaged = list(by_hand(2))[1][1]
    assert same(seen.of("on_epoch_end")[1], averaged)
    assert same(weights(fitted.model), averaged)


def test_ctrl_c_that_is_taken_at_once_leaves_the_averaged_weights() -> None:
    def press(ctx: Any) -> None:
        raise KeyboardInterrupt

    fitted = run(EMA(DECAY), at("on_train_batch_begin", press, nth=4))
    assert same(weights(fitted.model), next(by_hand(1))[1])


def test_a_skipped_epoch_and_skipped_batches_are_no_steps() -> None:
    skip = at("on_epoch_begin", lambda ctx: ctx.skip_epoch(), nth=2)
    late = at("on_train_batch_begin", lambda ctx: ctx.skip_batch(), nth=4)
    fitted = run(EMA(DECAY), skip, late, epochs=3, data=[part[:4] for part in data()])
    model, x, y = Net(), *[part[:4] for part in data()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    averages = weights(model)
    for _ in range(2):
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                averages[name].lerp_(parameter, 1 - DECAY)
    assert same(weights(fitted.model), averages)


def test_each_optimizers_parameters_move_at_its_own_step() -> None:
    class Odd(Pair):
        """Steps "a" twice in a batch and "b" once."""

        def step(self, ctx: Any) -> None:
            for name in ("a", "a", "b") if ctx.training else ():
                loss = sum(p.square().sum() for p in getattr(self, name).parameters())
                ctx.opt_name, ctx.opt = name, ctx.optimizers[name]
                ctx.backward(loss)
                ctx.step_optimizer(name)
            ctx.loss = torch.zeros(())

    model = Odd()
    expected = {name: [p.detach().clone() for p in getattr(model, name).parameters()]
                for name in "ab"}  # fmt: skip
    plain = copy.deepcopy(expected)
    for _ in range(2):
        for name in ("a", "a", "b"):
            for average, value in zip(expected[name], plain[name], strict=True):
                value.add_(2 * value, alpha=-0.1)
                average.lerp_(value, 1 - DECAY)
    fit(model, EMA(DECAY), optimizer=None, epochs=1)
    for name in "ab":
        found = list(getattr(model, name).parameters())
        assert all(torch.equal(f, e) for f, e in zip(found, expected[name], strict=True))


class Own(Scale):
    """Its step is its own: it steps every second batch, past lumbre where `past` says so."""

    past = True

    def step(self, ctx: Any) -> None:
        ctx.loss = self.weight.square()
        if ctx.training and ctx.step_count % 2 == 0:
            if self.past:
                self.weight.square().backward()
                ctx.opt.step()
                ctx.opt.zero_grad()
            else:
                ctx.backward(self.weight.square())
                ctx.step_optimizer()


@pytest.mark.parametrize("past", [True, False])
def test_a_step_of_the_modules_own_is_averaged_each_batch_or_each_step_where_that_is_known(
    past: bool,
) -> None:
    class Its(Own):
        pass

    Its.past = past
    model = Its()
    fit(model, EMA(DECAY), data=numbered(4), epochs=2)
    weight, average = torch.ones(()), torch.ones(())
    for batch in range(1, 9):
        if batch % 2 == 0:
            weight = weight - 0.1 * (2 * weight)
        if past or batch % 2 == 0:
            average.lerp_(weight, 1 - DECAY)
    assert torch.equal(model.weight, average)


def test_a_skipped_batch_moves_nothing_where_steps_are_not_known() -> None:
    skip = at("on_train_batch_begin", lambda ctx: ctx.skip_batch(), nth=3)
    model = Own()
    fit(model, EMA(DECAY), skip, data=numbered(3), epochs=1)
    weight = torch.ones(())
    average = weight.clone().lerp_(weight - 0.1 * (2 * weight), 1 - DECAY)
    assert torch.equal(model.weight, average)


def test_a_frozen_parameter_stays_as_it_is_also_where_an_optimizer_has_it() -> None:
    change = at("on_train_end", lambda ctx: ctx.model.frozen.fill_(7.0))
    assert run(EMA(DECAY), change, epochs=1).model.frozen.tolist() == [7.0, 7.0]


def test_weights_that_are_loaded_as_the_fit_begins_are_where_averages_begin() -> None:
    load = at("on_fit_begin", lambda ctx: ctx.model.weight.fill_(5.0), weight=1e9)
    fitted = fit(Scale, load, EMA(DECAY), loss=lambda p, t: 0 * p.mean())
    assert fitted.model.weight == 5.0


@pytest.mark.parametrize("wish", ["skip_epoch", "stop"])
def test_weights_that_are_loaded_stay_where_nothing_is_trained(wish: str) -> None:
    load = at("on_fit_begin", lambda ctx: ctx.model.weight.fill_(5.0), weight=1e9)
    leave = at("on_epoch_begin", lambda ctx: getattr(ctx, wish)())
    assert fit(Scale, load, leave, EMA(DECAY), epochs=1).model.weight == 5.0


def test_a_parameter_that_joins_later_begins_as_it_is_then() -> None:
    class Thaw(lb.Callback):
        def on_epoch_begin(self, ctx: Any) -> None:
            if ctx.epoch == 2:
                ctx.model.frozen.requires_grad_()

    seen = Weights()
    fitted = run(EMA(DECAY), Thaw(), seen, epochs=2)
    assert torch.equal(seen.of("on_epoch_end")[0]["frozen"], torch.ones(2))
    average = torch.ones(2)
    for each in seen.of("on_train_batch_end")[3:]:
        average.lerp_(each["frozen"], 1 - DECAY)
    assert torch.equal(fitted.model.frozen, average)
    assert not torch.equal(average, torch.ones(2))


def test_what_no_optimizer_steps_stays_as_it_is() -> None:
    class Target(Scale):
        """A second weight follows the first one by a rule of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.target = nn.Parameter(torch.ones(()))

        def set_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([self.weight], 0.1)

    follow = at("on_train_end", lambda ctx: ctx.model.target.fill_(7.0))
    trainable = lb.setup(Target, lambda p, t: p.mean())
    fitted = trainable.fit(numbered(2), epochs=1, callbacks=[EMA(DECAY), follow], verbose=False)
    assert fitted.model.target == 7.0
    assert fitted.model.weight != 1.0


def test_half_precision_is_averaged_in_single() -> None:
    """A step of a thousandth is lost between two bfloat16 numbers."""

    class Half(Scale):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=torch.bfloat16))

        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            return self.weight.float()

    ema = EMA(0.999)
    seen = Weights()
    fitted = fit(Half, ema, seen, data=numbered(20), epochs=3)
    average = torch.ones(())
    for each in seen.of("on_train_batch_end"):
        average.lerp_(each["weight"].float(), 1 - 0.999)
    assert torch.equal(fitted.model.weight, average.bfloat16())
    assert torch.equal(ema.state_dict()["averages"]["weight"], average)
    assert average < 0.95


def test_double_and_single_precision_stay_as_they_are() -> None:
    class Mixed(Scale):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Parameter(torch.ones((), dtype=torch.float64))

        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            return self.weight + self.other

    seen = Weights()
    fitted = fit(Mixed, EMA(DECAY), seen, epochs=1)
    average = torch.ones((), dtype=torch.float64)
    for each in seen.of("on_train_batch_end"):
        average.lerp_(each["other"], 1 - DECAY)
    assert torch.equal(fitted.model.other, average)


@pytest.mark.parametrize("hook", ["on_epoch_end", "on_epoch_begin"])
def test_a_run_that_goes_on_ends_in_the_same_bits(hook: str) -> None:
    """Saved while the averaged weights are in place, and while they are not."""
    saved = {}

    def save(ctx: Any) -> None:
        saved.update(copy.deepcopy(ctx.state_dict()))

    def load(ctx: Any) -> None:
        # Where an epoch has just begun, it is the next one to be run.
        ctx.load_state_dict(saved, progress=hook == "on_epoch_end")

    nth = 2 if hook == "on_epoch_begin" else 1
    whole = run(EMA(DECAY), at(hook, save, nth=nth, weight=math.inf)).model
    assert (saved["callbacks"]["EMA"]["plain"] is None) == (hook == "on_epoch_begin")
    epochs = 3 if hook == "on_epoch_end" else 2
    rest = run(EMA(DECAY), at("on_fit_begin", load, weight=math.inf), epochs=epochs).model
    assert same(weights(rest), weights(whole))
    for name, buffer in rest.named_buffers():
        assert torch.equal(buffer, whole.get_buffer(name))


def test_a_loop_of_ones_own_learns_with_the_plain_weights_in_every_pass() -> None:
    model, loss_fn = Net(), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = lb.as_dataloader(data(), batch_size=4)
    seen = []
    with lb.run(model, optimizer, callbacks=[EMA(DECAY)], epochs=1, verbose=False) as ctx:
        for _ in ctx.epochs():
            for _ in range(3):
                for x, y in ctx.train(loader):
                    ctx.backward(loss_fn(model(x), y))
                    ctx.step_optimizer()
                seen.append(weights(model))
    averaged = [each for _, each in by_hand(3)]
    assert all(same(*pair) for pair in zip(seen, averaged, strict=True))
    assert same(weights(model), averaged[-1])


def test_a_state_saved_in_the_middle_knows_that_steps_are_told() -> None:
    """Without that, a batch without a step would move the averages."""

    class Its(Own):
        past = False

    average = torch.full((), 0.25)
    state = {"averages": {"weight": average}, "plain": None, "has_stepped": True}
    for has_stepped in (True, False):
        ema = EMA(DECAY)
        saved = {**state, "has_stepped": has_stepped}
        load = at("on_fit_begin", lambda ctx, e=ema, s=saved: e.load_state_dict(s), weight=1e9)
        fitted = fit(Its, ema, load, data=numbered(1), epochs=1)
        assert torch.equal(fitted.model.weight, average) == has_stepped
        assert ema.state_dict()["has_stepped"] == has_stepped


def test_the_state_of_another_model_is_refused_and_says_why() -> None:
    ema = EMA()
    fit(Scale, ema)
    plain = {"plain": None, "has_stepped": True}
    for averages, words in [
        ({}, "missing in the state: weight"),
        ({"weight": torch.ones(()), "bias": torch.ones(1)}, "not in the model: bias"),
        ({"weight": torch.ones(2)}, r"weight \(state: \(2,\) float32, model: \(\) float32\)"),
    ]:
        with pytest.raises(ArgumentError, match=words):
            ema.load_state_dict({**plain, "averages": averages})
    with pytest.raises(ArgumentError, match=r"its plain:\n  missing in the state: weight"):
        ema.load_state_dict({"averages": {}, "plain": {}, "has_stepped": True})


@pytest.mark.parametrize("decay", [-0.1, 1, 1.0, 2, float("nan"), "0.9", None, True])
def test_decay_is_from_0_to_below_1(decay: Any) -> None:
    with pytest.raises(ArgumentError, match="EMA: decay is a number from 0 below 1; got"):
        EMA(decay)


def test_a_decay_of_0_is_no_average() -> None:
    assert same(weights(run(EMA(0)).model), list(by_hand(3))[-1][0])


def test_parameters_without_values_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"parameter weight has no values yet.*__init__"):
        lb.setup(nn.LazyLinear(1), nn.MSELoss(), torch.optim.SGD).fit(
            numbered(1), callbacks=[EMA()], verbose=False
        )


def test_a_validation_pass_by_itself_is_left_alone() -> None:
    ema = EMA(DECAY)
    model = Net()
    with pytest.raises(RuntimeError):
        run(ema, at("on_train_end", fail), module=model)
    at_valid = Weights()
    fitted = run(module=model, epochs=1)
    before = weights(fitted.model)
    fitted.evaluate(data(2), callbacks=[ema, at_valid], verbose=False)
    assert same(at_valid.of("on_valid_end")[0], before)
    assert same(weights(fitted.model), before)


def test_one_op_moves_all_averages() -> None:
    class Count(TorchDispatchMode):
        ops: list[str]

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.ops.append(str(func))
            return func(*args, **(kwargs or {}))

    count, ema = Count(), EMA(DECAY)
    count.ops = []
    ctx: Any = None

    def grab(context: Any) -> None:
        nonlocal ctx
        ctx = context
        with count:
            ema.on_train_batch_after_step(ctx)

    run(ema, at("on_train_batch_after_step", grab))
    assert count.ops == ["aten._foreach_lerp_.Scalar"]


def test_it_comes_before_what_saves_and_after_the_rest() -> None:
    assert 1e6 < EMA.weight < 1e8


@pytest.mark.parametrize(
    ("decay", "short"), [(0.999, True), (0.9, True), (0.8, False), (0.0, False)]
)
def test_a_fit_too_short_for_its_average_is_warned_about(decay: float, short: bool) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit(Scale, EMA(decay))  # four steps
    said = [str(each.message) for each in seen]
    share = {0.999: "100%", 0.9: "66%"}.get(decay)
    words = (
        f"EMA: after 4 batches the averaged weights, which the model has now, are to {share} those "
        "that the fit began with. Train longer, or average over less: EMA(decay=0.5)."
    )
    assert said == ([words] if short else [])
