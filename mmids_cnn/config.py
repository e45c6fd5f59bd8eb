"""The configuration of one experiment: frozen dataclasses, and `resolve`, which makes and checks them.

`experiments/base.py` explains every leaf. Nothing here knows JAX, so that a bad value is answered at once.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mmids_cnn import metrics, networks
from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import dotted, schema
from mmids_cnn.settings.schema import leaf, named, one_of


def _folder(expects: str) -> Any:
    def holds(value: str) -> bool:
        home = os.path.expanduser(value)  # noqa: PTH111, which raises where nobody has that home
        return "\0" not in value and not home.startswith("~")

    # Data may move: what it is, its fingerprint tells.
    return leaf(expects, holds, changes_result=False)


_AUGMENTATIONS = schema.table_keys("augment", "AUGMENTATIONS")


def _strength(unit: str, most: int | float) -> Any:
    expects = f"a number with 0 <= x <= {most}, {unit}"
    return leaf(expects, lambda value: 0 <= value <= most, traced=True, before=0.0)


def _is_name(value: str) -> bool:
    """Whether a data set can have a name, and folders of the name stay inside the data folder."""
    parts = [part.strip() for part in value.split("/")]
    return "\0" not in value and len(value.encode()) <= 200 and not {"", ".", ".."} & set(parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """Which data set, where it lies, and how much of its training split is held out."""

    name: str = leaf("a name of at most 200 bytes, no part of it '.' or '..'", _is_name)
    data_dir: str = _folder("a folder, or '' for TFDS's default")
    archives: str = _folder("a folder of IDX archives, or ''")
    validation_examples: int = leaf("an integer >= 0", lambda value: value >= 0)
    placement: str = one_of("auto", "resident", "streamed")


_FIRST = "conv_net"  # the network of records from before there were others


class Model(Mapping[str, Any]):
    """Which network, and the fields it is made with: the leaves of its section, by name."""

    __slots__ = ("_leaves",)

    def __init__(self, **leaves: Any) -> None:
        self._leaves = leaves

    @property
    def name(self) -> str:
        """A key of `networks.NETWORKS`, or 'module:attribute'."""
        return self._leaves["name"]

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are set; others have the network's own defaults."""
        return {name: value for name, value in self._leaves.items() if name != "name"}

    def __getitem__(self, name: str) -> Any:
        return self._leaves[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._leaves.items())))

    def __repr__(self) -> str:
        return f"Model({', '.join(f'{name}={value!r}' for name, value in self._leaves.items())})"

    @classmethod
    def build(cls, tree: Any, path: str, *, recorded: bool = False) -> "Model":
        """Checks a section by the rules of its network; one of one's own has none but its types.

        Raises:
          ConfigError: as `schema.build`.
        """
        given = schema.section(tree, path[:-1])
        if recorded:
            given.setdefault("name", _FIRST)
        if "name" not in given:
            raise ConfigError(f"config.{path}name: missing; start the experiment from experiments/base.py")
        name = schema.check(f"{path}name", networks.NAME, given.pop("name"))
        if name in networks.NETWORKS:
            fields = schema.build(networks.NETWORKS[name].fields, given, path, recorded=recorded)
            return cls(name=name, **vars(fields))
        return cls(name=name, **{key: schema.check_plain(path + key, x) for key, x in given.items()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimizer, its hyperparameters and the schedule of its learning rate."""

    name: str = named("optimizer", "OPTIMIZERS")
    learning_rate: float = leaf("a finite number > 0", lambda value: value > 0, traced=True)
    b1: float = leaf("a number with 0 <= b1 < 1", lambda value: 0 <= value < 1, traced=True)
    b2: float = leaf("a number with 0 <= b2 < 1", lambda value: 0 <= value < 1, traced=True)
    eps: float = leaf("a finite number > 0", lambda value: value > 0, traced=True)
    weight_decay: float = leaf("a finite number >= 0", lambda value: value >= 0, traced=True)
    schedule: str = named("optimizer", "SCHEDULES")
    warmup_fraction: float = leaf("a number with 0 <= f < 1", lambda value: 0 <= value < 1, traced=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """How strongly training images are changed at random; 0 is not at all."""

    names: tuple[str, ...] = leaf(
        f"different names of {', '.join(map(repr, _AUGMENTATIONS))} or 'module:attribute' of your own",
        lambda value: (
            len(set(value)) == len(value)
            and all(name in _AUGMENTATIONS or dotted.is_dotted(name) for name in value)
        ),
        before=_AUGMENTATIONS,
    )
    flip: float = _strength("a probability", 1)
    shift: float = _strength("pixels", 128)
    rotation: float = _strength("degrees", 180)
    scale: float = _strength("a fraction", 0.5)
    shear: float = _strength("a fraction", 1)
    cutout: float = _strength("pixels", 4096)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """The loss, the arithmetic, and what to do when it breaks down."""

    loss: str = named("losses", "LOSSES", before="cross_entropy")
    label_smoothing: float = leaf("a number with 0 <= s < 1", lambda value: 0 <= value < 1, traced=True)
    clip_norm: float = leaf(  # in float32 it is not to become 0, which stands for no clipping
        "0, or a finite number >= 1e-37", lambda value: value == 0 or value >= 1e-37, traced=True, before=0.0
    )
    average_decay: float = leaf(
        "a number with 0 <= d < 1", lambda value: 0 <= value < 1, traced=True, before=0.0
    )
    patience: int = leaf("an integer >= 0", lambda value: value >= 0, before=0)
    groups: int = leaf("an integer from 0 to 2**10", lambda value: 0 <= value <= 2**10, before=0)
    precision: str = one_of("float32", "tensorfloat32", "bfloat16")
    on_nonfinite: str = one_of("stop", "skip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    """What to evaluate and when, and how many images at a time."""

    metrics: tuple[str, ...] = leaf(
        f"different names of {', '.join(map(repr, metrics.METRICS))} or 'module:attribute' of your own, "
        "'loss' and 'accuracy' among them, none called 'count'",
        lambda value: metrics.valid(value),
        before=("loss", "accuracy"),
    )

    every_epochs: int = leaf("an integer >= 0", lambda value: value >= 0, changes_result=False)
    every_seconds: float = leaf(
        "a finite number of seconds >= 0", lambda value: value >= 0, changes_result=False
    )
    batch_size: int = leaf("an integer from 1 to 2**20", lambda value: 1 <= value <= 2**20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """When to save, and how many checkpoints to keep."""

    every_epochs: int = leaf("an integer >= 0", lambda value: value >= 0, changes_result=False)
    every_seconds: float = leaf(
        "a finite number of seconds >= 0", lambda value: value >= 0, changes_result=False
    )
    keep: int = leaf("an integer >= 1", lambda value: value >= 1, changes_result=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment, complete and checked."""

    seed: int = leaf("an integer from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32, traced=True)
    num_epochs: int = leaf("an integer from 1 to 2**20", lambda value: 1 <= value <= 2**20)
    batch_size: int = leaf("an integer from 1 to 2**20", lambda value: 1 <= value <= 2**20)
    report: bool = leaf("true or false", lambda value: True, changes_result=False, before=False)
    dataset: Dataset
    model: Model
    optimizer: Optimizer
    augment: Augment
    train: Train
    eval: Eval
    checkpoint: Checkpoint
    tensorboard: bool = leaf("true or false", lambda value: True, changes_result=False, before=False)


LEAVES = schema.leaves(Experiment)
"""Every leaf with a rule, by dotted name; those of the network's fields depend on its name."""

TRACED = tuple(name for name, one in LEAVES.items() if one.rule.traced)
"""The leaves that members of one population may differ in, by dotted name."""


def resolve(config: Mapping[str, Any] | ConfigDict, *, recorded: bool = False) -> Experiment:
    """Makes the frozen `Experiment` out of a `ConfigDict` or a nested dict, checking every leaf.

    Args:
      config: the whole tree, as `get_config()` of an experiment file returns it, or as `config.json` has it,
        whose digest of itself, `self`, is no leaf.
      recorded: it is of an earlier version, perhaps, a record of a run or an experiment file: a leaf that is
        new and not there has the value that stands for what was done before.

    Returns:
      The experiment; equal trees give equal (and hashable) experiments.

    Raises:
      ConfigError: a leaf is unknown, missing, of the wrong type or out of range; the message names it.
    """
    tree = {name: value for name, value in config.items() if name != "self"}
    experiment: Experiment = schema.build(Experiment, tree, recorded=recorded)
    optimizer = experiment.optimizer
    if optimizer.weight_decay > 0 and optimizer.name in ("adam", "sgd"):
        raise ConfigError(
            f"config.optimizer.weight_decay: expected 0 with optimizer {optimizer.name!r}, got "
            f"{optimizer.weight_decay}; set --config.optimizer.name=adamw to use weight decay"
        )
    if experiment.train.patience:
        held_out, every = experiment.dataset.validation_examples, experiment.eval.every_epochs
        if not held_out:
            raise ConfigError(
                "config.train.patience: expected 0 without a validation split, by which training is stopped, "
                f"got {experiment.train.patience}; set --config.dataset.validation_examples=5000"
            )
        if every != 1:
            raise ConfigError(
                f"config.eval.every_epochs: expected 1 with train.patience, which counts epochs, got "
                f"{every}; set --config.eval.every_epochs=1"
            )
    return experiment


def check(name: str, value: Any, path: str, model: Model) -> Any:
    """A value as a leaf of an experiment, by dotted name, holds it; errors call the leaf `path`.

    Args:
      name: the leaf.
      value: what it is to be.
      path: what errors call it, without `config.`.
      model: the network, whose fields are leaves too.

    Raises:
      ConfigError: the leaf's rule refuses it.
    """
    known = LEAVES | {"model.name": networks.NAME}
    if model.name in networks.NETWORKS:
        known |= schema.leaves(networks.NETWORKS[model.name].fields, "model.")
    if name in known:
        return schema.check(path, known[name], value)
    value, old = schema.check_plain(path, value), model[name.removeprefix("model.")]
    if type(old) is float and type(value) is int:
        return float(value)
    if type(value) is not type(old):
        raise ConfigError(f"config.{path}: expected a value like {old!r}, got {value!r}; change it")
    return value


def weights(experiment: Experiment) -> str:
    """Which weights a network's figures are of: "averaged", where a moving average is kept, or "last"."""
    return "averaged" if experiment.train.average_decay else "last"


def sources(experiment: Experiment) -> dict[str, str]:
    """What of the experiment's is not this package's: dotted names, each with the leaf that holds it."""
    leaves = {
        "model.name": experiment.model.name,
        "optimizer.name": experiment.optimizer.name,
        "optimizer.schedule": experiment.optimizer.schedule,
        "train.loss": experiment.train.loss,
    }
    leaves |= {f"eval.metrics[{i}]": name for i, name in enumerate(experiment.eval.metrics)}
    leaves |= {f"augment.names[{i}]": name for i, name in enumerate(experiment.augment.names)}
    return {name: path for path, name in leaves.items() if dotted.is_dotted(name)}


def require_sources(sources: Mapping[str, str]) -> None:
    """Raises `ConfigError` unless all that is not this package's, as `sources` has it, can be found."""
    for name, path in sources.items():
        dotted.require_source(name, path)


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain nested dicts, fit for JSON; `resolve` is the inverse."""
    return schema.plain(experiment)


def differences(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Leaves that differ and change a run's result, by dotted name, as (old value, new value)."""
    before, after = schema.flatten(old), schema.flatten(new)
    pairs = {name: (before.get(name), after.get(name)) for name in before | after}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and changes_result(name)}


def as_before(name: str, value: Any) -> bool:
    """Whether a leaf is new, and has the value that stands for what was done before there was such a leaf."""
    before = _FIRST if name == "model.name" else LEAVES[name].rule.before if name in LEAVES else ...
    return before is not ... and value == before


def changes_result(name: str) -> bool:
    """Whether a run's result depends on a leaf, by dotted name; on all fields of a network it does."""
    return name not in LEAVES or LEAVES[name].rule.changes_result
