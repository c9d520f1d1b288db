"""The example that everything began with prints what it promises, in each way to write it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lumbre as lb


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


class Net(nn.Module):
    def __init__(self, num_class: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, num_class))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def loader(count: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(count, 4), torch.randint(3, (count,))), 4)


@pytest.mark.parametrize("made_by", [PrintCallback, print_callback])
def test_the_print_callback_prints_line_by_line(
    made_by: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = (
        lb.setup(
            Net,
            loss=nn.CrossEntropyLoss(),
            optimizer=torch.optim.Adam,
            metrics=[lb.metrics.Accuracy()],
        )
        .set_hparams(num_class=3)
        .set_opt_hparams(lr=3e-3)
        .fit(loader(10), epochs=2, valid_data=loader(6), callbacks=[made_by(message="Done!")])
    )
    epoch = ["Iteration 1", "Iteration 2", "Iteration 3", "Done!"]
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [*epoch, *epoch]
    assert printed.err == ""
    assert fitted.predict(loader(6)).shape == (6, 3)
    assert list(fitted.evaluate(loader(6)).get_metrics()["metric"]) == ["loss", "acc"]
    assert len(fitted.get_metrics()) == 8
    assert len(fitted.plot().axes) == 2


def test_what_a_functional_callback_prints_comes_between_the_lines_of_a_verbose_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lb.setup(Net, nn.CrossEntropyLoss(), torch.optim.Adam).set_hparams(num_class=3).fit(
        loader(5), epochs=1, callbacks=print_callback("Done!"), verbose=True
    )
    first, second, line, last = capsys.readouterr().out.splitlines()
    assert [first, second, last] == ["Iteration 1", "Iteration 2", "Done!"]
    assert line.startswith("epoch 1/1 · train loss ")


def test_a_functional_callback_at_one_breakpoint(capsys: pytest.CaptureFixture[str]) -> None:
    @lb.on("on_train_batch_end", every=2, weight=5)
    def log(ctx: Any) -> None:
        print("step", ctx.step_count)

    trainable = lb.setup(Net, nn.CrossEntropyLoss(), torch.optim.SGD).set_hparams(num_class=3)
    trainable.fit(loader(9), epochs=2, callbacks=[log], verbose=False)
    assert capsys.readouterr().out.splitlines() == ["step 2", "step 4", "step 6"]
