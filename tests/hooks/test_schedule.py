"""Who runs where and in which order: weights, constraints, names, and the table of the plan."""

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lumbre as lb
from lumbre.errors import ArgumentTypeError, ScheduleError
from runs import Scale, fit

DEFAULTS = ["Profile", "TrainValid", "Metrics", "Progress", "Interrupt"]


def named(name: str, weight: Any = 0.0, after: Any = (), before: Any = ()) -> lb.Callback:
    return lb.on("on_fit_begin", name=name, weight=weight, after=after, before=before)(
        lambda ctx: None
    )


def order(*callbacks: lb.Callback, hook: str = "on_fit_begin") -> list[str]:
    rows = lb.schedule(callbacks).rows
    return [name for at, name, *_ in rows if at == hook and name not in DEFAULTS]


# --- weights ------------------------------------------------------------------------------------


def test_smaller_weights_come_first_and_equal_ones_keep_their_order() -> None:
    weights = {"a": 1, "b": -math.inf, "c": 0, "d": math.inf, "e": 0.0, "f": -2.5, "g": -0.0}
    assert order(*(named(name, weight) for name, weight in weights.items())) == list("bfcegad")


def test_the_run_calls_in_the_order_of_the_plan() -> None:
    called = []

    def caller(name: str, **options: Any) -> lb.Callback:
        return lb.on("on_epoch_end", name=name, **options)(lambda ctx: called.append(name))

    callbacks = [
        caller("late", weight=1),
        caller("early", weight=-1),
        caller("first", weight=math.inf, before="early"),
        caller("plain"),
    ]
    fit(Scale, *callbacks, epochs=1)
    # "early" waits for "first", which weighs more than all the others.
    assert called == ["plain", "late", "first", "early"]
    assert order(*callbacks, hook="on_epoch_end") == called


def test_the_default_callbacks_come_first_at_weight_zero() -> None:
    rows = lb.schedule([named("mine"), named("sooner", -1)]).rows
    fit_begin = [row[1] for row in rows if row[0] == "on_fit_begin"]
    assert fit_begin == ["sooner", "Profile", "TrainValid", "mine"]
    train_begin = [row[1] for row in rows if row[0] == "on_train_begin"]
    assert train_begin == ["Profile", "TrainValid", "Metrics", "Progress"]
    assert {row[3] for row in rows if row[1] in DEFAULTS} == {0.0}
    assert {row[1] for row in lb.schedule().rows} == set(DEFAULTS)


def test_the_weight_of_the_instance_wins_and_is_read_when_the_run_starts() -> None:
    called = []

    class Says(lb.Callback):
        weight = 5

        def __init__(self, name: str) -> None:
            self.name = name

        def on_epoch_end(self, ctx: Any) -> None:
            called.append(self.name)

    heavy, light = Says("heavy"), Says("light")
    light.weight = 1
    fit(Scale, heavy, light, epochs=1)
    heavy.weight = 0
    fit(Scale, heavy, light, epochs=1)
    assert called == ["light", "heavy", "heavy", "light"]


@pytest.mark.parametrize("weight", [math.nan, float("-nan")])
def test_nan_is_refused_with_the_callbacks_name(weight: float) -> None:
    with pytest.raises(ScheduleError, match=r"mine has the weight NaN") as caught:
        fit(Scale, named("mine", weight))
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("weight", ["1", None, True, [1]])
def test_a_weight_that_is_no_number_is_refused(weight: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"weight is a number; got"):
        lb.schedule([named("mine", weight)])


def test_early_stopping_weighs_inf() -> None:
    assert lb.callbacks.EarlyStopping().weight == math.inf


# --- constraints --------------------------------------------------------------------------------


def test_after_and_before_win_over_weights() -> None:
    assert order(named("a", -1, after="b"), named("b", 1)) == ["b", "a"]
    assert order(named("a", 1), named("b", 2, before=("a",))) == ["b", "a"]
    assert order(named("a", after=["c"]), named("b"), named("c")) == ["b", "c", "a"]


def test_the_smallest_weight_and_position_that_is_free_comes_next() -> None:
    callbacks = [
        named("a", 0, after="d"),
        named("b", 1),
        named("c", 2),
        named("d", 3),
        named("e", 9),
    ]
    assert order(*callbacks) == ["b", "c", "d", "a", "e"]


def test_constraints_may_name_default_callbacks() -> None:
    mine = lb.on("on_train_begin", name="mine", before="Profile")(lambda ctx: None)
    rows = lb.schedule([mine]).rows
    begin = [row[1] for row in rows if row[0] == "on_train_begin"]
    assert begin == ["TrainValid", "Metrics", "Progress", "mine", "Profile"]


def test_constraints_on_names_that_are_not_there_are_ignored() -> None:
    assert order(named("a", after="Nobody"), named("b", before=("Neither",))) == ["a", "b"]


def test_constraints_hold_where_the_other_callback_has_no_hook() -> None:
    link = lb.on("on_epoch_end", name="link", after="b")(lambda ctx: None)
    assert order(named("a", after="link"), named("b"), link) == ["b", "a"]


def test_a_cycle_is_refused_and_printed() -> None:
    callbacks = [named("a", after="c"), named("b", after="a"), named("c", after="b"), named("d")]
    with pytest.raises(ScheduleError) as caught:
        fit(Scale, *callbacks)
    assert isinstance(caught.value, ValueError)
    cycle = re.search(r"form a cycle: (.*?)\.", str(caught.value))
    assert cycle is not None
    path = cycle[1].split(" → ")
    assert path[0] == path[-1]
    assert "".join(path * 2).find("abc") >= 0
    assert "d" not in path


def test_a_callback_that_comes_after_itself_is_a_cycle() -> None:
    with pytest.raises(ScheduleError, match="a → a"):
        lb.schedule([named("a", before="a")])


@pytest.mark.parametrize("value", [(3,), [None], None, 3])
def test_constraints_are_names(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"after holds names of callbacks.*got"):
        lb.schedule([named("a", after=value)])


@given(
    st.lists(
        st.tuples(
            st.sampled_from([-math.inf, -1.0, 0.0, 2.5, math.inf]),
            st.lists(st.integers(0, 7), max_size=2),
        ),
        max_size=8,
    )
)
def test_any_weights_and_constraints_give_the_one_topological_order(
    callbacks: list[tuple[float, list[int]]],
) -> None:
    # Constraints that point back to earlier callbacks only: there is no cycle.
    after = [[j for j in others if j < i] for i, (_, others) in enumerate(callbacks)]
    made = [
        named(f"n{i}", weight, after=[f"n{j}" for j in after[i]])
        for i, (weight, _) in enumerate(callbacks)
    ]
    expected: list[int] = []
    while len(expected) < len(made):
        free = [i for i in range(len(made)) if i not in expected and set(after[i]) <= set(expected)]
        expected.append(min(free, key=lambda i: (callbacks[i][0], i)))
    assert order(*made) == [f"n{i}" for i in expected]


# --- names --------------------------------------------------------------------------------------


def test_a_name_is_the_class_name_unless_given_and_the_second_of_two_alike_is_numbered() -> None:
    class Hello(lb.Callback):
        def on_fit_begin(self, ctx: Any) -> None: ...

    class Other(Hello):
        name = "Hi"

    assert order(Hello(), Hello(), Other(), Hello()) == ["Hello", "Hello_2", "Hi", "Hello_3"]


def test_constraints_reach_the_second_of_two_alike_by_its_number() -> None:
    callbacks = [named("a"), named("a", 1), named("b", -1, after="a_2")]
    assert order(*callbacks) == ["a", "a_2", "b"]
    callbacks = [named("a"), named("a", 1), named("b", -1, after="a")]
    assert order(*callbacks) == ["a", "b", "a_2"]


def test_the_numbered_name_is_what_errors_and_stops_say() -> None:
    class Halt(lb.Callback):
        def __init__(self, epoch: int) -> None:
            self.epoch = epoch

        def on_epoch_end(self, ctx: Any) -> None:
            if ctx.epoch == self.epoch:
                ctx.stop("now")

    assert fit(Scale, Halt(9), Halt(1)).stop_reason == "Halt_2: now"


# --- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [200, 201, 70_000])
def test_a_name_may_be_too_long_for_the_table(length: int) -> None:
    class Mine(lb.Callback):
        def on_fit_begin(self, ctx: Any) -> None: ...

    Mine.__name__ = "ü" * length
    lines = repr(lb.schedule([Mine()])).splitlines()
    assert ["ü" * length, "Python"] in [line.split()[:2] for line in lines]
    others = [len(line) for line in lines if "ü" not in line]
    # Characters are counted, not bytes.
    assert (max(others) > 200) == (length <= 200)
    assert max(others) < 200 + 40


def test_the_repr_is_a_table_of_who_runs_where() -> None:
    class Mine(lb.Callback):
        weight = -1

        @lb.every(10)
        @lb.epochs(2)
        def on_train_batch_end(self, ctx: Any) -> None: ...

    table = repr(lb.schedule([Mine(), lb.callbacks.EarlyStopping()]))
    parts = dict(part.split("\n", 1) for part in table.split("\n\n"))
    assert next(iter(parts)) == "on_fit_begin"
    assert list(parts) == [hook for hook in lb.HOOKS if hook in parts]
    rows = [line.split() for line in parts["on_train_batch_end"].splitlines()]
    assert rows[0] == ["Mine", "Python", "weight", "-1", "every(10)", "&", "epochs(2,", "None)"]
    assert rows[1] == ["Metrics", "Rust", "weight", "0"]
    assert parts["on_epoch_end"].splitlines()[-1].split() == [
        "EarlyStopping",
        "Rust",
        "weight",
        "inf",
    ]
    assert str(lb.schedule()) == repr(lb.schedule())


def test_the_rows_say_the_same_as_tuples() -> None:
    rows = lb.schedule([lb.callbacks.EarlyStopping()]).rows
    assert ("on_epoch_end", "EarlyStopping", "Rust", math.inf, "") in rows
    assert ("on_train_batch_end", "Metrics", "Rust", 0.0, "") in rows
    assert [row[0] for row in rows] == sorted((r[0] for r in rows), key=list(lb.HOOKS).index)


def test_schedule_checks_what_fit_checks() -> None:
    with pytest.raises(ArgumentTypeError, match="class EarlyStopping where an instance is due"):
        lb.schedule([lb.callbacks.EarlyStopping])  # type: ignore[list-item]
    with pytest.raises(lb.errors.HookError, match="on_batch_end"):
        lb.schedule(lb.callback("Wrong", on_batch_end=lambda self, ctx: None)())
