"""A network of one's own: residual blocks with batch norm, as an example of what to change for another.

A network is a Linen module; its fields, but for `num_classes`, are settings:

    python -m mmids_cnn.main --config=experiments/own_network.py
    python -m mmids_cnn.main --config=experiments/own_network.py --config.model.width=32
    python -m mmids_cnn.main --config=experiments/base.py --config.model.name=experiments.own_network:ResNet
"""

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from experiments import base
from mmids_cnn import layers


class ConvNorm(nn.Module):
    """A 3x3 convolution and batch norm; where `valid` is false an example is no part of the statistics."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, valid: jax.Array | None) -> jax.Array:
        """Images `[n, height, width, channels]` in, `[n, height, width, features]` out."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, x.shape[-1], self.features))
        mask = None if valid is None else valid[:, None, None, None]
        return nn.BatchNorm(use_running_average=not train)(layers.convolution(x, kernel), mask=mask)


class ResNet(nn.Module):
    """A convolution, then residual blocks (He et al., arXiv 1512.03385) with pooling in between."""

    num_classes: int
    width: int = 16  # channels
    blocks: int = 2
    dropout: float = 0.0  # share of the features that are left out before the last layer

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, valid: jax.Array | None = None
    ) -> jax.Array:
        """Logits `[n, num_classes]` of uint8 images `[n, height, width, channels]`."""
        x = layers.max_pool(nn.relu(ConvNorm(self.width)(images / 255.0, train, valid)))
        for _ in range(self.blocks):
            inside = nn.relu(ConvNorm(self.width)(x, train, valid))
            x = layers.max_pool(nn.relu(x + ConvNorm(self.width)(inside, train, valid)))
        x = nn.Dropout(self.dropout, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(self.num_classes)(x)


def get_config() -> ConfigDict:
    """Returns the reference recipe with this network."""
    config = base.get_config()
    config.model = ConfigDict(
        {"name": "experiments.own_network:ResNet", "width": 16, "blocks": 2, "dropout": 0.0}
    )
    return config
