"""Convolution and 2x2 max-pooling for other accelerators: native operations, and a gradient of pooling.

XLA differentiates its pooling by `select_and_scatter`. Here it is written out, elementwise.
"""

import jax
import jax.numpy as jnp
from jax import lax

from mmids_cnn.layers.tiles import BatchLast, Kernel, Quarters, Result, maximum


def convolution(activations: BatchLast, kernel: Kernel) -> Result:
    """Convolves with stride 1 and the zero padding that keeps the size."""
    layout = ("CHWN", "HWIO", "CHWN")
    return lax.conv_general_dilated(activations, kernel, (1, 1), "SAME", dimension_numbers=layout)


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
