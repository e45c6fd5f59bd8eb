"""Devices in a row, and where arrays are on them.

XLA spreads single operations over the cores of a CPU, and the small ones of this network gain little by it.
So each core is a JAX device of its own (`cores.as_devices`), and the examples of a batch are shared out among
them.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmids_cnn.errors import ConfigError

AXIS = "devices"


def usable_devices(groups: int) -> int:
    """How many devices can share `groups` equal pieces of work evenly, as many of each process.

    Raises:
      ConfigError: not all processes get a piece.
    """
    processes = jax.process_count()
    most = min(groups, processes * _of_each_process())
    devices = max((n for n in range(processes, most + 1, processes) if groups % n == 0), default=0)
    if not devices:
        raise ConfigError(
            f"--processes: expected a divisor of {groups}, the pieces that a batch of config.batch_size is "
            f"cut into, got {processes}; start fewer, or change --config.batch_size or --config.train.groups"
        )
    return devices


def sharing(fits: Callable[[int], bool]) -> int:
    """The most devices, as many of each process, whose number fits; if none does, one of each process."""
    processes = jax.process_count()
    numbers = range(processes * _of_each_process(), processes, -processes)
    return next(filter(fits, numbers), processes)


def replicated(devices: int) -> NamedSharding:
    """Where an array is that each of the first `devices` devices has a copy of."""
    return NamedSharding(of(devices), PartitionSpec())


def shared_out(devices: int, axis: int) -> NamedSharding:
    """Where an array is of which each of the first `devices` devices has an equal part, cut along `axis`."""
    return NamedSharding(of(devices), PartitionSpec(*[None] * axis, AXIS))


def of(devices: int) -> Mesh:
    """Devices in a row, the first ones of each process."""
    each = devices // jax.process_count()
    if each == 0:
        return Mesh(np.array(jax.local_devices()[:devices]), (AXIS,))
    chosen = [d for process in range(jax.process_count()) for d in _devices_of(process)[:each]]
    return Mesh(np.array(chosen), (AXIS,))


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays that each process has as a whole where a sharding says."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def _devices_of(process: int) -> list[jax.Device]:
    return [device for device in jax.devices() if device.process_index == process]


def _of_each_process() -> int:
    """Devices that every process has."""
    return min(len(_devices_of(process)) for process in range(jax.process_count()))
