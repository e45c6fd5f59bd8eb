"""Benchmarks that need another machine run here in small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.suite import ROOT


@pytest.mark.slow
def test_benchmark_for_gpus_runs_in_small_without_tfds_and_ml_collections(tmp_path: Path) -> None:
    for name in ("tensorflow_datasets", "ml_collections", "beartype"):
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError(__name__)")
    record = tmp_path / "record" / "gpu.json"
    record.parent.mkdir()
    command = [sys.executable, "tests/benchmarks/gpu.py", "--part=1", "--only='train'", f"--record={record}"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (point,) = json.loads(record.read_text())["points"]
    assert "failed" not in point, point
    assert point["accuracy"] > 0.7
    assert point["steps"] == len(range(0, 2048, 128))
