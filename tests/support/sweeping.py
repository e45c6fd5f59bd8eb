"""Small sweeps on real digits: 400 training, 200 validation and 200 test images, a network of one block."""

import gzip
import json
from pathlib import Path
from typing import Any

from experiments import sweep as sweep_file
from mmids_cnn import data
from mmids_cnn.console.terminal import Terminal
from mmids_cnn.datasets import idx
from mmids_cnn.populations import executor
from mmids_cnn.sweeps import config as sweep_config
from mmids_cnn.sweeps import folder as sweep_folder
from mmids_cnn.sweeps import plan, study, sweep, trials

SIZES = {
    "train-images-idx3-ubyte": 600,
    "train-labels-idx1-ubyte": 600,
    "t10k-images-idx3-ubyte": 200,
    "t10k-labels-idx1-ubyte": 200,
}
RATES = "choice(1e-3, 1e-2, 3e-2, 1e-1)"


def write_archives(folder: Path, first: int = 0) -> Path:
    """Some images of MNIST, from number `first` on, as IDX archives of their own."""
    folder.mkdir(exist_ok=True)
    for name, size in SIZES.items():
        array = idx.read(idx.SHIPPED / f"{name}.gz")[first : first + size]
        header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes(), 1))
    return folder


def tree(folder: Path, leaves: dict[str, Any]) -> dict[str, Any]:
    """A sweep of two epochs over four learning rates, two seeds each, on the archives in a folder."""
    config = sweep_file.get_config()
    small = {
        "num_epochs": 2,
        "batch_size": 50,
        "dataset.name": "digits",
        "dataset.archives": str(folder),
        "dataset.data_dir": str(folder / "data"),
        "dataset.validation_examples": 200,
        "model.channels": (4,),
        "eval.batch_size": 200,
        "sweep.space.optimizer.learning_rate": RATES,
        "sweep.seeds": 2,
        "sweep.population": 4,
        "sweep.confirm_seeds": 2,
    }
    for name, value in {**small, **leaves}.items():
        *sections, last = name.split(".")
        section = config
        for part in sections:
            section = section[part]
        with section.ignore_type():
            section[last] = value
    return config


def make(folder: Path, **leaves: Any) -> plan.Plan:
    """The plan of such a sweep, leaves named with `__` for the dot."""
    return sweep_config.resolve(
        tree(folder, {name.replace("__", "."): value for name, value in leaves.items()})
    )


def run(a_plan: plan.Plan, workdir: Path) -> dict[str, Any]:
    """Runs a sweep in this process."""
    return sweep.execute(a_plan, workdir, Terminal("none"))


def results(a_plan: plan.Plan, workdir: Path) -> list[trials.Result]:
    """What the record of a finished sweep says."""
    fingerprint = data.load(a_plan.experiment.dataset).fingerprint
    return study.Study(a_plan, workdir, sweep_folder.study_name(a_plan, workdir), fingerprint).results()


def outcome(a_plan: plan.Plan, workdir: Path) -> dict[str, Any]:
    """All that must not depend on where a sweep was interrupted, and who did its work."""
    best = json.loads((workdir / "best.json").read_text())
    return {
        "trials": (workdir / "trials.csv").read_text(),
        "results": [result._asdict() for result in results(a_plan, workdir)],
        "confirmed": best["confirmed"],
        "trial": best["trial"],
    }


class Counting:
    """An executor that works in this process and remembers which jobs it was given."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def __call__(self, jobs: Any, listener: Any) -> None:
        self.jobs += jobs
        executor.local(jobs, listener)
