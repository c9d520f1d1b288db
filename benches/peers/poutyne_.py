"""Poutyne: its Model, with its own accuracy."""

from __future__ import annotations

from typing import Any

from problem import Job, Trained, importing, main
from torch import nn

with importing:
    from poutyne import Callback, Model


class Idle(Callback):
    """Has a hook, but none inside of a batch."""

    def on_epoch_end(self, epoch_number: int, logs: dict[str, Any]) -> None:
        """Do nothing."""


def fit(job: Job) -> Trained:
    """Train by `fit` or `fit_generator`; the loss is always kept."""
    network = job.model()
    model = Model(
        network,
        job.optimizer()(network.parameters(), lr=job.lr),
        nn.CrossEntropyLoss(),
        batch_metrics=["accuracy"] if job.metrics else None,
        device="cpu",
    )
    options: dict[str, Any] = {
        "epochs": 1,
        "verbose": job.bar,
        "callbacks": [Idle() for _ in range(job.callbacks)],
    }
    if job.data == "arrays":
        order = {"shuffle": False}
        logs = model.fit(*job.arrays(), batch_size=job.size, dataloader_kwargs=order, **options)
    else:
        logs = model.fit_generator(job.loader(), **options)
    kept = {"loss": logs[-1]["loss"], **({"acc": logs[-1]["acc"] / 100} if job.metrics else {})}
    return Trained(
        network,
        kept,
        lambda other: evaluate(model, other),
        lambda other: model.predict_generator(other.loader(), has_ground_truth=True, verbose=False),
    )


def evaluate(model: Model, job: Job) -> tuple[float, float]:
    """Loss and accuracy, which Poutyne tells in percent."""
    loss, acc = model.evaluate_generator(job.loader(), verbose=False)
    return loss, acc / 100


if __name__ == "__main__":
    main(fit, "poutyne")
