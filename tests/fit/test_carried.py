"""`error.fitted`: what was trained so far, on the exception that leaves a fit."""

import gc
import pickle
import weakref
from typing import Any

import pytest
import torch

import lumbre as lb
from runs import Scale, at, fit, numbered

NOTE = "error.fitted is the model as it was trained so far."


def broken(error: BaseException, **options: Any) -> Any:
    def act(ctx: Any) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fit(Scale, at("on_train_batch_end", act, 3), epochs=4, **options)
    return caught.value


def test_it_has_the_weights_and_the_records_of_so_far() -> None:
    error = broken(ValueError("no luck"))
    assert isinstance(error.fitted, lb.Fitted)
    assert len(error.fitted.records["metrics"]["train"]) == 2
    assert error.__notes__[-1] == NOTE
    torch.testing.assert_close(
        error.fitted.predict(torch.ones(2, 1)), error.fitted.model.weight * torch.ones(2, 1)
    )
    error.fitted.evaluate(numbered(1), verbose=False)


def test_it_is_left_out_of_a_pickle() -> None:
    error = broken(ValueError("no luck", 3))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own
    assert again.args == ("no luck", 3)
    assert again.fitted is None


def test_before_the_first_batch_there_is_nothing_to_carry() -> None:
    def act(ctx: Any) -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        fit(Scale, at("on_epoch_begin", act))
    assert not hasattr(caught.value, "fitted")


def test_a_class_that_takes_no_attributes_is_left_alone() -> None:
    class Bare(Exception):
        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(name)

    error = broken(Bare())
    assert NOTE not in getattr(error, "__notes__", ())


def test_of_a_fit_in_a_fit_the_inner_model_stays() -> None:
    inner: list[Any] = []

    def act(ctx: Any) -> None:
        inner.append(broken(ValueError("inside")))
        raise inner[0]

    with pytest.raises(ValueError, match="inside") as caught:
        fit(Scale, at("on_train_batch_end", act, 2))
    assert caught.value.fitted is inner[0].fitted  # type: ignore[attr-defined]
    assert caught.value.__notes__.count(NOTE) == 1


def test_when_the_exception_goes_the_model_goes() -> None:
    error = broken(ValueError("no luck"))
    model = weakref.ref(error.fitted.model)
    del error
    gc.collect()
    assert model() is None
