"""Brings members of a sweep up to an epoch: those that share a program as populations."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.console import signals
from mmids_cnn.errors import RunError
from mmids_cnn.populations import population
from mmids_cnn.populations.executor import Executor, Update
from mmids_cnn.populations.ledger import Ledger, Member
from mmids_cnn.populations.population import Job, Outcome, Part
from mmids_cnn.sweeps.progress import Board


class Members:
    """Trains members, and sees to progress, saving and signals meanwhile (a `Listener` of the executor).

    Args:
      experiments: of each member.
      split: what they are scored on, 'validation' or 'test'.
      size: members trained at once.
      dataset: the data, for what a program depends on.
      ledger: what has been trained, and is written down.
      execute: who trains.
      board: where progress is shown.
    """

    def __init__(
        self,
        experiments: Mapping[Member, config_lib.Experiment],
        split: str,
        size: int,
        dataset: data.Dataset,
        ledger: Ledger,
        execute: Executor,
        board: Board,
    ) -> None:
        self._experiments, self._split, self._size = experiments, split, size
        self._dataset, self._ledger = dataset, ledger
        self._execute, self._board = execute, board
        self._jobs: dict[str, list[Member]] = {}
        self._saved: dict[str, float] = {}
        self._last_save = time.monotonic()
        self._settled: Callable[[], None] = lambda: None

    def train(
        self, members: Sequence[Member], epochs: int | None, settled: Callable[[], None] = lambda: None
    ) -> None:
        """Trains members up to an epoch, None for their last; returns when all of them are there.

        Which members are trained together depends on `members` alone, not on what is known of them: so a
        sweep that was interrupted trains the same populations as one that was not.

        Args:
          members: who.
          epochs: how far.
          settled: called whenever a population is done and written down.
        """
        self._settled = settled
        jobs = []
        for member in members:
            entry = self._ledger.entry(member)
            self._board.known(member, entry.epoch if entry else 0)
        for group in self._groups(members):
            last = self._experiments[group[0]].num_epochs
            target = last if epochs is None else min(epochs, last)
            size = math.ceil(len(group) / math.ceil(len(group) / self._size))
            for start in range(0, len(group), size):
                chunk = group[start : start + size]
                missing = [one for one in chunk if not self._ledger.reached(one, target)]
                if missing:
                    jobs.append(self._job(missing, size, target))
        settled()
        self._execute(jobs, self)

    def progress(self, job: Job, update: Update, part: Part | None) -> None:
        """Shows how far a job is, saves it when that is due, stops when a signal asked to."""
        members = self._jobs[job.name]
        self._board.update(job.name, members, update.epoch, update.images, update.rows)
        stop = signals.requested()
        if part and not part.finished and (stop or self._due(job, update.epoch)):
            if update.images:
                self._ledger.record(job.name, members, part.outcome(with_state=True), update.epoch)
            self._saved[job.name], self._last_save = update.epoch, time.monotonic()
        self.poll()

    def poll(self) -> None:
        """Ends the work when a signal asked to."""
        stop = signals.requested()
        if stop:
            raise signals.InterruptedRunError(
                stop, "what has been trained so far is saved; give the same command again to go on"
            )
        signals.defer()

    def finished(self, job: Job, outcome: Outcome) -> None:
        """Writes a job's outcome down."""
        members = self._jobs[job.name]
        if outcome.data != self._dataset.fingerprint:
            raise RunError(
                f"{job.name}: expected the data of this sweep ({self._dataset.fingerprint[:16]}), "
                f"found {outcome.data[:16]} on {outcome.device}; put the same data on every machine"
            )
        self._ledger.record(job.name, members, outcome, job.epochs)
        for member in members:
            self._board.known(member, job.epochs)
        self._settled()

    def _groups(self, members: Sequence[Member]) -> list[list[Member]]:
        """Members by program, in the order of their first one."""
        groups: dict[object, list[Member]] = {}
        for member in members:
            key = population.program(self._experiments[member], self._dataset)
            groups.setdefault(key, []).append(member)
        return list(groups.values())

    def _job(self, members: list[Member], size: int, epochs: int) -> Job:
        """A job for some members, filled up to `size` by the last: a program is for one size."""
        filled = members + [members[-1]] * (size - len(members))
        trial, seed = members[0]
        name = f"{f'trial{trial}' if trial >= 0 else 'base'}-seed{seed}-{len(members)}-to-epoch{epochs}"
        self._jobs[name] = members
        experiments = tuple(self._experiments[member] for member in filled)
        return Job(name, experiments, epochs, self._split, self._ledger.progress(filled))

    def _due(self, job: Job, epoch: float) -> bool:
        cadence = job.experiments[0].checkpoint
        if epoch == self._saved.get(job.name, 0):
            return False
        if cadence.every_epochs and epoch.is_integer() and epoch % cadence.every_epochs == 0:
            return True
        return bool(cadence.every_seconds) and time.monotonic() - self._last_save >= cadence.every_seconds
