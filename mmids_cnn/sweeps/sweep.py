"""A sweep: trials of a plan trained in populations, the best one confirmed, all of it in one folder.

Nothing here imports JAX until the input is known to be right.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import RunError, require_package
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.settings import dotted
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder as sweep_folder
from mmids_cnn.sweeps.plan import Plan


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
    finished = sweep_folder.check(workdir, plan)
    if finished:
        terminal.say(f"{workdir}: finished already; its result:")
        terminal.say(sweep_folder.summary(finished, workdir))
        return finished
    config_lib.require_sources(plan.sources)
    dataset = data.load(plan.experiment.dataset, terminal.report)

    from mmids_cnn.sweeps import progress, session, study  # JAX: imported once the input is known to be right

    with _executor(plan) as execute:
        progress.introduce(plan, dataset, workdir, terminal)
        with files.faults(f"opening {workdir}"):
            workdir.mkdir(parents=True, exist_ok=True)
        with files.lock(workdir / ".lock"), files.faults(f"writing to {workdir}"):
            sweep_folder.check(workdir, plan)  # again, now that no other run can be at work here
            with study.answering(plan.sweep.storage):
                best = session.run(plan, dataset, workdir, terminal, execute)
    terminal.say(sweep_folder.summary(best, workdir))
    return best


def report(workdir: Path) -> Path:
    """Writes the page of the sweep in a folder, finished or not; returns its path.

    Raises:
      RunError: a file that it needs is damaged or not there, or another process is at work in the folder.
      ConfigError: a package is missing, or a part of your own cannot be imported any more.
      FaultError: the page cannot be written, or a database does not answer.
    """
    plan, known = sweep_folder.recorded(workdir), run_folder.provenance(workdir)
    journal, again = workdir / sweep_folder.JOURNAL, "give the sweep's command again, which writes it anew"
    if plan is None or not known:
        name = sweep_folder.PLAN if plan is None else run_folder.PROVENANCE
        raise RunError(f"{workdir / name}: expected a whole file, found it damaged or missing; {again}")
    if not (plan.sweep.storage or journal.exists()):
        raise RunError(f"{journal}: expected the record of the trials, found none; {again}")
    _require_packages(plan)
    config_lib.require_sources(plan.sources)

    from mmids_cnn.sweeps import report as page
    from mmids_cnn.sweeps import results, study, trials

    path, best = workdir / sweep_folder.REPORT, sweep_folder.best(workdir)
    with files.lock(workdir / ".lock"), files.faults(f"writing {path}"), study.answering(plan.sweep.storage):
        name = sweep_folder.study_name(plan, workdir)
        try:
            found = study.Study(plan, workdir, name, known["dataset"]["fingerprint"]).results()
        except study.DamageError as error:
            raise RunError(f"{error}; {again if not plan.sweep.storage else 'put a copy back'}") from error
        if best is None:
            files.write_text(path, page.page(plan, workdir, found, None, {}, {}))
        else:
            winner = trials.best(plan, found) if plan.axes else trials.OWN
            confirmed = {name: one["seeds"] for name, one in best["confirmed"].items()}
            results.write(plan, workdir, found, winner, confirmed, best)
    return path


@contextlib.contextmanager
def _executor(plan: Plan) -> Iterator[Any]:
    """Who trains, as the configuration asks for; to be entered before JAX is used."""
    if plan.sweep.executor == "local":
        from mmids_cnn.populations import executor

        yield executor.local
        return

    from mmids_cnn.populations import cluster

    roots = {dotted.root(name) for name in plan.sources}
    with cluster.connected(
        plan.sweep.populations_per_device, sorted(root for root in roots if root)
    ) as execute:
        yield execute


def _require_packages(plan: Plan) -> None:
    needed = {"optuna": "sweep", "matplotlib": "sweep"}
    needed |= {"ray": "ray"} if plan.sweep.executor == "ray" else {}
    by_psycopg = plan.sweep.storage.startswith(("postgresql://", "postgresql+psycopg://"))
    needed |= {"psycopg": "postgresql"} if by_psycopg else {}
    for package, extra in needed.items():
        require_package("config.sweep", package, extra)
