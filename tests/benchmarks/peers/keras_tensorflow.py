"""The reference network in Keras 3 on TensorFlow: `Model.fit` over NumPy arrays.

Keras's own defaults stand: `jit_compile="auto"`, which resolves to off on a machine with no
accelerator (switched on it was slower), and `shuffle=True`, a fresh order each epoch. Only the loss
is computed while training, as in the other peers.
"""

import os
from argparse import Namespace

import numpy as np

from protocol import Data, serve

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
import keras

EVALUATION_BATCH = 1000  # the fastest of 100, 250, 500 and 1000


def network(channels: list[int]) -> keras.Sequential:
    """Three times convolution, ReLU and pooling, then ten logits; compiled with Adam."""
    layers: list[keras.Layer] = [keras.Input((28, 28, 1))]
    for features in channels:
        layers.append(keras.layers.Conv2D(features, 3, padding="same", activation="relu"))
        layers.append(keras.layers.MaxPooling2D(2))
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile="auto")
    return model


class KerasRunner:
    """Model and data; images float32 [N, 28, 28, 1] in [0, 1]."""

    def __init__(self, args: Namespace, data: Data) -> None:
        keras.utils.set_random_seed(args.seed)
        self.batch_size = args.batch_size
        self.model = network(args.channels)
        self.images, self.test_images = (
            np.float32(images) / 255 for images in (data.train_images, data.test_images)
        )
        self.labels, self.test_labels = data.train_labels, data.test_labels

    def fit(self, count: int) -> None:
        images, labels = self.images[:count], self.labels[:count]
        self.model.fit(images, labels, self.batch_size, epochs=1, shuffle=True, verbose=0)

    def step(self) -> None:
        self.fit(self.batch_size)

    def prepare(self) -> None:
        self.fit(len(self.images) % self.batch_size or self.batch_size)
        self.evaluate()

    def epoch(self) -> None:
        self.fit(len(self.images))

    def evaluate(self) -> float:
        logits = self.model.predict(self.test_images, batch_size=EVALUATION_BATCH, verbose=0)
        return float((logits.argmax(1) == self.test_labels).mean())


if __name__ == "__main__":
    serve(KerasRunner, ["keras", "tensorflow-cpu", "numpy"])
