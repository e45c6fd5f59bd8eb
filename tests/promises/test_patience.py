"""Training that a validation split stops: by its rows alone, in a population, after an interruption."""

import dataclasses
import json
from pathlib import Path

import pytest

from mmids_cnn import loop, train
from mmids_cnn.errors import ConfigError
from mmids_cnn.populations import population
from mmids_cnn.storage import digests
from tests.support import sweeping
from tests.support.processes import Place, bits
from tests.support.suite import Vary

# Of these seeds one stops early, at a rate that makes accuracies go up and down.
SETTINGS = {"num_epochs": 12, "batch_size": 50}
PATIENT = (
    *("--config.dataset.validation_examples=100", "--config.train.patience=2", "--config.num_epochs=30"),
    *("--config.optimizer.learning_rate=0.03",),
)


@pytest.mark.parametrize(
    ("values", "patience", "stopped"),
    [
        ([0.1, 0.2, 0.2, 0.2], 2, True),  # as good is not better
        ([0.1, 0.2, 0.2, 0.3], 2, False),
        ([0.1, 0.2, 0.1], 2, False),
        ([0.3, 0.2], 1, True),
        ([0.3], 1, False),
        ([], 1, False),
        ([0.3, 0.2, 0.1, 0.0], 0, False),
        ([None, None, 0.1, 0.1], 2, False),
        ([0.5, None, None], 2, True),
    ],
)
def test_patience_is_exhausted(values: list[float | None], patience: int, stopped: bool) -> None:
    rows = [{"epoch": float(epoch), "validation/accuracy": x} for epoch, x in enumerate(values, 1)]
    untrained = {"epoch": 0.0, "validation/accuracy": 0.9}
    between = {"epoch": 0.5, "validation/accuracy": 0.8}  # scored by the clock
    assert loop.exhausted([untrained, between, *rows], patience) == stopped


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"patience": 3}}, r"train\.patience: expected 0 without a validation split"),
        (
            {"train": {"patience": 3}, "dataset": {"validation_examples": 10}, "eval": {"every_epochs": 2}},
            r"eval\.every_epochs: expected 1 with train\.patience",
        ),
    ],
)
def test_what_patience_takes(vary: Vary, changes: dict[str, dict[str, int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        vary(**changes)


def test_run_stops_and_says_so_whatever_interrupts_it(place: Place) -> None:
    done = place.run("whole", *PATIENT)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (place.work / "whole" / "metrics.jsonl").read_text().splitlines()]
    accuracies = [row["validation/accuracy"] for row in rows[1:]]
    best = accuracies.index(max(accuracies))
    assert 2 < len(accuracies) == best + 3 < 30
    assert f"stopped after {len(accuracies)} epochs: the last 2 brought no better validation" in done.stdout
    process = place.start("cut", *PATIENT, "--config.checkpoint.every_seconds=0.02")
    while process.poll() is None and not (place.work / "cut" / "checkpoints" / "20").exists():
        pass
    process.kill()
    process.wait()
    done = place.run("cut", *PATIENT, "--config.checkpoint.every_seconds=0.02")
    assert done.returncode == 0, done.stderr
    assert bits(place.work / "cut") == bits(place.work / "whole")
    done = place.run("cut", *PATIENT, "--config.num_epochs=40")  # it stays stopped
    assert done.returncode == 0 and "finished already" in done.stdout
    result = json.loads((place.work / "cut" / "result.json").read_text())
    assert result["epoch"] == len(accuracies)


def test_member_of_a_population_stops_where_it_does_alone(tmp_path: Path) -> None:
    archives = sweeping.write_archives(tmp_path)
    leaves = {"num_epochs": 8, "train.patience": 1, "sweep.space.optimizer.learning_rate": ""}
    plan = sweeping.make(archives, **{name.replace(".", "__"): x for name, x in leaves.items()})
    experiments = [
        dataclasses.replace(
            plan.experiment,
            optimizer=dataclasses.replace(plan.experiment.optimizer, learning_rate=rate),
            dataset=dataclasses.replace(plan.experiment.dataset, placement="resident"),
        )
        for rate in (0.03, 1e-3)
    ]
    job = population.Job("job", tuple(experiments), 8, "validation")
    parts = population.run(job)
    middle = next(part for part in parts if part.point.epoch >= 5)  # one has stopped by now
    progress = middle.outcome(with_state=True).progress
    *_, last = population.run(dataclasses.replace(job, progress=progress))
    outcome = last.outcome(with_state=False)
    stops = []
    for index, experiment in enumerate(experiments):
        dataset = population.load(experiment.dataset, "validation")
        *_, alone = loop.fit(experiment, dataset)
        stops.append(alone.epoch)
        assert outcome.fingerprints[index] == digests.fingerprint(train.trained(alone.state))
        rows = outcome.progress.rows[index]
        assert rows[-1]["epoch"] == 8
        assert rows[-1]["validation/accuracy"] == alone.rows[0]["validation/accuracy"]
    assert min(stops) < 5 and stops[0] != stops[1]


def test_sweep_confirms_with_the_validation_split_that_stops_it(tmp_path: Path) -> None:
    archives = sweeping.write_archives(tmp_path / "digits")
    plan = sweeping.make(
        archives, num_epochs=6, train__patience=1, sweep__seeds=1, sweep__confirm_seeds=2, optimizer__b1=0.5
    )
    best = sweeping.run(plan, tmp_path / "it")
    assert "on all but 200 training images" in best["summary"]
    winner = plan.confirmed({}, 0)
    assert winner.dataset.validation_examples == 200
    assert best["confirmed"]["winner"]["test/accuracy"]["n"] == 2
