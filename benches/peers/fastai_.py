"""fastai: a Learner's plain `fit`, with torch's optimizers."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch
from problem import Job, Trained, importing, main
from torch import nn
from torch.utils.data import DataLoader

with importing:
    from fastai.basics import Callback, DataLoaders, Learner, OptimWrapper, accuracy

    # Gives each Learner its bar, and `no_bar`, which takes it away.
    from fastai.callback.progress import ProgressCallback  # noqa: F401


class Idle(Callback):
    """Has a hook, but none inside of a batch."""

    def after_epoch(self) -> None:
        """Do nothing."""


def fit(job: Job) -> Trained:
    """Train by `Learner.fit`; the loss is kept as a moving average, whatever one asks for."""
    model = job.model()
    # A fit always validates; without validation data that takes nothing.
    nothing: DataLoader[Any] = DataLoader([], batch_size=None)  # type: ignore[arg-type]
    learner = Learner(
        DataLoaders(job.loader(), nothing, device=torch.device("cpu")),
        model,
        loss_func=nn.CrossEntropyLoss(),
        # fastai's own Adam has another epsilon and another decay.
        opt_func=functools.partial(OptimWrapper, opt=job.optimizer()),
        lr=job.lr,
        metrics=[accuracy] if job.metrics else None,
        cbs=[Idle() for _ in range(job.callbacks)],
    )
    # By default metrics are those of validation data alone.
    learner.recorder.train_metrics, learner.recorder.valid_metrics = job.metrics, False
    with contextlib.nullcontext() if job.bar else quiet(learner):
        learner.fit(1)
    kept = {"acc": float(learner.recorder.values[-1][1])} if job.metrics else {}
    return Trained(
        model,
        kept,
        lambda other: evaluate(learner, other),
        lambda other: predict(learner, other),
    )


@contextlib.contextmanager
def quiet(learner: Learner) -> Any:
    """Without the bar and without the table."""
    with learner.no_bar(), learner.no_logging():
        yield


def evaluate(learner: Learner, job: Job) -> tuple[float, float]:
    """Loss and accuracy."""
    learner.recorder.valid_metrics = True
    with quiet(learner):
        loss, acc = learner.validate(dl=job.loader())
    return loss, acc


def predict(learner: Learner, job: Job) -> torch.Tensor:
    """All predictions."""
    with quiet(learner):
        return learner.get_preds(dl=job.loader())[0]


if __name__ == "__main__":
    main(fit, "fastai")
