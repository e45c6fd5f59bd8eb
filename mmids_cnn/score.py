"""Scores all examples of a split: none dropped, none counted twice, however the batch size divides them."""

import concurrent.futures
import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int32

from mmids_cnn import data, metrics, model
from mmids_cnn.devices import compilation, cores, mesh

_RESIDENT_BYTES = 2**30  # splits up to this size stay on the device between evaluations
_BLOCK_EXAMPLES = 1000  # scored by a call, before it is asked whether to stop
_CPU_EXAMPLES = 50  # at a time on each core of a CPU: their activations stay in its cache


def add_slices(
    params: model.Params,
    sums: metrics.Sums,
    images: Array,
    labels: Array,
    count: Int32[Array, ""],
    counted: Int32[Array, ""],
    first: Int32[Array, ""],
    stop: Int32[Array, ""],
    network: model.ConvNet,
    size: int,
) -> metrics.Sums:
    """Adds slices number `first` to `stop - 1` of the first `count` examples, `size` at a time, to the sums.

    The last slice reaches back, so as to be as long as the others; what it takes a second time, and the first
    `counted` examples, are left out of the sums. Slices run in one loop, because their working memory is
    then taken from the system once.
    """

    def add(index: Array, sums: metrics.Sums) -> metrics.Sums:
        start = jnp.minimum(index * size, count - size)
        x = lax.dynamic_slice_in_dim(images, start, size)
        y = lax.dynamic_slice_in_dim(labels, start, size)
        fresh = start + jnp.arange(size) >= jnp.maximum(index * size, counted)
        return sums + metrics.sums(model.apply(network, params, x), y, fresh)

    return lax.fori_loop(first, stop, add, sums)


@functools.cache
def _program(network: model.ConvNet, size: int, members: int | None) -> Any:
    """One jitted function for all scorers alike: JAX compiles it once for equal shapes."""
    add: Any = functools.partial(add_slices, network=network, size=size)
    each = mesh.over_members(lambda member, *shared: add(*member, *shared), members)
    return jax.jit(lambda params, sums, *shared: each((params, sums), *shared))


class Scorer:
    """Scores some splits with any parameters of one network, or with those of a population's `members`."""

    def __init__(
        self,
        network: model.ConvNet,
        splits: Mapping[str, data.Split],
        batch_size: int,
        members: int | None = None,
    ) -> None:
        self._network, self._members = network, members
        self._splits = dict(splits)
        batch_size, self._workers = _per_worker(batch_size)
        self._size = {name: min(batch_size, len(split.labels)) for name, split in splits.items()}
        for name, split in splits.items():
            if split.images.nbytes <= _RESIDENT_BYTES:
                self._splits[name] = jax.device_put(split)
        self._programs: dict[str, Any] = {}

    def compile(self, params: model.Params) -> None:
        """Compiles a program for each split, for parameters like these."""
        params = _on_one_device(params)
        for name, size in self._size.items():
            (images, labels, *_), zero = self._part(name, 0), np.int32(0)
            program = _program(self._network, size, self._members)
            lowered = program.lower(params, self._zero(), images, labels, *[zero] * 4)
            self._programs[name] = compilation.program(lowered)

    def __call__(
        self, params: model.Params, stop: Callable[[], bool] = lambda: False
    ) -> dict[str, metrics.Sums] | None:
        """Sums over all examples of each split; None if `stop` said so before the end."""
        params = _on_one_device(params)
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
        size, count, zero = self._size[name], len(self._splits[name].labels), self._zero()
        per_block = max(1, _BLOCK_EXAMPLES // size)

        def block(counted: int) -> metrics.Sums | None:
            if stop():
                return None
            images, labels, start, there = self._part(name, counted)
            first = (counted - start) // size
            last = min(first + per_block, -(-there // size))
            at = (np.int32(number) for number in (there, counted - start, first, last))
            return jax.block_until_ready(self._programs[name](params, zero, images, labels, *at))

        # Sums of blocks are added in one order, whichever core is done first.
        parts = _each(block, range(0, count, per_block * size), self._workers)
        if None in parts:
            return None
        return functools.reduce(operator.add, jax.device_get(parts))  # by NumPy: nothing is compiled here

    def _zero(self) -> metrics.Sums:
        zero = metrics.Sums.zero()
        return jax.tree.map(lambda x: jnp.zeros(self._members, x.dtype), zero) if self._members else zero

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
        part = [_filled(array[start : start + length], length) for array in (images, labels)]
        images, labels = jax.device_put(part)
        return images, labels, start, there


def _each(work: Callable[[int], Any], items: Iterable[int], workers: int) -> list[Any]:
    """Results of all items, in their order; after an error no further item is begun."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def logits(
    network: model.ConvNet, params: model.Params, images: np.ndarray, batch_size: int = 1000
) -> Float[np.ndarray, "n classes"]:
    """Logits of all images, computed `batch_size` at a time, on a CPU at most 50, on each core."""
    batch_size, workers = _per_worker(batch_size)
    size = max(1, min(batch_size, len(images)))
    params = _on_one_device(params)
    shape = jax.ShapeDtypeStruct((size, *images.shape[1:]), images.dtype)
    program = compilation.program(
        jax.jit(model.apply, static_argnames="network").lower(network, params, shape)
    )

    def part(start: int) -> np.ndarray:
        chosen = images[start : start + size]
        return np.asarray(program(params, _filled(chosen, size)))[: len(chosen)]

    return np.concatenate(_each(part, range(0, max(1, len(images)), size), workers))


def _filled(array: np.ndarray, length: int) -> np.ndarray:
    """The array with zeros appended to `length` entries."""
    return np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)])


def _on_one_device(params: model.Params) -> model.Params:
    """Training copies them to several."""
    return jax.device_put(params, jax.local_devices()[0])


def _per_worker(batch_size: int) -> tuple[int, int]:
    """How many examples at a time, and threads that score: small products leave a CPU's cores idle."""
    if jax.default_backend() == "cpu":
        return min(batch_size, _CPU_EXAMPLES), cores.count()
    return batch_size, 1
