"""Two laws, held over everything public: nothing in silence, and first the word and then the work.

The third one, that output never decides whether a run lives, is held in test_output.py.
"""

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import lumbre as lb
from lumbre import errors
from lumbre.callbacks import (
    AutoResume,
    CSVLogger,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    JSONLogger,
    KeepBestModel,
    LRScheduler,
    MixedPrecision,
    Mixup,
    ModelCheckpoint,
    TensorBoard,
)

CPU = lb.Accelerator(cpu=True)
X, Y = torch.randn(12, 2), torch.randn(12, 1)
SGD = torch.optim.SGD


class Junk:
    """Nothing that any argument could mean."""

    def __repr__(self) -> str:
        return "Junk()"


def net(**options: Any) -> lb.Trainable:
    return lb.setup(nn.Linear(2, 1), nn.MSELoss(), SGD, **options).set_opt_hparams(lr=0.1)


def fitted() -> lb.Fitted:
    return net().fit([X, Y], epochs=1, accelerator=CPU, verbose=False)


def quiet_fit(**options: Any) -> lb.Fitted:
    given = {"data": [X, Y], "epochs": 1, "accelerator": CPU, "verbose": False}
    return net().fit(**{**given, **options})


def own_loop(**options: Any) -> None:
    model = nn.Linear(2, 1)
    given = {"model": model, "optimizers": SGD(model.parameters(), 0.1), "verbose": False}
    with lb.run(**{**given, "epochs": 1, "accelerator": CPU, **options}) as ctx:
        for _ in ctx.epochs():
            for x, y in ctx.train([(X, Y)]):
                loss = nn.functional.mse_loss(model(x), y)
                ctx.backward(loss)
                ctx.step_optimizer()
                ctx.record(model(x), y, loss)


def of_metric(kind: str, /, **options: Any) -> None:
    given = {"function": nn.MSELoss(), **options} if kind == "Mean" else options
    net(metrics=getattr(lb.metrics, kind)(**given)).fit(
        [X, Y], epochs=1, accelerator=CPU, verbose=False
    )


# Each public callable with arguments, and a call of it that works.
CALLS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "setup": (
        lb.setup,
        lambda **o: lb.setup(
            **{"module": nn.Linear(2, 1), "loss": nn.MSELoss(), "optimizer": SGD, **o}
        ),
    ),
    "fit": (lb.Trainable.fit, quiet_fit),
    "explain": (
        lb.Trainable.explain,
        lambda **o: net().explain(
            **{"data": [X, Y], "epochs": 1, "accelerator": CPU, "verbose": False, **o}
        ),
    ),
    "lr_finder": (
        lb.Trainable.lr_finder,
        lambda **o: net().lr_finder(
            **{"data": [X, Y], "steps": 9, "accelerator": CPU, "verbose": False, **o}
        ),
    ),
    "evaluate": (
        lb.Fitted.evaluate,
        lambda **o: fitted().evaluate(
            **{"data": [X, Y], "accelerator": CPU, "verbose": False, **o}
        ),
    ),
    "predict": (
        lb.Fitted.predict,
        lambda **o: fitted().predict(**{"data": X, "accelerator": CPU, "verbose": False, **o}),
    ),
    "save": (lb.Fitted.save, lambda **o: fitted().save(**o)),
    "load": (lb.load, lambda **o: lb.load(**{"path": SAVED, "module": nn.Linear(2, 1), **o})),
    "save_model_weights": (
        lb.save_model_weights,
        lambda **o: lb.save_model_weights(**{"fitted": fitted(), "path": SAVED, **o}),
    ),
    "load_model_weights": (
        lb.load_model_weights,
        lambda **o: lb.load_model_weights(**{"fitted": fitted(), "path": SAVED, **o}),
    ),
    "load_checkpoint": (
        lb.load_checkpoint,
        lambda **o: lb.load_checkpoint(**{"fitted_or_ctx": fitted(), "path": SAVED, **o}),
    ),
    "run": (lb.run, own_loop),
    "schedule": (lb.schedule, lambda **o: lb.schedule(**o)),
    "every": (lb.every, lambda **o: lb.every(**{"n": 2, **o})(print_ctx)),
    "epochs": (lb.epochs, lambda **o: lb.epochs(**{"first": 1, **o})(print_ctx)),
    "on": (lb.on, lambda **o: quiet_fit(callbacks=lb.on(**{"hook": "on_fit_end", **o})(print_ctx))),
    "Accelerator": (lb.Accelerator, lambda **o: lb.Accelerator(**o)),
    "MetricSet": (lb.MetricSet, lambda **o: lb.MetricSet(**o)),
    "as_dataloader": (lb.as_dataloader, lambda **o: lb.as_dataloader(o["data"])),
    "EarlyStopping": (EarlyStopping, lambda **o: EarlyStopping(**o)),
    "ModelCheckpoint": (ModelCheckpoint, lambda **o: ModelCheckpoint(**{"path": "x", **o})),
    "KeepBestModel": (KeepBestModel, lambda **o: KeepBestModel(**o)),
    "AutoResume": (AutoResume, lambda **o: AutoResume(**o)),
    "ResumeFromCheckpoint": (
        lb.callbacks.ResumeFromCheckpoint,
        lambda **o: lb.callbacks.ResumeFromCheckpoint(**{"path": "x", **o}),
    ),
    "LRScheduler": (
        LRScheduler,
        lambda **o: LRScheduler(
            **{"scheduler": torch.optim.lr_scheduler.StepLR, "step_size": 1, **o}
        ),
    ),
    "CSVLogger": (CSVLogger, lambda **o: CSVLogger(**{"path": "x", **o})),
    "JSONLogger": (JSONLogger, lambda **o: JSONLogger(**{"path": "x", **o})),
    "TensorBoard": (TensorBoard, lambda **o: TensorBoard(**{"logdir": "x", **o})),
    "GradientClip": (GradientClip, lambda **o: GradientClip(**o)),
    "GradientAccumulation": (
        GradientAccumulation,
        lambda **o: GradientAccumulation(**{"steps": 2, **o}),
    ),
    "MixedPrecision": (MixedPrecision, lambda **o: MixedPrecision(**o)),
    "Mixup": (Mixup, lambda **o: Mixup(**o)),
    "EMA": (lb.callbacks.EMA, lambda **o: lb.callbacks.EMA(**o)),
    "StepHistory": (lb.callbacks.StepHistory, lambda **o: lb.callbacks.StepHistory(**o)),
    "Throughput": (lb.callbacks.Throughput, lambda **o: lb.callbacks.Throughput(**o)),
    **{
        name: (
            getattr(lb.metrics, name),
            partial(of_metric, name),
        )
        for name in lb.metrics.__all__
    },
}
# No argument of these can be wrong: they take anything, or name what others may be called.
FREE = {("on", "after"), ("on", "before")}


def print_ctx(ctx: Any) -> None:
    """Be there."""


def arguments() -> list[tuple[str, str]]:
    return [
        (name, argument)
        for name, (function, _) in CALLS.items()
        for argument, it in inspect.signature(function).parameters.items()
        if argument != "self" and it.kind not in (it.VAR_KEYWORD, it.VAR_POSITIONAL)
    ]


SAVED = ""


@pytest.fixture(scope="module", autouse=True)
def _saved(tmp_path_factory: pytest.TempPathFactory) -> None:
    global SAVED
    SAVED = str(tmp_path_factory.mktemp("laws") / "net.lumbre")
    fitted().save(SAVED)


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_what_no_argument_could_mean_is_refused(name: str, argument: str) -> None:
    call = CALLS[name][1]
    with pytest.raises(errors.LumbreError):
        call(**{argument: Junk()})


def test_the_table_holds_every_public_callable_with_arguments() -> None:
    others = {"Callback", "Context", "Evaluation", "Fitted", "LRRecords", "Metric", "Trainable"}
    others |= {"Rehearsal"}
    others |= {"callback", "metric", "once", "LumbreError", "LumbreWarning", "HOOKS"}
    public = {name for name in lb.__all__ if callable(getattr(lb, name))}
    assert public - others <= set(CALLS)
    bare = {"Interrupt", "Metrics", "Profile", "Progress", "TerminateOnNaN", "TrainValid"}
    assert set(lb.callbacks.__all__) - bare <= set(CALLS)
    assert len(arguments()) > 100


# --- what cannot work is said before the work ---------------------------------------------------


class Counts(lb.Callback):
    """Counts the batches that were worked on."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_begin(self, ctx: Any) -> None:
        self.count += 1

    on_valid_batch_begin = on_predict_batch_begin = on_train_batch_begin


class Expanded(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)
        self.register_buffer("scale", torch.ones(1).expand(4))


def unwritable(make: Any) -> Callable[..., Any]:
    def act(*callbacks: Any, folder: Path) -> None:
        (folder / "file").write_text("")
        quiet_fit(callbacks=[make(folder / "file" / "inside"), *callbacks])

    return act


def with_callbacks(*made: Any, **options: Any) -> Callable[..., Any]:
    def act(*callbacks: Any, folder: Path) -> None:
        own = [each() for each in made]
        module = options.get("module", nn.Linear)
        data = [torch.ones(4, 2), torch.ones(4, 1)]
        given = lb.setup(module, nn.MSELoss(), SGD).set_opt_hparams(lr=0.1)
        if module is nn.Linear:
            given = given.set_hparams(in_features=2, out_features=1)
        given.fit(data, 1, [*own, *callbacks], accelerator=CPU, verbose=False)

    return act


same = EarlyStopping("train_loss")
BEFORE = {
    "AutoResume": unwritable(AutoResume),
    "ModelCheckpoint": unwritable(lambda path: ModelCheckpoint(path, monitor="train_loss")),
    "CSVLogger": unwritable(CSVLogger),
    "JSONLogger": unwritable(JSONLogger),
    "TensorBoard": unwritable(TensorBoard),
    "a url": with_callbacks(lambda: CSVLogger("s3://bucket/log.csv")),
    "a state that torch cannot load": with_callbacks(
        lambda: KeepBestModel("train_loss"), module=Expanded
    ),
    "a checkpoint of it": with_callbacks(lambda: AutoResume("state"), module=Expanded),
    "the same callback twice": with_callbacks(lambda: same, lambda: same),
    "a monitor of data that are not there": with_callbacks(EarlyStopping),
    "an optimizer that is not there": with_callbacks(lambda: GradientClip(opt_name="other")),
    "a flag that is text": lambda *callbacks, folder: quiet_fit(callbacks=callbacks, verbose="no"),
    "two orders": lambda *callbacks, folder: quiet_fit(
        callbacks=callbacks,
        dataloader_options={"shuffle": True, "sampler": RandomSampler(X)},
    ),
}


@pytest.mark.parametrize("case", BEFORE)
def test_what_cannot_work_is_said_before_the_first_batch(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    counts = Counts()
    with pytest.raises((errors.LumbreError, OSError)):
        BEFORE[case](counts, folder=tmp_path)
    assert counts.count == 0


def test_predictions_that_cannot_be_joined_are_refused_at_the_first_batch() -> None:
    class Text(nn.Linear):
        def predict(self, x: Any) -> Any:
            return "text"

    counts = Counts()
    made = lb.setup(Text(2, 1), nn.MSELoss(), SGD).set_opt_hparams(lr=0.1)
    trained = made.fit([X, Y], epochs=1, accelerator=CPU, verbose=False)
    with pytest.raises(errors.JoinError) as caught:
        trained.predict(X, counts, verbose=False, dataloader_options={"batch_size": 4})
    assert counts.count == 1
    assert caught.value.batches == ["text"]


# --- nothing in silence: what has no effect -----------------------------------------------------

loader = DataLoader(TensorDataset(X, Y), batch_size=4)
WITHOUT_EFFECT = {
    "options beside a loader": lambda: quiet_fit(data=loader, dataloader_options={"batch_size": 2}),
    "an option that nobody knows": lambda: quiet_fit(dataloader_options={"batchsize": 2}),
    "order in predict": lambda: fitted().predict(
        X, verbose=False, dataloader_options={"shuffle": True}
    ),
    "a part dropped in evaluate": lambda: fitted().evaluate(
        [X, Y], verbose=False, dataloader_options={"drop_last": True, "batch_size": 8}
    ),
    "a loader that shuffles in predict": lambda: fitted().predict(
        DataLoader(TensorDataset(X, Y), shuffle=True), verbose=False
    ),
    "a sampler beside a fraction": lambda: quiet_fit(
        valid_data=0.5, dataloader_options={"sampler": RandomSampler(X)}
    ),
    "a third item of a batch": lambda: quiet_fit(data=[X, Y, Y]),
    "hparams of a module that is there": lambda: net().set_hparams(width=3),
    "opt_hparams of an optimizer that is there": lambda: lb.setup(
        (model := nn.Linear(2, 1)), nn.MSELoss(), SGD(model.parameters(), 0.1)
    ).set_opt_hparams(lr=0.2),
    "a method that is no breakpoint": lambda: quiet_fit(
        callbacks=lb.callback("Own", on_batch_end=lambda self, ctx: None)()
    ),
    "a monitor that is no metric": lambda: quiet_fit(callbacks=KeepBestModel("train_nothing")),
    "an attribute of ctx": lambda: quiet_fit(
        callbacks=lb.on("on_fit_begin")(lambda ctx: setattr(ctx, "bets", 1))
    ),
    "a checkpoint that is not there": lambda: quiet_fit(
        callbacks=lb.callbacks.ResumeFromCheckpoint("nowhere")
    ),
    "a schedule for another count": lambda: quiet_fit(
        epochs=3,
        dataloader_options={"batch_size": 1},
        callbacks=LRScheduler(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=36),
    ),
    "a precision twice": lambda: quiet_fit(
        accelerator=lb.Accelerator(cpu=True, mixed_precision="bf16"), callbacks=MixedPrecision()
    ),
}


@pytest.mark.parametrize("case", WITHOUT_EFFECT)
def test_what_has_no_effect_is_refused_or_told(case: str) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            WITHOUT_EFFECT[case]()
        except errors.LumbreError:
            return
    assert [each for each in told if issubclass(each.category, lb.LumbreWarning)]
