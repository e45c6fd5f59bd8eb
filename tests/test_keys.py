"""Named streams of random keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import keys


@pytest.mark.parametrize("name", ["params", "order"])
@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_a_seed_is_the_same_as_python_number_and_as_array(seed: int, name: str) -> None:
    number, array = keys.stream(seed, name), keys.stream(jnp.uint32(seed), name)
    assert jax.random.key_data(number).tolist() == jax.random.key_data(array).tolist()


def test_no_two_keys_of_any_seed_stream_or_index_are_equal() -> None:
    def of_seed(seed: jax.Array) -> jax.Array:
        streams = [keys.stream(seed, name) for name in ("params", "order")]
        elements = [jax.random.fold_in(stream, i) for stream in streams for i in range(20)]
        return jax.random.key_data(jnp.stack([*streams, *elements]))

    found = np.asarray(jax.vmap(of_seed)(jnp.arange(500, dtype=jnp.uint32))).reshape(-1, 2)
    assert len(np.unique(found, axis=0)) == len(found) == 500 * 42
