"""A short form of `make torture`: some damages of a run, its data and its compiled programs."""

import random
import shutil
from pathlib import Path

import pytest

from tests.promises import torture
from tests.support import forking, processes
from tests.support.processes import Place


@pytest.mark.parametrize("seed", range(4))
def test_damage(seed: int, warm: forking.Forking, shared_root: Path, unbroken: Path, tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "place"
    for name in ("archives", "data", "cache"):
        shutil.copytree(shared_root / name, root / name)
    shutil.copytree(unbroken, root / "run")
    torture.leave_unfinished(root, "run")
    subjects = {"run": (torture.Subject((), processes.bits), processes.bits(unbroken))}
    what = torture.damage(root, Place(folder, folder, warm), random.Random(seed), subjects)
    assert any(f": {end}" in what for end in ("right", "mended", "refused")), what
