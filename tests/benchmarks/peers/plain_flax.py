"""The reference network as Flax tutorials write it: `nn.Conv`, `nn.max_pool`, a jitted train step.

The step is called from a Python loop, on NumPy arrays indexed by a permutation.
"""

from argparse import Namespace

import jax
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

from protocol import Data, serve

EVALUATION_BATCH = 500  # the fastest of 100, 200, 500 and 1000


class Network(nn.Module):
    """Three times convolution, ReLU and pooling, then a linear map to ten logits."""

    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images
        for features in self.channels:
            x = nn.Conv(features, (3, 3), kernel_init=nn.initializers.glorot_uniform())(x)
            x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        return nn.Dense(10, kernel_init=nn.initializers.glorot_uniform())(x.reshape(len(x), -1))


@jax.jit
def train_step(state: TrainState, images: jax.Array, labels: jax.Array) -> TrainState:
    """One Adam step; images float32 [batch, 28, 28, 1] in [0, 1], labels int32 [batch]."""

    def loss(params: dict) -> jax.Array:
        logits = state.apply_fn({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


@jax.jit
def predict(state: TrainState, images: jax.Array) -> jax.Array:
    """The likeliest digit of each image, int32 [batch]."""
    return state.apply_fn({"params": state.params}, images).argmax(-1)


class FlaxRunner:
    """Training state and data; images float32 [N, 28, 28, 1] in [0, 1]."""

    def __init__(self, args: Namespace, data: Data) -> None:
        self.batch_size = args.batch_size
        self.random = np.random.default_rng(args.seed)
        self.images, self.test_images = (
            np.float32(images) / 255 for images in (data.train_images, data.test_images)
        )
        self.labels, self.test_labels = data.train_labels, data.test_labels
        model = Network(tuple(args.channels))
        params = jax.jit(model.init)(jax.random.key(args.seed), self.images[:1])["params"]
        self.state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(1e-3))

    def train(self, indices: np.ndarray) -> None:
        self.state = train_step(self.state, self.images[indices], self.labels[indices])

    def step(self) -> None:
        self.train(np.arange(self.batch_size))
        jax.block_until_ready(self.state)

    def prepare(self) -> None:
        self.train(np.arange(len(self.images) % self.batch_size or self.batch_size))
        self.evaluate()

    def epoch(self) -> None:
        order = self.random.permutation(len(self.images))
        for start in range(0, len(order), self.batch_size):
            self.train(order[start : start + self.batch_size])
        jax.block_until_ready(self.state)

    def evaluate(self) -> float:
        starts = range(0, len(self.test_labels), EVALUATION_BATCH)
        batches = [slice(start, start + EVALUATION_BATCH) for start in starts]
        predicted = [predict(self.state, self.test_images[batch]) for batch in batches]
        return float((np.concatenate(predicted) == self.test_labels).mean())


if __name__ == "__main__":
    serve(FlaxRunner, ["jax", "flax", "optax", "numpy"])
