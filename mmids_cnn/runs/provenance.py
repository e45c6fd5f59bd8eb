"""Where a result comes from: command, source, versions, device, data."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import mmids_cnn
from mmids_cnn import config as config_lib
from mmids_cnn import data, dotted
from mmids_cnn.devices import device

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def collect(experiment: config_lib.Experiment, dataset: data.Dataset) -> dict[str, Any]:
    """Everything that a run's bits may depend on, as plain values fit for JSON."""
    commit, dirty = git()
    return {
        "command": [sys.executable, *sys.orig_argv[1:]],
        "mmids_cnn": mmids_cnn.__version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "python": platform.python_version(),
        "packages": versions(),
        "platform": platform.platform(),
        "device": device.found(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "examples": {name: len(split.labels) for name, split in dataset.splits.items()},
            "image_shape": list(dataset.image_shape),
            "num_classes": dataset.num_classes,
        },
        "seed": experiment.seed,
        "sources": sources(experiment),
    }


def sources(experiment: config_lib.Experiment) -> dict[str, dict[str, str | None]]:
    """What of the experiment's is not this package's: by dotted name, the folder it is in and its SHA-256."""
    return {
        name: {"root": str(dotted.root(name)), "sha256": dotted.digest(name)}
        for name in config_lib.sources(experiment).values()
    }


def versions() -> dict[str, str]:
    """The versions of the packages that bits and timings depend on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two records of `collect` and may change bits, a phrase each."""
    pairs = {
        "python": (before.get("python"), now["python"]),
        "device": (before.get("device"), now["device"]),
        "xla_flags": (before.get("xla_flags"), now["xla_flags"]),
        "data": (before.get("dataset", {}).get("fingerprint"), now["dataset"]["fingerprint"]),
        "git_commit": (before.get("git_commit"), now["git_commit"]),
    }
    old_versions, old_sources = before.get("packages", {}), before.get("sources", {})
    pairs |= {
        f"the source of {name}": (old_sources.get(name, {}).get("sha256"), source["sha256"])
        for name, source in now["sources"].items()
    }
    pairs |= {name: (old_versions.get(name), version) for name, version in now["packages"].items()}
    return [f"{name} was {old}, is {new}" for name, (old, new) in pairs.items() if old != new]


def git() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this code runs from, and whether it was changed since."""
    root = Path(mmids_cnn.__file__).parents[1]

    def ask(*arguments: str) -> str:
        command = ("git", "-C", str(root), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    if not (root / ".git").exists():
        return None, None
    try:
        return ask("rev-parse", "HEAD"), bool(ask("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None
