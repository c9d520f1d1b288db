"""What is taken as metrics: copies of them, and those that compute several values at once."""

import copy
import threading
import warnings

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn

import lumbre as lb
from lumbre._core import Monitor
from lumbre.errors import ArgumentTypeError, MetricError, MonitorError

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


def fit(*metrics, callbacks=(), epochs=2):
    net = lb.setup(nn.Linear(4, 3), nn.CrossEntropyLoss(), torch.optim.SGD, metrics=list(metrics))
    net = net.set_opt_hparams(lr=0.01)
    return net.fit(
        [X, Y],
        valid_data=[X, Y],
        epochs=epochs,
        callbacks=list(callbacks),
        accelerator=lb.Accelerator(cpu=True),
        verbose=False,
    )


def records(*metrics, **options):
    return fit(*metrics, **options).records["metrics"]["valid"][-1]


class Several(lb.Metric):
    """Computes what it is given, as a dict."""

    def __init__(self, **values):
        self.values = values

    def update(self, preds, target): ...

    def compute(self):
        return self.values


def classwise():
    accuracy = torchmetrics.classification.MulticlassAccuracy(3, average=None)
    return torchmetrics.ClasswiseWrapper(accuracy, labels=["cat", "dog", "owl"], prefix="acc_")


def minmax():
    return torchmetrics.MinMaxMetric(torchmetrics.classification.MulticlassAccuracy(3))


def test_each_entry_of_a_dict_is_a_record():
    last = records(classwise(), minmax())
    assert [*last] == ["loss", "acc_cat", "acc_dog", "acc_owl", "raw", "max", "min"]
    assert all(isinstance(value, float) for value in last.values())


def test_entries_in_a_collection_are_records_too():
    last = records(torchmetrics.MetricCollection({"of_classes": classwise()}))
    assert [*last] == ["loss", "acc_cat", "acc_dog", "acc_owl"]


def test_dicts_in_dicts_and_vectors_are_taken_apart_and_kept():
    inner = {"low": 1, "high": torch.tensor([2.0, 3.0])}
    last = records(Several(whole={"part": inner, 7: True}, many=[4, 5]))
    assert last["whole_part_low"] == 1
    assert last["whole_7"] == 1
    assert np.array_equal(last["whole_part_high"], [2, 3])
    assert np.array_equal(last["many"], [4, 5])


def test_an_empty_dict_leaves_no_record():
    assert [*records(Several())] == ["loss"]


def test_a_name_that_was_given_stands_before_the_entries():
    one, two = classwise(), Several(cat=1.0)
    one.name, two.name = "a", "b"
    assert [*records(one, two)] == ["loss", "a_acc_cat", "a_acc_dog", "a_acc_owl", "b_cat"]


@pytest.mark.parametrize("other", [Several(loss=1.0), Several(acc=1.0)], ids=["loss", "acc"])
def test_an_entry_that_is_called_as_another_record_is_refused_with_the_mend(other):
    name = next(iter(other.values))
    with pytest.raises(MetricError, match=rf'recorded as "{name}".*metric\.name = "first"'):
        fit(lb.metrics.Accuracy(), other)
    other = copy.deepcopy(other)
    other.name = "first"
    assert f"first_{name}" in records(lb.metrics.Accuracy(), other)


@pytest.mark.parametrize("bad", [None, "x", object()])
def test_an_entry_that_is_no_number_is_refused(bad):
    with pytest.raises(ArgumentTypeError, match=f"got {type(bad).__name__}"):
        fit(Several(a=1.0, b=bad))


def test_entries_are_watched_and_logged_without_a_warning(tmp_path):
    watch = lb.callbacks.EarlyStopping(monitor="valid_acc_cat", mode="max", patience=9)
    seen = []

    @lb.on("on_valid_batch_end")
    def look(ctx):
        seen.append(ctx.get_metric("acc_dog", "valid"))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logger = lb.callbacks.CSVLogger(tmp_path / "log.csv")
        fitted = fit(classwise(), callbacks=[watch, look, logger])
    assert "acc_owl" in (tmp_path / "log.csv").read_text()
    last = fitted.records["metrics"]["valid"][-1]
    assert seen[-1] == last["acc_dog"]
    assert set(fitted.evaluate([X, Y]).metrics) == set(last)


def test_a_name_that_no_entry_has_is_an_error_once_they_are_known():
    watch = lb.callbacks.EarlyStopping(monitor="valid_acc_cow", mode="max")
    with pytest.raises(lb.LumbreError, match="valid_acc_cat, valid_acc_dog"):
        fit(classwise(), callbacks=[watch])


def test_a_name_that_is_asked_for_in_vain_computes_what_is_known_no_more():
    computed = []

    class Counted(Several):
        def compute(self):
            computed.append(1)
            return super().compute()

    watch = Monitor("Test", "train_nothing_such")

    @lb.on("on_train_batch_end")
    def look(ctx):
        with pytest.raises(MonitorError, match="nothing_such"):
            watch.value(ctx)

    fit(Counted(a=1.0), callbacks=[look], epochs=1)
    assert len(computed) == 1 + 2, "once to see what there is, then as each pass ends"


def test_a_metric_that_cannot_be_copied_is_named_with_the_mend():
    metric = Several(lock=threading.Lock())
    with pytest.raises(
        MetricError, match=r'"several" cannot be copied .*lock.*__deepcopy__'
    ) as told:
        fit(metric)
    assert isinstance(told.value.__cause__, TypeError)

    class Mended(Several):
        def __deepcopy__(self, memo):
            return type(self)(a=1.0)

    assert records(Mended(lock=threading.Lock()))["a"] == 1


def test_a_format_of_its_own_is_told_from_the_one_that_all_have():
    class Percent(Several):
        name = "share"

        def compute(self):
            return np.array([0.25, 0.75])

        def format(self, value):
            return " ".join(f"{x:.0%}" for x in value)

    shown = []

    @lb.on("on_epoch_end")
    def look(ctx):
        values = ctx.get_metrics("valid")
        shown.append(ctx._formatted("valid", values, short=True))

    class Plain(Several):
        name = "plain"

        def compute(self):
            return np.array([0.25, 0.75])

    fit(Percent(), Plain(), callbacks=[look], epochs=1)
    assert shown[0]["share"] == "25% 75%"
    assert "plain" not in shown[0]
