"""The order of examples in an epoch."""

import jax.numpy as jnp
import numpy as np

from mmids_cnn import epoch as epoch_lib


def order_of(seed: int, epoch: int, num_examples: int = 1000, batch_size: int = 128) -> np.ndarray:
    return np.asarray(epoch_lib.epoch_order(jnp.uint32(seed), jnp.int32(epoch), num_examples, batch_size))


def test_an_epoch_is_a_permutation_filled_up_with_zeros() -> None:
    order = order_of(0, 0)
    assert len(order) == 1024
    assert sorted(order[:1000]) == list(range(1000))
    assert not order[1000:].any()
    assert len(order_of(0, 0, 1000, 250)) == 1000
    assert len(order_of(0, 0, 1000, 1500)) == 1500


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    orders = [order_of(seed, epoch)[:1000] for seed in range(3) for epoch in range(3)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).mean() < 0.01  # two random permutations agree in one place of 1,000
