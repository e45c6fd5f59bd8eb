"""The folder of a sweep: names of its files, what is in it already, and which sweep may go on there.

    sweep.json       the plan, complete
    provenance.json  as of a run
    optuna.log       Optuna's journal: the record of the trials, unless `sweep.storage` names another
    populations/     metrics of every member, and states to go on from
    confirm/         metrics of every member of the confirmation, and the states that they ended with
    trials.csv, best.json, winner.py, report.html

Never imports JAX.
"""

import contextlib
import datetime
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmids_cnn.config import Experiment
from mmids_cnn.errors import ConfigError, RunError
from mmids_cnn.runs import compare
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files
from mmids_cnn.sweeps import config as sweep_config
from mmids_cnn.sweeps import plan as plan_lib
from mmids_cnn.sweeps.plan import Plan

PLAN, JOURNAL = "sweep.json", "optuna.log"
POPULATIONS, CONFIRM = "populations", "confirm"  # folders: trained to choose from, and to confirm
TRIALS, BEST, WINNER, REPORT = "trials.csv", "best.json", "winner.py", "report.html"  # the result
_BESIDE = (TRIALS, WINNER, REPORT)  # written before `best.json`, which has their digests


def check(workdir: Path, plan: Plan) -> dict[str, Any] | None:
    """The result of a finished sweep of this plan, None if there is room for one.

    Raises:
      RunError: the folder cannot be written, or holds a run, or a sweep of another plan or other sources.
    """
    run_folder.require_utf8(workdir)
    before = recorded(workdir)
    if before is not None:
        changed = plan_lib.differences(before, plan)
        if not changed:
            result = _result(workdir)
            if result:
                return result
        _require_same(workdir, before, plan, changed)
        _require_same_sources(workdir)
    run_folder.require_writable(workdir)
    if (workdir / run_folder.CONFIG).exists():
        raise RunError(f"{workdir}: expected a sweep, found a run; give the sweep another --workdir")
    if ":" in str(workdir):
        raise RunError(
            f"{workdir}: expected a folder without ':', after which --config takes no path; give the sweep "
            "another --workdir"
        )
    return None


def is_sweep(workdir: Path) -> bool:
    """Whether there is a sweep in a folder."""
    return os.path.isfile(workdir / PLAN)  # noqa: PTH113, which raises where a name is too long


def recorded(workdir: Path) -> Plan | None:
    """The plan of the sweep in a folder; None where its file is not there, or damaged."""
    with contextlib.suppress(RunError, ConfigError, AttributeError, KeyError, TypeError):
        return sweep_config.resolve(files.read_sealed(workdir / PLAN), recorded=True)
    return None


def _require_same(workdir: Path, before: Plan, plan: Plan, changed: Mapping[str, tuple[Any, Any]]) -> None:
    confirming = any((workdir / CONFIRM).glob("*.json"))  # the test split has been scored
    if not confirming and not plan.sweep.halving and plan.trials >= before.trials:
        changed = {name: pair for name, pair in changed.items() if name not in plan_lib.GROWS}
    if changed:
        fields = "; ".join(f"config.{k}: {old!r} there, {new!r} here" for k, (old, new) in changed.items())
        raise RunError(
            f"{workdir}: expected a sweep of this plan, found one that differs in {fields}; give it another "
            f"folder, such as --workdir={workdir}-2"
        )


def _require_same_sources(workdir: Path) -> None:
    """Trials are compared: all of them have to be trained by one source."""
    trained = any(workdir.glob("*/*.json"))
    for name in run_folder.changed_sources(workdir) if trained else ():
        raise RunError(
            f"{workdir}: expected the source of {name} that its trials were trained with, found another; "
            f"put it back, or give the sweep another folder, such as --workdir={workdir}-2"
        )


def damaged(workdir: Path) -> list[str]:
    """Names of files that are there and damaged; a session writes them anew."""
    found = best(workdir)
    expected = (found or {}).get("sha256", {})  # an earlier version has none
    whole = {
        PLAN: recorded(workdir) is not None,
        run_folder.PROVENANCE: run_folder.provenance(workdir) != {},
        BEST: found is not None,
        **{name: files.digest(workdir / name) == expected[name] for name in _BESIDE if name in expected},
    }
    return [name for name, is_whole in whole.items() if not is_whole and (workdir / name).exists()]


def damaged_populations(workdir: Path) -> list[str]:
    """Names of files about members that are damaged; a session trains those members again."""
    return [f"{x.parent.name}/{x.name}" for x, content in populations(workdir).items() if content is None]


def populations(workdir: Path) -> dict[Path, dict[str, Any] | None]:
    """What each file about members holds, those of the confirmation last; None where it is damaged."""
    found: dict[Path, dict[str, Any] | None] = {}
    for folder in (POPULATIONS, CONFIRM):
        for path in sorted((workdir / folder).glob("*.json")):
            found[path] = None
            with contextlib.suppress(RunError):
                content = files.read_sealed(path)
                found[path] = content if {"seconds", "members", "device"} <= content.keys() else None
    return found


def set_aside(workdir: Path, say: Callable[[str], None]) -> None:
    """Moves damaged files about members out of the way of those that are written anew."""
    for path, content in populations(workdir).items():
        if content is None:
            aside = path.with_suffix(".damaged")
            os.replace(path, aside)
            say(f"{path}: expected what was written, found a damaged file; kept as {aside.name}")


def write_best(workdir: Path, best: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Writes the result, with the digests of the files beside it, which are complete.

    Args:
      workdir: the folder.
      best: the result.
      before: the one that this one replaces, where trials and networks are those that it found: what was
        damaged since does not become right by its digest.
    """
    states = [f"{CONFIRM}/{path.name}" for path in sorted((workdir / CONFIRM).glob("*.npz"))]
    beside = [*_BESIDE, *states, *([JOURNAL] if (workdir / JOURNAL).exists() else [])]
    digests = {name: files.digest(workdir / name) for name in beside}
    digests |= {name: x for name, x in before.get("sha256", {}).items() if name not in _BESIDE}
    files.write_sealed(workdir / BEST, {**best, "sha256": digests})


def command(workdir: Path) -> str:
    """The command that trains the winner."""
    config, winner = (shlex.quote(str(workdir / name)) for name in (WINNER, "winner"))
    return f"python -m mmids_cnn.main --config={config} --workdir={winner}"


def summary(best: Mapping[str, Any], workdir: Path) -> str:
    """The result in a few lines, with the folder as it is called now."""
    lead = best["summary"].split("\nreport: ")[0]  # an earlier version has the folder of then below it
    report, trials, result = (workdir / name for name in (REPORT, TRIALS, BEST))
    return f"{lead}\nreport: {report}; trials: {trials}; best: {result}\ntrain it: {command(workdir)}"


def best(workdir: Path) -> dict[str, Any] | None:
    """The content of `best.json`; None where it is not there, or damaged."""
    with contextlib.suppress(RunError):
        best = files.read_sealed(workdir / BEST)
        if {"summary", "confirmed"} <= best.keys():
            return best
    return None


def _result(workdir: Path) -> dict[str, Any] | None:
    """The content of `best.json`, None where a file of the result is missing or damaged: it is made anew."""
    found = best(workdir)
    there = all((workdir / name).exists() for name in _BESIDE)
    states = {name: x for name, x in (found or {}).get("sha256", {}).items() if name not in _BESIDE}
    kept = all(files.digest(workdir / name) == digest for name, digest in states.items())
    whole = not damaged(workdir) and not damaged_populations(workdir)
    return found if there and kept and whole else None


def confirmed(workdir: Path) -> list[Experiment]:
    """The experiment of each confirmed training of a sweep's winner; they differ in their seed alone.

    Raises:
      RunError: the sweep is not finished, is damaged or has confirmed nothing.
    """
    return [run.experiment for run in runs(workdir) if run.of == "winner"]


def runs(workdir: Path) -> list[compare.Run]:
    """Every training of a sweep's confirmation, those of the winner first.

    Raises:
      RunError: the sweep is not finished, is damaged or has confirmed nothing.
    """
    plan, found = recorded(workdir), best(workdir)
    again = "give the sweep's command again"
    if plan is None or found is None:
        raise RunError(f"{workdir}: expected a finished sweep, found one that is not, or damaged; {again}")
    if not found["confirmed"].get("winner", {}).get("seeds"):
        raise RunError(
            f"{workdir}: expected networks of its confirmation, found none; set --config.sweep.confirm_seeds"
        )
    date = datetime.datetime.fromtimestamp((workdir / BEST).stat().st_mtime)
    return [
        compare.Run(workdir, plan.confirmed(settings, scores["seed"]), scores, date, name)
        for name, settings in {"winner": found["settings"], "base": {}}.items()
        for scores in found["confirmed"].get(name, {}).get("seeds", ())
    ]


def experiment(workdir: Path, which: str = "newest") -> Experiment:
    """The experiment of the networks in the folder of a run or sweep; of a sweep's, that of the first.

    Args:
      workdir: the folder.
      which: of a run's checkpoints, 'newest', 'best' or a step.

    Raises:
      RunError: there is none.
    """
    if not is_sweep(workdir):
        found = run_folder.experiment(workdir)
        run_folder.require_checkpoint(workdir, which)
        return found
    if which != "newest":
        raise RunError(f"--checkpoint: expected newest for a sweep, which keeps no other, got {which!r}")
    return confirmed(workdir)[0]


def study_name(plan: Plan, workdir: Path) -> str:
    """What the sweep is called: a digest of its plan, in a storage that many share also its folder's name."""
    digest = files.digest_of_json(plan_lib.identity(plan))
    return f"{workdir.resolve().name if plan.sweep.storage else 'sweep'}-{digest[:8]}"
