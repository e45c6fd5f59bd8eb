"""Every experiment file is valid and trains."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mmids_cnn import config as config_lib
from mmids_cnn import data, feed, model, train
from mmids_cnn.console import experiment_file
from mmids_cnn.runs import compare
from mmids_cnn.sweeps import config as sweep_config
from tests.support.suite import ROOT, BatchOf

FILES = sorted((ROOT / "experiments").glob("*.py"))
SWEEPS = [path for path in FILES if "sweep" in experiment_file.load(str(path))]
SINGLE = [path for path in FILES if path not in SWEEPS]


@pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])
def test_sweep_is_around_an_experiment_and_held_out_images(path: Path) -> None:
    plan = sweep_config.resolve(experiment_file.load(str(path)))
    assert plan.experiment.dataset.validation_examples >= 5000
    assert plan.trials == 0 or plan.axes
    if path.stem.removesuffix("_sweep") in [
        one.stem for one in SINGLE
    ]:  # seeds of a recipe's result are 0, 1, ...
        assert min(plan.seeds) >= 1000 and plan.sweep.confirm_seeds == 0


RECIPES = json.loads((ROOT / "tests" / "benchmarks" / "records" / "recipes.json").read_text())["recipes"]


@pytest.mark.parametrize("name", [*RECIPES, "ensemble"])
def test_header_has_the_recorded_accuracy(name: str) -> None:
    runs = RECIPES["record"]["ensembles"] if name == "ensemble" else RECIPES[name]["runs"]
    found = [100 * run["test/accuracy"] for run in runs]
    expected = f"{np.mean(found):.2f} ± {np.std(found, ddof=1):.2f} %\n(n = {len(found)}"
    header = (ROOT / "experiments" / f"{name}.py").read_text().split('"""')[1]
    assert " ".join(expected.split()) in " ".join(header.split())


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_the_one_that_was_recorded(name: str) -> None:
    experiment = config_lib.resolve(experiment_file.load(name))
    rows = model.table(model.make(experiment, (28, 28, 1), 10), (28, 28, 1))
    recorded = RECIPES[name]
    assert recorded["settings"] == json.loads(json.dumps(compare.settings(experiment)))
    assert recorded["parameters"] == sum(row.parameters for row in rows)
    assert (recorded["epochs"], recorded["weights"]) == (
        experiment.num_epochs,
        config_lib.weights(experiment),
    )


@pytest.mark.soak
@pytest.mark.parametrize("path", SINGLE, ids=[path.stem for path in SINGLE])
def test_experiment_fits_its_images(path: Path, small: data.Dataset, batch_of: BatchOf) -> None:
    """In the abstract: what the recipes are made of is trained in the tests of each."""
    experiment = config_lib.resolve(experiment_file.load(str(path)))
    state, batch = train.init_state(experiment, small), batch_of(range(8), 8)
    after, sums = jax.eval_shape(train.train_step, state, batch)
    shapes = [[x.shape for x in jax.tree.leaves(tree)] for tree in (after, state)]
    assert shapes[0] == shapes[1] and "accuracy" in sums.totals


@pytest.mark.soak
@pytest.mark.parametrize("name", ["base", "fast", "own_network", "own_parts"])
def test_experiment_trains_two_steps(name: str, small: data.Dataset) -> None:
    experiment = config_lib.resolve(experiment_file.load(name))
    experiment = dataclasses.replace(experiment, batch_size=min(experiment.batch_size, 500))
    batches = feed.make(experiment, small.splits["train"])
    state = train.init_state(experiment, small)
    before = jax.device_get(state.params)
    batches.compile(state)
    state = batches.advance(state, 0, 0, 2)
    assert (state.step, state.nonfinite) == (2, 0)
    for new, old in zip(jax.tree.leaves(state.params), jax.tree.leaves(before), strict=True):
        assert np.isfinite(new).all()
        assert (new != old).any()


def test_there_are_experiments() -> None:
    assert "base" in [path.stem for path in FILES]
