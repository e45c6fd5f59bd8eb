"""Maps a function over the members of a population of models, shared out over the devices of this process."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from mmids_cnn.devices import mesh

_BUSY = 0.75  # of a CPU's cores: where fewer would have a member to train, all share each one's batches


def sharing(members: int) -> int:
    """How many devices share out a population's members; 1 where each member is rather trained by all.

    Members need nothing of one another, so that whole ones on a core of their own lose no time to exchanges.
    """
    there = jax.local_device_count()
    rounds = -(-members // there)
    if jax.default_backend() == "cpu" and members < _BUSY * rounds * there:
        return 1
    return min(there, members)


def over_members(function: Callable[..., Any], members: int | None, devices: int = 1) -> Callable[..., Any]:
    """Maps `function(member, *shared)` over the leading axis of its first argument.

    A CPU's core takes its members one after another, within one program: each one's activations stay in the
    cache, and its bits are those of the model on its own. Under `vmap` sixteen times the working set made a
    step of each model two to three times slower there. Other devices take their members at once, by `vmap`.

    Args:
      function: from a member's arrays and some that all share, to the member's new arrays.
      members: the length of the leading axis; None for arrays without one, which are passed as they are.
      devices: that share the members out; each takes as many, the last one some of another's a second time.

    Returns:
      A function of the same arguments, the first and the result stacked over members.
    """
    if members is None:
        return function

    def on_each(stacked: Any, *shared: Any) -> Any:
        if jax.default_backend() == "cpu":
            return lax.map(lambda member: function(member, *shared), stacked)
        return jax.vmap(lambda member: function(member, *shared))(stacked)

    if devices == 1:
        return on_each

    def mapped(stacked: Any, *shared: Any) -> Any:
        index = jnp.minimum(jnp.arange(-(-members // devices) * devices), members - 1)
        own: Any = PartitionSpec(mesh.AXIS)
        specs = (own, *[PartitionSpec()] * len(shared))
        run = jax.shard_map(on_each, mesh=mesh.of(devices), in_specs=specs, out_specs=own, check_vma=False)
        trained = run(jax.tree.map(lambda array: array[index], stacked), *shared)
        return jax.tree.map(lambda array: array[:members], trained)

    return mapped
