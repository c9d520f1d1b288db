"""Keras on torch: native layers that begin with torch's weights."""

from __future__ import annotations

import os

# Read as Keras is imported.
os.environ["KERAS_BACKEND"] = "torch"

from typing import Any

from problem import ORDER, Job, Trained, importing, main
from torch import nn
from torch.utils.data import DataLoader

with importing:
    import keras

# Images as torch has them: the other order would be turned round in each layer.
keras.config.set_image_data_format("channels_first")


class Idle(keras.callbacks.Callback):
    """Has a hook, but none inside of a batch."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Do nothing."""


class Anew(DataLoader[Any]):
    """Begins with the same order again: Keras looks at a first batch before it trains."""

    def __iter__(self) -> Any:
        """Seed, and walk as ever."""
        self.generator.manual_seed(ORDER)
        return super().__iter__()


def native(job: Job) -> keras.Model:
    """The same model in Keras's layers."""
    layers = keras.layers
    if not job.images:
        return keras.Sequential([layers.Input((16,)), layers.Dense(4)])
    return keras.Sequential(
        [
            layers.Input((1, 28, 28)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(2),
            # Told "channels_first" it would move the channels before it flattens.
            layers.Flatten(data_format="channels_last"),
            layers.Dense(10),
        ]
    )


def copied(model: nn.Module, into: keras.Model) -> None:
    """Copy the weights: Keras has the axes of its kernels the other way round."""
    weights = []
    for parameter in model.parameters():
        value = parameter.detach().numpy()
        weights.append(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T)
    into.set_weights(weights)


def fit(job: Job) -> Trained:
    """Train by `compile` and `fit`; the loss is always kept."""
    model = native(job)
    copied(job.model(), model)
    # Adam as torch has it: Keras's own epsilon is another.
    opt = (
        keras.optimizers.Adam(job.lr, epsilon=1e-8) if job.images else keras.optimizers.SGD(job.lr)
    )
    model.compile(
        optimizer=opt,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="acc")] if job.metrics else None,
    )
    options: dict[str, Any] = {
        "epochs": 1,
        "verbose": 1 if job.bar else 0,
        "callbacks": [Idle() for _ in range(job.callbacks)],
    }
    if job.data == "arrays":
        history = model.fit(*job.arrays(), batch_size=job.size, shuffle=False, **options)
    else:
        history = model.fit(job.loader(kind=Anew), **options)
    return Trained(
        model,
        {name: values[-1] for name, values in history.history.items()},
        lambda other: tuple(model.evaluate(other.loader(), verbose=0)),  # type: ignore[arg-type]
        lambda other: model.predict(other.loader(), verbose=0),
    )


if __name__ == "__main__":
    main(fit, "keras")
