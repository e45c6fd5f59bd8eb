"""Parts of one's own: a network, an optimizer, a schedule, an augmentation, a loss and a metric.

Copy this file as `mine.py` beside your experiment file, keep what you need, and name it:

    python -m mmids_cnn.main --config=experiments/base.py --config.optimizer.name=mine:nesterov
    python -m mmids_cnn.main --config=experiments/own_parts.py

What others should have too becomes a row of `NETWORKS`, `OPTIMIZERS`, `SCHEDULES`, `AUGMENTATIONS`, `LOSSES`
or `METRICS`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from mmids_cnn import losses, metrics


class Mlp(nn.Module):
    """A Linen module; its fields, but for `num_classes`, are settings: `--config.model.width=64`.

    A batch is trained in slices of a few images, unless a network has state beside its parameters (as batch
    norm has) and no attribute `slice_size` that says how many examples it takes together: the logits of an
    image must not depend on those of other slices.
    """

    num_classes: int
    width: int = 128

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Logits `[n, num_classes]` of uint8 images `[n, height, width, channels]`."""
        x = images.reshape(len(images), -1) / 255.0
        return nn.Dense(self.num_classes)(nn.relu(nn.Dense(self.width)(x)))


def nesterov(h: Any, rate: jax.Array) -> optax.GradientTransformation:
    """An optimizer: a function of the traced numbers (`h.b1`, ...) and the step's learning rate."""
    return optax.sgd(rate, momentum=h.b1, nesterov=True)


def halves(passed: jax.Array) -> jax.Array:
    """A schedule: a factor of the learning rate by the share of training that has passed, 0 to 1."""
    return 0.5 ** jnp.floor(4 * passed)


def noise(keys: jax.Array, images: jax.Array, h: Any) -> jax.Array:
    """An augmentation: images of images, with a key for each."""
    added = jax.vmap(lambda key: jax.random.randint(key, images.shape[1:], -9, 10))(keys)
    return jnp.clip(images + added, 0, 255).astype(images.dtype)


def focal(logits: jax.Array, labels: jax.Array, h: Any) -> jax.Array:
    """A loss: one value an example (Lin et al., arXiv 1708.02002, with gamma 2)."""
    each = losses.cross_entropy(logits, labels)
    return (1 - jnp.exp(-each)) ** 2 * each


in_two = metrics.Metric(  # a metric: one value an example, which way is better, how it is shown
    lambda logits, labels: (jnp.argsort(-logits)[:, :2] == labels[:, None]).any(1),
    higher_is_better=True,
    percent=True,
)


def get_config() -> ConfigDict:
    """Returns the reference recipe with all of these in place."""
    from experiments import base  # here, as a copy that holds parts alone can be imported from anywhere

    config = base.get_config()
    config.model = ConfigDict({"name": "experiments.own_parts:Mlp", "width": 128})
    config.optimizer.name = "experiments.own_parts:nesterov"
    config.optimizer.learning_rate = 0.05
    config.optimizer.schedule = "experiments.own_parts:halves"
    config.augment.names = ("affine", "experiments.own_parts:noise")
    config.train.loss = "experiments.own_parts:focal"
    config.eval.metrics = ("loss", "accuracy", "experiments.own_parts:in_two")
    return config
