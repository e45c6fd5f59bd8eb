"""Fixtures: real MNIST, prepared once for the whole test run, and the command line as a user calls it."""

# isort: off
from tests.support.suite import ROOT, BatchOf, CommandLine, Vary  # first: it checks what is imported after it

# isort: on
import dataclasses
import gc
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import base
from mmids_cnn import config as config_lib
from mmids_cnn import data, train
from mmids_cnn.storage import files
from tests.support import forking, kept, processes

SLOW = ("promises", "commands", "runs", "populations", "networks")  # folders of tests that train
SLOW_FILES = (
    "test_sweep.py",
    "test_augment.py",
    "test_score.py",
    "test_optimizer.py",
    "test_feed.py",
    "test_graph.py",
    "test_layers.py",
    "test_loop.py",
    "test_members.py",
    "test_programs.py",
    "test_shifts.py",
    "test_train.py",
    "test_experiments.py",
)
SOAK_FILES = (  # what whole processes promise: killed, starved, years later, installed, on several nodes
    "test_before.py",
    "test_benchmarks.py",
    "test_cluster.py",
    "test_faults.py",
    "test_interrupt.py",
    "test_lost_processes.py",
    "test_other_writers.py",
    "test_own.py",
    "test_patience.py",
    "test_photographs.py",
    "test_together.py",
    "test_torture.py",
    "test_walkthrough.py",
    "test_wheel.py",
)
LONG_FILES = (
    "test_lost_processes.py",
    "test_together.py",
    "test_own.py",
    "test_cluster.py",
    "test_norm_net.py",
    "test_feed.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what `make check` leaves out, and what `make test` leaves to `make soak`.

    The longest files of `make soak` come first: at the end no worker is left alone with one of their tests.
    """
    items.sort(key=lambda item: (*LONG_FILES, item.path.name).index(item.path.name))
    for item in items:
        if item.path.name in SOAK_FILES:
            item.add_marker("soak")
        slow = item.path.parent.name in SLOW or item.path.name in SLOW_FILES
        if slow and item.path.name != "test_layout.py":
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Keeps what was imported and collected out of Python's searches for garbage."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keeps what a run compiled that passed."""
    controller = not hasattr(session.config, "workerinput")
    if controller and exitstatus == pytest.ExitCode.OK and not session.config.option.collectonly:
        base_folder = session.config._tmp_path_factory.getbasetemp()
        kept.give_back(base_folder / "cache")


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of the run have in common."""
    root = tmp_path_factory.getbasetemp()
    return root if worker_id == "master" else root.parent


@pytest.fixture(scope="session")
def cache_home(common: Path) -> Path:
    """Compiled programs: `here` by the tests themselves, `mmids_cnn` by commands, as XDG_CACHE_HOME says."""
    kept.take(common / "cache")
    return common / "cache"


@pytest.fixture(scope="session", autouse=True)
def compiled(cache_home: Path) -> None:
    """Tests that share a program share its cost."""
    jax.config.update("jax_compilation_cache_dir", str(cache_home / "here"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def data_dir(common: Path) -> Path:
    """A TFDS data directory with MNIST prepared; shared by all workers of the run."""
    experiment = config_lib.resolve(base.get_config())
    data.load(dataclasses.replace(experiment.dataset, data_dir=str(common / "data")))
    return common / "data"


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


@pytest.fixture(scope="session")
def small(mnist: data.Dataset) -> data.Dataset:
    """The first 1,000 training and 500 test images of MNIST: an epoch is 8 steps of 128, the last of 104."""
    sizes = {"train": 1000, "test": 500}
    splits = {
        name: data.Split(*(array[:size] for array in mnist.splits[name])) for name, size in sizes.items()
    }
    return dataclasses.replace(mnist, splits=splits)


@pytest.fixture(scope="session")
def vary(experiment: config_lib.Experiment) -> Vary:
    """The reference recipe with some leaves changed: `vary(seed=1, optimizer={"name": "sgd"})`."""

    def call(**changes: Any) -> config_lib.Experiment:
        tree = config_lib.to_dict(experiment)
        for name, value in changes.items():
            tree[name] = tree[name] | value if isinstance(value, dict) else value
        return config_lib.resolve(tree)

    return call


@pytest.fixture(scope="session")
def batch_of(mnist: data.Dataset) -> BatchOf:
    """A batch of the training images at some indices, filled up with invalid black ones to `size`."""
    train_split = mnist.splits["train"]

    def call(indices: Sequence[int], size: int) -> train.Batch:
        chosen, count = np.asarray(indices, int), len(indices)
        images = np.zeros((size, *mnist.image_shape), np.uint8)
        labels = np.zeros(size, np.int32)
        images[:count], labels[:count] = train_split.images[chosen], train_split.labels[chosen]
        return train.Batch(jnp.asarray(images), jnp.asarray(labels), jnp.arange(size) < count)

    return call


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[forking.Forking]:
    """Runs commands as a user does, in processes that are forked from one that has imported JAX."""
    with forking.started(tmp_path_factory.mktemp("warm"), processes.IMPORTS) as it:
        yield it


@pytest.fixture
def command_line(warm: forking.Forking, data_dir: Path, cache_home: Path, tmp_path: Path) -> CommandLine:
    """Runs `python -m mmids_cnn.<module> <arguments>` in an empty folder, on the data of the tests."""

    own = {"TFDS_DATA_DIR": str(data_dir), "XDG_CACHE_HOME": str(cache_home)}

    def call(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        if module == "main" and any(one.startswith(f"--config={ROOT}/experiments/") for one in arguments):
            arguments = (*arguments, "--config.report=False")  # which takes seconds, and has its own tests
        command = [sys.executable, "-m", f"mmids_cnn.{module}", *arguments]
        return warm.run(command, tmp_path, {**os.environ, **own, **environment})

    return call


@pytest.fixture(scope="session")
def shared_root(warm: forking.Forking, common: Path) -> Path:
    """Archives, prepared data and compiled programs of runs in processes; shared by all workers.

    Their programs are not kept: a run that is killed may leave half an entry.
    """
    root = common / "processes"
    root.mkdir(exist_ok=True)
    with files.lock(root / ".lock", waiting=lambda holder: None):
        if not (root / "unbroken").exists():
            place = processes.Place(processes.make_root(root), root, warm)
            done = place.run("unbroken.partial")
            assert done.returncode == 0, done.stderr
            (root / "unbroken.partial").rename(root / "unbroken")
    return root


@pytest.fixture(scope="session")
def unbroken(shared_root: Path) -> Path:
    """The folder of a run that nothing interrupted; not to be changed."""
    return shared_root / "unbroken"


@pytest.fixture
def place(warm: forking.Forking, shared_root: Path, tmp_path: Path) -> processes.Place:
    """Where a test starts runs of its own."""
    return processes.Place(shared_root, tmp_path, warm)
