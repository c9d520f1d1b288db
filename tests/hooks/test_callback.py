"""The three ways to write a callback, filters, and breakpoints of one's own."""

import gc
import inspect
import sys
import weakref
from typing import Any

import pytest
import torch

import lumbre as lb
from lumbre.errors import ArgumentError, ArgumentTypeError, HookError, ScheduleError
from runs import Scale, Trace, at, fit, numbered

HOOKS = list(lb.HOOKS)


# --- three ways to write one --------------------------------------------------------------------


class PrintCallback(lb.Callback):
    def __init__(self, message: str) -> None:
        self.message = message

    def on_train_batch_end(self, ctx: Any) -> None:
        print("Iteration", ctx.iter)

    def on_epoch_end(self, ctx: Any) -> None:
        print(self.message)


print_callback = lb.callback(
    "print_callback",
    initialize=lambda self, message: setattr(self, "message", message),
    on_train_batch_end=lambda self, ctx: print("Iteration", ctx.iter),
    on_epoch_end=lambda self, ctx: print(self.message),
    weight=0.0,
    inherit=lb.Callback,
)


def test_lb_callback_makes_a_class() -> None:
    assert issubclass(print_callback, lb.Callback)
    assert print_callback.__name__ == "print_callback"
    assert print_callback.__module__ == __name__
    made = print_callback(message="Done!")
    assert (made.message, made.weight) == ("Done!", 0.0)
    assert repr(made) == "print_callback(message='Done!')"
    assert list(inspect.signature(print_callback).parameters) == ["message"]


def test_lb_callback_takes_attributes_methods_and_a_class_to_extend() -> None:
    louder = lb.callback(
        "louder",
        inherit=PrintCallback,
        weight=5,
        limit=3,
        shout=lambda self: self.message.upper(),
        on_epoch_end=lambda self, ctx: None,
    )
    made = louder("done")
    assert isinstance(made, PrintCallback)
    assert (made.weight, made.limit, made.shout()) == (5, 3, "DONE")
    with pytest.raises(ArgumentTypeError, match=r"inherit is the class to extend.*got 3"):
        lb.callback("odd", inherit=3)  # type: ignore[arg-type]


def test_lb_on_makes_a_callback_of_a_function() -> None:
    steps = []

    @lb.on("on_train_batch_end", every=2, epochs=(2, None), weight=5)
    def log(ctx: Any) -> None:
        """Keep the step."""
        steps.append(ctx.step_count)

    assert isinstance(log, lb.Callback)
    assert (log.name, log.weight) == ("log", 5)
    fit(Scale, log, data=numbered(3), epochs=3)
    assert steps == [4, 6, 8]


def test_lb_on_takes_once_names_and_constraints() -> None:
    calls = []

    @lb.on("on_epoch_end", once=True, name="First", before="Second")
    def first(ctx: Any) -> None:
        calls.append("first")

    @lb.on("on_epoch_end", name="Second", weight=-1)
    def second(ctx: Any) -> None:
        calls.append("second")

    fit(Scale, second, first)
    assert calls == ["first", "second", "second"]


def test_a_function_made_a_callback_can_still_be_called() -> None:
    @lb.on("on_epoch_end")
    def double(ctx: Any) -> Any:
        return 2 * ctx

    assert double(4) == 8  # type: ignore[operator]


def test_a_method_may_be_static_a_class_method_or_an_attribute_of_the_instance() -> None:
    calls = []

    class Mixed(lb.Callback):
        def __init__(self) -> None:
            self.on_epoch_end = lambda ctx: calls.append(("instance", ctx.epoch))

        @staticmethod
        def on_train_begin(ctx: Any) -> None:  # type: ignore[override]
            calls.append(("static", ctx.epoch))

        @classmethod
        def on_train_end(cls, ctx: Any) -> None:  # type: ignore[override]
            calls.append((cls.__name__, ctx.epoch))

    fit(Scale, Mixed(), epochs=1)
    assert calls == [("static", 1), ("Mixed", 1), ("instance", 1)]


def test_hooks_are_inherited_and_super_may_be_called() -> None:
    calls = []

    class Base(lb.Callback):
        def on_epoch_end(self, ctx: Any) -> None:
            calls.append("base")

    class Child(Base):
        def on_epoch_end(self, ctx: Any) -> None:
            super().on_epoch_end(ctx)
            calls.append("child")

        def on_fit_end(self, ctx: Any) -> None:
            super().on_fit_end(ctx)  # lb.Callback has every method

    fit(Scale, Child(), epochs=1)
    assert calls == ["base", "child"]


def test_a_method_that_is_put_on_a_class_between_two_runs_is_called() -> None:
    class Late(lb.Callback):
        pass

    class Child(Late):
        pass

    calls: list[str] = []

    def says(word: str) -> Any:
        return lambda self, ctx: calls.append(word)

    callback = Child()
    fit(Scale, callback, epochs=1)
    Late.on_epoch_end = says("put")  # type: ignore[method-assign]
    fit(Scale, callback, epochs=1)
    Late.on_epoch_end = says("replaced")  # type: ignore[method-assign]
    fit(Scale, callback, epochs=1)
    del Late.on_epoch_end
    Child.on_fit_end = says("another")  # type: ignore[method-assign]
    fit(Scale, callback, epochs=1)
    assert calls == ["put", "replaced", "another"]
    Late.on_epoch_ends = says("never")  # type: ignore[attr-defined]
    with pytest.raises(HookError, match='"on_epoch_end"'):
        fit(Scale, callback, epochs=1)


def test_the_first_class_that_has_a_method_decides() -> None:
    calls: list[str] = []

    class Mixin:
        def on_epoch_end(self, ctx: Any) -> None:
            calls.append("mixin")

    class Before(Mixin, lb.Callback):
        pass

    class After(lb.Callback, Mixin):
        pass

    class Silent(Before):
        on_epoch_end = None  # type: ignore[assignment]

    assert After().on_epoch_end(None) is None
    fit(Scale, Before(), After(), Silent(), epochs=1)
    assert calls == ["mixin"]


def test_callback_has_a_documented_method_for_every_breakpoint() -> None:
    assert len(HOOKS) >= 26
    for hook in HOOKS:
        method = getattr(lb.Callback, hook)
        assert method.__name__ == hook
        assert method.__doc__ == lb.HOOKS[hook]
        assert list(inspect.signature(method).parameters) == ["self", "ctx"]
        assert method(lb.Callback(), None) is None
    assert [name for name in dir(lb.Callback) if name.startswith("on_")] == sorted(HOOKS)


# --- filters ------------------------------------------------------------------------------------


def filtered(*filters: Any) -> lb.Callback:
    """A trace whose every method is under the filters."""

    class Filtered(Trace):
        pass

    for hook in HOOKS:

        def method(self: Any, ctx: Any, hook: str = hook) -> None:
            self.events.append((hook, ctx.epoch, ctx.step_count, ctx.iter))

        for each in filters:
            method = each(method)
        setattr(Filtered, hook, method)
    return Filtered()


def all_events(*filters: Any) -> dict[str, list[tuple[int, int, int]]]:
    trace: Any = filtered(*filters)
    fitted = fit(Scale, trace, data=numbered(3), valid_data=numbered(5), epochs=4)
    fitted.predict(numbered(5), callbacks=trace, verbose=False)
    events: dict[str, list[tuple[int, int, int]]] = {
        hook: []
        for hook in HOOKS
        if hook not in {"on_interrupt", "on_exception", "on_early_stopping"}
    }
    for hook, *place in trace.events:
        events[hook].append(tuple(place))
    return events


def counts(hook: str, epoch: int, step: int, iteration: int) -> int:
    if hook.startswith("on_train_batch"):
        return step
    return iteration if "batch" in hook else max(epoch, 1)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_counts_steps_batches_or_epochs(n: int) -> None:
    expected = {
        hook: [place for place in places if counts(hook, *place) % n == 0]
        for hook, places in all_events().items()
    }
    assert all_events(lb.every(n)) == expected
    assert sum(map(bool, expected.values())) > 10
    assert [step for _, step, _ in expected["on_train_batch_end"]] == list(range(n, 13, n))


def test_epochs_include_both_ends() -> None:
    everything = all_events()
    for first, last in ((2, 3), (2, None), (1, 1)):
        expected = {
            hook: [p for p in places if first <= max(p[0], 1) <= (last or 99)]
            for hook, places in everything.items()
        }
        assert all_events(lb.epochs(first, last)) == expected
    assert [p[0] for p in everything["on_epoch_end"]] == [1, 2, 3, 4]


def test_once_is_the_first_time_of_a_run_and_a_new_run_begins_anew() -> None:
    everything = all_events()
    assert all_events(lb.once) == {hook: places[:1] for hook, places in everything.items()}
    epochs = []

    class First(lb.Callback):
        @lb.once
        def on_epoch_end(self, ctx: Any) -> None:
            epochs.append(ctx.epoch)

    callback = First()
    fit(Scale, callback)
    fit(Scale, callback)
    assert epochs == [1, 1]


def test_several_filters_must_all_hold() -> None:
    everything = all_events()
    both = all_events(lb.every(2), lb.epochs(2, 3), lb.every(3))
    assert both == {
        hook: [p for p in places if 2 <= max(p[0], 1) <= 3 and counts(hook, *p) % 6 == 0]
        for hook, places in everything.items()
    }
    once = all_events(lb.once, lb.every(2))
    assert once["on_train_batch_end"] == [(1, 2, 2)]
    assert once["on_epoch_end"] == [everything["on_epoch_end"][1]]


def test_a_filter_is_inherited_with_its_method_and_a_new_method_has_none() -> None:
    calls = []

    class Base(lb.Callback):
        @lb.every(2)
        def on_epoch_end(self, ctx: Any) -> None:
            calls.append((type(self).__name__, ctx.epoch))

    class Same(Base):
        pass

    class Other(Base):
        def on_epoch_end(self, ctx: Any) -> None:
            super().on_epoch_end(ctx)

    fit(Scale, Same(), Other())
    assert calls == [("Other", 1), ("Same", 2), ("Other", 2)]


def test_filters_that_never_hold_are_refused() -> None:
    for make, words in (
        (lambda: lb.every(0), r"every\(0\) would never run"),
        (lambda: lb.epochs(0), "count from 1"),
        (lambda: lb.epochs(3, 2), r"epochs\(3, 2\) holds no epoch"),
        (lambda: lb.epochs(1, 2)(lb.epochs(4)(print_ctx)), "never hold together"),
        (lambda: lb.on("on_epoch_end", every=0), r"every\(0\)"),
    ):
        with pytest.raises(ScheduleError, match=words) as caught:
            make()
        assert isinstance(caught.value, ValueError)


def print_ctx(ctx: Any) -> None:
    print(ctx)


@pytest.mark.parametrize("value", [-1, 1.5, "2"])
def test_a_filter_of_a_value_that_is_no_count_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        lb.every(value)


def test_a_filter_on_a_finished_callback_is_refused_with_the_way() -> None:
    with pytest.raises(ArgumentTypeError, match=r'lb.on\("on_epoch_end", every=5\)'):

        @lb.every(5)
        @lb.on("on_epoch_end")
        def log(ctx: Any) -> None: ...


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "meant"),
    [
        ("on_batch_end", "on_train_batch_end"),
        ("on_epoch_ends", "on_epoch_end"),
        ("on_train_bach_end", "on_train_batch_end"),
        ("on_validation_end", "on_valid_end"),
    ],
)
def test_a_misspelt_hook_is_refused_with_the_nearest_name(hook: str, meant: str) -> None:
    wrong = lb.callback("Wrong", **{hook: lambda self, ctx: None})
    with pytest.raises(HookError) as caught:
        fit(Scale, wrong())
    assert f"Wrong.{hook} is no breakpoint" in str(caught.value)
    if hook != "on_validation_end":
        assert f'Did you mean "{meant}"?' in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_misspelt_hook_is_refused_on_an_instance_and_in_lb_on_too() -> None:
    callback = lb.Callback()
    callback.on_epoch_edn = print_ctx  # type: ignore[attr-defined]
    with pytest.raises(HookError, match='Did you mean "on_epoch_end"'):
        fit(Scale, callback)
    with pytest.raises(HookError, match='Did you mean "on_epoch_end"'):
        fit(Scale, lb.on("on_epoch_edn")(print_ctx))
    with pytest.raises(HookError, match="on_epoch_edn"):
        fit().evaluate(numbered(1), callbacks=callback)
    with pytest.raises(HookError, match="on_epoch_edn"):
        fit().predict(numbered(1), callbacks=callback)


def test_a_misspelt_hook_is_refused_before_anything_ran() -> None:
    trace = Trace()
    wrong = lb.callback("Wrong", on_batch_end=lambda self, ctx: None)
    with pytest.raises(HookError):
        fit(Scale, trace, wrong())
    assert trace.events == []


@pytest.mark.parametrize("as_list", [True, False])
def test_a_class_where_an_instance_is_due_is_refused(as_list: bool) -> None:
    given: Any = [PrintCallback] if as_list else PrintCallback
    with pytest.raises(ArgumentTypeError, match=r"the class PrintCallback.*write PrintCallback\("):
        lb.setup(Scale, optimizer=torch.optim.SGD).fit(numbered(1), callbacks=given)


@pytest.mark.parametrize("given", [3, "on_epoch_end", print_ctx, {"a": 1}, [None], [print_ctx]])
def test_what_is_no_callback_is_refused_with_the_way(given: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"subclass of lb.Callback; got"):
        lb.setup(Scale, optimizer=torch.optim.SGD).fit(numbered(1), callbacks=given)


def test_the_same_object_twice_is_refused_with_the_way() -> None:
    stop = lb.callbacks.EarlyStopping()
    with pytest.raises(ArgumentError, match=r"EarlyStopping is passed twice.*make a second one"):
        fit(Scale, stop, Trace(), stop)
    fitted = fit(Scale, stop, lb.callbacks.EarlyStopping())
    for again in (fitted.evaluate, fitted.predict):
        trace = Trace()
        with pytest.raises(ArgumentError, match=r"Trace.*is passed twice"):
            again(numbered(1), callbacks=[trace, trace], verbose=False)


def test_equal_objects_are_two() -> None:
    class Alike(Trace):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    two = [Alike(), Alike()]
    fit(Scale, *two, epochs=1)
    assert two[0].events == two[1].events != []


def test_a_hook_that_is_no_method_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"Odd.on_epoch_end is no method; got 3"):
        fit(Scale, lb.callback("Odd", on_epoch_end=3)())


async def waits(self: Any, ctx: Any) -> None: ...


def yields(self: Any, ctx: Any) -> Any:
    yield ctx.epoch


@pytest.mark.parametrize("hook", [waits, yields])
def test_a_hook_that_would_only_be_prepared_is_refused(hook: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"on_epoch_end would never run.*plain function"):
        fit(Scale, lb.callback("Odd", on_epoch_end=hook)())


@pytest.mark.parametrize("value", [None, 3])
def test_breakpoints_are_names(value: Any) -> None:
    with pytest.raises(HookError, match=rf"Odd.breakpoints declares {value}"):
        fit(Scale, lb.callback("Odd", breakpoints=value)())


# --- breakpoints of one's own -------------------------------------------------------------------


class Fires(lb.Callback):
    breakpoints = ("on_half_time",)

    def on_train_batch_end(self, ctx: Any) -> None:
        if ctx.iter == 2:
            ctx.call_callbacks("on_half_time")


def test_a_breakpoint_of_ones_own_is_fired_and_heard() -> None:
    heard = []

    class Hears(lb.Callback):
        def on_half_time(self, ctx: Any) -> None:
            heard.append((ctx.epoch, ctx.iter))

    fit(Scale, Fires(), Hears(), data=numbered(3))
    assert heard == [(1, 2), (2, 2)]


def test_a_breakpoint_of_ones_own_has_weights_and_filters() -> None:
    heard = []

    class Hears(lb.Callback):
        def __init__(self, name: str, weight: float) -> None:
            self.name, self.weight = name, weight

        def on_half_time(self, ctx: Any) -> None:
            heard.append(self.name)

    class Seldom(lb.Callback):
        weight = -1

        @lb.every(4)  # it is fired inside a training batch: steps are counted
        def on_half_time(self, ctx: Any) -> None:
            heard.append(f"step {ctx.step_count}")

    fit(Scale, Fires(), Hears("late", 1), Hears("early", 0), Seldom())
    assert heard == ["early", "late", "step 4", "early", "late"]


def test_a_wish_at_a_breakpoint_of_ones_own_is_honored() -> None:
    @lb.on("on_half_time")
    def halt(ctx: Any) -> None:
        ctx.stop("half time")

    fitted = fit(Scale, Fires(), halt)
    assert fitted.stop_reason == "halt: half time"


def test_a_breakpoint_that_nobody_declared_is_refused() -> None:
    with pytest.raises(HookError, match=r"on_half_time"):
        fit(Scale, lb.on("on_half_time")(print_ctx))
    with pytest.raises(HookError, match=r'"on_half_tim" is no breakpoint.*"on_half_time"'):
        fit(Scale, Fires(), at("on_fit_begin", lambda ctx: ctx.call_callbacks("on_half_tim")))


@pytest.mark.parametrize("name", ["half_time", "on half", 3])
def test_a_breakpoint_has_a_name_that_begins_with_on(name: Any) -> None:
    with pytest.raises(HookError, match="begins with on_"):
        fit(Scale, lb.callback("Odd", breakpoints=(name,))())


def test_a_breakpoint_nobody_hears_may_be_fired() -> None:
    assert fit(Scale, Fires()).stop_reason is None


# --- idle callbacks -----------------------------------------------------------------------------


def test_an_idle_callback_costs_no_call() -> None:
    class Idle(lb.Callback):
        def on_fit_end(self, ctx: Any) -> None: ...

    def calls(*callbacks: lb.Callback) -> int:
        counted = 0

        def profile(frame: Any, event: str, arg: Any) -> None:
            nonlocal counted
            counted += event in {"call", "c_call"}

        def begin(ctx: Any) -> None:
            sys.setprofile(profile)

        def end(ctx: Any) -> None:
            sys.setprofile(None)

        count = [at("on_epoch_begin", begin, weight=9), at("on_epoch_end", end, weight=-9)]
        fit(Scale, *count, *callbacks, epochs=1)
        return counted

    calls()  # whatever is done once is done
    assert calls() == calls(*(Idle() for _ in range(50))) > 0


def test_a_filter_that_does_not_hold_costs_no_call() -> None:
    frames = []

    class Seldom(lb.Callback):
        @lb.every(1000)
        def on_train_batch_end(self, ctx: Any) -> None: ...

    def profile(frame: Any, event: str, arg: Any) -> None:
        frames.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        fit(Scale, Seldom(), epochs=1)
    finally:
        sys.setprofile(None)
    assert frames
    assert "on_train_batch_end" not in frames


def test_a_callback_that_keeps_ctx_is_collected() -> None:
    class Keeps(lb.Callback):
        def on_fit_begin(self, ctx: Any) -> None:
            self.ctx = ctx

    callback = Keeps()
    fit(Scale, callback)
    ref = weakref.ref(callback)
    del callback
    gc.collect()
    assert ref() is None


def test_a_callback_that_keeps_ctx_is_collected_after_an_exception_too() -> None:
    class Keeps(lb.Callback):
        def on_train_batch_end(self, ctx: Any) -> None:
            self.ctx = ctx
            raise ValueError("no luck")

    callback = Keeps()
    with pytest.raises(ValueError, match="no luck"):
        fit(Scale, callback)
    ref = weakref.ref(callback)
    del callback
    gc.collect()
    assert ref() is None


def test_an_instance_may_serve_several_runs() -> None:
    trace = Trace()
    fitted = fit(Scale, trace, epochs=1)
    once = list(trace.events)
    fit(Scale, trace, epochs=1)
    fitted.evaluate(numbered(1), callbacks=[trace], verbose=False)
    assert trace.events[: 2 * len(once)] == once * 2
    assert trace.events[-1] == "on_valid_end"


def test_once_is_a_flag():
    with pytest.raises(ArgumentTypeError, match=r"lb\.on: once is True or False; got 'no'"):
        lb.on("on_epoch_end", once="no")
