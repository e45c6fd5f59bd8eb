"""Every experiment file is valid and trains."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from mmids_cnn import config as config_lib
from mmids_cnn import data, feed, train
from mmids_cnn.console import experiment_file
from tests.support.suite import ROOT

FILES = sorted((ROOT / "experiments").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_experiment_trains_two_steps(path: Path, small: data.Dataset) -> None:
    config = experiment_file.load(str(path))
    if "sweep" in config:
        del config.sweep
    experiment = config_lib.resolve(config)
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
