"""A loop of one's own, with everything around it that `fit` has: `python examples/own_loop.py`.

Who keeps their own loop, for research or reinforcement learning, keeps callbacks, metrics, records
and files with it. `train` is that loop; `train_by_fit` is the same in one call.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import lumbre as lb

LOSS = nn.CrossEntropyLoss()


def make_model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))


def make_data():
    images, digits = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32)
    train, valid = random_split(
        TensorDataset(x, torch.tensor(digits)), [0.8, 0.2], torch.Generator().manual_seed(1)
    )
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(valid, batch_size=256)


def train(train_data, valid_data, callbacks=(), epochs=5):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    accuracy = lb.metrics.Accuracy()
    with lb.run(model, optimizer, accuracy, callbacks, epochs=epochs, loss=LOSS) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(train_data):
                ctx.forward()
                loss = ctx.compute_loss()
                # Whatever a step needs beside: a penalty, another player's move, a second network.
                ctx.backward(loss)
                ctx.step_optimizer()
            for x, y in ctx.valid(valid_data):
                # The parts are there to be used or not: this is the pass without them, so that the
                # breakpoints inside of a batch do not fire, and loss and metrics are fed by hand.
                pred = model(x)
                ctx.record(pred, y, LOSS(pred, y))
    return model, ctx


def train_by_fit(train_data, valid_data, callbacks=(), epochs=5):
    fitted = (
        lb.setup(make_model(), LOSS, torch.optim.Adam, lb.metrics.Accuracy())
        .set_opt_hparams(lr=0.01)
        .fit(train_data, epochs=epochs, valid_data=valid_data, callbacks=callbacks)
    )
    return fitted.model, fitted


def main():
    torch.set_num_threads(1)  # a network this small gains nothing from more
    stop = lb.callbacks.EarlyStopping("valid_acc", mode="max", patience=3)
    _, ctx = train(*make_data(), callbacks=stop, epochs=30)
    print(ctx.get_metrics_df().tail(4).to_string(index=False))
    print(f"stopped: {ctx.stop_reason}" if ctx.stop_reason else "all epochs done")
    accuracy = max(epoch["acc"] for epoch in ctx.records["metrics"]["valid"])
    if accuracy < 0.95:
        raise SystemExit(f"expected an accuracy of 0.95 on held-back digits, got {accuracy:.3f}")


if __name__ == "__main__":
    main()
