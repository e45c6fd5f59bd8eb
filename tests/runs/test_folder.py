"""Which run may go on in a folder that holds one already."""

from pathlib import Path
from typing import Any

import pytest

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn.errors import RunError
from mmids_cnn.runs import folder


def experiment(**leaves: Any) -> config_lib.Experiment:
    config = base.get_config()
    with config.unlocked():
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in leaves.items()})
    return config_lib.resolve(config)


@pytest.mark.parametrize(
    ("both", "now", "words"),
    [
        ({}, {"num_epochs": 11}, ""),
        ({}, {"checkpoint__keep": 9, "eval__every_seconds": 5.0, "dataset__data_dir": "/elsewhere"}, ""),
        ({}, {"num_epochs": 9}, "config.num_epochs: 10 there, 9 here"),
        ({}, {"num_epochs": 11, "seed": 1}, "config.seed: 0 there, 1 here; give it another"),
        ({"optimizer__schedule": "cosine"}, {"num_epochs": 11}, "config.num_epochs: 10 there, 11 here"),
        ({"optimizer__warmup_fraction": 0.1}, {"num_epochs": 11}, "config.num_epochs: 10 there, 11 here"),
    ],
)
def test_run_that_goes_on_or_does_not(both: dict[str, Any], now: dict[str, Any], words: str) -> None:
    """It may be made longer where no schedule spans all epochs."""
    before, after = experiment(num_epochs=10, **both), experiment(**{"num_epochs": 10, **both, **now})
    if words:
        with pytest.raises(RunError) as caught:
            folder.require_same(Path("it"), before, after)
        assert f"it: expected a run of this configuration, found one that differs in {words}" in str(
            caught.value
        )
    else:
        folder.require_same(Path("it"), before, after)
