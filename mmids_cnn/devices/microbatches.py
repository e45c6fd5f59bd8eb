"""A batch cut into slices that a core's cache holds, and sums over them that no number of devices changes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from mmids_cnn.devices import cores, mesh

# What a CPU's core takes at a time, at most. 32 examples measured best of 16, 32 and 64: their activations
# stay in its cache.
_SLICE = 32
_SLICE_PIXELS = 2**16


class Cut(NamedTuple):
    """How a batch is cut: groups may be computed side by side, the slices of a group one after another."""

    groups: int = 1
    slices: int = 1
    devices: int = 1  # that share the groups
    size: int = 0  # examples of a slice; 0: as many as fill the slices evenly
    alike: bool = True  # whether another number of devices is to give the same bits

    @property
    def in_one_piece(self) -> bool:
        """Whether the batch is not cut at all."""
        return self.groups == self.slices == 1


WHOLE = Cut()
"""A batch in one piece: on one accelerator, and for a network that looks at all of its examples at once."""


def fits(pixels: int, size: int | None) -> bool:
    """Whether slices of so many images are as small as those that `cut` would make."""
    return size is not None and size * pixels <= _SLICE_PIXELS


def cut(batch_size: int, pixels: int, size: int | None = None, groups: int = 0) -> Cut:
    """How a batch of images of so many pixels is cut on this backend.

    On a CPU nothing but these sizes decides about groups and slices, and no slice is so large that XLA would
    cut its sums once more, by the number of threads: sums are rounded alike on any number of cores.
    Accelerators take equal shares, as many of them as the batch can be divided among: another number of them
    rounds otherwise, unless the number of groups is given.

    Args:
      batch_size: examples of a batch.
      pixels: of an image.
      size: examples of a slice, where a network has to have so many; batches of no more stay whole.
      groups: into how many groups it is cut, at most; 0 as said above.

    Raises:
      ConfigError: there is not a group for each of the processes.
    """
    if jax.default_backend() != "cpu":
        alike = groups > 0
        groups = groups or mesh.sharing(lambda devices: batch_size % (devices * (size or 1)) == 0)
        return Cut(groups=groups, devices=mesh.usable_devices(groups), alike=alike)
    if size is not None:
        count = -(-batch_size // size)
    else:
        most = max(1, min(_SLICE, _SLICE_PIXELS // pixels))
        halves = -(-2 * batch_size // most)
        count = max(-(-batch_size // most), min(2, halves))  # two halves rather than one whole
    if groups == 0 and count <= cores.MOST:
        count = 1 << (count - 1).bit_length()
    groups = min(count, cores.MOST) if groups == 0 else min(groups, count if size else batch_size)
    return Cut(groups, -(-count // groups), mesh.usable_devices(groups), size or 0)


def add_up(function: Callable[..., Any], cut: Cut) -> Callable[..., Any]:
    """Adds up `function(slice, *shared)` over the slices of a batch, the first argument.

    Each device takes an equal part of the groups, one group after another, and each then has the sums. They
    are added in one order, whatever the number of devices.

    Args:
      function: from a slice's arrays and some that all slices share, to a tree of float32, and of integers
        whose sums float32 holds exactly (up to 2**24).
      cut: how the batch is cut. Zeros fill it up to slices of equal length. A batch in one piece is passed
        as it is.

    Returns:
      A function of the same arguments, the first a batch, that returns the sums.
    """
    if cut.in_one_piece:
        return function
    function = jax.jit(function, inline=True)  # which is traced once, not for its shapes once more

    def add_slices(slices: Any, *shared: Any) -> Any:
        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, function(part, *shared)), None

        first = jax.tree.map(lambda array: array[0], slices)
        shapes = jax.eval_shape(function, first, *shared)
        zero = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        return lax.scan(add, zero, slices)[0]

    def shaped(array: Any) -> Any:
        slices = cut.groups * cut.slices
        fill = slices * cut.size - len(array) if cut.size else -len(array) % slices
        full = jnp.pad(array, [(0, fill), *[(0, 0)] * (array.ndim - 1)])
        return full.reshape(cut.groups, cut.slices, -1, *array.shape[1:])

    add_groups = sum_over_groups(add_slices, cut.devices, cut.alike)
    return lambda batch, *shared: add_groups(jax.tree.map(shaped, batch), *shared)


def sum_over_groups(function: Callable[..., Any], devices: int, alike: bool = True) -> Callable[..., Any]:
    """Adds up `function(group, *shared)` over the leading axis of its first argument, on several devices.

    Each device takes an equal part of the groups, one group after another, and each then has the sums. They
    are added in one order, whatever the number of devices.

    Args:
      function: from a group's arrays and some that all share, to a tree of floats of one type, and of
        integers whose sums this type holds exactly.
      devices: a divisor of the number of groups.
      alike: whether another number of devices is to give the same bits, for which a device goes on with a
        loop where it has a single group.

    Returns:
      A function of the same arguments, the first stacked over groups, that returns the sums.
    """

    def on_each(groups: Any, *shared: Any) -> Any:
        rows, unravel = _rows(lambda group: function(group, *shared), groups, devices > 1, alike)
        if devices > 1:
            rows = lax.all_gather(rows, mesh.AXIS, tiled=True)
        # By a product, as XLA would fuse other sums into what uses them, differently for each number of
        # devices, and round differently.
        return unravel(jnp.ones(len(rows), rows.dtype) @ rows)

    def mapped(groups: Any, *shared: Any) -> Any:
        if jax.tree.leaves(groups)[0].shape[0] == 1:
            return function(jax.tree.map(lambda x: x[0], groups), *shared)
        if devices == 1:
            return on_each(groups, *shared)
        specs: Any = (PartitionSpec(mesh.AXIS), *[PartitionSpec()] * len(shared))
        everywhere: Any = PartitionSpec()
        run = jax.shard_map(
            on_each, mesh=mesh.of(devices), in_specs=specs, out_specs=everywhere, check_vma=False
        )
        return run(groups, *shared)

    return mapped


def _rows(
    function: Callable[[Any], Any], groups: Any, shared_out: bool, alike: bool
) -> tuple[Any, Callable[..., Any]]:
    """`function` of each group, one after another, as rows of one array, and what makes a tree of a row.

    One array, as an exchange for each array of the tree made training longer by a quarter.
    """

    def at(index: Any) -> Any:
        return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, index, keepdims=False), groups)

    def add(index: Any, rows: Any) -> Any:
        return rows.at[index].set(ravel_pytree(function(at(index)))[0])

    count = length = jax.tree.leaves(groups)[0].shape[0]
    if count == 1 and not alike:
        row, unravel = ravel_pytree(function(at(0)))
        return row[None], unravel
    times: Any = count
    if shared_out:
        # How often it runs, and that it has one group only, XLA is not to know: it would dissolve the loop,
        # fuse its body with what is around it, and round differently.
        times = jnp.where(lax.axis_index(mesh.AXIS) < 2**30, count, 0)
    if count == 1:
        length, groups = 2, jax.tree.map(lambda x: _beside_zeros(x, times), groups)
    shapes = jax.eval_shape(lambda: function(at(0)))
    zeros, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes))
    return lax.fori_loop(0, times, add, jnp.zeros((length, *zeros.shape), zeros.dtype))[:count], unravel


def _beside_zeros(one: jax.Array, times: Any) -> jax.Array:
    """The one row of an array, and one of zeros, which is never computed with.

    Copied in a loop, before which XLA has to have the row: fused into the copy, what changes the images at
    random took ten times as long.
    """
    both = jnp.zeros((2, *one.shape[1:]), one.dtype)
    return lax.fori_loop(0, times, lambda index, both: both.at[index].set(one[0]), both)
