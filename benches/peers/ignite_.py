"""ignite: its supervised trainer and evaluator, with its metrics attached."""

from __future__ import annotations

import torch
from problem import Job, Trained, importing, main
from torch import Tensor, nn

with importing:
    from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.handlers import EpochOutputStore, ProgressBar
    from ignite.metrics import Accuracy, Average, Loss

LOSS = nn.CrossEntropyLoss()


def fit(job: Job) -> Trained:
    """Train by `create_supervised_trainer`."""
    model = job.model()
    opt = job.optimizer()(model.parameters(), lr=job.lr)
    if job.metrics:
        # The loss is handed on as it is: ignite's `Loss` would compute it a second time.
        trainer = create_supervised_trainer(
            model, opt, LOSS, output_transform=lambda x, y, pred, loss: (pred, y, loss.detach())
        )
        Average(output_transform=lambda output: output[2]).attach(trainer, "loss")
        Accuracy(output_transform=lambda output: output[:2]).attach(trainer, "acc")
    else:
        trainer = create_supervised_trainer(model, opt, LOSS)
    for _ in range(job.callbacks):
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: None)
    if job.bar:
        ProgressBar().attach(trainer)
    trainer.run(job.loader(), max_epochs=1)
    return Trained(
        model,
        trainer.state.metrics,
        lambda other: evaluate(model, other),
        lambda other: predict(model, other),
    )


def evaluate(model: nn.Module, job: Job) -> tuple[float, float]:
    """Loss and accuracy."""
    evaluator = create_supervised_evaluator(model, {"loss": Loss(LOSS), "acc": Accuracy()})
    values = evaluator.run(job.loader()).metrics
    return values["loss"], values["acc"]


def predict(model: nn.Module, job: Job) -> Tensor:
    """All predictions, kept by ignite's store of outputs."""
    evaluator: Engine = create_supervised_evaluator(model, output_transform=lambda x, y, pred: pred)
    EpochOutputStore().attach(evaluator, "predictions")
    return torch.cat(evaluator.run(job.loader()).predictions)


if __name__ == "__main__":
    main(fit, "pytorch-ignite")
