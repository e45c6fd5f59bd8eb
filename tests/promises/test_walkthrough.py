"""The walk-through of the course notebook runs from top to bottom, its assertions included."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.suite import ROOT


@pytest.mark.slow
def test_walkthrough(cache_home: Path) -> None:
    """As a plain program, on few images; the comparison with plain Flax is the same on all of them."""
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / "walkthrough" / "walkthrough.py"],
        env={
            **os.environ,
            **{"EXAMPLES": "640", "EPOCHS": "1", "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)},
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # which compiles faster
            "JAX_COMPILATION_CACHE_DIR": str(cache_home / "walkthrough"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "16,938 parameters\n" in done.stdout and "\nsays " in done.stdout
