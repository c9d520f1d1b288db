"""A variational autoencoder on handwritten digits: `python examples/vae.py`.

Its loss has two parts, how well a digit is rebuilt and how far its code is from a normal one. Both
are recorded beside their sum, and drawn with it into `digits-vae.png`. The weight of the second
part grows over the first steps, so that the code is used at all.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import lumbre as lb

WARM_UP = 400  # steps until the second part counts in full


class VAE(nn.Module):
    def __init__(self, size=8):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * size))
        self.decode = nn.Sequential(nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, x):
        mean, spread = self.encode(x).chunk(2, dim=1)
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (spread / 2).exp()
        return self.decode(code), mean, spread

    def predict(self, x):
        return self(x)[0].sigmoid()

    def loss(self, pred, target):
        logits, mean, spread = pred
        rebuilt = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        rebuilt = rebuilt.sum(1).mean()
        kl = 0.5 * (mean.square() + spread.exp() - 1 - spread).sum(1).mean()
        share = min(1.0, self.ctx.step_count / WARM_UP)
        return rebuilt + share * kl, {"rebuilt": rebuilt, "kl": kl}


def main(epochs=30):
    torch.set_num_threads(1)  # a network this small gains nothing from more
    torch.manual_seed(1)
    x = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    net = lb.setup(VAE, optimizer=torch.optim.Adam).set_opt_hparams(lr=3e-3)
    fitted = net.fit(
        [x[:1500], x[:1500]],
        epochs=epochs,
        valid_data=[x[1500:], x[1500:]],
        valid_first=True,
        callbacks=[lb.callbacks.StepHistory(), lb.callbacks.KeepBestModel("valid_rebuilt")],
    )
    return fitted, x[1500:]


if __name__ == "__main__":
    fitted, held = main()
    fitted.plot().savefig("digits-vae.png")
    print(fitted)
    print(f"error of a pixel: {(fitted.predict(held) - held).abs().mean():.3f}")
