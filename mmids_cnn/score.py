"""Scores all examples of a split: none dropped, none counted twice, however the batch size divides them."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32

from mmids_cnn import data, model, sums
from mmids_cnn.devices import blocks, members, mesh, programs

_RESIDENT_BYTES = 2**30  # splits up to this size stay on the device between evaluations
_BLOCK_EXAMPLES = 1000  # scored by a call on a CPU, before it is asked whether to stop
_BLOCKS = 64  # of them at once on an accelerator, which would wait for the host in between


def add_slices(
    variables: model.Variables,
    total: sums.Sums,
    images: Array,
    labels: Array,
    count: Int32[Array, ""],
    counted: Int32[Array, ""],
    first: Int32[Array, ""],
    stop: Int32[Array, ""],
    network: model.Network,
    metrics: Sequence[str],
    size: int,
) -> sums.Sums:
    """Adds slices number `first` to `stop - 1` of the first `count` examples, `size` at a time, to the sums.

    The last slice reaches back, so as to be as long as the others; what it takes a second time, and the first
    `counted` examples, are left out of the sums. Slices run in one loop, because their working memory is
    then taken from the system once.
    """

    def add(index: Array, total: sums.Sums) -> sums.Sums:
        start = jnp.minimum(index * size, count - size)
        x = lax.dynamic_slice_in_dim(images, start, size)
        y = lax.dynamic_slice_in_dim(labels, start, size)
        fresh = start + jnp.arange(size) >= jnp.maximum(index * size, counted)
        return total + sums.add_up(metrics, model.apply(network, variables, x), y, fresh)

    return lax.fori_loop(first, stop, add, total)


@functools.cache
def _adding(
    network: model.Network, metrics: tuple[str, ...], size: int, population: int | None, devices: int
) -> Any:
    """One jitted function for all scorers alike: JAX compiles it once for equal shapes."""
    add: Any = functools.partial(add_slices, network=network, metrics=metrics, size=size)
    each = members.over_members(lambda member, *shared: add(*member, *shared), population, devices)
    return jax.jit(lambda variables, total, *shared: each((variables, total), *shared))


@functools.cache
def _applying(network: model.Network) -> Any:
    return jax.jit(functools.partial(model.apply, network))


class Scorer:
    """Scores some splits with any variables of one network, or with those of a population.

    Args:
      network: what is scored.
      metrics: names of metrics, as in `config.eval.metrics`.
      splits: the examples.
      batch_size: images at a time.
      population: how many members the variables are stacked of; None for those of one model.
    """

    def __init__(
        self,
        network: model.Network,
        metrics: Sequence[str],
        splits: Mapping[str, data.Split],
        batch_size: int,
        population: int | None = None,
    ) -> None:
        self._network, self._metrics, self._population = network, tuple(metrics), population
        self._splits = dict(splits)
        batch_size, self._workers = blocks.per_worker(batch_size)
        # A CPU's cores take blocks of examples; other devices the members that each of them trains.
        self._devices = 1 if jax.default_backend() == "cpu" else members.sharing(population or 1)
        self._size = {name: min(batch_size, len(split.labels)) for name, split in splits.items()}
        for name, split in splits.items():
            if split.images.nbytes <= _RESIDENT_BYTES:
                self._splits[name] = self._place(split)
        self._compiled: dict[str, Any] = {}

    def compile(self, variables: model.Variables) -> None:
        """Compiles a program for each split, for variables like these."""
        variables = self._place(variables)
        for name, size in self._size.items():
            (images, labels, *_), zero = self._part(name, 0), np.int32(0)
            adding = _adding(self._network, self._metrics, size, self._population, self._devices)
            parts = ("scorer", *self._network, self._metrics, size, self._population)
            total = self._zero()
            arguments = (variables, total, images, labels, *[zero] * 4)
            self._compiled[name] = programs.compile_once(adding, arguments, total, parts)

    def __call__(
        self, variables: model.Variables, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, sums.Sums] | None:
        """Sums over all examples of each split; None if `stop` said so before the end."""
        variables = self._place(variables)
        if not self._compiled:
            self.compile(variables)
        scores = {}
        for name in self._splits:
            total = self._score(name, variables, stop)
            if total is None:
                return None
            scores[name] = total
        return scores

    def _score(self, name: str, variables: model.Variables, stop: Callable[[], bool]) -> sums.Sums | None:
        size, count, zero = self._size[name], len(self._splits[name].labels), self._zero()
        resident = isinstance(self._splits[name].images, jax.Array)
        blocks_at_once = _BLOCKS if resident and jax.default_backend() != "cpu" else 1
        per_block = max(1, _BLOCK_EXAMPLES // size) * blocks_at_once

        def block(counted: int) -> sums.Sums | None:
            if stop():
                return None
            images, labels, start, there = self._part(name, counted)
            first = (counted - start) // size
            last = min(first + per_block, -(-there // size))
            at = (np.int32(number) for number in (there, counted - start, first, last))
            return jax.block_until_ready(self._compiled[name](variables, zero, images, labels, *at))

        # Sums of blocks are added in one order, whichever core is done first.
        parts = blocks.each(block, range(0, count, per_block * size), self._workers)
        if None in parts:
            return None
        return functools.reduce(operator.add, jax.device_get(parts))  # by NumPy: nothing is compiled here

    def _place(self, tree: Any) -> Any:
        """Arrays where they are scored; training copies them to several devices."""
        if self._devices == 1:
            return blocks.on_one_device(tree)
        return mesh.place(tree, mesh.replicated(self._devices))

    def _zero(self) -> sums.Sums:
        zero = sums.zero(self._metrics, self._network.classes)
        if self._population is None:
            return zero
        return jax.tree.map(lambda x: jnp.zeros(self._population, x.dtype), zero)

    def _part(self, name: str, start: int) -> tuple[Any, Any, int, int]:
        """Examples on the device, the position of the first of them, `start` or before it, and their number.

        What is streamed is cut where the slices of a resident split are, so that both are rounded alike; the
        last part is filled up to the length of the others, so that one program serves them all.
        """
        images, labels = self._splits[name]
        if isinstance(images, jax.Array):
            return images, labels, 0, len(labels)
        size = self._size[name]
        length = max(1, _BLOCK_EXAMPLES // size) * size
        start = min(start, len(labels) - size)
        there = min(length, len(labels) - start)
        part = [blocks.filled(array[start : start + length], length) for array in (images, labels)]
        images, labels = jax.device_put(part)
        return images, labels, start, there


def logits(
    network: model.Network, variables: model.Variables, images: np.ndarray, batch_size: int = 1000
) -> Float[np.ndarray, "n classes"]:
    """Logits of all images, computed `batch_size` at a time, on a CPU at most 50, on each core."""
    batch_size, workers = blocks.per_worker(batch_size)
    size = max(1, min(batch_size, len(images)))
    variables = blocks.on_one_device(variables)
    shape = jax.ShapeDtypeStruct((size, *images.shape[1:]), images.dtype)
    parts = ("logits", *network)
    compiled = programs.compile_once(_applying(network), (variables, shape), 0, parts)

    def part(start: int) -> np.ndarray:
        chosen = images[start : start + size]
        return np.asarray(compiled(variables, blocks.filled(chosen, size)))[: len(chosen)]

    return np.concatenate(blocks.each(part, range(0, max(1, len(images)), size), workers))
