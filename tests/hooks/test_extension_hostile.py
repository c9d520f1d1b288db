"""What hostile callbacks, modes and exceptions have brought to light: none of it comes back."""

import ctypes as c
import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import lumbre as lb
from forge import Call, Handle, Table, Text, capsule, ext
from lumbre._core import HOOKS, NativeCallback
from lumbre.errors import ArgumentTypeError, ExtensionError
from runs import Pair, Scale, Trace, at, fit, notes

OK, HOST = 0, 0x100
GIVEN, WRONG = 1, 0x100
CURRENT = 0
INPUT, TARGET, PRED = range(3)


def asks(hook: str, act: Callable[[Call], int | None]) -> object:
    """A callback that is called at one breakpoint, with the host's own functions in its hands."""
    return capsule(Handle.on(Table.good(act, hooks=1 << list(HOOKS).index(hook))))


class Lent(c.Structure):
    """A tensor, as the host lends it."""

    _fields_ = (
        ("data", c.c_void_p),
        ("shape", c.POINTER(c.c_int64)),
        ("strides", c.POINTER(c.c_int64)),
        ("dimensions", c.c_uint32),
        ("type", c.c_uint8 * 4),
    )


def batches(*items: Any) -> torch.utils.data.DataLoader[Any]:
    """A loader that gives these batches as they are."""
    return torch.utils.data.DataLoader(items, batch_size=None)  # type: ignore[arg-type]


def told(count: int) -> torch.utils.data.DataLoader[Any]:
    """Batch i is (i, 2 ** i): `Scale` predicts the one, and its loss is the other."""
    return batches(
        *((torch.tensor([float(i)]), torch.tensor([2.0**i])) for i in range(1, count + 1))
    )


# --- errors of questions ------------------------------------------------------------------------


class Ends:
    """Says when it ends."""

    def __init__(self, ends: list[str]) -> None:
        self.ends = ends

    def __del__(self) -> None:
        self.ends.append("ended")


def raises(ends: list[str]) -> lb.Metric:
    """A metric that has no value, but an exception that holds something."""

    class Raises(lb.Metric):
        abbrev = "raises"

        def update(self, preds: Any, target: Any) -> None: ...

        def reset(self) -> None: ...

        def compute(self) -> float:
            if ends:
                return 0.0
            raise LookupError(Ends(ends))

    return Raises()


def test_an_error_of_a_question_lives_as_long_as_the_call() -> None:
    """To drop it may run Python, and views of the batch may be about."""
    ends: list[str] = []
    seen: list[Any] = []

    def act(call: Call) -> int:
        number, tensor = c.c_double(), Lent()
        seen.append(call.metric(call, CURRENT, Text.of("raises"), 0, number))
        seen.append(call.tensor(call, INPUT, c.addressof(tensor)))
        # A second one that fails, and one that is none of Python's.
        seen.append(call.metric(call, CURRENT, Text.of("raises"), 0, number))
        seen.append(call.log(call, 9, Text.of("x"), 1.0))
        seen.append(list(ends))
        return OK

    callbacks = [
        asks("on_train_batch_end", act),
        at("on_train_batch_end", lambda ctx: seen.append(list(ends))),
    ]
    fit(Scale, *callbacks, metrics=[raises(ends)], data=told(1), valid_data=None, epochs=1)
    assert seen == [WRONG, GIVEN, WRONG + 1, WRONG + 2, [], ["ended", "ended"]]


@pytest.mark.filterwarnings("ignore:The number of samples:lumbre.errors.DataWarning")
@pytest.mark.parametrize(
    ("goes_by", "message"),
    [
        ("input", r"The input cannot be lent .* it is a str\."),
        ("target", r"The target .* a dict\."),
    ],
)
def test_of_two_failures_the_one_that_is_returned_is_told(goes_by: str, message: str) -> None:
    class Blind(Scale):
        def forward(self, x: Any) -> Tensor:
            return self.weight * 1

        def loss(self, pred: Tensor, target: Any) -> Tensor:
            return pred

    data = batches(("an input", {"a": "target"}))
    with pytest.raises(ExtensionError, match=message) as caught:
        fit(Blind, ext.Both(goes_by), data=data, valid_data=None)
    place = "in Both.on_train_batch_begin: epoch 1, iteration 1, training"
    assert notes(caught.value) == [place]
    fit(Blind, ext.Both("neither"), data=data, valid_data=None)


@pytest.mark.parametrize("number", [0, 1])
def test_an_error_is_found_again_by_its_number(number: int) -> None:
    ends: list[str] = []

    def act(call: Call) -> int:
        call.metric(call, CURRENT, Text.of("raises"), 0, c.c_double())
        call.log(call, 9, Text.of("x"), 1.0)
        return HOST + number

    expected = [LookupError, ExtensionError][number]
    with pytest.raises(expected):
        fit(Scale, asks("on_train_batch_end", act), metrics=[raises(ends)], data=told(1))


# --- modes that run while tensors are looked at ---------------------------------------------------


class Counts(TorchFunctionMode):
    """Counts what torch is asked, and may act at one of the questions."""

    def __init__(self, nth: int = 0, act: Callable[[], Any] = lambda: None) -> None:
        super().__init__()
        self.count, self.nth, self.act = 0, nth, act

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        answer = func(*args, **(kwargs or {}))
        if self.count == self.nth:
            self.act()
        return answer


def columns() -> tuple[Tensor, Tensor]:
    """Two tensors with gaps between their elements: torch is asked whether they are negated."""
    return torch.arange(8.0).reshape(4, 2)[:, 0], (torch.arange(8.0) ** 2).reshape(4, 2)[:, 1]


def elsewhere(tensor: Tensor) -> Callable[[], Any]:
    """Lay a tensor elsewhere, with other values; its memory is kept, and to read it is no crash."""
    storage = tensor.untyped_storage()
    other = torch.full((4, 2), 1000.0)[:, 0]

    def move() -> None:
        assert storage
        tensor.set_(other)

    return move


def lent_under(mode: Counts, data: Any) -> list[Any]:
    """Input, target and prediction, asked for in turn: where they lie, and the questions so far."""
    seen: list[Any] = []

    def act(call: Call) -> int:
        mode.count = 0
        for which in (INPUT, TARGET, PRED):
            tensor = Lent()
            answer = call.tensor(call, which, c.addressof(tensor))
            seen.append((tensor.data if answer == GIVEN else None, mode.count))
        # Still where it was: nothing has run since.
        assert seen[0][0] in (None, data[0].data_ptr())
        return OK

    def begin(ctx: Any) -> None:
        mode.__enter__()

    def end(ctx: Any) -> None:
        mode.__exit__(None, None, None)

    class Still(Scale):
        """Its gradients need nothing of the input."""

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.weight).reshape(2, 2).t()[:, 0]

    callbacks = [
        at("on_train_batch_after_loss", begin, weight=-50),
        asks("on_train_batch_after_loss", act),
        at("on_train_batch_after_loss", end, weight=50),
    ]
    fit(Still, *callbacks, data=batches(data), valid_data=None, epochs=1)
    return seen


def test_after_the_first_tensor_no_question_runs_python() -> None:
    seen = lent_under(Counts(), columns())
    counts = [count for _, count in seen]
    assert counts[0] > 1, "the mode has to see something"
    assert counts == [counts[0]] * 3


@pytest.mark.parametrize("moved", [0, 1], ids=["input", "target"])
def test_a_tensor_that_is_moved_while_others_are_looked_at_is_lent_where_it_is(moved: int) -> None:
    questions = lent_under(Counts(), columns())[0][1]
    for nth in range(1, questions + 1):
        data = columns()
        before = data[moved].data_ptr()
        seen = lent_under(Counts(nth, elsewhere(data[moved])), data)
        after = data[moved].data_ptr()
        assert after != before
        assert seen[moved][0] == after


@pytest.mark.parametrize("moved", [0, 1], ids=["preds", "target"])
def test_a_metric_reads_a_tensor_where_it_is_when_all_is_asked(moved: int) -> None:
    pair = columns()
    with Counts() as mode:
        lb.metrics.MAE().update(*pair)
    assert mode.count > 1, "the mode has to see something"
    for nth in range(1, mode.count + 1):
        pair, metric = columns(), lb.metrics.MAE()
        with Counts(nth, elsewhere(pair[moved])):
            metric.update(*pair)
        assert pair[moved][0] == 1000
        assert metric.compute() == (pair[0] - pair[1]).abs().mean()


@pytest.mark.parametrize("shrunk", [0, 1], ids=["preds", "target"])
def test_a_metric_of_a_tensor_that_shrinks_meanwhile_says_so(shrunk: int) -> None:
    pair = columns()
    with Counts() as mode:
        lb.metrics.MAE().update(*pair)
    for nth in range(1, mode.count + 1):
        pair, metric = columns(), lb.metrics.MAE()
        kept = pair[shrunk].untyped_storage()
        with (
            Counts(nth, lambda tensor=pair[shrunk]: tensor.set_(torch.zeros(3))),
            pytest.raises(lb.errors.ShapeError),
        ):
            metric.update(*pair)
        assert kept


# --- the loss and the prediction of the batch under way -------------------------------------------

QUIET = pytest.mark.parametrize("quiet", [True, False], ids=["quiet", "loud"])


def at_batch(number: int, hook: str, act: Callable[[Any], Any]) -> lb.Callback:
    """Act at that breakpoint in the batch of that number."""

    @lb.on(hook)
    def ask(ctx: Any) -> None:
        if ctx.iter == number:
            act(ctx)

    return ask


def skip(ctx: Any) -> None:
    ctx.skip_batch()


def boom(ctx: Any) -> None:
    raise ZeroDivisionError


def looks(seen: list[Any]) -> list[lb.Callback]:
    """The same as `ext.Glimpse`, of Python's `ctx`."""

    def look(hook: str) -> lb.Callback:
        @lb.on(hook, weight=100)
        def write(ctx: Any) -> None:
            loss = None if ctx.loss_grad is None else float(ctx.loss_grad)
            seen.append([hook, ctx.iter, loss, None if ctx.pred is None else float(ctx.pred.sum())])

        return write

    return [look(f"on_{kind}_batch_end") for kind in ("train", "valid", "predict")]


@QUIET
@pytest.mark.parametrize("kind", ["train", "valid"])
@pytest.mark.parametrize(
    ("place", "second"),
    [("begin", [None, None]), ("after_pred", [None, 2.0]), ("after_loss", [4.0, 2.0])],
)
def test_a_batch_that_is_left_has_what_it_came_to(
    kind: str, place: str, second: list[Any], quiet: bool
) -> None:
    seen: list[Any] = []
    glimpse = ext.Glimpse()
    others = [] if quiet else [Trace()]
    skips = at_batch(2, f"on_{kind}_batch_{place}", skip)
    data = {"data": told(3 if kind == "train" else 1), "valid_data": told(3)}
    fit(Scale, skips, *others, glimpse, *looks(seen), epochs=1, **data)
    hook = f"on_{kind}_batch_end"
    expected = [[hook, 1, 2.0, 1.0], [hook, 2, *second], [hook, 3, 8.0, 3.0]]
    assert [row for row in glimpse.state_dict() if row[0] == hook] == expected
    assert seen == glimpse.state_dict()


def test_a_batch_of_prediction_that_is_left_has_no_prediction() -> None:
    seen: list[Any] = []
    glimpse = ext.Glimpse()
    skips = at_batch(2, "on_predict_batch_begin", skip)
    fitted = fit(Scale, data=told(1), epochs=1)
    fitted.predict(told(3), callbacks=[skips, glimpse, *looks(seen)], stack=False, verbose=False)
    hook = "on_predict_batch_end"
    expected = [[hook, 1, None, 1.0], [hook, 2, None, None], [hook, 3, None, 3.0]]
    assert glimpse.state_dict() == seen == expected


@pytest.mark.parametrize("kind", ["train", "valid"])
@pytest.mark.parametrize(
    ("place", "second"),
    [("begin", [None, None]), ("after_pred", [None, 2.0]), ("after_loss", [4.0, 2.0])],
)
def test_at_an_exception_nothing_is_of_the_batch_before(
    kind: str, place: str, second: list[Any]
) -> None:
    glimpse = ext.Glimpse()
    data = {"data": told(3 if kind == "train" else 1), "valid_data": told(3)}
    with pytest.raises(ZeroDivisionError):
        fit(Scale, at_batch(2, f"on_{kind}_batch_{place}", boom), glimpse, epochs=1, **data)
    assert glimpse.state_dict()[-1] == ["on_exception", 2, *second]


@QUIET
@pytest.mark.parametrize("kind", ["train", "valid"])
def test_an_exception_in_the_model_comes_before_its_answer(kind: str, quiet: bool) -> None:
    class Breaks(Scale):
        def forward(self, x: Tensor) -> Tensor:
            if x.item() == 2 and self.training == (kind == "train"):
                boom(None)
            return super().forward(x)

    glimpse = ext.Glimpse()
    others = [] if quiet else [Trace()]
    data = {"data": told(3), "valid_data": told(3)}
    with pytest.raises(ZeroDivisionError):
        fit(Breaks, glimpse, *others, epochs=1, **data)
    assert glimpse.state_dict()[-2:] == [
        [f"on_{kind}_batch_end", 1, 2.0, 1.0],
        ["on_exception", 2, None, None],
    ]


def test_every_optimizer_begins_without_a_loss() -> None:
    """Each has a prediction and a loss of its own: one that is left early shows no other's."""

    class Both(Pair):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1 if self.ctx.opt_name == "a" else 100) + 0 * super().forward(x)

        def loss(self, pred: Tensor, target: Tensor) -> Tensor:
            return pred.mean() * 2

    glimpse, seen, rust = ext.Glimpse(), [], []

    def leave_b(ctx: Any) -> None:
        if ctx.opt_name == "b":
            ctx.skip_batch()

    def witness(ctx: Any, known: Any) -> None:
        if known["hook"] in ("on_train_batch_after_pred", "on_train_batch_after_loss"):
            rust.append((known["hook"][15:], known["iter"], known["loss"], known["pred"][2]))

    callbacks = [
        at_batch(2, "on_train_batch_after_pred", leave_b),
        ext.Witness(witness),
        glimpse,
        *looks(seen),
    ]
    data = batches(*((torch.tensor([[float(i)]]), torch.zeros(1)) for i in (1, 2)))
    fit(Both, *callbacks, optimizer=None, data=data, valid_data=None, epochs=1)
    hook = "on_train_batch_end"
    assert glimpse.state_dict() == seen == [[hook, 1, 200.0, 100.0], [hook, 2, None, 200.0]]
    assert rust == [
        ("after_pred", 1, None, 1.0),
        ("after_loss", 1, 2.0, 1.0),
        ("after_pred", 1, None, 100.0),
        ("after_loss", 1, 200.0, 100.0),
        ("after_pred", 2, None, 2.0),
        ("after_loss", 2, 4.0, 2.0),
        ("after_pred", 2, None, 200.0),
    ]


# --- exceptions that are left behind --------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "note"),
    [
        ("on_fit_begin", "before the first epoch"),
        ("on_train_batch_end", "epoch 1, iteration 1, training"),
        ("on_fit_end", "epoch 2"),
    ],
)
def test_an_exception_left_set_is_raised_though_all_is_said_to_be_well(
    place: str, note: str
) -> None:
    with pytest.raises(LookupError, match=f"^left at {place}") as caught:
        fit(Scale, ext.Leaves(place))
    assert type(caught.value) is LookupError
    assert notes(caught.value) == [f"in Leaves.{place}: {note}"]
    assert caught.value.__cause__ is None
    assert torch.is_grad_enabled()


def test_an_exception_left_set_by_save_or_load_is_raised() -> None:
    saves, loads = ext.Leaves("save"), ext.Leaves("load")
    for ask in (saves.state_dict, NativeCallback.foreign(saves).save):
        with pytest.raises(LookupError, match=r"^left at save$"):
            ask()
    for take, state in ((loads.load_state_dict, {}), (NativeCallback.foreign(loads).load, "{}")):
        with pytest.raises(LookupError, match=r"^left at load$"):
            take(state)
    assert saves.load_state_dict({}) is None
    assert loads.state_dict() == {}


# --- after a panic ------------------------------------------------------------------------------


def handled(kinds: str, seen: list[str]) -> lb.Callback:
    def handle(ctx: Any) -> None:
        getattr(ctx, kinds)[ExtensionError] = lambda ctx, error: seen.append(str(error))

    return at("on_fit_begin", handle)


@pytest.mark.parametrize("given", ["object", "capsule"])
def test_a_panic_that_is_handled_ends_the_fit_in_order(given: str) -> None:
    """Its own hooks at the ends have nothing to add; a later fit is refused."""
    bursts, seen, trace = ext.Bursts(), [], Trace()
    callback = bursts if given == "object" else bursts.__lumbre_callback__()
    fitted = fit(Scale, handled("handlers", seen), callback, trace)
    assert seen == ["Bursts panicked: the boiler burst"]
    assert trace.events[-4:] == ["on_exception", "on_train_end", "on_epoch_end", "on_fit_end"]
    assert "the boiler burst" in fitted.stop_reason
    with pytest.raises(RuntimeError, match="Bursts panicked earlier"):
        fit(Scale, callback)
    with pytest.raises(RuntimeError, match="Bursts panicked earlier"):
        fit(Scale, bursts.__lumbre_callback__() if given == "capsule" else bursts)


def test_a_capsule_is_refused_in_the_fit_though_nothing_but_ends_are_left() -> None:
    bursts = ext.Bursts()
    given = bursts.__lumbre_callback__()
    with pytest.raises(ExtensionError, match="the boiler burst"):
        fit(Scale, given)
    trace = Trace()
    with pytest.raises(ExtensionError, match=r"^Bursts panicked earlier") as caught:
        fit(Scale, given, trace, valid_data=None)
    # Not only when the first batch is over and the hooks that close are due.
    assert notes(caught.value) == ["in Bursts.on_train_batch_end: epoch 1, iteration 1, training"]


def test_a_panic_that_ends_an_epoch_is_told_again_in_the_next() -> None:
    seen: list[str] = []
    fit(Scale, handled("epoch_handlers", seen), ext.Bursts())
    assert seen[0] == "Bursts panicked: the boiler burst"
    assert len(seen) == 2
    assert seen[1].startswith("Bursts panicked earlier")


# --- the end of a callback while an exception is under way ----------------------------------------

PARTS: dict[str, Callable[[Any], Any]] = {
    "object": ext.Parts,
    "capsule": lambda word: ext.Parts(word).__lumbre_callback__(),
}


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_a_last_word_leaves_the_exception_under_way_as_it_is(make: Callable[[Any], Any]) -> None:
    said: list[str] = []
    empty: dict[str, Any] = {}
    with pytest.raises(KeyError, match="missing") as caught:
        # The list is given up with the exception set.
        [make(lambda: said.append("bye")), empty["missing"]]
    assert said == ["bye"]
    assert caught.value.__context__ is None


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_a_last_word_that_raises_is_told_and_takes_nothing_over(
    make: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: unraisable.append(told.exc_type))
    empty: dict[str, Any] = {}

    def word() -> None:
        raise BufferError

    with pytest.raises(KeyError, match="missing"):
        [make(word), empty["missing"]]
    made = make(word)
    del made
    assert unraisable == [BufferError, BufferError]


# --- how a block may be written -------------------------------------------------------------------


def test_words_of_rust_have_no_mark_in_python() -> None:
    raw = ext.Raw(type=1, py=2)
    assert repr(raw) == "Raw(type=1, match=4, py=2, shown=6, cls=7)"
    assert str(inspect.signature(ext.Raw)) == "(type=3, match=4, py=5, shown=6, cls=7)"
    fit(Scale, raw)
    assert raw.state_dict() == 1 + 4 + 2 + 6 + 7 + 100
    assert (ext.final.__name__, repr(ext.final())) == ("final", "final()")
    assert ("on_fit_end", "final") in [row[:2] for row in lb.schedule([ext.final()]).rows]


def test_defaults_fit_their_arguments() -> None:
    given = ext.Defaults().state_dict().decode()
    expected = r'(7, "é \"ß\"\n", Some("there"), None, -10.0, 1, Some(2.0))'
    assert given == expected
    signature = inspect.signature(ext.Defaults)
    shown = {name: each.default for name, each in signature.parameters.items()}
    assert shown == {
        "own": ...,
        "text": 'é "ß"\n',
        "some": "there",
        "none": None,
        "whole": -10,
        "wide": 1,
        "maybe": 2,
    }


def test_what_is_left_out_of_the_build_is_not_there() -> None:
    cut = ext.Cut()
    assert not hasattr(cut, "state_dict")
    assert not hasattr(cut, "load_state_dict")
    assert NativeCallback.foreign(cut).save() is None
    hooks = [(row[0], row[4]) for row in lb.schedule([cut]).rows if row[1] == "Cut"]
    assert hooks == [("on_train_batch_end", "every(2)"), ("on_epoch_end", "")]
    fitted = fit(Scale, cut, data=told(4), epochs=1)
    assert fitted.records["metrics"]["train"][0]["calls"] == 12


def test_a_macro_may_write_a_block() -> None:
    rows = [row for row in lb.schedule([ext.Named()]).rows if row[1] == "Größe"]
    assert [(row[0], row[3]) for row in rows] == [("on_train_batch_end", 3), ("on_epoch_end", 3)]
    fitted = fit(Scale, ext.Named(), epochs=1)
    assert fitted.records["metrics"]["train"][0]["named"] == 3


def test_a_state_that_is_no_json_is_said_to_be_none() -> None:
    message = r'^NoJson: its `save` gave no JSON: .*; got "\{not json"$'
    with pytest.raises(ValueError, match=message):
        ext.NoJson().state_dict()


# --- attributes ---------------------------------------------------------------------------------


def python() -> lb.Callback:
    @lb.on("on_epoch_end", name="Asks")
    def each(ctx: Any) -> None: ...

    return each


KINDS = pytest.mark.parametrize("make", [lambda: ext.Asks("log"), python], ids=["Rust", "Python"])


@KINDS
@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("name", 5, r"\.name is a text; got 5\."),
        ("name", b"x", r"\.name is a text; got b'x'\."),
        ("weight", 10**400, r"^Asks\.weight is a number; got 1000*\."),
        ("weight", "x", r"^Asks\.weight is a number; got 'x'\."),
        ("weight", None, r"^Asks\.weight is a number; got None\."),
        ("weight", True, r"^Asks\.weight is a number; got True\."),
        ("weight", 1j, r"^Asks\.weight is a number; got 1j\."),
        ("logs", 5, r"^Asks\.logs holds names of metrics; got 5\."),
        ("logs", ["a", None], r"^Asks\.logs holds names of metrics; got None\."),
        ("after", 5, r'^Asks\.after holds names of callbacks, such as "Progress"; got 5\.'),
        ("before", [5], r"^Asks\.before holds names of callbacks"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_an_attribute_of_the_wrong_kind_is_refused_by_name(
    make: Callable[[], Any], attribute: str, value: Any, message: str
) -> None:
    callback = make()
    setattr(callback, attribute, value)
    for use in (lambda: lb.schedule([callback]), lambda: fit(Scale, callback)):
        with pytest.raises(ArgumentTypeError, match=message) as caught:
            use()
        assert type(callback).__name__ in str(caught.value) or "Asks" in str(caught.value)


@KINDS
@pytest.mark.parametrize("weight", [np.float32(1.5), np.float64(1.5), np.int64(2), 2])
def test_numbers_of_numpy_are_good_weights(make: Callable[[], Any], weight: Any) -> None:
    callback = make()
    callback.weight = weight
    rows = [row for row in lb.schedule([callback]).rows if row[1] == "Asks"]
    assert [(row[3], type(row[3])) for row in rows] == [(float(weight), float)]
