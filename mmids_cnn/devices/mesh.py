"""How work is spread on a backend: over the members of a population of models, over a CPU's cores.

XLA spreads single operations over the cores of a CPU, and the small ones of this network gain little by it.
So each core is a JAX device of its own (`cores.as_devices`), and the examples of a batch are shared out among
them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_AXIS = "devices"


def over_members(function: Callable[..., Any], members: int | None) -> Callable[..., Any]:
    """Maps `function(member, *shared)` over the leading axis of its first argument.

    A CPU takes the members one after another, within one program: each one's activations stay in the cache,
    and its bits are those of the model on its own. Under `vmap` sixteen times the working set made a step of
    each model two to three times slower there. Other backends take all members at once, by `vmap`.

    Args:
      function: from a member's arrays and some that all share, to the member's new arrays.
      members: the length of the leading axis; None for arrays without one, which are passed as they are.

    Returns:
      A function of the same arguments, the first and the result stacked over members.
    """
    if members is None:
        return function

    def mapped(stacked: Any, *shared: Any) -> Any:
        if jax.default_backend() == "cpu":
            return lax.map(lambda member: function(member, *shared), stacked)
        return jax.vmap(lambda member: function(member, *shared))(stacked)

    return mapped


def usable_devices(groups: int) -> int:
    """How many devices can share `groups` equal pieces of work evenly: of a CPU's, one of any other kind."""
    there = jax.local_device_count() if jax.default_backend() == "cpu" else 1
    return max(n for n in range(1, min(groups, there) + 1) if groups % n == 0)


def replicated(devices: int) -> NamedSharding:
    """Where an array is that each of the first `devices` devices has a copy of."""
    return NamedSharding(_mesh(devices), PartitionSpec())


def shared_out(devices: int, axis: int) -> NamedSharding:
    """Where an array is of which each of the first `devices` devices has an equal part, cut along `axis`."""
    return NamedSharding(_mesh(devices), PartitionSpec(*[None] * axis, _AXIS))


def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:devices]), (_AXIS,))


def sum_over_groups(function: Callable[..., Any], devices: int) -> Callable[..., Any]:
    """Adds up `function(group, *shared)` over the leading axis of its first argument, on several devices.

    Each device takes an equal part of the groups, one group after another, and each then has the sums. They
    are added in one order, whatever the number of devices.

    Args:
      function: from a group's arrays and some that all share, to a tree of floats of one type, and of
        integers whose sums this type holds exactly.
      devices: a divisor of the number of groups.

    Returns:
      A function of the same arguments, the first stacked over groups, that returns the sums.
    """

    def on_each(groups: Any, *shared: Any) -> Any:
        results = lax.map(lambda group: function(group, *shared), groups)
        # One exchange, of one array: with an exchange for each array training took a quarter longer.
        flat = lax.all_gather(jax.vmap(lambda tree: ravel_pytree(tree)[0])(results), _AXIS, tiled=True)
        # By a product, as XLA would fuse other sums into what uses them, differently for each number of
        # devices, and round differently.
        total = jnp.ones(len(flat), flat.dtype) @ flat
        return ravel_pytree(jax.tree.map(lambda x: x[0], results))[1](total)

    def mapped(groups: Any, *shared: Any) -> Any:
        if jax.tree.leaves(groups)[0].shape[0] == 1:
            return function(jax.tree.map(lambda x: x[0], groups), *shared)
        specs: Any = (PartitionSpec(_AXIS), *[PartitionSpec()] * len(shared))
        everywhere: Any = PartitionSpec()
        run = jax.shard_map(
            on_each, mesh=_mesh(devices), in_specs=specs, out_specs=everywhere, check_vma=False
        )
        return run(groups, *shared)

    return mapped
