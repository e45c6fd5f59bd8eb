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

_ASIDE = ("seed", "dataset.placement")  # what groups are over, and what changes no bit


class Run(NamedTuple):
    """A run folder, or one training of the confirmation of a sweep.

    Attributes:
      path: the folder.
      experiment: its configuration.
      result: its result, None where it is not finished.
      date: when it was last written to, local time.
      of: of a sweep, which of its settings: 'winner' or 'base'.
    """

    path: Path
    experiment: config_lib.Experiment
    result: Mapping[str, Any] | None
    date: datetime.datetime
    of: str = ""

    @property
    def title(self) -> str:
        """The folder, of a sweep with the setting."""
        return f"{self.path}, {self.of}" if self.of else str(self.path)

    @property
    def settings(self) -> dict[str, Any]:
        """All that a result depends on but for the seed, by name: leaves, and what a provenance has."""
        known = run_folder.provenance(self.path)
        digests = {name: str(one.get("sha256"))[:16] for name, one in known.get("sources", {}).items()}
        own = {f"source of {name}": digests.get(name) for name in config_lib.sources(self.experiment)}
        return settings(self.experiment) | {"data": _data(known)} | own

    @property
    def accuracy(self) -> float | None:
        """The test accuracy, a fraction."""
        return None if self.result is None else self.result.get(METRIC)


class Group(NamedTuple):
    """Runs of one configuration, data and sources but for the seed, each seed once."""

    runs: tuple[Run, ...]

    @property
    def values(self) -> list[float]:
        """Test accuracies, fractions."""
        return [one.accuracy for one in self.runs if one.accuracy is not None]


def find(
    paths: Iterable[Path], also: Mapping[str, Callable[[Path], list[Run]]] | None = None
) -> tuple[list[Run], list[str]]:
    """The runs in some folders, themselves runs or folders of them, at any depth.

    Args:
      paths: the folders.
      also: what else is looked for: by the name of a file, what makes runs of the folder that has it.

    Returns:
      The runs, and a sentence for each folder that cannot be read.

    Raises:
      RunError: there is none in one of them.
    """
    readers = {run_folder.CONFIG: _run, **(also or {})}
    found: dict[Path, list[Run]] = {}
    said = []
    for path in paths:
        files_there = (one for name in readers for one in path.rglob(name))
        there = {one.parent: readers[one.name] for one in files_there} if path.is_dir() else {}
        if not there:
            raise RunError(
                f"{path}: expected the folder of a run or sweep, or one with some in it, found none; name it"
            )
        for folder in sorted(there):
            try:
                found[folder] = there[folder](folder)
            except UserError as error:
                said.append(f"left out: {error}")
    return [run for runs in found.values() for run in runs], said


def _run(path: Path) -> list[Run]:
    experiment, result = run_folder.experiment(path), None
    if (path / run_folder.RESULT).exists():
        run_folder.require_intact(path)
        result = files.read_sealed(path / run_folder.RESULT)
    newest = path / (run_folder.RESULT if result else run_folder.CONFIG)
    return [Run(path, experiment, result, datetime.datetime.fromtimestamp(newest.stat().st_mtime))]


def _data(known: Mapping[str, Any]) -> str:
    return str(known.get("dataset", {}).get("fingerprint", "unknown"))[:16]


def settings(experiment: config_lib.Experiment) -> dict[str, Any]:
    """The leaves that a result depends on, by dotted name, but for the seed."""
    leaves = schema.flatten(experiment)
    return {
        name: value
        for name, value in leaves.items()
        if name not in _ASIDE and config_lib.changes_result(name)
    }


def different(old: config_lib.Experiment, new: config_lib.Experiment) -> dict[str, tuple[Any, Any]]:
    """The leaves that `settings` has and that differ, by dotted name, as (old value, new value)."""
    found = config_lib.differences(old, new)
    return {name: pair for name, pair in found.items() if name not in _ASIDE}


def differences(first: Group, second: Group) -> dict[str, tuple[Any, Any]]:
    """All that `Run.settings` has and that differs between two groups, by name, as a pair."""
    one, other = (group.runs[0].settings for group in (first, second))
    return {
        name: (one.get(name), other.get(name)) for name in one | other if one.get(name) != other.get(name)
    }


def groups(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Finished runs by configuration, in the order in which they were given, and what was left out.

    Returns:
      The groups; and a sentence for each run that is not finished, or repeats a seed of its group.
    """
    by_settings: dict[Any, dict[int, Run]] = {}
    said = []
    for run in runs:
        if run.accuracy is None:
            said.append(f"left out: {run.title}, which {'diverged' if run.result else 'is not finished'}")
            continue
        group = by_settings.setdefault(tuple(run.settings.items()), {})
        if run.experiment.seed in group:
            first = group[run.experiment.seed].title
            said.append(f"left out: {run.title}, which has the configuration and the seed of {first}")
            continue
        group[run.experiment.seed] = run
    return [Group(tuple(group.values())) for group in by_settings.values()], said


def conditions(found: Sequence[Group]) -> list[str]:
    """What else differs between runs and may explain a difference, a sentence each."""
    records = [
        run_folder.provenance(path) for path in {run.path: None for group in found for run in group.runs}
    ]
    kinds: dict[str, Callable[[dict[str, Any]], str]] = {
        "data": _data,
        "devices": _device,
        "versions of python": lambda record: str(record.get("python")),
        "commits": _commit,
    }
    found_of = {name: {read(record) for record in records} for name, read in kinds.items()}
    for package in dict.fromkeys(name for record in records for name in record.get("packages", {})):
        found_of[f"versions of {package}"] = {
            str(record.get("packages", {}).get(package)) for record in records
        }
    return [
        f"the runs have different {name}: {'; '.join(sorted(values))}"
        for name, values in found_of.items()
        if len(values) > 1
    ]


def _device(known: Mapping[str, Any]) -> str:
    device = known.get("device", {})
    kind = device.get("kind", "unknown")
    # Accelerators round by their number; the cores of a CPU do not.
    return kind if device.get("platform", "cpu") == "cpu" else f"{device.get('count')} x {kind}"


def _commit(known: Mapping[str, Any]) -> str:
    changed = ", with changes that were not committed" if known.get("git_dirty") else ""
    return f"{str(known.get('git_commit'))[:12]}{changed}"


def verdict(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """How the test accuracies of two groups compare, in percentage points; at least one has two values.

    See `statistics.compare`; `text` says it in a sentence.
    """
    found = statistics.compare([100 * x for x in first], [100 * x for x in second])
    difference = found["difference"]
    if found["interval"] is None:
        return found | {
            "text": f"not distinguishable (second less first: {difference:+.3f} points): the values of each "
            "group are all the same, which does not tell how far chance moves them"
        }
    low, high = found["interval"]
    if low > 0 or high < 0:
        which = "second" if difference > 0 else "first"
        text = f"the {which} is better by {abs(difference):.3f} points"
    else:
        text = "not distinguishable"
    text += f" (second less first: {difference:+.3f} points, 95 % interval {low:+.3f} to {high:+.3f})"
    if found["permutation"] and found["permutation"] > 0.05 and not low <= 0 <= high:
        text += "; so few values tell by their spread alone, not by their order"
    return found | {"text": text}
