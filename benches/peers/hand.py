"""The loop that a good user of torch writes by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from problem import Job, Trained, main
from torch import Tensor, nn
from tqdm import tqdm

LOSS = nn.CrossEntropyLoss()


def fit(job: Job) -> Trained:
    """Train with torch alone."""
    model = job.model()
    opt = job.optimizer()(model.parameters(), lr=job.lr)
    ends: list[Callable[[], None]] = [lambda: None for _ in range(job.callbacks)]
    loader = tqdm(job.loader()) if job.bar else job.loader()
    # Nothing waits for a value before the epoch is over.
    loss_sum, hits, seen = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
    model.train()
    for x, y in loader:
        opt.zero_grad()
        pred = model(x)
        loss = LOSS(pred, y)
        loss.backward()
        opt.step()
        if job.metrics:
            loss_sum += loss.detach() * len(y)
            hits += (pred.argmax(1) == y).sum()
            seen += len(y)
    for end in ends:
        end()
    kept = {"loss": loss_sum.item() / seen, "acc": hits.item() / seen} if seen else {}
    return Trained(
        model, kept, lambda other: evaluate(model, other), lambda other: predict(model, other)
    )


@torch.no_grad()
def evaluate(model: nn.Module, job: Job) -> tuple[float, float]:
    """Loss and accuracy."""
    model.eval()
    loss_sum, hits, seen = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
    for x, y in job.loader():
        pred = model(x)
        loss_sum += LOSS(pred, y) * len(y)
        hits += (pred.argmax(1) == y).sum()
        seen += len(y)
    return loss_sum.item() / seen, hits.item() / seen


@torch.no_grad()
def predict(model: nn.Module, job: Job) -> Tensor:
    """All predictions."""
    model.eval()
    return torch.cat([model(x) for x, _ in job.loader()])


if __name__ == "__main__":
    main(fit, "torch")
