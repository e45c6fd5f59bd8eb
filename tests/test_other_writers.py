"""The example with digits by other writers: upright, centred, and as large as MNIST's."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmids_cnn import data
from tests.support.suite import ROOT

SCRIPT = ROOT / "experiments" / "other_writers" / "uci_digits.py"
datasets = pytest.importorskip("sklearn.datasets")


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("uci_digits", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_are_as_mnists(script: Any, mnist: data.Dataset, tmp_path: Path) -> None:
    found = datasets.load_digits()
    images = np.stack([script.as_mnist(one, tmp_path / "one.png") for one in found.images[:200]])
    assert (images.shape, images.dtype) == ((200, 28, 28), np.uint8)
    ink = images > 64
    sides = np.array([[np.ptp(np.flatnonzero(one.any(axis))) + 1 for axis in (0, 1)] for one in ink])
    assert 18 <= np.median(sides.max(1)) <= 20
    mass = images.sum((1, 2))
    for axis in (1, 2):
        centres = (images.sum(axis) * np.arange(28)).sum(1) / mass
        assert np.abs(centres - 14).max() < 1
    # The digit of MNIST that is most like one says what it is, far more often than by chance.
    split = mnist.splits["train"]
    others = np.asarray(split.images[:10_000], np.float32).reshape(10_000, -1)
    flat = images.reshape(200, -1).astype(np.float32)
    likeness = flat @ (others / np.linalg.norm(others, axis=1, keepdims=True)).T
    said = np.asarray(split.labels)[likeness.argmax(1)]
    assert (said == found.target[:200]).mean() > 0.6


def test_archives_can_be_read(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmids_cnn.datasets import idx

    few = datasets.load_digits()
    few.images, few.target = few.images[:120], few.target[:120]
    monkeypatch.setattr(script, "load_digits", lambda: few)
    script.main(tmp_path / "new" / "folder")
    labels = {
        name: idx.read(tmp_path / "new" / "folder" / f"{name}-labels-idx1-ubyte.gz")
        for name in ("train", "t10k")
    }
    assert (labels["train"] == few.target[:100]).all() and (labels["t10k"] == few.target).all()
    assert idx.read(tmp_path / "new" / "folder" / "t10k-images-idx3-ubyte.gz").shape == (120, 28, 28)


def test_without_a_folder_it_says_what_to_name() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("uci_digits: expected a folder to write archives to")
