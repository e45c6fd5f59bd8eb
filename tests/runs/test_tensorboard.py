"""What TensorBoard's own reader finds in the log of a run that was interrupted."""

import importlib.util
import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

from mmids_cnn import data, score
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import ConfigError
from mmids_cnn.runs import run, trained
from mmids_cnn.sweeps import plan
from tests.support import sweeping


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    found.Reload()
    return found


def test_log_is_that_of_an_unbroken_run(tmp_path: Path) -> None:
    archives, workdir = sweeping.write_archives(tmp_path / "digits"), tmp_path / "it"
    for epochs in (1, 3):
        experiment = sweeping.make(archives, num_epochs=epochs, tensorboard=True).confirmed({}, 0)
        experiment = plan.vary(experiment, {"eval.every_epochs": 1})
        if workdir.exists():  # as a killed process leaves it, that was further than its last checkpoint
            with SummaryWriter(str(workdir / "tensorboard")) as ahead:
                ahead.add_scalar("test/accuracy", 0.123, 18)
        run.execute(experiment, workdir, Terminal("none"))
    found, rows = read(workdir / "tensorboard"), (workdir / "metrics.jsonl").read_text().splitlines()
    by_tag: dict[str, list[tuple[int, float]]] = {}
    for row in map(json.loads, rows):
        for name in ("train/loss", "train/accuracy", "test/loss", "test/accuracy"):
            if name in row:
                by_tag.setdefault(name, []).append((row["step"], row[name]))
    assert len(by_tag["test/accuracy"]) == 4  # before training and after each epoch
    assert set(found.Tags()["scalars"]) == by_tag.keys()
    for name, expected in by_tag.items():
        got = [(event.step, event.value) for event in found.Scalars(name)]
        assert got == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]
    (table,) = (
        event.tensor_proto.string_val[0].decode() for event in found.Tensors("configuration/text_summary")
    )
    assert "| `optimizer.learning_rate` | `0.001` |" in table and "| `num_epochs` | `3` |" in table
    dataset = data.load(experiment.dataset)
    one = trained.load(workdir, experiment, dataset, "newest", pytest.fail)
    logits = score.logits(one.network, one.variables, dataset.splits["test"].images)
    errors = int((logits.argmax(-1) != dataset.splits["test"].labels).sum())
    (image,) = found.Images("errors")
    assert image.step == 36 and image.width >= 28 * min(errors, 8) and errors > 0
    (told,) = (event.tensor_proto.string_val[0].decode() for event in found.Tensors("errors/text_summary"))
    assert told.count(" → ") == min(errors, 40)


def test_package_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = sweeping.write_archives(tmp_path / "digits")
    experiment = sweeping.make(archives, tensorboard=True).confirmed({}, 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"expected the package tensorboardX, .*pip install 'mmids_cnn\[tensor"
    ):
        run.execute(experiment, tmp_path / "it", Terminal("none"))
    assert not (tmp_path / "it").exists()
