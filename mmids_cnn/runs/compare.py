"""Runs side by side: what is in a folder, groups that differ in the seed alone, how two groups compare.

Never imports JAX.
"""

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmids_cnn import config as config_lib
from mmids_cnn.errors import RunError, UserError
from mmids_cnn.pages import statistics
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.settings import schema
from mmids_cnn.storage import files

METRIC = "test/accuracy"


class Run(NamedTuple):
    """A run folder.

    Attributes:
      path: the folder.
      experiment: its configuration.
      result: its result, None where it is not finished.
      date: when it was last written to, local time.
    """

    path: Path
    experiment: config_lib.Experiment
    result: Mapping[str, Any] | None
    date: datetime.datetime

    @property
    def accuracy(self) -> float | None:
        """The test accuracy, a fraction."""
        return None if self.result is None else self.result.get(METRIC)


class Group(NamedTuple):
    """Runs of one configuration but for the seed, each seed once."""

    runs: tuple[Run, ...]

    @property
    def values(self) -> list[float]:
        """Test accuracies, fractions."""
        return [one.accuracy for one in self.runs if one.accuracy is not None]


def find(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs in some folders, themselves runs or folders of them, at any depth.

    Returns:
      The runs, and a sentence for each that cannot be read.

    Raises:
      RunError: there is none in one of them.
    """
    found: dict[Path, Run] = {}
    said = []
    for path in paths:
        there = sorted(one.parent for one in path.rglob(run_folder.CONFIG)) if path.is_dir() else []
        if not there:
            raise RunError(f"{path}: expected a run folder, or one with runs in it, found none; name it")
        for one in there:
            try:
                found[one] = _run(one)
            except UserError as error:
                said.append(f"left out: {error}")
    return list(found.values()), said


def _run(path: Path) -> Run:
    experiment, result = run_folder.experiment(path), None
    if (path / run_folder.RESULT).exists():
        run_folder.require_intact(path)
        result = files.read_sealed(path / run_folder.RESULT)
    newest = path / (run_folder.RESULT if result else run_folder.CONFIG)
    return Run(path, experiment, result, datetime.datetime.fromtimestamp(newest.stat().st_mtime))


def settings(experiment: config_lib.Experiment) -> dict[str, Any]:
    """The leaves that a result depends on, by dotted name, but for the seed."""
    leaves = schema.flatten(experiment)
    return {
        name: value for name, value in leaves.items() if name != "seed" and config_lib.changes_result(name)
    }


def different(old: config_lib.Experiment, new: config_lib.Experiment) -> dict[str, tuple[Any, Any]]:
    """The leaves that `settings` has and that differ, by dotted name, as (old value, new value)."""
    found = config_lib.differences(old, new)
    return {name: pair for name, pair in found.items() if name != "seed"}


def groups(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Finished runs by configuration, in the order in which they were given, and what was left out.

    Returns:
      The groups; and a sentence for each run that is not finished, or repeats a seed of its group.
    """
    by_settings: dict[Any, dict[int, Run]] = {}
    said = []
    for run in runs:
        if run.accuracy is None:
            said.append(f"left out: {run.path}, which is not finished")
            continue
        group = by_settings.setdefault(tuple(settings(run.experiment).items()), {})
        if run.experiment.seed in group:
            first = group[run.experiment.seed].path
            said.append(f"left out: {run.path}, which has the configuration and the seed of {first}")
            continue
        group[run.experiment.seed] = run
    return [Group(tuple(group.values())) for group in by_settings.values()], said


def conditions(found: Sequence[Group]) -> list[str]:
    """What else differs between runs and may explain a difference, a sentence each."""
    records = {run.path: run_folder.provenance(run.path) for group in found for run in group.runs}
    kinds: dict[str, Callable[[dict[str, Any]], str]] = {
        "data": lambda record: record.get("dataset", {}).get("fingerprint", "unknown")[:16],
        "devices": lambda record: record.get("device", {}).get("kind", "unknown"),
        "versions": lambda record: ", ".join(
            f"{name} {record.get('packages', {}).get(name, 'unknown')}" for name in ("jax", "jaxlib", "flax")
        ),
        "commits": lambda record: str(record.get("git_commit"))[:12],
    }
    said = []
    for name, read in kinds.items():
        values = sorted({read(record) for record in records.values()})
        if len(values) > 1:
            said.append(f"the runs have different {name}: {'; '.join(values)}")
    return said


def verdict(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """How the test accuracies of two groups compare, in percentage points; at least one has two values.

    See `statistics.compare`; `text` says it in a sentence.
    """
    found = statistics.compare([100 * x for x in first], [100 * x for x in second])
    difference, (low, high) = found["difference"], found["interval"]
    if low > 0 or high < 0:
        which = "second" if difference > 0 else "first"
        text = f"the {which} is better by {abs(difference):.3f} points"
    else:
        text = "not distinguishable"
    text += f" (second less first: {difference:+.3f} points, 95 % interval {low:+.3f} to {high:+.3f})"
    return found | {"text": text}
