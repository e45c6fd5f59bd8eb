"""Fixtures: real MNIST, prepared once for the whole test run, and the command line as a user calls it."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # `from experiments import base`, from any working directory
os.environ.setdefault("JAX_PLATFORMS", "cpu")

with install_import_hook("mmids_cnn", "beartype.beartype"):  # checks shapes and dtypes at every call
    from mmids_cnn import config as config_lib
    from mmids_cnn import data
from experiments import base

CommandLine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A TFDS data directory with MNIST prepared; shared by all workers of the run."""
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "data"
    experiment = config_lib.resolve(base.get_config())
    data.load(dataclasses.replace(experiment.dataset, data_dir=str(folder)))
    return folder


@pytest.fixture(scope="session")
def experiment(data_dir: Path) -> config_lib.Experiment:
    """The reference recipe, reading the data prepared for the tests."""
    config = base.get_config()
    config.dataset.data_dir = str(data_dir)
    return config_lib.resolve(config)


@pytest.fixture(scope="session")
def mnist(experiment: config_lib.Experiment) -> data.Dataset:
    """Real MNIST: 60,000 and 10,000 images."""
    return data.load(experiment.dataset)


@pytest.fixture
def command_line(data_dir: Path, tmp_path: Path) -> CommandLine:
    """Runs `python -m mmids_cnn.<module> <arguments>` in an empty folder, on the data of the tests."""

    def call(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"mmids_cnn.{module}", *arguments],
            cwd=tmp_path,
            env={**os.environ, "TFDS_DATA_DIR": str(data_dir), **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return call
