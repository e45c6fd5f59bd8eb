"""A run gone on with in one process: what is in its folder on the way, what it ends with."""

import signal
from pathlib import Path
from typing import Any

import pytest

from mmids_cnn import score
from mmids_cnn.console import signals
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import RunError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.runs import run
from mmids_cnn.storage import checkpoints, files
from tests.support import processes, sweeping


def test_shorter_run_has_no_result_while_it_is_made_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill then leaves a run that goes on, not one that seems to be finished; clocks are added up."""
    archives = sweeping.write_archives(tmp_path / "digits")
    others = sweeping.write_archives(tmp_path / "others", first=1000)
    workdir, there = tmp_path / "it", list[bool]()
    save = checkpoints.Saver.save

    def looked(self: checkpoints.Saver, *arguments: Any) -> None:
        there.append((workdir / "result.json").exists())
        save(self, *arguments)

    monkeypatch.setattr(checkpoints.Saver, "save", looked)
    found = []
    for epochs in (1, 2):
        experiment = sweeping.make(archives, num_epochs=epochs).confirmed({}, 0)
        run.execute(experiment, workdir, Terminal("none"))
        found.append(files.read_json(workdir / "result.json"))
        other = sweeping.make(others, num_epochs=epochs + 1).confirmed({}, 0)
        with pytest.raises(RunError, match="expected the data this run began with"):
            run.execute(other, workdir, Terminal("none"))
        assert files.read_json(workdir / "result.json") == found[-1]
    assert there == [False, False]
    for epochs, result in enumerate(found, 1):
        assert (result["step"], result["epoch"]) == (12 * epochs, epochs)
        assert result["images_per_second"] * result["seconds/train"] == pytest.approx(600 * epochs)


def test_scoring_that_a_signal_broke_off_is_in_the_checkpoint_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = sweeping.write_archives(tmp_path / "digits")
    experiment = sweeping.make(archives, num_epochs=2).confirmed({}, 0)
    run.execute(experiment, tmp_path / "unbroken", Terminal("none"))
    sent, calls, call = list[int](), list[int](), score.Scorer.__call__

    def broken_off(self: score.Scorer, variables: Any, stop: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # the first is before training, this one after it
            sent.append(signal.SIGTERM)
        return call(self, variables, stop)

    with monkeypatch.context() as patch:
        patch.setattr(score.Scorer, "__call__", broken_off)
        patch.setattr(signals, "requested", lambda: sent[0] if sent else None)
        with pytest.raises(signals.InterruptedRunError):
            run.execute(experiment, tmp_path / "it", Terminal("none"))
    assert files.numbered(tmp_path / "it" / "checkpoints") == [12, 24]
    assert len(run_folder.metrics(tmp_path / "it")) == 1
    run.execute(experiment, tmp_path / "it", Terminal("none"))
    assert processes.bits(tmp_path / "it") == processes.bits(tmp_path / "unbroken")
