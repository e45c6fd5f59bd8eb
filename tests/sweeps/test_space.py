"""Spaces and plans: what is accepted, how it is enumerated, what is refused and with which words."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import architecture_sweep, lr_sweep, seeds
from mmids_cnn import config as config_lib
from mmids_cnn.errors import ConfigError
from mmids_cnn.optimizer import Hyperparams
from mmids_cnn.settings import schema
from mmids_cnn.sweeps import config as sweep_config
from mmids_cnn.sweeps import plan as plan_lib
from mmids_cnn.sweeps import space
from tests.support import sweeping
from tests.support.suite import CommandLine

FOLDER = Path("nowhere")
SPACE = "sweep.space."
RATE = SPACE + "optimizer.learning_rate"

# Leaf, value, what the error says of it.
BAD = [
    (RATE, "choice()", "expected at least one value"),
    (RATE, "choice(1e-3, 0.001)", "expected values that differ"),
    (RATE, "choice(1, 1.0)", "expected values that differ"),
    (RATE, "choice(1e-3, 'fast')", "expected a finite number > 0, got 'fast'"),
    (RATE, "choice(1e-3, -1e-3)", "expected a finite number > 0, got -0.001"),
    (RATE, "choice(1e-3, 1e999)", "expected a finite number > 0, got inf"),
    (RATE, "log_uniform(-1, 1)", "expected a low end > 0"),
    (RATE, "log_uniform(0, 1)", "expected a low end > 0"),
    (RATE, "log_uniform(1e-1, 1e-4)", "expected low < high"),
    (RATE, "uniform(1, 1)", "expected low < high"),
    (RATE, "uniform(0, 1e999)", "expected two finite numbers"),
    (RATE, f"uniform(0, 1{'0' * 400})", "expected two finite numbers"),
    (RATE, f"log_uniform(1, 1{'0' * 400})", "expected two finite numbers"),
    (RATE, f"integers(0, 1{'0' * 400})", "expected two integers"),
    (RATE, "uniform(1)", "expected two finite numbers"),
    (RATE, "uniform(True, 2)", "expected two finite numbers"),
    (RATE, "uniform(low=1, high=2)", "expected choice"),
    (RATE, "normal(0, 1)", "expected choice"),
    (RATE, "1e-3", "expected choice"),
    (RATE, "choice(", "expected choice"),
    (RATE, "choice(__import__('os').getpid())", "expected choice"),
    (RATE, "(" * 500, "expected choice"),
    (RATE, 1e-3, "expected a text such as"),
    (RATE, "uniform(1e-4, 1e-1)", "expected choice(...) or integers(...) for a grid"),
    (RATE, "integers(1, 3)", "expected values like 0.001"),
    (SPACE + "batch_size", "uniform(8, 64)", "expected values like 50"),
    (SPACE + "batch_size", "integers(0, 64)", "expected an integer from 1 to 2**20, got 0"),
    (SPACE + "batch_size", "integers(1, 10001)", "expected at most 10,000 integers"),
    (SPACE + "batch_size", "integers(1.0, 2.0)", "expected two integers"),
    (SPACE + "model.kernel_size", "integers(1, 7)", "expected an odd integer from 1 to 99, got 2"),
    (SPACE + "model.channels", "choice((8, 8), ())", "expected a non-empty tuple"),
    (SPACE + "model.channels", "integers(8, 16)", "expected values like (4,)"),
    (SPACE + "optimizer.b1", "choice(0.9, 1.0)", "expected a number with 0 <= b1 < 1"),
    (SPACE + "optimizer.name", "choice('adam', 'adagrad')", "expected one of 'adam'"),
    (SPACE + "optimizer.weight_decay", "choice(0, 0.1)", "weight_decay: expected 0 with optimizer 'adam'"),
    (SPACE + "seed", "choice(0, 1)", "set config.sweep.seeds"),
    (
        SPACE + "model.name",
        "choice('conv_net', 'nets:Mlp')",
        "config.sweep.space.model.name: expected no network here",
    ),
    ("sweep.metric", "validation/top_2", "expected one of config.eval.metrics, ('loss', 'accuracy'"),
    (SPACE + "dataset", {"name": "choice('mnist', 'digits')"}, "got one of dataset"),
    (SPACE + "eval", {"batch_size": "choice(1, 2)"}, "got one of eval"),
    (SPACE + "checkpoint", {"keep": "choice(1, 2)"}, "got one of checkpoint"),
    (SPACE + "optimizer", {"learning_rat": "choice(1)"}, "did you mean optimizer.learning_rate?"),
    ("sweep.space", "choice(1)", "expected a section"),
    ("sweep", 3, "expected a section"),
    ("sweep.search", "annealing", "expected one of 'grid', 'random', 'tpe'"),
    ("sweep.trials", 3, "expected 0 (all of the grid) or 4"),
    ("sweep.search", "random", "expected an integer from 1 to 10,000 for a random search, got 0"),
    ("sweep.search", "tpe", "expected an integer from 1 to 10,000 for a tpe search, got 0"),
    ("sweep.seeds", 0, "expected an integer >= 1"),
    ("sweep.metric", "test/accuracy", "never to choose by"),
    (
        "sweep.metric",
        "train/loss",
        "expected one of 'validation/loss', 'validation/accuracy', ",
    ),
    ("sweep.direction", "minimize", "expected 'maximize' for validation/accuracy"),
    ("sweep.metric", "validation/loss", "expected 'minimize' for validation/loss"),
    ("sweep.population", 0, "expected an integer >= 1"),
    ("sweep.batch", 0, "expected an integer >= 1"),
    ("sweep.halving", 1, "expected 0 for none, or an integer >= 2"),
    ("sweep.rungs", (2, 1), "expected ascending epochs"),
    ("sweep.rungs", (0,), "expected ascending epochs"),
    ("sweep.storage", "results.db", "or an address such as"),
    ("sweep.storage", "postgresql://me:secret@host/name", "expected an address without a password"),
    ("sweep.storage", "postgresql://host/name?user=me&password=secret", "PGPASSWORD or ~/.pgpass"),
    ("sweep.executor", "slurm", "expected one of 'local', 'ray'"),
    ("sweep.populations_per_device", -1, "expected an integer >= 0"),
    ("sweep.confirm_seeds", -1, "expected an integer >= 0"),
    ("sweep.speed", 1, "unknown"),
    ("seed", 2**32 - 3, "below 2**32"),  # of two seeds to choose by and two to confirm the last is too large
    ("sweep.seeds", 10**14, "sweep.seeds: expected all of seed, seed + 1, ... below 2**32, got 1"),
    ("dataset.validation_examples", 0, "expected > 0 in a sweep"),
    ("dataset.placement", "streamed", "expected 'auto' or 'resident' in a sweep"),
    ("eval.every_epochs", 0, "expected every_epochs >= 1"),
    ("eval.every_seconds", 5.0, "every_seconds = 0"),
]


@pytest.mark.parametrize(("leaf", "value", "words"), BAD, ids=lambda value: str(value)[:40])
def test_refused(leaf: str, value: Any, words: str) -> None:
    config = sweeping.tree(FOLDER, {leaf: value})
    with pytest.raises(ConfigError) as caught:
        sweep_config.resolve(config)
    message = str(caught.value)
    assert message.startswith("config.")
    assert words in message
    assert "secret" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "leaves",
    [
        {"sweep.confirm_seeds": 0},
        {"sweep.search": "random", "sweep.trials": 10},
        {"sweep.trials": 10},
        {"sweep.search": "tpe"},
    ],
)
def test_a_search_of_nothing_is_refused(leaves: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"config\.sweep\.space: expected something to choose from"):
        sweep_config.resolve(sweeping.tree(FOLDER, {RATE: "", "sweep.confirm_seeds": 2, **leaves}))


@pytest.mark.parametrize(
    ("leaves", "epochs"),
    [
        ({}, 2),
        ({SPACE + "num_epochs": "choice(1, 5)"}, 3),
        ({SPACE + "num_epochs": "choice(1, 5)", "sweep.search": "tpe", "sweep.trials": 3}, 3),
    ],
)
def test_epochs_of_a_trial(leaves: dict[str, Any], epochs: float) -> None:
    assert sweep_config.resolve(sweeping.tree(FOLDER, leaves)).epochs == epochs


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({"sweep.rungs": (2,)}, "all below num_epochs = 2"),
        ({"sweep.rungs": ()}, "expected at least one epoch"),
        ({"sweep.rungs": (1,), SPACE + "num_epochs": "choice(2, 3)"}, "expected no num_epochs with halving"),
        ({"sweep.rungs": (1,), "eval.every_epochs": 2}, "expected multiples of eval.every_epochs = 2"),
    ],
)
def test_halving_refused(leaves: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep_config.resolve(sweeping.tree(FOLDER, {"sweep.halving": 2, **leaves}))
    assert words in str(caught.value)
    sweep_config.resolve(sweeping.tree(FOLDER, leaves))  # without halving the rungs count for nothing


def test_bad_space_on_the_command_line_is_one_line_before_jax(command_line: CommandLine) -> None:
    config = f"--config={Path(lr_sweep.__file__)}"
    bad = "--config.sweep.space.optimizer.learning_rate=log_uniform(-1,1)"
    done = command_line("main", config, bad, JAX_PLATFORMS="no such platform")
    assert done.returncode == 2
    assert done.stderr.startswith("error: config.sweep.space.optimizer.learning_rate: expected a low end > 0")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_traced_leaves_are_those_that_members_may_differ_in() -> None:
    assert sorted(leaf.rpartition(".")[2] for leaf in config_lib.TRACED) == sorted(Hyperparams._fields)
    assert set(schema.flatten(sweeping.make(FOLDER).experiment)) > set(config_lib.TRACED)


def test_choices_are_held_as_the_leaf_holds_them() -> None:
    plan = sweeping.make(FOLDER, sweep__space__optimizer__learning_rate="choice(1, 2)")
    assert [repr(plan.point(n)["optimizer.learning_rate"]) for n in range(2)] == ["1.0", "2.0"]


def test_largest_seeds() -> None:
    assert max(sweeping.make(FOLDER, seed=2**32 - 4).confirm_seeds) == 2**32 - 1
    nothing = {"sweep__space__optimizer__learning_rate": "", "sweep__confirm_seeds": 1}
    assert sweeping.make(FOLDER, seed=2**32 - 1, **nothing).confirm_seeds == (2**32 - 1,)


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({"seed": 2**32 - 1}, "config.seed: expected all of seed, seed + 1, ... below 2**32"),
        ({"sweep.confirm_seeds": 10**14}, "config.sweep.confirm_seeds: expected all of seed, seed + 1, ..."),
        ({"eval.every_seconds": 5.0}, "config.eval: expected every_epochs >= 1 and every_seconds = 0"),
    ],
)
def test_refused_also_where_there_is_nothing_to_choose(leaves: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep_config.resolve(sweeping.tree(FOLDER, {RATE: "", "sweep.confirm_seeds": 2, **leaves}))
    assert str(caught.value).startswith(words)


def test_empty_text_takes_a_leaf_out_of_the_space() -> None:
    plan = sweeping.make(FOLDER, sweep__space__optimizer__learning_rate="")
    assert (plan.axes, plan.trials, plan.confirm_seeds) == ((), 0, (0, 1))


def test_grid_has_every_combination_once() -> None:
    plan = sweeping.make(FOLDER, sweep__space__batch_size="integers(3, 5)")
    points = [tuple(plan.point(n).values()) for n in range(plan.trials)]
    assert len(points) == 12
    assert set(points) == {(size, rate) for size in (3, 4, 5) for rate in (1e-3, 1e-2, 3e-2, 1e-1)}


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_random_settings_depend_on_seed_and_number_alone(seed: int, number: int) -> None:
    domains = [
        space.parse(text) for text in ("log_uniform(1e-4, 1e-1)", "integers(3, 5)", "choice('a', 'b')")
    ]
    rate, size, name = space.random_point(domains, seed, number)
    assert space.random_point(domains[:2], seed, number) == (rate, size)
    pairs = ((seed, number), (seed ^ 1, number), (seed, number + 1))
    assert len({space.random_point(domains, *pair)[0] for pair in pairs}) == 3
    assert 1e-4 <= rate <= 1e-1
    assert size in (3, 4, 5)
    assert name in ("a", "b")


def test_random_settings_are_spread_as_they_say() -> None:
    texts = ("log_uniform(1e-4, 1)", "uniform(2, 4)", "integers(1, 4)", "choice(7, 8)")
    draws = [space.random_point([space.parse(t) for t in texts], 0, n) for n in range(4000)]
    logs, evens, integers, choices = zip(*draws, strict=True)
    # Means of n = 4000 draws, with five standard errors: of U(-4, 0) log10, U(2, 4), {1..4}, {7, 8}.
    for values, mean, sd in (
        ([math.log10(x) for x in logs], -2, 4 / math.sqrt(12)),
        (evens, 3, 2 / math.sqrt(12)),
        (integers, 2.5, math.sqrt(1.25)),
        (choices, 7.5, 0.5),
    ):
        assert abs(sum(values) / 4000 - mean) < 5 * sd / math.sqrt(4000)


@pytest.mark.parametrize("module", [lr_sweep, architecture_sweep, seeds], ids=lambda m: m.__name__)
def test_plan_survives_json(module: Any) -> None:
    plan = sweep_config.resolve(module.get_config())
    assert sweep_config.resolve(json.loads(json.dumps(plan.to_dict()))) == plan


def test_differences_name_what_changes_the_result() -> None:
    old = sweeping.make(FOLDER)
    free = sweeping.make(FOLDER, sweep__population=9, sweep__executor="ray", checkpoint__keep=9)
    assert plan_lib.differences(old, free) == {}
    new = sweeping.make(FOLDER, sweep__seeds=3, sweep__space__optimizer__learning_rate="choice(1.0)")
    assert plan_lib.differences(old, new) == {
        "sweep.seeds": (2, 3),
        "sweep.space.optimizer.learning_rate": (sweeping.RATES, "choice(1.0)"),
    }


def test_log_uniform_stays_in_its_range() -> None:
    """Where both ends are next to each other, the exponential of the logarithm is often neither."""
    for low in (0.1, 0.3, 3.0, 7.0, 1e5):
        domain, generator = (
            space.Range(low, math.nextafter(low, math.inf), log=True),
            np.random.default_rng(0),
        )
        assert {domain.draw(generator) for _ in range(20)} <= {domain.low, domain.high}


def test_members_are_trained_on_resident_data_and_confirmed_on_all_of_it() -> None:
    plan = sweeping.make(FOLDER)
    member, confirmed = (make({RATE[12:]: 0.5}, 7) for make in (plan.member, plan.confirmed))
    for one in (member, confirmed):
        assert (one.seed, one.optimizer.learning_rate, one.dataset.placement) == (7, 0.5, "resident")
    assert (member.dataset.validation_examples, member.eval.every_epochs) == (200, 1)
    assert (confirmed.dataset.validation_examples, confirmed.eval.every_epochs) == (0, 0)


def test_seeds_of_the_confirmation_are_new() -> None:
    plan = sweeping.make(FOLDER, seed=5)
    assert (plan.seeds, plan.confirm_seeds) == ((5, 6), (7, 8))
