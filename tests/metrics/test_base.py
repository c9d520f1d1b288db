"""Metrics in a run: a metric of one's own, sets of them, torchmetrics, and the loss."""

import copy
import gc
import math
import re
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import lumbre as lb
from lumbre.errors import (
    ArgumentTypeError,
    DTypeError,
    LumbreError,
    MetricError,
    NonFiniteLossWarning,
    ShapeError,
    ShapeWarning,
    TargetError,
)
from lumbre.metrics import MAE, MSE, RMSE, Accuracy, BinaryAccuracy
from lumbre.metrics.losses import Losses
from lumbre.metrics.sets import as_metric_set
from runs import notes


class Foreign(torch.Tensor):
    """Stands for a tensor on a device: it is measured by torch ops, which nothing waits for."""


class Same(nn.Module):
    """Predicts its input; what there is to train changes nothing."""

    def __init__(self, as_class=torch.Tensor):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.as_class = as_class

    def forward(self, x):
        return (x + 0 * self.weight).as_subclass(self.as_class)


class MeanOfTarget(nn.Module):
    """A loss whose values a test can choose."""

    def forward(self, pred, target):
        return target.double().mean() + 0 * pred.sum()


def mean_of_target(pred, target):
    return target.double().mean() + 0 * pred.double().sum()


def fit(x, y, metrics=None, *, loss=mean_of_target, model=None, epochs=1, batch_size=4, **options):
    options = {"verbose": False, "accelerator": lb.Accelerator(cpu=True), **options}
    return (
        lb.setup(model or Same(), loss, torch.optim.SGD, metrics)
        .set_opt_hparams(lr=0.0)
        .fit(
            (x, y),
            epochs=epochs,
            dataloader_options={"batch_size": batch_size, "shuffle": False},
            **options,
        )
    )


def records(fitted, set_="train", epoch=-1):
    return fitted.records["metrics"][set_][epoch]


@pytest.fixture
def data():
    torch.manual_seed(3)
    return torch.randn(10, 3), torch.randint(0, 3, (10,))


class Count(lb.Metric):
    """Counts samples, and writes down what is called."""

    calls = []  # noqa: RUF012 (of all copies)

    def __init__(self):
        self.seen = 0
        self.calls.append("init")

    def update(self, preds, target):
        self.seen += len(target)
        self.calls.append("update")

    def compute(self):
        self.calls.append("compute")
        return self.seen


@pytest.fixture(autouse=True)
def _no_calls():
    Count.calls.clear()


# A metric of one's own


def test_a_metric_is_reset_fed_and_read_in_each_pass(data):
    fitted = fit(*data, Count(), epochs=2, valid_data=(data[0][:5], data[1][:5]))
    train, valid = ["init", *["update"] * 3, "compute"], ["init", *["update"] * 2, "compute"]
    assert Count.calls == ["init", *(train + valid) * 2]
    assert [records(fitted, set_)["count"] for set_ in ("train", "valid")] == [10, 5]


def test_training_and_validation_have_an_instance_each(data):
    class Which(lb.Metric):
        seen = {}  # noqa: RUF012

        def update(self, preds, target):
            self.seen.setdefault(self.ctx.training, set()).add(id(self))

        def compute(self):
            return 0.0

    given = Which()
    fit(*data, given, epochs=3, valid_data=data)
    assert len(Which.seen[True]) == len(Which.seen[False]) == 1
    assert len({id(given), *Which.seen[True], *Which.seen[False]}) == 3


def test_what_was_given_to_setup_is_left_as_it_was(data):
    metric = Accuracy()
    trainable = lb.setup(Same(), mean_of_target, torch.optim.SGD, metrics=metric)
    for _ in range(2):
        trainable.set_opt_hparams(lr=0.0).fit(data, epochs=1, verbose=False)
        assert math.isnan(metric.compute())


def test_a_metric_sees_predictions_and_target_with_gradients_off(data):
    class Look(lb.Metric):
        def update(self, preds, target):
            assert not torch.is_grad_enabled()
            assert preds is self.ctx.pred
            assert target is self.ctx.target
            assert self.ctx.epoch == 1

        def compute(self):
            return float(self.ctx.training)

    fitted = fit(*data, [Look()], valid_data=data)
    assert (records(fitted)["look"], records(fitted, "valid")["look"]) == (1, 0)


def test_the_context_is_bound_during_the_run_only(data):
    seen = []

    class Keep(lb.Metric):
        def reset(self):
            seen.append((self, weakref.ref(self.ctx)))

        def update(self, preds, target):
            pass

        def compute(self):
            return 0.0

    fitted = fit(*data, Keep())
    gc.collect()
    ((metric, ctx),) = seen
    assert ctx() is None
    assert not hasattr(metric, "ctx")
    assert copy.deepcopy(fitted.model) is not None


def test_update_and_compute_have_to_be_defined(data):
    class Nothing(lb.Metric):
        pass

    with pytest.raises(NotImplementedError, match=r"Nothing has to define update\(self, preds"):
        fit(*data, Nothing())
    Nothing.update = lambda self, preds, target: None
    with pytest.raises(NotImplementedError, match=r"Nothing has to define compute\(self\)"):
        fit(*data, Nothing())


def test_arguments_that_no_init_takes_are_refused():
    class Plain(lb.Metric):
        pass

    with pytest.raises(TypeError, match=r"Plain\(\) takes no arguments"):
        Plain(smooth=1)


def test_a_subclass_of_a_built_in_metric_may_count_in_its_own_way(data):
    class Twice(MAE):
        abbrev = "Twice"

        def update(self, preds, target):
            super().update(2 * preds, 2 * target)

    class Doubled(MAE):
        abbrev = "Doubled"

        def compute(self):
            return 2 * super().compute()

    x = data[0]
    values = records(fit(x, x + 1, [MAE(), Twice(), Doubled()]))
    assert list(values.values())[1:] == pytest.approx([1, 2, 2])


def test_a_value_may_have_a_format_of_its_own(data):
    class Percent(Accuracy):
        def format(self, value):
            return f"{value:.0%}"

    shown = []

    @lb.on("on_train_end")
    def show(ctx):
        shown.append(ctx.get_formatted_metrics("train"))

    x = torch.eye(4)
    fit(x, torch.tensor([0, 1, 2, 0]), [Percent(), MAE(name="x")][:1], callbacks=show)
    assert shown == [{"loss": "0.7500", "acc": "75%"}]


# The functional form


def hits(initialize=None, **members):
    return lb.metric(
        "Hits",
        initialize=initialize,
        update=lambda self, preds, target: self.values.append(len(target)),
        compute=lambda self: sum(self.values) * getattr(self, "factor", 1),
        **members,
    )


def test_the_functional_form_gives_a_class():
    class Base(lb.Metric):
        """A base of the user's own."""

    kind = hits(lambda self: None, inherit=Base, abbrev="HiTs", direction="max", answer=42)
    assert issubclass(kind, Base)
    assert (kind.__name__, kind.__module__) == ("Hits", __name__)
    assert (kind().record_name, kind().direction, kind().answer) == ("hits", "max", 42)
    assert isinstance(hits(), type)
    assert hits()().record_name == "hits"


def test_without_reset_initialize_runs_again_with_the_same_arguments(data):
    made = []

    def initialize(self, factor, *, name):
        made.append((factor, name))
        self.values, self.factor, self.name = [], factor, name

    fitted = fit(*data, hits(initialize)(3, name="mine"), epochs=2)
    assert [records(fitted, epoch=e)["mine"] for e in (0, 1)] == [30, 30]
    assert made == [(3, "mine")] * 3, "once by the user and once a pass"


def test_with_reset_initialize_runs_once(data):
    made = []

    def initialize(self):
        made.append(self)
        self.values = []

    kind = hits(initialize, reset=lambda self: self.values.clear())
    fitted = fit(*data, kind(), epochs=2)
    assert [records(fitted, epoch=e)["hits"] for e in (0, 1)] == [10, 10]
    assert len(made) == 1


def test_the_signature_of_initialize_is_kept():
    kind = hits(lambda self, smooth: setattr(self, "values", [smooth]))
    with pytest.raises(TypeError, match="smooth"):
        kind()
    assert repr(kind(2)) == "Hits(2)"


# Sets and names


def test_records_hold_the_loss_first_then_the_metrics_as_given(data):
    names = lambda *letters: [Named(letter) for letter in letters]  # noqa: E731
    given = lb.MetricSet(names("z", "a"), train_metrics=names("t"), valid_metrics=names("v", "b"))
    fitted = fit(*data, given, valid_data=data)
    assert list(records(fitted)) == ["loss", "z", "a", "t"]
    assert list(records(fitted, "valid")) == ["loss", "z", "a", "v", "b"]
    assert list(fitted.evaluate(data, verbose=False).metrics) == ["loss", "z", "a", "v", "b"]


class Named(lb.Metric):
    def __init__(self, name):
        self.name = name

    def update(self, preds, target):
        pass

    def compute(self):
        return 1.0


def test_evaluate_takes_metrics_of_its_own(data):
    values = fit(*data).evaluate(data, metrics=[Accuracy(), Named("x")], verbose=False).metrics
    assert list(values) == ["loss", "acc", "x"]
    assert values["acc"] == (data[0].argmax(1) == data[1]).double().mean()


def test_the_record_is_the_name_or_the_lowered_abbreviation_or_class():
    class TopHits(lb.Metric):
        pass

    assert TopHits().record_name == "tophits"
    TopHits.abbrev = "Top"
    assert TopHits().record_name == "top"
    metric = TopHits()
    metric.name = "Mine"
    assert metric.record_name == "Mine"


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        ([Accuracy(), BinaryAccuracy()], "acc"),
        ([MAE(name="x"), Named("x")], "x"),
        ([Named("loss")], "loss"),
        (lb.MetricSet([MAE()], valid_metrics=[MAE()]), "mae"),
    ],
)
def test_two_of_one_name_are_an_error(data, metrics, name):
    with pytest.raises(MetricError, match=f'recorded as "{name}".*name="{name}_2"'):
        fit(*data, metrics, valid_data=data)


def test_two_of_a_kind_live_side_by_side_under_two_names(data):
    values = records(fit(*data, [Accuracy(), Accuracy(name="acc_2")]))
    assert values["acc"] == values["acc_2"]
    given = lb.MetricSet(train_metrics=MAE(), valid_metrics=MAE())
    x = data[0]
    fitted = fit(x, x, given, valid_data=(x, x + 1))
    assert [records(fitted, s)["mae"] for s in ("train", "valid")] == pytest.approx([0, 1])


@pytest.mark.parametrize(
    "bad", ["acc", 3, {"acc": Accuracy()}, [None], [Accuracy(), "acc"], nn.MSELoss()], ids=repr
)
def test_what_is_no_metric_is_refused_at_setup(bad):
    words = r"is no metric.*lb\.Metric.*torchmetrics|the name 'acc' where a metric is due"
    with pytest.raises(ArgumentTypeError, match=words):
        lb.setup(Same(), mean_of_target, torch.optim.SGD, metrics=bad)


@pytest.mark.parametrize("bad", [Accuracy, [Accuracy], [torchmetrics.MeanSquaredError, Count()]])
def test_a_class_is_refused_where_an_instance_is_due(bad):
    with pytest.raises(ArgumentTypeError, match=r"the class (\w+) where an instance .* write \1\("):
        lb.setup(Same(), mean_of_target, torch.optim.SGD, metrics=bad)


def test_a_set_shows_what_it_holds():
    given = as_metric_set([Accuracy()])
    assert repr(given) == "MetricSet(train=[Accuracy()], valid=[Accuracy()])"
    assert as_metric_set(given) is given
    assert as_metric_set(None).train == as_metric_set(()).valid == []


# Values


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (3, 3.0),
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (torch.tensor(0.25, requires_grad=True), 0.25),
        (torch.tensor(0.25, dtype=torch.bfloat16), 0.25),
        (torch.tensor([7]), 7.0),
        (math.nan, math.nan),
    ],
    ids=str,
)
def test_a_number_of_any_kind_is_recorded_as_a_float(data, value, recorded):
    class Value(lb.Metric):
        def update(self, preds, target):
            pass

        def compute(self):
            return value

    got = records(fit(*data, Value()))["value"]
    assert type(got) is float
    assert got == pytest.approx(recorded, nan_ok=True)


@pytest.mark.parametrize(
    "value",
    [torch.arange(6).reshape(2, 3), np.arange(24.0).reshape(2, 3, 4), [0.5, 1], torch.zeros(0)],
    ids=lambda value: str(np.shape(value)),
)
def test_an_array_is_recorded_in_its_shape(data, value):
    kind = lb.metric("Value", update=lambda *_: None, compute=lambda self: value)
    got = records(fit(*data, kind()))["value"]
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, np.asarray(value))


@pytest.mark.parametrize("value", ["high", object(), None], ids=lambda v: type(v).__name__)
def test_what_is_no_number_cannot_be_recorded(data, value):
    kind = lb.metric("Value", update=lambda *_: None, compute=lambda self: value)
    with pytest.raises(TypeError, match="got " + type(value).__name__) as caught:
        fit(*data, kind())
    assert isinstance(caught.value, LumbreError)
    (note,) = notes(caught.value)
    assert note.startswith("in Value.compute: epoch 1")


def test_the_values_so_far_can_be_read_at_any_batch(data):
    x = torch.arange(10.0)
    seen = []

    @lb.on("on_train_batch_end")
    def read(ctx):
        seen.append(ctx.get_metrics("train"))

    fit(x, torch.zeros(10), [MAE(), Count()], callbacks=read)
    assert [values["mae"] for values in seen] == pytest.approx([1.5, 3.5, 4.5])
    assert [values["count"] for values in seen] == [4, 8, 10]


# Errors


class Boom(Exception):
    pass


@pytest.mark.parametrize("method", ["reset", "update", "compute"])
def test_what_a_metric_raises_keeps_its_type_and_gains_one_note(method):
    class Mine(lb.Metric):
        def reset(self):
            self.fail("reset")

        def update(self, preds, target):
            self.fail("update")

        def compute(self):
            self.fail("compute")
            return 0.0

        def fail(self, where):
            last = {"reset": 0, "update": 17, "compute": 20}[where]
            if where == method and self.ctx.epoch == 2 and self.ctx.iter == last:
                raise Boom("mine")

    x = torch.zeros(20)
    with pytest.raises(Boom) as caught:
        fit(x, x, [MAE(), Mine()], epochs=3, batch_size=1)
    assert caught.value.args == ("mine",)
    (note,) = notes(caught.value)
    iteration = {"reset": "", "update": ", iteration 17", "compute": "(, iteration 20)?"}[method]
    assert re.fullmatch(rf"in Mine\.{method}: epoch 2{iteration}, training", note)


def test_the_note_says_so_when_it_was_in_validation(data):
    class Mine(lb.Metric):
        def update(self, preds, target):
            if not self.ctx.training:
                raise Boom

        def compute(self):
            return 0.0

    with pytest.raises(Boom) as caught:
        fit(*data, Mine(), valid_data=data)
    assert notes(caught.value) == ["in Mine.update: epoch 1, iteration 1, validation"]


def test_every_error_has_a_note_when_epochs_survive_them(data):
    class Mine(lb.Metric):
        def update(self, preds, target):
            raise Boom

        def compute(self):
            return 0.0

    notes = []

    @lb.on("on_fit_begin")
    def survive(ctx):
        ctx.epoch_handlers[Boom] = lambda ctx, error: notes.append(getattr(error, "__notes__", []))

    fit(*data, Mine(), epochs=3, callbacks=survive)
    assert notes == [[f"in Mine.update: epoch {n}, iteration 1, training"] for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("metric", "x", "y", "error", "text"),
    [
        (Accuracy(), torch.zeros(8, 3), torch.tensor([0, 1, 2, 0, 1, 3, 0, 1]), TargetError, "3"),
        (Accuracy(), torch.zeros(8, 3), -torch.ones(8).long(), TargetError, "-1"),
        (Accuracy(), torch.zeros(8, 3), torch.zeros(8, 3), ShapeError, "one-hot"),
        (Accuracy(), torch.zeros(8, 3), torch.zeros(8), DTypeError, "long"),
        (MSE(), torch.zeros(8, 3), torch.zeros(8, 2), ShapeError, "shape"),
    ],
)
@pytest.mark.parametrize("where", [torch.Tensor, Foreign])
def test_a_batch_that_cannot_be_measured_is_an_error_with_its_place(
    metric, x, y, error, text, where
):
    name = type(metric).__name__
    with pytest.raises(error) as caught:
        fit(x, y, metric, model=Same(where))
    if where is torch.Tensor:
        iteration = 2 if y.dtype == torch.long and y.max() > 0 else 1
        assert text in str(caught.value)
        place = rf"in {name}\.update: epoch 1, iteration {iteration}, training"
    elif error is TargetError:  # it is known when the value is read
        place = rf"in {name}\.compute: epoch 1(, iteration 2)?, training"
    else:
        place = rf"in {name}\.update: epoch 1, iteration 1, training"
    (note,) = notes(caught.value)
    assert re.fullmatch(place, note)


def test_a_complex_prediction_is_an_error_with_its_place(data):
    x = torch.complex(*data[0][None].expand(2, 10, 3))
    loss = lambda pred, target: pred.abs().mean()  # noqa: E731
    with pytest.raises(DTypeError, match="complex64") as caught:
        fit(x, data[1], Accuracy(), loss=loss)
    assert notes(caught.value) == ["in Accuracy.update: epoch 1, iteration 1, training"]


def test_a_metric_that_needs_a_target_says_that_there_is_none(data):
    trainable = lb.setup(Same(), lambda pred, target: pred.mean(), torch.optim.SGD, MAE())
    with pytest.raises(DTypeError, match="target is NoneType"):
        trainable.set_opt_hparams(lr=0.0).fit(data[0], epochs=1, verbose=False)


# Predictions that Rust does not read


def test_tensors_that_are_not_plain_are_measured_alike(data):
    metrics = [Accuracy(), Count()]
    plain, foreign = (
        fit(*data, metrics, epochs=2, valid_data=data, model=Same(kind))
        for kind in (torch.Tensor, Foreign)
    )
    assert plain.records["metrics"] == foreign.records["metrics"]
    x = data[0]
    plain, foreign = (
        records(fit(x, x + 2, [MAE(), MSE(), RMSE()], model=Same(kind)))
        for kind in (torch.Tensor, Foreign)
    )
    assert plain == pytest.approx(foreign)


def test_a_column_against_a_row_is_warned_about_once_and_counted_by_every_metric():
    x, y = torch.arange(10.0)[:, None], torch.zeros(10)
    for kind in (torch.Tensor, Foreign):
        with pytest.warns(ShapeWarning, match="squeeze") as told:
            values = records(fit(x, y, [Count(), MSE(), MAE(), RMSE()], model=Same(kind), epochs=3))
        assert (values["count"], values["mae"], values["mse"]) == pytest.approx((10, 4.5, 28.5))
        assert values["rmse"] == pytest.approx(28.5**0.5)
        if kind is torch.Tensor:
            assert len(told) == 1


# The loss


def test_the_loss_is_the_mean_over_samples_with_a_short_last_batch():
    y = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1, 8, 8])
    fitted = fit(torch.zeros(10), y, valid_data=(torch.zeros(5), y[5:]))
    assert records(fitted) == {"loss": pytest.approx(2.0)}
    assert records(fitted, "valid") == {"loss": pytest.approx(y[5:].mean())}


def test_the_loss_is_weighted_by_the_batch_size_that_a_callback_sets():
    sizes = []

    @lb.on("on_train_batch_begin")
    def weigh(ctx):
        sizes.append(ctx.batch_size)
        ctx.batch_size = 1 if ctx.iter == 1 else 3

    y = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1])
    assert records(fit(torch.zeros(8), y, callbacks=weigh)) == {"loss": 0.75}
    assert sizes == [4, 4], "the next batch has its own size again"


def test_without_a_target_the_input_says_how_many_samples_there_are():
    trainable = lb.setup(Same(), lambda pred, target: pred.mean(), torch.optim.SGD)
    fitted = trainable.set_opt_hparams(lr=0.0).fit(
        torch.tensor([0.0, 0, 0, 0, 6]),
        epochs=1,
        verbose=False,
        dataloader_options={"batch_size": 4, "shuffle": False},
    )
    assert records(fitted) == {"loss": pytest.approx(1.2)}


@pytest.mark.parametrize("loss", [mean_of_target, MeanOfTarget()])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", [torch.Tensor, Foreign])
def test_a_loss_that_is_not_finite_is_warned_about_once_with_its_place(loss, bad, kind):
    y = torch.zeros(5, 4)
    y[2:4] = bad
    with pytest.warns(NonFiniteLossWarning) as told:
        fitted = fit(
            torch.zeros(20),
            y.flatten(),
            loss=lambda pred, target: loss(pred, target).as_subclass(kind),
            epochs=3,
        )
    assert len(told) == 1
    assert f"is {'NaN' if math.isnan(bad) else 'inf'} at epoch 1, iteration 3" in str(
        told[0].message
    )
    assert not math.isfinite(records(fitted)["loss"])


@pytest.mark.parametrize("kind", [torch.Tensor, Foreign])
def test_several_optimizers_have_a_loss_each(kind):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(1, 1), nn.Linear(1, 1)

        def set_optimizers(self):
            return {n: torch.optim.SGD(getattr(self, n).parameters(), lr=0.0) for n in "ab"}

        def forward(self, x):
            return self.a(x) if self.ctx.opt_name == "a" else self.b(x)

        def loss(self, pred, target):
            factor = 1 if self.ctx.opt_name == "a" else 10
            return (0 * pred.sum() + factor * target.mean()).as_subclass(kind)

    y = torch.tensor([0.0, 0, 0, 0, 5])
    fitted = lb.setup(Two(), metrics=[Count()]).fit(
        (torch.zeros(5, 1), y),
        epochs=2,
        valid_data=(torch.zeros(5, 1), y + 1),
        verbose=False,
        dataloader_options={"batch_size": 4, "shuffle": False},
    )
    assert records(fitted) == {"loss_a": 1.0, "loss_b": 10.0, "count": 5}
    assert records(fitted, "valid") == {"loss_a": 2.0, "loss_b": 20.0, "count": 5}


@pytest.mark.parametrize("value", [2, 2.0, np.float64(2), np.float32(2), torch.tensor([2.0])])
def test_a_step_of_ones_own_may_leave_any_number_as_loss(value):
    class Own(Same):
        def step(self, ctx):
            ctx.pred = self(ctx.input)
            ctx.loss = value

    fitted = lb.setup(Own()).fit((torch.zeros(4), torch.zeros(4)), epochs=1, verbose=False)
    assert records(fitted) == {"loss": 2.0}


def test_a_loss_that_is_no_number_is_an_error():
    class Own(Same):
        def step(self, ctx):
            ctx.pred = self(ctx.input)
            ctx.loss = torch.ones(3)

    with pytest.raises(ShapeError, match=r"scalar tensor; got \(3,\).*loss\.mean\(\)"):
        lb.setup(Own()).fit((torch.zeros(4), torch.zeros(4)), epochs=1, verbose=False)


@pytest.mark.parametrize(
    "made", [lambda x: (x, 1.0), lambda x: (x,), lambda x: [x, x], lambda x: {"mse": x}]
)
def test_a_loss_of_several_parts_in_validation_is_to_be_their_sum(made):
    def loss(pred, target):
        value = (pred - target).square().mean()
        return value if pred.requires_grad else made(value)

    setup = lb.setup(nn.Linear(1, 1), loss, torch.optim.SGD).set_opt_hparams(lr=0.1)
    data = torch.zeros(4, 1), torch.zeros(4, 1)
    refused = ShapeError, ArgumentTypeError
    with pytest.raises(refused, match=r"(return|give) the sum and.*\(total, \{"):
        setup.fit(data, 1, valid_data=data, verbose=False)


def test_nothing_waits_for_a_loss_on_a_device():
    asked = []

    class Far(torch.Tensor):
        def __float__(self):
            asked.append("float")
            return super().__float__()

        def item(self):
            asked.append("item")
            return super().item()

    seen = []

    @lb.on("on_train_batch_end")
    def look(ctx):
        seen.append(list(asked))

    y = torch.arange(12.0)
    fitted = fit(y, y, loss=lambda p, t: mean_of_target(p, t).as_subclass(Far), callbacks=look)
    assert seen == [[], [], []]
    assert records(fitted) == {"loss": 5.5}


def test_losses_on_a_device_are_the_mean_that_rust_keeps():
    torch.manual_seed(4)
    batches = [(torch.randn(()).double(), float(size)) for size in (32, 32, 32, 7, 0)]
    losses = Losses()
    for iter_, (loss, weight) in enumerate(batches, 1):
        losses.add(1, loss.reshape(1), weight, iter_)
        losses.add(0, loss.float(), 1.0, iter_)
    (one, mean, weight, bad), (zero, plain, count, _) = losses.take()
    total = sum(loss * weight for loss, weight in batches)
    assert (one, zero, weight, count, bad) == (1, 0, 103, 5, 0)
    assert mean == pytest.approx(float(total) / 103)
    assert plain == pytest.approx(float(sum(loss for loss, _ in batches)) / 5, rel=1e-6)
    assert losses.take() == []


def test_losses_on_a_device_know_the_first_that_is_not_finite():
    losses = Losses()
    for iter_, loss in enumerate([1.0, math.inf, math.nan], 1):
        losses.add(0, torch.tensor(loss), 4.0, iter_)
    ((_, mean, _, bad),) = losses.take()
    assert math.isnan(mean)
    assert bad == 2


def test_a_batch_without_weight_leaves_the_mean_as_it_is():
    losses = Losses()
    losses.add(0, torch.tensor(2.0), 4.0, 1)
    losses.add(0, torch.tensor(math.nan), 0.0, 2)
    assert losses.take() == [(0, 2.0, 4.0, 2)]
    losses.add(0, torch.tensor(2.0), 0.0, 1)
    ((_, mean, weight, _),) = losses.take()
    assert math.isnan(mean)
    assert weight == 0


# Batches that are left


@pytest.mark.parametrize("kind", [torch.Tensor, Foreign])
@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_train_batch_end"])
def test_a_skipped_batch_counts_in_neither_loss_nor_metric(hook, kind):
    @lb.on(hook)
    def skip(ctx):
        if ctx.iter in (1, 3):
            ctx.skip_batch()

    x, y = torch.zeros(16), torch.arange(16.0)
    loss = lambda pred, target: mean_of_target(pred, target).as_subclass(kind)  # noqa: E731
    values = records(fit(x, y, MAE(), loss=loss, model=Same(kind), callbacks=skip, epochs=2))
    kept = y[[4, 5, 6, 7, 12, 13, 14, 15]].mean()
    assert values == {"loss": pytest.approx(kept), "mae": pytest.approx(kept)}


# torchmetrics


def test_a_torchmetric_is_taken_as_it_is(data):
    inner = torchmetrics.Accuracy(task="multiclass", num_classes=3)
    fitted = fit(*data, inner, epochs=2, valid_data=(data[0][:5], data[1][:5]))
    expected = copy.deepcopy(inner)(*data).item()
    assert records(fitted)["multiclassaccuracy"] == pytest.approx(expected)
    expected = inner.clone()(data[0][:5], data[1][:5]).item()
    assert records(fitted, "valid")["multiclassaccuracy"] == pytest.approx(expected)
    assert inner.update_count == 0


def test_a_torchmetric_may_have_many_values(data):
    metrics = [
        torchmetrics.F1Score(task="multiclass", num_classes=3, average=None),
        torchmetrics.ConfusionMatrix(task="multiclass", num_classes=3),
    ]
    values = records(fit(*data, metrics))
    assert list(values) == ["loss", "multiclassf1score", "multiclassconfusionmatrix"]
    for metric, value in zip(metrics, list(values.values())[1:], strict=True):
        np.testing.assert_allclose(value, metric(*data).numpy(), rtol=1e-6)


def test_two_torchmetrics_of_a_kind_are_told_apart_by_an_attribute(data):
    one, two = (torchmetrics.MeanSquaredError(squared=squared) for squared in (True, False))
    x = data[0]
    with pytest.raises(MetricError, match=r'"meansquarederror".*attribute `name`'):
        fit(x, x + 2, [one, two])
    two.name = "root"
    values = records(fit(x, x + 2, [one, two]))
    assert values == {
        "loss": pytest.approx((x + 2).mean()),
        "meansquarederror": pytest.approx(4),
        "root": pytest.approx(2),
    }


def test_a_torchmetric_says_which_way_is_better():
    metrics = [
        torchmetrics.MeanSquaredError(),
        torchmetrics.Accuracy(task="binary"),
        torchmetrics.ConfusionMatrix(task="binary"),
    ]
    directions = [each.direction for each in as_metric_set(metrics).train]
    assert directions == ["min", "max", None]


def test_what_a_torchmetric_raises_names_the_torchmetric(data):
    with pytest.raises(RuntimeError) as caught:
        fit(*data, torchmetrics.MeanSquaredError())
    assert notes(caught.value) == ["in MeanSquaredError.update: epoch 1, iteration 1, training"]


# What bookkeeping costs


class Ops(TorchDispatchMode):
    """Counts the torch ops that run."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_fit_runs_the_torch_ops_of_a_loop_by_hand_and_no_other():
    def ops_of_a_fit(batches, metrics):
        loader = torch.utils.data.DataLoader(batches, batch_size=None)
        trainable = lb.setup(nn.Linear(3, 3), nn.CrossEntropyLoss(), torch.optim.SGD, metrics)
        with Ops() as ops:
            trainable.set_opt_hparams(lr=0.1).fit(loader, epochs=1, verbose=False)
        return ops.count

    def ops_by_hand(batches):
        model, loss = nn.Linear(3, 3), nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Ops() as ops:
            for x, y in torch.utils.data.DataLoader(batches, batch_size=None):
                loss(model(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
        return ops.count

    batches = [(torch.randn(8, 3), torch.randint(0, 3, (8,))) for _ in range(12)]
    # What a run does once is left out: of each, ten further batches.
    by_hand = ops_by_hand(batches) - ops_by_hand(batches[:2])
    for metrics in (None, [Accuracy(), Accuracy(name="again")]):
        assert ops_of_a_fit(batches, metrics) - ops_of_a_fit(batches[:2], metrics) == by_hand
    assert by_hand["addmm"] == 10


def test_a_collection_of_torchmetrics_keeps_its_names():
    collection = torchmetrics.MetricCollection(
        {
            "F1_micro": torchmetrics.classification.MulticlassF1Score(3, average="micro"),
            "F1_macro": torchmetrics.classification.MulticlassF1Score(3, average="macro"),
        }
    )
    for given in (collection, [Accuracy(), collection]):
        names = [each.record_name for each in as_metric_set(given).train]
        assert sorted(names[-2:]) == ["f1_macro", "f1_micro"]
