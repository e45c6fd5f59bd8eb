"""Layers that are fast on every backend."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def conv_relu_pool(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k c f"], bias: Float[Array, " f"]
) -> Float[Array, "n h//2 w//2 f"]:
    """Convolution (stride 1, padding SAME), bias, ReLU and 2x2 max-pooling."""
    n, h, w, c = x.shape
    k = kernel.shape[0]
    p = k // 2
    x = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    patches = jnp.concatenate([x[:, i : i + h, j : j + w] for i in range(k) for j in range(k)], -1)
    y = patches.reshape(-1, k * k * c) @ kernel.reshape(k * k * c, -1)
    y = y.reshape(n, h, w, -1)[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, -1)
    return nn.relu(y.max((2, 4)) + bias)
