"""Profile and TrainValid: seconds by part, and the mode of the model."""

from typing import Any

import pytest
from torch import nn

import lumbre as lb
from runs import Scale, Trace, at, fit, numbered


def lengths(fitted: lb.Fitted) -> dict[str, int]:
    return {part: len(seconds) for part, seconds in fitted.profile.items()}


def test_each_part_is_timed_each_time() -> None:
    assert lengths(fit(epochs=3)) == {"fit": 1, "epoch": 3, "train": 3, "valid": 3}
    assert lengths(fit(epochs=3, valid_data=None)) == {"fit": 1, "epoch": 3, "train": 3, "valid": 0}


def test_a_part_takes_no_longer_than_what_is_around_it() -> None:
    profile = fit(epochs=2).profile
    assert sum(profile["epoch"]) <= profile["fit"][0]
    for epoch, train, valid in zip(
        profile["epoch"], profile["train"], profile["valid"], strict=True
    ):
        assert 0 < train + valid <= epoch


def test_a_stop_and_a_skip_leave_whole_times() -> None:
    stopped = fit(Scale, at("on_train_batch_end", lambda ctx: ctx.stop()))
    assert lengths(stopped) == {"fit": 1, "epoch": 1, "train": 1, "valid": 0}
    skipped = fit(Scale, at("on_epoch_begin", lambda ctx: ctx.skip_epoch()))
    assert lengths(skipped) == {"fit": 1, "epoch": 2, "train": 1, "valid": 1}


def test_times_are_there_for_callbacks_that_run_later() -> None:
    seen = []
    fit(
        Scale,
        lb.on("on_epoch_end")(lambda ctx: seen.append(len(ctx.records["profile"]["epoch"]))),
    )
    assert seen == [1, 2]


class Modes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Scale()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        return self.inner(x)

    def loss(self, pred: Any, target: Any) -> Any:
        return pred.mean()


def test_the_model_trains_in_train_mode_and_is_left_ready_to_use() -> None:
    trace = Trace(lambda hook, ctx: (hook, ctx.model.training, ctx.model.drop.training))
    fitted = fit(Modes, trace)
    for hook, outer, inner in trace.events:
        if hook.startswith("on_train"):
            assert (outer, inner) == (True, True)
        elif hook.startswith("on_valid"):
            assert (outer, inner) == (False, False)
    assert not fitted.model.training
    assert not fitted.model.drop.training


@pytest.mark.parametrize("name", ["Profile", "TrainValid", "Metrics", "Progress", "Interrupt"])
def test_the_default_callbacks_say_where_they_act(name: str) -> None:
    kind = getattr(lb.callbacks, name)
    assert issubclass(kind, lb.Callback)
    assert "cts at" in kind.__doc__
    assert kind.weight == 0
    assert kind.__name__ in {type(each).__name__ for each in callbacks_of_a_verbose_run()}


def callbacks_of_a_verbose_run() -> list[Any]:
    seen: list[Any] = []
    fit(Scale, at("on_fit_begin", lambda ctx: seen.extend(ctx.callbacks)), verbose=True)
    return seen


def test_progress_is_there_in_verbose_runs_only() -> None:
    verbose = [type(each).__name__ for each in callbacks_of_a_verbose_run()][:5]
    assert verbose == ["Profile", "TrainValid", "Metrics", "Progress", "Interrupt"]
    quiet: list[Any] = []
    fit(Scale, at("on_fit_begin", lambda ctx: quiet.extend(ctx.callbacks)), data=numbered(1))
    assert [type(each).__name__ for each in quiet][:4] == [n for n in verbose if n != "Progress"]
