"""stop, skip_epoch, skip_batch and handlers, asked for at every breakpoint in turn."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lumbre as lb
from runs import Pair, Scale, Trace, at, fit, numbered

WISHES: dict[str, Callable[[Any], Any]] = {
    "stop": lambda ctx: ctx.stop("enough"),
    "skip_epoch": lambda ctx: ctx.skip_epoch(),
    "skip_batch": lambda ctx: ctx.skip_batch(),
}
IN_FIT = [h for h in lb.HOOKS if "predict" not in h]
ANYWHERE = {"on_early_stopping", "on_interrupt", "on_exception", "on_checkpoint"}
IN_FIT = [h for h in IN_FIT if h not in ANYWHERE]
IN_VALID = [h for h in IN_FIT if "valid" in h]
IN_PREDICT = [h for h in lb.HOOKS if "predict" in h]


class Story:
    """What the contract says of wishes, written down as plainly as it can be.

    Two epochs of two training and two validation batches; `wishes` are asked for together, when
    the breakpoint `at` is reached for the `nth` time.
    """

    def __init__(self, wishes: set[str], at: str, nth: int, names: str) -> None:
        self.wishes, self.at, self.nth, self.names = wishes, at, nth, names
        self.events: list[str] = []
        self.steps = 0
        self.train: list[list[int]] = []
        self.valid: list[list[int]] = []
        self.stop = self.skip_epoch = self.skip_batch = False

    def fire(self, hook: str) -> None:
        self.events.append(hook)
        if hook == self.at:
            self.nth -= 1
            if self.nth == 0:
                self.stop |= "stop" in self.wishes
                self.skip_epoch |= "skip_epoch" in self.wishes
                self.skip_batch |= "skip_batch" in self.wishes

    def fit(self) -> "Story":
        self.fire("on_fit_begin")
        for _ in range(2):
            if self.stop:
                break
            self.skip_epoch = False
            self.train.append([])
            self.valid.append([])
            self.fire("on_epoch_begin")
            if not (self.stop or self.skip_epoch):
                self.fire("on_train_begin")
                for batch in (1, 2):
                    if not (self.stop or self.skip_epoch):
                        self.train_batch(batch)
                self.fire("on_train_end")
            if not (self.stop or self.skip_epoch):
                self.valid_pass()
            self.fire("on_epoch_end")
        self.fire("on_fit_end")
        return self

    def train_batch(self, batch: int) -> None:
        self.skip_batch = False
        self.fire("on_train_batch_begin")
        for _ in self.names:
            for part in ("after_pred", "after_loss", "before_backward", "before_step"):
                if not self.skip_batch:
                    self.fire(f"on_train_batch_{part}")
            if not self.skip_batch:
                self.steps += 1
                self.fire("on_train_batch_after_step")
        self.fire("on_train_batch_end")
        if not self.skip_batch:
            self.train[-1].append(batch)

    def valid_pass(self) -> None:
        self.fire("on_valid_begin")
        for batch in (1, 2):
            if not self.skip_epoch:  # a stop lets the pass finish
                self.skip_batch = False
                self.fire("on_valid_batch_begin")
                for _ in self.names:
                    for part in ("after_pred", "after_loss"):
                        if not self.skip_batch:
                            self.fire(f"on_valid_batch_{part}")
                self.fire("on_valid_batch_end")
                if not self.skip_batch:
                    self.valid[-1].append(batch)
        self.fire("on_valid_end")

    def evaluate(self) -> "Story":
        self.valid.append([])
        self.valid_pass()
        return self


class Seen(lb.Metric):
    """The numbers of the batches that were counted, as the bits of one number."""

    def __init__(self) -> None:
        self.bits = 0.0

    def update(self, preds: Any, target: Any) -> None:
        self.bits += target.item()

    def compute(self) -> float:
        return self.bits


def values(epochs: list[list[int]], names: str, with_metric: bool = True) -> list[dict[str, float]]:
    """The records of a loss that is the mean of 2 ** batch, and of `Seen` beside it."""
    keys = ["loss"] if len(names) == 1 else [f"loss_{name}" for name in names]
    entries = []
    for counted in epochs:
        numbers = [2.0**batch for batch in counted]
        entry = {key: sum(numbers) / len(numbers) for key in keys if numbers}
        if numbers and with_metric:
            entry["seen"] = sum(numbers)
        entries.append(entry)
    return entries


class ScalePair(Pair):
    def loss(self, pred: Any, target: Any) -> Any:
        return target.mean() + 0 * pred.mean()


@pytest.mark.parametrize("names", ["a", "ab"], ids=["one", "two"])
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("hook", IN_FIT)
@pytest.mark.parametrize("wishes", [*WISHES, "skip_batch stop", "skip_batch skip_epoch"])
def test_a_wish_does_in_a_fit_what_the_contract_says(
    wishes: str, hook: str, nth: int, names: str
) -> None:
    story = Story(set(wishes.split()), hook, nth, names).fit()
    trace = Trace()
    steps = []

    def count_steps(ctx: Any) -> None:
        inner = ctx.step_opt
        ctx.step_opt = lambda opt: (steps.append(opt), inner(opt))

    def ask(ctx: Any) -> None:
        for wish in wishes.split():
            WISHES[wish](ctx)

    # A metric of Python's own is looked at in a test of its own.
    fitted = fit(
        ScalePair if names == "ab" else Scale,
        at("on_fit_begin", count_steps, weight=-1),
        at(hook, ask, nth, name="Asker"),
        trace,
        optimizer=None if names == "ab" else torch.optim.SGD,
        valid_data=numbered(2),
    )
    assert trace.events == story.events
    assert len(steps) == story.steps
    assert fitted.stop_reason == ("Asker: enough" if story.stop else None)
    assert fitted.records["metrics"]["train"] == values(story.train, names, with_metric=False)
    recorded = fitted.records["metrics"]["valid"]
    expected = values(story.valid, names, with_metric=False)
    assert recorded == expected[: len(recorded)]
    assert not any(expected[len(recorded) :]), "values of the validation are missing"


@pytest.mark.parametrize("hook", [h for h in IN_FIT if "batch" in h])
def test_a_skipped_batch_counts_in_no_metric_of_ones_own(hook: str) -> None:
    story = Story({"skip_batch"}, hook, 1, "a").fit()
    fitted = fit(Scale, at(hook, WISHES["skip_batch"]), metrics=Seen(), valid_data=numbered(2))
    assert fitted.records["metrics"]["train"] == values(story.train, "a")
    assert fitted.records["metrics"]["valid"] == values(story.valid, "a")


@pytest.mark.parametrize("hook", [h for h in IN_FIT if "batch" in h])
def test_a_skipped_batch_counts_in_no_built_in_metric(hook: str) -> None:
    story = Story({"skip_batch"}, hook, 1, "a").fit()
    fitted = fit(
        Scale, at(hook, WISHES["skip_batch"]), metrics=lb.metrics.MAE(), valid_data=numbered(2)
    )
    for set_, epochs in (("train", story.train), ("valid", story.valid)):
        for entry, counted in zip(fitted.records["metrics"][set_], epochs, strict=True):
            assert entry["mae"] == pytest.approx(sum(2.0**n - 1 for n in counted) / len(counted))


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_train_begin", "on_train_end"])
def test_the_records_have_an_entry_for_each_epoch_and_set(hook: str, epoch: int) -> None:
    fitted = fit(Scale, at(hook, WISHES["skip_epoch"], nth=epoch))
    metrics = fitted.records["metrics"]
    assert len(metrics["train"]) == len(metrics["valid"]) == 2
    assert metrics["valid"][epoch - 1] == {}
    assert metrics["valid"][2 - epoch] == {"loss": 2.0}
    assert bool(metrics["train"][epoch - 1]) == (hook == "on_train_end")


@pytest.mark.parametrize("hook", IN_VALID)
@pytest.mark.parametrize("wish", WISHES)
def test_a_wish_does_in_evaluate_what_the_contract_says(wish: str, hook: str) -> None:
    fitted = fit()
    story = Story({wish}, hook, 1, "a").evaluate()
    trace = Trace()
    evaluation = fitted.evaluate(
        numbered(2), callbacks=[at(hook, WISHES[wish]), trace], verbose=False
    )
    assert trace.events == story.events
    assert [evaluation.metrics] == values(story.valid, "a", with_metric=False)


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("hook", IN_PREDICT)
@pytest.mark.parametrize("wish", WISHES)
def test_a_wish_does_in_predict_what_the_contract_says(wish: str, hook: str, nth: int) -> None:
    events: list[str] = []
    left: list[bool] = []
    asked = 0
    over = skipped = False

    def fire(name: str) -> None:
        nonlocal asked, over, skipped
        events.append(name)
        asked += name == hook
        if name == hook and asked == nth:
            over |= wish != "skip_batch"
            skipped |= wish == "skip_batch"

    fire("on_predict_begin")
    for _ in range(3):
        if not over:
            skipped = False
            fire("on_predict_batch_begin")
            fire("on_predict_batch_end")
            left.append(skipped)
    fire("on_predict_end")

    trace = Trace()
    fitted = fit()
    data = torch.arange(3.0).reshape(3, 1)
    predictions = fitted.predict(
        data,
        callbacks=[at(hook, WISHES[wish], nth), trace],
        verbose=False,
        dataloader_options={"batch_size": 1},
        stack=False,
    )
    assert trace.events == events
    kept = [i for i, is_left in enumerate(left) if not is_left]
    assert [each.item() for each in predictions] == kept


def test_the_other_callbacks_of_the_breakpoint_still_run() -> None:
    seen = []
    fit(
        Scale,
        at("on_train_batch_begin", lambda ctx: (ctx.stop(), ctx.skip_batch(), ctx.skip_epoch())),
        at("on_train_batch_begin", lambda ctx: seen.append("second")),
        at("on_train_batch_begin", lambda ctx: seen.append("last"), weight=9),
    )
    assert seen == ["second", "last"]


@pytest.mark.parametrize("hook", [h for h in IN_FIT if h.startswith("on_train_batch_")])
def test_a_skipped_batch_leaves_no_gradients(hook: str) -> None:
    left = []

    def look(ctx: Any) -> None:
        left.extend(p.grad for p in ctx.model.parameters())

    fit(
        Pair,
        at(hook, WISHES["skip_batch"]),
        at("on_train_batch_begin", look, nth=2, weight=-9),
        loss=nn.MSELoss(),
        optimizer=None,
    )
    assert left == [None] * 4


def test_the_first_reason_of_a_stop_stays_and_says_who() -> None:
    class Judge(lb.Callback):
        def on_epoch_end(self, ctx: Any) -> None:
            ctx.stop("good enough")

    fitted = fit(Scale, Judge(), at("on_epoch_end", lambda ctx: ctx.stop("me too")))
    assert fitted.stop_reason == "Judge: good enough"
    assert (
        fit(Scale, at("on_epoch_end", lambda ctx: ctx.stop(), name="Quiet")).stop_reason == "Quiet"
    )
    assert fit().stop_reason is None


def test_a_plain_stop_is_not_held_back_by_min_epochs() -> None:
    fitted = fit(Scale, at("on_epoch_end", WISHES["stop"]), epochs=(3, 5))
    assert len(fitted.records["metrics"]["train"]) == 1


def test_a_stop_in_a_fit_says_nothing_about_the_next_one() -> None:
    asker = at("on_epoch_end", WISHES["stop"])
    trainable = lb.setup(Scale, optimizer=torch.optim.SGD).set_opt_hparams(lr=0.1)
    first = trainable.fit(numbered(1), 2, [asker], verbose=False)
    second = trainable.fit(numbered(1), 2, [asker], verbose=False)
    assert [len(f.records["metrics"]["train"]) for f in (first, second)] == [1, 2]


# --- handlers -----------------------------------------------------------------------------------


class Trouble(ValueError):
    pass


def trouble(ctx: Any) -> None:
    raise Trouble("no luck")


def with_handler(which: str, seen: list[Any]) -> lb.Callback:
    def handler(ctx: Any, exc: BaseException) -> None:
        seen.append((type(exc), ctx.exception is exc))

    return at("on_fit_begin", lambda ctx: getattr(ctx, which).update({Trouble: handler}), weight=-9)


ENDS = ["on_train_batch_end", "on_train_end", "on_valid_batch_end", "on_valid_end", "on_epoch_end"]


def ends_after(events: list[str], inside: tuple[str, ...] = ()) -> list[str]:
    """The `_end`s that are due after these events, from the inside out."""
    scopes: list[str] = []
    for event in events:
        if event.endswith("_begin"):
            scopes.append(event.removesuffix("_begin"))
        elif event.endswith("_end"):
            scopes.remove(event.removesuffix("_end"))
    return [f"{scope}_end" for scope in reversed(scopes) if scope not in inside]


@pytest.mark.parametrize("hook", IN_FIT)
def test_an_exception_with_a_handler_ends_the_fit(hook: str) -> None:
    seen: list[Any] = []
    trace = Trace()
    fitted = fit(
        Scale, with_handler("handlers", seen), trace, at(hook, trouble), valid_data=numbered(2)
    )
    whole = Story(set(), "", 0, "a").fit().events
    until = whole[: whole.index(hook) + 1]
    assert trace.events == [*until, "on_exception", *ends_after(until)]
    assert seen == [(Trouble, True)]
    assert isinstance(fitted, lb.Fitted)
    fitted.predict(torch.ones(1, 1))


@pytest.mark.parametrize("hook", [h for h in IN_FIT if "fit" not in h])
def test_an_exception_with_an_epoch_handler_ends_the_epoch(hook: str) -> None:
    seen: list[Any] = []
    trace = Trace()
    fitted = fit(
        Scale,
        with_handler("epoch_handlers", seen),
        trace,
        at(hook, trouble),
        valid_data=numbered(2),
    )
    whole = Story(set(), "", 0, "a").fit().events
    until = whole[: whole.index(hook) + 1]
    second = whole[whole.index("on_epoch_end") + 1 :]
    assert trace.events == [*until, "on_exception", *ends_after(until, ("on_fit",)), *second]
    assert seen == [(Trouble, True)]
    assert len(fitted.records["metrics"]["train"]) == 2
    assert fitted.records["metrics"]["train"][1] == {"loss": 3.0}


def test_a_ctrl_c_is_no_matter_of_handlers() -> None:
    def handlers(ctx: Any) -> None:
        for each in (ctx.handlers, ctx.epoch_handlers):
            each[BaseException] = lambda ctx, exc: seen.append(exc)

    def stop(ctx: Any) -> None:
        raise KeyboardInterrupt

    seen: list[Any] = []
    fitted = fit(Scale, at("on_fit_begin", handlers), at("on_train_batch_end", stop))
    assert seen == []
    assert fitted.stop_reason == "Ctrl-C: epoch 1, iteration 1, training"


def test_a_handler_of_a_base_class_is_found_and_the_nearest_wins() -> None:
    seen = []

    def handlers(ctx: Any) -> None:
        ctx.handlers[Exception] = lambda ctx, exc: seen.append("Exception")
        ctx.handlers[ValueError] = lambda ctx, exc: seen.append("ValueError")

    fit(Scale, at("on_fit_begin", handlers), at("on_train_end", trouble))
    assert seen == ["ValueError"]


def test_an_exception_without_a_handler_of_its_class_is_raised() -> None:
    trace = Trace()

    def handlers(ctx: Any) -> None:
        ctx.handlers[KeyError] = ctx.epoch_handlers[KeyError] = lambda ctx, exc: None

    with pytest.raises(Trouble, match="no luck"):
        fit(Scale, at("on_fit_begin", handlers), trace, at("on_train_end", trouble))
    assert trace.events[-2:] == ["on_train_end", "on_exception"]


def test_what_a_handler_raises_leaves_the_fit() -> None:
    def handlers(ctx: Any) -> None:
        ctx.handlers[Trouble] = ctx.epoch_handlers[Trouble] = handler

    def handler(ctx: Any, exc: BaseException) -> None:
        raise RuntimeError("worse")

    with pytest.raises(RuntimeError, match="worse"):
        fit(Scale, at("on_fit_begin", handlers), at("on_train_batch_begin", trouble))


def test_the_gradients_of_a_batch_that_failed_do_not_reach_the_next_epoch() -> None:
    seen: list[Any] = []
    grads = []

    @lb.on("on_train_batch_before_step", weight=-9)
    def look(ctx: Any) -> None:
        grads.append(ctx.model.weight.grad.item())

    fit(
        Scale,
        with_handler("epoch_handlers", seen),
        look,
        at("on_train_batch_before_step", trouble),
        loss=lambda pred, target: pred.mean(),
    )
    assert seen
    assert grads == [1.0] * 3


def test_the_model_of_a_handled_exception_holds_no_gradients() -> None:
    fitted = fit(Scale, with_handler("handlers", []), at("on_train_batch_before_step", trouble))
    assert fitted.model.weight.grad is None
