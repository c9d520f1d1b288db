"""Lightning: a LightningModule and a Trainer without logger, checkpoints and summary."""

from __future__ import annotations

import logging
from typing import Any

import torch
from problem import Job, Trained, importing, main
from torch import Tensor, nn

with importing:
    import lightning.pytorch as pl
    from torchmetrics.classification import MulticlassAccuracy

# What devices there are is told for each Trainer.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(pl.LightningModule):
    """The model with its loss, optimizer and metrics."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        self.model = job.model()
        self.loss = nn.CrossEntropyLoss()
        # Of the ways to count these are the short ones: no average by classes, no checks.
        self.acc = MulticlassAccuracy(job.classes, average="micro", validate_args=False)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Compute the loss of a batch."""
        return self.measure(batch) if self.job.metrics else self.bare(batch)

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """Measure on a batch."""
        self.measure(batch)

    def predict_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Predict a batch."""
        return self.model(batch[0])

    def bare(self, batch: list[Tensor]) -> Tensor:
        """Compute the loss, and keep nothing."""
        x, y = batch
        return self.loss(self.model(x), y)

    def measure(self, batch: list[Tensor]) -> Tensor:
        """Compute the loss, and keep it and the accuracy for the epoch."""
        x, y = batch
        pred = self.model(x)
        loss = self.loss(pred, y)
        self.acc.update(pred, y)
        # Told the size, Lightning does not look for it in the batch.
        self.log_dict(
            {"loss": loss, "acc": self.acc}, on_step=False, on_epoch=True, batch_size=len(y)
        )
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimizer."""
        return self.job.optimizer()(self.parameters(), lr=self.job.lr)


class Idle(pl.Callback):
    """Has a hook, but none inside of a batch."""

    def on_train_epoch_end(self, *_: Any) -> None:
        """Do nothing."""


def trainer(job: Job) -> pl.Trainer:
    """The Trainer; where nothing is kept, `barebones` leaves out all that can be left out."""
    if not job.metrics:
        return pl.Trainer(accelerator="cpu", max_epochs=1, barebones=True)
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=job.bar,
        callbacks=[Idle() for _ in range(job.callbacks)],
    )


def fit(job: Job) -> Trained:
    """Train by `Trainer.fit`."""
    module = Module(job)
    runner = trainer(job)
    runner.fit(module, job.loader())
    kept = {name: value.item() for name, value in runner.callback_metrics.items()}
    return Trained(
        module.model,
        kept,
        lambda other: evaluate(module, other),
        lambda other: torch.cat(trainer(other).predict(module, other.loader())),  # type: ignore[arg-type]
    )


def evaluate(module: Module, job: Job) -> tuple[float, float]:
    """Loss and accuracy."""
    (values,) = trainer(job).validate(module, job.loader(), verbose=False)
    return values["loss"], values["acc"]


if __name__ == "__main__":
    main(fit, "lightning")
