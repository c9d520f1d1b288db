"""What `make wheel` runs where the wheel was installed and no Rust is: a user's first minutes."""

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import lumbre_test_extension as others
import torch
from torch import nn

import lumbre as lb

prefix = Path(sys.prefix).resolve()
for module in (lb, lb._core, others):
    place = Path(module.__file__ or "").resolve()
    if prefix not in place.parents:
        raise SystemExit(
            f"{module.__name__} comes from {place}, and not from the wheel in {prefix}"
        )
if shutil.which("cargo") or shutil.which("rustc"):
    raise SystemExit("there is a Rust toolchain in PATH, so that this proves nothing")
typed = Path(lb.__file__ or "").with_name("py.typed")
if not typed.exists():
    raise SystemExit("the wheel has no py.typed")

torch.manual_seed(0)
inputs = torch.randn(256, 8)
classes = (inputs[:, 0] > 0).long()
stats = others.InputStats()
watchers = [
    lb.callbacks.EarlyStopping(patience=2),
    lb.callbacks.TerminateOnNaN(),
    others.LossSpike(factor=1e6),
    stats,
]
fitted = (
    lb.setup(nn.Linear, nn.CrossEntropyLoss(), torch.optim.Adam, metrics=[lb.metrics.Accuracy()])
    .set_hparams(in_features=8, out_features=2)
    .set_opt_hparams(lr=0.05)
    .fit([inputs, classes], epochs=5, valid_data=0.25, callbacks=watchers, verbose=False)
)
values = fitted.evaluate([inputs, classes]).metrics
hits = (fitted.predict(inputs).argmax(dim=1) == classes).float().mean().item()
if not 0.8 < hits <= 1 or abs(values["acc"] - hits) > 1e-6:
    raise SystemExit(f"the model gets {hits:.1%} right, and evaluate says {values}")
kinds = str(lb.schedule(watchers))
if f"lumbre-test-extension {version('lumbre-test-extension')}" not in kinds:
    raise SystemExit(f"the other wheel's callbacks are not where they belong:\n{kinds}")
print(f"lumbre {lb.__version__} works from its wheel beside another one, {hits:.0%} hits")
