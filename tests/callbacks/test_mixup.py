"""Mixup: what is trained on, what the metrics see, and that every kind of loss is right."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

import lumbre as lb
from epochs import stopped_and_resumed
from lumbre.callbacks import Mixup
from lumbre.errors import ArgumentError, ArgumentTypeError, DataError
from lumbre.nn import MixedTarget, MixupLoss, mixup
from runs import at

CLASSES = 3


def batches(sizes: tuple[int, ...] = (8, 8, 5)) -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(7)
    return [
        (torch.randn(n, 4, generator=source), torch.randint(0, CLASSES, (n,), generator=source))
        for n in sizes
    ]


class Batches(torch.utils.data.Dataset[Any]):
    """Whole batches as they are given."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def loader(items: list[Any] | None = None) -> Any:
    return torch.utils.data.DataLoader(Batches(items or batches()), batch_size=None)


class Net(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, CLASSES)


def sgd(parameters: Any, lr: float = 0.5) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5)


class OwnLoss(Net):
    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(pred, target)


def fit(*callbacks: lb.Callback, module: Any = Net, loss: Any = None, **options: Any) -> lb.Fitted:
    metrics = options.pop("metrics", lb.metrics.Accuracy())
    options = {"epochs": 2, "verbose": False, **options}
    setup = lb.setup(module, loss, torch.optim.SGD, metrics).set_opt_hparams(lr=0.5)
    return setup.fit(options.pop("data", loader()), callbacks=callbacks, **options)


class Looks(lb.Callback):
    """Keeps inputs and targets as the step sees them and as they are when the batch has ended."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.ends: list[Any] = []

    def on_train_batch_after_pred(self, ctx: Any) -> None:
        self.steps.append((ctx.input, ctx.target, ctx.batch_size))

    on_valid_batch_after_pred = on_train_batch_after_pred

    def on_train_batch_end(self, ctx: Any) -> None:
        self.ends.append((ctx.input, ctx.target, ctx.batch_size))

    on_valid_batch_end = on_train_batch_end


def weights(alpha: float, *shape: int) -> Tensor:
    return Mixup(alpha)._weight(torch.Size(shape), torch.device("cpu"))


def by_hand(
    net: nn.Module, loss: Callable[..., Tensor], alpha: float, per_sample: bool, epochs: int = 2
) -> nn.Module:
    opt = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(epochs):
        for x, y in loader():
            weight = weights(alpha, *([len(x)] if per_sample else []))
            order = torch.randperm(len(x))
            pred = net(torch.lerp(x[order], x, weight[:, None] if per_sample else weight))
            value = torch.lerp(loss(pred, y[order]), loss(pred, y), weight).mean()
            value.backward()
            opt.step()
            opt.zero_grad()
    return net


def assert_same(one: nn.Module, two: nn.Module) -> None:
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("alpha", [0.4, 1, 5.0])
@pytest.mark.parametrize("auto", [False, True])
def test_training_ends_in_the_bits_of_a_loop_by_hand(alpha: float, auto: bool) -> None:
    loss: Any = nn.CrossEntropyLoss() if auto else MixupLoss(nn.CrossEntropyLoss())
    net = Net()
    twin = copy.deepcopy(net)
    torch.manual_seed(5)
    fitted = fit(Mixup(alpha, auto_loss=auto), module=net, loss=loss)
    torch.manual_seed(5)
    by_hand(twin, nn.CrossEntropyLoss(reduction="none"), float(alpha), per_sample=True)
    assert_same(fitted.model, twin)


@pytest.mark.parametrize(
    ("module", "loss"),
    [(OwnLoss, None), (Net, lambda pred, target: F.cross_entropy(pred, target))],
    ids=["the model's own", "a function"],
)
def test_a_loss_that_knows_no_samples_gets_one_weight_for_the_batch(module: Any, loss: Any) -> None:
    net = module()
    twin = copy.deepcopy(net)
    torch.manual_seed(5)
    fitted = fit(Mixup(auto_loss=True), module=net, loss=loss)
    torch.manual_seed(5)
    by_hand(twin, F.cross_entropy, 0.4, per_sample=False)
    assert_same(fitted.model, twin)


def test_the_model_sees_mixtures_and_metrics_see_the_first_target() -> None:
    looks = Looks()
    fit(Mixup(), looks, loss=MixupLoss(nn.CrossEntropyLoss()), epochs=1)
    assert len(looks.steps) == len(looks.ends) == 3
    for (x, y), (mixed, target, size), (_, after, size_after) in zip(
        batches(), looks.steps, looks.ends, strict=True
    ):
        assert not torch.equal(mixed, x)
        assert isinstance(target, MixedTarget)
        assert torch.equal(target.first, y)
        assert torch.equal(after, y)
        assert target.weight.shape == (len(x),)
        assert ((target.weight >= 0.5) & (target.weight <= 1)).all()
        assert size == size_after == len(x)


@pytest.mark.parametrize("metric", ["native", "python"])
def test_the_accuracy_is_that_of_the_first_target(metric: str) -> None:
    class Hits(lb.Metric):
        abbrev = "acc"

        def reset(self) -> None:
            self.hits = self.count = 0

        def update(self, preds: Tensor, target: Tensor) -> None:
            self.hits += int((preds.argmax(1) == target).sum())
            self.count += len(target)

        def compute(self) -> float:
            return self.hits / self.count

    hits: list[Tensor] = []

    @lb.on("on_train_batch_after_pred")
    def see(ctx: Any) -> None:
        hits.append(ctx.pred.argmax(1) == ctx.target.first)

    fitted = fit(
        Mixup(auto_loss=True),
        see,
        loss=nn.CrossEntropyLoss(),
        metrics=lb.metrics.Accuracy() if metric == "native" else Hits(),
        epochs=1,
    )
    (values,) = fitted.records["metrics"]["train"]
    assert values["acc"] == pytest.approx(torch.cat(hits).float().mean().item())


def test_validation_is_plain_unless_it_is_asked_for() -> None:
    net = Net()
    fitted = fit(Mixup(auto_loss=True), module=net, loss=nn.CrossEntropyLoss(), valid_data=loader())
    x, y = map(torch.cat, zip(*batches(), strict=True))
    with torch.no_grad():
        due = F.cross_entropy(net(x), y).item()
    assert fitted.records["metrics"]["valid"][-1]["loss"] == pytest.approx(due, rel=1e-5)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), None], ids=["module", "the model's own"])
def test_luz_mistake_4_run_valid_and_auto_loss_work_together(loss: Any) -> None:
    looks = Looks()
    wrapped = []
    fitted = fit(
        Mixup(run_valid=True, auto_loss=True),
        looks,
        lb.on("on_valid_batch_end")(lambda ctx: wrapped.append(type(ctx.loss_fn))),
        module=OwnLoss if loss is None else Net,
        loss=loss,
        valid_data=loader(),
    )
    assert len(looks.steps) == 2 * 2 * 3
    assert all(isinstance(target, MixedTarget) for _, target, _ in looks.steps)
    assert all(isinstance(target, Tensor) for _, target, _ in looks.ends)
    assert wrapped == [MixupLoss] * 6
    assert all("loss" in values for values in fitted.records["metrics"]["valid"])


@pytest.mark.parametrize("auto", [False, True])
def test_it_mixes_in_evaluate_too_if_it_is_asked_for(auto: bool) -> None:
    loss = MixupLoss(nn.CrossEntropyLoss())
    fitted = fit(loss=nn.CrossEntropyLoss() if auto else loss)
    torch.manual_seed(3)
    mixes = Mixup(run_valid=True, auto_loss=auto)
    got = fitted.evaluate(loader(), callbacks=mixes, verbose=False).metrics["loss"]
    torch.manual_seed(3)
    total = 0.0
    with torch.no_grad():
        for x, y in loader():
            mixed, target = mixup(x, y, weights(0.4, len(x)))
            total += len(x) * loss(fitted.model(mixed), target).item()
    assert got == pytest.approx(total / 21, rel=1e-6)
    plain = fitted.evaluate(loader(), callbacks=Mixup(), verbose=False).metrics["loss"]
    assert plain == fitted.evaluate(loader(), verbose=False).metrics["loss"] != got


def test_the_loss_of_the_user_is_not_wrapped_for_good() -> None:
    loss = nn.CrossEntropyLoss()
    fitted = fit(Mixup(auto_loss=True), loss=loss)
    assert fitted._recipe.loss is loss
    assert loss.reduction == "mean"


def test_without_a_loss_for_mixtures_the_mend_is_named_before_the_first_batch() -> None:
    seen: list[int] = []
    with pytest.raises(
        ArgumentError,
        match=r"CrossEntropyLoss does not\. Let it be wrapped, "
        r"Mixup\(auto_loss=True\), or wrap it.*MixupLoss",
    ):
        fit(
            Mixup(),
            at("on_train_batch_begin", lambda ctx: seen.append(1)),
            loss=nn.CrossEntropyLoss(),
        )
    assert seen == []
    fitted = fit(loss=nn.CrossEntropyLoss())
    with pytest.raises(ArgumentError, match="CrossEntropyLoss does not"):
        fitted.evaluate(loader(), callbacks=Mixup(run_valid=True))
    with pytest.raises(ArgumentError, match=r"OwnLoss\.loss does not"):
        fit(Mixup(), module=OwnLoss)


def test_a_step_of_ones_own_gets_the_mixed_target() -> None:
    seen = []

    class OwnStep(Net):
        def set_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def step(self, ctx: Any) -> None:
            first, second, weight = ctx.target
            seen.append((first, weight.shape))
            ctx.pred = self(ctx.input)
            loss = (
                weight * F.cross_entropy(ctx.pred, first, reduction="none")
                + (1 - weight) * F.cross_entropy(ctx.pred, second, reduction="none")
            ).mean()
            ctx.loss = loss
            if ctx.training:
                ctx.backward(loss)
                ctx.step_optimizer()

    metrics = [lb.metrics.Accuracy()]
    fitted = lb.setup(OwnStep, metrics=metrics).fit(
        loader(), epochs=1, callbacks=Mixup(), verbose=False
    )
    assert [shape for _, shape in seen] == [(8,), (8,), (5,)]
    assert {"loss", "acc"} <= set(fitted.records["metrics"]["train"][0])


def test_inputs_of_several_parts_and_a_batch_of_one() -> None:
    class Parts(Net):
        def forward(self, x: Any) -> Tensor:
            return super().forward(x["a"] + x["b"][0])

    items = [({"a": x, "b": (x.clone(),)}, y) for x, y in batches((4, 1))]
    looks = Looks()
    fit(Mixup(auto_loss=True), looks, module=Parts, loss=nn.CrossEntropyLoss(), data=loader(items))
    (x, _, _) = looks.steps[0]
    torch.testing.assert_close(x["a"], x["b"][0])
    assert not torch.equal(x["a"], items[0][0]["a"])
    torch.testing.assert_close(looks.steps[1][0]["a"], items[1][0]["a"])


@pytest.mark.filterwarnings("ignore:A batch has 3 items:lumbre.errors.DataWarning")
def test_what_else_is_in_the_batch_stays() -> None:
    items = [(x, y, torch.arange(len(x))) for x, y in batches()]
    seen = []
    fit(
        Mixup(auto_loss=True),
        lb.on("on_train_batch_after_pred")(lambda ctx: seen.append(ctx.batch[2])),
        loss=nn.CrossEntropyLoss(),
        data=loader(items),
        epochs=1,
    )
    assert [len(each) for each in seen] == [8, 8, 5]


def test_a_target_may_be_named_by_a_callback_before_it() -> None:
    class ByName(Net):
        def forward(self, x: Any) -> Tensor:
            return super().forward(x["x"])

    @lb.on("on_train_batch_begin")
    def name_the_target(ctx: Any) -> None:
        ctx.target = ctx.batch["label"]

    items = [{"x": x, "label": y} for x, y in batches()]
    options: Any = {"module": ByName, "loss": nn.CrossEntropyLoss(), "data": loader(items)}
    fitted = fit(name_the_target, Mixup(auto_loss=True), **options)
    assert len(fitted.records["metrics"]["train"]) == 2
    with pytest.raises(DataError, match=r"the batch is all input.*a callback that comes before"):
        fit(Mixup(auto_loss=True), name_the_target, **options)


def test_a_skipped_batch_counts_in_no_metric() -> None:
    fitted = fit(
        Mixup(auto_loss=True),
        lb.on("on_train_batch_begin", weight=1)(lambda ctx: ctx.skip_batch()),
        loss=nn.CrossEntropyLoss(),
        epochs=1,
    )
    assert fitted.records["metrics"]["train"] == [{}]


def test_several_optimizers_share_one_mixture() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

        def set_optimizers(self) -> dict[str, Any]:
            return {k: torch.optim.SGD(getattr(self, k).parameters(), lr=0.1) for k in "ab"}

    looks = Looks()
    lb.setup(Two, nn.CrossEntropyLoss()).fit(
        loader(), epochs=1, callbacks=[Mixup(auto_loss=True), looks], verbose=False
    )
    assert len(looks.steps) == 6
    for one, two in zip(looks.steps[::2], looks.steps[1::2], strict=True):
        assert one[1] is two[1]


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 0.4, 1.0, 3.0, 1e3])
def test_weights_are_of_the_beta_distribution_at_any_alpha(alpha: float) -> None:
    weight = weights(alpha, 20_000)
    assert weight.dtype == torch.float32
    assert ((weight >= 0.5) & (weight <= 1)).all()
    # Folded at a half, the distribution function is twice that of the Beta one, less 1.
    for limit in (0.502, 0.51, 0.6, 0.8, 0.95, 0.999):
        due = 2 * stats.beta.cdf(limit, alpha, alpha) - 1
        assert (weight <= limit).double().mean().item() == pytest.approx(due, abs=0.015)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": 0}, ArgumentError, "Mixup: alpha is a number above 0; got 0"),
        ({"alpha": -1.0}, ArgumentError, "got -1.0"),
        ({"alpha": float("nan")}, ArgumentError, "got nan"),
        ({"alpha": float("inf")}, ArgumentError, "alpha is finite; got inf"),
        ({"alpha": "0.4"}, ArgumentError, "alpha is a number above 0; got '0.4'"),
        ({"alpha": True}, ArgumentError, "got True"),
        ({"run_valid": "no"}, ArgumentTypeError, "run_valid is True or False; got 'no'"),
        ({"auto_loss": nn.MSELoss}, ArgumentTypeError, "auto_loss is True or False"),
    ],
)
def test_arguments_are_checked_when_it_is_made(
    options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Mixup(**options)


def test_it_shows_what_it_was_made_with() -> None:
    assert repr(Mixup(0.2)) == "Mixup(alpha=0.2, run_valid=False, auto_loss=False)"


def test_a_fit_that_was_killed_and_resumed_ends_in_the_same_bits() -> None:
    options: Any = {"loss": nn.CrossEntropyLoss(), "data": loader(batches((8, 5)))}
    torch.manual_seed(1)
    whole = fit(Mixup(auto_loss=True), epochs=6, **options)
    torch.manual_seed(1)
    resumed = stopped_and_resumed(
        Net, lambda: Mixup(auto_loss=True), **options, optimizer=sgd, valid_data=None
    )
    assert_same(whole.model, resumed.model)


def test_a_loop_of_ones_own_gets_the_mixed_target() -> None:
    net, loss = Net(), MixupLoss(nn.CrossEntropyLoss())
    kinds = []
    with lb.run(net, sgd(net.parameters()), lb.metrics.Accuracy(), Mixup(), epochs=1) as ctx:
        for _ in ctx.epochs():
            for x, target in ctx.train(loader()):
                kinds.append(type(target))
                pred = net(x)
                value = loss(pred, target)
                ctx.backward(value)
                ctx.step_optimizer()
                ctx.record(pred, target.first, value)
    assert kinds == [MixedTarget] * 3
    assert set(ctx.records["metrics"]["train"][0]) == {"loss", "acc"}


def test_nothing_waits_for_the_device() -> None:
    # Tensors of this device have no values: whoever asked for one would fail.
    with torch.device("meta"):
        net, x = Net(), torch.randn(8, 4)
        y = torch.randint(0, CLASSES, (8,))
        loss = MixupLoss(nn.CrossEntropyLoss(torch.ones(CLASSES), ignore_index=1))
    weight = Mixup()._weight(torch.Size([8]), torch.device("meta"))
    mixed, target = mixup(x, y, weight)
    value = loss(net(mixed), target)
    value.backward()
    assert value.is_meta
    assert value.shape == ()
    with pytest.raises(RuntimeError):
        value.item()
