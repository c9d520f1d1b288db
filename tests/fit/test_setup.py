"""setup and fit: every way to a loss, an optimizer, a step; and what is refused before a run."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import lumbre as lb
from lumbre.errors import ArgumentError, ArgumentTypeError, DataError, MetricError
from runs import Pair, Scale, Trace, at, fit, numbered

X, Y = torch.arange(40.0).reshape(10, 4) / 40, torch.arange(10.0).reshape(10, 1) / 10


def linear(**given: Any) -> lb.Trainable:
    given = {"loss": nn.MSELoss(), "optimizer": torch.optim.SGD, **given}
    return lb.setup(nn.Linear, **given).set_hparams(in_features=4, out_features=1)


def quick(trainable: lb.Trainable, data: Any = None, epochs: Any = 1, **options: Any) -> lb.Fitted:
    return trainable.fit([X, Y] if data is None else data, epochs, verbose=False, **options)


# --- ways to a loss -----------------------------------------------------------------------------


class WithLoss(nn.Linear):
    def loss(self, pred: Tensor, target: Tensor) -> Tensor:
        return 7 + 0 * pred.mean()


@pytest.mark.parametrize(
    ("module", "loss", "value"),
    [
        (WithLoss, None, 7.0),
        (WithLoss, lambda pred, target: 5 + 0 * pred.mean(), 5.0),
        (nn.Linear, lambda pred, target: 5 + 0 * pred.mean(), 5.0),
        (nn.Linear, functools.partial(lambda n, pred, target: n + 0 * pred.mean(), 3), 3.0),
    ],
)
def test_the_loss_is_what_setup_was_given_else_the_modules(
    module: Any, loss: Any, value: float
) -> None:
    fitted = quick(
        lb.setup(module, loss, torch.optim.SGD).set_hparams(in_features=4, out_features=1)
    )
    assert fitted.records["metrics"]["train"] == [{"loss": value}]


def test_the_loss_is_called_by_position() -> None:
    class Named(nn.Linear):
        def loss(self, output: Tensor, wanted: Tensor, /) -> Tensor:
            return (output - wanted).abs().mean()

    quick(lb.setup(Named, None, torch.optim.SGD).set_hparams(in_features=4, out_features=1))


def test_a_loss_may_be_an_attribute_that_init_sets() -> None:
    class Sets(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 1)
            self.loss = nn.L1Loss()

    assert (
        quick(lb.setup(Sets, optimizer=torch.optim.SGD)).records["metrics"]["train"][0]["loss"] > 0
    )


def test_a_loss_that_ignores_the_target_needs_none() -> None:
    fitted = quick(linear(loss=lambda pred, target: pred.mean()), X)
    assert list(fitted.records["metrics"]["train"][0]) == ["loss"]


# --- ways to an optimizer -----------------------------------------------------------------------


class SetsOptimizers(nn.Linear):
    def set_optimizers(self, lr: float = 0.5) -> Any:
        return torch.optim.SGD(self.parameters(), lr=lr)


def lr_of(fitted_with: lb.Trainable) -> list[tuple[str, str, float]]:
    seen: list[tuple[str, str, float]] = []

    def look(ctx: Any) -> None:
        for name, opt in ctx.optimizers.items():
            seen.append((name, type(opt).__name__, opt.param_groups[0]["lr"]))

    quick(fitted_with, callbacks=at("on_fit_begin", look))
    return seen


def test_the_optimizer_is_what_setup_was_given_else_the_modules() -> None:
    mse = nn.MSELoss()
    own = lb.setup(SetsOptimizers, mse).set_hparams(in_features=4, out_features=1)
    assert lr_of(own) == [("opt", "SGD", 0.5)]
    assert lr_of(own.set_opt_hparams(lr=0.25)) == [("opt", "SGD", 0.25)]
    given = lb.setup(SetsOptimizers, mse, torch.optim.Adam)
    given = given.set_hparams(in_features=4, out_features=1).set_opt_hparams(lr=0.1)
    assert lr_of(given) == [("opt", "Adam", 0.1)]


def test_an_optimizer_may_be_made_by_a_function() -> None:
    def make(params: Any, scale: float) -> Any:
        return torch.optim.Adam(params, lr=0.1 * scale)

    assert lr_of(linear(optimizer=make).set_opt_hparams(scale=2)) == [("opt", "Adam", 0.2)]
    partial = functools.partial(torch.optim.SGD, lr=0.3)
    assert lr_of(linear(optimizer=partial)) == [("opt", "SGD", 0.3)]


def test_a_dict_of_optimizers_has_its_names() -> None:
    fitted = fit(Pair, loss=nn.MSELoss(), optimizer=None)
    assert list(fitted.records["metrics"]["train"][0]) == ["loss_a", "loss_b"]


def test_an_optimizers_instance_goes_with_a_modules_instance() -> None:
    model = nn.Linear(4, 1)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fitted = quick(lb.setup(model, nn.MSELoss(), optimizer))
    assert fitted.model is model
    assert not torch.equal(model.weight, before)
    with pytest.raises(ArgumentTypeError, match=r"Pass the class: optimizer=SGD.*set_opt_hparams"):
        lb.setup(nn.Linear, nn.MSELoss(), optimizer)
    with pytest.raises(ArgumentError, match=r"Pass the class: optimizer=SGD"):
        lb.setup(model, nn.MSELoss(), optimizer).set_opt_hparams(lr=1)


def test_an_optimizer_of_another_module_is_refused() -> None:
    model, other = nn.Linear(3, 1), nn.Linear(3, 1)
    message = (
        r"The Adam steps no parameter of this Linear: .* Adam\(module.parameters\(\), \.\.\.\)"
    )
    with pytest.raises(ArgumentError, match=message):
        lb.setup(model, nn.MSELoss(), torch.optim.Adam(other.parameters()))
    shared = torch.optim.Adam([*other.parameters(), model.weight])
    assert lb.setup(model, nn.MSELoss(), shared).optimizer is shared


@pytest.mark.parametrize("made", [None, 3, [1], {"a": None}])
def test_what_is_no_optimizer_is_refused(made: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"optimizer has to give a torch.optim.Optimizer"):
        quick(linear(optimizer=lambda params: made))

    class Wrong(nn.Linear):
        def set_optimizers(self) -> Any:
            return made

    with pytest.raises(ArgumentTypeError, match=r"set_optimizers has to give .* it gave"):
        quick(lb.setup(Wrong, nn.MSELoss()).set_hparams(in_features=4, out_features=1))


def test_no_optimizers_at_all_are_refused() -> None:
    class Empty(nn.Linear):
        def set_optimizers(self) -> Any:
            return {}

    with pytest.raises(lb.LumbreError, match="set_optimizers"):
        quick(lb.setup(Empty, nn.MSELoss()).set_hparams(in_features=4, out_features=1))


# --- no way to a loss or an optimizer -----------------------------------------------------------


def test_without_a_way_to_a_loss_setup_names_them_all() -> None:
    for module in (nn.Linear, nn.Linear(4, 1)):
        with pytest.raises(ArgumentError) as caught:
            lb.setup(module, optimizer=torch.optim.SGD)
        for way in ("lb.setup(..., loss=", "loss(self, pred, target)", "step(self, ctx)"):
            assert way in str(caught.value)


def test_without_a_way_to_an_optimizer_setup_names_them_all() -> None:
    for module in (nn.Linear, nn.Linear(4, 1)):
        with pytest.raises(ArgumentError) as caught:
            lb.setup(module, nn.MSELoss())
        for way in ("optimizer=torch.optim.Adam", "set_optimizers(self, **", "step(self, ctx)"):
            assert way in str(caught.value)


def test_what_a_factory_makes_is_looked_at_when_it_is_made() -> None:
    def make() -> nn.Module:
        return nn.Linear(4, 1)

    with pytest.raises(ArgumentError, match=r"no way to a loss"):
        quick(lb.setup(make, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1))
    with pytest.raises(ArgumentError, match=r"no way to an optimizer.*set_optimizers"):
        quick(lb.setup(make, nn.MSELoss()))


# --- what else setup takes ----------------------------------------------------------------------


def test_a_module_is_a_class_a_factory_or_an_instance() -> None:
    instance = nn.Linear(4, 1)
    for module in (functools.partial(nn.Linear, 4, 1), lambda: nn.Linear(4, 1), instance):
        fitted = quick(lb.setup(module, nn.MSELoss(), torch.optim.SGD))
        assert isinstance(fitted.model, nn.Linear)
    assert fitted.model is instance


def test_a_class_is_built_anew_for_each_fit_and_an_instance_goes_on() -> None:
    trainable = linear()
    assert quick(trainable).model is not quick(trainable).model
    instance = nn.Linear(4, 1)
    trained = lb.setup(instance, nn.MSELoss(), torch.optim.SGD)
    assert quick(trained).model is quick(trained).model is instance


def test_a_module_without_forward_is_called_with_identity() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            return (pred @ self.weight - target.squeeze(1)).square().mean()

    fitted = quick(lb.setup(Bare, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1))
    assert not torch.equal(fitted.model.weight, torch.ones(4))
    assert torch.equal(fitted.predict(X), X)


def test_predict_of_the_module_is_what_predict_uses_and_forward_what_training_uses() -> None:
    class Predicts(Scale):
        def predict(self, x: Tensor) -> Tensor:
            return self(x) + 100

    fitted = fit(Predicts, metrics=lb.metrics.MAE())
    assert fitted.predict(torch.ones(2, 1)).tolist() == [[101.0], [101.0]]
    assert fitted.records["metrics"]["train"][0]["mae"] == 2.0


@pytest.mark.parametrize("given", [True, False], ids=["setup", "module"])
def test_backward_is_what_setup_was_given_else_the_modules(given: bool) -> None:
    called = []

    class Own(Scale):
        def backward(self, loss: Tensor) -> None:
            called.append("module")
            loss.backward()

    def own(loss: Tensor) -> None:
        called.append("setup")
        loss.backward()

    fit(Own, backward=own if given else None, epochs=1)
    assert called == ["setup" if given else "module"] * 2


def test_hparams_build_the_module_and_opt_hparams_the_optimizer() -> None:
    fitted = quick(linear().set_hparams(bias=False).set_opt_hparams(lr=0.5, momentum=0.9))
    assert fitted.model.bias is None
    assert fitted.hparams == {"in_features": 4, "out_features": 1, "bias": False}
    assert fitted.opt_hparams == {"lr": 0.5, "momentum": 0.9}


def test_hparams_for_a_module_that_is_there_are_refused() -> None:
    trainable = lb.setup(nn.Linear(4, 1), nn.MSELoss(), torch.optim.SGD)
    with pytest.raises(ArgumentError, match=r"Pass the class: lb.setup\(Linear"):
        trainable.set_hparams(bias=False)


def test_a_trainable_never_changes() -> None:
    first = linear()
    second = first.set_hparams(bias=False).set_opt_hparams(lr=0.5)
    assert first.hparams == {"in_features": 4, "out_features": 1}
    assert first.opt_hparams == {}
    assert second.opt_hparams == {"lr": 0.5}
    assert second is not first
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.loss = None  # type: ignore[misc]
    assert repr(second) == (
        "Trainable(Linear, loss=MSELoss, optimizer=SGD, "
        "hparams={'in_features': 4, 'out_features': 1, 'bias': False}, opt_hparams={'lr': 0.5})"
    )


def test_the_dict_that_hparams_came_from_may_change() -> None:
    given = {"in_features": 4, "out_features": 1}
    trainable = lb.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD).set_hparams(**given)
    fitted = quick(trainable)
    fitted.hparams["in_features"] = 9
    assert trainable.hparams == given


def test_metrics_start_anew_for_each_fit() -> None:
    metric = lb.metrics.MAE()
    trainable = lb.setup(Scale, optimizer=torch.optim.SGD, metrics=[metric]).set_opt_hparams(lr=0.1)
    first = trainable.fit(numbered(2), 1, verbose=False)
    second = trainable.fit(numbered(2), 1, verbose=False)
    assert first.records["metrics"] == second.records["metrics"]


# --- what setup refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"module": 3}, "module is a subclass of torch.nn.Module.*got 3"),
        ({"module": None}, "module is a subclass.*got None"),
        ({"loss": nn.MSELoss}, r"the class MSELoss where an instance is due: write MSELoss\(\)"),
        ({"loss": "mse"}, "loss is a function or a module; got 'mse'"),
        ({"optimizer": "adam"}, "optimizer is a class such as torch.optim.Adam.*got 'adam'"),
        ({"backward": 3}, "backward is a function or a module; got 3"),
    ],
)
def test_a_wrong_type_is_refused_with_what_was_expected(given: dict[str, Any], words: str) -> None:
    given = {"module": nn.Linear, "loss": nn.MSELoss(), "optimizer": torch.optim.SGD, **given}
    with pytest.raises(ArgumentTypeError, match=words) as caught:
        lb.setup(**given)
    assert isinstance(caught.value, TypeError)


def test_a_factory_that_makes_no_module_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"has to give a torch.nn.Module; it gave 3"):
        quick(lb.setup(lambda: 3, nn.MSELoss(), torch.optim.SGD))  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (3, "3 is no metric.*subclass of lb.Metric"),
        ([nn.MSELoss()], r"MSELoss\(\) is no metric"),
        (["accuracy"], r"the name 'accuracy' where a metric is due: write lb.metrics.Accuracy\(\)"),
        ("top_k_accuracy", r"write lb.metrics.TopKAccuracy\(\)"),
        (["mean_squared_error"], "write an instance, such as lb.metrics"),
        (lb.metrics.Accuracy, r"the class Accuracy where an instance is due: write Accuracy\("),
        ([lb.metrics.Accuracy], "the class Accuracy where an instance is due"),
    ],
)
def test_a_metric_that_is_none_is_refused(metrics: Any, words: str) -> None:
    with pytest.raises(ArgumentTypeError, match=words):
        linear(metrics=metrics)


@pytest.mark.parametrize(
    "metrics",
    [
        [lb.metrics.MAE(), lb.metrics.MAE()],
        [lb.metrics.Accuracy(), lb.metrics.BinaryAccuracy()],
    ],
)
def test_two_metrics_of_one_name_are_refused(metrics: Any) -> None:
    with pytest.raises(MetricError, match=r'recorded as "(mae|acc)".*name'):
        quick(linear(metrics=metrics))


def test_a_metric_named_like_the_loss_is_refused() -> None:
    with pytest.raises(MetricError, match='recorded as "loss"'):
        quick(linear(metrics=type("Loss", (lb.metrics.MAE,), {"abbrev": "loss"})()))


# --- what fit refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, -1, (5, 2), (0, 0), (1, 2, 3), (2,), ()])
def test_epochs_that_are_none_are_refused(epochs: Any) -> None:
    with pytest.raises(ArgumentError, match="epochs is") as caught:
        quick(linear(), epochs=epochs)
    assert str(epochs) in str(caught.value)


@pytest.mark.parametrize("epochs", [1.5, "3", True, (1.0, 2.0)])
def test_epochs_that_are_no_whole_number_are_refused(epochs: Any) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match="whole number"):
        quick(linear(), epochs=epochs)


def test_epochs_may_be_a_numpy_number() -> None:
    assert len(quick(linear(), epochs=np.int64(2)).records["metrics"]["train"]) == 2


@pytest.mark.parametrize("fraction", [2, -1, 1.0, 0.0, 0, float("nan"), True])
def test_valid_data_that_is_no_fraction_is_refused(fraction: Any) -> None:
    with pytest.raises(ArgumentError, match=r"is no fraction.*between 0 and 1.*0\.2"):
        quick(linear(), valid_data=fraction)


def test_a_fraction_of_a_loader_is_refused_with_what_to_pass() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(X[0], Y[0])])

    for data in (DataLoader(TensorDataset(X, Y)), Stream()):
        with pytest.raises(ArgumentError, match=r"(?s)cannot be taken from.*random_split"):
            quick(linear(), data, valid_data=0.2)


def test_an_unknown_dataloader_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(ArgumentError, match=r"batchsize.*batch_size"):
        quick(linear(), dataloader_options={"batchsize": 4})


def test_dataloader_options_for_a_loader_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"batch_size"):
        quick(linear(), DataLoader(TensorDataset(X, Y)), dataloader_options={"batch_size": 4})
    valid = DataLoader(TensorDataset(X, Y))
    quick(linear(), valid_data=valid, dataloader_options={"batch_size": 4})


@pytest.mark.parametrize("data", [None, 3, "rows", object()])
def test_what_is_no_data_is_refused(data: Any) -> None:
    with pytest.raises((ArgumentTypeError, DataError)):
        linear().fit(data, 1, verbose=False)


def test_an_accelerator_that_is_none_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="ccelerator"):
        quick(linear(), accelerator="cuda")
    with pytest.raises(ArgumentTypeError, match="ccelerator"):
        quick(linear(), accelerator=lb.Accelerator)


def test_what_is_refused_leaves_nothing_begun() -> None:
    model = nn.Linear(4, 1)
    before = model.weight.detach().clone()
    trace = Trace()
    for wrong in ({"epochs": 0}, {"valid_data": 2}, {"dataloader_options": {"wrong": 1}}):
        with pytest.raises(lb.LumbreError):
            quick(lb.setup(model, nn.MSELoss(), torch.optim.SGD), callbacks=trace, **wrong)
    assert trace.events == []
    assert torch.equal(model.weight, before)
    assert model.training


# --- data ---------------------------------------------------------------------------------------


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> Any:
        return X[i], Y[i]


class StreamOfRows(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return ((X[i], Y[i]) for i in range(10))


class OwnData:
    pass


@lb.as_dataloader.register
def _own(data: OwnData, batch_size: int = 32, shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=batch_size, shuffle=shuffle)


FORMS: dict[str, Callable[[], Any]] = {
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=4),
    "dataset": Rows,
    "tensor dataset": lambda: TensorDataset(X, Y),
    "iterable dataset": StreamOfRows,
    "tensors": lambda: [X, Y],
    "tuple of arrays": lambda: (X.numpy(), Y.numpy()),
    "float64 arrays": lambda: (X.double().numpy(), Y.double().numpy()),
    "frames": lambda: (pd.DataFrame(X.numpy()), pd.DataFrame(Y.numpy())),
    "registered": OwnData,
}


@pytest.mark.parametrize("form", list(FORMS))
def test_data_in_every_form_trains_validates_evaluates_and_predicts(form: str) -> None:
    make = FORMS[form]
    fitted = quick(linear().set_opt_hparams(lr=0.1), make(), 2, valid_data=make())
    metrics = fitted.records["metrics"]
    assert len(metrics["train"]) == len(metrics["valid"]) == 2
    with torch.no_grad():
        pred = fitted.model(X)
        loss = nn.functional.mse_loss(pred, Y).item()
    assert fitted.evaluate(make(), verbose=False).metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(fitted.predict(make(), verbose=False), pred)


@pytest.mark.parametrize("form", ["tensors", "dataset", "tensor dataset", "frames"])
def test_a_fraction_of_the_data_is_held_back(form: str) -> None:
    seen: dict[str, list[float]] = {"train": [], "valid": []}

    def look(kind: str) -> Callable[[Any], None]:
        return lambda ctx: seen[kind].extend(ctx.target.flatten().tolist())

    train = lb.on("on_train_batch_end")(look("train"))
    valid = lb.on("on_valid_batch_end")(look("valid"))
    quick(linear(), FORMS[form](), valid_data=0.3, callbacks=[train, valid])
    assert len(seen["valid"]) == 3
    assert sorted(seen["train"] + seen["valid"]) == pytest.approx(sorted(Y.flatten().tolist()))


def test_training_data_is_shuffled_in_batches_of_32_unless_told_otherwise() -> None:
    x = torch.arange(70.0).reshape(70, 1)
    batches: list[list[float]] = []
    look = lb.on("on_train_batch_end")(lambda ctx: batches.append(ctx.input.flatten().tolist()))
    trainable = lb.setup(Scale, lambda pred, target: pred.mean(), torch.optim.SGD)
    trainable = trainable.set_opt_hparams(lr=0.0)
    quick(trainable, x, callbacks=look)
    assert [len(batch) for batch in batches] == [32, 32, 6]
    flat = [n for batch in batches for n in batch]
    assert flat != sorted(flat)
    assert sorted(flat) == list(range(70))
    batches.clear()
    options = {"batch_size": 50, "shuffle": False}
    quick(trainable, x, callbacks=look, dataloader_options=options)
    assert [len(batch) for batch in batches] == [50, 20]
    assert [n for batch in batches for n in batch] == list(range(70))


def test_epochs_are_a_number_or_a_pair() -> None:
    seen: list[tuple[int, int]] = []
    look = lb.on("on_fit_begin")(lambda ctx: seen.append((ctx.min_epochs, ctx.max_epochs)))
    quick(linear(), epochs=2, callbacks=look)
    fitted = quick(linear(), epochs=(2, 3), callbacks=look)
    assert len(fitted.records["metrics"]["train"]) == 3
    assert seen[1] == (2, 3)
    assert seen[0][1] == 2


def test_ten_epochs_unless_told_otherwise() -> None:
    fitted = linear().fit([X, Y], verbose=False)
    assert len(fitted.records["metrics"]["train"]) == 10


def test_the_same_seed_gives_the_same_fit() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        weights.append(
            quick(linear().set_opt_hparams(lr=0.1), epochs=3, valid_data=0.3).model.weight
        )
    assert torch.equal(*weights)


def test_a_step_of_ones_own_that_sets_no_loss_is_told_of() -> None:
    class Silent(nn.Linear):
        def step(self, ctx: Any) -> None:
            ctx.pred = self(ctx.input)

    trainable = lb.setup(Silent(1, 1), optimizer=torch.optim.SGD)
    with pytest.warns(lb.LumbreWarning, match=r"Silent.step has set no loss.*ctx.loss = loss"):
        trainable.fit([torch.ones(4, 1), torch.ones(4, 1)], epochs=1)


def test_a_loss_that_was_taken_away_is_asked_for_by_its_name() -> None:
    @lb.on("on_train_batch_after_loss")
    def drop(ctx: Any) -> None:
        ctx.loss = ctx.loss_grad

    with pytest.raises(ArgumentTypeError, match=r"ctx.loss_grad is None.*ctx.loss_grad = "):
        quick(linear(), callbacks=drop)


def patched(model: nn.Module) -> nn.Module:
    """The model in a bare module, whose class has no `forward`."""
    outer = nn.Module()
    outer.inner = model
    outer.forward = lambda x: model(x)  # type: ignore[method-assign]
    return outer


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        torch.jit.script,
        lambda model: torch.jit.trace(model, torch.ones(1, 3)),
        patched,
    ],
    ids=["compiled", "scripted", "traced", "forward of the instance"],
)
def test_a_forward_that_is_not_the_classs_is_called(wrap: Callable[[nn.Module], nn.Module]) -> None:
    x, y = torch.randn(8, 3), torch.randn(8, 3)

    def trained(model: nn.Module) -> tuple[Tensor, dict[str, float], Tensor]:
        setup = lb.setup(model, nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)
        options = {"batch_size": 4, "shuffle": False}
        fitted = setup.fit([x, y], epochs=2, verbose=False, dataloader_options=options)
        return fitted.predict(x), fitted.evaluate([x, y]).metrics, next(model.parameters()).detach()

    torch.manual_seed(0)
    plain = nn.Linear(3, 3)
    torch.manual_seed(0)
    wrapped = wrap(nn.Linear(3, 3))
    before = next(wrapped.parameters()).detach().clone()
    (pred, loss, weight), (other_pred, other_loss, other_weight) = trained(plain), trained(wrapped)
    assert not torch.equal(other_weight, before)
    assert torch.equal(pred, other_pred)
    assert loss == other_loss
    assert torch.equal(weight, other_weight)


def test_what_is_wrong_with_the_hparams_says_that_it_came_from_there() -> None:
    def notes(trainable: lb.Trainable) -> list[str]:
        with pytest.raises(TypeError) as raised:
            trainable.fit(torch.zeros(2, 1), epochs=1)
        return raised.value.__notes__

    net = lb.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD)
    wide = notes(net.set_hparams(width=3))
    assert wide == ["in Linear, built with the hparams width=3"]
    net = net.set_hparams(in_features=1, out_features=1)
    fast = notes(net.set_opt_hparams(speed=0.1))
    assert fast == ["in SGD, made with the parameters and the opt_hparams speed=0.1"]

    class Own(nn.Linear):
        def __init__(self) -> None:
            super().__init__(1, 1)

        def set_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters())

    none = notes(lb.setup(nn.Linear, nn.MSELoss(), torch.optim.SGD))
    assert none == ["in Linear, built with no hparams"]
    own = notes(lb.setup(Own, nn.MSELoss()).set_opt_hparams(lr=0.1))
    assert own == ["in Own.set_optimizers, called with the opt_hparams lr=0.1"]
