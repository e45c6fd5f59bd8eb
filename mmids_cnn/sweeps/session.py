"""One process's work on a sweep: batches of trials, rungs of halving, the winner, its confirmation."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmids_cnn import data
from mmids_cnn.config import Experiment
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import NonFiniteError
from mmids_cnn.populations import population
from mmids_cnn.populations.dispatch import Field, bring_up
from mmids_cnn.populations.executor import Executor
from mmids_cnn.populations.ledger import BASE, Ledger, Member
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import provenance
from mmids_cnn.settings import schema
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder as sweep_folder
from mmids_cnn.sweeps import results as result_files
from mmids_cnn.sweeps import trials as trials_lib
from mmids_cnn.sweeps.plan import Plan
from mmids_cnn.sweeps.progress import Board
from mmids_cnn.sweeps.study import Study, open_study
from mmids_cnn.sweeps.trials import Result, Trial


def run(
    plan: Plan, dataset: data.Dataset, workdir: Path, terminal: Terminal, execute: Executor
) -> dict[str, Any]:
    """Does all that is left to do of a sweep in a folder that this process has locked.

    Returns:
      The content of `best.json`.

    Raises:
      InterruptedRunError: a signal asked to stop; what there was to save is saved.
      NonFiniteError: every trial diverged.
      RunError: the record of the trials cannot be used, or JAX is set otherwise than when the sweep began.
    """
    provenance.require_settings(workdir)
    study = open_study(plan, workdir, dataset.fingerprint, terminal.say)
    run_folder.say_damaged(workdir, sweep_folder.damaged(workdir), terminal.say)
    files.write_sealed(workdir / sweep_folder.PLAN, plan.to_dict())  # the storage has answered
    files.write_sealed(
        workdir / run_folder.PROVENANCE, provenance.collect(plan.experiment, dataset, plan.sources)
    )
    sweep_folder.set_aside(workdir, terminal.say)
    ledger = Ledger(workdir / sweep_folder.POPULATIONS, dataset.fingerprint, terminal.say)
    for result in study.results():
        ledger.adopt(result.number, result.seeds)
    images, batches = len(dataset.splits["train"].labels), study.batches()
    work = trials_lib.images_to_see(plan, batches, images)
    with contextlib.closing(Board(terminal, plan, work, images)) as board:
        for batch in batches:
            asked = study.ask(batch)
            experiments = {
                Member(trial.number, seed): plan.member(trial.settings, seed)
                for trial in asked
                for seed in plan.seeds
            }
            size = plan.sweep.population
            field = Field(experiments, "validation", size, dataset, ledger, execute, board)
            _try(plan, asked, field, study, board)
        results = study.results()
        winner = trials_lib.best(plan, results) if plan.axes else trials_lib.OWN
        if winner is not None:
            confirmed = _confirm(plan, winner, workdir, terminal, execute, board)
    if winner is None:
        result_files.write(plan, workdir, results, None, {})
        raise NonFiniteError(
            f"sweep: expected a trial that stays finite, found none among {len(results)}; see "
            f"{workdir / sweep_folder.REPORT}, and lower the learning rates in config.sweep.space"
        )
    ledger.drop_states()
    return result_files.write(plan, workdir, results, winner, confirmed)


def _try(plan: Plan, trials: Sequence[Trial], field: Field, study: Study, board: Board) -> None:
    """Trains a batch of trials, rung by rung, and tells the study of each as soon as it is settled."""
    results = {result.number: result for result in study.results()}
    for trial in trials:
        board.trial(trial, results.get(trial.number))
    alive = list(trials)
    for rung in plan.sweep.rungs if plan.sweep.halving else ():
        bring_up(field, trials_lib.members(plan, alive), rung)
        survivors = trials_lib.survivors(plan, field.ledger, alive, rung)
        for trial in alive:
            if trial not in survivors:
                _tell(plan, trial, rung, field.ledger, study, board)
        alive = survivors

    def tell_the_settled() -> None:
        for trial in alive:
            members = trials_lib.members(plan, [trial])
            if all(field.ledger.reached(one, field.experiments[one].num_epochs) for one in members):
                _tell(plan, trial, None, field.ledger, study, board)

    bring_up(field, trials_lib.members(plan, alive), None, tell_the_settled)


def _tell(plan: Plan, trial: Trial, rung: int | None, ledger: Ledger, study: Study, board: Board) -> None:
    """Records a trial that is at its end, at a rung where it is dropped or after its last epoch."""
    if trial.number not in study.told():
        result = trials_lib.result(plan, ledger, trial, rung)
        study.tell(result, trials_lib.curve(plan, result))
        board.trial(trial, result)


def _confirm(
    plan: Plan, winner: Result, workdir: Path, terminal: Terminal, execute: Executor, board: Board
) -> dict[str, list[dict[str, Any]]]:
    """Trains the winner, and the experiment's own setting, anew; the test split is scored here alone."""
    if not plan.sweep.confirm_seeds:
        return {}
    own = {axis.leaf: schema.flatten(plan.experiment)[axis.leaf] for axis in plan.axes}
    trials = {"winner": Trial(winner.number, winner.settings)}
    if plan.sweep.confirm_base and own != winner.settings:
        trials["base"] = Trial(BASE, own)
    experiments: Mapping[Member, Experiment] = {
        Member(trial.number, seed): plan.confirmed(trial.settings, seed)
        for trial in trials.values()
        for seed in plan.confirm_seeds
    }
    dataset = population.load(next(iter(experiments.values())).dataset, "test")
    ledger = Ledger(workdir / sweep_folder.CONFIRM, dataset.fingerprint, terminal.say)
    board.doing = "confirming, "
    for trial in trials.values():
        board.trial(trial, None)
    field = Field(experiments, "test", plan.sweep.population, dataset, ledger, execute, board)
    ledger.forget_without_state()
    bring_up(field, list(experiments), None)
    return {
        name: [
            trials_lib.confirmed_scores(member, ledger.known(member))
            for member in experiments
            if member.trial == trial.number
        ]
        for name, trial in trials.items()
    }
