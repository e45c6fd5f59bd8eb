"""The configuration of one experiment: frozen dataclasses, and `resolve`, which makes and checks them.

`experiments/base.py` explains every leaf. Nothing here knows JAX, so that a bad value is answered at once.
"""

import dataclasses
import difflib
import math
import struct
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from mmids_cnn.errors import ConfigError


def leaf(expects: str, holds: Callable[[Any], bool], *, changes_result: bool = True) -> Any:
    """A field with its rule; `changes_result=False` marks what a resumed run may set differently."""
    return dataclasses.field(metadata={"expects": expects, "holds": holds, "changes_result": changes_result})


def one_of(*names: str, changes_result: bool = True) -> Any:
    """A field that holds one of some names."""
    expects = "one of " + ", ".join(map(repr, names))
    return leaf(expects, lambda value: value in names, changes_result=changes_result)


def _folder(expects: str) -> Any:
    # Data may move: what it is, its fingerprint tells.
    return leaf(expects, lambda value: "\0" not in value, changes_result=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """Which data set, where it lies, and how much of its training split is held out."""

    name: str = leaf("a name", lambda value: bool(value.strip()) and "\0" not in value)
    data_dir: str = _folder("a folder, or '' for TFDS's default")
    archives: str = _folder("a folder of IDX archives, or ''")
    validation_examples: int = leaf("an integer >= 0", lambda value: value >= 0)
    placement: str = one_of("auto", "resident", "streamed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The shape of the network."""

    channels: tuple[int, ...] = leaf(
        "a non-empty tuple of integers >= 1, such as (16, 32, 32)",
        lambda value: len(value) > 0 and all(c >= 1 for c in value),
    )
    kernel_size: int = leaf("an odd integer >= 1", lambda value: value >= 1 and value % 2 == 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimizer, its hyperparameters and the schedule of its learning rate."""

    name: str = one_of("adam", "adamw", "sgd")
    learning_rate: float = leaf("a finite number > 0", lambda value: value > 0)
    b1: float = leaf("a number with 0 <= b1 < 1", lambda value: 0 <= value < 1)
    b2: float = leaf("a number with 0 <= b2 < 1", lambda value: 0 <= value < 1)
    eps: float = leaf("a finite number > 0", lambda value: value > 0)
    weight_decay: float = leaf("a finite number >= 0", lambda value: value >= 0)
    schedule: str = one_of("constant", "cosine", "one_cycle")
    warmup_fraction: float = leaf("a number with 0 <= f < 1", lambda value: 0 <= value < 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """The loss, the arithmetic, and what to do when it breaks down."""

    label_smoothing: float = leaf("a number with 0 <= s < 1", lambda value: 0 <= value < 1)
    precision: str = one_of("float32", "tensorfloat32", "bfloat16")
    on_nonfinite: str = one_of("stop", "skip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    """When to evaluate, and how many images at a time."""

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

    seed: int = leaf("an integer from 0 to 2**32 - 1", lambda value: 0 <= value < 2**32)
    num_epochs: int = leaf("an integer >= 1", lambda value: value >= 1)
    batch_size: int = leaf("an integer from 1 to 2**20", lambda value: 1 <= value <= 2**20)
    dataset: Dataset
    model: Model
    optimizer: Optimizer
    train: Train
    eval: Eval
    checkpoint: Checkpoint


def resolve(config: Mapping[str, Any] | ConfigDict) -> Experiment:
    """Makes the frozen `Experiment` out of a `ConfigDict` or a nested dict, checking every leaf.

    Args:
      config: the whole tree, as `get_config()` of an experiment file returns it.

    Returns:
      The experiment; equal trees give equal (and hashable) experiments.

    Raises:
      ConfigError: a leaf is unknown, missing, of the wrong type or out of range; the message names it.
    """
    experiment = build(Experiment, config, "")
    optimizer = experiment.optimizer
    if optimizer.weight_decay > 0 and optimizer.name != "adamw":
        raise ConfigError(
            f"config.optimizer.weight_decay: expected 0 with optimizer {optimizer.name!r}, got "
            f"{optimizer.weight_decay}; set --config.optimizer.name=adamw to use weight decay"
        )
    return experiment


def check(name: str, value: Any, path: str) -> Any:
    """A value as a leaf of the experiment, by dotted name, holds it; errors call the leaf `path`.

    Raises:
      ConfigError: the leaf's rule refuses it.
    """
    cls: Any = Experiment
    *sections, last = name.split(".")
    for section in sections:
        cls = typing.get_type_hints(cls)[section]
    rule = next(field.metadata for field in dataclasses.fields(cls) if field.name == last)
    return _check(path, typing.get_type_hints(cls)[last], rule, value)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of a config tree (dataclass or mapping) by dotted name, in the tree's order."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        items: Iterable[tuple[str, Any]] = vars(tree).items()
    else:
        items = tree.items()
    leaves: dict[str, Any] = {}
    for name, value in items:
        if dataclasses.is_dataclass(value) or isinstance(value, Mapping) or hasattr(value, "items"):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain nested dicts, fit for JSON; `resolve` is the inverse."""
    return dataclasses.asdict(experiment)


def differences(old: Experiment, new: Experiment) -> dict[str, tuple[Any, Any]]:
    """Leaves that differ and change a run's result, by dotted name, as (old value, new value)."""
    before, after = flatten(old), flatten(new)
    fixed = changing_leaves(Experiment)
    return {k: (before[k], after[k]) for k in before if k in fixed and before[k] != after[k]}


def nearest(name: str, valid: Iterable[str]) -> str:
    """The hint of an error about an unknown name: the nearest valid one, if any, and the list."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close and "." not in name:  # a leaf named without its section
        close = [full for full in names if full.split(".")[-1] == name]
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}valid names: {', '.join(names)}"


def changing_leaves(cls: type, prefix: str = "") -> set[str]:
    """Dotted names of a section's leaves that change a run's result."""
    names: set[str] = set()
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            names |= changing_leaves(hints[field.name], f"{prefix}{field.name}.")
        elif field.metadata["changes_result"]:
            names.add(prefix + field.name)
    return names


def build(cls: type, tree: Any, path: str) -> Any:
    """A section's dataclass out of a mapping, each leaf checked by its rule; `path` is its dotted prefix.

    Raises:
      ConfigError: as `resolve`.
    """
    if not hasattr(tree, "items"):
        raise ConfigError(f"config.{path[:-1]}: expected a section, got {tree!r}")
    given = dict(tree.items())
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in map(str, given):
        if name not in fields:
            raise ConfigError(
                f"config.{path}{name}: unknown; {nearest(path + name, (path + f for f in fields))}"
            )
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name not in given:
            raise ConfigError(f"config.{path}{name}: missing; start the experiment from experiments/base.py")
        if dataclasses.is_dataclass(hints[name]):
            values[name] = build(typing.cast(type, hints[name]), given[name], f"{path}{name}.")
        else:
            values[name] = _check(path + name, hints[name], field.metadata, given[name])
    return cls(**values)


def _to_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _to_float32(value: float) -> float:
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.inf


def _check(path: str, hint: Any, rule: Mapping[str, Any], value: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        value = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        typed = isinstance(value, tuple) and all(type(element) is int for element in value)
    elif hint is float:
        value = _to_float(value) if type(value) is int else value
        # Numbers are float32 where they are used: a rule holds there too, or it does not hold.
        single = _to_float32(value) if type(value) is float else math.nan
        typed = math.isfinite(single) and rule["holds"](single)
    else:
        typed = type(value) is hint
    if not typed or not rule["holds"](value):
        raise ConfigError(
            f"config.{path}: expected {rule['expects']}, got {value!r}; "
            f"set --config.{path}=... or change the config file"
        )
    return value
