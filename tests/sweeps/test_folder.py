"""Which sweep may go on in a folder, and what the sweep is called there."""

from pathlib import Path
from typing import Any

import pytest

from mmids_cnn.errors import RunError
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder
from tests.support import sweeping

RANDOM: dict[str, Any] = {"sweep__search": "random", "sweep__trials": 4, "sweep__confirm_seeds": 0}
HALVING: dict[str, Any] = {"sweep__halving": 2, "sweep__rungs": (1,)}


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({}, {}, ""),
        ({}, {"sweep__trials": 8, "sweep__confirm_seeds": 2, "sweep__confirm_base": False}, ""),
        ({"sweep__confirm_seeds": 2}, {"sweep__confirm_seeds": 1}, ""),
        ({}, {"sweep__population": 9, "sweep__executor": "ray", "checkpoint__keep": 7}, ""),
        ({}, {"sweep__trials": 3}, "config.sweep.trials: 4 there, 3 here"),
        (HALVING, {"sweep__trials": 8}, "config.sweep.trials: 4 there, 8 here"),
        ({}, {"sweep__trials": 8, "sweep__seeds": 3}, "config.sweep.seeds: 2 there, 3 here; give it another"),
    ],
)
def test_sweep_that_goes_on_or_does_not(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], words: str
) -> None:
    old, new = (sweeping.make(tmp_path, **{**RANDOM, **before, **leaves}) for leaves in ({}, now))
    files.write_json(tmp_path / folder.PLAN, old.to_dict())
    if words:
        with pytest.raises(RunError) as caught:
            folder.check(tmp_path, new)
        assert f"found one that differs in {words}" in str(caught.value)
    else:
        assert folder.check(tmp_path, new) is None


def test_sweep_that_has_begun_to_confirm_does_not_grow(tmp_path: Path) -> None:
    files.write_json(tmp_path / folder.PLAN, sweeping.make(tmp_path, **RANDOM).to_dict())
    (tmp_path / folder.CONFIRM).mkdir()
    files.write_json(tmp_path / folder.CONFIRM / "winner.json", {})
    assert folder.check(tmp_path, sweeping.make(tmp_path, **RANDOM)) is None
    with pytest.raises(RunError, match=r"config\.sweep\.confirm_seeds: 0 there, 2 here"):
        folder.check(tmp_path, sweeping.make(tmp_path, **{**RANDOM, "sweep__confirm_seeds": 2}))


def test_name_of_a_study(tmp_path: Path) -> None:
    """In a file of its own a folder may be renamed; in a database folders are told apart by their names."""
    own, shared = sweeping.make(tmp_path), sweeping.make(tmp_path, sweep__storage="sqlite:///x.db")
    one, two = tmp_path / "one", tmp_path / "two"
    assert folder.study_name(own, one) == folder.study_name(own, two)
    assert folder.study_name(own, one).startswith("sweep-")
    assert folder.study_name(shared, one).startswith("one-")
    assert folder.study_name(shared, two).startswith("two-")
    assert folder.study_name(own, one) != folder.study_name(sweeping.make(tmp_path, seed=1), one)
