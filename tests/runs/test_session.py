"""A run gone on with in one process: what is in its folder on the way, what it ends with."""

from pathlib import Path
from typing import Any

import pytest

from mmids_cnn.console.terminal import Terminal
from mmids_cnn.errors import RunError
from mmids_cnn.runs import run
from mmids_cnn.storage import checkpoints, files
from tests.support import sweeping


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
