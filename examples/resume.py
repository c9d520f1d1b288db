"""A run that goes on: `python examples/resume.py`.

It trains once without a break. Then the same script is started again and again, and kills itself
after a few batches each time, until it comes to its end: which is the same, bit for bit.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import lumbre as lb


class KillMyself(lb.Callback):
    """Kills the process after so many batches, as a machine that goes away would."""

    def __init__(self, batches):
        self.batches = batches

    def on_train_batch_end(self, ctx):
        self.batches -= 1
        if self.batches == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def train(state, kill_after):
    torch.manual_seed(os.getpid())  # another seed each time: it is the first one that counts
    if not Path(state).exists():
        torch.manual_seed(1)
    x = torch.linspace(-3, 3, 256).unsqueeze(1)
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1))
    trainable = lb.setup(net, nn.MSELoss(), torch.optim.Adam, lb.metrics.MAE())
    fitted = trainable.set_opt_hparams(lr=0.01).fit(
        [x, torch.sin(x)],
        epochs=5,
        valid_data=[x[::4], torch.sin(x[::4])],
        callbacks=[lb.callbacks.AutoResume(state, every=5), KillMyself(kill_after)],
        verbose=False,
    )
    weights = torch.cat([each.detach().flatten() for each in fitted.model.parameters()])
    return weights.numpy().tobytes().hex(), fitted.records["metrics"]


def start(state, kill_after):
    command = [sys.executable, __file__, str(state), str(kill_after)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)  # noqa: S603


def main():
    with tempfile.TemporaryDirectory() as folder:
        whole = start(f"{folder}/whole.safetensors", 0)
        kills = 0
        while True:
            again = start(f"{folder}/killed.safetensors", 13)
            if again.returncode != -signal.SIGKILL:
                break
            kills += 1
    print(f"killed {kills} times; the end is the same: {again.stdout == whole.stdout}")
    return kills, whole, again


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(*train(sys.argv[1], int(sys.argv[2])))
    else:
        main()
