"""Callbacks of a wheel of their own among those in Python and the built-in ones: where they stand,
what they know, what they ask for."""

import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lumbre as lb
from forge import ext
from lumbre._core import NativeCallback
from lumbre.errors import ArgumentTypeError, ExtensionError, ScheduleError
from runs import Scale, Trace, at, fit, notes, numbered

CRATE = "lumbre-test-extension 0.4.2"


def batches(*items: Any) -> torch.utils.data.DataLoader[Any]:
    """A loader that gives these batches as they are."""
    return torch.utils.data.DataLoader(items, batch_size=None)  # type: ignore[arg-type]


class Blind(nn.Module):
    """Answers whatever it is given, and learns nothing from it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Any) -> Tensor:
        return self.weight * 1

    def loss(self, pred: Tensor, target: Any) -> Tensor:
        return pred.mean()


# --- an object, a capsule, a class --------------------------------------------------------------


def test_it_is_an_object_like_any_other() -> None:
    spike = ext.LossSpike(2.5, action="skip")
    assert repr(spike) == 'LossSpike(factor=2.5, window=50, action="skip")'
    signature = inspect.signature(ext.LossSpike)
    assert str(signature) == "(factor=3.0, window=50, action='stop')"
    assert ext.LossSpike.__module__ == "lumbre_test_extension"
    assert "times the median" in inspect.getdoc(ext.LossSpike)
    assert not isinstance(spike, lb.Callback)
    assert ext.__version__ == "0.4.2"
    with pytest.raises(TypeError, match="unexpected keyword argument 'fctor'"):
        ext.LossSpike(fctor=2)
    with pytest.raises(ValueError, match=r"^LossSpike: window is 1 or more; got 0$"):
        ext.LossSpike(window=0)


@pytest.mark.parametrize("passed", ["object", "capsule", "list of both"])
def test_the_object_and_its_capsule_are_both_taken(passed: str) -> None:
    stats = ext.InputStats()
    capsule = stats.__lumbre_callback__()
    given = {"object": stats, "capsule": capsule, "list of both": [ext.Asks("log"), capsule]}[
        passed
    ]
    fitted = (
        lb.setup(Scale, optimizer=torch.optim.SGD)
        .set_opt_hparams(lr=0.1)
        .fit(numbered(2), epochs=1, callbacks=given, verbose=False)
    )
    assert fitted.records["metrics"]["train"][0]["input_mean"] == 1.0


def test_every_capsule_is_on_the_same_callback() -> None:
    sieve = ext.Sieve()
    fit(Scale, sieve.__lumbre_callback__(), sieve, data=numbered(3), epochs=1)
    assert sieve.state_dict()["thirds"] == 2


def test_the_class_is_not_taken_for_an_instance() -> None:
    with pytest.raises(ArgumentTypeError, match=r"the class LossSpike .*write LossSpike\(\.\.\.\)"):
        fit(Scale, ext.LossSpike)


def test_the_plan_shows_where_the_code_lives() -> None:
    rows = [row for row in lb.schedule([ext.Sieve()]).rows if row[1] == "Strainer"]
    assert rows == [
        ("on_epoch_begin", "Strainer", CRATE, -2.5, "once"),
        ("on_train_batch_end", "Strainer", CRATE, -2.5, "every(3)"),
        ("on_valid_batch_end", "Strainer", CRATE, -2.5, "every(2) & epochs(2, None)"),
        ("on_epoch_end", "Strainer", CRATE, -2.5, "epochs(2, 3)"),
    ]
    assert f"Strainer    {CRATE}  weight -2.5  once" in repr(lb.schedule([ext.Sieve()]))


def test_the_table_is_read_whole() -> None:
    native = NativeCallback.foreign(ext.Sieve())
    assert native.kind == CRATE
    assert native.about == {
        "name": "Strainer",
        "weight": -2.5,
        "after": ["EarlyStopping"],
        "before": ["Profile", "Nobody"],
        "logs": ["strained"],
    }


def test_filters_are_kept() -> None:
    sieve = ext.Sieve()
    fit(Scale, sieve, data=numbered(5), valid_data=numbered(4), epochs=4)
    # 20 steps; epochs 2 and 3; batches 2 and 4 of validation in epochs 2 to 4.
    assert sieve.state_dict() == {"thirds": 6, "once": 1, "middle": 2, "late": 6}


# --- the order ----------------------------------------------------------------------------------


def says(name: str, called: list[str], native: bool, **attributes: Any) -> Any:
    """A callback in Rust or Python that writes its name down at on_train_batch_end."""
    if not native:
        on = lb.on("on_train_batch_end", name=name, **attributes)
        return on(lambda ctx: called.append(name))
    callback = ext.Calls(lambda ctx: called.append(name))
    for attribute, value in {"name": name, **attributes}.items():
        setattr(callback, attribute, value)
    return callback


@pytest.mark.parametrize("natives", list(itertools.product([False, True], repeat=4)))
def test_rust_and_python_stand_in_one_order(natives: tuple[bool, ...]) -> None:
    """Whichever of them are native: weights first, then places, and constraints over both."""
    called: list[str] = []
    first, second, third, fourth = natives
    callbacks = [
        says("late", called, first, weight=1.5),
        says("waits", called, second, weight=-3, after=("late",)),
        says("plain", called, third),
        says("early", called, fourth, weight=-1, before="Metrics"),
    ]
    rows = lb.schedule(callbacks).rows
    order = [row[1] for row in rows if row[0] == "on_train_batch_end"]
    assert order == ["early", "Metrics", "Progress", "plain", "late", "waits"]
    fit(Scale, *callbacks, data=numbered(1), epochs=1)
    assert called == [name for name in order if name not in ("Metrics", "Progress")]


def test_constraints_of_the_table_hold_over_all_kinds() -> None:
    early = lb.callbacks.EarlyStopping("train_loss")
    rows = lb.schedule([early, ext.Sieve()]).rows
    order = [row[1] for row in rows if row[0] == "on_epoch_end"]
    # It weighs -2.5, but comes after one that weighs inf, and Profile waits for it.
    assert order == ["Progress", "EarlyStopping", "Strainer", "Profile"]
    sieve = ext.Sieve()
    sieve.after = ()
    rows = lb.schedule([early, sieve]).rows
    order = [row[1] for row in rows if row[0] == "on_epoch_end"]
    assert order == ["Strainer", "Profile", "Progress", "EarlyStopping"]


def test_attributes_of_the_object_win_over_the_table() -> None:
    sieve = ext.Sieve()
    sieve.name, sieve.weight, sieve.logs = "Mine", 4, ("other",)
    rows = {row[1:4] for row in lb.schedule([sieve]).rows if row[2] == CRATE}
    assert rows == {("Mine", CRATE, 4.0)}
    del sieve.weight
    assert {row[3] for row in lb.schedule([sieve]).rows if row[2] == CRATE} == {-2.5}
    sieve.before = ("EarlyStopping",)
    with pytest.raises(ScheduleError, match="Mine"):
        lb.schedule([sieve, lb.callbacks.EarlyStopping("train_loss")])


def test_two_alike_have_two_names() -> None:
    names = {row[1] for row in lb.schedule([ext.Sieve(), ext.Sieve()]).rows if row[2] == CRATE}
    assert names == {"Strainer", "Strainer_2"}


# --- a subclass in Python -----------------------------------------------------------------------


class Both(ext.Asks):  # type: ignore[misc]
    """Natively at on_train_batch_after_loss, in Python at three more."""

    weight = -7

    def __init__(self, what: str, step: int) -> None:
        self.seen: list[Any] = []

    def on_train_batch_after_loss(self, ctx: Any) -> None:
        self.seen.append(("after_loss", ctx.stopped))

    @lb.every(2)
    def on_train_batch_end(self, ctx: Any) -> None:
        self.seen.append(("batch", ctx.step_count))

    def on_epoch_end(self, ctx: Any) -> None:
        self.seen.append(("epoch", ctx.epoch))


def test_a_subclass_acts_in_rust_and_in_python() -> None:
    both = Both("stop", 3)
    rows = [row for row in lb.schedule([both]).rows if row[1] == "Both"]
    assert [(row[0], row[2], row[3], row[4]) for row in rows] == [
        ("on_train_batch_after_loss", CRATE, -7.0, ""),
        ("on_train_batch_after_loss", "Python", -7.0, ""),
        ("on_train_batch_end", "Python", -7.0, "every(2)"),
        ("on_epoch_end", "Python", -7.0, ""),
    ]
    fitted = fit(Scale, both, data=numbered(2), epochs=5)
    assert fitted.stop_reason == "Both: it was enough after 3 steps"
    # The native part comes first: in the third step the method sees the wish.
    after_loss = [stopped for what, stopped in both.seen if what == "after_loss"]
    assert after_loss == [False, False, True]
    assert [seen for seen in both.seen if seen[0] != "after_loss"] == [
        ("batch", 2),
        ("epoch", 1),
        ("epoch", 2),
    ]


def test_a_method_that_is_no_breakpoint_is_refused_as_in_any_callback() -> None:
    class Misspelt(ext.LossSpike):  # type: ignore[misc]
        def on_bach_end(self, ctx: Any) -> None: ...

    with pytest.raises(lb.errors.HookError, match="on_bach_end is no breakpoint"):
        fit(Scale, Misspelt())


# --- what it knows ------------------------------------------------------------------------------


def test_a_callback_in_rust_knows_what_one_in_python_knows() -> None:
    hooks = []

    def summary(tensor: Tensor | None) -> Any:
        if tensor is None:
            return None
        name = str(tensor.dtype).removeprefix("torch.")
        return (name, list(tensor.shape), tensor.sum().item())

    def tell(ctx: Any, known: dict[str, Any]) -> None:
        hook = known["hook"]
        hooks.append(hook)
        for counter in ("epoch", "iter", "step_count", "training"):
            assert known[counter] == getattr(ctx, counter), (hook, counter)
        in_batch = "_batch_" in hook
        begins = hook.endswith("_begin")
        assert known["batch_size"] == (ctx.batch_size if in_batch else None), hook
        assert known["input"] == (summary(ctx.input) if in_batch else None), hook
        assert known["target"] == (summary(ctx.target) if in_batch else None), hook
        assert known["pred"] == (summary(ctx.pred) if in_batch and not begins else None), hook
        has_loss = in_batch and "predict" not in hook and not begins and "after_pred" not in hook
        assert known["loss"] == (ctx.loss["opt"].item() if has_loss else None), hook
        assert not torch.is_grad_enabled() or hook in {
            "on_train_batch_after_pred",
            "on_train_batch_after_loss",
            "on_train_batch_before_backward",
        }

    witness = ext.Witness(tell)
    trace = Trace()
    stop = at("on_epoch_end", lambda ctx: ctx.stop("enough"), nth=2)
    rows = [(torch.full((2,), float(i)), torch.tensor([2.0**i])) for i in range(5)]
    loader = torch.utils.data.DataLoader(rows, batch_size=2)
    fitted = fit(Scale, trace, stop, witness, data=loader, epochs=3)
    assert hooks == trace.events
    assert {"on_fit_begin", "on_train_batch_after_step", "on_valid_end", "on_fit_end"} <= {*hooks}

    for run in (fitted.evaluate, fitted.predict):
        hooks.clear()
        trace.events.clear()
        run(loader, callbacks=[trace, witness], verbose=False)  # type: ignore[operator]
        assert hooks == trace.events
        assert len(hooks) > 2


def test_every_breakpoint_reaches_rust(tmp_path: Path) -> None:
    hooks = set()
    witness = ext.Witness(lambda ctx, known: hooks.add(known["hook"]))
    saves = lb.callbacks.ModelCheckpoint(tmp_path / "last")
    fitted = fit(Scale, witness, saves, lb.callbacks.EarlyStopping("train_loss"), epochs=9)
    fitted.predict(numbered(1), callbacks=[witness], verbose=False)

    def boom(error: BaseException) -> lb.Callback:
        def act(ctx: Any) -> None:
            raise error

        return at("on_epoch_end", act)

    with pytest.raises(ZeroDivisionError):
        fit(Scale, witness, boom(ZeroDivisionError()))
    fit(Scale, witness, boom(KeyboardInterrupt()))
    assert hooks == set(lb.HOOKS)


def test_metrics_of_the_pass_and_of_earlier_epochs() -> None:
    seen: dict[Any, list[Any]] = {}

    def tell(ctx: Any, known: dict[str, Any]) -> None:
        seen[known["hook"], known["epoch"], known["iter"]] = known["metrics"]

    # Losses 2, 4 in training, 2 in validation; asked for: loss, train_loss, valid_loss, one that
    # is not there, and train_loss of the first epoch.
    fit(Scale, ext.Witness(tell))
    assert seen["on_train_batch_end", 1, 1] == [2, 2, None, None, 2]
    assert seen["on_train_batch_end", 1, 2] == [3, 3, None, None, 3]
    assert seen["on_valid_begin", 1, 0] == [None, 3, None, None, 3]
    assert seen["on_valid_end", 1, 1] == [2, 3, 2, None, 3]
    assert seen["on_epoch_begin", 2, 0] == [None, None, None, None, 3]
    assert seen["on_train_batch_end", 2, 1] == [2, 2, None, None, 3]
    assert seen["on_fit_end", 2, 1] == [3, 3, 2, None, 3]


DTYPES = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64"),
]
LAYOUTS = {
    "as it lies": lambda x: x,
    "transposed": lambda x: x.t(),
    "every other": lambda x: x[::2, 1::2],
    "one column": lambda x: x[:, 1],
    "repeated": lambda x: x[0].expand(3, -1),
    "one number": lambda x: x[1, 1],
    "nothing": lambda x: x[:0],
    "three dimensions": lambda x: x.reshape(2, 3, 4).permute(2, 0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_are_read_where_they_lie(dtype: str, layout: str) -> None:
    whole = torch.arange(24).reshape(4, 6).to(getattr(torch, dtype))
    x = LAYOUTS[layout](whole)
    seen = []
    fit(
        Blind,
        ext.Witness(lambda ctx, known: seen.append(known["input"])),
        data=batches((x, torch.ones(1))),
        valid_data=None,
        epochs=1,
    )
    expected = (dtype, list(x.shape), x.double().sum().item())
    assert [look for look in seen if look is not None] == [expected] * 7


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (torch.ones(2, dtype=torch.complex64), "it is a Tensor of torch.complex64 on cpu"),
        (torch.ones(2, dtype=torch.complex64).conj().imag, "Tensor of torch.float32"),
        (torch.eye(2).to_sparse(), "it is a torch.sparse_coo Tensor of torch.float32 on cpu"),
        (torch.ones(2, device="meta"), "on meta"),
        ({"text": [1, 2]}, "it is a dict"),
        (["a", "b"], "it is a list"),
        (torch.ones(2).as_subclass(type("Mine", (Tensor,), {})), "it is a Mine"),
    ],
    ids=["complex", "negative bit", "sparse", "meta", "mapping", "list", "subclass"],
)
def test_what_is_no_plain_tensor_is_not_lent(x: Any, what: str) -> None:
    with pytest.raises(ExtensionError) as caught:
        fit(Blind, ext.InputStats(), data=batches((x, torch.ones(1))), valid_data=None)
    message = str(caught.value)
    assert message.startswith("The input cannot be lent to a callback in Rust: ")
    assert what in message
    assert "`Ctx::python`" in message
    place = "in InputStats.on_train_batch_begin: epoch 1, iteration 1, training"
    assert notes(caught.value) == [place]


# --- what it asks for ---------------------------------------------------------------------------


def losses(fitted: lb.Fitted) -> list[float]:
    return [record["loss"] for record in fitted.records["metrics"]["train"]]


def test_what_it_logs_is_in_the_records() -> None:
    watched = []
    watch = at("on_epoch_end", lambda ctx: watched.append(ctx.get_metrics("train")), nth=2)
    fitted = fit(Scale, ext.Asks("log", step=3), watch, epochs=3)
    assert watched == [{"loss": 3.0, "asked": 3.0}]
    train, valid = (fitted.records["metrics"][name] for name in ("train", "valid"))
    assert [record.get("asked") for record in train] == [None, 3.0, None]
    assert [record.get("asked") for record in valid] == [None, -0.5, None]
    frame = fitted.get_metrics()
    assert frame[frame.metric == "asked"].value.tolist() == [3.0, -0.5]


def test_what_it_logs_may_be_watched() -> None:
    """EarlyStopping would warn of a name that nobody says to log; warnings are errors here."""
    early = lb.callbacks.EarlyStopping("train_asked")
    with pytest.raises(lb.errors.MonitorError, match="train_asked"):
        fit(Scale, ext.Asks("log", step=99), early)
    fit(Scale, ext.Asks("log", step=1), early, epochs=1)


def test_it_stops() -> None:
    fitted = fit(Scale, ext.Asks("stop", step=4), data=numbered(3), epochs=5)
    assert fitted.stop_reason == "Asks: it was enough after 4 steps"
    # The batch under way is finished, and no other begins.
    assert losses(fitted) == [(2 + 4 + 8) / 3, 2.0]
    assert fitted.records["metrics"]["valid"] == [{"loss": 2.0}, {}]


def test_it_skips_a_batch() -> None:
    stepped = []
    step = lb.on("on_train_batch_after_step")(lambda ctx: stepped.append(ctx.step_count))
    fitted = fit(Scale, ext.Asks("skip_batch", step=2), step, data=numbered(3), epochs=1)
    assert losses(fitted) == [(2 + 8) / 2]
    assert stepped == [1, 3]


def test_it_skips_an_epoch() -> None:
    fitted = fit(Scale, ext.Asks("skip_epoch", step=2), data=numbered(3), epochs=2)
    assert losses(fitted) == [(2 + 4) / 2, (2 + 4 + 8) / 3]
