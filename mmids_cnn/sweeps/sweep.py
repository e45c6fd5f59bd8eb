"""A sweep: trials of a plan trained in populations, the best one confirmed, all of it in one folder.

    sweep.json       the plan, complete
    provenance.json  as of a run
    optuna.log       Optuna's journal: the record of the trials, unless `sweep.storage` names another
    populations/     metrics of every member, and states to go on from; `confirm/` those of the confirmation
    trials.csv, best.json, winner.py, report.html

Nothing here imports JAX until the input is known to be right.
"""

import contextlib
import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from mmids_cnn import data
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import ConfigError, RunError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files
from mmids_cnn.sweeps import config as sweep_config
from mmids_cnn.sweeps import plan as plan_lib
from mmids_cnn.sweeps.plan import Plan

PLAN = "sweep.json"


def execute(plan: Plan, workdir: Path, terminal: Terminal) -> dict[str, Any]:
    """Runs a sweep in a folder, going on where an earlier run of it stopped.

    Args:
      plan: the sweep.
      workdir: the folder, made if it is not there.
      terminal: what to show it on.

    Returns:
      The content of `best.json`.

    Raises:
      RunError: the folder cannot be used, is in use, or holds something else.
      ConfigError, DataError, DeviceError, FaultError, NonFiniteError: see the modules that raise them.
    """
    _require_packages(plan)
    plan = dataclasses.replace(plan, experiment=run_folder.anywhere(plan.experiment))
    finished = check(workdir, plan)
    if finished:
        terminal.say(f"{workdir}: finished already; its result:")
        terminal.say(finished["summary"])
        return finished
    dataset = data.load(plan.experiment.dataset, terminal.report)

    from mmids_cnn.populations import executor  # JAX: imported once the input is known to be right
    from mmids_cnn.sweeps import session

    with executor.make(plan.sweep) as execute:
        session.introduce(plan, dataset, workdir, terminal)
        with files.faults(f"opening {workdir}"):
            workdir.mkdir(parents=True, exist_ok=True)
        with files.lock(workdir / ".lock"), files.faults(f"writing to {workdir}"):
            check(workdir, plan)  # again, now that no other run can be at work here
            name = study_name(plan, workdir)
            at_work = session.Contest(plan, dataset, workdir, terminal, name, execute)
            files.write_json(workdir / PLAN, plan.to_dict())  # the storage has answered
            with contextlib.closing(at_work):
                best = at_work.run()
    terminal.say(best["summary"])
    return best


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
        before = sweep_config.resolve(tree)
    except (ConfigError, AttributeError, KeyError, TypeError) as error:
        raise RunError(
            f"{workdir / PLAN}: expected the plan of a sweep, found one that is damaged ({error}); give the "
            "sweep another --workdir"
        ) from None
    changed = plan_lib.differences(before, plan)
    if not changed:
        return _result(workdir)
    confirming = any((workdir / plan_lib.CONFIRM).glob("*.json"))  # the test split has been scored
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
        best = files.read_json(workdir / plan_lib.BEST)
        whole = isinstance(best, dict) and {"summary", "confirmed"} <= best.keys()
        beside = (plan_lib.TRIALS, plan_lib.WINNER, plan_lib.REPORT)
        if whole and all((workdir / name).exists() for name in beside):
            return best
    return None


def study_name(plan: Plan, workdir: Path) -> str:
    """What the sweep is called: a digest of its plan, in a storage that many share also its folder's name."""
    digest = files.digest_of_json(plan_lib.identity(plan))
    return f"{workdir.resolve().name if plan.sweep.storage else 'sweep'}-{digest[:8]}"


def _require_packages(plan: Plan) -> None:
    needed = {"optuna": "sweep", "matplotlib": "sweep"}
    needed |= {"ray": "ray"} if plan.sweep.executor == "ray" else {}
    for package, extra in needed.items():
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"config.sweep: expected the package {package}, found none; install the extra: "
                f"pip install 'mmids_cnn[{extra}]'"
            )
