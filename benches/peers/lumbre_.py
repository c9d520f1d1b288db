"""lumbre, by its public API."""

from __future__ import annotations

from typing import Any

from problem import Job, Trained, importing, main
from torch import nn

with importing:
    import lumbre as lb

    # Names are loaded when they are first asked for: these are what a training needs.
    _ = lb.setup, lb.Callback, lb.Accelerator, lb.metrics.Accuracy


class Idle(lb.Callback):
    """Has a hook, but none inside of a batch."""

    def on_epoch_end(self, ctx: Any) -> None:
        """Do nothing."""


CPU = lb.Accelerator(cpu=True)


def fit(job: Job) -> Trained:
    """Train by `setup(...).fit(...)`; the loss is always kept."""
    net = lb.setup(
        job.model,
        loss=nn.CrossEntropyLoss(),
        optimizer=job.optimizer(),
        metrics=[lb.metrics.Accuracy()] if job.metrics else None,
    ).set_opt_hparams(lr=job.lr)
    arrays = job.data == "arrays"
    fitted = net.fit(
        list(job.arrays()) if arrays else job.loader(),
        epochs=1,
        callbacks=[Idle() for _ in range(job.callbacks)],
        accelerator=CPU,
        verbose=job.bar,
        dataloader_options={"batch_size": job.size, "shuffle": False} if arrays else None,
    )
    return Trained(
        fitted.model,
        fitted.records["metrics"]["train"][0],
        lambda other: evaluate(fitted, other),
        lambda other: fitted.predict(other.loader(), accelerator=CPU, verbose=False),
    )


def evaluate(fitted: Any, job: Job) -> tuple[float, float]:
    """Loss and accuracy."""
    values = fitted.evaluate(job.loader(), accelerator=CPU, verbose=False).metrics
    return values["loss"], values["acc"]


if __name__ == "__main__":
    main(fit, "lumbre")
