"""ctx: what it has, what it counts and keeps, and that nothing of it stays behind."""

import copy
import gc
import pickle
import re
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre.errors import ArgumentError, ArgumentTypeError, ContextError
from places import ROOT
from runs import Pair, Scale, Trace, Watched, at, fit, numbered

ATTRIBUTES = [
    "verbose",
    "accelerator",
    "device",
    "model",
    "optimizers",
    "data",
    "train_data",
    "valid_data",
    "min_epochs",
    "max_epochs",
    "epoch",
    "iter",
    "step_count",
    "batch_size",
    "training",
    "callbacks",
    "step",
    "call_callbacks",
    "batch",
    "input",
    "target",
    "pred",
    "loss_fn",
    "loss",
    "loss_grad",
    "opt",
    "opt_name",
    "step_opt",
    "metrics",
    "records",
    "handlers",
    "epoch_handlers",
    "buffers",
    "hparams",
    "opt_hparams",
    "stop_reason",
    "exception",
]
METHODS = [
    "log",
    "log_metric",
    "get_log",
    "get_metrics",
    "get_metric",
    "get_formatted_metrics",
    "get_metrics_df",
    "call_callbacks",
    "stop",
    "skip_epoch",
    "skip_batch",
    "forward",
    "compute_loss",
    "backward",
    "step_optimizer",
    "record",
    "epochs",
    "train",
    "valid",
    "state_dict",
    "load_state_dict",
]
REPLACEABLE = ["loss_fn", "step_opt", "pred", "input", "target", "loss_grad", "batch_size"]


def inside(
    act: Any, *, hook: str = "on_train_batch_end", module: Any = Scale, **options: Any
) -> Any:
    """Act once in a fit, and give what came of it."""
    results = []
    fit(module, at(hook, lambda ctx: results.append(act(ctx))), **options)
    assert len(results) == 1
    return results[0]


# --- the table of attributes and methods --------------------------------------------------------


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_ctx_has_the_attribute_throughout_a_fit(name: str) -> None:
    trace = Trace(lambda hook, ctx: (hook, getattr(ctx, name)))
    # A batch has an input and a size once there is one.
    needs_batch = name in {"batch_size", "input", "target"}
    if needs_batch:
        trace.see = lambda hook, ctx: getattr(ctx, name) if "batch" in hook else None
    fit(Scale, trace)
    assert len(trace.events) > 40


@pytest.mark.parametrize("name", METHODS)
def test_ctx_has_the_method_and_says_what_it_does(name: str) -> None:
    method = inside(lambda ctx: getattr(ctx, name))
    assert callable(method)
    assert method.__doc__


def test_the_page_on_ctx_lists_each_of_them() -> None:
    page = (ROOT / "docs" / "context.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    listed = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    assert {*ATTRIBUTES, *METHODS} <= listed
    assert all(hasattr(lb.Context, name) for name in listed)


@pytest.mark.parametrize("name", REPLACEABLE)
def test_callbacks_may_replace_it(name: str) -> None:
    def replace(ctx: Any) -> None:
        setattr(ctx, name, getattr(ctx, name))

    assert inside(replace) is None


@pytest.mark.parametrize("name", ["epoch", "iter", "step_count", "stop_reason", "records"])
def test_what_the_run_counts_cannot_be_set(name: str) -> None:
    def set_(ctx: Any) -> str:
        with pytest.raises(ContextError) as caught:
            setattr(ctx, name, 3)
        return str(caught.value)

    assert inside(set_) == f"ctx.{name} is kept by the run and cannot be set."


def test_ctx_says_what_the_run_is_made_of() -> None:
    train, valid = numbered(2), numbered(1)
    callback = at("on_epoch_begin", lambda ctx: seen.append(ctx))
    seen: list[Any] = []
    checks = {}

    def look(ctx: Any) -> None:
        checks.update(
            model=isinstance(ctx.model, Scale),
            optimizer=list(ctx.optimizers) == ["opt"] and ctx.opt is ctx.optimizers["opt"],
            loaders=ctx.train_data is train and ctx.valid_data is valid,
            epochs=(ctx.min_epochs, ctx.max_epochs) == (2, 3),
            device=ctx.device == torch.device("cpu") == ctx.accelerator.device,
            verbose=ctx.verbose is False,
            buffers=ctx.buffers == ctx.handlers == ctx.epoch_handlers == {},
            hparams=(ctx.hparams, ctx.opt_hparams) == ({}, {"lr": 0.1}),
            callbacks=callback in ctx.callbacks,
            defaults=isinstance(ctx.callbacks[0], lb.callbacks.Profile),
            metrics=[type(each) for each in ctx.metrics["train"]] == [lb.metrics.MAE],
        )

    fit(
        Scale,
        at("on_fit_begin", look),
        callback,
        data=train,
        valid_data=valid,
        epochs=(2, 3),
        metrics=lb.metrics.MAE(),
        accelerator=lb.Accelerator(cpu=True),
    )
    assert len(checks) == 11
    assert all(checks.values()), checks


def test_ctx_data_is_the_loader_of_the_pass_under_way() -> None:
    def look(hook: str, ctx: Any) -> Any:
        if "train_" in hook or "valid_" in hook:
            return ctx.data is (ctx.train_data if "train_" in hook else ctx.valid_data)
        return True

    trace = Trace(look)
    fit(Scale, trace)
    assert all(trace.events)


def test_buffers_are_the_free_drawer() -> None:
    seen = []
    fit(
        Scale,
        at("on_fit_begin", lambda ctx: ctx.buffers.update(kept=3)),
        at("on_fit_end", lambda ctx: seen.append(ctx.buffers["kept"])),
    )
    fit(Scale, at("on_fit_begin", lambda ctx: seen.append(ctx.buffers)))
    assert seen == [3, {}]


# --- unknown attributes -------------------------------------------------------------------------


def test_an_unknown_attribute_cannot_be_read_and_the_nearest_is_named() -> None:
    def read(ctx: Any) -> Any:
        with pytest.raises(ContextError) as caught:
            ctx.epochh  # noqa: B018
        assert isinstance(caught.value, AttributeError)
        return str(caught.value), hasattr(ctx, "no_such_thing"), getattr(ctx, "nothing", 5)

    message, has, default = inside(read)
    assert message == "ctx has no attribute 'epochh'. Did you mean \"epoch\"?"
    assert (has, default) == (False, 5)


def test_an_unknown_attribute_cannot_be_set_and_buffers_are_named() -> None:
    def set_(ctx: Any) -> list[str]:
        messages = []
        for name in ("best_value", "bach"):
            with pytest.raises(ContextError) as caught:
                setattr(ctx, name, 3)
            assert isinstance(caught.value, AttributeError)
            messages.append(str(caught.value))
        return messages

    unlike, alike = inside(set_)
    assert "ctx has no attribute 'best_value'" in unlike
    assert "ctx.buffers['best_value'] = value" in unlike
    assert 'Did you mean "batch"?' in alike


# --- the batch ----------------------------------------------------------------------------------

X, Y = torch.ones(3, 2), torch.zeros(3)


@pytest.mark.parametrize(
    ("batch", "given", "target"),
    [
        ([X, Y], X, Y),
        ((X, Y), X, Y),
        ([X, Y, torch.ones(3)], X, Y),
        ([X], X, None),
        (X, X, None),
        ({"x": X, "y": Y}, {"x": X, "y": Y}, None),
    ],
    ids=["list", "tuple", "three", "one", "tensor", "mapping"],
)
def test_input_and_target_are_the_first_two_items_of_a_batch(
    batch: Any, given: Any, target: Any
) -> None:
    def look(ctx: Any) -> None:
        ctx.batch = batch
        assert ctx.input is given or ctx.input == given
        assert ctx.target is target
        assert ctx.batch_size == 3

    inside(look, hook="on_train_begin")


def test_input_and_target_are_written_into_the_batch() -> None:
    def write(ctx: Any) -> None:
        ctx.batch = (X, Y, 7)
        ctx.input, ctx.target = Y, X
        assert ctx.batch[0] is Y
        assert ctx.batch[1] is X
        assert ctx.batch[2] == 7
        ctx.batch = X
        ctx.input = Y
        assert ctx.batch is Y
        ctx.target = X
        assert ctx.input is Y
        assert ctx.target is X

    inside(write, hook="on_train_begin")


def test_the_batch_size_is_the_targets_first_dimension_else_the_inputs() -> None:
    def look(ctx: Any) -> list[int]:
        sizes = []
        for batch in ([X, torch.zeros(5)], [X, None], X, [X, torch.tensor(1.0)], {"x": X}):
            ctx.batch = batch
            sizes.append(ctx.batch_size)
        return sizes

    assert inside(look, hook="on_train_begin") == [5, 3, 3, 3, 3]


# --- records ------------------------------------------------------------------------------------


def test_the_records_are_laid_out_by_part_set_and_epoch() -> None:
    seen: list[Any] = []
    fitted = fit(
        Scale,
        at("on_fit_end", lambda ctx: seen.append(ctx.records), weight=9),
        metrics=lb.metrics.MAE(),
    )
    records = fitted.records
    assert seen == [records]
    assert list(records) == ["metrics", "profile", "optimizer"]
    assert records["metrics"] == {
        "train": [{"loss": 3.0, "mae": 2.0}] * 2,
        "valid": [{"loss": 2.0, "mae": 1.0}] * 2,
    }
    assert [list(entry) for entry in records["metrics"]["train"]] == [["loss", "mae"]] * 2
    lengths = {name: len(seconds) for name, seconds in records["profile"].items()}
    assert lengths == {"fit": 1, "epoch": 2, "train": 2, "valid": 2}
    assert all(s >= 0 for seconds in records["profile"].values() for s in seconds)


def test_without_validation_data_its_records_are_empty() -> None:
    assert fit(valid_data=None).records["metrics"]["valid"] == []


def test_the_values_of_a_pass_are_there_when_its_end_fires() -> None:
    seen: dict[str, Any] = {}
    fit(
        Scale,
        at("on_train_end", lambda ctx: seen.update(train=ctx.records["metrics"]["train"])),
        at("on_valid_end", lambda ctx: seen.update(valid=ctx.records["metrics"]["valid"])),
    )
    assert seen == {"train": [{"loss": 3.0}], "valid": [{"loss": 2.0}]}


def test_the_values_so_far_can_be_read_during_a_pass() -> None:
    seen = []

    @lb.on("on_train_batch_end")
    def look(ctx: Any) -> None:
        seen.append(ctx.get_metrics("train"))

    fit(Scale, look, epochs=1)
    assert seen == [{"loss": 2.0}, {"loss": 3.0}]


def test_metrics_are_read_by_set_and_epoch() -> None:
    def look(ctx: Any) -> None:
        assert ctx.get_metrics("train") == {"loss": 3.0}
        assert ctx.get_metrics("valid", 1) == ctx.get_metrics("valid", epoch=2) == {"loss": 2.0}
        assert ctx.get_metric("loss", "valid") == ctx.get_metric("loss", "valid", 1) == 2.0
        assert ctx.get_metrics("valid", 9) == {}
        with pytest.raises(ContextError, match=r"no valid metric 'acc' in epoch 2.*are loss"):
            ctx.get_metric("acc", "valid")
        with pytest.raises(ValueError, match=r'"train" or "valid"; got "test"'):
            ctx.get_metrics("test")

    fit(Scale, at("on_epoch_end", look, nth=2))


def test_metrics_are_formatted_as_they_say() -> None:
    class Percent(lb.metrics.MAE):
        def format(self, value: Any) -> str:
            return f"{value:.0%}"

    def look(ctx: Any) -> Any:
        ctx.log_metric("tiny", 1e-7, set="valid")
        return ctx.get_formatted_metrics("valid")

    formatted = inside(look, hook="on_epoch_end", metrics=Percent())
    assert formatted == {"loss": "2.0000", "mae": "100%", "tiny": "1.000e-07"}


def test_the_frame_is_the_frame_of_the_fitted_model() -> None:
    frames = []
    fitted = fit(Scale, at("on_fit_end", lambda ctx: frames.append(ctx.get_metrics_df()), weight=9))
    (frame,) = frames
    assert frame.equals(fitted.get_metrics())
    assert list(frame.columns) == ["set", "metric", "epoch", "value"]
    assert len(frame) == 4


@pytest.mark.parametrize("hook", [h for h in lb.HOOKS if h.startswith(("on_train", "on_valid"))])
def test_a_logged_metric_belongs_to_the_pass_under_way(hook: str) -> None:
    fitted = fit(Scale, at(hook, lambda ctx: ctx.log_metric("extra", 5)), epochs=1)
    metrics = fitted.records["metrics"]
    own, other = ("train", "valid") if "train" in hook else ("valid", "train")
    assert metrics[own][0].get("extra") == 5.0
    assert "extra" not in metrics[other][0]


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_epoch_end"])
def test_a_metric_logged_outside_of_a_pass_is_one_of_training(hook: str) -> None:
    fitted = fit(Scale, at(hook, lambda ctx: ctx.log_metric("extra", 5)), epochs=1)
    assert fitted.records["metrics"]["train"][0]["extra"] == 5.0
    assert "extra" not in fitted.records["metrics"]["valid"][0]


def test_the_last_value_that_an_epoch_logs_stays() -> None:
    @lb.on("on_train_batch_end")
    def log(ctx: Any) -> None:
        ctx.log_metric("step", ctx.step_count)
        ctx.log_metric("far", ctx.step_count, set="valid")

    fitted = fit(Scale, log)
    assert [entry["step"] for entry in fitted.records["metrics"]["train"]] == [2.0, 4.0]
    assert [entry["far"] for entry in fitted.records["metrics"]["valid"]] == [2.0, 4.0]
    frame = fitted.get_metrics()
    assert set(frame.metric) == {"loss", "step", "far"}


@pytest.mark.parametrize(
    "value", [3, 3.0, True, np.float32(3), torch.tensor(3.0), torch.tensor([3]), np.array(3)]
)
def test_numbers_of_any_kind_are_logged(value: Any) -> None:
    fitted = fit(Scale, at("on_train_end", lambda ctx: ctx.log_metric("x", value)), epochs=1)
    logged = fitted.records["metrics"]["train"][0]["x"]
    assert np.asarray(logged, dtype=float).reshape(-1).tolist() == [float(value)]


def test_log_keeps_values_by_what_and_set() -> None:
    @lb.on("on_epoch_end")
    def log(ctx: Any) -> None:
        ctx.log("notes", "mine", f"epoch {ctx.epoch}")
        ctx.log("placed", "mine", ctx.epoch, index=3)
        ctx.log("replaced", "mine", ctx.epoch, index=1, append=False)

    checked = []

    def check(ctx: Any) -> None:
        assert ctx.get_log("notes", "mine") == ["epoch 1", "epoch 2"]
        assert ctx.get_log("notes", "mine", 2) == "epoch 2"
        assert ctx.get_log("metrics", "train", 1) == {"loss": 3.0}
        with pytest.raises(ContextError, match=r"Nothing is logged as notes/yours.*notes/mine"):
            ctx.get_log("notes", "yours")
        checked.append(True)

    records = fit(Scale, log, at("on_fit_end", check)).records
    assert checked
    assert records["notes"] == {"mine": ["epoch 1", "epoch 2"]}
    assert records["placed"] == {"mine": [None, None, [1, 2]]}
    assert records["replaced"] == {"mine": [2]}


def test_log_of_metrics_adds_to_an_epoch_or_replaces_it() -> None:
    def log(ctx: Any) -> None:
        ctx.log("metrics", "train", {"more": 1.0})
        ctx.log("metrics", "valid", {"only": 2.0}, append=False)
        ctx.log("metrics", "train", {"late": 3.0}, index=1)
        with pytest.raises(ArgumentTypeError, match="takes a dict"):
            ctx.log("metrics", "train", 3)

    metrics = fit(Scale, at("on_epoch_end", log, nth=2)).records["metrics"]
    assert metrics["train"] == [{"loss": 3.0, "late": 3.0}, {"loss": 3.0, "more": 1.0}]
    assert metrics["valid"] == [{"loss": 2.0}, {"only": 2.0}]


def test_places_in_the_records_count_from_one() -> None:
    def log(ctx: Any) -> None:
        ctx.log("notes", "mine", "first")
        for index in (0, -1):
            with pytest.raises(ArgumentError, match=rf"counted from 1; got {index}"):
                ctx.log("notes", "mine", "other", index=index)
        for index in (0, 3, 2**62):
            with pytest.raises(ArgumentError, match=rf"1 to 2, the epochs so far; got {index}"):
                ctx.log("metrics", "train", {"more": 1.0}, index=index)
        assert ctx.get_log("notes", "mine", 1) == "first"
        for index in (0, 2):
            with pytest.raises(ContextError, match=rf"notes/mine has 1 places.*no {index}"):
                ctx.get_log("notes", "mine", index)

    records = fit(Scale, at("on_epoch_end", log, nth=2)).records
    assert records["notes"] == {"mine": ["first"]}
    assert records["metrics"]["train"] == [{"loss": 3.0}] * 2


def test_record_feeds_the_loss_and_the_metrics() -> None:
    class Own(Scale):
        def step(self, ctx: Any) -> None:
            ctx.record(torch.full((1, 1), 9.0), torch.full((1, 1), 4.0), torch.tensor(8.0))

    fitted = fit(Own, metrics=lb.metrics.MAE())
    assert fitted.records["metrics"]["train"] == [{"loss": 8.0, "mae": 5.0}] * 2
    assert fitted.records["metrics"]["valid"] == [{"loss": 8.0, "mae": 5.0}] * 2


def test_step_optimizer_takes_a_name_and_refuses_an_unknown_one() -> None:
    class Own(Pair):
        def step(self, ctx: Any) -> None:
            ctx.forward()
            loss = ctx.compute_loss()
            if ctx.training:
                ctx.backward(loss)
                ctx.step_optimizer("a")
                with pytest.raises(ContextError, match=r"no optimizer 'c'; there are a, b"):
                    ctx.step_optimizer("c")

    trace = Trace(lambda hook, ctx: (hook, ctx.opt_name))
    fit(Own, trace, loss=nn.MSELoss(), optimizer=None, data=numbered(1), epochs=1)
    assert [e for e in trace.events if e[0].endswith("_step")] == [
        ("on_train_batch_before_step", "a"),
        ("on_train_batch_after_step", "a"),
    ]


# --- bound during a run, gone after it ----------------------------------------------------------


class Remembers(lb.Metric):
    seen: list[Any] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.n = 0

    def update(self, preds: Any, target: Any) -> None:
        self.n += 1
        Remembers.seen.append((self.ctx.epoch, self.ctx.iter))

    def compute(self) -> float:
        return float(self.n)


def test_the_model_and_the_metrics_know_ctx_during_a_run() -> None:
    seen = []

    class Knows(Scale):
        def forward(self, x: Any) -> Any:
            seen.append((self.ctx.epoch, self.ctx.iter, self.ctx.training))
            return super().forward(x)

    Remembers.seen.clear()
    metric = Remembers()
    fitted = fit(Knows, metrics=metric, epochs=1)
    assert seen == [(1, 1, True), (1, 2, True), (1, 1, False)]
    assert Remembers.seen == [(1, 1), (1, 2), (1, 1)]
    assert not hasattr(fitted.model, "ctx")
    assert "ctx" not in vars(metric)


def test_a_models_own_attribute_ctx_is_put_back() -> None:
    model = Scale()
    model.ctx = "mine"  # type: ignore[assignment]
    fit(model)
    assert model.ctx == "mine"


@pytest.mark.parametrize("kind", ["parameter", "buffer", "module"])
def test_a_part_of_the_model_that_is_called_ctx_stays_in_sight(kind: str) -> None:
    class Prompt(Scale):
        def __init__(self) -> None:
            super().__init__()
            if kind == "parameter":
                self.ctx = nn.Parameter(torch.ones(()))
            elif kind == "buffer":
                self.register_buffer("ctx", torch.ones(()))
            else:
                self.ctx = nn.Identity()

        def forward(self, x: Any) -> Any:
            return super().forward(self.ctx(x) if kind == "module" else x * self.ctx)

    fitted = fit(Prompt)
    assert fitted.predict(numbered(1)).shape == (1, 1)
    assert "ctx" not in vars(fitted.model)


def runs(watched: Watched) -> dict[str, Any]:
    """Every kind of run; `watched` sees each of them."""
    fitted = fit()

    def fails(module: Any = Scale, **options: Any) -> None:
        def boom(ctx: Any) -> None:
            raise ValueError("no luck")

        with pytest.raises(ValueError, match="no luck"):
            fit(module, watched.callback(), at("on_train_batch_after_loss", boom), **options)

    def fails_in_model() -> None:
        class Broken(Scale):
            def forward(self, x: Any) -> Any:
                raise ValueError("no luck")

        with pytest.raises(ValueError, match="no luck"):
            fit(Broken, watched.callback())

    def stop_iteration() -> None:
        def boom(ctx: Any) -> None:
            raise StopIteration("no luck")

        with pytest.raises(StopIteration):
            fit(Scale, watched.callback(), at("on_train_begin", boom))

    def handled() -> None:
        def boom(ctx: Any) -> None:
            raise ValueError("no luck")

        def handlers(ctx: Any) -> None:
            ctx.epoch_handlers[ValueError] = ctx.handlers[ValueError] = lambda ctx, exc: None

        fit(
            Scale,
            watched.callback(),
            at("on_fit_begin", handlers),
            at("on_train_batch_after_loss", boom),
            at("on_fit_end", boom),
        )

    def interrupted() -> None:
        def boom(ctx: Any) -> None:
            raise KeyboardInterrupt

        fit(Scale, watched.callback(), at("on_train_batch_after_loss", boom))

    return {
        "fit": lambda: fit(Scale, watched.callback()),
        "two optimizers": lambda: fit(Pair, watched.callback(), loss=nn.MSELoss(), optimizer=None),
        "stopped": lambda: fit(
            Scale, watched.callback(), at("on_train_batch_end", lambda c: c.stop())
        ),
        "evaluate": lambda: fitted.evaluate(
            numbered(2), callbacks=watched.callback("on_valid_begin"), verbose=False
        ),
        "predict": lambda: fitted.predict(
            numbered(2), callbacks=watched.callback("on_predict_begin"), verbose=False
        ),
        "exception": fails,
        "exception in the model": fails_in_model,
        "StopIteration": stop_iteration,
        "handled": handled,
        "interrupted": interrupted,
    }


@pytest.mark.parametrize("kind", list(runs(Watched())))
def test_no_reference_to_ctx_is_left(kind: str) -> None:
    watched = Watched()
    result = runs(watched)[kind]()
    assert list(watched.alive()) == []
    del result


@pytest.mark.parametrize("valid_data", [None, numbered(1)])
@pytest.mark.parametrize("hook", ["on_fit_begin", "on_train_batch_after_loss"])
def test_a_model_that_is_let_go_is_freed_at_once(hook: str, valid_data: Any) -> None:
    model = Scale()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    refs = [weakref.ref(model), weakref.ref(model.weight), weakref.ref(optimizer)]
    trainable = lb.setup(model, optimizer=optimizer)
    gc.collect()
    gc.disable()
    try:
        trainable.fit(
            numbered(2),
            epochs=1,
            callbacks=at(hook, lambda ctx: None),
            valid_data=valid_data,
            verbose=False,
        )
        del model, optimizer, trainable
        assert [ref() for ref in refs] == [None, None, None]
    finally:
        gc.enable()


def test_a_fitted_model_deep_copies_and_pickles() -> None:
    fitted = fit(Scale, metrics=lb.metrics.MAE())
    for twin in (copy.deepcopy(fitted.model), pickle.loads(pickle.dumps(fitted.model))):  # noqa: S301
        assert torch.equal(twin.weight, fitted.model.weight)
    twin = copy.deepcopy(fitted)
    assert twin.records == fitted.records


def test_a_model_may_be_copied_during_a_run() -> None:
    def copied(ctx: Any) -> Any:
        twin = copy.deepcopy(ctx.model)
        pickled = pickle.loads(pickle.dumps(ctx.model))  # noqa: S301
        assert pickled.weight.item() == twin.weight.item() == ctx.model.weight.item()
        assert twin.ctx is None
        return weakref.ref(ctx)

    assert inside(copied)() is None


def test_ctx_shows_where_it_is() -> None:
    assert inside(repr) == "<ctx: epoch 1, iteration 1, training>"
    assert inside(repr, hook="on_valid_batch_end") == "<ctx: epoch 1, iteration 1, validation>"
    assert inside(repr, hook="on_fit_begin") == "<ctx: before the first epoch>"
