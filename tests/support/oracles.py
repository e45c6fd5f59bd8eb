"""Plain NumPy in float64: what the JAX code must agree with, and how far float32 arithmetic may be off."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

U = 2.0**-24
"""The largest relative error of one rounding to float32."""


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Cross-correlation, stride 1, zeros around the image, as large as the image."""
    side = kernel.shape[0]
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    out = np.zeros((*x.shape[:3], kernel.shape[3]))
    for i in range(side):
        for j in range(side):
            out += padded[:, i : i + height, j : j + width] @ kernel[i, j]
    return out


def pool(x: np.ndarray) -> np.ndarray:
    """Largest value of each 2x2 window; an odd last row or column is dropped."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    out = np.full((x.shape[0], height, width, x.shape[3]), -np.inf)
    for i in range(2):
        for j in range(2):
            out = np.maximum(out, x[:, i : 2 * height : 2, j : 2 * width : 2])
    return out


def forward(params: Mapping[str, Any], images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the network, and how far off float32 may be.

    In float32 a sum of n products is off by a random walk of n roundings, by sqrt(n) U times the sum of the
    products' absolute values. An error of a layer before spreads over the next sums in the same way, so that
    it stays as small in relation to their absolute values; the layers' shares add up.
    """
    params = {name: {k: np.asarray(v, np.float64) for k, v in p.items()} for name, p in params.items()}
    x, share = images.astype(np.float64) / 255, U
    for name in sorted(params):  # ConvPool_0, ConvPool_1, ..., Dense_0
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        share += np.sqrt(kernel[..., 0].size + 1) * U
        if name.startswith("ConvPool"):
            x = pool(np.maximum(convolve(x, kernel) + bias, 0))
    x = x.reshape(len(images), -1)
    return x @ kernel + bias, share * (x @ abs(kernel) + abs(bias))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """Minus the sum over the classes of target times log-probability, for each example."""
    classes = logits.shape[-1]
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    target = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    return -(target * log_probabilities).sum(-1)


def loss_sum(params: Mapping[str, Any], images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Sum of the losses, and how far off float32 may be: logits, a dozen roundings each, then the sum."""
    logits, error = forward(params, images)
    each = cross_entropy(logits, labels)
    size = abs(logits).max(-1) + np.log(logits.shape[-1])
    off = 2 * error.max(-1) + 12 * U * size
    return each.sum(), off.sum() + len(labels) * U * each.sum()


def random_params(params: Any, seed: int) -> dict[str, Any]:
    """Parameters like these, with biases that are not zero."""
    generator = np.random.default_rng(seed)
    noise = lambda x: jnp.asarray(x + generator.normal(0, 0.1, x.shape), jnp.float32)  # noqa: E731
    return jax.tree.map(noise, dict(params))
