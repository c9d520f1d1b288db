"""What torch refuses in a batch is answered with the mend, from torch's own error."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import lumbre as lb
from lumbre import errors

CPU = lb.Accelerator(cpu=True)
X, Y = torch.randn(8, 3), torch.randn(8, 1)
CLASSES = torch.zeros(8, dtype=torch.long)


class Twice(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return x, super().forward(x)


class Detached(nn.Linear):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).detach()


class NoInit(nn.Module):
    def __init__(self) -> None:
        pass


def fit(model: Any, data: Any, loss: Any = None, **options: Any) -> lb.Fitted:
    setup = lb.setup(model, nn.MSELoss() if loss is None else loss, torch.optim.Adam)
    return setup.fit(data, epochs=1, accelerator=CPU, verbose=False, **options)


CASES = {
    "a float64 data set": (
        lambda: fit(nn.Linear(3, 1), As(X.double(), Y.double())),
        errors.DTypeError,
        r"The input is torch.float64, and the parameters of Linear are torch.float32.*input.to\(",
    ),
    "a mapping": (
        lambda: fit(nn.Linear(3, 1), {"x": X, "y": Y}),
        errors.DataError,
        "Linear takes a tensor, and the input of the batch is a dict.*goes to a forward that takes",
    ),
    "all frozen": (
        lambda: fit(nn.Linear(3, 1).requires_grad_(False), [X, Y]),
        errors.ArgumentError,
        r"no parameter of Linear requires a gradient.*module.requires_grad_\(True\)",
    ),
    "a loss without a graph": (
        lambda: fit(Detached(3, 1), [X, Y]),
        errors.ArgumentError,
        r"The loss that MSELoss gave has no graph.*Look for detach\(\)",
    ),
    "a tuple from forward": (
        lambda: fit(Twice(3, 1), [X, Y]),
        errors.ArgumentTypeError,
        "Twice.forward gave a tuple of 2, and MSELoss compares tensors",
    ),
    "a class out of range": (
        lambda: fit(nn.Linear(3, 4), [X, CLASSES + 9], nn.CrossEntropyLoss()),
        errors.TargetError,
        "Target 9 is out of bounds: the target of CrossEntropyLoss names a class .* they have 4",
    ),
    "classes as int32": (
        lambda: fit(nn.Linear(3, 4), [X, CLASSES.int()], nn.CrossEntropyLoss()),
        errors.DTypeError,
        r"The target is torch.int32, and CrossEntropyLoss takes class numbers.*target.long\(\)",
    ),
    "whole numbers for BCE": (
        lambda: fit(nn.Linear(3, 1), [X, CLASSES[:, None]], nn.BCEWithLogitsLoss()),
        errors.DTypeError,
        r"The target is torch.int64, and BCEWithLogitsLoss takes numbers.*target.float\(\)",
    ),
}


class As(Dataset[Any]):
    """Samples as they are: what lies in memory would be converted."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return self.x[i], self.y[i]


@pytest.mark.parametrize("case", CASES)
def test_the_error_says_the_mend_and_comes_from_torchs_own(case: str) -> None:
    act, kind, message = CASES[case]
    with pytest.raises(kind, match=message) as caught:
        act()
    assert isinstance(caught.value, errors.LumbreError)
    assert caught.value.__cause__ is not None
    assert not isinstance(caught.value.__cause__, errors.LumbreError)
    assert "epoch 1, iteration 1, training" in caught.value.__notes__[0]


def test_evaluate_answers_as_fit_does() -> None:
    fitted = fit(nn.Linear(3, 4), [X, CLASSES], nn.CrossEntropyLoss())
    with pytest.raises(errors.TargetError, match="they have 4"):
        fitted.evaluate([X, CLASSES + 9])


def test_a_module_without_its_base_is_refused_before_there_is_a_run() -> None:
    with pytest.raises(errors.ArgumentTypeError, match=r"NoInit.__init__ does not call super\(\)"):
        fit(NoInit, [X, Y])


def test_an_error_that_no_batch_explains_stays_as_it_is() -> None:
    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            raise RuntimeError("no luck with this dtype")

    with pytest.raises(RuntimeError, match="no luck") as caught:
        fit(Broken(3, 1), [X, Y])
    assert not isinstance(caught.value, errors.LumbreError)


def test_an_optimizer_that_insists_on_a_closure_is_told_how_to_ask_for_one() -> None:
    class Insists(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            assert closure is not None, "this one requires closure"
            return super().step(closure)

    class Asks(Insists):
        def step(self, closure: Any) -> Any:
            return super().step(closure)

    setup = lb.setup(nn.Linear(3, 1), nn.MSELoss(), Insists).set_opt_hparams(lr=0.1)
    with pytest.raises(AssertionError, match="requires closure") as caught:
        setup.fit([X, Y], epochs=1, accelerator=CPU, verbose=False)
    assert "def step(self, closure)" in caught.value.__notes__[1]
    assert "ctx.step_optimizer(closure=...)" in caught.value.__notes__[1]
    setup = lb.setup(nn.Linear(3, 1), nn.MSELoss(), Asks).set_opt_hparams(lr=0.1)
    assert setup.fit([X, Y], epochs=1, accelerator=CPU, verbose=False).stop_reason is None


def test_an_error_of_the_users_own_code_is_never_answered_for() -> None:
    class Mine(RuntimeError):
        pass

    def raises(error: BaseException) -> Any:
        def act(ctx: Any) -> None:
            raise error

        return act

    class Typo(nn.Linear):
        def forward(self, x: Any) -> Any:
            return self.fc(x["x"])

    own = [Mine("a dtype of mine"), IndexError("9 is out of bounds"), TypeError("must be Tensor")]
    for error in own:
        look = lb.on("on_train_batch_after_loss")(raises(error))
        with pytest.raises(type(error)) as caught:
            fit(nn.Linear(3, 1), [X, Y], callbacks=look)
        assert caught.value is error
    with pytest.raises(AttributeError, match="has no attribute 'fc'") as caught:
        fit(Typo(3, 1), {"x": X})
    assert not isinstance(caught.value, errors.LumbreError)


def test_a_loss_of_ones_own_may_do_without_a_target() -> None:
    class Contrast(nn.Module):
        def forward(self, pred: Tensor, target: Any = None) -> Tensor:
            return (pred @ pred.T).logsumexp(1).mean()

    fit(nn.Linear(3, 2), X, Contrast())
