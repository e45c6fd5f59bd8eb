"""An epoch: the order of its examples, and a loop over `train_step`."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, Int32, Integer

from mmids_cnn import keys
from mmids_cnn.train import Batch, TrainState, train_step


@functools.partial(jax.jit, static_argnames=("num_examples", "batch_size"))
def epoch_order(
    seed: Integer[Array, ""], epoch: Int[Array, ""], num_examples: int, batch_size: int
) -> Int32[Array, " padded"]:
    """A fresh permutation of the examples for each epoch and seed, zeros filling up the last batch."""
    key = jax.random.fold_in(keys.stream(seed, "order"), epoch)
    order = jax.random.permutation(key, jnp.arange(num_examples, dtype=jnp.int32))
    return jnp.pad(order, (0, -num_examples % batch_size))


def steps_resident(
    state: TrainState,
    order: Int32[Array, " padded"],
    images: Array,
    labels: Array,
    first: Int32[Array, ""],
    count: Int32[Array, ""],
    batch_size: int,
) -> TrainState:
    """Takes `count` steps from step `first` of an epoch on; `count` is traced, so any piece fits."""

    def take(index: Array) -> Batch:
        start = index * batch_size
        chosen = lax.dynamic_slice(order, (start,), (batch_size,))
        valid = start + jnp.arange(batch_size) < len(labels)
        return Batch(images[chosen], labels[chosen], valid)

    return _steps(state, take, first, first + count)


def steps_streamed(
    state: TrainState, batches: Batch, first: Int32[Array, ""], stop: Int32[Array, ""]
) -> TrainState:
    """Takes steps on the stacked batches number `first` to `stop - 1`."""
    return _steps(state, lambda index: jax.tree.map(lambda stack: stack[index], batches), first, stop)


def _steps(state: TrainState, take: Callable[[Array], Batch], first: Array, stop: Array) -> TrainState:
    """Steps on the batches number `first` to `stop - 1`, none where the state has stopped.

    The loop carries the next batch, so that the step finds it in memory, however it was taken: fused into the
    step, different ways to take it made sums round differently.
    """
    if state.program.stops:
        stop = jnp.where(state.stopped == 0, stop, first)

    def body(index: Array, carry: tuple[TrainState, Batch]) -> tuple[TrainState, Batch]:
        state, batch = carry
        return train_step(state, batch)[0], take(index + 1)

    return lax.fori_loop(first, stop, body, (state, take(first)))[0]
