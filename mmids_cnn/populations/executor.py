"""Who trains the populations: this process, or a cluster (`cluster`); the same jobs, the same outcomes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from mmids_cnn import loop
from mmids_cnn.console import signals
from mmids_cnn.populations import population


class Update(NamedTuple):
    """How far a job is: epochs, images that one member has seen since it began, the newest row of each."""

    epoch: float
    images: int
    rows: tuple[loop.Row | None, ...]


class Listener(Protocol):
    """Is told how the jobs fare. Each method may raise, which ends the work."""

    def progress(self, job: population.Job, update: Update, part: population.Part | None) -> None:
        """A job is so far; `part` can be saved, where the work is done in this process."""

    def poll(self) -> None:
        """Nothing new; called about twice a second."""

    def finished(self, job: population.Job, outcome: population.Outcome) -> None:
        """A job is done."""


Executor = Callable[[Sequence[population.Job], Listener], None]


def local(jobs: Sequence[population.Job], listener: Listener) -> None:
    """Trains the jobs one after another in this process."""
    for job in jobs:
        for part in population.run(job, lambda: signals.requested() is not None):
            listener.progress(job, update(part), part)
            if part.finished:
                listener.finished(job, part.outcome(with_state=job.keeps_states))


def update(part: population.Part) -> Update:
    """How far a population is, for a listener."""
    return Update(part.point.epoch, part.point.images, tuple(one[-1] if one else None for one in part.rows))
