"""Whole sweeps on real digits: interrupted anywhere, cut by halving, confirmed once."""

import contextlib
import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optuna
import pytest

from mmids_cnn import config as config_lib
from mmids_cnn.console import experiment_file
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import FaultError, NonFiniteError, RunError
from mmids_cnn.populations import executor
from mmids_cnn.runs import run
from mmids_cnn.settings import schema
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder as sweep_folder
from mmids_cnn.sweeps import plan, study, sweep, trials
from tests.support import processes, sweeping
from tests.support.suite import ROOT, CommandLine

HALVING: dict[str, Any] = {"sweep__halving": 2, "sweep__rungs": (1,), "num_epochs": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archives, and where they are prepared."""
    return sweeping.write_archives(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[plan.Plan, Path]:
    """A sweep with halving that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("whole") / "it"
    a_plan = sweeping.make(folder, **HALVING)
    sweeping.run(a_plan, workdir)
    return a_plan, workdir


@contextlib.contextmanager
def counting() -> Iterator[sweeping.Counting]:
    """Remembers the jobs that are trained inside."""
    counter = sweeping.Counting()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_executor", lambda _: contextlib.nullcontext(counter))
        yield counter


def test_halving_keeps_the_better_half_in_a_smaller_population(folder: Path, tmp_path: Path) -> None:
    a_plan = sweeping.make(folder, **HALVING)
    with counting() as counter:
        sweeping.run(a_plan, tmp_path / "it")
    sizes = [(job.split, job.epochs, len(job.experiments), job.progress.step) for job in counter.jobs]
    # 4 trials of 2 seeds in populations of 4; after 8 steps 2 trials are left; 2 seeds confirm each of 2.
    assert sizes == [
        ("validation", 1, 4, 0),
        ("validation", 1, 4, 0),
        ("validation", 2, 4, 8),
        ("test", 2, 4, 0),
    ]
    results = sweeping.results(a_plan, tmp_path / "it")
    at_rung = {
        one.number: sum(seed["rows"][0]["validation/accuracy"] for seed in one.seeds) / 2 for one in results
    }
    states = {one.number: one.state for one in results}
    kept = [number for number, state in states.items() if state == trials.COMPLETE]
    assert len(kept) == 2
    assert min(at_rung[n] for n in kept) >= max(at_rung[n] for n in states if n not in kept)
    assert {len(seed["rows"]) for one in results for seed in one.seeds if one.number in kept} == {2}
    assert {len(seed["rows"]) for one in results for seed in one.seeds if one.number not in kept} == {1}
    assert {one.number: one.value for one in results if one.number not in kept} == {
        number: pytest.approx(at_rung[number]) for number in states if number not in kept
    }
    # Nothing will go on from those that were compared; those of the confirmation are the sweep's networks.
    assert {path.parent.name for path in tmp_path.rglob("*.npz")} == {"confirm"}


@pytest.mark.soak
def test_halving_changes_no_bit_of_those_it_keeps(folder: Path, tmp_path: Path) -> None:
    """Schedules span the whole run, and in populations of one size it does not matter who else is in it."""
    leaves: dict[str, Any] = {"optimizer__schedule": "one_cycle", "sweep__confirm_seeds": 0}
    full, cut = sweeping.make(folder, **leaves), sweeping.make(folder, **leaves, **HALVING)
    for name, one in (("full", full), ("cut", cut)):
        sweeping.run(one, tmp_path / name)
    expected = {one.number: one for one in sweeping.results(full, tmp_path / "full")}
    for got in sweeping.results(cut, tmp_path / "cut"):
        if got.state == trials.COMPLETE:
            assert got == expected[got.number]
        else:
            rows = [seed["rows"] for seed in got.seeds]
            assert rows == [seed["rows"][:1] for seed in expected[got.number].seeds]


def test_test_split_is_scored_at_the_end_of_the_confirmation_alone(whole: tuple[plan.Plan, Path]) -> None:
    a_plan, workdir = whole
    for path in (workdir / "populations").glob("*.json"):
        for member in json.loads(path.read_text())["members"]:
            assert all(not name.startswith("test/") for row in member["rows"] for name in row)
    for path in (workdir / "confirm").glob("*.json"):
        for member in json.loads(path.read_text())["members"]:
            assert [row["epoch"] for row in member["rows"]] == [2.0]
            assert member["rows"][0]["train/count"] == 600  # all of it: none held out
            assert member["rows"][0]["test/count"] == 200
    best = json.loads((workdir / "best.json").read_text())
    winner = max(sweeping.results(a_plan, workdir), key=lambda one: (one.state == "complete", one.value or 0))
    assert best["trial"] == winner.number
    assert [one["seed"] for one in best["confirmed"]["winner"]["seeds"]] == [2, 3]
    scores = [one["test/accuracy"] for one in best["confirmed"]["winner"]["seeds"]]
    assert best["confirmed"]["winner"]["test/accuracy"]["mean"] == pytest.approx(sum(scores) / 2)


def test_winner_file_is_the_confirmed_experiment(whole: tuple[plan.Plan, Path], tmp_path: Path) -> None:
    a_plan, workdir = whole
    best = json.loads((workdir / "best.json").read_text())
    assert best["command"].startswith(f"python -m mmids_cnn.main --config={workdir}/winner.py ")
    experiment = config_lib.resolve(experiment_file.load(str(workdir / "winner.py")))
    found, own = schema.flatten(experiment), schema.flatten(a_plan.experiment)
    assert found["dataset.validation_examples"] == 0
    for leaf in ("eval.every_epochs", "dataset.placement"):  # which a sweep sets otherwise while it trains
        assert (found[leaf], own[leaf]) == ({"eval.every_epochs": 1, "dataset.placement": "auto"}[leaf],) * 2
    assert found["seed"] == a_plan.confirm_seeds[0]
    assert {leaf: found[leaf] for leaf in best["settings"]} == best["settings"]
    alone = run.execute(experiment, tmp_path / "alone", Terminal("none"))
    confirmed = best["confirmed"]["winner"]["seeds"][0]
    assert alone["fingerprint"] == confirmed["fingerprint"]  # on a CPU, where members have their solo bits
    assert alone["test/accuracy"] == confirmed["test/accuracy"]


@pytest.mark.soak
def test_every_write_may_be_the_last(folder: Path, whole: tuple[plan.Plan, Path], tmp_path: Path) -> None:
    """In its nth life the sweep dies before its nth write; it goes on from what is there each time."""
    a_plan, workdir = whole
    again, told, life, finished = tmp_path / "it", 0, 0, False
    original = files.write_bytes

    class KilledError(BaseException):
        pass

    while not finished:
        life, writes = life + 1, 0

        def write(path: Path, content: bytes, last: int = life) -> None:
            nonlocal writes
            writes += 1
            if writes == last:
                raise KilledError
            original(path, content)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "write_bytes", write)
            with contextlib.suppress(KilledError):
                sweeping.run(a_plan, again)
                finished = True
        results = sweeping.results(a_plan, again) if (again / study.JOURNAL).exists() else []
        assert len(results) >= told
        told = len(results)
    assert life > 7
    assert sweeping.outcome(a_plan, again) == sweeping.outcome(a_plan, workdir)


@contextlib.contextmanager
def command(folder: Path, workdir: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """The same sweep by the command line, killed in the end if it is still at work."""
    tree = sweeping.tree(folder, {name.replace("__", "."): value for name, value in HALVING.items()})
    leaves = schema.flatten(tree)
    base = schema.flatten(sweeping.sweep_file.get_config())
    changed = {k: v for k, v in leaves.items() if base[k] != v}
    flags = [
        f"--config.{k}={','.join(map(str, v)) + ',' if isinstance(v, tuple) else v}"
        for k, v in changed.items()
    ]
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "mmids_cnn.main", f"--config={ROOT}/experiments/sweep.py"),
            *(f"--workdir={workdir}", "--progress=plain", *flags, *overrides),
        ],
        env={**os.environ, "PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"ended with {process.wait()} before it said {words!r}")


@pytest.mark.soak
def test_killed_and_terminated_it_ends_with_the_bits_of_an_unbroken_one(
    folder: Path, whole: tuple[plan.Plan, Path], tmp_path: Path
) -> None:
    a_plan, workdir = whole
    again = tmp_path / "it"
    with command(folder, again) as process:
        for _ in range(600):
            if list(again.glob("populations/*.json")):
                break
            time.sleep(0.1)
        process.kill()
    assert list(again.glob("populations/*.json"))
    with command(folder, again) as process:
        wait_for(process, "trial ")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 143, output
        # Trials of the first life are told before anything trains: then there is nothing to save yet.
        saved = "what has been trained so far is saved; give the same command again to go on"
        nothing = "nothing was left to save; give the same command again"
        assert f"SIGTERM: {saved}\n" in output or f"SIGTERM: {nothing}\n" in output, output
    with command(folder, again) as process:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert "train it: python -m mmids_cnn.main --config=" in output
    assert sweeping.outcome(a_plan, again) == sweeping.outcome(a_plan, workdir)


@pytest.mark.soak
def test_terminated_while_a_population_trains_it_saves_where_it_is(folder: Path, tmp_path: Path) -> None:
    """After the clock had it saved once; each piece of training takes half a second."""
    long = ["--config.num_epochs=100000", "--config.checkpoint.every_epochs=0", "--config.sweep.halving=0"]

    def saved() -> list[int]:
        return [int(path.name.split(".")[-2]) for path in tmp_path.glob("it/populations/*.npz")]

    with command(folder, tmp_path / "it", *long, "--config.checkpoint.every_seconds=2") as process:
        for _ in range(600):
            if saved():
                break
            time.sleep(0.1)
        (before,) = saved()
        time.sleep(1)  # a piece takes half of it
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "stopped by SIGTERM: what has been trained so far is saved; give the same command" in output
    (after,) = saved()
    assert after > before


def test_full_disk_is_one_line_and_costs_nothing(
    folder: Path, whole: tuple[plan.Plan, Path], tmp_path: Path
) -> None:
    """Enough for the record of the trials, too little for the states of a population."""
    a_plan, workdir = whole
    again = tmp_path / "it"
    with processes.mounted(again, "size=200k"):
        with pytest.raises(
            FaultError, match=f"^writing to {again}: No space left on device; free some space"
        ):
            sweeping.run(a_plan, again)
        assert [path.name for path in (again / "populations").iterdir()] == []
        subprocess.run(["mount", "-o", "remount,size=9m", str(again)], check=True)
        sweeping.run(a_plan, again)
        assert sweeping.outcome(a_plan, again) == sweeping.outcome(a_plan, workdir)


def test_finished_sweep_shows_its_result_and_trains_nothing(whole: tuple[plan.Plan, Path]) -> None:
    a_plan, workdir = whole
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with counting() as counter:
        best = sweeping.run(a_plan, workdir)
    assert counter.jobs == []
    assert best["summary"].startswith("best: trial ")
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_finished_sweep_that_was_moved_names_its_folder_of_now(
    whole: tuple[plan.Plan, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_plan, workdir = whole
    again = copied(workdir, tmp_path)
    best = files.read_sealed(again / "best.json")
    for lead in (
        best["summary"],
        f"{best['summary']}\nreport: {workdir}/report.html",
    ):  # of an earlier version
        sweep_folder.write_best(again, {**best, "summary": lead}, {})
        sweeping.run(a_plan, again)
        first, *lines = capsys.readouterr().out.splitlines()
        assert first == f"{again}: finished already; its result:"
        assert lines == [
            *best["summary"].splitlines(),
            f"report: {again}/report.html; trials: {again}/trials.csv; best: {again}/best.json",
            f"train it: python -m mmids_cnn.main --config={again}/winner.py --workdir={again}/winner",
        ]


def test_lost_files_are_made_up_for_by_the_record(whole: tuple[plan.Plan, Path], tmp_path: Path) -> None:
    """Where only Optuna's journal is left, finished trials are not trained again."""
    a_plan, workdir = whole
    again = tmp_path / "it"
    again.mkdir()
    for name in (study.JOURNAL, "sweep.json"):
        (again / name).write_bytes((workdir / name).read_bytes())
    with counting() as counter:
        sweeping.run(a_plan, again)
    assert {job.split for job in counter.jobs} == {"test"}
    assert sweeping.outcome(a_plan, again) == sweeping.outcome(a_plan, workdir)


def copied(workdir: Path, folder: Path) -> Path:
    return Path(shutil.copytree(workdir, folder / "renamed"))


def test_folder_that_was_renamed_goes_on_with_its_record(
    whole: tuple[plan.Plan, Path], tmp_path: Path
) -> None:
    a_plan, workdir = whole
    again = copied(workdir, tmp_path)
    for name in ("best.json", "trials.csv", "report.html"):
        (again / name).unlink()
    with counting() as counter:
        sweeping.run(a_plan, again)
    assert counter.jobs == []
    assert sweeping.outcome(a_plan, again) == sweeping.outcome(a_plan, workdir)
    assert (again / "report.html").exists()
    journal = optuna.storages.journal.JournalFileBackend(str(again / study.JOURNAL))
    optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(journal))  # the only one


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("sweep.json", "{", "["),
        ("sweep.json", '"seed": 0', '"seed": 1'),
        ("sweep.json", '"trials": ', '"trials": 1'),
        ("best.json", "}", ""),
        ("best.json", '"mean": 0.', '"mean": 0.9'),
        ("best.json", "summary", "sumnary"),
        ("trials.csv", "0.", "0.9"),
        ("winner.py", "'seed': ", "'seed': 1"),
        ("report.html", "<td", "<tb"),
        ("provenance.json", '"seed": 0', '"seed": 1'),
        ("optuna.log", '"values":[0.', '"values":[8.'),
        ("optuna.log", '"value":0.', '"value":8.'),
    ],
)
def test_damaged_file_of_a_finished_sweep(
    whole: tuple[plan.Plan, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    old: str,
    new: str,
) -> None:
    a_plan, workdir = whole
    again = copied(workdir, tmp_path)
    content = (again / name).read_text()
    assert old in content
    (again / name).write_text(content.replace(old, new, 1))
    with counting() as counter:
        sweeping.run(a_plan, again)
    assert counter.jobs == []
    assert sweep_folder.check(again, a_plan)  # now there is nothing left to mend
    if name != "optuna.log":  # where the value of a pruned trial, which nothing depends on, may be changed
        assert capsys.readouterr().out.count(f"{again / name}: expected ") == 1
    assert sweeping.outcome(a_plan, again) == sweeping.outcome(a_plan, workdir)
    for beside in ("sweep.json", "trials.csv", "winner.py"):
        found, expected = ((one / beside).read_text().splitlines() for one in (again, workdir))
        assert found[1:] == expected[1:]  # the first one of `winner.py` names the folder


@pytest.mark.parametrize("swapped", [False, True], ids=["digit", "other file"])
@pytest.mark.parametrize("of", ["populations", "confirm"])
def test_damaged_file_about_members_of_a_finished_sweep(
    whole: tuple[plan.Plan, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], of: str, swapped: bool
) -> None:
    """Their trials are known from the record; a confirmation is trained again, to the same bits."""
    a_plan, workdir = whole
    again = copied(workdir, tmp_path)
    path = sorted((again / of).glob("*.json"))[0]
    if swapped:  # with another file that is whole
        path.write_text((again / "sweep.json").read_text())
    else:
        path.write_text(path.read_text().replace('"step": ', '"step": 1', 1))
    sweeping.run(a_plan, again)
    aside = path.with_suffix(".damaged")
    said = f"{path}: expected what was written, found a damaged file; kept as {aside.name}"
    assert said in " ".join(capsys.readouterr().out.split())
    assert aside.exists() and sweep_folder.check(again, a_plan)
    assert sweeping.outcome(a_plan, again) == sweeping.outcome(a_plan, workdir)


def test_report_does_not_vouch_for_damaged_networks(
    whole: tuple[plan.Plan, Path], tmp_path: Path, command_line: CommandLine
) -> None:
    """The sweep's command trains them again afterwards."""
    a_plan, workdir = whole
    again = copied(workdir, tmp_path)
    path = sorted((again / "confirm").glob("*.npz"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert command_line("report", f"--workdir={again}").returncode == 0
    assert sweep_folder.check(again, a_plan) is None
    sweeping.run(a_plan, again)
    assert sweeping.outcome(a_plan, again) == sweeping.outcome(a_plan, workdir)
    assert sweep_folder.check(again, a_plan)


def test_another_sweep_is_refused_where_the_plan_is_damaged(
    folder: Path, whole: tuple[plan.Plan, Path], tmp_path: Path
) -> None:
    again = copied(whole[1], tmp_path)
    (again / "sweep.json").write_text("{")
    before = {path: path.read_bytes() for path in again.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(RunError, match=r"expected the record of this sweep, found that of study"):
        sweeping.run(sweeping.make(folder, **HALVING, seed=7), again)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_other_data_and_settings_of_jax_are_refused(
    whole: tuple[plan.Plan, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_plan, workdir = whole
    again, other = copied(workdir, tmp_path), sweeping.write_archives(tmp_path / "other", first=1000)
    (again / "best.json").unlink()
    with jax.threefry_partitionable(False), pytest.raises(RunError, match="jax_threefry_partitionable: True"):
        sweeping.run(a_plan, again)
    elsewhere = sweeping.make(other, **HALVING)
    with pytest.raises(RunError, match=r"expected the data that study '.*' began with, found another"):
        sweeping.run(elsewhere, again)
    (again / study.JOURNAL).unlink()
    with counting() as counter:
        sweeping.run(elsewhere, again)
    assert len(counter.jobs) == 4  # all is trained anew
    assert "trained on other data" in capsys.readouterr().out


def test_folder_whose_name_no_config_can_have(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a folder without ':'"):
        sweeping.run(sweeping.make(folder), tmp_path / "a:b")


def test_damaged_state_is_noticed_and_trained_anew(
    folder: Path, whole: tuple[plan.Plan, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_plan, workdir = whole
    again = tmp_path / "it"

    class StopError(Exception):
        pass

    def stop_at_the_second_rung(jobs: Any, listener: Any) -> None:
        if any(job.progress.step for job in jobs):
            raise StopError
        executor.local(jobs, listener)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_executor", lambda _: contextlib.nullcontext(stop_at_the_second_rung))
        with pytest.raises(StopError):
            sweeping.run(a_plan, again)
    for path in (again / "populations").glob("*.npz"):  # a bit, in an archive that is whole
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        arrays["params/Dense_0/bias"].view(np.uint8).flat[0] ^= 1
        np.savez(path, allow_pickle=False, **arrays)
    with counting() as counter:
        sweeping.run(a_plan, again)
    assert [job.progress.step for job in counter.jobs] == [0, 0]
    assert capsys.readouterr().out.count("its bits are not those that were saved; its members are") == 2
    mine, theirs = sweeping.outcome(a_plan, again), sweeping.outcome(a_plan, workdir)
    assert mine["trial"] == theirs["trial"]


@pytest.mark.soak
def test_results_do_not_depend_on_population(
    folder: Path, whole: tuple[plan.Plan, Path], tmp_path: Path
) -> None:
    """On a CPU, which takes members one after another, not in a bit; see `test_population` for `vmap`."""
    a_plan, workdir = whole
    for size in (1, 7):
        other = sweeping.make(folder, **HALVING, sweep__population=size, sweep__confirm_seeds=0)
        sweeping.run(other, tmp_path / str(size))
        assert sweeping.results(other, tmp_path / str(size)) == sweeping.results(a_plan, workdir)


@pytest.mark.soak
def test_groups_are_trained_apart_and_trials_keep_their_numbers(folder: Path, tmp_path: Path) -> None:
    a_plan = sweeping.make(
        folder,
        num_epochs=1,
        sweep__space__model__channels="choice((4,), (2,))",
        sweep__seeds=1,
        sweep__confirm_seeds=0,
    )
    with counting() as counter:
        sweeping.run(a_plan, tmp_path / "it")
    shapes = [[one.model["channels"] for one in job.experiments] for job in counter.jobs]
    assert shapes == [[(4,)] * 4, [(2,)] * 4]
    rows = list(csv.DictReader((tmp_path / "it" / "trials.csv").read_text().splitlines()))
    rates = ["0.001", "0.01", "0.03", "0.1"]
    found = {(row["model.channels"], row["optimizer.learning_rate"]): row["trial"] for row in rows}
    wanted = [(channels, rate) for rate in rates for channels in ("(4,)", "(2,)")]
    assert found == {
        pair: str(number) for number, pair in enumerate(sorted(wanted, key=lambda p: p[0] != "(4,)"))
    }


def test_trial_that_diverges_is_a_result(folder: Path, tmp_path: Path) -> None:
    rates = {"sweep__space__optimizer__learning_rate": "choice(1e-2, 1e30)"}
    a_plan = sweeping.make(folder, **rates, **HALVING, sweep__seeds=2, sweep__confirm_seeds=0)
    sweeping.run(a_plan, tmp_path / "it")
    tame, wild = sweeping.results(a_plan, tmp_path / "it")
    assert (tame.state, wild.state, wild.value) == (trials.COMPLETE, trials.NONFINITE, None)
    assert tame.value is not None
    assert [(seed["diverged"], seed["rows"]) for seed in wild.seeds] == [(1, [])] * 2
    rows = list(csv.DictReader((tmp_path / "it" / "trials.csv").read_text().splitlines()))
    assert [row["validation/accuracy"] == "" for row in rows] == [False, True]


@pytest.mark.soak
def test_steps_that_are_left_out_make_a_result_too(folder: Path, tmp_path: Path) -> None:
    a_plan = sweeping.make(
        folder,
        train__on_nonfinite="skip",
        optimizer__learning_rate=1e30,
        sweep__space__optimizer__learning_rate="choice(1e-2, 1e30)",
        sweep__metric="validation/loss",
        sweep__direction="minimize",
        sweep__confirm_seeds=2,
    )
    best = sweeping.run(a_plan, tmp_path / "it")
    tame, wild = sweeping.results(a_plan, tmp_path / "it")
    assert (tame.state, wild.state, wild.value) == (trials.COMPLETE, trials.NONFINITE, None)
    assert (best["confirmed"]["winner"]["diverged"], best["confirmed"]["base"]["diverged"]) == (0, 2)
    assert "as configured, on all training images: all 2 seeds diverged" in best["summary"]


def test_all_diverged(folder: Path, tmp_path: Path) -> None:
    rates = {"sweep__space__optimizer__learning_rate": "choice(1e29, 1e30)"}
    a_plan = sweeping.make(folder, **rates, **HALVING)
    with pytest.raises(NonFiniteError, match="expected a trial that stays finite, found none among 2"):
        sweeping.run(a_plan, tmp_path / "it")
    assert "non-finite" in (tmp_path / "it" / "trials.csv").read_text()
    assert not (tmp_path / "it" / "best.json").exists()


@pytest.mark.soak
def test_nothing_to_choose_is_trained_over_its_seeds(folder: Path, tmp_path: Path) -> None:
    a_plan = sweeping.make(
        folder,
        sweep__space__optimizer__learning_rate="",
        sweep__confirm_seeds=5,
        sweep__population=5,
        dataset__validation_examples=0,
    )
    with counting() as counter:
        best = sweeping.run(a_plan, tmp_path / "it")
    assert [(job.split, len(job.experiments)) for job in counter.jobs] == [("test", 5)]
    found = best["confirmed"]["winner"]["test/accuracy"]
    assert found["n"] == 5
    low, high = found["interval"]
    assert low <= found["mean"] <= high
    assert math.isfinite(found["sd"])


def test_folder_of_another_plan_is_refused(folder: Path, whole: tuple[plan.Plan, Path]) -> None:
    _, workdir = whole
    with pytest.raises(RunError, match=r"config\.sweep\.seeds: 2 there, 3 here"):
        sweeping.run(sweeping.make(folder, **HALVING, sweep__seeds=3), workdir)


def test_trials_may_be_added_until_something_is_confirmed(folder: Path, tmp_path: Path) -> None:
    def a_plan(trials: int, confirm: int) -> plan.Plan:
        return sweeping.make(
            folder,
            num_epochs=1,
            sweep__search="random",
            sweep__trials=trials,
            sweep__seeds=1,
            sweep__confirm_seeds=confirm,
        )

    sweeping.run(a_plan(4, 0), tmp_path / "it")
    few = sweeping.results(a_plan(4, 0), tmp_path / "it")
    with counting() as counter:
        sweeping.run(a_plan(8, 2), tmp_path / "it")
    assert [(job.split, len(job.experiments)) for job in counter.jobs] == [("validation", 4), ("test", 4)]
    many = sweeping.results(a_plan(8, 2), tmp_path / "it")
    assert many[:4] == few
    assert [one.settings for one in many] == [a_plan(8, 2).point(n) for n in range(8)]
    with pytest.raises(RunError, match=r"config\.sweep\.trials: 8 there, 12 here"):
        sweeping.run(a_plan(12, 2), tmp_path / "it")
    (tmp_path / "it" / "best.json").unlink()  # as if it had been interrupted while it confirmed
    with pytest.raises(RunError, match=r"config\.sweep\.trials: 8 there, 12 here"):
        sweeping.run(a_plan(12, 2), tmp_path / "it")


def test_report_of_a_finished_sweep_is_the_one_it_wrote(
    whole: tuple[plan.Plan, Path], command_line: CommandLine
) -> None:
    _, workdir = whole
    before = processes.content(workdir) | {".lock": b""}
    (workdir / "report.html").write_text("no page any more")
    done = command_line("report", f"--workdir={workdir}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"report: {workdir}/report.html\n"
    assert processes.content(workdir) | {".lock": b""} == before


def test_report_of_an_unfinished_sweep(
    whole: tuple[plan.Plan, Path], command_line: CommandLine, tmp_path: Path
) -> None:
    workdir = tmp_path / "it"
    shutil.copytree(whole[1], workdir)
    shutil.rmtree(workdir / "confirm")
    for name in ("best.json", "trials.csv", "winner.py", "report.html"):
        (workdir / name).unlink()
    before = processes.content(workdir) | {".lock": b""}
    done = command_line("report", "--workdir=it")
    assert (done.returncode, done.stderr) == (0, "")
    after = processes.content(workdir) | {".lock": b""}
    page = (after.pop("report.html") or b"").decode()
    assert after == before
    assert "Not finished: 4 of 4 trials have ended." in page and "2 complete, 2 pruned" in page
    first = sorted((workdir / "populations").glob("*.json"))[0]
    whole_text = first.read_text()
    first.write_text(whole_text.replace('"seconds"', '"sxconds"'))
    done = command_line("report", "--workdir=it")
    assert done.stderr.startswith(f"note: it/populations/{first.name} is damaged and the page does without")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    first.write_text(whole_text)
    with files.lock(workdir / ".lock"):
        refused = command_line("report", "--workdir=it")
    assert refused.returncode == 2 and refused.stderr.startswith("error: it")
    assert "expected no other run here, found process" in refused.stderr
    (workdir / "optuna.log").unlink()
    refused = command_line("report", "--workdir=it")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith("error: it/optuna.log: expected the record of the trials, found none")


@pytest.mark.skipif(shutil.which("optuna-dashboard") is None, reason="needs optuna-dashboard")
def test_optuna_dashboard_opens_the_journal(whole: tuple[plan.Plan, Path]) -> None:
    port = processes.free_port()
    command = ["optuna-dashboard", "--host=127.0.0.1", f"--port={port}", str(whole[1] / "optuna.log")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    url = f"http://127.0.0.1:{port}/api/studies"
                    with urllib.request.urlopen(url, timeout=10) as answer:
                        found = json.load(answer)
                    break
                time.sleep(0.1)
        finally:
            process.terminate()
    (study_found,) = found["study_summaries"]
    assert study_found["study_name"].startswith("sweep-")
