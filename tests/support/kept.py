"""Compiled programs, kept from one run of the tests to the next: most of a first run's time is compiling.

A run works on a copy. Only one that passed gives back what it compiled, so that no entry is half written.
"""

import os
import shutil
import time
from pathlib import Path

from mmids_cnn.storage import files
from tests.support.suite import ROOT

FOLDER = ROOT / ".cache" / "tests"
WEEK = 7 * 24 * 3600.0  # seconds: programs that no run asked for in that time are dropped


def take(target: Path) -> None:
    """Fills the cache of a run, `target`, once for all workers of the run."""
    with files.lock(target.with_suffix(".lock"), waiting=lambda holder: None):
        if not target.exists():
            target.mkdir(parents=True)
            if FOLDER.exists():
                shutil.copytree(FOLDER, target, dirs_exist_ok=True)


def give_back(source: Path) -> None:
    """Keeps the entries of a run that has ended, and drops those that have become old."""
    for atime in source.rglob("*-atime"):  # JAX writes it anew whenever it reads the entry beside it
        entry = atime.with_name(f"{atime.name.removesuffix('-atime')}-cache")
        kept = FOLDER / entry.relative_to(source)
        if time.time() - atime.stat().st_mtime > WEEK:
            for path in (kept, kept.with_name(atime.name)):
                path.unlink(missing_ok=True)
            continue
        kept.parent.mkdir(parents=True, exist_ok=True)
        for path in (entry, atime):
            partial = kept.with_name(f"{path.name}.{os.getpid()}")
            shutil.copy2(path, partial)
            partial.replace(kept.with_name(path.name))
