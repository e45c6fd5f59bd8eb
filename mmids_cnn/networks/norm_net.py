"""A network with batch norm: stages of convolutions, pooled in between, then one dense layer."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from mmids_cnn import layers

MOMENTUM = 0.95  # of the running statistics, by which a network is scored


class ConvNorm(nn.Module):
    """3x3 convolution (stride 1, padding SAME), pooling or not, batch norm, ReLU.

    Weights are normal by He's rule (arXiv 1502.01852, eq. 10).
    """

    features: int
    pool: bool

    @nn.compact
    def __call__(self, x: layers.BatchLast, train: bool, valid: Bool[Array, " n"] | None) -> layers.Result:
        """Applies the block; where `train` is false, with the running statistics."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, x.shape[0], self.features))
        scale = self.param("scale", nn.initializers.ones, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (self.features,))
        var = self.variable("batch_stats", "var", jnp.ones, (self.features,))
        x = layers.conv(x, kernel, pool=self.pool)
        if not train:
            return nn.relu(layers.running_norm(x, scale, bias, mean.value, var.value))
        valid = jnp.ones(x.shape[3], bool) if valid is None else valid
        x, *found = layers.ghost_norm(x, scale, bias, valid)
        for running, now in zip((mean, var), found, strict=True):
            running.value = MOMENTUM * running.value + (1 - MOMENTUM) * now
        return nn.relu(x)


class NormNet(nn.Module):
    """Stages of 3x3 convolutions, each with batch norm and ReLU; the last one of a stage is pooled before.

    Attributes:
      num_classes: number of logits.
      channels: output channels of the convolutions of each stage.
      depths: number of convolutions of each stage.
      flatten: whether the dense layer is given every pixel of the last stage, or the means over them.
      dropout: share of what it is given that is left out while training, 0 to 1.
    """

    num_classes: int
    channels: tuple[int, ...] = (16, 20, 24)
    depths: tuple[int, ...] = (1, 2, 2)
    flatten: bool = False
    dropout: float = 0.0

    slice_size: ClassVar[int] = layers.GHOST  # a batch may be cut into slices of so many examples

    @nn.compact
    def __call__(
        self,
        images: UInt8[Array, "n height width channels"],
        *,
        train: bool = False,
        valid: Bool[Array, " n"] | None = None,
    ) -> Float[Array, "n classes"]:
        """Logits of a batch of images.

        Raises:
          ValueError: the images are too small for so many poolings, or the fields have different lengths.
        """
        if len(self.depths) != len(self.channels):
            raise ValueError(
                f"depths: expected one for each of the {len(self.channels)} stages in channels, got "
                f"{self.depths}; set --config.model.depths"
            )
        side, poolings = min(images.shape[1:3]), len(self.channels) - 1
        if side < 2**poolings:
            raise ValueError(
                f"channels: expected at most {side.bit_length()} stages for images of {images.shape[1]}x"
                f"{images.shape[2]} pixels (each but the last halves them), got {len(self.channels)}: "
                f"{self.channels}; shorten --config.model.channels"
            )
        x = layers.batch_last(images).astype(jnp.float32) / 255
        for stage, (features, depth) in enumerate(zip(self.channels, self.depths, strict=True)):
            for index in range(depth):
                x = ConvNorm(features, index == depth - 1 and stage < poolings)(x, train, valid)
        seen = layers.flatten(x) if self.flatten else x.mean((1, 2)).T
        seen = nn.Dropout(self.dropout, deterministic=not train)(seen)
        return nn.Dense(self.num_classes)(seen)
