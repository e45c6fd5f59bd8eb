"""Variables of a network without initializing it, which would compile each of its operations."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def of(module: nn.Module, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Random ones for images of a shape, so that none stands for another; variances are positive."""
    images, draw = jax.ShapeDtypeStruct((1, *shape), jnp.uint8), np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)

    def some(path: Any, x: jax.ShapeDtypeStruct) -> np.ndarray:
        name, values = jax.tree_util.keystr(path), 0.2 * draw.standard_normal(x.shape, np.float32)
        if "scale" in name:
            return 1 + values
        return np.abs(1 + values) if "var" in name else values

    return jax.tree_util.tree_map_with_path(some, shapes)
