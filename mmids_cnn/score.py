"""Scores all examples of a split: none dropped, none counted twice, however the batch size divides them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32

from mmids_cnn import data, metrics, model

_LEAST = 32  # images a member at a time: fewer make the overhead of each call show
_RESIDENT_BYTES = 2**30  # splits up to this size stay on the device between evaluations


def add_slice(
    params: model.Params,
    sums: metrics.Sums,
    images: Array,
    labels: Array,
    start: Int32[Array, ""],
    counted: Int32[Array, ""],
    network: model.ConvNet,
    size: int,
) -> metrics.Sums:
    """Adds the examples from `start` on, `size` of them, to the sums, but for those before `counted`."""
    x = lax.dynamic_slice_in_dim(images, start, size)
    y = lax.dynamic_slice_in_dim(labels, start, size)
    return sums + metrics.sums(model.apply(network, params, x), y, start + jnp.arange(size) >= counted)


@functools.cache
def _program(network: model.ConvNet, size: int, population: bool) -> Any:
    """One jitted function for all scorers alike: JAX compiles it once for equal shapes."""
    add: Any = functools.partial(add_slice, network=network, size=size)
    if population:
        add = jax.vmap(add, in_axes=(0, 0, None, None, None, None))
    return jax.jit(add)


class Scorer:
    """Scores some splits with any parameters of one network, or with those of a population's `members`.

    Images are scored `batch_size` at a time; members share that number, and with it the memory it takes.
    """

    def __init__(
        self,
        network: model.ConvNet,
        splits: Mapping[str, data.Split],
        batch_size: int,
        members: int | None = None,
    ) -> None:
        self._network, self._members = network, members
        self._splits = dict(splits)
        size = max(batch_size // (members or 1), min(batch_size, _LEAST))
        self._size = {name: min(size, len(split.labels)) for name, split in splits.items()}
        for name, split in splits.items():
            if split.images.nbytes <= _RESIDENT_BYTES:
                self._splits[name] = jax.device_put(split)
        self._programs: dict[str, Any] = {}

    def compile(self, params: model.Params) -> None:
        """Compiles a program for each split, for parameters like these."""
        for name, size in self._size.items():
            arrays, zero = self._slices(name, 0), jnp.int32(0)
            program = _program(self._network, size, self._members is not None)
            self._programs[name] = program.lower(params, self._zero(), *arrays, zero, zero).compile()

    def __call__(
        self, params: model.Params, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, metrics.Sums] | None:
        """Sums over all examples of each split; None if `stop` said so before the end."""
        if not self._programs:
            self.compile(params)
        scores = {}
        for name in self._splits:
            sums = self._score(name, params, stop)
            if sums is None:
                return None
            scores[name] = sums
        return scores

    def _score(self, name: str, params: model.Params, stop: Callable[[], bool]) -> metrics.Sums | None:
        size, count = self._size[name], len(self._splits[name].labels)
        resident = isinstance(self._splits[name].images, jax.Array)
        sums = self._zero()
        for counted in range(0, count, size):
            if stop():
                return None
            start = min(counted, count - size)  # the last slice reaches back over counted examples
            images, labels = self._slices(name, start)
            offset = 0 if resident else start
            at = (jnp.int32(start - offset), jnp.int32(counted - offset))
            sums = jax.block_until_ready(self._programs[name](params, sums, images, labels, *at))
        return sums

    def _zero(self) -> metrics.Sums:
        zero = metrics.Sums.zero()
        return jax.tree.map(lambda x: jnp.zeros(self._members, x.dtype), zero) if self._members else zero

    def _slices(self, name: str, start: int) -> tuple[Any, Any]:
        images, labels = self._splits[name]
        if isinstance(images, jax.Array):
            return images, labels
        size = self._size[name]
        return jax.device_put((images[start : start + size], labels[start : start + size]))


def logits(
    network: model.ConvNet, params: model.Params, images: np.ndarray, batch_size: int = 1000
) -> Float[np.ndarray, "n classes"]:
    """Logits of all images, computed `batch_size` at a time."""
    program = jax.jit(model.apply, static_argnames="network")
    parts = []
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        padding = [(0, min(batch_size, len(images)) - len(part))] + [(0, 0)] * (images.ndim - 1)
        parts.append(np.asarray(program(network, params, np.pad(part, padding)))[: len(part)])
    return np.concatenate(parts)
