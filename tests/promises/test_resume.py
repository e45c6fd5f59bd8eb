"""Runs that were broken off, anywhere and any number of times, end with the bits of one that was not."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.processes import EPOCHS, PER_EPOCH, Place, bits, saving, steps, until

Moment = Callable[[Path], bool]
LAST = EPOCHS * PER_EPOCH


def killed(place: Place, workdir: str, moment: Moment, *overrides: str) -> None:
    """Starts or goes on with a run, and kills it with SIGKILL at a moment."""
    process = place.start(workdir, *overrides)
    assert until(process, lambda: moment(place.work / workdir)), place.output(workdir)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def finished(place: Place, workdir: str, *overrides: str) -> str:
    """Goes on with a run to its end; returns what it showed."""
    done = place.run(workdir, *overrides)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def scored(workdir: Path) -> bool:
    rows = workdir / "metrics.jsonl"
    return rows.exists() and rows.stat().st_size > 0


def test_kill_at_any_moment(place: Place, unbroken: Path) -> None:
    """One run is killed at one moment after the other, each later than the one before."""
    moments: list[Moment] = [
        lambda workdir: (workdir / ".lock").exists(),
        scored,
        saving,
        lambda workdir: steps(workdir) != [],
        lambda workdir: len(steps(workdir)) > 1 and saving(workdir),
    ]
    for moment in moments:
        killed(place, "run", moment)
    finished(place, "run")
    assert bits(place.work / "run") == bits(unbroken)


@pytest.mark.soak
def test_kills_in_the_middle_of_epochs(place: Place, unbroken: Path) -> None:
    """Each process saves after its first step, and is killed then; the last one is left alone.

    Its data are streamed; the bits are those of resident data.
    """
    often = ["--config.checkpoint.every_seconds=0.001", "--config.checkpoint.every_epochs=0"]
    often += ["--config.dataset.placement=streamed"]
    for _ in range(2):
        before = max(steps(place.work / "run"), default=0)
        killed(
            place,
            "run",
            lambda workdir, before=before: max(steps(workdir), default=0) > before,  # type: ignore[misc]
            *often,
        )
    reached = max(steps(place.work / "run"))
    assert reached % PER_EPOCH
    shown = finished(place, "run", *often)
    assert f"going on from step {reached} of run" in shown.splitlines()
    found, expected = bits(place.work / "run"), bits(unbroken)
    assert found.pop("best") and expected.pop("best")  # of what was saved, and that differs
    assert found == expected


@pytest.mark.soak
def test_settings_of_jax(place: Place, unbroken: Path) -> None:
    """The generator is the run's own; what else may change bits has to be as it was."""
    workdir = copy_of(unbroken, place)
    shutil.rmtree(workdir / "checkpoints" / str(LAST))
    before = processes.content(workdir)
    done = place.run("run", JAX_THREEFRY_PARTITIONABLE="0")
    assert (done.returncode, done.stderr) == (
        2,
        "error: run: expected the settings of JAX that it began with, found others, "
        "jax_threefry_partitionable: True there, False here; change JAX_THREEFRY_PARTITIONABLE back, or name "
        "another --workdir\n",
    )
    assert processes.content(workdir) == before | {".lock": (workdir / ".lock").read_bytes()}
    done = place.run("run", JAX_DEFAULT_PRNG_IMPL="rbg")
    assert (done.returncode, done.stderr) == (0, "")
    assert "note:" not in done.stdout
    assert bits(workdir) == bits(unbroken)


def test_longer_run_from_a_finished_one(place: Place, unbroken: Path) -> None:
    """Its end was scored as the cadence did not ask for; a run of four epochs has no such row."""
    cadence = ["--config.eval.every_epochs=3"]
    finished(place, "short", *cadence, "--config.num_epochs=2")
    assert [row["epoch"] for row in bits(place.work / "short")["rows"]] == [0, 2]
    shown = finished(place, "short", *cadence)
    assert f"going on from step {2 * PER_EPOCH} of short" in shown.splitlines()
    long, expected = bits(place.work / "short"), bits(unbroken)
    assert [row["epoch"] for row in long["rows"]] == [0, 3, 4]
    assert [row for row in expected["rows"] if row["epoch"] in (0, 3, 4)] == long["rows"]
    assert (long["state"], long["result"]) == (expected["state"], expected["result"])


@pytest.mark.soak
def test_other_cadences_on_the_way(place: Place, unbroken: Path) -> None:
    killed(place, "run", lambda workdir: steps(workdir) != [], "--config.eval.every_epochs=2")
    finished(place, "run", "--config.eval.every_epochs=0", "--config.checkpoint.keep=1", "--progress=none")
    found, expected = bits(place.work / "run"), bits(unbroken)
    assert (found["state"], found["result"]) == (expected["state"], expected["result"])


def test_rows_of_the_cadence_before_are_kept(place: Place, unbroken: Path) -> None:
    workdir = copy_of(unbroken, place)
    for step in steps(workdir)[1:]:
        shutil.rmtree(workdir / "checkpoints" / str(step))
    (reached,) = steps(workdir)
    finished(place, "run", "--config.eval.every_epochs=0")
    rows = bits(workdir)["rows"]
    assert [row["step"] for row in rows] == [*range(0, reached + 1, PER_EPOCH), 4 * PER_EPOCH]


def test_checkpoints_that_are_gone(place: Place, unbroken: Path) -> None:
    workdir = processes.fresh(unbroken, place.work / "run")
    shutil.rmtree(workdir / "checkpoints")
    before = (workdir / "metrics.jsonl").read_bytes(), (workdir / "result.json").read_bytes()
    done = place.run("run", "--config.num_epochs=5")
    assert done.returncode == 2
    assert done.stderr == (
        "error: run: expected the checkpoints of a run that was finished, found none; put them back, or "
        "start again with another --workdir\n"
    )
    assert ((workdir / "metrics.jsonl").read_bytes(), (workdir / "result.json").read_bytes()) == before
    (workdir / "result.json").unlink()  # as it is where a kill came before the first checkpoint
    assert "run: no checkpoint is there yet; starting from the beginning" in finished(place, "run")
    assert bits(workdir) == bits(unbroken)


def copy_of(unbroken: Path, place: Place) -> Path:
    """A copy of the finished run that seems to have been killed before it wrote its result."""
    workdir = processes.fresh(unbroken, place.work / "run")
    (workdir / "result.json").unlink()
    return workdir


@pytest.mark.parametrize("config_json", ["kept", "deleted", "damaged"])
def test_another_configuration_is_refused(place: Place, unbroken: Path, config_json: str) -> None:
    workdir = copy_of(unbroken, place)
    if config_json == "deleted":
        (workdir / "config.json").unlink()
    if config_json == "damaged":
        (workdir / "config.json").write_text("{")
    if config_json != "kept":
        (workdir / "checkpoints" / str(steps(workdir)[-1]) / "meta" / "metadata").write_text("{")
    before = processes.content(workdir)
    done = place.run("run", "--config.optimizer.learning_rate=0.01", "--config.num_epochs=3")
    assert done.returncode == 2
    assert done.stderr == (
        "error: run: expected a run of this configuration, found one that differs in config.num_epochs: "
        "4 there, 3 here; config.optimizer.learning_rate: 0.001 there, 0.01 here; give it another folder, "
        "such as --workdir=run-2\n"
    )
    after = processes.content(workdir)
    assert {k: v for k, v in after.items() if k != ".lock"} == {
        k: v for k, v in before.items() if k != ".lock"
    }


@pytest.mark.parametrize("how", ["truncated", "binary"])
def test_damaged_json_files_cost_nothing(place: Place, unbroken: Path, how: str) -> None:
    workdir = copy_of(unbroken, place)
    names = ("config.json", "provenance.json", "metrics.jsonl")
    for name in names:
        old = (workdir / name).read_bytes()
        (workdir / name).write_bytes(old[: len(old) // 2] if how == "truncated" else b"\xff\x00{" + old)
    (workdir / "result.json").write_text("{}")
    shown = finished(place, "run")
    assert all(f"run/{name}" in shown for name in (*names, "result.json"))
    assert bits(workdir) == bits(unbroken)
    config, expected = ((folder / "config.json").read_text() for folder in (workdir, unbroken))
    assert config == expected


def test_damaged_checkpoints_are_named_and_an_older_one_is_used(place: Place, unbroken: Path) -> None:
    workdir = copy_of(unbroken, place)
    damaged = steps(workdir)[-2:]
    for step, name in zip(damaged, ("meta/metadata", "state/_METADATA"), strict=True):
        path = workdir / "checkpoints" / str(step) / name
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    (workdir / "checkpoints" / "99").mkdir()
    lines = finished(place, "run").splitlines()
    for step in (*damaged, 99):
        skipped = f"skipped run/checkpoints/{step}: expected a whole checkpoint, found: "
        assert sum(line.startswith(skipped) for line in lines) == 1
    assert f"going on from step {2 * PER_EPOCH} of run" in lines
    assert bits(workdir) == bits(unbroken)


def test_no_whole_checkpoint_stops_and_deletes_nothing(place: Place, unbroken: Path) -> None:
    workdir = copy_of(unbroken, place)
    for step in steps(workdir):
        (workdir / "checkpoints" / str(step) / "state" / "manifest.ocdbt").unlink()
    before = processes.content(workdir)
    done = place.run("run")
    assert done.returncode == 2
    assert done.stderr == (
        "error: run/checkpoints: expected a whole checkpoint, found 3 damaged; put a copy back, or start "
        "again with another --workdir\n"
    )
    after = processes.content(workdir)
    before.pop(".lock"), after.pop(".lock")
    assert after == before


@pytest.mark.soak
def test_schedule_over_all_epochs_cannot_be_made_longer(place: Place) -> None:
    cosine = "--config.optimizer.schedule=cosine"
    finished(place, "run", cosine, "--config.num_epochs=1")
    done = place.run("run", cosine, "--config.num_epochs=2")
    assert (done.returncode, "config.num_epochs: 1 there, 2 here" in done.stderr) == (2, True)


def test_result_is_written_last_and_once(place: Place, unbroken: Path) -> None:
    result = (unbroken / "result.json").read_text()
    workdir = processes.fresh(unbroken, place.work / "run")
    assert "finished already" in finished(place, "run")
    assert (workdir / "result.json").read_text() == result
    assert json.loads(result)["step"] == LAST
    changed = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*") if path.is_file()}
    assert changed[unbroken / "result.json"] == max(changed.values())
