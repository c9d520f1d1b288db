"""A stream without an end, measured in steps: `python examples/stream.py`.

It validates every 500 steps and stops after 3000. `train_by_loop` is the same in a loop of one's
own, and ends in the same weights.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import lumbre as lb

LOSS = nn.MSELoss()


class Waves(IterableDataset):
    """Points of a wave with noise, for as long as somebody asks."""

    def __init__(self, seed):
        self.seed = seed

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            x = torch.rand(32, 1, generator=generator) * 6 - 3
            yield x, torch.sin(x) + 0.1 * torch.randn(32, 1, generator=generator)


def make_model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))


def make_data():
    # The stream gives batches already.
    return DataLoader(Waves(1), batch_size=None), DataLoader(Waves(2), batch_size=None)


MEASURED = {"steps_per_epoch": 500, "max_steps": 3000, "valid_steps": 20}


def train(train_data, valid_data, callbacks=()):
    net = lb.setup(make_model, LOSS, torch.optim.Adam).set_opt_hparams(lr=0.01)
    return net.fit(train_data, valid_data=valid_data, callbacks=callbacks, **MEASURED)


def train_by_loop(train_data, valid_data, callbacks=()):
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with lb.run(model, optimizer, callbacks=callbacks, loss=LOSS, **MEASURED) as ctx:
        for _ in ctx.epochs():
            for _ in ctx.train(train_data):
                ctx.forward()
                ctx.backward(ctx.compute_loss())
                ctx.step_optimizer()
            for _ in ctx.valid(valid_data):
                ctx.forward()
                ctx.compute_loss()
    return ctx


class Report(lb.Callback):
    def on_epoch_end(self, ctx):
        print(f"step {ctx.step_count} of {ctx.total_steps}: {ctx.get_metric('loss', 'valid'):.4f}")


if __name__ == "__main__":
    train(*make_data(), [Report()])
    print(f"the noise alone is {0.1**2:.4f}")
