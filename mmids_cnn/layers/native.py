"""Convolution and 2x2 max-pooling for other accelerators: native operations, and a gradient of pooling.

XLA differentiates its pooling by `select_and_scatter`. Here it is written out, elementwise.
"""

import jax
import jax.numpy as jnp
from jax import lax

from mmids_cnn.layers.tiles import BatchLast, Kernel, Quarters, Result, maximum

_FEW = 4
"""Channels, at most, for which the gradient of a kernel is a product: as a convolution, that of one channel
with pooling after it took a TPU's compiler minutes."""


def convolution(activations: BatchLast, kernel: Kernel) -> Result:
    """Convolves with stride 1 and the zero padding that keeps the size."""
    return (_of_few_channels if kernel.shape[2] <= _FEW else lax_convolution)(activations, kernel)


def lax_convolution(activations: BatchLast, kernel: Kernel) -> Result:
    """`convolution` with XLA's own gradients."""
    layout = ("CHWN", "HWIO", "CHWN")
    return lax.conv_general_dilated(activations, kernel, (1, 1), "SAME", dimension_numbers=layout)


@jax.custom_vjp
def _of_few_channels(activations: BatchLast, kernel: Kernel) -> Result:
    return lax_convolution(activations, kernel)


def _few_forward(activations: BatchLast, kernel: Kernel) -> tuple[Result, tuple[BatchLast, Kernel]]:
    return lax_convolution(activations, kernel), (activations, kernel)


def _few_backward(kept: tuple[BatchLast, Kernel], gradient: Result) -> tuple[BatchLast, Kernel]:
    activations, kernel = kept
    rows, columns = kernel.shape[:2]
    _, height, width, _ = activations.shape
    padded = jnp.pad(activations, ((0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0)))
    taps = [padded[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
    of_kernel = jnp.einsum("tchwn,fhwn->tcf", jnp.stack(taps), gradient).reshape(kernel.shape)
    return jax.vjp(lambda x: lax_convolution(x, kernel), activations)[1](gradient)[0], of_kernel


_of_few_channels.defvjp(_few_forward, _few_backward)


@jax.custom_vjp
def max_pool(activations: BatchLast) -> Result:
    """Takes the maximum of each 2x2 window, dropping an odd last row or column."""
    return lax.reduce_window(activations, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _forward(activations: BatchLast) -> tuple[Result, BatchLast]:
    return max_pool(activations), activations


def _backward(activations: BatchLast, gradient: Result) -> tuple[BatchLast]:
    return jax.vjp(lambda x: maximum(_quarters(x)), activations)[1](gradient)


max_pool.defvjp(_forward, _backward)


def conv_pool(activations: BatchLast, kernel: Kernel) -> Result:
    """Convolves, then takes the maximum of each 2x2 window."""
    return max_pool(convolution(activations, kernel))


def _quarters(activations: BatchLast) -> Quarters:
    channels, height, width, batch = activations.shape
    even = activations[:, : height // 2 * 2, : width // 2 * 2]
    windows = even.reshape(channels, height // 2, 2, width // 2, 2, batch)
    return jnp.stack([windows[:, :, row, :, column] for row in range(2) for column in range(2)])
