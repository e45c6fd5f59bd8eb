"""What is said before a run or a sweep begins."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn import data, train
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.devices import members as members_lib
from mmids_cnn.errors import ConfigError
from mmids_cnn.runs import progress
from mmids_cnn.sweeps import progress as sweep_progress
from tests.support import sweeping
from tests.support.suite import ROOT, Vary

BATCH = "note: config.batch_size is {}; each step takes all {} training examples"
PRECISION = "note: config.train.precision is {}; a CPU computes in float32 all the same"


def test_settings_without_the_effect_they_name_are_noted(
    vary: Vary, small: data.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = vary(batch_size=1001, train={"precision": "bfloat16"})
    for experiment in (larger, vary(batch_size=1000)):
        progress.introduce(experiment, small, Path("run"), Terminal("none"))
    expected = [BATCH.format("1,001", "1,000"), PRECISION.format("bfloat16")]
    assert capsys.readouterr().out.splitlines() == expected


def test_and_those_of_a_sweep_once_each(
    small: data.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {
        "sweep__space__batch_size": "choice(50, 2000)",
        "sweep__space__train__precision": "choice('float32', 'tensorfloat32')",
    }
    plan = sweeping.make(tmp_path, **space)
    sweep_progress.introduce(plan, small, Path("sweep"), Terminal("none"))
    expected = [BATCH.format("2,000", "1,000"), PRECISION.format("tensorfloat32")]
    assert sorted(capsys.readouterr().out.splitlines()) == expected


@pytest.mark.parametrize("batch", [3, 4])
def test_tpe_without_a_result_to_learn_from_is_noted(
    small: data.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], batch: int
) -> None:
    plan = sweeping.make(tmp_path, sweep__search="tpe", sweep__trials=4, sweep__batch=batch)
    sweep_progress.introduce(plan, small, Path("sweep"), Terminal("none"))
    note = "note: config.sweep.batch is 4, for 4 trials: tpe suggests all of them before it has seen a result"
    assert capsys.readouterr().out.splitlines() == [note] * (batch == 4)


def test_sweep_over_networks_of_which_one_fits_no_memory(small: data.Dataset, tmp_path: Path) -> None:
    plan = sweeping.make(tmp_path, sweep__space__model__channels="choice((4,), (65536, 65536))")
    with pytest.raises(ConfigError, match=r"config\.model: expected a network .* lower --config\.model\."):
        sweep_progress.introduce(plan, small, Path("sweep"), Terminal("none"))


def test_trials_that_are_trained_together_fill_the_memory_together(
    small: data.Dataset, tmp_path: Path
) -> None:
    """Those of a setting that changes no shape, not those of one that does: a trial is then by itself."""
    many = {"sweep__population": 10**7, "sweep__seeds": 10**6, "sweep__search": "random", "sweep__trials": 10}
    together = sweeping.make(tmp_path, **many)
    with pytest.raises(ConfigError, match=r"10,000,000 of them at once; .*--config\.sweep\.population"):
        sweep_progress.introduce(together, small, Path("sweep"), Terminal("none"))
    few = many | {"sweep__seeds": 10, "sweep__space__model__channels": "choice((1,), (2,))"}
    sweep_progress.introduce(sweeping.make(tmp_path, **few), small, Path("sweep"), Terminal("none"))


POINTS = json.loads((ROOT / "tests" / "benchmarks" / "records" / "gpu.json").read_text())["points"]


@pytest.mark.parametrize("members", [1, 16, 64])
def test_memory_of_a_gpu_is_foreseen(members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From two thirds of what was measured there to all of it, as what is said is the least."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(members_lib, "sharing", lambda members: 1)  # one GPU
    experiment = config_lib.resolve(base.get_config())
    splits = {
        name: data.Split(np.zeros((count, 28, 28, 1), np.uint8), np.zeros(count, np.int32))
        for name, count in (("train", 60_000), ("test", 10_000))
    }
    found = train.require_memory(experiment, data.Dataset("mnist", splits, 10, ""), members)
    measured = {
        point["peak_bytes"]
        for point in POINTS
        if point.get("peak_bytes") and point["form"] == "tiles" and point["experiment"] == "base"
        if point["members"] == members
    }
    assert measured
    assert all(0.66 * peak <= found <= peak for peak in measured), (found, measured)
