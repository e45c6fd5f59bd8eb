"""Batch norm by ghost batches, for batch-last activations."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmids_cnn.layers.tiles import BatchLast, Result

GHOST = 32
"""Examples whose statistics are taken together: as many as a slice of a batch has on a CPU."""

EPSILON = 1e-3
"""Added to a variance."""


def ghost_norm(
    x: BatchLast, scale: Float[Array, " channels"], bias: Float[Array, " channels"], valid: Bool[Array, " n"]
) -> tuple[Result, Float[Array, " channels"], Float[Array, " channels"]]:
    """Normalises each `GHOST` examples in turn by their own statistics.

    Batch norm (Ioffe & Szegedy, arXiv 1502.03167) in ghost batches (Hoffer et al., arXiv 1705.08741): no
    example depends on others than those of its ghost batch, so that a batch may be cut between them.

    Args:
      x: activations.
      scale: by which normalised values are multiplied.
      bias: added then.
      valid: false where an example is no part of the statistics.

    Returns:
      What comes out, and mean and variance of the channels, those of the ghost batches weighted by their
      valid examples.
    """
    channels, height, width, batch = x.shape
    size = min(batch, GHOST)
    fill = -batch % size
    weight = jnp.pad(valid.astype(x.dtype), (0, fill)).reshape(-1, size)
    ghosts = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, fill))).reshape(channels, height * width, -1, size)
    count = weight.sum(1)
    each = weight / (jnp.maximum(count, 1) * height * width)[:, None]
    mean, square = (_sum(values, each) for values in (ghosts, ghosts * ghosts))
    var = jnp.maximum(square - mean**2, 0)
    factor = scale[:, None] / jnp.sqrt(var + EPSILON)
    offset = bias[:, None] - mean * factor
    if len(weight) > 1:  # to each example what is of its ghost batch
        factor, offset = (jnp.repeat(each, size, 1)[:, :batch] for each in (factor, offset))
    share = count / jnp.maximum(count.sum(), 1)
    return x * factor[:, None, None] + offset[:, None, None], mean @ share, var @ share


def _sum(values: Float[Array, "channels pixels ghosts size"], each: Float[Array, "ghosts size"]) -> Array:
    """Sums of pixels and examples, `[channels, ghosts]`, each example weighted.

    Over the examples by a product: XLA would fuse a sum of products into what is done before and after,
    differently for each number of devices, and round differently. Over the pixels by additions alone, as a
    product of all would add them one by one, and lose three digits.
    """
    return jnp.einsum("cpgs,gs->cpg", values, each).sum(1)


def running_norm(
    x: BatchLast,
    scale: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    mean: Float[Array, " channels"],
    var: Float[Array, " channels"],
) -> Result:
    """Normalises all examples by the same statistics."""
    factor = scale / jnp.sqrt(var + EPSILON)
    return x * factor[:, None, None, None] + (bias - mean * factor)[:, None, None, None]
