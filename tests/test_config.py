"""Configuration trees: what is accepted, what is refused and with which words."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import schema

NAN, INF = math.nan, math.inf

# Leaf: (values at and inside the border, values just outside it or of another kind). Written down here once
# more, by hand, so that a rule that moves in the source fails here.
RULES: dict[str, tuple[list[Any], list[Any]]] = {
    "seed": ([0, 2**32 - 1], [-1, 2**32, 1.0, True, "1", None, (1,)]),
    "num_epochs": ([1, 1000], [0, -1, 1.5, 1.0, True, "1", None, NAN]),
    "batch_size": ([1, 128], [0, -128, 128.0, False, "128", None]),
    "report": ([True, False], [1, 0, "true", None]),
    "dataset.name": (
        ["mnist", "emnist/letters:3.1.0", "x" * 200],
        ["", " ", "\t", "a\0b", ".", "a/..", "/a", "x" * 201, "\udcff", 1, None, True],
    ),
    "dataset.data_dir": (["", "~/x y"], ["a\0b", "~nobody-of-that-name", "\udcff", None, 1, ("a",)]),
    "dataset.archives": (["", "ä/b"], ["a\0b", None, 1]),
    "dataset.validation_examples": ([0, 59_999], [-1, 0.5, 5.0, True, "5", None]),
    "dataset.placement": (["auto", "resident", "streamed"], ["", "AUTO", "gpu", None, 1]),
    "model.name": (["conv_net", "mine:Net"], ["", "ConvNet", ":x", "a b:C", None, 1]),
    "model.channels": (
        [(1,), (16, 32, 32), [8, 8]],
        [(), [], (0,), (8, -1), (2**16 + 1,), (10**24,), (8.0,), (True,), 8, "8,8", None],
    ),
    "model.kernel_size": ([1, 3, 99], [0, 2, -3, 101, 2**63 - 1, 3.0, True, (3, 3), None]),
    "optimizer.name": (
        ["adam", "adamw", "lion", "sgd", "my.file:mine"],
        ["", "Adam", "adagrad", ":a", "a:", "a b:c", None, 1],
    ),
    "optimizer.learning_rate": ([1e-8, 1e-3, 1], [0.0, 0, -1e-3, NAN, INF, -INF, "1e-3", None, True]),
    "optimizer.b1": ([0.0, 0, 0.999], [1.0, 1, -0.1, NAN, INF, "0.9", None]),
    "optimizer.b2": ([0.0, 0.9999], [1.0, 1.1, -1e-9, NAN, INF, "0.9", None]),
    "optimizer.eps": ([1e-8, 1], [0.0, -1e-8, NAN, INF, "0", None]),
    "optimizer.weight_decay": ([0.0, 0, 0.1], [-0.1, NAN, INF, -INF, "0", None]),
    "optimizer.schedule": (["constant", "cosine", "one_cycle", "mine:falls"], ["", "linear", None]),
    "optimizer.warmup_fraction": ([0.0, 0.999], [1.0, -0.1, NAN, INF, "0", None]),
    "augment.names": (
        [(), ("cutout", "affine"), ("affine", "mine:noise")],
        [("affine", "affine"), ("mixup",), "affine", ("a:",), None],
    ),
    "augment.flip": ([0.0, 0.5, 1], [-0.1, 1.1, NAN, "2", None]),
    "augment.shift": ([0.0, 2, 128], [-1.0, 129, NAN, INF, "2", None, True]),
    "augment.rotation": ([0.0, 180], [-1.0, 181, NAN, "2", None]),
    "augment.scale": ([0.0, 0.5], [-0.1, 0.6, NAN, "2", None]),
    "augment.shear": ([0.0, 1], [-0.1, 1.1, NAN, "2", None]),
    "augment.cutout": ([0.0, 8], [-0.1, 1e6, NAN, "2", None]),
    "train.loss": (["cross_entropy", "squared_error", "my.file:loss"], ["", "hinge", None]),
    "train.label_smoothing": ([0.0, 0.999], [1.0, -0.1, NAN, INF, "0", None]),
    "train.clip_norm": ([0.0, 1, 1e3, 1.1e-37], [-0.1, NAN, INF, "1", None, 1e-46, 1e-38]),
    "train.average_decay": ([0.0, 0.999], [1.0, 1 - 1e-10, -0.1, NAN, "0.9", None]),
    "train.patience": ([0, 3], [-1, 0.0, True, None]),
    "train.groups": ([0, 1, 1024], [-1, 1025, 1.0, True, None]),
    "train.precision": (["float32", "tensorfloat32", "bfloat16"], ["", "float64", None]),
    "train.on_nonfinite": (["stop", "skip"], ["", "ignore", None, False]),
    "eval.metrics": (
        [("loss", "accuracy"), ("accuracy", "loss", "brier"), ("loss", "accuracy", "m:f1")],
        [
            (),
            ("loss",),
            ("loss", "accuracy", "f1"),
            ("loss", "loss", "accuracy"),
            ("loss", "accuracy", "m:loss"),
        ],
    ),
    "eval.every_epochs": ([0, 5], [-1, 1.0, True, None]),
    "eval.every_seconds": ([0.0, 0, 30.5], [-1.0, NAN, INF, "30", None]),
    "eval.batch_size": ([1, 1000], [0, -1, 1000.0, None]),
    "checkpoint.every_epochs": ([0, 5], [-1, 1.0, True, None]),
    "checkpoint.every_seconds": ([0.0, 30], [-1.0, NAN, INF, "30", None]),
    "checkpoint.keep": ([1, 100], [0, -1, 1.0, None]),
    "tensorboard": ([True, False], [1, "yes", None]),
}
NEEDS: dict[str, dict[str, Any]] = {  # what has to be so that a leaf may be what it is not by default
    "optimizer.weight_decay": {"optimizer.name": "adamw"},
    "train.patience": {"dataset.validation_examples": 9},
}
FREE = {  # what may differ when a run is resumed
    "report",
    "dataset.data_dir",
    "dataset.archives",
    "eval.every_epochs",
    "eval.every_seconds",
    "checkpoint.every_epochs",
    "checkpoint.every_seconds",
    "tensorboard",
    "checkpoint.keep",
}
GOOD = [(leaf, value) for leaf, (good, _) in RULES.items() for value in good]
BAD = [(leaf, value) for leaf, (_, bad) in RULES.items() for value in bad]


def tree(**leaves: Any) -> dict[str, Any]:
    """The tree of experiments/base.py with some leaves replaced, named as in `flatten`."""
    result = base.get_config().to_dict()
    for name, value in leaves.items():
        *sections, leaf = name.split(".")
        section = result
        for part in sections:
            section = section[part]
        section[leaf] = value
    return result


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in leaves.items():
        section, _, leaf = name.rpartition(".")
        (result.setdefault(section, {}) if section else result)[leaf] = value
    return result


fractions = st.floats(0, 0.999)
folders = st.text(st.characters(codec="utf-8", exclude_characters="\0")).filter(
    lambda text: not text.startswith("~")
)
experiments = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "num_epochs": st.integers(1, 10**6),
        "batch_size": st.integers(1, 10**6),
        "dataset.name": st.sampled_from(["mnist", "emnist/letters", "ä b"]),
        "dataset.data_dir": folders,
        "dataset.archives": folders,
        "dataset.validation_examples": st.integers(0, 10**6),
        "model.channels": st.lists(st.integers(1, 512), min_size=1, max_size=5),
        "model.kernel_size": st.integers(0, 10).map(lambda half: 2 * half + 1),
        "optimizer.learning_rate": st.floats(1e-30, 1e30),
        "optimizer.b1": fractions,
        "optimizer.b2": fractions,
        "optimizer.eps": st.floats(1e-30, 1e30),
        "optimizer.warmup_fraction": fractions,
        "train.label_smoothing": fractions,
        "eval.every_seconds": st.floats(0, 1e6) | st.integers(0, 10**6),
        "checkpoint.keep": st.integers(1, 1000),
    }
)


@given(experiments)
def test_json_and_config_dict_round_trip_exactly(leaves: dict[str, Any]) -> None:
    experiment = config_lib.resolve(tree(**leaves))
    assert (
        schema.flatten(experiment).items()
        >= (leaves | {"model.channels": (*leaves["model.channels"],)}).items()
    )
    plain = json.loads(json.dumps(config_lib.to_dict(experiment), allow_nan=False))
    for again in (plain, ConfigDict(plain), nested(schema.flatten(experiment))):
        assert config_lib.resolve(again) == experiment
        assert hash(config_lib.resolve(again)) == hash(experiment)


def test_every_leaf_has_its_rule_here() -> None:
    assert set(schema.flatten(base.get_config())) == set(RULES)
    assert list(schema.flatten(config_lib.resolve(base.get_config()))) == list(RULES)


@pytest.mark.parametrize(("leaf", "value"), GOOD, ids=repr)
def test_value_within_its_rule(leaf: str, value: Any) -> None:
    experiment = config_lib.resolve(tree(**NEEDS.get(leaf, {}), **{leaf: value}))
    expected = tuple(value) if isinstance(value, list) else value
    assert schema.flatten(experiment)[leaf] == expected
    if type(schema.flatten(base.get_config())[leaf]) is float:
        assert type(schema.flatten(experiment)[leaf]) is float


@pytest.mark.parametrize(("leaf", "value"), BAD, ids=repr)
def test_value_outside_its_rule(leaf: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        config_lib.resolve(tree(**{leaf: value}))
    message = str(caught.value)
    of_float = type(schema.flatten(base.get_config())[leaf]) is float and type(value) is int
    found = tuple(value) if isinstance(value, list) else float(value) if of_float else value
    assert message.startswith(f"config.{leaf}: expected ")
    assert f", got {found!r}; set --config.{leaf}=" in message


@pytest.mark.parametrize(
    ("leaf", "value"),
    [
        ("optimizer.learning_rate", 10**400),
        ("optimizer.learning_rate", 1e39),
        ("optimizer.learning_rate", 1e-60),
        ("optimizer.eps", 1e-60),
        ("optimizer.b2", 1 - 1e-12),
        ("optimizer.b1", 1 - 1e-12),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value:.4}" if type(value) is float else "huge",
)
def test_number_that_float32_turns_into_a_senseless_one(leaf: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"config\.{leaf}: expected "):
        config_lib.resolve(tree(**{leaf: value}))


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_weight_decay_is_for_adamw_alone(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"weight_decay: expected 0 with optimizer '{name}', got 0.1"):
        config_lib.resolve(tree(**{"optimizer.name": name, "optimizer.weight_decay": 0.1}))
    config_lib.resolve(tree(**{"optimizer.name": "adamw", "optimizer.weight_decay": 0.1}))


@pytest.mark.parametrize("leaf", RULES)
def test_missing_leaf(leaf: str) -> None:
    leaves = schema.flatten(base.get_config())
    del leaves[leaf]
    with pytest.raises(ConfigError, match=rf"^config\.{leaf}: missing"):
        config_lib.resolve(nested(leaves))


@pytest.mark.parametrize("section", ["dataset", "model", "optimizer", "train", "eval", "checkpoint"])
def test_section_that_is_missing_or_a_leaf(section: str) -> None:
    config = tree()
    del config[section]
    with pytest.raises(ConfigError, match=rf"^config\.{section}: missing"):
        config_lib.resolve(config)
    with pytest.raises(ConfigError, match=rf"^config\.{section}: expected a section, got 3"):
        config_lib.resolve(tree() | {section: 3})


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("num_epoch", "num_epochs"),
        ("optimizer.learning_rat", "optimizer.learning_rate"),
        ("checkpoint.kep", "checkpoint.keep"),
        ("optimiser", "optimizer"),
    ],
)
def test_unknown_key_names_the_nearest(unknown: str, meant: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^config\.{unknown}: unknown; did you mean {meant}\? valid names: "
    ):
        config_lib.resolve(tree(**{unknown: 1}))


def test_key_that_is_no_text() -> None:
    with pytest.raises(ConfigError, match=r"^config\.1: unknown"):
        config_lib.resolve({**tree(), 1: 2})


def test_experiment_is_frozen() -> None:
    experiment = config_lib.resolve(tree())
    with pytest.raises(AttributeError):
        experiment.seed = 1  # type: ignore[misc]
    with pytest.raises(AttributeError):
        experiment.model.kernel_size = 5


@pytest.mark.parametrize("leaf", RULES)
def test_difference_of_one_leaf(leaf: str) -> None:
    good = [value for value in RULES[leaf][0] if value != schema.flatten(base.get_config())[leaf]]
    old = config_lib.resolve(tree(**NEEDS.get(leaf, {})))
    new = config_lib.resolve(tree(**NEEDS.get(leaf, {}), **{leaf: good[-1]}))
    before, after = schema.flatten(old)[leaf], schema.flatten(new)[leaf]
    assert before != after
    assert config_lib.differences(old, new) == ({} if leaf in FREE else {leaf: (before, after)})
    assert config_lib.differences(old, old) == {}


def test_differences_lists_all_in_the_order_of_the_tree() -> None:
    old = config_lib.resolve(tree())
    new = config_lib.resolve(tree(**{"model.channels": (8,), "seed": 1, "checkpoint.keep": 9}))
    assert list(config_lib.differences(old, new).items()) == [
        ("seed", (0, 1)),
        ("model.channels", ((16, 32, 32), (8,))),
    ]
