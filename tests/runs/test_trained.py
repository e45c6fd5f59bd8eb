"""The network of a run, loaded for whatever is done with it afterwards."""

import contextlib
import dataclasses
from pathlib import Path

import pytest

from mmids_cnn import config as config_lib
from mmids_cnn import data, train
from mmids_cnn.errors import RunError
from mmids_cnn.runs import trained
from mmids_cnn.storage import checkpoints
from tests.support.suite import Vary


def test_configuration_of_another_run_is_refused(vary: Vary, small: data.Dataset, tmp_path: Path) -> None:
    """Also where its network has the same shapes; that of a longer run is as good."""
    experiment = vary(num_epochs=2, model={"channels": (2,)})
    meta = {"config": config_lib.to_dict(experiment), "data": small.fingerprint}
    with contextlib.closing(checkpoints.Saver(tmp_path / "checkpoints")) as saver:
        saver.save(1, train.to_saved(train.init_state(experiment, small)), meta, 0.0)
    longer = dataclasses.replace(experiment, num_epochs=3)
    assert trained.load(tmp_path, longer, small, "newest", pytest.fail).step == 1
    other = dataclasses.replace(longer, seed=experiment.seed + 1)
    with pytest.raises(
        RunError, match=r"expected the configuration of the checkpoints, .* differs in .*seed"
    ):
        trained.load(tmp_path, other, small, "newest", pytest.fail)
