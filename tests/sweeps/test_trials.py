"""What has come of trials, counted by hand from a ledger that is told what was trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmids_cnn.populations.ledger import Entry, Ledger, Member
from mmids_cnn.sweeps import plan as plan_lib
from mmids_cnn.sweeps import trials
from mmids_cnn.sweeps.trials import COMPLETE, NONFINITE, PRUNED, Result, Trial
from tests.support import sweeping

THREE: dict[str, Any] = {
    "num_epochs": 3,
    "sweep__halving": 2,
    "sweep__rungs": (1, 2),
    "sweep__seeds": 1,
    "sweep__space__optimizer__learning_rate": "choice(1e-3, 1e-2, 1e-1)",
}


def make(**leaves: Any) -> plan_lib.Plan:
    return sweeping.make(Path("nowhere"), **{**THREE, **leaves})


def seed(
    number: int, values: Sequence[float], diverged: int | None = None, metric: str = "validation/accuracy"
) -> dict[str, Any]:
    """A member that had these values after its first epochs, of 8 steps each."""
    rows = [{"step": 8 * e, "epoch": float(e), metric: value} for e, value in enumerate(values, 1)]
    return {"seed": number, "rows": rows, "diverged": diverged, "fingerprint": f"of {number}"}


def ledger(folder: Path, *seeds: Sequence[dict[str, Any]]) -> Ledger:
    """A ledger of trials 0, 1, ..., each with its seeds."""
    it = Ledger(folder, "data", pytest.fail)
    for number, one in enumerate(seeds):
        it.adopt(number, one)
    return it


def some(count: int) -> list[Trial]:
    return [Trial(number, {}) for number in range(count)]


def test_halving_rounds_up_and_keeps_the_order(tmp_path: Path) -> None:
    """Of three trials two go on after the first rung, one after the second."""
    curves = ((0.3, 0.9, 0.9), (0.1, 1.0, 1.0), (0.4, 0.5, 0.5))  # the second is the best, but too late
    known = ledger(tmp_path, *([seed(0, values)] for values in curves))
    first = trials.survivors(make(), known, some(3), 1)
    second = trials.survivors(make(), known, first, 2)
    assert [[trial.number for trial in one] for one in (first, second)] == [[0, 2], [0]]


def test_of_equal_trials_the_first_survives_and_wins(tmp_path: Path) -> None:
    known = ledger(tmp_path, [seed(0, (0.1,))], [seed(0, (0.5,))], [seed(0, (0.5,))], [seed(0, (0.5,))])
    assert [trial.number for trial in trials.survivors(make(), known, some(4), 1)] == [1, 2]
    results = [trials.result(make(), known, trial, None) for trial in some(4)]
    winner = trials.best(make(), results)
    assert winner is not None and winner.number == 1


def test_trial_that_diverged_takes_no_place(tmp_path: Path) -> None:
    """Where losses are compared, the least survive; a trial of which one seed diverged does not."""
    plan = make(sweep__metric="validation/loss", sweep__direction="minimize", sweep__seeds=2)
    loss = "validation/loss"
    known = ledger(
        tmp_path,
        [seed(0, (2.0,), metric=loss), seed(1, (2.0,), metric=loss)],
        [seed(0, (0.1,), metric=loss), seed(1, (), diverged=3)],
        [seed(0, (1.0,), metric=loss), seed(1, (1.5,), metric=loss)],
        [seed(0, (1.0,), metric=loss), seed(1, (2.0,), metric=loss)],
    )
    assert [trial.number for trial in trials.survivors(plan, known, some(4), 1)] == [2, 3]
    assert [trial.number for trial in trials.survivors(plan, known, some(2), 1)] == [0]
    results = [trials.result(plan, known, trial, None) for trial in some(4)]
    assert [one.state for one in results] == [COMPLETE, NONFINITE, COMPLETE, COMPLETE]
    assert [one.value for one in results] == [2, None, 1.25, 1.5]
    winner = trials.best(plan, results)
    assert winner is not None and winner.number == 2
    assert trials.best(plan, results[1:2]) is None


def test_result_at_a_rung_knows_nothing_of_what_came_after(tmp_path: Path) -> None:
    """As where a sweep is gone on with whose ledger has members of later rungs."""
    later = [seed(0, (0.2, 0.4), diverged=20), seed(1, (0.4, 0.6, 0.8))]
    known, plan, trial = ledger(tmp_path, later), make(sweep__seeds=2), Trial(0, {"a": 1})
    at_rung = trials.result(plan, known, trial, 1)
    assert (at_rung.number, at_rung.settings, at_rung.state) == (0, {"a": 1}, PRUNED)
    assert at_rung.value == pytest.approx(0.3)
    assert [[row["epoch"] for row in one["rows"]] for one in at_rung.seeds] == [[1], [1]]
    assert [(one["value"], one["diverged"]) for one in at_rung.seeds] == [(0.2, None), (0.4, None)]
    assert [one["fingerprint"] for one in at_rung.seeds] == ["of 0", "of 1"]
    assert [one["diverged"] for one in trials.result(plan, known, trial, 2).seeds] == [None, None]
    at_end = trials.result(plan, known, trial, None)
    assert (at_end.state, at_end.value) == (NONFINITE, None)
    assert [(one["value"], one["diverged"]) for one in at_end.seeds] == [(None, 20), (0.8, None)]


def test_pruned_trial_does_not_win() -> None:
    results = [Result(0, {}, PRUNED, 0.9, []), Result(1, {}, COMPLETE, 0.5, [])]
    winner = trials.best(make(), results)
    assert winner is not None and winner.number == 1


def test_curve_is_the_mean_over_seeds_where_all_have_a_value(tmp_path: Path) -> None:
    seeds = [seed(0, (0.2, 0.4, 0.6)), seed(1, (0.4, 0.8), diverged=17)]
    seeds[0]["rows"].insert(0, {"step": 0, "epoch": 0.0})  # a row without the metric
    seeds[1]["rows"].insert(0, {"step": 0, "epoch": 0.0, "validation/accuracy": 0.1})
    known, plan = ledger(tmp_path, seeds), make(sweep__seeds=2)
    found = trials.curve(plan, trials.result(plan, known, Trial(0, {}), None))
    assert found == {1: pytest.approx(0.3), 2: pytest.approx(0.6)}


@pytest.mark.parametrize(
    ("rows", "diverged", "expected"),
    [
        ([{"test/accuracy": 0.9, "test/loss": 0.3, "train/loss": 0.1}], None, (None, 0.9, 0.3)),
        ([{"test/accuracy": 0.1, "test/loss": None}], None, (24, None, None)),
        ([{"test/accuracy": 0.1, "test/loss": 0.3}], 5, (5, None, None)),
        ([], 5, (5, None, None)),
    ],
)
def test_confirmed_scores(
    rows: list[dict[str, Any]], diverged: int | None, expected: tuple[Any, ...]
) -> None:
    entry = Entry(24, 3.0, rows, diverged, "f", None, "")
    found = trials.confirmed_scores(Member(0, 7), entry)
    assert (found.pop("seed"), found.pop("fingerprint")) == (7, "f")
    assert tuple(found.pop(name, None) for name in ("diverged", "test/accuracy", "test/loss")) == expected
    assert found == {}


@pytest.mark.parametrize(
    ("leaves", "epochs"),
    [
        # Three trials see 1 epoch, two of them another, one a third; twice two seeds see 3 to confirm.
        ({"sweep__confirm_seeds": 2}, 3 + 2 + 1 + 12),
        ({"sweep__confirm_seeds": 2, "sweep__confirm_base": False}, 3 + 2 + 1 + 6),
        ({"sweep__confirm_seeds": 0, "sweep__seeds": 2}, 12),
        ({"sweep__confirm_seeds": 0, "sweep__halving": 0}, 9),
        ({"sweep__confirm_seeds": 2, "sweep__space__optimizer__learning_rate": ""}, 6),
    ],
)
def test_images_to_see(leaves: dict[str, Any], epochs: int) -> None:
    plan = make(**leaves)
    batches = [range(plan.trials)] if plan.axes else []
    assert trials.images_to_see(plan, batches, 400) == 400 * epochs
