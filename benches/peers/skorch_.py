"""skorch: a NeuralNetClassifier without what it prints."""

from __future__ import annotations

from typing import Any

import torch
from problem import Job, Trained, importing, main
from torch import nn
from torch.utils.data import TensorDataset

with importing:
    from skorch import NeuralNetClassifier
    from skorch.callbacks import Callback, EpochScoring, ProgressBar


class Idle(Callback):
    """Has a hook, but none inside of a batch."""

    def on_epoch_end(self, net: Any, **_: Any) -> None:
        """Do nothing."""


def fit(job: Job) -> Trained:
    """Train by `fit(X, y)`; the loss is always kept."""
    callbacks: list[Any] = [(f"idle{i}", Idle()) for i in range(job.callbacks)]
    if job.metrics:
        # Scored by the predictions of the training itself, as an epoch ends.
        scoring = EpochScoring("accuracy", name="acc", lower_is_better=False, on_train=True)
        callbacks.append(("acc", scoring))
    if job.bar:
        callbacks.append(("bar", ProgressBar()))
    options: dict[str, Any] = {}
    x, y = job.arrays()
    given: tuple[Any, Any] = (x, y)
    if job.data != "arrays":
        # A loader takes the place of the one that skorch would make; X only says how many.
        loader = job.loader()
        options["iterator_train"] = lambda dataset, **_: loader
        given = TensorDataset(x, y), None
    net = NeuralNetClassifier(
        job.model,
        criterion=nn.CrossEntropyLoss,
        optimizer=job.optimizer(),
        lr=job.lr,
        batch_size=job.size,
        max_epochs=1,
        classes=list(range(job.classes)),
        train_split=None,
        callbacks=callbacks,
        callbacks__print_log=None,
        callbacks__valid_acc=None,
        verbose=0,
        **options,
    )
    net.fit(*given)
    last = net.history[-1]
    kept = {"loss": last["train_loss"], **({"acc": last["acc"]} if job.metrics else {})}
    return Trained(
        net.module_,
        kept,
        lambda other: evaluate(net, other),
        lambda other: net.forward(TensorDataset(*other.arrays())),
    )


@torch.no_grad()
def evaluate(net: NeuralNetClassifier, job: Job) -> tuple[float, float]:
    """Loss and accuracy; skorch has predictions in one tensor, and the rest is two lines."""
    x, y = job.arrays()
    pred = net.forward(TensorDataset(x, y))
    return nn.functional.cross_entropy(pred, y).item(), (pred.argmax(1) == y).double().mean().item()


if __name__ == "__main__":
    main(fit, "skorch")
