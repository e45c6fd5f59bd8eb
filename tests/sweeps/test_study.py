"""The record of the trials: same suggestions wherever the sweep was interrupted, nothing told twice."""

import contextlib
import dataclasses
import gc
import math
import os
import shutil
import sqlite3
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from mmids_cnn.errors import ConfigError, FaultError, RunError
from mmids_cnn.populations import executor
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder, study, trials
from mmids_cnn.sweeps import plan as plan_lib
from tests.support import processes, sweeping

FOLDER = Path("nowhere")
TPE: dict[str, Any] = {
    "sweep__search": "tpe",
    "sweep__trials": 14,
    "sweep__batch": 4,
    "sweep__space__optimizer__learning_rate": "log_uniform(1e-4, 1e-1)",
    "sweep__space__model__channels": "choice((4,), (4, 8))",
    "sweep__space__batch_size": "integers(10, 20)",
}


def result(trial: trials.Trial, value: float | None = None) -> trials.Result:
    """A made-up result: the nearer its rate is to 1e-2 the better."""
    rate = trial.settings["optimizer.learning_rate"]
    value = -abs(math.log10(rate) + 2) if value is None else value
    rows = [{"step": 8, "epoch": 1.0, "validation/accuracy": value}]
    seeds = [{"seed": 0, "value": value, "diverged": None, "fingerprint": "", "rows": rows}]
    return trials.Result(trial.number, trial.settings, trials.COMPLETE, value, seeds)


def diverged(trial: trials.Trial) -> trials.Result:
    seeds: list[dict[str, Any]] = [{"seed": 0, "value": None, "diverged": 3, "fingerprint": "", "rows": []}]
    return trials.Result(trial.number, trial.settings, trials.NONFINITE, None, seeds)


def settings(plan: plan_lib.Plan, folder: Path, stops: int = 0) -> list[dict[str, Any]]:
    """The settings of all trials; `stops`: the study is closed after each `stops` trials told."""
    folder.mkdir(exist_ok=True)
    while True:
        record, told = study.Study(plan, folder, "s", "data"), 0
        with contextlib.suppress(StopIteration):
            found = []
            for batch in record.batches():
                for trial in record.ask(batch):
                    found.append(trial.settings)
                    if trial.number in record.told():
                        continue
                    if stops and told == stops:
                        raise StopIteration
                    record.tell(result(trial), {1: 0.5})
                    told += 1
            return found


def test_tpe_suggests_the_same_wherever_it_was_interrupted(tmp_path: Path) -> None:
    plan = sweeping.make(FOLDER, **TPE)
    whole = settings(plan, tmp_path / "whole")
    assert len(whole) == 14
    assert len({str(one) for one in whole}) == 14
    for stops in (1, 3):
        assert settings(plan, tmp_path / f"every{stops}", stops) == whole


def test_tpe_suggests_the_same_though_the_batch_was_asked_in_part(tmp_path: Path) -> None:
    plan = sweeping.make(FOLDER, **TPE)
    whole = study.Study(plan, tmp_path, "s", "data").ask(range(4))
    lines = (tmp_path / study.JOURNAL).read_text().splitlines(keepends=True)
    for kept in range(2, len(lines)):  # a kill after each entry of the journal
        folder = tmp_path / str(kept)
        folder.mkdir()
        (folder / study.JOURNAL).write_text("".join(lines[:kept]))
        assert study.Study(plan, folder, "s", "data").ask(range(4)) == whole


def test_tpe_of_another_seed_suggests_other_settings(tmp_path: Path) -> None:
    asked = []
    for seed in (0, 1):
        plan, folder = sweeping.make(FOLDER, **TPE, seed=seed), tmp_path / str(seed)
        folder.mkdir()
        asked.append(study.Study(plan, folder, "s", "data").ask(range(4)))
    rates = [{trial.settings["optimizer.learning_rate"] for trial in one} for one in asked]
    assert not rates[0] & rates[1]


def test_tpe_suggests_the_same_though_a_later_batch_was_asked_in_part(tmp_path: Path) -> None:
    """After its first ten trials TPE goes by all that it knows, also of those that are at work."""
    plan = sweeping.make(FOLDER, **TPE)
    record = study.Study(plan, tmp_path, "s", "data")
    for trial in [trial for batch in record.batches()[:3] for trial in record.ask(batch)]:
        record.tell(result(trial), {})
    journal = (tmp_path / study.JOURNAL).read_bytes()
    whole = record.ask(range(12, 14))
    asked = (tmp_path / study.JOURNAL).read_bytes()[len(journal) :].splitlines(keepends=True)
    assert len(asked) == 2
    (tmp_path / study.JOURNAL).write_bytes(journal + asked[0])
    assert study.Study(plan, tmp_path, "s", "data").ask(range(12, 14)) == whole


def test_tpe_learns(tmp_path: Path) -> None:
    plan = sweeping.make(FOLDER, **{**TPE, "sweep__trials": 40})
    rates = [one["optimizer.learning_rate"] for one in settings(plan, tmp_path)]

    # Random rates, log10 uniform from -4 to -1, are (2**2 + 1**2) / 2 / 3 = 0.83 from -2 on average.
    assert sum(abs(math.log10(rate) + 2) for rate in rates[28:]) / 12 < 0.6


def test_more_trials_go_on_as_if_asked_for_at_once(tmp_path: Path) -> None:
    """The last batch has one trial at first, whose result the other one must not know of."""
    longer = settings(sweeping.make(FOLDER, **TPE), tmp_path / "longer")
    record = study.Study(sweeping.make(FOLDER, **{**TPE, "sweep__trials": 13}), tmp_path, "s", "data")
    for batch in record.batches():
        for trial in record.ask(batch):
            record.tell(result(trial, 1.0 if trial.number == 12 else None), {})
    assert settings(sweeping.make(FOLDER, **TPE), tmp_path) == longer


@pytest.mark.parametrize("name", ["grid", "random"])
def test_settings_do_not_depend_on_population_or_batch(name: str, tmp_path: Path) -> None:
    trials = {"sweep__trials": 5} if name == "random" else {}
    asked = []
    for population, batch in ((1, 1), (64, 3)):
        plan = sweeping.make(
            FOLDER, sweep__search=name, sweep__population=population, sweep__batch=batch, **trials
        )
        folder = tmp_path / str(batch)
        folder.mkdir()
        record = study.Study(plan, folder, "s", "data")
        (everything,) = record.batches()
        asked.append(record.ask(everything))
    assert asked[0] == asked[1]
    assert [trial.number for trial in asked[0]] == list(everything)


def test_tuples_are_choices(tmp_path: Path) -> None:
    plan = sweeping.make(FOLDER, sweep__space__model__channels="choice((4,), (4, 8))")
    asked = study.Study(plan, tmp_path, "s", "data").ask(range(8))
    assert {trial.settings["model.channels"] for trial in asked} == {(4,), (4, 8)}


def test_told_is_told_once_and_read_back(tmp_path: Path) -> None:
    plan = sweeping.make(FOLDER)
    record = study.Study(plan, tmp_path, "s", "data")
    first, second, third, _ = record.ask(range(4))
    record.tell(result(first, 0.5), {1: 0.4, 2: 0.5})
    record.tell(result(first, 0.9), {})
    record.tell(diverged(second), {})
    record.tell(result(third, 0.3)._replace(state=trials.PRUNED), {1: 0.3})
    again = study.Study(plan, tmp_path, "s", "data")
    assert again.told() == {0, 1, 2}
    assert again.results() == [
        result(first, 0.5),
        diverged(second),
        result(third, 0.3)._replace(state=trials.PRUNED),
    ]


def test_optuna_itself_reads_the_record(tmp_path: Path) -> None:
    plan = sweeping.make(FOLDER)
    record = study.Study(plan, tmp_path, "mine", "data")
    asked = record.ask(range(4))
    record.tell(result(asked[0], 0.5), {1: 0.4, 2: 0.5})
    record.tell(diverged(asked[1]), {})
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / study.JOURNAL))
    opened = optuna.load_study(study_name="mine", storage=optuna.storages.JournalStorage(journal))
    states = optuna.trial.TrialState
    assert [t.state for t in opened.trials] == [
        states.COMPLETE,
        states.PRUNED,
        states.RUNNING,
        states.RUNNING,
    ]
    assert opened.best_trial.params == {"optimizer.learning_rate": 1e-3}
    assert opened.trials[0].intermediate_values == {1: 0.4, 2: 0.5}


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_trial_that_diverged_has_no_value(tmp_path: Path, direction: str) -> None:
    metric = {"maximize": "validation/accuracy", "minimize": "validation/loss"}[direction]
    plan = sweeping.make(FOLDER, sweep__metric=metric, sweep__direction=direction)
    record = study.Study(plan, tmp_path, "mine", "data")
    asked = record.ask(range(4))
    record.tell(diverged(asked[0]), {})
    record.tell(result(asked[1], 0.5), {})
    journal = optuna.storages.journal.JournalFileBackend(str(tmp_path / study.JOURNAL))
    opened = optuna.load_study(study_name="mine", storage=optuna.storages.JournalStorage(journal))
    assert [trial.value for trial in opened.trials[:2]] == [None, 0.5]
    assert opened.best_trial.number == 1


def test_sqlite_address_serves_as_well(tmp_path: Path) -> None:
    plan = sweeping.make(FOLDER, sweep__storage=f"sqlite:///{tmp_path}/record.db")
    record = study.Study(plan, tmp_path, "s", "data")
    trial = record.ask(range(4))[0]
    record.tell(result(trial, 0.5), {1: 0.5})
    again = study.Study(plan, tmp_path, "s", "data")
    assert again.results() == [result(trial, 0.5)]
    assert not (tmp_path / study.JOURNAL).exists()


@dataclasses.dataclass(frozen=True)
class Server:
    """A PostgreSQL server of one's own on 127.0.0.1, run by a user without rights."""

    programs: Path
    folder: Path
    port: int

    def control(self, *arguments: str) -> None:
        user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        command = [self.programs / "pg_ctl", "-D", self.folder, "-w", "-s", *arguments]
        options: dict[str, Any] = {"cwd": self.folder, "stdout": subprocess.DEVNULL, **user}
        subprocess.run(command, check=True, timeout=60, **options)

    def start(self) -> None:
        listening = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self.control("-o", listening, "-l", str(self.folder / "log"), "start")

    def stop(self) -> None:
        self.control("-m", "immediate", "stop")

    @property
    def address(self) -> str:
        return f"postgresql://me@127.0.0.1:{self.port}/postgres"


@pytest.fixture
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="pip install -e '.[dev]' brings it")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].is_file():
        pytest.skip("there is no PostgreSQL server: Debian's package is called postgresql")
    port = processes.free_port()
    with tempfile.TemporaryDirectory() as folder:
        if os.getuid() == 0:
            shutil.chown(folder, "nobody", "nogroup")
        one = Server(found[-1].parent, Path(folder), port)
        one.control("-o", "-U me -A trust --no-sync", "init")
        one.start()
        try:
            yield one
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # it is stopped already
                one.stop()
            gc.collect()  # connections, while what they say of themselves is not an error


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*deleted while still open:ResourceWarning")
def test_postgresql_that_is_stopped_and_started_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep ends in one line, and the same command goes on. Without its driver the extra is named."""
    data = sweeping.write_archives(tmp_path / "data")
    small = {"num_epochs": 1, "sweep__seeds": 1, "sweep__confirm_seeds": 1, "sweep__population": 2}
    plan = sweeping.make(data, sweep__storage=server.address, **small)

    def stopping(jobs: Any, listener: Any, local: Any = executor.local) -> None:
        local(jobs[:1], listener)
        server.stop()
        local(jobs[1:], listener)

    with monkeypatch.context() as patched:
        patched.setattr(executor, "local", stopping)
        with pytest.raises(FaultError) as caught:
            sweeping.run(plan, tmp_path / "it")
    expected = f"config.sweep.storage: expected a database that answers at {server.address}, found none any "
    assert str(caught.value).startswith(expected)
    with pytest.raises(RunError, match=r"expected a database that answers at .*, found: "):
        sweeping.run(plan, tmp_path / "it")
    server.start()
    found = sweeping.run(plan, tmp_path / "it")
    unbroken = sweeping.run(sweeping.make(data, **small), tmp_path / "unbroken")
    for name in ("trial", "settings", "validation", "confirmed"):
        assert found[name] == unbroken[name]
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"found none; pip install 'mmids_cnn\[postgresql\]'"):
        sweeping.run(plan, tmp_path / "other")
    del caught
    gc.collect()  # connections to the server that was stopped, here, where their warning is no error


def test_journal_with_a_torn_end_and_a_lock_left_behind(tmp_path: Path) -> None:
    plan = sweeping.make(FOLDER)
    whole = study.Study(plan, tmp_path, "s", "data").ask(range(4))
    journal = tmp_path / study.JOURNAL
    with open(journal, "a") as file:
        file.write('{"op_code":4,"worker_id":"torn')
    journal.with_name(f"{journal.name}.lock").symlink_to(journal)
    record = study.Study(plan, tmp_path, "s", "data")
    assert record.ask(range(4)) == whole
    record.tell(result(whole[0], 0.5), {})
    assert study.Study(plan, tmp_path, "s", "data").told() == {0}


def test_study_of_another_sweep_is_refused(tmp_path: Path) -> None:
    study.Study(sweeping.make(FOLDER), tmp_path, "s", "data")
    study.Study(sweeping.make(FOLDER, sweep__population=1, sweep__confirm_seeds=9), tmp_path, "s", "data")
    with pytest.raises(RunError, match="expected no study 's' but this sweep's"):
        study.Study(sweeping.make(FOLDER, sweep__seeds=3), tmp_path, "s", "data")


def test_study_of_other_data_is_refused(tmp_path: Path) -> None:
    study.Study(sweeping.make(FOLDER), tmp_path, "s", "data")
    with pytest.raises(RunError, match="expected the data that study 's' began with"):
        study.Study(sweeping.make(FOLDER), tmp_path, "s", "other")


def test_journal_that_cannot_be_read(tmp_path: Path) -> None:
    study.Study(sweeping.make(FOLDER), tmp_path, "s", "data").ask(range(4))
    journal = tmp_path / study.JOURNAL
    first, rest = journal.read_bytes().split(b"\n", 1)
    for damaged in (first[:9] + b"\x00" + first[10:], b"[]", b"{}"):
        journal.write_bytes(damaged + b"\n" + rest)
        with pytest.raises(
            study.DamageError, match=r"optuna\.log: expected the record of this sweep, found "
        ):
            study.Study(sweeping.make(FOLDER), tmp_path, "s", "data")


def test_changed_character_of_the_journal_changes_no_result(tmp_path: Path) -> None:
    """A digit for a digit, a letter for a letter: the journal can be read still, and says something else."""
    plan, journal = sweeping.make(FOLDER, num_epochs=2), tmp_path / study.JOURNAL
    record = study.Study(plan, tmp_path, "s", "data")
    asked = record.ask(range(4))
    told = [result(asked[0], 0.104), diverged(asked[1]), result(asked[2], 0.25)._replace(state=trials.PRUNED)]
    for one in told:
        record.tell(one, {1: 0.05})
    content, random = journal.read_bytes(), np.random.default_rng(0)
    kinds = (string.digits.encode(), string.ascii_lowercase.encode())
    places = [(at, kind) for at, byte in enumerate(content) for kind in kinds if byte in kind]
    found = 0
    for at, kind in (places[i] for i in random.permutation(len(places))[:200]):
        new = random.choice([byte for byte in kind if byte != content[at]])
        journal.write_bytes(content[:at] + bytes([new]) + content[at + 1 :])
        try:
            again = study.Study(plan, tmp_path, "s", "data")
        except study.DamageError:
            found += 1
            continue
        assert (again.ask(range(4)), again.results()) == (asked, told), content[at - 40 : at + 40]
    assert found > 50  # the others are names of workers and times


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('\\"high\\": 0.1', '\\"high\\": 0.2', "another trial 0"),
        ('"directions":[2]', '"directions":[1]', "one that is to minimize"),
        ('"directions":[2]', '"directions":[0]', "one that is to not_set"),
        ('"directions":[2]', '"directions":[2,2]', "RuntimeError"),
        ('"directions":[2]', '"directions":[7]', "ValueError"),
    ],
)
def test_changed_range_or_direction_of_the_journal_is_found(
    tmp_path: Path, old: str, new: str, found: str
) -> None:
    """What TPE is asked for next depends on it."""
    plan, journal = sweeping.make(FOLDER, **TPE), tmp_path / study.JOURNAL
    study.Study(plan, tmp_path, "s", "data").ask(range(4))
    content = journal.read_text()
    assert old in content
    journal.write_text(content.replace(old, new, 1))
    with pytest.raises(study.DamageError, match=f"expected the record of this sweep, found {found}"):
        study.Study(plan, tmp_path, "s", "data")


def test_changed_direction_in_a_database_is_found(tmp_path: Path) -> None:
    database = tmp_path / "record.db"
    plan = sweeping.make(FOLDER, sweep__storage=f"sqlite:///{database}")
    study.Study(plan, tmp_path, "s", "data").ask(range(4))
    with contextlib.closing(sqlite3.connect(database)) as record, record:
        record.execute("UPDATE study_directions SET direction = 'MINIMIZE'")
    with pytest.raises(study.DamageError, match=r"record\.db: expected the record .* is to minimize"):
        study.Study(plan, tmp_path, "s", "data")


def test_damaged_journal_is_set_aside(tmp_path: Path) -> None:
    plan, said = sweeping.make(FOLDER), list[str]()
    asked = study.open_study(plan, tmp_path, "data", said.append).ask(range(4))
    journal = tmp_path / study.JOURNAL
    damaged = journal.read_bytes().replace(b"0.001", b"0.002")
    journal.write_bytes(damaged)
    with pytest.raises(study.DamageError, match=r"found another, and no whole sweep\.json .*; put a copy"):
        study.open_study(plan, tmp_path, "data", said.append)
    files.write_sealed(tmp_path / folder.PLAN, plan.to_dict())
    assert study.open_study(plan, tmp_path, "data", said.append).ask(range(4)) == asked
    assert (tmp_path / "optuna.log.damaged").read_bytes().startswith(damaged)
    assert said == [
        f"{journal}: expected the record of this sweep, found another; kept as optuna.log.damaged, and "
        "written anew"
    ]


def test_database_that_is_not_there(tmp_path: Path) -> None:
    plan = sweeping.make(FOLDER, sweep__storage=f"sqlite:////{tmp_path}/no/folder/x.db")
    with pytest.raises(RunError, match="expected a database that answers"):
        study.Study(plan, tmp_path, "s", "data")
