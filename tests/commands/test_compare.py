"""`compare`: runs of a folder, groups over seeds, two runs image by image."""

import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from mmids_cnn.runs import folder as run_folder
from mmids_cnn.storage import files
from tests.support.processes import Place, rewritten
from tests.support.suite import CommandLine, undocumented


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, unbroken: Path) -> Path:
    """Copies of a run with seeds and results of their own: groups of three and of two, and two more."""
    root = tmp_path_factory.mktemp("compare") / "runs"
    results = {
        "a0": (0, 0.001, 0.80),
        "a1": (1, 0.001, 0.82),
        "a2": (2, 0.001, 0.84),
        "b0": (0, 0.01, 0.90),
        "deep/b1": (1, 0.01, 0.91),
        "deep/b1-again": (1, 0.01, 0.99),
    }
    for name, (seed, rate, accuracy) in results.items():
        shutil.copytree(unbroken, root / name, ignore=shutil.ignore_patterns("checkpoints"))
        with rewritten(root / name) as (config, result):
            config["seed"], config["optimizer"]["learning_rate"] = seed, rate
            result["test/accuracy"] = accuracy
    shutil.copytree(root / "a0", root / "unfinished")
    (root / "unfinished" / "result.json").unlink()
    return root


@pytest.mark.soak
def test_groups_over_seeds(runs: Path, command_line: CommandLine) -> None:
    done = command_line(
        "compare", *(str(runs / name) for name in ("a0", "a1", "a2", "unfinished", "b0", "deep"))
    )
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        f"note: left out: {runs}/unfinished, which is not finished",
        f"note: left out: {runs}/deep/b1-again, which has the configuration and the seed of {runs}/deep/b1",
    ]
    assert "82.00 ± 2.00 % (n = 3)" in done.stdout and "90.50 ± 0.71 % (n = 2)" in done.stdout
    assert "groups 1 and 2 differ in optimizer.learning_rate: 0.001, 0.01\n" in done.stdout
    found = re.search(r"the second is better by (\S+) points .*interval (\S+) to (\S+)\)", done.stdout)
    assert found and float(found[1]) == pytest.approx(8.5, abs=1e-3)
    assert 4 < float(found[2]) < 8.5 < float(found[3]) < 13
    assert "so few values tell by their spread alone, not by their order" in done.stdout
    assert "Welch p = " in done.stdout and "permutation p = 0.2" in done.stdout  # 2 of 10 ways


def test_single_run_beside_a_group(runs: Path, command_line: CommandLine) -> None:
    done = command_line("compare", *(str(runs / name) for name in ("a0", "a1", "a2", "b0")))
    assert (done.returncode, done.stderr) == (0, "")
    assert "not distinguishable (second less first: +8.000 points" in done.stdout
    assert "one of them is a single run" in done.stdout


def altered(runs: Path, target: Path, name: str, what: str, value: str) -> Path:
    """A copy of a run whose provenance has something else."""
    shutil.copytree(runs / name, target)
    known = files.read_sealed(target / run_folder.PROVENANCE)
    if what == "data":
        known["dataset"]["fingerprint"] = value
    elif what == "source":
        known["sources"]["own:loss"]["sha256"] = value
    else:
        known["packages"][what] = value
    files.write_sealed(target / run_folder.PROVENANCE, known)
    return target


def test_runs_of_other_data_are_a_group_of_their_own(
    runs: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    other = altered(runs, tmp_path / "other", "a0", "data", "abcd" * 16)
    done = command_line("compare", str(runs / "a0"), str(runs / "a1"), str(other))
    assert done.returncode == 0
    assert "note: the runs have different data: " in done.stderr and "abcdabcdabcdabcd" in done.stderr
    assert re.search(r"groups 1 and 2 differ in data: '\w{16}', 'abcdabcdabcdabcd'\n", done.stdout)
    assert "80.00 % (n = 1)" in done.stdout


def test_runs_of_other_sources_are_a_group_of_their_own(
    runs: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    for name in ("a0", "a1", "a2"):
        shutil.copytree(runs / name, tmp_path / name)
        with rewritten(tmp_path / name) as (config, _):
            config["train"]["loss"] = "own:loss"
        known = files.read_sealed(tmp_path / name / run_folder.PROVENANCE)
        known["sources"] = {"own:loss": {"root": str(tmp_path), "sha256": "0" * 64}}
        files.write_sealed(tmp_path / name / run_folder.PROVENANCE, known)
    done = command_line("compare", *(str(tmp_path / name) for name in ("a0", "a1", "a2")))
    assert "found one group of 3" in done.stderr
    altered(tmp_path, tmp_path / "b1", "a1", "source", "1" * 64)
    done = command_line("compare", "a0", "a1", "b1")
    assert (done.returncode, done.stderr) == (0, "")
    said = f"groups 1 and 2 differ in source of own:loss: '{'0' * 16}', '{'1' * 16}'"
    assert said in " ".join(done.stdout.split())


def test_other_versions_are_said(runs: Path, tmp_path: Path, command_line: CommandLine) -> None:
    other = altered(runs, tmp_path / "other", "b0", "optax", "0.0.1")
    done = command_line("compare", str(runs / "a0"), str(runs / "a1"), str(other))
    assert done.returncode == 0
    assert re.fullmatch(r"note: the runs have different versions of optax: 0\.0\.1; \S+\n", done.stderr)


def test_three_groups_are_three_pairs(runs: Path, tmp_path: Path, command_line: CommandLine) -> None:
    shutil.copytree(runs / "b0", tmp_path / "c0")
    with rewritten(tmp_path / "c0") as (config, _):
        config["train"]["average_decay"] = 0.9
    done = command_line("compare", *(str(runs / name) for name in ("a0", "a1", "b0", "deep/b1")), "c0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 pairs, each judged by itself: chance alone makes one in twenty look different" in done.stdout
    assert re.search(r"3 +│ 90\.00 % \(n = 1\) +│ averaged │ 0 ", done.stdout)


def test_list(runs: Path, command_line: CommandLine) -> None:
    done = command_line("compare", str(runs), "--csv", "--sort=accuracy")
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    accuracies = [float(row["test accuracy"]) for row in rows[:-1]]
    assert accuracies == [0.99, 0.91, 0.90, 0.84, 0.82, 0.80]
    assert (rows[-1]["state"], rows[-1]["test accuracy"], rows[0]["of"]) == ("unfinished", "", "200")
    assert "optimizer.learning_rate=0.01" in rows[0]["differs from base in"]
    assert "learning_rate" not in rows[-1]["differs from base in"]
    shown = command_line("compare", str(runs)).stdout
    assert "99.00 %" in shown and shown.index("a0") < shown.index("deep/b1")


def test_objects(runs: Path, command_line: CommandLine) -> None:
    done = command_line("compare", str(runs), "--json", "--sort=accuracy")
    assert undocumented("compare", done.stdout) == set()
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["accuracy"] for one in listed] == [0.99, 0.91, 0.90, 0.84, 0.82, 0.80, None]
    assert listed[0]["differs"]["optimizer.learning_rate"] == 0.01 and listed[0]["count"] == 200
    assert (listed[0]["run"], listed[-1]["state"]) == (f"{runs}/deep/b1-again", "unfinished")
    done = command_line("compare", *(str(runs / name) for name in ("a0", "a1", "a2", "b0", "deep")), "--json")
    assert undocumented("compare", done.stdout) == set()
    first, second, pair = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["seeds"], first["mean"], second["runs"][0]) == (
        [0, 1, 2],
        pytest.approx(0.82),
        f"{runs}/b0",
    )
    assert pair["groups"] == [1, 2] and pair["differs"] == {"optimizer.learning_rate": [0.001, 0.01]}
    assert pair["difference"] == pytest.approx(8.5) and pair["permutation"] == pytest.approx(0.2)


def test_two_runs_by_their_images(place: Place, unbroken: Path) -> None:
    shutil.copytree(unbroken, place.work / "one")
    assert place.run("third", "--config.optimizer.learning_rate=0.003").returncode == 0
    command = [sys.executable, "-m", "mmids_cnn.compare", "one", "third"]
    done = place.forking.run(command, place.work, place.environment())
    assert (done.returncode, done.stderr) == (0, "")
    found = re.search(
        r"of 200 test images (\d+) are right in the first alone, (\d+) in the second", done.stdout
    )
    assert found
    results = [json.loads((place.work / name / "result.json").read_text()) for name in ("one", "third")]
    right = [round(200 * result["test/accuracy"]) for result in results]
    assert int(found[2]) - int(found[1]) == right[1] - right[0]
    assert right[0] != right[1]
    done = place.forking.run([*command, "--json"], place.work, place.environment())
    assert undocumented("compare", done.stdout) == set()
    pair = json.loads(done.stdout.splitlines()[-1])
    assert (pair["first"], pair["second"], pair["count"]) == (int(found[1]), int(found[2]), 200)
    assert place.run("seed", "--config.seed=1").returncode == 0
    done = place.forking.run([*command[:3], "one", "seed"], place.work, place.environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert "groups 1 and 2 differ in the seed alone\n" in done.stdout and "McNemar" in done.stdout


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nowhere"], "nowhere: expected the folder of a run or sweep, or one with some in it, found none; "),
        (["a0", "b0", "--csv"], "--csv: expected one folder, whose runs are listed, got 2; leave it out"),
        (["a0", "b0", "--sort=date"], "--sort: expected one folder, whose runs are listed, got 2; "),
        (["a0", "a1", "a2"], "expected finished runs of at least two .* of one, found one group of 3; "),
        (["unfinished", "unfinished"], "expected finished runs .* found none that is finished"),
    ],
)
def test_mistakes(runs: Path, command_line: CommandLine, names: list[str], message: str) -> None:
    done = command_line("compare", *(str(runs / x) if "--" not in x else x for x in names))
    assert done.returncode == 2
    assert re.search(message, done.stderr.splitlines()[-1])


def test_damaged_run_is_left_out(runs: Path, tmp_path: Path, command_line: CommandLine) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    path = tmp_path / "runs" / "a1" / "result.json"
    path.write_text(path.read_text().replace("0.82", "0.92"))
    done = command_line("compare")  # `runs` is what it lists by itself
    assert done.returncode == 0
    assert "left out: runs/a1/result.json: expected what was written, found a damaged file" in done.stderr
    assert "a2" in done.stdout and "92.00" not in done.stdout
