"""The networks that a sweep ends with: kept, scored as one, and mended where they are damaged."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import data, model
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import RunError
from mmids_cnn.runs import run
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder as sweep_folder
from mmids_cnn.sweeps import members, plan
from tests.support import sweeping
from tests.support.suite import CommandLine


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[plan.Plan, Path]:
    """A sweep over nothing that trained three seeds, whose averaged weights count."""
    archives = sweeping.write_archives(tmp_path_factory.mktemp("digits"))
    a_plan = sweeping.make(
        archives,
        sweep__space__optimizer__learning_rate="",
        sweep__confirm_seeds=3,
        sweep__population=2,
        optimizer__learning_rate=1e-2,
        train__average_decay=0.5,
    )
    workdir = tmp_path_factory.mktemp("swept") / "it"
    sweeping.run(a_plan, workdir)
    return a_plan, workdir


def test_sweep_is_scored_as_an_ensemble(swept: tuple[plan.Plan, Path], command_line: CommandLine) -> None:
    _, workdir = swept
    done = command_line("evaluate", f"--workdir={workdir}")
    assert (done.returncode, done.stderr) == (0, "")
    confirmed = json.loads((workdir / "best.json").read_text())["confirmed"]["winner"]["seeds"]
    *each, together = re.findall(
        r"test accuracy ([\d.]+) % of 200 images, loss ([\d.]+)[,;] (.*)", done.stdout
    )
    assert [float(accuracy) for accuracy, _, _ in each] == [
        pytest.approx(100 * one["test/accuracy"]) for one in confirmed
    ]
    assert [float(loss) for _, loss, _ in each] == [
        pytest.approx(one["test/loss"], abs=1e-4) for one in confirmed
    ]
    assert [title for *_, title in each] == [
        f"averaged parameters after step 24 of {workdir}, seed {seed}" for seed in (0, 1, 2)
    ]
    assert all(one["test_live/accuracy"] != one["test/accuracy"] for one in confirmed)
    dataset = data.load(sweep_folder.confirmed(workdir)[0].dataset)
    split = dataset.splits["test"]
    images = jnp.asarray(split.images)
    predicted: list[Any] = [
        model.predict_proba(one.network, jax.tree.map(jnp.asarray, one.variables), images)
        for one in (member.trained for member in members.load(workdir, dataset, "newest", pytest.fail))
    ]
    mean = np.mean(predicted, 0, np.float64)
    assert float(together[0]) == pytest.approx(100 * np.mean(mean.argmax(1) == split.labels))
    assert together[2].endswith("the mean of the probabilities of 3 networks")


def test_damaged_networks_are_refused_and_trained_again(
    swept: tuple[plan.Plan, Path], tmp_path: Path
) -> None:
    a_plan, whole = swept
    workdir = shutil.copytree(whole, tmp_path / "it")
    dataset = data.load(a_plan.experiment.dataset)
    kept = {path.name: path.read_bytes() for path in (workdir / "confirm").glob("*.npz")}
    torn, lost = sorted(workdir.glob("confirm/*.npz"))
    torn.write_bytes(torn.read_bytes()[:-1])
    lost.unlink()
    with pytest.raises(RunError, match=r"the sweep's command trains its confirmation again$"):
        members.load(workdir, dataset, "newest", pytest.fail)
    sweeping.run(a_plan, workdir)
    assert {path.name: path.read_bytes() for path in (workdir / "confirm").glob("*.npz")} == kept
    assert sweeping.outcome(a_plan, workdir) == sweeping.outcome(a_plan, whole)


def test_networks_that_were_not_kept(swept: tuple[plan.Plan, Path], tmp_path: Path) -> None:
    """As of an earlier version, which is shown as finished, and whose states are nowhere."""
    a_plan, whole = swept
    workdir = shutil.copytree(whole, tmp_path / "it")
    for path in (workdir / "confirm").glob("*.json"):
        files.write_sealed(path, {**files.read_sealed(path), "state": "", "state_digest": ""})
    for path in (workdir / "confirm").glob("*.npz"):
        path.unlink()
    with pytest.raises(RunError, match="expected the parameters of trial0-seed0, found none; "):
        members.load(workdir, data.load(a_plan.experiment.dataset), "newest", pytest.fail)


@pytest.mark.parametrize(
    ("seeds", "flags", "message"),
    [
        (0, [], "it: expected networks of its confirmation, found none; set --config.sweep.confirm_seeds"),
        (None, [], "it: expected a finished sweep, found one that is not, or damaged; give the sweep's "),
        (
            1,
            ["--checkpoint=best"],
            "--checkpoint: expected newest for a sweep, which keeps no other, got 'best'",
        ),
    ],
)
def test_sweep_that_cannot_be_scored(
    seeds: int | None,
    flags: list[str],
    message: str,
    swept: tuple[plan.Plan, Path],
    tmp_path: Path,
    command_line: CommandLine,
) -> None:
    workdir = shutil.copytree(swept[1], tmp_path / "it")
    best = files.read_sealed(workdir / "best.json")
    best["confirmed"]["winner"]["seeds"] = best["confirmed"]["winner"]["seeds"][: seeds or 0]
    files.write_sealed(workdir / "best.json", best)
    if seeds is None:
        (workdir / "best.json").unlink()
    done = command_line("evaluate", f"--workdir={workdir}", *flags)
    assert done.returncode != 0 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_seeds_of_a_sweep_are_compared(
    swept: tuple[plan.Plan, Path], command_line: CommandLine, tmp_path: Path
) -> None:
    a_plan, workdir = swept
    seeds = json.loads((workdir / "best.json").read_text())["confirmed"]["winner"]["seeds"]
    listed = command_line("compare", str(workdir), "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    for line, one in zip(listed.stdout.splitlines(), seeds, strict=True):
        found = json.loads(line)
        assert (found["seed"], found["accuracy"]) == (one["seed"], one["test/accuracy"])
        assert (found["of"], found["weights"], found["state"]) == ("winner", "averaged", "finished")
    other = dataclasses.replace(a_plan.confirmed({}, 7), num_epochs=1)
    run.execute(other, tmp_path / "run", Terminal("none"))
    done = command_line("compare", str(workdir), "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "(n = 3)" in done.stdout and "groups 1 and 2 differ in num_epochs: 2, 1\n" in done.stdout
    same = dataclasses.replace(a_plan.confirmed({}, 1), report=False)
    run.execute(same, tmp_path / "same", Terminal("none"))
    done = command_line("compare", str(workdir), "run", "same")
    assert f"left out: same, which has the configuration and the seed of {workdir}, winner" in done.stderr
