"""Convolution and 2x2 max-pooling that are fast on every backend.

On a CPU and on NVIDIA's GPUs the form of `layers.tiles` is lowered, elsewhere that of `layers.native`.

Inside a network, activations are *batch last* (channels, height, width, batch): every slice of an image is
then made of long contiguous runs. `batch_last` and `flatten` convert at the borders. All functions work in
float32 and float64.

On a CPU the gradient of a 3x3 kernel is off by roundings of what Winograd's products are sums of, also where
it is exactly 0, as that of a tap which met no pixel but padding: there it stays within 2**-23 times the sum
of |pixel x gradient| over the tiles, some 2e-9 in the reference recipe. Adam divides a gradient by its own
size and eps = 1e-8, so such a weight moves: after three steps of the recipe one weight in 16,938 is 1e-5 off
those trained in float64, with a batch of one some are 6e-4 off (by native float32 operations, 2e-7).
"""

import math
from collections.abc import Callable

import jax
from jax import lax
from jaxtyping import Array, Float

from mmids_cnn.layers import native, tiles
from mmids_cnn.layers.norm import GHOST, ghost_norm, running_norm
from mmids_cnn.layers.tiles import BatchLast, Images, Kernel, Result

__all__ = [
    "GHOST",
    "BatchLast",
    "Images",
    "Kernel",
    "Result",
    "batch_last",
    "conv",
    "conv_pool",
    "convolution",
    "flatten",
    "ghost_norm",
    "max_pool",
    "running_norm",
]


def batch_last(images: Images) -> Result:
    """Moves the batch to the last axis and the channels to the first."""
    return images.transpose(3, 1, 2, 0)


def flatten(activations: BatchLast) -> Float[Array, "batch features"]:
    """Flattens each image in (height, width, channel) order, as `images.reshape(batch, -1)` does."""
    return activations.transpose(3, 1, 2, 0).reshape(activations.shape[3], math.prod(activations.shape[:3]))


def convolution(images: Images, kernel: Kernel) -> Float[Array, "batch height width features"]:
    """Convolves with stride 1 and the zero padding that keeps the size ("SAME"); kernel sizes must be odd.

    Equal to `lax.conv_general_dilated` to rounding, but for 3x3 kernels on a CPU, whose sums of four pixels
    may overflow where the pixels are within that factor of the largest float.
    """
    return conv(batch_last(images), kernel).transpose(3, 1, 2, 0)


def max_pool(images: Images) -> Float[Array, "batch half_height half_width channels"]:
    """Takes the maximum of each 2x2 window, with stride 2; drops an odd last row or column ("VALID").

    The gradient goes to the first maximum of a window in row-major order, as that of `flax.linen.max_pool`
    does.
    """
    return _form(tiles.max_pool, native.max_pool, batch_last(images)).transpose(3, 1, 2, 0)


def conv(activations: BatchLast, kernel: Kernel, *, pool: bool = False) -> Result:
    """`convolution` of batch-last activations, followed by `max_pool` where `pool` says so.

    Args:
      activations: floats of shape (channels, height, width, batch).
      kernel: floats of shape (rows, columns, channels, features); rows and columns must be odd.
      pool: whether to pool.

    Returns:
      Activations of shape (features, height, width, batch), half as high and wide where pooled.
    """
    _require_odd(kernel)
    if pool:
        return _form(tiles.conv_pool, native.conv_pool, activations, kernel)
    return _form(tiles.convolution, native.convolution, activations, kernel)


def conv_pool(activations: BatchLast, kernel: Kernel, bias: Float[Array, " features"]) -> Result:
    """Returns `max_pool(relu(convolution(activations, kernel) + bias))` for batch-last activations.

    Adding a per-channel constant and `relu` keep the order of values, so that pooling first gives the same
    values for a quarter of the work. The gradient of a window goes to the first maximum, in row-major order,
    of the convolution as it was rounded, before the bias: pixels that tie only after the bias's rounding are
    told apart; where they tie only after `relu`, its gradient is zero. Only reverse mode is defined, once.

    Args:
      activations: floats of shape (channels, height, width, batch).
      kernel: floats of shape (rows, columns, channels, features); rows and columns must be odd.
      bias: floats of shape (features,).

    Returns:
      Activations of shape (features, height // 2, width // 2, batch).
    """
    return jax.nn.relu(conv(activations, kernel, pool=True) + bias[:, None, None, None])


def _require_odd(kernel: Kernel) -> None:
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(f"expected an odd number of kernel rows and columns, got {kernel.shape[:2]}")


def _form(fast: Callable[..., Result], native: Callable[..., Result], *arguments: Array) -> Result:
    return lax.platform_dependent(*arguments, cpu=fast, cuda=fast, default=native)
