"""One process's work on a sweep: batches of trials, rungs of halving, the winner, its confirmation."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import NonFiniteError
from mmids_cnn.populations import population
from mmids_cnn.populations.dispatch import Members
from mmids_cnn.populations.executor import Executor
from mmids_cnn.populations.ledger import Ledger, Member
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import provenance
from mmids_cnn.storage import files
from mmids_cnn.sweeps import plan as plan_lib
from mmids_cnn.sweeps import results as results_files
from mmids_cnn.sweeps import study
from mmids_cnn.sweeps.plan import Plan
from mmids_cnn.sweeps.progress import Board
from mmids_cnn.sweeps.study import Result, Trial

OWN = Result(0, {}, study.COMPLETE, None, [])  # what wins where there is nothing to choose
BASE = -1  # the trial number of the experiment's own setting, where it is confirmed beside the winner


def introduce(plan: Plan, dataset: data.Dataset, workdir: Path, terminal: Terminal) -> None:
    """Shows what is about to be tried, on what; raises `ConfigError` if a network does not fit the images."""
    terminal.close()
    if plan.sweep.executor == "local":
        terminal.note(provenance.describe_device(provenance.device()))
    sizes = ", ".join(f"{len(split.labels):,} {name}" for name, split in dataset.splits.items())
    terminal.note(f"data: {dataset.name}, {sizes}, fingerprint {dataset.fingerprint[:16]}")
    for settings in plan.borders():
        population.program(plan.member(settings, plan.experiment.seed), dataset)
    rows = [(axis.leaf, axis.text) for axis in plan.axes]
    terminal.table("", ("setting", "space"), rows or [("none", "the experiment as it is")])
    sweep = plan.sweep
    rungs = f", one in {sweep.halving} going on after epochs {sweep.rungs}" if sweep.halving else ""
    terminal.note(
        f"search: {sweep.search}, {plan.trials} trials of {sweep.seeds} seeds, {sweep.population} at "
        f"once{rungs}; {sweep.confirm_seeds} seeds to confirm"
    )
    terminal.note(f"workdir: {workdir}")


class Contest:
    """Tries the settings of a plan and confirms the best, in a folder that this process has locked."""

    def __init__(
        self,
        plan: Plan,
        dataset: data.Dataset,
        workdir: Path,
        terminal: Terminal,
        name: str,
        execute: Executor,
    ) -> None:
        self._plan, self._dataset = plan, dataset
        self._workdir, self._execute = workdir, execute
        self._study = study.Study(plan, workdir, name, dataset.fingerprint)
        self._board = Board(terminal, plan.sweep.metric, *self._work())
        self._ledger = Ledger(workdir / plan_lib.POPULATIONS, dataset.fingerprint, terminal.say)
        self._confirmed = Ledger(workdir / plan_lib.CONFIRM, dataset.fingerprint, terminal.say)

    def close(self) -> None:
        """Takes the live table away."""
        self._board.close()

    def run(self) -> dict[str, Any]:
        """Does all that is left to do and returns the content of `best.json`.

        Raises:
          InterruptedRunError: a signal asked to stop; what there was to save is saved.
          NonFiniteError: every trial diverged.
        """
        plan, workdir = self._plan, self._workdir
        files.write_json(workdir / run_folder.PROVENANCE, provenance.collect(plan.experiment, self._dataset))
        self._ledger.adopt(self._study.results())
        for batch in self._study.batches():
            self._try(self._study.ask(batch))
        results = self._study.results()
        winner = best(results, plan.sweep.direction) if plan.axes else OWN
        if winner is None:
            self._board.close()
            results_files.write(plan, workdir, results, None, {})
            raise NonFiniteError(
                f"sweep: expected a trial that stays finite, found none among {len(results)}; see "
                f"{workdir / plan_lib.REPORT}, and lower the learning rates in config.sweep.space"
            )
        confirmed = self._confirm(winner)
        self._board.close()
        self._ledger.drop_states()
        self._confirmed.drop_states()
        return results_files.write(plan, workdir, results, winner, confirmed)

    def _try(self, trials: Sequence[Trial]) -> None:
        """Trains a batch of trials, rung by rung, and tells the study of each as soon as it is settled."""
        plan = self._plan
        results = {result.number: result for result in self._study.results()}
        for trial in trials:
            result = results.get(trial.number)
            state, value = (result.state, result.value) if result else ("waiting", None)
            self._board.trial(trial.number, trial.settings, state, value)
        experiments = {
            Member(trial.number, seed): plan.member(trial.settings, seed)
            for trial in trials
            for seed in plan.seeds
        }
        members = Members(
            experiments,
            "validation",
            plan.sweep.population,
            self._dataset,
            self._ledger,
            self._execute,
            self._board,
        )
        alive = list(trials)
        for rung in plan.sweep.rungs if plan.sweep.halving else ():
            members.train(self._members(alive), rung)
            survivors = self._survivors(alive, rung)
            for trial in alive:
                if trial not in survivors:
                    self._tell(trial, rung)
            alive = survivors
        last = {trial.number: experiments[Member(trial.number, plan.seeds[0])].num_epochs for trial in alive}

        def tell_the_settled() -> None:
            for trial in alive:
                each = self._members([trial])
                if all(self._ledger.reached(member, last[trial.number]) for member in each):
                    self._tell(trial, None)

        if alive:
            members.train(self._members(alive), None, tell_the_settled)

    def _members(self, trials: Sequence[Trial]) -> list[Member]:
        return [Member(trial.number, seed) for trial in trials for seed in self._plan.seeds]

    def _survivors(self, trials: list[Trial], rung: int) -> list[Trial]:
        """The trials that go on after a rung: the best one in `halving`, none that diverged."""
        results = [self._result(trial, rung) for trial in trials]
        sign = -1 if self._plan.sweep.direction == "maximize" else 1
        ranked = sorted((sign * one.value, one.number) for one in results if one.value is not None)
        kept = {number for _, number in ranked[: math.ceil(len(trials) / self._plan.sweep.halving)]}
        return [trial for trial in trials if trial.number in kept]

    def _tell(self, trial: Trial, rung: int | None) -> None:
        """Records a trial that is at its end, at a rung where it is dropped or after its last epoch."""
        if trial.number in self._study.told():
            return
        result = self._result(trial, rung)
        curves = [{row["epoch"]: row for row in one["rows"]} for one in result.seeds]
        metric = self._plan.sweep.metric
        epochs = [e for e in curves[0] if all(rows.get(e, {}).get(metric) is not None for rows in curves)]
        curve = {int(e): math.fsum(rows[e][metric] for rows in curves) / len(curves) for e in epochs}
        self._study.tell(result, curve)
        self._board.trial(trial.number, trial.settings, result.state, result.value)

    def _result(self, trial: Trial, rung: int | None) -> Result:
        """What the ledger has about a trial, at a rung or at the end."""
        seeds: list[dict[str, Any]] = []
        for member in self._members([trial]):
            entry = self._ledger.entry(member)
            assert entry is not None
            rows = [row for row in entry.rows if rung is None or row["epoch"] <= rung]
            there = rung is not None and bool(rows) and rows[-1]["epoch"] == rung
            diverged = None if there else entry.diverged  # what became of it after the rung does not count
            seeds.append(
                {
                    "seed": member.seed,
                    "value": rows[-1][self._plan.sweep.metric] if diverged is None else None,
                    "diverged": diverged,
                    "fingerprint": entry.fingerprint,
                    "rows": rows,
                }
            )
        values = [one["value"] for one in seeds if one["value"] is not None]
        if len(values) < len(seeds):
            return Result(trial.number, trial.settings, study.NONFINITE, None, seeds)
        state = study.COMPLETE if rung is None else study.PRUNED
        return Result(trial.number, trial.settings, state, math.fsum(values) / len(values), seeds)

    def _confirm(self, winner: Result) -> dict[str, list[dict[str, Any]]]:
        """Trains the winner, and the experiment's own setting, anew; the test split is scored here alone."""
        plan = self._plan
        if not plan.sweep.confirm_seeds:
            return {}
        own = {axis.leaf: config_lib.flatten(plan.experiment)[axis.leaf] for axis in plan.axes}
        trials = {"winner": Trial(winner.number, winner.settings)}
        if plan.sweep.confirm_base and own != winner.settings:
            trials["base"] = Trial(BASE, own)
        experiments = {
            Member(trial.number, seed): plan.confirmed(trial.settings, seed)
            for trial in trials.values()
            for seed in plan.confirm_seeds
        }
        dataset = population.load(next(iter(experiments.values())).dataset, "test")
        self._board.doing = "confirming, "
        for trial in trials.values():
            self._board.trial(trial.number, trial.settings, "waiting")
        size = plan.sweep.population
        members = Members(experiments, "test", size, dataset, self._confirmed, self._execute, self._board)
        members.train(list(experiments), None)
        return {
            name: [self._score(Member(trial.number, seed)) for seed in plan.confirm_seeds]
            for name, trial in trials.items()
        }

    def _score(self, member: Member) -> dict[str, Any]:
        entry = self._confirmed.entry(member)
        assert entry is not None
        row, diverged = entry.rows[-1] if entry.rows else {}, entry.diverged
        scores = {name: value for name, value in row.items() if name.startswith("test/")}
        if diverged is None and None in scores.values():  # where steps that are not finite are left out
            diverged = entry.step
        scores = scores if diverged is None else {}
        return {"seed": member.seed, "diverged": diverged, "fingerprint": entry.fingerprint, **scores}

    def _work(self) -> tuple[int, int]:
        """Images that all members will see, about, and those of one member in an epoch."""
        plan, images = self._plan, len(self._dataset.splits["train"].labels)
        epochs, total = plan.epochs, 0.0
        for batch in self._study.batches():
            alive, before = len(batch), 0
            for rung in plan.sweep.rungs if plan.sweep.halving else ():
                total += alive * (rung - before)
                alive, before = math.ceil(alive / plan.sweep.halving), rung
            total += alive * (epochs - before)
        confirming = plan.sweep.confirm_seeds * (1 + (plan.sweep.confirm_base and bool(plan.axes)))
        return round((total * plan.sweep.seeds + confirming * epochs) * images), images


def best(results: Sequence[Result], direction: str) -> Result | None:
    """The best of the trials that were trained to the end; of equals the first."""
    sign = -1 if direction == "maximize" else 1
    complete = [result for result in results if result.state == study.COMPLETE]
    return min(complete, key=lambda result: (sign * (result.value or 0), result.number), default=None)
