"""The folder of a sweep: names of its files, what is in it already, and which sweep may go on there.

    sweep.json       the plan, complete
    provenance.json  as of a run
    optuna.log       Optuna's journal: the record of the trials, unless `sweep.storage` names another
    populations/     metrics of every member, and states to go on from; `confirm/` those of the confirmation
    trials.csv, best.json, winner.py, report.html

Never imports JAX.
"""

import contextlib
from pathlib import Path
from typing import Any

from mmids_cnn.errors import ConfigError, RunError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files
from mmids_cnn.sweeps import config as sweep_config
from mmids_cnn.sweeps import plan as plan_lib
from mmids_cnn.sweeps.plan import Plan

PLAN, JOURNAL = "sweep.json", "optuna.log"
POPULATIONS, CONFIRM = "populations", "confirm"  # folders: trained to choose from, and to confirm
TRIALS, BEST, WINNER, REPORT = "trials.csv", "best.json", "winner.py", "report.html"  # the result


def check(workdir: Path, plan: Plan) -> dict[str, Any] | None:
    """The result of a finished sweep of this plan, None if there is room for one.

    Raises:
      RunError: the folder cannot be written, or holds a run, or a sweep of another plan.
    """
    run_folder.require_writable(workdir)
    if (workdir / run_folder.CONFIG).exists():
        raise RunError(f"{workdir}: expected a sweep, found a run; give the sweep another --workdir")
    if ":" in str(workdir):
        raise RunError(
            f"{workdir}: expected a folder without ':', after which --config takes no path; give the sweep "
            "another --workdir"
        )
    if not (workdir / PLAN).exists():
        return None
    tree = files.read_json(workdir / PLAN)
    try:
        before = sweep_config.resolve(tree, recorded=True)
    except (ConfigError, AttributeError, KeyError, TypeError) as error:
        raise RunError(
            f"{workdir / PLAN}: expected the plan of a sweep, found one that is damaged ({error}); give the "
            "sweep another --workdir"
        ) from None
    changed = plan_lib.differences(before, plan)
    if not changed:
        return _result(workdir)
    confirming = any((workdir / CONFIRM).glob("*.json"))  # the test split has been scored
    if not confirming and not plan.sweep.halving and plan.trials >= before.trials:
        changed = {name: pair for name, pair in changed.items() if name not in plan_lib.GROWS}
    if changed:
        fields = "; ".join(f"config.{k}: {old!r} there, {new!r} here" for k, (old, new) in changed.items())
        raise RunError(
            f"{workdir}: expected a sweep of this plan, found one that differs in {fields}; give it another "
            f"folder, such as --workdir={workdir}-2"
        )
    return None


def _result(workdir: Path) -> dict[str, Any] | None:
    """The content of `best.json`, None where a file of the result is missing or damaged: it is made anew."""
    with contextlib.suppress(RunError):
        best = files.read_json(workdir / BEST)
        whole = isinstance(best, dict) and {"summary", "confirmed"} <= best.keys()
        beside = (TRIALS, WINNER, REPORT)
        if whole and all((workdir / name).exists() for name in beside):
            return best
    return None


def study_name(plan: Plan, workdir: Path) -> str:
    """What the sweep is called: a digest of its plan, in a storage that many share also its folder's name."""
    digest = files.digest_of_json(plan_lib.identity(plan))
    return f"{workdir.resolve().name if plan.sweep.storage else 'sweep'}-{digest[:8]}"
