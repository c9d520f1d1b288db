"""What `make wheel` runs where the wheels were installed and no Rust is: a user's first minutes."""

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import lumbre_test_extension as others
import torch
from torch import nn

import lumbre as lb


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(otherwise)


def check_installation() -> None:
    prefix = Path(sys.prefix).resolve()
    for module in (lb, lb._core, others):
        place = Path(module.__file__ or "").resolve()
        check(prefix in place.parents, f"{module.__name__} comes from {place}, not from {prefix}")
    tools = [tool for tool in ("cargo", "rustc") if shutil.which(tool)]
    check(not tools, f"{tools} can be called here, so that this proves nothing")
    check(Path(lb.__file__ or "").with_name("py.typed").exists(), "the wheel has no py.typed")


def check_a_run() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(256, 8)
    classes = (inputs[:, 0] > 0).long()
    callbacks = [
        lb.callbacks.EarlyStopping(patience=2),
        lb.callbacks.TerminateOnNaN(),
        others.LossSpike(factor=1e6),
        others.InputStats(),
    ]
    metrics = [lb.metrics.Accuracy()]
    net = (
        lb.setup(nn.Linear, nn.CrossEntropyLoss(), torch.optim.Adam, metrics=metrics)
        .set_hparams(in_features=8, out_features=2)
        .set_opt_hparams(lr=0.05)
    )
    data = [inputs, classes]
    fitted = net.fit(data, epochs=5, valid_data=0.25, callbacks=callbacks, verbose=False)
    values = fitted.evaluate(data).metrics
    hits = (fitted.predict(inputs).argmax(dim=1) == classes).float().mean().item()
    check(0.8 < hits <= 1, f"the model gets {hits:.0%} right")
    check(abs(values["acc"] - hits) < 1e-6, f"predict gets {hits} right, and evaluate {values}")
    shown = str(lb.schedule(callbacks))
    kind = f"lumbre-test-extension {version('lumbre-test-extension')}"
    check(kind in shown, f"the callbacks of the other wheel are not in the schedule:\n{shown}")


if __name__ == "__main__":
    check_installation()
    check_a_run()
    print(f"lumbre {lb.__version__} works from its wheel, beside another one")
