"""Training as pure functions of its state: `init_state` and `train_step`."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int32, UInt8

from mmids_cnn import config as config_lib
from mmids_cnn import data, keys, losses, metrics, model, optimizer
from mmids_cnn.devices import mesh

# What a CPU's core takes at a time, at most. 32 examples measured best of 16, 32 and 64: their activations
# stay in its cache.
_SLICE = 32
_SLICE_PIXELS = 2**16
_MOST_GROUPS = 8  # and so the most cores that share a batch; a power of two


class Batch(NamedTuple):
    """Examples of one step; where `valid` is false the example is padding and counts for nothing."""

    images: UInt8[Array, "n h w c"]
    labels: Int32[Array, " n"]
    valid: Bool[Array, " n"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is compiled into a step: everything that is not a traced number."""

    network: model.ConvNet
    optimizer: str
    schedule: str
    groups: int  # parts of a batch that may be computed side by side
    slices: int  # parts of a group, computed one after another
    devices: int  # that share the groups
    total_steps: int  # what a schedule spans; 0 where it is constant, so that longer runs share a program
    skip_nonfinite: bool


class TrainState(flax.struct.PyTreeNode):
    """Everything that training carries from step to step.

    In a population every array has a leading axis for its members.
    """

    step: Int32[Array, ""]  # steps taken
    params: model.Params
    opt_state: optax.OptState
    sums: metrics.Sums  # of the training examples of the current epoch, as they were seen
    nonfinite: Int32[Array, ""]  # steps whose loss or new state was not finite
    h: optimizer.Hyperparams
    recipe: Recipe = flax.struct.field(pytree_node=False)

    @property
    def members(self) -> int | None:
        """How many members the population has; None for a single state."""
        return self.step.shape[0] if self.step.ndim else None


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Steps that see every example once: the last one may be smaller."""
    return -(-num_examples // batch_size)


def init_state(experiment: config_lib.Experiment, dataset: data.Dataset) -> TrainState:
    """The state before the first step.

    Raises:
      ConfigError: the network does not fit the images.
    """
    h = optimizer.hyperparams(experiment)
    return _init(recipe(experiment, dataset), h, dataset.image_shape)


def init_population(experiments: Sequence[config_lib.Experiment], dataset: data.Dataset) -> TrainState:
    """The states of several experiments before the first step, stacked: a population, trained as one.

    Raises:
      ConfigError: the network does not fit the images.
      ValueError: the experiments differ in more than traced numbers.
    """
    recipes = {recipe(experiment, dataset) for experiment in experiments}
    if len(recipes) != 1:
        raise ValueError(f"experiments: expected one recipe for all, got {len(recipes)}")
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(optimizer.hyperparams, experiments))
    return _init_population(recipes.pop(), stacked, dataset.image_shape)


def recipe(experiment: config_lib.Experiment, dataset: data.Dataset) -> Recipe:
    """What is compiled into the steps of an experiment; equal recipes can be trained as one population.

    Raises:
      ConfigError: the network does not fit the images.
    """
    network = model.make(experiment, dataset.image_shape, dataset.num_classes)
    settings = experiment.optimizer
    epoch = steps_per_epoch(len(dataset.splits["train"].labels), experiment.batch_size)
    pixels = math.prod(dataset.image_shape[:2])
    groups, slices = _cut(experiment.batch_size, pixels) if jax.default_backend() == "cpu" else (1, 1)
    timeless = settings.schedule == "constant" and settings.warmup_fraction == 0
    return Recipe(
        network=network,
        optimizer=settings.name,
        schedule=settings.schedule,
        groups=groups,
        slices=slices,
        devices=mesh.usable_devices(groups),
        total_steps=0 if timeless else epoch * experiment.num_epochs,
        skip_nonfinite=experiment.train.on_nonfinite == "skip",
    )


def _cut(batch_size: int, pixels: int) -> tuple[int, int]:
    """Into how many groups of how many slices a batch is cut, of images of so many pixels.

    Nothing but these sizes decides it, and no slice is so large that XLA would cut its sums once more, by the
    number of threads: sums are rounded alike on any number of cores.
    """
    size = max(1, min(_SLICE, _SLICE_PIXELS // pixels))
    halves = -(-2 * batch_size // size)
    count = max(-(-batch_size // size), min(2, halves))  # two halves rather than one whole
    if count <= _MOST_GROUPS:
        count = 1 << (count - 1).bit_length()
    groups = min(count, _MOST_GROUPS)
    return groups, -(-count // groups)


def init_from(recipe: Recipe, h: optimizer.Hyperparams, image_shape: tuple[int, ...]) -> TrainState:
    """The state before the first step, of a recipe and its numbers; may be mapped over `h` by `vmap`."""
    params = model.init(recipe.network, keys.stream(h.seed, "params"), image_shape)
    opt_state = optimizer.make(recipe.optimizer, h, h.learning_rate).init(params)
    zero = jnp.int32(0)
    return TrainState(zero, params, opt_state, metrics.Sums.zero(), zero, h, recipe)


_init = jax.jit(init_from, static_argnames=("recipe", "image_shape"))


@functools.partial(jax.jit, static_argnames=("recipe", "image_shape"))
def _init_population(recipe: Recipe, h: optimizer.Hyperparams, image_shape: tuple[int, ...]) -> TrainState:
    return jax.vmap(lambda h: init_from(recipe, h, image_shape))(h)


def begin_epoch(state: TrainState) -> TrainState:
    """The state with the sums of the epoch before set back to zero."""
    return state.replace(sums=jax.tree.map(jnp.zeros_like, state.sums))


def _loss_and_gradient(
    state: TrainState, batch: Batch
) -> tuple[tuple[Float[Array, ""], metrics.Sums], model.Params]:
    """Mean loss over the valid examples, their sums, and the gradient of the loss.

    The batch goes through in groups of slices whose sums and gradients add up, in one order: see `Recipe`.
    """
    recipe = state.recipe

    def loss_fn(
        params: model.Params, part: Batch, count: Int32[Array, ""], smoothing: Float[Array, ""]
    ) -> tuple[Float[Array, ""], metrics.Sums]:
        logits = model.apply(recipe.network, params, part.images)
        each = losses.cross_entropy(logits, part.labels, smoothing)
        loss = jnp.where(part.valid, each, 0).sum() / count
        return loss, metrics.sums(logits, part.labels, part.valid)

    differentiate = jax.value_and_grad(loss_fn, has_aux=True)

    def add_slices(slices: Batch, params: model.Params, *shared: Array) -> Any:
        def add(total: Any, part: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, differentiate(params, part, *shared)), None

        zero = ((jnp.float32(0), metrics.Sums.zero()), jax.tree.map(jnp.zeros_like, params))
        return lax.scan(add, zero, slices)[0]

    def cut(array: Array) -> Array:  # zeros, and so invalid examples, fill up the slices
        missing = -len(array) % (recipe.groups * recipe.slices)
        full = jnp.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)])
        return full.reshape(recipe.groups, recipe.slices, -1, *array.shape[1:])

    groups = jax.tree.map(cut, batch)
    add_groups = mesh.sum_over_groups(add_slices, recipe.devices)
    return add_groups(groups, state.params, batch.valid.sum(), state.h.label_smoothing)


def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, metrics.Sums]:
    """One step of the optimizer on the mean loss of a batch's valid examples.

    A step whose loss, new parameters or new moments are not finite changes none of them. It is counted, and
    skipped where the recipe says so; otherwise the state stays as it is from then on, `step` naming the step
    that failed.

    Args:
      state: before the step.
      batch: the examples.

    Returns:
      The state after the step, and the batch's sums, taken with the parameters before it.
    """
    h, recipe = state.h, state.recipe
    (loss, sums), gradient = _loss_and_gradient(state, batch)
    rate = optimizer.learning_rate(recipe.schedule, recipe.total_steps, h, state.step)
    updates, opt_state = optimizer.make(recipe.optimizer, h, rate).update(
        gradient, state.opt_state, state.params
    )
    proposed = state.replace(
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        sums=state.sums + sums,
    )
    # Parameters and moments show what is wrong with a gradient, and what a finite one makes overflow: the
    # square of 2e19 is infinite in float32.
    kept = jax.tree.leaves((loss, proposed.params, proposed.opt_state))
    finite = jnp.stack([jnp.isfinite(x).all() for x in kept]).all()
    accept = finite if recipe.skip_nonfinite else finite & (state.nonfinite == 0)
    state = jax.tree.map(lambda new, old: jnp.where(accept, new, old), proposed, state)
    advance = accept | recipe.skip_nonfinite
    return state.replace(
        step=state.step + advance.astype(jnp.int32),
        nonfinite=state.nonfinite + (~finite).astype(jnp.int32),
    ), sums
