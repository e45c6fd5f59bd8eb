"""Brings members of a sweep up to an epoch: those that share a program as populations."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from mmids_cnn import config as config_lib
from mmids_cnn import data, loop, train
from mmids_cnn.console import signals
from mmids_cnn.errors import RunError
from mmids_cnn.populations import population
from mmids_cnn.populations.executor import Executor, Update
from mmids_cnn.populations.ledger import Ledger, Member
from mmids_cnn.populations.population import Job, Outcome, Part


class Watcher(Protocol):
    """Is told how far members are."""

    def known(self, member: Member, epoch: float) -> None:
        """A member has been trained up to an epoch."""

    def update(self, job: str, members: Sequence[Member], update: Update) -> None:
        """The members of a job are so far."""


class Field(NamedTuple):
    """Who is trained, on what, by whom.

    Attributes:
      experiments: of each member.
      split: what they are scored on, 'validation' or 'test'.
      size: members trained at once.
      dataset: the data, for what a program depends on.
      ledger: what has been trained, and is written down.
      execute: who trains.
      watcher: is told how far they are.
    """

    experiments: Mapping[Member, config_lib.Experiment]
    split: str
    size: int
    dataset: data.Dataset
    ledger: Ledger
    execute: Executor
    watcher: Watcher


def bring_up(
    field: Field,
    members: Sequence[Member],
    epochs: int | None,
    settled: Callable[[], None] = lambda: None,
) -> None:
    """Trains members up to an epoch, None for their last; returns when all of them are there.

    Which members are trained together depends on `members` alone, not on what is known of them: so a sweep
    that was interrupted trains the same populations as one that was not.

    Args:
      field: who they are.
      members: those to train.
      epochs: how far.
      settled: called whenever a population is done and written down.

    Raises:
      InterruptedRunError: a signal asked to stop; what has been trained is saved.
      RunError: a machine has other data.
    """
    for member in members:
        entry = field.ledger.entry(member)
        field.watcher.known(member, entry.epoch if entry else 0)
    jobs = _jobs(field, members, epochs)
    settled()
    field.execute([job for job, _ in jobs], _Listener(field, jobs, settled))


def _jobs(field: Field, members: Sequence[Member], epochs: int | None) -> list[tuple[Job, list[Member]]]:
    """The jobs that are left to do, each with the members that it is for."""
    jobs = []
    for group in _groups(field, members):
        last = field.experiments[group[0]].num_epochs
        target = last if epochs is None else min(epochs, last)
        size = math.ceil(len(group) / math.ceil(len(group) / field.size))
        for start in range(0, len(group), size):
            chunk = group[start : start + size]
            missing = [member for member in chunk if not field.ledger.reached(member, target)]
            if missing:
                jobs.append((_job(field, missing, size, target), missing))
    return jobs


def _groups(field: Field, members: Sequence[Member]) -> list[list[Member]]:
    """Members by what they share, in the order of their first one."""
    groups: dict[object, list[Member]] = {}
    for member in members:
        key = population.shared(field.experiments[member], field.dataset)
        groups.setdefault(key, []).append(member)
    return list(groups.values())


def _job(field: Field, members: list[Member], size: int, epochs: int) -> Job:
    """A job for some members, filled up to `size` by the last: a program is for one size."""
    filled = members + [members[-1]] * (size - len(members))
    name = f"{members[0].name}-{len(members)}-to-epoch{epochs}"
    experiments = tuple(field.experiments[member] for member in filled)
    return Job(name, experiments, epochs, field.split, field.ledger.progress(filled))


class _Listener:
    """Sees to progress, saving and signals while jobs are at work (a `Listener` of the executor)."""

    def __init__(
        self, field: Field, jobs: Sequence[tuple[Job, list[Member]]], settled: Callable[[], None]
    ) -> None:
        self._field, self._settled = field, settled
        self._members = {job.name: members for job, members in jobs}
        examples = len(field.dataset.splits["train"].labels)
        self._saving = {}
        for job, _ in jobs:
            every, batch_size = job.experiments[0].checkpoint, job.experiments[0].batch_size
            steps = train.steps_per_epoch(examples, batch_size)
            self._saving[job.name] = loop.Cadence(every.every_epochs, every.every_seconds, steps)

    def progress(self, job: Job, update: Update, part: Part | None) -> None:
        """Shows how far a job is, saves it when that is due, stops when a signal asked to."""
        members, saving = self._members[job.name], self._saving[job.name]
        self._field.watcher.update(job.name, members, update)
        # Before its first step a job is where it was; at its end a signal may come before `finished`.
        if part and update.images and (signals.requested() or saving.due(part.point.step)):
            self._field.ledger.record(job.name, members, part.outcome(with_state=True), update.epoch)
            saving.done(part.point.step)
        self.poll()

    def poll(self) -> None:
        """Ends the work when a signal asked to."""
        number = signals.requested()
        if number:
            raise signals.InterruptedRunError(
                number, "what has been trained so far is saved; give the same command again to go on"
            )
        signals.defer()

    def finished(self, job: Job, outcome: Outcome) -> None:
        """Writes a job's outcome down."""
        members, expected = self._members[job.name], self._field.dataset.fingerprint
        if outcome.data != expected:
            raise RunError(
                f"{job.name}: expected the data of this sweep ({expected[:16]}), found {outcome.data[:16]} "
                f"on {outcome.device}; put the same data on every machine"
            )
        self._field.ledger.record(job.name, members, outcome, job.epochs)
        for member in members:
            self._field.watcher.known(member, job.epochs)
        self._settled()
