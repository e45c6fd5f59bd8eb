"""The reference network: blocks of convolution, ReLU and pooling, then one dense layer."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from mmids_cnn import layers

POOL = 2  # side and stride of the pooling window, pixels


class ConvPool(nn.Module):
    """Convolution (stride 1, padding SAME), ReLU, 2x2 max-pooling; parameters as those of `nn.Conv`.

    Weights are uniform by Glorot's rule (JMLR 9, 2010, eq. 16), biases zero.
    """

    features: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: layers.BatchLast) -> layers.Result:
        """Applies the block; an odd last row or column is dropped by the pooling."""
        shape = (self.kernel_size, self.kernel_size, x.shape[0], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return layers.conv_pool(x, kernel, bias)


class ConvNet(nn.Module):
    """The reference network.

    Attributes:
      num_classes: number of logits.
      channels: output channels of each block.
      kernel_size: side of the kernels, pixels.
    """

    num_classes: int
    channels: tuple[int, ...] = (16, 32, 32)
    kernel_size: int = 3

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
          ValueError: the images are too small for so many poolings.
        """
        side, depth = min(images.shape[1:3]), len(self.channels)
        if side < POOL**depth:
            raise ValueError(
                f"channels: expected at most {side.bit_length() - 1} blocks for images of "
                f"{images.shape[1]}x{images.shape[2]} pixels (each block halves them), got {depth}: "
                f"{self.channels}; shorten --config.model.channels"
            )
        x = layers.batch_last(images).astype(jnp.float32) / 255
        for features in self.channels:
            x = ConvPool(features, self.kernel_size)(x)
        dense = nn.Dense(self.num_classes, kernel_init=nn.initializers.glorot_uniform())
        return dense(layers.flatten(x))
