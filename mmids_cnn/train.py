"""Training as pure functions of its state: `init_state`, `loss_fn` and `train_step`."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import serialization, traverse_util
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int32, UInt8

from mmids_cnn import augment, data, keys, losses, model, optimizer, sums
from mmids_cnn import config as config_lib
from mmids_cnn.devices import compilation, cores, device, mesh, microbatches
from mmids_cnn.devices import members as members_lib
from mmids_cnn.errors import ConfigError


class Batch(NamedTuple):
    """Examples of one step; where `valid` is false the example is padding and counts for nothing."""

    images: UInt8[Array, "n height width channels"]
    labels: Int32[Array, " n"]
    valid: Bool[Array, " n"]


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled into a step: everything of an experiment that is not a traced number."""

    network: model.Network
    optimizer: str
    schedule: str
    loss: str
    metrics: tuple[str, ...]
    cut: microbatches.Cut
    total_steps: int  # what a schedule spans; 0 where it is constant, so that longer runs share a program
    skip_nonfinite: bool
    augmentations: tuple[str, ...]  # how images are changed at random
    clips: bool  # whether long gradients are cut
    stops: bool  # whether a state may have stopped before the end
    averages: bool  # whether a moving average of the variables is kept, and scored

    @property
    def parts(self) -> tuple[Any, ...]:
        """All that it is made of, for `programs.compile_once`."""
        return *self.network, *(getattr(self, field.name) for field in dataclasses.fields(self)[1:])


class TrainState(flax.struct.PyTreeNode):
    """Everything that training carries from step to step.

    In a population every array has a leading axis for its members.
    """

    step: Int32[Array, ""]  # steps taken
    params: model.Params
    collections: model.Variables  # the network's other variables, 'batch_stats' for one; most have none
    opt_state: optax.OptState
    average: model.Variables  # the moving average of `variables`, if the program has one
    sums: sums.Sums  # of the training examples of the current epoch, as they were seen
    stopped: Int32[Array, ""]  # 1 where no more steps are to be taken
    nonfinite: Int32[Array, ""]  # steps whose loss or new state was not finite
    h: optimizer.Hyperparams
    program: Program = flax.struct.field(pytree_node=False)

    @property
    def variables(self) -> model.Variables:
        """What the network is applied with."""
        return {"params": self.params, **self.collections}

    @property
    def scored(self) -> model.Variables:
        """The variables that count: their moving average, where there is one."""
        return self.average or self.variables

    @property
    def population(self) -> int | None:
        """How many members the population has; None for a single state."""
        return self.step.shape[0] if self.step.ndim else None

    @property
    def devices(self) -> int:
        """How many devices train it, sharing out a population's members, or the examples of a batch."""
        return max(self.program.cut.devices, members_lib.sharing(self.population or 1))


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Steps that see every example once: the last one may be smaller."""
    return -(-num_examples // batch_size)


def batch_size(experiment: config_lib.Experiment, split: data.Split) -> int:
    """Examples of a step: `config.batch_size`, but no more than there are, as padding would cost as much."""
    return min(experiment.batch_size, len(split.labels))


def make_network(experiment: config_lib.Experiment, dataset: data.Dataset) -> model.Network:
    """The network of an experiment; to be made before JAX looks for devices, see `cores.fix_threads`.

    Raises:
      ConfigError: it does not fit the images, or is one of one's own that cannot be used.
    """
    network = model.make(experiment, dataset.image_shape, dataset.num_classes)
    sliced = microbatches.fits(math.prod(dataset.image_shape[:2]), _together(network))
    if model.has_state(network, dataset.image_shape) and not sliced:
        cores.fix_threads()
    return network


def program(experiment: config_lib.Experiment, dataset: data.Dataset) -> Program:
    """What is compiled into the steps of an experiment; equal programs can be trained as one population.

    Raises:
      ConfigError: the network does not fit the images, or something of one's own cannot be used.
    """
    network = make_network(experiment, dataset)
    settings = experiment.optimizer
    split = dataset.splits["train"]
    size = batch_size(experiment, split)
    timeless = settings.schedule == "constant" and settings.warmup_fraction == 0
    # Statistics of a batch are those of all of it, so that its examples have to stay together, unless the
    # network says that it takes so many at a time.
    together = _together(network)
    whole = model.has_state(network, dataset.image_shape) and together is None
    cut = microbatches.cut(size, math.prod(dataset.image_shape[:2]), together, experiment.train.groups)
    if whole and jax.process_count() > 1:
        raise ConfigError(
            f"--processes: expected 1 for {experiment.model.name!r}, which looks at all examples of a batch "
            f"at once, got {jax.process_count()}; leave --coordinator, --processes and --process out"
        )
    made = Program(
        network=network,
        optimizer=settings.name,
        schedule=settings.schedule,
        loss=experiment.train.loss,
        metrics=experiment.eval.metrics,
        cut=microbatches.WHOLE if whole else cut,
        total_steps=0 if timeless else steps_per_epoch(len(split.labels), size) * experiment.num_epochs,
        skip_nonfinite=experiment.train.on_nonfinite == "skip",
        augmentations=augment.active(experiment.augment),
        clips=experiment.train.clip_norm > 0,
        stops=experiment.train.patience > 0,
        averages=experiment.train.average_decay > 0,
    )
    if config_lib.sources(experiment):
        _require_usable(made, dataset.image_shape)
    return made


def _together(network: model.Network) -> int | None:
    """How many examples a network takes at a time, if it says so."""
    return getattr(network.module, "slice_size", None)


@functools.lru_cache(maxsize=64)
def _require_usable(program: Program, image_shape: tuple[int, ...]) -> None:
    """Raises `ConfigError` unless metrics, augmentations, loss, schedule and optimizer can be used."""

    def run(h: optimizer.Hyperparams) -> None:
        state = init_from(h, program, image_shape)
        images, position = jnp.zeros((2, *image_shape), jnp.uint8), jnp.zeros(2, jnp.int32)
        augment.augment(program.augmentations, keys.stream(h.seed, "augment"), position, images, h)
        losses.each(program.loss, jnp.zeros((2, program.network.classes)), jnp.zeros(2, jnp.int32), h)
        rate = optimizer.learning_rate(program.schedule, program.total_steps, h, state.step)
        optimizer.update(program.optimizer, h, rate, state.params, state.opt_state, state.params)

    jax.eval_shape(run, optimizer.abstract())


RESIDENT_BYTES = 2**30  # of training images: what is larger stays on the host, unless it is asked for


# Numbers that an accelerator keeps for each one that a layer puts out, at least: Winograd's products, 16 for
# the four pixels of which pooling leaves one. Populations of 16 and 64 of `base.py` took 10 in all, one model
# 15 (an H200, tests/benchmarks/records/gpu.json).
_WORKING = 10


def require_memory(experiment: config_lib.Experiment, dataset: data.Dataset, members: int = 1) -> int:
    """Bytes of a device that training takes at least.

    That is data, states, a gradient for each group of examples, and what layers put out for those that are
    computed side by side: of a CPU by its cores; else by each device, for each member, by scoring too.

    Args:
      experiment: what is to be trained.
      dataset: the data.
      members: models of a population.

    Raises:
      ConfigError: there are fewer.
    """
    made, there = program(experiment, dataset), device.memory()
    placement, images = experiment.dataset.placement, dataset.splits["train"].images.nbytes
    resident = placement == "resident" or (placement == "auto" and images <= RESIDENT_BYTES)
    state = _init(None).eval_shape(optimizer.hyperparams(experiment), made, dataset.image_shape)
    rows = model.table(made.network, dataset.image_shape)
    cut, size = made.cut, batch_size(experiment, dataset.splits["train"])
    at_once, side_by_side, on_cpu = -(-size // (cut.groups * cut.slices)), 1, jax.default_backend() == "cpu"
    if on_cpu:
        at_once *= max(1, cut.devices // jax.process_count())
    else:
        side_by_side = -(-members // members_lib.sharing(members))
        at_once = _WORKING * max(at_once, experiment.eval.batch_size)
    gradients = side_by_side * cut.groups * sum(row.parameters for row in rows)
    activations = side_by_side * at_once * sum(math.prod(row.output_shape) for row in rows)
    states = members * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    needed = images * resident + states + 4 * (gradients + activations)
    if there is not None and needed > there:
        leaves = [*(f"model.{name}" for name in experiment.model.fields), "batch_size"]
        leaves += ["sweep.population"] if members > 1 else []
        leaves += [] if on_cpu else ["eval.batch_size"]
        if 2 * images * resident > needed:
            raise ConfigError(
                f"config.dataset.placement: expected data that fit into {there / 1e9:,.1f} GB of memory, got "
                f"{images / 1e9:,.1f} GB of images; set it to 'streamed'"
            )
        raise ConfigError(
            f"config.model: expected a network that is trained in {there / 1e9:,.1f} GB of memory, got one "
            f"of {gradients // cut.groups:,} parameters, which takes {needed / 1e9:,.1f} GB at least"
            f"{f', {members:,} of them at once' if members > 1 else ''}; "
            f"lower {', '.join(f'--config.{name}' for name in leaves)}"
        )
    return needed


def notes(experiment: config_lib.Experiment, dataset: data.Dataset) -> list[str]:
    """What settings do not do here that their values say, a sentence each."""
    said, count = [], len(dataset.splits["train"].labels)
    if experiment.batch_size > count:
        said.append(
            f"config.batch_size is {experiment.batch_size:,}; each step takes all {count:,} training examples"
        )
    precision = experiment.train.precision
    if precision != "float32" and jax.default_backend() == "cpu":
        said.append(f"config.train.precision is {precision}; a CPU computes in float32 all the same")
    said += [
        f"config.augment.{one} is {getattr(experiment.augment, one):g}; nothing in augment.names uses it"
        for one in augment.unused(experiment.augment)
    ]
    return said


def init_state(experiment: config_lib.Experiment, dataset: data.Dataset) -> TrainState:
    """The state before the first step.

    Raises:
      ConfigError: see `program`.
    """
    made = program(experiment, dataset)
    return _init(None)(optimizer.hyperparams(experiment), made, dataset.image_shape)


def init_population(experiments: Sequence[config_lib.Experiment], dataset: data.Dataset) -> TrainState:
    """The states of several experiments before the first step, stacked: a population, trained as one.

    Raises:
      ConfigError: see `program`.
      ValueError: the experiments differ in more than traced numbers.
    """
    programs = {program(experiment, dataset) for experiment in experiments}
    if len(programs) != 1:
        raise ValueError(f"experiments: expected one program for all, got {len(programs)}")
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(optimizer.hyperparams, experiments))
    made = programs.pop()
    if members_lib.sharing(len(experiments)) > 1:  # each member then stays on its device
        made = dataclasses.replace(made, cut=made.cut._replace(devices=1))
    return _init(len(experiments))(stacked, made, dataset.image_shape)


def init_from(h: optimizer.Hyperparams, program: Program, image_shape: tuple[int, ...]) -> TrainState:
    """The state before the first step, of a program and its numbers; may be mapped over `h` by `vmap`."""
    variables = dict(model.init(program.network, keys.stream(h.seed, "params"), image_shape))
    params = variables.pop("params")
    return TrainState(
        step=jnp.int32(0),
        params=params,
        collections=variables,
        opt_state=optimizer.init(program.optimizer, h, params),
        average={"params": params, **variables} if program.averages else {},
        sums=sums.zero(program.metrics, program.network.classes),
        stopped=jnp.int32(0),
        nonfinite=jnp.int32(0),
        h=h,
        program=program,
    )


@functools.cache
def _init(population: int | None) -> Any:
    """`init_from` as a program, of one state or of so many."""

    def init(h: optimizer.Hyperparams, program: Program, image_shape: tuple[int, ...]) -> TrainState:
        one = functools.partial(init_from, program=program, image_shape=image_shape)
        return one(h) if population is None else jax.vmap(one)(h)

    return compilation.run_once(init, static_argnames=("program", "image_shape"))


def begin_epoch(state: TrainState) -> TrainState:
    """The state with the sums of the epoch before set back to zero."""
    return state.replace(sums=jax.tree.map(jnp.zeros_like, state.sums))


def loss_fn(
    params: model.Params,
    collections: model.Variables,
    batch: Batch,
    position: Int32[Array, " n"],
    count: Int32[Array, ""],
    h: optimizer.Hyperparams,
    step: Int32[Array, ""],
    program: Program,
) -> tuple[Float[Array, ""], tuple[sums.Sums, model.Variables]]:
    """The part of a batch's mean loss that some of its examples contribute.

    Args:
      params: what it is differentiated by.
      collections: the network's other variables.
      batch: the examples, all of the batch or a slice of it.
      position: of the examples in the batch.
      count: valid examples of the whole batch.
      h: the traced hyperparameters.
      step: steps taken before.
      program: everything else.

    Returns:
      The loss of the valid examples over `count`; their sums, and the other variables after the step.
    """
    key = jax.random.fold_in(keys.stream(h.seed, "dropout"), step)
    key = jax.random.fold_in(key, position[0])  # each slice draws its own
    variables = {"params": params, **collections}
    logits, collections = model.apply_train(program.network, variables, batch.images, batch.valid, key)
    each = losses.each(program.loss, logits, batch.labels, h)
    loss = jnp.where(batch.valid, each, 0).sum() / count
    if not program.cut.in_one_piece:  # the slices' variables add up to their mean
        share = batch.valid.sum() / count
        collections = jax.tree.map(lambda x: share * x, collections)
    return loss, (sums.add_up(program.metrics, logits, batch.labels, batch.valid), collections)


def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, sums.Sums]:
    """One step of the optimizer on the mean loss of a batch's valid examples.

    A step whose loss, or whose new parameters, moments or other variables are not finite changes none of
    them. It is counted, and skipped where the program says so; otherwise the state stays as it is from then
    on, `step` naming the step that failed.

    Args:
      state: before the step.
      batch: the examples.

    Returns:
      The state after the step, and the batch's sums, taken with the parameters before it.
    """
    h, program = state.h, state.program

    def differentiate(part: tuple[Batch, Array], params: model.Params, *shared: Any) -> Any:
        arguments = (params, state.collections, *part, *shared, program)
        return jax.value_and_grad(loss_fn, has_aux=True)(*arguments)

    position = jnp.arange(len(batch.labels), dtype=jnp.int32)
    if program.augmentations:  # all at once, image by image; in a slice XLA would do it pixel by pixel
        key = jax.random.fold_in(keys.stream(h.seed, "augment"), state.step)
        images = augment.augment(program.augmentations, key, position, batch.images, h)
        if program.cut.devices > 1 and len(images) % program.cut.devices == 0:
            images = lax.with_sharding_constraint(images, mesh.shared_out(program.cut.devices, 0))
        batch = batch._replace(images=images)
    valid = batch.valid
    if program.cut.devices > 1:  # every device counts by itself: between hosts an exchange takes milliseconds
        valid = lax.with_sharding_constraint(valid, mesh.replicated(program.cut.devices))
    add_up = microbatches.add_up(differentiate, program.cut)
    shared = (state.params, valid.sum(), h, state.step)
    (loss, (batch_sums, collections)), gradient = add_up((batch, position), *shared)
    if program.clips:
        gradient = optimizer.clip(gradient, h.clip_norm)
    rate = optimizer.learning_rate(program.schedule, program.total_steps, h, state.step)
    params, opt_state = optimizer.update(program.optimizer, h, rate, gradient, state.opt_state, state.params)
    variables = {"params": params, **collections}
    proposed = state.replace(
        params=params,
        collections=collections,
        opt_state=opt_state,
        average=_averaged(state, variables) if program.averages else state.average,
        sums=state.sums + batch_sums,
    )
    # Parameters and moments show what is wrong with a gradient, and what a finite one makes overflow: the
    # square of 2e19 is infinite in float32.
    kept = jax.tree.leaves((loss, proposed.params, proposed.opt_state, proposed.collections))
    finite = lax.platform_dependent(kept, cpu=_finite_each, default=_finite_together)
    accept = finite if program.skip_nonfinite else finite & (state.nonfinite == 0)
    state = jax.tree.map(lambda new, old: jnp.where(accept, new, old), proposed, state)
    advance = accept | program.skip_nonfinite
    return state.replace(
        step=state.step + advance.astype(jnp.int32),
        nonfinite=state.nonfinite + (~finite).astype(jnp.int32),
    ), batch_sums


def _finite_each(arrays: Sequence[Array]) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(x).all() for x in arrays]).all()


def _finite_together(arrays: Sequence[Array]) -> Bool[Array, ""]:
    """The same of all as one array: each by itself is two kernels on a GPU, a third of all of a step's."""
    return jnp.isfinite(ravel_pytree(arrays)[0]).all()


def _averaged(state: TrainState, variables: model.Variables) -> model.Variables:
    """The moving average after a step that led to some variables.

    Its decay rises to the one that is set, so that the first steps are forgotten: min(d, (1 + t) / (10 + t)),
    as in TensorFlow's ExponentialMovingAverage with `num_updates`.
    """
    decay = jnp.minimum(state.h.average_decay, (1 + state.step) / (10 + state.step))
    mix = lambda old, new: new + decay * (old - new) if jnp.issubdtype(new.dtype, jnp.floating) else new  # noqa: E731
    return jax.tree.map(mix, state.average, variables)


def trained(state: TrainState) -> dict[str, Any]:
    """What training has made of the network, which a fingerprint is taken of: all variables, as nested dicts.

    Parameters are under their own paths (`Dense_0/bias`), other variables under their collection's
    (`batch_stats/BatchNorm_0/mean`), or one that says so, where a layer has the name of a collection; so is
    the moving average, `average/params/Dense_0/bias`.
    """
    return trained_of(to_saved(state))


def trained_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a state that `to_saved` made nested dicts of; an earlier version saved parameters alone."""
    params, others = saved["params"], {**(saved.get("collections") or {})}
    if saved.get("average"):
        others["average"] = saved["average"]
    return {**params, **{f"{x} (collection)" if x in params else x: others[x] for x in others}}


_BEFORE = {"sums/loss": "sums/totals/loss", "sums/correct": "sums/totals/accuracy"}
"""Paths of leaves in states that earlier versions saved, and what they are called now."""


def to_saved(state: TrainState) -> dict[str, Any]:
    """The arrays of a state as nested dicts, on the device still."""
    return serialization.to_state_dict(state)


def from_saved(state: TrainState, saved: dict[str, Any]) -> TrainState:
    """The state that `to_saved` made nested dicts or a flat dict (`params/Dense_0/bias`) of.

    Args:
      state: a fresh one of the same program, whose arrays serve where an earlier version saved none.
      saved: the arrays.
    """
    flat = {_BEFORE.get(path, path): x for path, x in traverse_util.flatten_dict(saved, sep="/").items()}
    own = traverse_util.flatten_dict(to_saved(state), keep_empty_nodes=True, sep="/")
    return serialization.from_state_dict(
        state, traverse_util.unflatten_dict({path: flat.get(path, x) for path, x in own.items()}, sep="/")
    )
