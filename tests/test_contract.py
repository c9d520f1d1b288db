"""Names, arguments and defaults that users write down, each one as it was promised.

The tables are typed by hand: whoever changes a signature changes what other people's code means.
"""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

import lumbre as lb
from places import TESTS

DEFAULT = ["Profile", "TrainValid", "Metrics", "Progress", "Interrupt"]
CALLBACKS = {
    **dict.fromkeys(DEFAULT, ""),
    "EarlyStopping": "monitor='valid_loss', min_delta=0.0, patience=0, mode='min', baseline=None",
    "ModelCheckpoint": (
        "path, monitor='valid_loss', save_best_only=False, mode='min', min_delta=0.0, keep=None"
    ),
    "KeepBestModel": "monitor='valid_loss', mode='min', min_delta=0.0",
    "AutoResume": (
        "path='./state.safetensors', every='epoch', finished='delete', changed='refuse', "
        "skip='replay', signals=(<Signals.SIGTERM: 15>,)"
    ),
    "ResumeFromCheckpoint": (
        "path, restore_model_state=True, restore_records=False, restore_optimizer_state=False, "
        "restore_callbacks_state=False"
    ),
    "LRScheduler": (
        "scheduler, *, call_on='on_epoch_end', opt_name=None, monitor='valid_loss', "
        "**scheduler_options"
    ),
    "CSVLogger": "path",
    "JSONLogger": "path, every=None",
    "TensorBoard": "logdir, histograms=False, every=None",
    "StepHistory": "every=1, grad_norm=False",
    "Throughput": "items=None",
    "GradientClip": "max_norm=1.0, norm_type=2.0, opt_name=None",
    "GradientAccumulation": "steps, opt_name=None",
    "MixedPrecision": "dtype=None",
    "Mixup": "alpha=0.4, run_valid=False, auto_loss=False",
    "EMA": "decay=0.999",
    "TerminateOnNaN": "",
}
METRICS = {
    **dict.fromkeys(("Accuracy", "MAE", "MSE", "RMSE", "R2"), "*, name=None"),
    **dict.fromkeys(("BinaryAccuracy", "BinaryAccuracyWithLogits"), "threshold=0.5, *, name=None"),
    **dict.fromkeys(("Precision", "Recall", "F1"), "average='macro', *, name=None"),
    "BinaryAUROC": "num_thresholds=None, thresholds=None, from_logits=False, *, name=None",
    "MulticlassAUROC": (
        "average='macro', num_thresholds=None, thresholds=None, from_logits=False, *, name=None"
    ),
    "ConfusionMatrix": "normalize=None, *, name=None",
    "TopKAccuracy": "k=5, *, name=None",
    "Mean": "function, *, name=None, direction=None",
}
NN = {"MixedTarget": "first, second, weight", "MixupLoss": "loss", "mixup": "x, y, weight"}
_RUN = "accelerator=None, verbose=None, dataloader_options=None"
_SLICES = "*, steps_per_epoch=None, valid_steps=None, valid_every=1"
_LIMITS = "max_steps=None, max_time=None"
FUNCTIONS = {
    "setup": "module, loss=None, optimizer=None, metrics=None, backward=None",
    "Trainable.set_hparams": "self, **hparams",
    "Trainable.set_opt_hparams": "self, **opt_hparams",
    "Trainable.fit": f"self, data, epochs=10, callbacks=(), valid_data=None, {_RUN}, "
    f"{_SLICES}, valid_first=False, {_LIMITS}",
    "Trainable.explain": f"self, data, epochs=10, callbacks=(), valid_data=None, {_RUN}, "
    f"{_SLICES}, valid_first=False, {_LIMITS}",
    "Trainable.lr_finder": (
        "self, data, steps=100, start_lr=1e-07, end_lr=0.1, log_spaced_intervals=True, "
        f"opt_name=None, {_RUN}, callbacks=()"
    ),
    "Fitted.predict": f"self, data, callbacks=(), {_RUN}, stack=True, steps=None",
    "Fitted.evaluate": f"self, data, metrics=None, callbacks=(), {_RUN}, steps=None",
    "Fitted.get_metrics": "self",
    "Fitted.get_steps": "self",
    "Fitted.plot": "self, *names, x='epoch'",
    "Fitted.save": "self, path",
    "Evaluation.get_metrics": "self",
    "LRRecords.to_pandas": "self",
    "LRRecords.plot": "self",
    "LRRecords.suggestion": "self, method='valley'",
    "run": (
        "model, optimizers, metrics=None, callbacks=(), epochs=10, loss=None, accelerator=None, "
        f"verbose=None, {_SLICES}, {_LIMITS}"
    ),
    "load": "path, module=None, *, hparams=None, loss=None, metrics=None",
    "save_model_weights": "fitted, path",
    "load_model_weights": "fitted, path",
    "load_checkpoint": "fitted_or_ctx, path",
    "as_dataloader": "data, **dataloader_options",
    "Accelerator": "device=None, cpu=False, device_placement=True, mixed_precision=None",
    "schedule": "callbacks=()",
    "every": "n",
    "epochs": "first, last=None",
    "once": "method=None",
    "on": (
        "hook, *, every=None, once=False, epochs=None, weight=0.0, after=(), before=(), name=None"
    ),
    "metric": (
        "name, /, *, update, compute, initialize=None, "
        "inherit=<class 'lumbre.metrics.base.Metric'>, **members"
    ),
    "callback": (
        "name, /, *, initialize=None, inherit=<class 'lumbre.hooks.callback.Callback'>, **members"
    ),
    "MetricSet": "metrics=None, train_metrics=None, valid_metrics=None",
    "Metric.reset": "self",
    "Metric.update": "self, preds, target",
    "Metric.compute": "self",
    "Metric.format": "self, value",
}
CTX = {
    "log": "self, what, set, value, index=None, append=True",
    "log_mean": "self, /, name, value, weight=None",
    "log_metric": "self, /, name, value, set=None",
    "get_log": "self, what, set, index=None",
    "get_metrics": "self, /, set, epoch=None",
    "get_metric": "self, name, set, epoch=None",
    "get_formatted_metrics": "self, set, epoch=None",
    "get_metrics_df": "self",
    "call_callbacks": "self, /, name",
    "stop": "self, /, reason='', *, resumable=False",
    "skip_epoch": "self, /",
    "skip_batch": "self, /",
    "state_dict": "self",
    "load_state_dict": (
        "self, state, *, model=True, optimizers=True, callbacks=True, records=True, "
        "progress=True, rng=True"
    ),
    "epochs": "self",
    "train": "self, loader",
    "valid": "self, loader",
    "forward": "self",
    "compute_loss": "self",
    "backward": "self, loss=None, name=None",
    "step_optimizer": "self, name=None, closure=None",
    "record": "self, /, pred, target, loss",
}


def shown(function: Callable[..., Any]) -> str:
    """The arguments of a function or class as they are written, without types."""
    signature = inspect.signature(function)
    bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))[1:-1]


def named(path: str) -> Callable[..., Any]:
    found: Any = lb
    for part in path.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


SIGNATURES = {
    **{f"callbacks.{name}": text for name, text in CALLBACKS.items()},
    **{f"metrics.{name}": text for name, text in METRICS.items()},
    **{f"nn.{name}": text for name, text in NN.items()},
    **{f"Context.{name}": text for name, text in CTX.items()},
    **FUNCTIONS,
}


@pytest.mark.parametrize("path", SIGNATURES)
def test_arguments_and_defaults_are_those_that_were_promised(path: str) -> None:
    assert shown(named(path)) == SIGNATURES[path]


def test_the_tables_name_all_there_is() -> None:
    assert set(lb.callbacks.__all__) == set(CALLBACKS)
    assert set(lb.metrics.__all__) == set(METRICS)
    assert set(lb.nn.__all__) == set(NN)
    functions = {name for name in lb.__all__ if inspect.isfunction(getattr(lb, name))}
    assert len(functions) > 10
    assert functions <= set(FUNCTIONS)
    methods = {name for name in dir(lb.Context) if callable(getattr(lb.Context, name))}
    assert {name for name in methods if name[0] != "_"} == set(CTX)


def test_all_of_it_is_there_after_a_plain_import() -> None:
    assert callable(lb.callbacks.EMA)
    assert callable(lb.metrics.R2)
    assert callable(lb.nn.mixup)


@pytest.mark.parametrize(
    ("kind", "abbrev", "direction"),
    [
        ("Accuracy", "acc", "max"),
        ("BinaryAccuracy", "acc", "max"),
        ("BinaryAccuracyWithLogits", "acc", "max"),
        ("MAE", "mae", "min"),
        ("MSE", "mse", "min"),
        ("RMSE", "rmse", "min"),
        ("BinaryAUROC", "auroc", "max"),
        ("MulticlassAUROC", "auroc", "max"),
        ("Precision", "precision", "max"),
        ("Recall", "recall", "max"),
        ("F1", "f1", "max"),
        ("R2", "r2", "max"),
    ],
)
def test_a_metric_is_recorded_under_its_abbreviation(
    kind: str, abbrev: str, direction: str
) -> None:
    metric = getattr(lb.metrics, kind)()
    assert (metric.record_name, metric.direction) == (abbrev, direction)
    assert getattr(lb.metrics, kind)(name="mine").record_name == "mine"


def test_two_averages_of_one_kind_live_side_by_side() -> None:
    metrics = [lb.metrics.F1(), lb.metrics.F1(average="micro", name="f1_micro")]
    net = lb.setup(torch.nn.Linear(2, 3), torch.nn.CrossEntropyLoss(), torch.optim.SGD, metrics)
    draw = torch.Generator().manual_seed(1)
    data = [torch.randn(8, 2, generator=draw), torch.randint(0, 3, (8,), generator=draw)]
    fitted = net.fit(data, epochs=1, verbose=False)
    assert list(fitted.records["metrics"]["train"][0]) == ["loss", "f1", "f1_micro"]


def test_each_callback_that_is_not_default_has_a_file_of_tests_of_its_own() -> None:
    names = [name for name in lb.callbacks.__all__ if name not in DEFAULT]
    assert len(names) == 17
    for name in names:
        stem = inspect.getmodule(getattr(lb.callbacks, name)).__name__.rpartition(".")[2]  # type: ignore[union-attr]
        assert [*(TESTS / "callbacks").rglob(f"test_{stem}.py")], name
