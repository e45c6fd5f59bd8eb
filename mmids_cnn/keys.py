"""Named streams of random keys, all derived from the one seed.

A stream is `fold_in(key(seed), its id)`, an element of it `fold_in(stream, index)`. Keys are never split:
`split(key, n)[i]` equals `fold_in(key, i)` bit for bit, so that doing both would reuse randomness.
"""

import jax
from jaxtyping import Array, Integer, PRNGKeyArray

# Ids are part of what makes a run reproducible: never change or reuse one.
_STREAMS = {"params": 0, "order": 1, "dropout": 2, "augment": 3}


def stream(seed: int | Integer[Array, ""], name: str) -> PRNGKeyArray:
    """The key of a named stream (a key of `_STREAMS`) of a seed, 0 to 2**32 - 1.

    The generator is named, so that JAX_DEFAULT_PRNG_IMPL changes no bit.
    """
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _STREAMS[name])
