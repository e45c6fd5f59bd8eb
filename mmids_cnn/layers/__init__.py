"""Convolution and max-pooling in the form that a CPU runs fast, differentiable and batchable.

XLA's CPU backend runs a convolution inside `lax.scan` or under `vmap` over kernels through slow emitters, and
max-pooling's gradient as a sequential scatter. Here both are slices, elementwise operations and matrix products. On any
other platform the native operations are lowered instead (`jax.lax.platform_dependent`).

Inside a network, activations are held *batch last* (channels, height, width, batch): each shifted slice of an image is
then a set of long contiguous runs. `batch_last` and `flatten` convert at the borders; parameters keep Flax's shapes.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Images = Float[Array, "batch height width channels"]
BatchLast = Float[Array, "channels height width batch"]
Kernel = Float[Array, "rows columns in_channels out_channels"]


def batch_last(images: Images) -> BatchLast:
    """Moves the batch to the last axis and the channels to the first."""
    return images.transpose(3, 1, 2, 0)


def flatten(activations: BatchLast) -> Float[Array, "batch features"]:
    """Flattens each image in (height, width, channel) order, as `images.reshape(batch, -1)` would."""
    return activations.transpose(3, 1, 2, 0).reshape(activations.shape[3], -1)


def convolution(images: Images, kernel: Kernel) -> Float[Array, "batch height width out_channels"]:
    """Convolves with stride 1 and zero padding that keeps the size ("SAME"); kernel sizes must be odd."""
    return _convolution(images.transpose(3, 1, 2, 0), kernel).transpose(3, 1, 2, 0)


def max_pool(images: Images) -> Float[Array, "batch half_height half_width channels"]:
    """Takes the maximum of each 2x2 window, stride 2, dropping an odd last row or column ("VALID").

    The gradient goes to the first maximum of a window in row-major order, as `flax.linen.max_pool`'s does.
    """
    return _max_pool(images.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)


def conv_pool(activations: BatchLast, kernel: Kernel, bias: Float[Array, "out_channels"]) -> BatchLast:
    """Returns `max_pool(relu(convolution(activations, kernel) + bias))` of batch-last activations, halved in size.

    Adding a per-channel constant and `relu` are monotonic, so pooling first gives the same values and the same
    gradients, with a quarter of the elementwise work. (Where a window's maximum is 0 after `relu`, its gradient is 0.)
    """
    pooled = lax.platform_dependent(activations, kernel, cpu=_conv_pool, default=_native_conv_pool)
    return jax.nn.relu(pooled + bias[:, None, None, None])


def _native_conv_pool(activations: BatchLast, kernel: Kernel) -> BatchLast:
    layout = ("CHWN", "HWIO", "CHWN")
    convolved = lax.conv_general_dilated(activations, kernel, (1, 1), "SAME", dimension_numbers=layout)
    return lax.reduce_window(convolved, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _conv_pool(activations: BatchLast, kernel: Kernel) -> BatchLast:
    return _max_pool(_convolution(activations, kernel))


def _convolution(activations: BatchLast, kernel: Kernel) -> BatchLast:
    """One matrix product of the kernel with every pixel's neighbourhood."""
    rows, columns, channels, features = kernel.shape
    _, height, width, batch = activations.shape
    edges = ((0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0))
    padded = jnp.pad(activations, edges)
    shifts = [padded[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
    patches = jnp.concatenate(shifts).reshape(rows * columns * channels, -1)
    return (kernel.reshape(-1, features).T @ patches).reshape(features, height, width, batch)


def _quarters(activations: BatchLast) -> list[BatchLast]:
    """The four pixels of every 2x2 window, in row-major order."""
    height, width = activations.shape[1] // 2 * 2, activations.shape[2] // 2 * 2
    return [activations[:, i:height:2, j:width:2] for i in range(2) for j in range(2)]


@jax.custom_vjp
def _max_pool(activations: BatchLast) -> BatchLast:
    a, b, c, d = _quarters(activations)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _max_pool_forward(activations: BatchLast) -> tuple[BatchLast, tuple[BatchLast, BatchLast]]:
    pooled = _max_pool(activations)
    return pooled, (activations, pooled)


def _max_pool_backward(saved: tuple[BatchLast, BatchLast], gradient: BatchLast) -> tuple[BatchLast]:
    activations, pooled = saved
    channels, height, width, batch = pooled.shape
    taken, quarters = jnp.zeros(pooled.shape, bool), []
    for quarter in _quarters(activations):
        hit = (quarter == pooled) & ~taken  # the first maximum takes the whole gradient
        taken |= hit
        quarters.append(jnp.where(hit, gradient, 0))
    upper, lower = jnp.stack(quarters[:2], 3), jnp.stack(quarters[2:], 3)
    full = jnp.stack([upper, lower], 2).reshape(channels, 2 * height, 2 * width, batch)
    rest = [(0, size - even) for size, even in zip(activations.shape, full.shape, strict=True)]
    return (jnp.pad(full, rest),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
