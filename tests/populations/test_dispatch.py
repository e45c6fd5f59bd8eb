"""Members brought up to an epoch: who is trained with whom, what is saved on the way, what is refused."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmids_cnn import loop
from mmids_cnn.console import signals
from mmids_cnn.errors import RunError
from mmids_cnn.populations import executor, population
from mmids_cnn.populations.dispatch import Field, bring_up
from mmids_cnn.populations.ledger import Ledger, Member
from mmids_cnn.populations.population import Job, Outcome, Progress
from tests.support import sweeping

RATES = (1e-3, 1e-2, 3e-2, 1e-1, 2e-1)
MEMBERS = [Member(number, 0) for number in range(len(RATES))]


class Unwatched:
    """A watcher that looks away."""

    def known(self, member: Member, epoch: float) -> None:
        """Nothing."""

    def update(self, job: str, members: Sequence[Member], update: executor.Update) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives, and where they are prepared: an epoch is 8 steps of 50 images."""
    return sweeping.write_archives(tmp_path_factory.mktemp("digits"))


def field(archives: Path, folder: Path, size: int, execute: executor.Executor, **leaves: Any) -> Field:
    """All members, and what the folder has of them."""
    plan = sweeping.make(archives, **leaves)
    rates = dict(zip(MEMBERS, RATES, strict=True))
    experiments = {one: plan.member({"optimizer.learning_rate": rates[one]}, one.seed) for one in MEMBERS}
    dataset = population.load(experiments[MEMBERS[0]].dataset, "validation")
    ledger = Ledger(folder, dataset.fingerprint, pytest.fail)
    return Field(experiments, "validation", size, dataset, ledger, execute, Unwatched())


def untrained(data: str, step: int = 16) -> Outcome:
    """What an executor hands back that has not trained five members at all."""
    rows = ({"step": step, "epoch": step / 8},)
    return Outcome(Progress(step, (rows,) * 5, (None,) * 5), ("",) * 5, {}, "cpu", data)


def rates(job: Job) -> list[float]:
    return [one.optimizer.learning_rate for one in job.experiments]


def test_members_are_shared_out_evenly_and_the_last_fills_up(archives: Path, tmp_path: Path) -> None:
    """Five by four at once are three and three, hence one program; also when some have been trained."""
    jobs: list[Job] = []
    it = field(archives, tmp_path, 4, lambda given, _: jobs.extend(given))
    bring_up(it, MEMBERS, 1)
    assert [rates(job) for job in jobs] == [[1e-3, 1e-2, 3e-2], [1e-1, 2e-1, 2e-1]]
    assert [job.name for job in jobs] == ["trial0-seed0-3-to-epoch1", "trial3-seed0-2-to-epoch1"]
    assert [(job.epochs, job.split, job.keeps_states) for job in jobs] == [(1, "validation", True)] * 2
    it.ledger.record("before", MEMBERS[:2], untrained(it.dataset.fingerprint), 2.0)
    jobs.clear()
    bring_up(it, MEMBERS, None)
    assert [rates(job) for job in jobs] == [[3e-2] * 3, [1e-1, 2e-1, 2e-1]]
    assert [(job.epochs, job.keeps_states) for job in jobs] == [(2, False)] * 2


def test_what_was_trained_before_is_settled_at_once(archives: Path, tmp_path: Path) -> None:
    """As after a kill between the record of a population and that of its trials."""
    events: list[Any] = []
    it = field(archives, tmp_path, 5, lambda jobs, _: events.append(list(jobs)))
    it.ledger.record("before", MEMBERS, untrained(it.dataset.fingerprint), 2.0)
    bring_up(it, MEMBERS, None, lambda: events.append("settled"))
    assert events == ["settled", []]


def test_outcome_on_other_data_is_refused_and_not_written_down(archives: Path, tmp_path: Path) -> None:
    def elsewhere(jobs: Sequence[Job], listener: executor.Listener) -> None:
        listener.finished(jobs[0], untrained("0123456789abcdef" * 4))

    with pytest.raises(RunError, match=r"expected the data of this sweep \(.*\), found 0123456789abcdef on"):
        bring_up(field(archives, tmp_path, 5, elsewhere), MEMBERS, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.soak
@pytest.mark.parametrize(
    ("epochs", "seconds", "saved"),
    [(0, 0.0, set()), (0, 1e-9, {1, 8}), (1, 0.0, {8}), (0, 1e9, set())],
)
def test_states_are_saved_when_it_is_due(
    archives: Path, tmp_path: Path, epochs: int, seconds: float, saved: set[int]
) -> None:
    """The first piece is one step, the last one of the first epoch ends with step 8."""
    found: set[int] = set()

    def first_epoch(jobs: Sequence[Job], listener: executor.Listener) -> None:
        for part in population.run(jobs[0]):
            listener.progress(jobs[0], executor.update(part), part)
            steps = [int(path.name.split(".")[-2]) for path in tmp_path.glob("*.npz")]
            assert len(steps) <= 1
            found.update(steps)
            if part.point.step == 8:
                return

    cadence = {"checkpoint__every_epochs": epochs, "checkpoint__every_seconds": seconds}
    bring_up(field(archives, tmp_path, 1, first_epoch, **cadence), MEMBERS[:1], None)
    assert found & {0, 1, 8} == saved
    assert bool(found) == bool(saved)


@pytest.mark.soak
def test_interrupted_alone_and_gone_on_with_together_the_bits_stay(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two members are at the end of the first epoch, one is stopped in the second; the next process has two
    at once, which were not saved at one step."""
    two, stop = MEMBERS[1:3], [False]
    monkeypatch.setattr(signals, "requested", lambda: signal.SIGTERM if stop[0] else None)
    whole = field(archives, tmp_path / "whole", 2, executor.local)
    bring_up(whole, two, None)
    assert list((tmp_path / "whole").glob("*.npz")) == []  # nothing goes on from its last epoch
    alone = field(archives, tmp_path / "broken", 1, executor.local)
    bring_up(alone, two, 1)

    def stopped(jobs: Sequence[Job], listener: executor.Listener) -> None:
        for part in population.run(jobs[0]):
            stop[0] = part.point.step > 8
            listener.progress(jobs[0], executor.update(part), part)

    with pytest.raises(signals.InterruptedRunError, match="stopped by SIGTERM: what has been trained so far"):
        bring_up(alone._replace(execute=stopped), two, None)
    stop[0] = False
    again = field(archives, tmp_path / "broken", 2, executor.local)
    assert [again.ledger.known(one).step for one in two] == [9, 8]
    assert again.ledger.progress(two[:1]).step == 9
    bring_up(again, two, None)
    for one in two:
        found, expected = again.ledger.known(one), whole.ledger.known(one)
        assert (found.step, found.fingerprint, found.rows) == (16, expected.fingerprint, expected.rows)


def test_scoring_that_was_broken_off_is_made_up_for(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes after the last step but one of an epoch, pieces being of one step."""
    one, stop = MEMBERS[1:2], [False]
    monkeypatch.setattr(signals, "requested", lambda: signal.SIGTERM if stop[0] else None)
    monkeypatch.setattr(loop, "_PIECE_SECONDS", 0)

    def stopped(jobs: Sequence[Job], listener: executor.Listener) -> None:
        progress = listener.progress

        def progress_and_signal(job: Job, update: executor.Update, part: population.Part | None) -> None:
            progress(job, update, part)
            stop[0] = part is not None and part.point.step == 7

        monkeypatch.setattr(listener, "progress", progress_and_signal)
        executor.local(jobs, listener)

    it = field(archives, tmp_path, 1, stopped)
    with pytest.raises(signals.InterruptedRunError):
        bring_up(it, one, 1)
    stop[0] = False
    assert (it.ledger.known(one[0]).step, it.ledger.known(one[0]).rows) == (8, [])
    bring_up(it._replace(execute=executor.local), one, 1)
    assert [row["epoch"] for row in it.ledger.known(one[0]).rows] == [1.0]


def test_signal_at_the_very_end_of_a_job_loses_nothing(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, stop = MEMBERS[1:2], [False]
    monkeypatch.setattr(signals, "requested", lambda: signal.SIGTERM if stop[0] else None)

    def stopped(jobs: Sequence[Job], listener: executor.Listener) -> None:
        for part in population.run(jobs[0]):
            stop[0] = part.finished
            listener.progress(jobs[0], executor.update(part), part)

    it = field(archives, tmp_path, 1, stopped)
    with pytest.raises(signals.InterruptedRunError):
        bring_up(it, one, 1)
    assert it.ledger.reached(one[0], 1)


def test_diverged_member_is_told_by_its_step_and_has_no_rows(archives: Path, tmp_path: Path) -> None:
    it = field(archives, tmp_path, 2, executor.local)
    wild = sweeping.make(archives).member({"optimizer.learning_rate": 1e30}, 0)
    it = it._replace(experiments={**it.experiments, MEMBERS[0]: wild})
    bring_up(it, MEMBERS[:2], 1)
    first, second = (it.ledger.known(one) for one in MEMBERS[:2])
    assert (first.rows, first.diverged) == ([], 1)
    assert ([row["epoch"] for row in second.rows], second.diverged) == ([1.0], None)
    assert it.ledger.reached(MEMBERS[0], 2)
    alone = it._replace(ledger=Ledger(tmp_path / "alone", it.dataset.fingerprint, pytest.fail))
    bring_up(alone, MEMBERS[:1], 2)  # it is not trained on to its end
    assert (alone.ledger.known(MEMBERS[0]).diverged, alone.ledger.known(MEMBERS[0]).step < 8) == (1, True)
