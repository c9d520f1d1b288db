"""The Trainer of transformers, with a small model that answers with its loss."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from problem import Job, Trained, importing, main
from torch import Tensor, nn

with importing:
    from transformers import Trainer, TrainerCallback, TrainingArguments

# TrainingArguments wants a folder to write to, though nothing is written.
FOLDER = tempfile.TemporaryDirectory()


class Model(nn.Module):
    """The model in the form that Trainer expects: given labels, it answers with the loss too."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.model = job.model()
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Predict."""
        logits = self.model(x)
        if labels is None:
            return {"logits": logits}
        return {"loss": self.loss(logits, labels), "logits": logits}


class Given(Trainer):
    """A Trainer with loaders of its own, as its documentation says one may have."""

    def __init__(self, job: Job, model: Model, **options: Any) -> None:
        super().__init__(model=model, args=arguments(job), **options)
        self.job = job

    def get_train_dataloader(self) -> Any:
        """Give the loader of the job."""
        return self.job.loader(named)

    def get_eval_dataloader(self, dataset: Any = None) -> Any:
        """Give the loader of the job."""
        return self.job.loader(named)

    def get_test_dataloader(self, dataset: Any) -> Any:
        """Give the loader of the job."""
        return self.job.loader(named)


class Measuring(Given):
    """The same with the accuracy of training batches, which Trainer itself has no place for."""

    hits, seen = torch.zeros((), dtype=torch.int64), 0

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any
    ) -> Any:
        """Count as one would by hand; the loss is kept by Trainer."""
        outputs = model(**inputs)
        if model.training:
            hit = outputs["logits"].argmax(1) == inputs["labels"]
            self.hits = self.hits + hit.sum()
            self.seen += len(hit)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]


class Idle(TrainerCallback):
    """Has a hook, but none inside of a batch."""

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Do nothing."""


def named(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """A batch by the names of forward's arguments."""
    return {"x": x, "labels": y}


def arguments(job: Job) -> TrainingArguments:
    """Without reports, files, clipping and schedule."""
    return TrainingArguments(
        output_dir=FOLDER.name,
        use_cpu=True,
        num_train_epochs=1,
        per_device_train_batch_size=job.size,
        per_device_eval_batch_size=job.size,
        learning_rate=job.lr,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=not job.bar,
    )


def fit(job: Job) -> Trained:
    """Train by `Trainer.train`."""
    model = Model(job)
    opt = job.optimizer()(model.parameters(), lr=job.lr)
    kind = Measuring if job.metrics else Given
    callbacks = [Idle() for _ in range(job.callbacks)]
    trainer = kind(job, model, optimizers=(opt, None), callbacks=callbacks)
    kept = {"loss": trainer.train().training_loss}
    if isinstance(trainer, Measuring):
        kept["acc"] = trainer.hits.item() / trainer.seen
    return Trained(
        model.model,
        kept,
        lambda other: evaluate(model, other),
        # Any data set will do, as the loader is given.
        lambda other: Given(other, model).predict([]).predictions,  # type: ignore[arg-type]
    )


def evaluate(model: Model, job: Job) -> tuple[float, float]:
    """Loss and accuracy."""
    trainer = Given(job, model, compute_metrics=accuracy)
    values = trainer.evaluate([])  # type: ignore[arg-type]
    return values["eval_loss"], values["eval_acc"]


def accuracy(found: Any) -> dict[str, float]:
    """The accuracy, by numpy as Trainer gives it."""
    return {"acc": (found.predictions.argmax(1) == found.label_ids).mean().item()}


if __name__ == "__main__":
    main(fit, "transformers")
