"""Arguments that other libraries have: what lumbre says to them."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lumbre as lb
from lumbre.data.options import SAMPLE_SEED
from lumbre.errors import ArgumentTypeError
from lumbre.fit import keywords

X, Y = torch.ones(4, 1), torch.ones(4, 1)


@pytest.fixture(scope="module")
def trainable() -> lb.Trainable:
    return lb.setup(nn.Linear(1, 1), nn.MSELoss(), torch.optim.SGD).set_opt_hparams(lr=0.1)


@pytest.fixture(scope="module")
def fitted(trainable: lb.Trainable) -> lb.Fitted:
    return trainable.fit([X, Y], epochs=1, verbose=False)


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        (
            "batch_size",
            'has no argument "batch_size". Write dataloader_options={"batch_size": ...}.',
        ),
        ("shuffle", 'has no argument "shuffle". Write dataloader_options={"shuffle": ...}.'),
        ("device", 'has no argument "device". Write accelerator=lb.Accelerator(device=...).'),
        ("lr", 'has no argument "lr". Write lb.setup(...).set_opt_hparams(lr=...).'),
        (
            "learning_rate",
            'has no argument "learning_rate". Write lb.setup(...).set_opt_hparams(lr=',
        ),
        ("momentum", "Write lb.setup(...).set_opt_hparams(momentum=...)."),
        ("loss", 'has no argument "loss". Write lb.setup(..., loss=...).'),
        ("validation_data", 'Did you mean "valid_data"?'),
        ("max_epochs", 'Did you mean "epochs"?'),
        ("callback", 'Did you mean "callbacks"?'),
        ("y", "Data is one argument: fit([x, y], ...)."),
        ("zzz", "it takes data, epochs, callbacks, valid_data, accelerator, verbose, dataloader_"),
    ],
)
def test_a_keyword_that_fit_does_not_have_is_answered_by_its_place(
    trainable: lb.Trainable, keyword: str, text: str
) -> None:
    options: dict[str, Any] = {keyword: 1}
    with pytest.raises(ArgumentTypeError) as caught:
        trainable.fit([X, Y], **options)
    assert text in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert caught.value.__context__ is None


def test_so_are_those_of_the_other_verbs(trainable: lb.Trainable, fitted: lb.Fitted) -> None:
    net: Any = trainable
    done: Any = fitted
    setup: Any = lb.setup
    with pytest.raises(ArgumentTypeError, match=r'predict\(\) has .*={"batch_size": ...}'):
        done.predict(X, batch_size=2)
    with pytest.raises(ArgumentTypeError, match=r"evaluate\(\) has .*Accelerator\(cpu=...\)"):
        done.evaluate([X, Y], cpu=True)
    with pytest.raises(ArgumentTypeError, match=r"lr_finder\(\) has no .*set_opt_hparams\(lr=.*\)"):
        net.lr_finder([X, Y], lr=0.1)
    with pytest.raises(ArgumentTypeError, match=r"setup\(\) has no .*set_opt_hparams\(lr=...\)"):
        setup(nn.Linear, nn.MSELoss(), torch.optim.SGD, lr=0.1)
    with pytest.raises(
        ArgumentTypeError, match=r"setup\(\) has no .* Write fit\(..., epochs=...\)"
    ):
        setup(nn.Linear, nn.MSELoss(), torch.optim.SGD, epochs=3)
    with pytest.raises(ArgumentTypeError, match=r"Write fit\(..., dataloader_options={.*}\)"):
        setup(nn.Linear, nn.MSELoss(), torch.optim.SGD, batch_size=3)
    with pytest.raises(ArgumentTypeError, match='Did you mean "optimizer"'):
        setup(nn.Linear, nn.MSELoss(), optimiser=torch.optim.SGD)


@pytest.mark.parametrize("target", [Y, Y.numpy()], ids=["tensor", "array"])
def test_targets_beside_the_data_are_told_to_go_with_it(
    trainable: lb.Trainable, fitted: lb.Fitted, target: Any
) -> None:
    net: Any = trainable
    done: Any = fitted
    for call in (net.fit, net.lr_finder):
        with pytest.raises(ArgumentTypeError, match=r"Data is one argument: \w+\(\[x, y\]"):
            call(X, target)
    with pytest.raises(ArgumentTypeError, match=r"Data is one argument: fit\(\[x, y\], ...\)"):
        net.fit(X, target, epochs=1)
    with pytest.raises(ArgumentTypeError, match=r"Data is one argument: evaluate\(\[x, y\]"):
        done.evaluate(X, target)


def test_what_python_says_itself_and_what_the_fit_raises_stays(trainable: lb.Trainable) -> None:
    net: Any = trainable
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'data'"):
        net.fit()
    with pytest.raises(TypeError, match="multiple values for argument 'epochs'"):
        net.fit([X, Y], 1, epochs=2)

    @lb.on("on_fit_begin")
    def fail(ctx: Any) -> None:
        raise TypeError("fit() got an unexpected keyword argument 'batch_size'")

    with pytest.raises(TypeError, match=r"fit\(\) got an unexpected") as caught:
        net.fit([X, Y], 1, fail, verbose=False)
    assert type(caught.value) is TypeError


def test_nothing_is_built_for_a_call_that_cannot_be_made(trainable: lb.Trainable) -> None:
    built = []
    net: Any = lb.setup(lambda: built.append(1) or nn.Linear(1, 1), nn.MSELoss(), torch.optim.SGD)
    with pytest.raises(ArgumentTypeError, match="batch_size"):
        net.fit([X, Y], batch_size=2)
    assert not built


@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        ("dataloader_options", [torch.utils.data.DataLoader]),
        ("accelerator=", [lb.Accelerator]),
        ("lb.setup(...).set_opt_hparams", [torch.optim.SGD, torch.optim.Adam]),
        ("lb.setup(..., ", [lb.setup]),
        ("fit(", [lb.Trainable.fit]),
    ],
)
def test_what_is_said_to_belong_there_is_an_argument_there(place: str, kinds: list[Any]) -> None:
    (words,) = (set(v.split()) for k, v in keywords._PLACES.items() if k.startswith(place))
    arguments = {name for kind in kinds for name in inspect.signature(kind).parameters} - {"self"}
    if place == "dataloader_options":
        assert SAMPLE_SEED in words
        arguments |= {SAMPLE_SEED}  # lumbre's own, beside torch's
    assert words <= arguments
    if "torch" not in kinds[0].__module__:
        assert words == arguments, "lumbre's own are all there"


def test_a_number_of_numpy_is_a_number_of_epochs(trainable: lb.Trainable) -> None:
    epochs: Any = np.int64(2)
    fitted = trainable.fit([X, Y], epochs, verbose=False)
    assert len(fitted.records["metrics"]["train"]) == 2
