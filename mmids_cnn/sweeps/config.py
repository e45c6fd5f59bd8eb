"""Makes a sweep's `Plan` out of its configuration, and refuses what makes no sense before anything starts."""

import urllib.parse
from collections.abc import Mapping
from typing import Any

from mmids_cnn import config as config_lib
from mmids_cnn import metrics
from mmids_cnn.config import Experiment
from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import schema
from mmids_cnn.sweeps import space
from mmids_cnn.sweeps.plan import Axis, Plan, Sweep, vary

_SWEPT = (
    "num_epochs",
    "batch_size",
    "model.",
    "optimizer.",
    "augment.",
    "train.",
)  # leaves, or sections of them


def is_sweep(config: Any) -> bool:
    """Whether a config tree has a sweep section."""
    return hasattr(config, "items") and "sweep" in config


def resolve(config: Mapping[str, Any] | Any, *, recorded: bool = False) -> Plan:
    """Makes the frozen `Plan` out of a `ConfigDict` or a nested dict, checking every leaf and the space.

    Args:
      config: the tree of an experiment with a section `sweep`.
      recorded: see `config.resolve`.

    Returns:
      The plan.

    Raises:
      ConfigError: a leaf is unknown, missing or out of range, or the sweep makes no sense; the message names
        the leaf.
    """
    tree = dict(config.items())
    section = tree.pop("sweep")
    experiment = config_lib.resolve(tree, recorded=recorded)
    if not hasattr(section, "items"):
        raise ConfigError(f"config.sweep: expected a section, got {section!r}")
    leaves = dict(section.items())
    _refuse_test(leaves.get("metric"))
    _refuse_password(leaves.get("storage"))
    described = leaves.pop("space", None)
    if not hasattr(described, "items"):
        raise ConfigError(
            f"config.sweep.space: expected a section, got {described!r}; start from experiments/sweep.py"
        )
    sweep = schema.build(Sweep, leaves, "sweep.", recorded=recorded)
    axes = tuple(
        _axis(experiment, name, text)
        for name, text in schema.flatten(described).items()
        if text != ""  # so that the command line can take a leaf out of the space
    )
    plan = Plan(experiment, sweep, axes)
    _check_combinations(plan)
    _check_experiment(plan)
    _check_search(plan)
    _check_halving(plan)
    return plan


def _refuse_test(metric: Any) -> None:
    if isinstance(metric, str) and metric.startswith("test"):
        raise ConfigError(
            f"config.sweep.metric: expected 'validation/accuracy' or 'validation/loss', got {metric!r}; the "
            "test split is for the figure that is reported, never to choose by"
        )


def _refuse_password(storage: Any) -> None:
    """The address is written into the sweep's files, and shown."""
    parts = urllib.parse.urlsplit(storage if isinstance(storage, str) else "")
    if parts.password is not None or "password" in urllib.parse.parse_qs(parts.query):
        raise ConfigError(
            "config.sweep.storage: expected an address without a password, which would be written into the "
            "sweep's files, got one with it; take it out, and put it into PGPASSWORD or ~/.pgpass"
        )


def _axis(experiment: Experiment, name: str, text: Any) -> Axis:
    where = f"config.sweep.space.{name}"
    leaves = schema.flatten(experiment)
    if name not in leaves:
        raise ConfigError(f"{where}: no such config leaf; {schema.nearest(name, leaves)}")
    if name == "seed":
        raise ConfigError(f"{where}: expected no seed here, got {text!r}; set config.sweep.seeds to how many")
    if name == "model.name":
        raise ConfigError(
            f"{where}: expected no network here, whose fields are other leaves, got {text!r}; leave it out, "
            "and train each with a sweep of its own"
        )
    if not name.startswith(_SWEPT):
        raise ConfigError(
            f"{where}: expected a leaf that training depends on, got one of {name.split('.')[0]}; leave it "
            "out, or train on each with a sweep of its own"
        )
    try:
        if not isinstance(text, str):
            raise ValueError(f"expected a text such as 'choice(1, 2)', got {text!r}")
        domain = space.parse(text)
        needs = {space.Range: (float,), space.Integers: (int,)}.get(type(domain))
        if needs and type(leaves[name]) not in needs:
            raise ValueError(
                f"expected values like {leaves[name]!r}, such as choice({leaves[name]!r}), got {text!r}"
            )
    except ValueError as error:
        raise ConfigError(f"{where}: {error}; change it in the config file or with --{where}=...") from None
    held = tuple(
        config_lib.check(name, value, f"sweep.space.{name}", experiment.model) for value in domain.probes
    )
    if isinstance(domain, space.Choice):
        domain = space.Choice(held)
        if len(set(held)) < len(held):
            raise ConfigError(
                f"{where}: expected values that differ from one another, got {text!r}; remove one"
            )
    return Axis(name, domain, text)


def _check_combinations(plan: Plan) -> None:
    """Refuses a space where a rule between leaves is broken somewhere at its border."""
    for settings in plan.borders():
        try:
            vary(plan.experiment, settings)
        except ConfigError as error:
            raise ConfigError(
                f"config.sweep.space: expected settings that can all be trained, got {settings}: {error}"
            ) from None


def _check_search(plan: Plan) -> None:
    sweep = plan.sweep
    label = sweep.metric.rpartition("/")[2]
    if label not in map(metrics.label, plan.experiment.eval.metrics):
        raise ConfigError(
            f"config.sweep.metric: expected one of config.eval.metrics, {plan.experiment.eval.metrics}, got "
            f"{sweep.metric!r}; add {label!r} there"
        )
    if not plan.axes:
        if sweep.trials or sweep.search != "grid" or not sweep.confirm_seeds:
            raise ConfigError(
                "config.sweep.space: expected something to choose from, or no trials of a grid and "
                f"confirm_seeds >= 1, got an empty space, {sweep.trials} trials, search {sweep.search!r} and "
                f"{sweep.confirm_seeds} confirm_seeds; set --config.sweep.space...=choice(...)"
            )
        return
    size = space.grid_size([axis.domain for axis in plan.axes])
    if sweep.search == "grid":
        continuous = [axis.leaf for axis in plan.axes if axis.domain.values is None]
        if continuous:
            raise ConfigError(
                f"config.sweep.space.{continuous[0]}: expected choice(...) or integers(...) for a grid, got "
                "a continuous range; list its values, or set --config.sweep.search=random"
            )
        if sweep.trials not in (0, size):
            raise ConfigError(
                f"config.sweep.trials: expected 0 (all of the grid) or {size}, its size, got {sweep.trials}; "
                "change --config.sweep.trials"
            )
        if size is not None and size > space.MANY:
            raise ConfigError(
                f"config.sweep.space: expected at most {space.MANY:,} settings, got {size:,}; set "
                "--config.sweep.search=random"
            )
    elif not 1 <= sweep.trials <= space.MANY:
        raise ConfigError(
            f"config.sweep.trials: expected an integer from 1 to {space.MANY:,} for a {sweep.search} search, "
            f"got {sweep.trials}; set --config.sweep.trials"
        )
    best = "maximize" if plan.metric.higher_is_better else "minimize"
    if sweep.direction != best:
        raise ConfigError(
            f"config.sweep.direction: expected {best!r} for {sweep.metric}, got {sweep.direction!r}; set "
            f"--config.sweep.direction={best}"
        )


def _check_halving(plan: Plan) -> None:
    sweep = plan.sweep
    if not sweep.halving:
        return
    epochs, every = plan.experiment.num_epochs, plan.experiment.eval.every_epochs
    if any(axis.leaf == "num_epochs" for axis in plan.axes):
        raise ConfigError(
            "config.sweep.space.num_epochs: expected no num_epochs with halving, whose rungs compare after "
            "equal epochs; take it out, or set --config.sweep.halving=0"
        )
    if not sweep.rungs or sweep.rungs[-1] >= epochs:
        raise ConfigError(
            f"config.sweep.rungs: expected at least one epoch, all below num_epochs = {epochs}, got "
            f"{sweep.rungs}; change it, or set --config.sweep.halving=0"
        )
    if any(rung % every for rung in sweep.rungs):
        raise ConfigError(
            f"config.sweep.rungs: expected multiples of eval.every_epochs = {every}, got {sweep.rungs}; "
            "change --config.sweep.rungs"
        )


def _check_experiment(plan: Plan) -> None:
    experiment = plan.experiment
    parts = {"seed": experiment.seed, "sweep.confirm_seeds": plan.sweep.confirm_seeds}
    parts |= {"sweep.seeds": plan.sweep.seeds} if plan.axes else {}
    if sum(parts.values()) > 2**32:
        name, value = max(parts.items(), key=lambda pair: pair[1])
        raise ConfigError(
            f"config.{name}: expected all of seed, seed + 1, ... below 2**32, got {value}; lower "
            f"--config.{name}"
        )
    if plan.axes and experiment.dataset.validation_examples == 0:
        raise ConfigError(
            "config.dataset.validation_examples: expected > 0 in a sweep, which chooses by them, got 0; set "
            "--config.dataset.validation_examples=5000"
        )
    if (plan.axes and experiment.eval.every_epochs == 0) or experiment.eval.every_seconds:
        got = f"{experiment.eval.every_epochs} and {experiment.eval.every_seconds:g}"
        raise ConfigError(
            f"config.eval: expected every_epochs >= 1 and every_seconds = 0 in a sweep, got {got}; set "
            "--config.eval.every_epochs=1 --config.eval.every_seconds=0"
        )
    if experiment.dataset.placement == "streamed":
        raise ConfigError(
            "config.dataset.placement: expected 'auto' or 'resident' in a sweep, whose members draw from "
            "data on the device, each in its own order, got 'streamed'; set --config.dataset.placement=auto"
        )
