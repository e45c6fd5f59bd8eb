"""Batches for training, from data on the device or streamed to it: same examples, same order, same step."""

import concurrent.futures
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.devices import members, mesh, programs
from mmids_cnn.epoch import epoch_order, steps_resident, steps_streamed
from mmids_cnn.errors import ConfigError
from mmids_cnn.train import RESIDENT_BYTES, Batch, TrainState, batch_size, steps_per_epoch

_CHUNK_BYTES = 2**24  # what is streamed at a time, about
_CHUNK_STEPS = 32  # and at most this many steps of it


@runtime_checkable
class Feed(Protocol):
    """Trains on one split, a number of steps at a time."""

    steps_per_epoch: int

    def compile(self, state: TrainState) -> None:
        """Compiles the one program that `advance` runs, for states like this one."""

    def advance(self, state: TrainState, epoch: int, first: int, count: int) -> TrainState:
        """Takes steps `first` to `first + count - 1` of an epoch; the state passed in is used up."""


def make(experiment: config_lib.Experiment, train: data.Split) -> Feed:
    """The feed that the configuration asks for; 'auto' keeps up to 1 GiB on the device."""
    placement = experiment.dataset.placement
    if placement == "auto":
        placement = "resident" if train.images.nbytes <= RESIDENT_BYTES else "streamed"
    return (Resident if placement == "resident" else Streamed)(train, batch_size(experiment, train))


@functools.cache
def _resident_steps(batch_size: int, population: int | None, devices: int) -> Any:
    """One jitted function for all feeds alike: JAX compiles it once for equal shapes."""
    # A population is everywhere between the pieces, as a single state is.
    shardings = mesh.replicated(devices) if population else None
    return jax.jit(resident_steps(batch_size, population), donate_argnums=0, out_shardings=shardings)


def resident_steps(batch_size: int, population: int | None) -> Any:
    """Some steps on data that are all on the device, of a state or of a population."""
    steps: Any = functools.partial(steps_resident, batch_size=batch_size)
    sharing = members.sharing(population or 1)
    each = members.over_members(lambda member, *shared: steps(*member, *shared), population, sharing)

    def advance(state: TrainState, order: Array, *shared: Array) -> TrainState:
        return each((state, order), *shared)

    return advance


class Resident:
    """All examples on the device; a step gathers its batch there."""

    def __init__(self, split: data.Split, batch_size: int) -> None:
        self.steps_per_epoch = steps_per_epoch(len(split.labels), batch_size)
        self._split, self._batch_size = split, batch_size
        self._data: Any = None
        self._order: tuple[Any, Any] = (None, None)
        self._compiled: Any = None

    def compile(self, state: TrainState) -> None:
        """See `Feed`."""
        self._data = mesh.place(tuple(self._split), mesh.replicated(state.devices))
        order, zero = self._order_of(state, 0), np.int32(0)
        steps = _resident_steps(self._batch_size, state.population, state.devices)
        arguments = (state, order, *self._data, zero, zero)
        parts = ("resident", self._batch_size, *state.program.parts)
        self._compiled = programs.compile_once(steps, arguments, state, parts, quickly=True)

    def advance(self, state: TrainState, epoch: int, first: int, count: int) -> TrainState:
        """See `Feed`."""
        order = self._order_of(state, epoch)
        return self._compiled(state, order, *self._data, np.int32(first), np.int32(count))

    def _order_of(self, state: TrainState, epoch: int) -> Array:
        seed = np.asarray(state.h.seed)
        drawn = (seed.tolist(), epoch)
        if self._order[0] != drawn:
            order = self._draw(jnp.asarray(seed), epoch)
            self._order = (drawn, mesh.place(order, mesh.replicated(state.devices)))
        return self._order[1]

    def _draw(self, seed: Array, epoch: int) -> Array:
        def draw(seed: Array) -> Array:
            return epoch_order(seed, jnp.int32(epoch), len(self._split.labels), self._batch_size)

        return jax.vmap(draw)(seed) if seed.ndim else draw(seed)


class Streamed:
    """Examples stay on the host; the next chunk of batches is made and sent while the device works."""

    def __init__(self, split: data.Split, batch_size: int) -> None:
        self.steps_per_epoch = steps_per_epoch(len(split.labels), batch_size)
        self._split = split
        self._batch_size = batch_size
        batch_bytes = max(1, batch_size * split.images[0].nbytes)
        self._chunk = max(1, min(_CHUNK_STEPS, self.steps_per_epoch, _CHUNK_BYTES // batch_bytes))
        self._orders: dict[tuple[int, int], np.ndarray] = {}
        self._chunks: dict[tuple[int, int, int], concurrent.futures.Future[Batch]] = {}
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._placed: Any = None
        self._compiled: Any = None

    def compile(self, state: TrainState) -> None:
        """See `Feed`."""
        if state.population is not None:
            raise ConfigError(
                "config.dataset.placement: expected resident data for a population, whose members draw from "
                "them each in its own order, got streamed; set it to 'resident'"
            )
        devices = state.devices
        whole = self._batch_size % devices == 0
        self._placed = mesh.shared_out(devices, axis=1) if whole else mesh.replicated(devices)
        steps = jax.jit(steps_streamed, donate_argnames="state")
        batches, zero = self._take(int(state.h.seed), 0, 0), np.int32(0)
        parts = ("streamed", *state.program.parts)
        self._compiled = programs.compile_once(
            steps, (state, batches, zero, zero), state, parts, quickly=True
        )

    def advance(self, state: TrainState, epoch: int, first: int, count: int) -> TrainState:
        """See `Feed`."""
        seed, stop = int(state.h.seed), first + count
        while first < stop:
            chunk, inside = divmod(first, self._chunk)
            taken = min(self._chunk - inside, stop - first)
            batches = self._take(seed, epoch, chunk)
            state = self._compiled(state, batches, np.int32(inside), np.int32(inside + taken))
            jax.block_until_ready(state)  # what waited for the device would fill the memory
            first += taken
        return state

    def _take(self, seed: int, epoch: int, chunk: int) -> Batch:
        """A chunk of an epoch, its successor being made meanwhile; older ones are dropped."""
        more = (chunk + 1) * self._chunk < self.steps_per_epoch
        wanted = [(seed, epoch, chunk), (seed, epoch, chunk + 1) if more else (seed, epoch + 1, 0)]
        for key in wanted:
            if key not in self._chunks:
                self._chunks[key] = self._worker.submit(self._make, *key)
        self._chunks = {key: self._chunks[key] for key in wanted}
        return self._chunks[wanted[0]].result()

    def _make(self, seed: int, epoch: int, chunk: int) -> Batch:
        if (seed, epoch) not in self._orders:
            order = epoch_order(jnp.uint32(seed), jnp.int32(epoch), len(self._split.labels), self._batch_size)
            self._orders = {(seed, epoch): np.asarray(order)}
        size = self._chunk * self._batch_size
        chosen = self._orders[seed, epoch][chunk * size : (chunk + 1) * size]
        shape = (self._chunk, self._batch_size)
        valid = (np.arange(chunk * size, (chunk + 1) * size) < len(self._split.labels)).reshape(shape)
        chosen = np.concatenate([chosen, np.zeros(size - len(chosen), chosen.dtype)]).reshape(shape)

        def put(array: np.ndarray, rows: Callable[[Any], np.ndarray]) -> Array:
            # Each device is given its rows alone, and each process makes those of its devices.
            full = (*shape, *array.shape[1:])
            return jax.make_array_from_callback(full, self._placed, lambda index: rows((index or ())[:2]))

        split = self._split
        return Batch(
            put(split.images, lambda index: split.images[chosen[index]]),
            put(split.labels, lambda index: split.labels[chosen[index]]),
            put(split.labels, lambda index: valid[index]),
        )
