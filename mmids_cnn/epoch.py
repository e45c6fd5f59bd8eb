"""An epoch: the order of its examples, and a loop over `train_step`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
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
    launches = jax.default_backend() not in ("cpu", "tpu")
    pack, unpack = _packing(state) if launches else (lambda x: x,) * 2

    def body(index: Array, carry: tuple[Any, Batch]) -> tuple[Any, Batch]:
        packed, batch = carry
        return pack(train_step(unpack(packed), batch)[0]), take(index + 1)

    return unpack(lax.fori_loop(first, stop, body, (pack(state), take(first)))[0])


def _packing(state: TrainState) -> tuple[Callable[[TrainState], list[Array]], Callable[[Any], TrainState]]:
    """What makes one vector a dtype of all that a step changes in states like this one, and what undoes it.

    A GPU changes each array of a state by a launch of its own, a vector by one: a step of `base.py` takes 58
    in place of 66, one of `one_epoch.py` 100 in place of 158 (`make gpu-program`, with this and without). A
    TPU would do more, 128 operations in place of 112, as it keeps an array in tiles, each shape in others.
    """
    fixed = {"h": state.h, "stopped": state.stopped}
    form = jax.tree.structure(state.replace(h=None, stopped=None))

    def by_dtype(state: TrainState) -> list[dict[int, Array]]:
        leaves = jax.tree.leaves(state.replace(h=None, stopped=None))
        dtypes = sorted({x.dtype for x in leaves}, key=str)
        return [{n: x for n, x in enumerate(leaves) if x.dtype == dtype} for dtype in dtypes]

    def pack(state: TrainState) -> list[Array]:
        return [ravel_pytree(alike)[0] for alike in by_dtype(state)]

    backs = [ravel_pytree(alike)[1] for alike in by_dtype(state)]

    def unpack(vectors: list[Array]) -> TrainState:
        leaves = {n: x for back, vector in zip(backs, vectors, strict=True) for n, x in back(vector).items()}
        return jax.tree.unflatten(form, [leaves[n] for n in range(len(leaves))]).replace(**fixed)

    return pack, unpack
