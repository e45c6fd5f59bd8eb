"""Folders of an earlier version go on being of use: `before/` holds a run and two sweeps of 0.1.0.

The bits of a run are those of its kind of processor. Where this one is another than that of the folders, what
is trained anew has to come near their figures, and is allowed no more than that.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmids_cnn.devices import device
from tests.support.suite import ROOT, CommandLine

BEFORE = Path(__file__).parent / "before"
RUN = (
    *(f"--config={ROOT}/experiments/base.py", "--config.model.channels=4,8", "--config.batch_size=50"),
    *("--config.dataset.validation_examples=59000", "--config.checkpoint.keep=1", "--progress=plain"),
)
SWEEP = (
    *(f"--config={ROOT}/experiments/sweep.py", *RUN[1:4], "--config.num_epochs=2", "--progress=plain"),
    *("--config.sweep.halving=2", "--config.sweep.rungs=1,", "--config.sweep.population=2"),
    *("--config.sweep.confirm_seeds=1", "--config.sweep.space.optimizer.learning_rate=choice(1e-3,4e-3)"),
)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(BEFORE, tmp_path, dirs_exist_ok=True)
    return tmp_path


def same_processor() -> bool:
    return read(BEFORE / "run" / "provenance.json")["device"]["kind"] == device.found()["kind"]


def test_run_is_shown(folder: Path, command_line: CommandLine) -> None:
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    done = command_line("main", *RUN, "--config.num_epochs=2", "--workdir=run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "run: finished already" in done.stdout and "accuracy 52.18 %" in done.stdout
    assert all(path.read_bytes() == content for path, content in before.items())


def test_run_is_evaluated_and_predicted_with(folder: Path, command_line: CommandLine) -> None:
    done = command_line("evaluate", "--workdir=run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "test accuracy 52.18 % of 10,000 images, loss 2.035" in done.stdout
    done = command_line("predict", "--workdir=run", "--test_index=0", "--checkpoint=best")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("test image 0 (label 7): class 7\n")


def test_run_goes_on(folder: Path, command_line: CommandLine) -> None:
    rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    done = command_line("main", *RUN, "--config.num_epochs=3", "--workdir=run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "going on from step 40 of run" in done.stdout
    now = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert now[:3] == rows and len(now) == 4
    anew = command_line("main", *RUN, "--config.num_epochs=3", "--workdir=anew")
    assert (anew.returncode, anew.stderr) == (0, "")
    results = [read(folder / name / "result.json") for name in ("run", "anew")]
    assert results[0]["test/loss"] == pytest.approx(results[1]["test/loss"], rel=1e-4)
    if same_processor():
        assert results[0]["fingerprint"] == results[1]["fingerprint"]


def test_run_is_reproduced(folder: Path, command_line: CommandLine) -> None:
    done = command_line("reproduce", "--workdir=run", "--progress=none")
    result = {name: read(folder / name / "result.json") for name in ("run", "run-reproduced")}
    assert result["run-reproduced"]["test/loss"] == pytest.approx(result["run"]["test/loss"], rel=1e-4)
    if same_processor():
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1].startswith("identical: ")


def test_sweep_is_shown(folder: Path, command_line: CommandLine) -> None:
    done = command_line("main", *SWEEP, "--workdir=sweep")
    assert (done.returncode, done.stderr) == (0, "")
    assert "sweep: finished already" in done.stdout and "learning_rate=0.004: validation" in done.stdout


def test_winner_is_an_experiment_file_still(folder: Path, command_line: CommandLine) -> None:
    """All of its leaves are there but for those that were not yet: what is missing is the data."""
    done = command_line("main", "--config=sweep/winner.py", "--config.dataset.archives=nowhere")
    assert done.returncode == 2 and done.stderr.startswith("error: dataset.archives: ")


def test_interrupted_sweep_goes_on(folder: Path, command_line: CommandLine) -> None:
    (folder / "sweep-interrupted").rename(folder / "again")
    done = command_line("main", *SWEEP, "--workdir=again")
    assert (done.returncode, done.stderr) == (0, "")
    assert "skipped" not in done.stdout
    old, new = (read(folder / name / "best.json") for name in ("sweep", "again"))
    assert (new["trial"], new["settings"]) == (old["trial"], old["settings"])
    assert new["validation"]["mean"] == pytest.approx(old["validation"]["mean"], rel=1e-3)
    # The first rung was not trained again: its population is the one that was there.
    name = "populations/trial0-seed0-2-to-epoch1.json"
    assert (folder / "again" / name).read_bytes() == (BEFORE / "sweep-interrupted" / name).read_bytes()
    if same_processor():
        assert (folder / "again" / "trials.csv").read_text() == (folder / "sweep" / "trials.csv").read_text()
        assert new["confirmed"] == old["confirmed"]
