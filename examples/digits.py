"""A small network learns handwritten digits: `make demo`, or `python examples/digits.py`."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import lumbre as lb


class Net(nn.Sequential):
    def __init__(self, num_class):
        super().__init__(
            nn.Unflatten(1, (1, 8, 8)),  # 64 numbers are one image of 8 by 8
            nn.Conv2d(1, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, num_class),
        )


class PrintCallback(lb.Callback):
    def __init__(self, message):
        self.message = message

    @lb.every(20)  # without it, each of the 40 batches of an epoch would print its line
    def on_train_batch_end(self, ctx):
        print("Iteration", ctx.iter)

    def on_epoch_end(self, ctx):
        print(self.message)


def main():
    torch.set_num_threads(1)  # a network this small gains nothing from more
    torch.manual_seed(1)
    images, digits = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(images / 16, digits, train_size=1600, random_state=1)

    callbacks = [PrintCallback("Done!"), lb.callbacks.EarlyStopping(patience=3)]
    callbacks += [lb.callbacks.CSVLogger("digits-metrics.csv")]
    fitted = (
        lb.setup(Net, nn.CrossEntropyLoss(), torch.optim.Adam, metrics=[lb.metrics.Accuracy()])
        .set_hparams(num_class=10)
        .set_opt_hparams(lr=0.01)
        .fit([x, y], epochs=30, valid_data=0.2, callbacks=callbacks)
    )
    evaluation = fitted.evaluate([x_test, y_test])
    print(fitted, evaluation, sep="\n\n")
    fitted.plot().savefig("digits-metrics.png")

    accuracy = evaluation.get_metrics().set_index("metric").loc["acc", "value"]
    if accuracy < 0.95:
        raise SystemExit(f"expected an accuracy of 0.95 on held-back digits, got {accuracy:.3f}")
    print(f"\n{accuracy:.1%} of the held-back digits are right; the curves: digits-metrics.png")


if __name__ == "__main__":
    main()
