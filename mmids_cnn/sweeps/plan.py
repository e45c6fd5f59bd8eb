"""The configuration of a sweep: an experiment, a space around it, and how to search it.

`experiments/sweep.py` explains every leaf. Nothing here knows JAX, so that a bad value is answered at once.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from mmids_cnn import config as config_lib
from mmids_cnn import metrics
from mmids_cnn.config import Experiment
from mmids_cnn.settings import dotted, schema
from mmids_cnn.settings.schema import leaf, one_of
from mmids_cnn.sweeps import space

_COMBINATIONS = 4096  # of values at the borders of the space, tried together at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """How the space is searched, and on what."""

    search: str = one_of("grid", "random", "tpe")
    trials: int = leaf("an integer >= 0", lambda value: value >= 0)
    batch: int = leaf("an integer >= 1", lambda value: value >= 1)
    seeds: int = leaf("an integer >= 1", lambda value: value >= 1)
    metric: str = leaf(
        f"one of {', '.join(repr(f'validation/{name}') for name in metrics.METRICS)}, or 'validation/' and "
        "the attribute of a metric of your own",
        lambda value: value.startswith("validation/"),
    )
    direction: str = one_of("maximize", "minimize")
    population: int = leaf("an integer >= 1", lambda value: value >= 1, changes_result=False)
    halving: int = leaf("0 for none, or an integer >= 2", lambda value: value == 0 or value >= 2)
    rungs: tuple[int, ...] = leaf(
        "ascending epochs >= 1, such as (1, 3)",
        lambda value: all(a < b for a, b in itertools.pairwise((0, *value))),
    )
    confirm_seeds: int = leaf("an integer >= 0", lambda value: value >= 0)
    confirm_base: bool = leaf("true or false", lambda value: True)
    storage: str = leaf(
        "'' for a file in the run folder, or an address such as postgresql://host/name",
        lambda value: value == "" or "://" in value,
    )
    executor: str = one_of("local", "ray", changes_result=False)
    populations_per_device: int = leaf("an integer >= 0", lambda value: value >= 0, changes_result=False)


@dataclasses.dataclass(frozen=True)
class Axis:
    """A leaf that is swept, with its domain and the text that describes it."""

    leaf: str
    domain: space.Domain
    text: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep, complete and checked."""

    experiment: Experiment
    sweep: Sweep
    axes: tuple[Axis, ...]

    @property
    def metric(self) -> metrics.Metric:
        """What trials are compared by."""
        return metrics.by_label(self.experiment.eval.metrics)[self.sweep.metric.rpartition("/")[2]]

    @property
    def sources(self) -> dict[str, str]:
        """What is not this package's, tried values among it: dotted names, each with a leaf that holds it."""
        swept = {
            str(value): f"sweep.space.{axis.leaf}"
            for axis in self.axes
            if axis.leaf in config_lib.LEAVES  # a field of a network may hold any text
            for value in axis.domain.probes
            if dotted.is_dotted(value)
        }
        return swept | config_lib.sources(self.experiment)

    @property
    def trials(self) -> int:
        """How many settings are tried; 0 where there is nothing to choose."""
        if not self.axes:
            return 0
        size = space.grid_size([axis.domain for axis in self.axes])
        return size if self.sweep.search == "grid" and size is not None else self.sweep.trials

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that every setting is trained with."""
        return tuple(range(self.experiment.seed, self.experiment.seed + self.sweep.seeds))

    @property
    def confirm_seeds(self) -> tuple[int, ...]:
        """The seeds that confirm the winner: none of those it was chosen by."""
        first = self.experiment.seed + (self.sweep.seeds if self.axes else 0)
        return tuple(range(first, first + self.sweep.confirm_seeds))

    @property
    def epochs(self) -> float:
        """Epochs of a trial, their mean where they are swept; for TPE, which chooses them, of the space."""
        name, own = "num_epochs", self.experiment.num_epochs
        if all(axis.leaf != name for axis in self.axes):
            return own
        known = range(self.trials) if self.sweep.search != "tpe" else ()
        points = [self.point(number) for number in known] or list(self.borders())
        return sum(point[name] for point in points) / len(points)

    def borders(self) -> Iterator[dict[str, Any]]:
        """Settings at the border of the space: if all of them can be trained, every setting can."""
        points = itertools.product(*(axis.domain.probes for axis in self.axes))
        for point in itertools.islice(points, _COMBINATIONS):
            yield dict(zip((axis.leaf for axis in self.axes), point, strict=True))

    def point(self, number: int) -> dict[str, Any]:
        """The settings of a trial of a grid or random search, by dotted leaf."""
        domains = [axis.domain for axis in self.axes]
        if self.sweep.search == "grid":
            values = space.grid_point(domains, number)
        else:
            values = space.random_point(domains, self.experiment.seed, number)
        return dict(zip((axis.leaf for axis in self.axes), values, strict=True))

    def member(self, settings: Mapping[str, Any], seed: int) -> Experiment:
        """The experiment of a setting and a seed, as it is trained to be chosen from."""
        return vary(self.experiment, {**settings, "seed": seed, "dataset.placement": "resident"})

    def confirmed(self, settings: Mapping[str, Any], seed: int) -> Experiment:
        """The experiment of the winner: on the whole training split, scored at the end alone.

        Where training is stopped by a validation split, that is held out here too.
        """
        whole = {"dataset.validation_examples": 0, "eval.every_epochs": 0}
        if self.experiment.train.patience:
            whole = {}
        return vary(self.member(settings, seed), whole)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain nested dicts, fit for JSON; `resolve` is the inverse."""
        tree = config_lib.to_dict(self.experiment)
        nested: dict[str, Any] = {}
        for axis in self.axes:
            section, _, name = axis.leaf.rpartition(".")
            (nested.setdefault(section, {}) if section else nested)[name] = axis.text
        return tree | {"sweep": dataclasses.asdict(self.sweep) | {"space": nested}}


def vary(experiment: Experiment, leaves: Mapping[str, Any]) -> Experiment:
    """The experiment with some leaves, by dotted name, set to other values.

    Raises:
      ConfigError: a value is refused.
    """
    tree = config_lib.to_dict(experiment)
    for name, value in leaves.items():
        section, _, last = name.rpartition(".")
        (tree[section] if section else tree)[last] = value
    return config_lib.resolve(tree)


GROWS = ("sweep.trials", "sweep.confirm_seeds", "sweep.confirm_base")
"""Leaves that may be changed while nothing is confirmed: the trials before stay what they are."""


def fixed(plan: Plan) -> dict[str, Any]:
    """The leaves that change the result, by dotted name."""
    free = {name for name, one in schema.leaves(Sweep, "sweep.").items() if not one.rule.changes_result}
    free |= {name for name in schema.flatten(plan.experiment) if not config_lib.changes_result(name)}
    leaves = schema.flatten(plan.to_dict())
    return {name: value for name, value in leaves.items() if name not in free}


def identity(plan: Plan) -> dict[str, Any]:
    """What makes a sweep the one it is: its fixed leaves without those that may grow.

    A leaf that a later version brought is left out where it has the value that stands for what was before, so
    that a sweep of an earlier version is still the same one.
    """
    return {
        name: value
        for name, value in fixed(plan).items()
        if name not in GROWS and not config_lib.as_before(name, value)
    }


def differences(old: Plan, new: Plan) -> dict[str, tuple[Any, Any]]:
    """Leaves that differ and change the result, by dotted name, as (old value, new value)."""
    before, after = fixed(old), fixed(new)
    pairs = {name: (before.get(name), after.get(name)) for name in before | after}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
