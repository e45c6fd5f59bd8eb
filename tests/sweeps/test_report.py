"""What the page of a sweep says of its winner, of settings, of what trials cost."""

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmids_cnn.storage import files
from mmids_cnn.sweeps import importance, plan, report
from mmids_cnn.sweeps.trials import COMPLETE, PRUNED, Result
from tests.support import sweeping


@pytest.fixture
def a_plan() -> plan.Plan:
    return sweeping.make(
        Path("nowhere"),
        sweep__search="random",
        sweep__trials=24,
        sweep__space__optimizer__learning_rate="log_uniform(1e-4, 1e-1)",
        sweep__space__optimizer__b1="uniform(0.8, 0.95)",
        sweep__space__model__channels="choice((4,), (4, 8))",
    )


def trials_by_rate(a_plan: plan.Plan, number: int, noise: float = 0.0) -> list[Result]:
    """Trials whose error is a power of the learning rate, whatever else is set."""
    found, random = [], np.random.default_rng(0)
    for n in range(number):
        settings = a_plan.point(n)
        value = 1 - 0.3 * settings["optimizer.learning_rate"] ** 0.5
        seeds = [
            {
                "seed": seed,
                "value": value + noise * float(random.standard_normal()),
                "diverged": None,
                "fingerprint": "",
                "rows": [
                    {"step": 8, "epoch": 1.0, "validation/accuracy": value, "validation/loss": 0.25 + seed}
                ],
            }
            for seed in a_plan.seeds
        ]
        found.append(Result(n, settings, COMPLETE, value, seeds))
    return found


def log_error(value: float) -> float:
    return -float(np.log10(1 - value))


def test_the_setting_that_matters_has_nearly_all_of_the_variance(a_plan: plan.Plan) -> None:
    shares = importance.importances(a_plan, trials_by_rate(a_plan, 24), log_error)
    assert shares is not None and sum(shares.values()) == pytest.approx(1)
    assert next(iter(shares)) == "optimizer.learning_rate" and shares["optimizer.learning_rate"] > 0.9
    assert importance.importances(a_plan, trials_by_rate(a_plan, 24), log_error) == shares


def test_importance_is_that_of_complete_trials_that_differ(a_plan: plan.Plan) -> None:
    trials = trials_by_rate(a_plan, 10)
    assert importance.importances(a_plan, trials, log_error) is not None
    cut = [*trials[:9], trials[9]._replace(state=PRUNED)]
    assert importance.importances(a_plan, cut, log_error) is None
    assert importance.importances(a_plan, trials, lambda value: 1.0) is None
    one_axis = sweeping.make(Path("nowhere"))
    assert importance.importances(one_axis, trials, log_error) is None


def scores(values: Sequence[float]) -> list[dict[str, Any]]:
    return [{"seed": i, "diverged": None, "test/accuracy": x} for i, x in enumerate(values)]


@pytest.mark.parametrize(
    ("winner", "base", "said"),
    [
        (
            (0.99, 0.991, 0.992),
            (0.98, 0.981, 0.982),
            r"is better than .*: \+1\.000 points, 95 % interval \+0",
        ),
        ((0.98, 0.981, 0.982), (0.99, 0.991, 0.992), r"is worse than .* which is to be kept: -1\.000 points"),
        ((0.98, 0.982), (0.981, 0.983), r"cannot be told from .* and is the lower of the two: -0\.100"),
        ((0.981, 0.983), (0.98, 0.982), r"cannot be told from the experiment as configured: \+0\.100"),
        ((0.99,), (0.98,), "One seed each: that cannot tell them apart"),
        ((0.99, 0.98), (), "There is nothing to compare it with"),
    ],
)
def test_winner_is_set_beside_the_experiment_as_configured(
    winner: Sequence[float], base: Sequence[float], said: str, a_plan: plan.Plan, tmp_path: Path
) -> None:
    trials = trials_by_rate(a_plan, 3)
    confirmed = {"winner": scores(winner), **({"base": scores(base)} if base else {})}
    content = report.page(a_plan, tmp_path, trials, trials[0], {"summary": "", "command": ""}, confirmed)
    assert re.search(said, content), content


def test_what_trials_cost_and_come_from(a_plan: plan.Plan, tmp_path: Path) -> None:
    (tmp_path / "populations").mkdir()
    (tmp_path / "confirm").mkdir()
    for folder, name, numbers, seconds in (
        ("populations", "one", (0, 0, 1, 1), {"compile": 2.0, "train": 6.0}),
        ("populations", "two", (1, 1), {"train": 3.0}),
        ("confirm", "three", (0, 0), {"train": 5.0}),
    ):
        content = {"seconds": seconds, "device": "cpu (X)", "members": [{"trial": n} for n in numbers]}
        files.write_sealed(tmp_path / folder / f"{name}.json", content)
    (tmp_path / "populations" / "torn.json").write_text("{")
    spent = report.cost(tmp_path)
    assert spent.seconds == {0: 4.0, 1: 7.0}
    assert (spent.total, spent.devices) == (16.0, ["cpu (X)"])
    known = {
        "command": ["/usr/bin/python3", "-m", "mmids_cnn.main", "--workdir=a b"],
        "git_commit": "abc",
        "packages": {"jax": "1.2.3"},
        "dataset": {
            "name": "digits",
            "fingerprint": "f" * 8,
            "examples": {"train": 400, "validation": 200, "test": 200},
            "image_shape": [28, 28, 1],
            "num_classes": 10,
        },
    }
    files.write_sealed(tmp_path / "provenance.json", known)
    trials = trials_by_rate(a_plan, 2)
    page = report.page(a_plan, tmp_path, trials, None, {}, {})
    assert "Not finished: 2 of 24 trials have ended." in page
    assert "python -m mmids_cnn.main &#x27;--workdir=a b&#x27;" in page
    for words in (
        "abc",
        "jax 1.2.3",
        "digits, fingerprint ffffffff",
        "400 train, 200 validation, 200 test",
        "cpu (X)",
    ):
        assert words in page
    (first,) = re.findall(r"<tr class=''><td>0<td>.*", page)
    # Of channels (4,): 40 for the block, 14 * 14 * 4 * 10 + 10; of (4, 8): 40, 296, 7 * 7 * 8 * 10 + 10.
    parameters = {(4,): "7,890", (4, 8): "4,266"}[trials[0].settings["model.channels"]]
    assert first.endswith(f"<td>0.7500<td>1<td>4.0<td>{parameters}<td>complete")


def test_noise_of_seeds_is_told_beside_that_of_trials(a_plan: plan.Plan, tmp_path: Path) -> None:
    content = report.page(a_plan, tmp_path, trials_by_rate(a_plan, 24, 0.01), None, {}, {})
    ((within, between),) = re.findall(r"by an sd of ([\d.]+) points, settings by ([\d.]+) points", content)
    assert 0.6 < float(within) < 1.5  # of 12 pairs whose sd is a point
    better = sorted((one.value or 0.0 for one in trials_by_rate(a_plan, 24)), reverse=True)[:12]
    assert float(between) == pytest.approx(100 * statistics.stdev(better), rel=0.01)
    few = report.page(a_plan, tmp_path, trials_by_rate(a_plan, 5), None, {}, {})
    assert "Not computed: it takes 10 complete trials that differ" in few
