"""What has come of trials: results, survivors of a rung, the winner; pure functions of what was trained."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmids_cnn.populations.ledger import Entry, Ledger, Member
from mmids_cnn.sweeps.plan import Plan

COMPLETE, PRUNED, NONFINITE = "complete", "pruned", "non-finite"


class Trial(NamedTuple):
    """A setting to try: leaves by dotted name."""

    number: int
    settings: dict[str, Any]


class Result(NamedTuple):
    """What has come of a trial.

    Attributes:
      number, settings: the trial.
      state: `COMPLETE`, `PRUNED` or `NONFINITE`.
      value: the metric at the end, mean over the seeds; None if one of them was not finite.
      seeds: for each seed `seed`, `value`, `rows` of metrics, `diverged` (a step or None) and `fingerprint`.
    """

    number: int
    settings: dict[str, Any]
    state: str
    value: float | None
    seeds: list[dict[str, Any]]


Scores = Mapping[str, Sequence[Mapping[str, Any]]]
"""Of a confirmation: for 'winner' and perhaps 'base' what `confirmed_scores` has of each seed."""


def finite(scores: Scores) -> dict[str, list[Mapping[str, Any]]]:
    """The scores of a confirmation without those that diverged; without settings of which none is left."""
    kept = {name: [one for one in each if one["diverged"] is None] for name, each in scores.items()}
    return {name: each for name, each in kept.items() if each}


OWN = Result(0, {}, COMPLETE, None, [])  # what wins where there is nothing to choose


def members(plan: Plan, trials: Sequence[Trial]) -> list[Member]:
    """The trainings of some trials, by which they are compared."""
    return [Member(trial.number, seed) for trial in trials for seed in plan.seeds]


def result(plan: Plan, ledger: Ledger, trial: Trial, rung: int | None) -> Result:
    """What the ledger has about a trial, at a rung, or at the end where that is None."""
    seeds = [_of_seed(plan, member, ledger.known(member), rung) for member in members(plan, [trial])]
    values = [one["value"] for one in seeds if one["value"] is not None]
    if len(values) < len(seeds):
        return Result(trial.number, trial.settings, NONFINITE, None, seeds)
    state = COMPLETE if rung is None else PRUNED
    return Result(trial.number, trial.settings, state, math.fsum(values) / len(values), seeds)


def _of_seed(plan: Plan, member: Member, entry: Entry, rung: int | None) -> dict[str, Any]:
    rows = [row for row in entry.rows if rung is None or row["epoch"] <= rung]
    there = rung is not None and bool(rows) and rows[-1]["epoch"] == rung
    diverged = None if there else entry.diverged  # what became of it after the rung does not count
    return {
        "seed": member.seed,
        "value": rows[-1][plan.sweep.metric] if diverged is None else None,
        "diverged": diverged,
        "fingerprint": entry.fingerprint,
        "rows": rows,
    }


def survivors(plan: Plan, ledger: Ledger, trials: Sequence[Trial], rung: int) -> list[Trial]:
    """The trials that go on after a rung: the best one in `halving`, none that diverged."""
    results = [result(plan, ledger, trial, rung) for trial in trials]
    ranked = sorted((-plan.metric.better(one.value), one.number) for one in results if one.value is not None)
    kept = {number for _, number in ranked[: math.ceil(len(trials) / plan.sweep.halving)]}
    return [trial for trial in trials if trial.number in kept]


def curve(plan: Plan, result: Result) -> dict[int, float]:
    """The metric of a trial by epoch, mean over its seeds, where all of them have one."""
    metric, curves = plan.sweep.metric, [{row["epoch"]: row for row in one["rows"]} for one in result.seeds]
    epochs = [e for e in curves[0] if all(rows.get(e, {}).get(metric) is not None for rows in curves)]
    return {int(e): math.fsum(rows[e][metric] for rows in curves) / len(curves) for e in epochs}


def best(plan: Plan, results: Sequence[Result]) -> Result | None:
    """The best of the trials that were trained to the end; of equals the first."""
    complete = [one for one in results if one.state == COMPLETE]
    return min(complete, key=lambda one: (-plan.metric.better(one.value or 0), one.number), default=None)


def confirmed_scores(member: Member, entry: Entry) -> dict[str, Any]:
    """How a confirmed member did on the test split: `seed`, `diverged`, `fingerprint`, `test/...`.

    And `test_live/...`, by the last weights, where `test/...` is by their average.
    """
    row: Mapping[str, Any] = entry.rows[-1] if entry.rows else {}
    scores = {name: value for name, value in row.items() if name.startswith(("test/", "test_live/"))}
    diverged = entry.diverged
    if diverged is None and None in scores.values():  # where steps that are not finite are left out
        diverged = entry.step
    scores = scores if diverged is None else {}
    return {"seed": member.seed, "diverged": diverged, "fingerprint": entry.fingerprint, **scores}


def images_to_see(plan: Plan, batches: Sequence[range], images: int) -> int:
    """Images that all members of a sweep will see, about; `images` is what one sees in an epoch."""
    total = 0.0
    for batch in batches:
        alive, before = len(batch), 0
        for rung in plan.sweep.rungs if plan.sweep.halving else ():
            total += alive * (rung - before)
            alive, before = math.ceil(alive / plan.sweep.halving), rung
        total += alive * (plan.epochs - before)
    confirming = plan.sweep.confirm_seeds * (1 + (plan.sweep.confirm_base and bool(plan.axes)))
    return round((total * plan.sweep.seeds + confirming * plan.epochs) * images)
