"""A tree of settings with a rule at each leaf."""

import math
from typing import Any

import pytest

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn import losses, optimizer
from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import schema


def test_flatten_mappings_config_dicts_and_experiments_alike() -> None:
    assert schema.flatten({"a": 1, "b": {"c": (1, 2), "d": {"e": None}}}) == {
        "a": 1,
        "b.c": (1, 2),
        "b.d.e": None,
    }
    assert schema.flatten({}) == {}
    assert schema.flatten(base.get_config()) == schema.flatten(config_lib.resolve(base.get_config()))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("aplha", "did you mean alpha? valid names: alpha, inner.beta"),
        ("beta", "did you mean inner.beta? valid names: alpha, inner.beta"),
        ("zzz", "valid names: alpha, inner.beta"),
    ],
)
def test_nearest(name: str, hint: str) -> None:
    assert schema.nearest(name, ["inner.beta", "alpha"]) == hint


def test_keys_of_a_table_are_read_from_its_source() -> None:
    assert schema.table_keys("optimizer", "OPTIMIZERS") == tuple(optimizer.OPTIMIZERS)
    assert schema.table_keys("optimizer", "SCHEDULES") == tuple(optimizer.SCHEDULES)
    assert schema.table_keys("losses", "LOSSES") == tuple(losses.LOSSES)
    with pytest.raises(LookupError):
        schema.table_keys("losses", "NONE")


def test_leaf_that_is_new_is_made_up_for_in_records_alone() -> None:
    tree = base.get_config().to_dict()
    del tree["train"]["loss"], tree["eval"]["metrics"], tree["model"]["name"]
    with pytest.raises(ConfigError, match=r"config\.model\.name: missing"):
        config_lib.resolve(tree)
    assert config_lib.resolve(tree, recorded=True) == config_lib.resolve(base.get_config())
    del tree["seed"]
    with pytest.raises(ConfigError, match=r"config\.seed: missing"):
        config_lib.resolve(tree, recorded=True)


@pytest.mark.parametrize("value", [None, {1}, math.inf, [None], object()])
def test_leaf_without_a_rule_is_plain(value: Any) -> None:
    with pytest.raises(ConfigError, match="expected a finite number, a text, true, false or a tuple of such"):
        schema.check_plain("model.x", value)
    assert schema.check_plain("model.x", [1, 2]) == (1, 2)
