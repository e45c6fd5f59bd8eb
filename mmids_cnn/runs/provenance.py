"""Where a result comes from: command, source, versions, device, data."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import mmids_cnn
from mmids_cnn import config as config_lib
from mmids_cnn import data, model
from mmids_cnn.devices import cores
from mmids_cnn.errors import DeviceError
from mmids_cnn.console.terminal import Terminal

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def device() -> dict[str, Any]:
    """The device that JAX computes on: `platform`, `kind`, `count`, and `cores` of a CPU.

    Raises:
      DeviceError: JAX finds no device of the platform asked for.
    """
    try:
        devices = jax.devices()
    except Exception as error:  # RuntimeError, or AssertionError for some platforms
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = (str(error).strip() or "no device").splitlines()[0]
        raise DeviceError(
            f"device: expected one of JAX_PLATFORMS={wanted!r}, found: {reason}; unset JAX_PLATFORMS or "
            "install the matching extra (mmids_cnn[cuda12], [cuda13] or [tpu])"
        ) from error
    found: dict[str, Any] = {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
    }
    if found["platform"] == "cpu":
        found["kind"] = _cpu_model()
        found["cores"] = cores.count()
    return found


def describe_device(found: dict[str, Any]) -> str:
    """One line about the device, with advice where an accelerator is there and not used."""
    size = f"{found['cores']} cores" if "cores" in found else f"{found['count']} device(s)"
    line = f"device: {found['platform']} ({found['kind']}, {size})"
    if found["platform"] == "cpu" and shutil.which("nvidia-smi"):
        line += "; an NVIDIA GPU is here too: install mmids_cnn[cuda13] (or [cuda12]) to use it"
    return line


def show(experiment: config_lib.Experiment, dataset: data.Dataset, workdir: Path, terminal: Terminal) -> None:
    """Shows what is about to be trained, on what, with what; raises `ConfigError` if it cannot be."""
    terminal.close()
    terminal.note(describe_device(device()))
    sizes = ", ".join(f"{len(split.labels):,} {name}" for name, split in dataset.splits.items())
    height, width, channels = dataset.image_shape
    terminal.note(
        f"data: {dataset.name}, {sizes}, {height}x{width}x{channels}, {dataset.num_classes} classes, "
        f"fingerprint {dataset.fingerprint[:16]}"
    )
    network = model.make(experiment, dataset.image_shape, dataset.num_classes)
    rows = model.table(network, dataset.image_shape)
    total = sum(row.parameters for row in rows)
    shown = [(r.name, "x".join(map(str, r.output_shape)), f"{r.parameters:,}") for r in rows]
    terminal.table("", ("layer", "output", "parameters"), [*shown, ("total", "", f"{total:,}")])
    terminal.note(f"workdir: {workdir}, seed {experiment.seed}")


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
        "device": device(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "examples": {name: len(split.labels) for name, split in dataset.splits.items()},
            "image_shape": list(dataset.image_shape),
            "num_classes": dataset.num_classes,
        },
        "seed": experiment.seed,
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
    old_versions = before.get("packages", {})
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


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
