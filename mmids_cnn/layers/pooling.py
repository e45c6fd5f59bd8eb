"""The maximum of 2x2 windows whose four pixels are four arrays, and its gradient: elementwise on any device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

Quarters = Float[Array, "4 features half_height half_width batch"]
"""The upper left, upper right, lower left and lower right pixels of all windows."""


@jax.custom_vjp
def maximum(quarters: Quarters) -> Num[Array, "features half_height half_width batch"]:
    """Maximum over the first axis; its gradient goes to the first maximum."""
    a, b, c, d = quarters
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _forward(quarters: Quarters) -> tuple[Array, Quarters]:
    return maximum(quarters), quarters


def _backward(quarters: Quarters, gradient: Array) -> tuple[Quarters]:
    a, b, c, d = quarters
    upper = jnp.maximum(a, b) >= jnp.maximum(c, d)
    above, below = jnp.where(upper, gradient, 0), jnp.where(upper, 0, gradient)
    left, right = a >= b, c >= d
    parts = [jnp.where(left, above, 0), jnp.where(left, 0, above)]
    parts += [jnp.where(right, below, 0), jnp.where(right, 0, below)]
    return (jnp.stack(parts),)


maximum.defvjp(_forward, _backward)
