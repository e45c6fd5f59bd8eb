"""Devices in a row, and where arrays are on them.

XLA spreads single operations over the cores of a CPU, and the small ones of this network gain little by it.
So each core is a JAX device of its own (`cores.as_devices`), and the examples of a batch are shared out among
them.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "devices"


def usable_devices(groups: int) -> int:
    """How many devices can share `groups` equal pieces of work evenly: of a CPU's, one of any other kind."""
    there = jax.local_device_count() if jax.default_backend() == "cpu" else 1
    return max(n for n in range(1, min(groups, there) + 1) if groups % n == 0)


def replicated(devices: int) -> NamedSharding:
    """Where an array is that each of the first `devices` devices has a copy of."""
    return NamedSharding(of(devices), PartitionSpec())


def shared_out(devices: int, axis: int) -> NamedSharding:
    """Where an array is of which each of the first `devices` devices has an equal part, cut along `axis`."""
    return NamedSharding(of(devices), PartitionSpec(*[None] * axis, AXIS))


def of(devices: int) -> Mesh:
    """The first `devices` devices in a row."""
    return Mesh(np.array(jax.local_devices()[:devices]), (AXIS,))
