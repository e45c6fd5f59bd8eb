"""Where a result comes from: command, source, versions, device, data."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

import mmids_cnn
from mmids_cnn import config as config_lib
from mmids_cnn import data
from mmids_cnn.devices import device, hosts
from mmids_cnn.errors import RunError
from mmids_cnn.runs import folder as run_folder
from mmids_cnn.settings import dotted

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")

# Settings of JAX that choose where it computes, which `device` tells, what it checks, says and keeps, or the
# generator that `keys` names itself.
_NO_BITS = re.compile(
    "platform|visible_devices|num_cpu|mock|host|check|guard|debug|error|warn|log|trac|verbose|color|dump|source|"
    "location|report|profil|pgle|cache|metadata|serialization|export|timeout|service|recover|default_prng_impl"
)

_NO_BITS_OF_XLA = re.compile("dump|host_platform_device_count|profile|cuda_data_dir|parallelism")
_DETERMINISTIC = {"xla_gpu_deterministic_ops": "true"}  # which commands add


def collect(
    experiment: config_lib.Experiment, dataset: data.Dataset, names: Iterable[str] = ()
) -> dict[str, Any]:
    """Everything that a run's bits may depend on, as plain values fit for JSON.

    Args:
      experiment: what is run.
      dataset: on what.
      names: dotted names beside the experiment's own, those that a sweep tries.
    """
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
        "processes": hosts.count(),
        "jax": settings(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "dataset": facts(dataset),
        "seed": experiment.seed,
        "sources": sources({**config_lib.sources(experiment), **dict.fromkeys(names)}),
    }


def facts(dataset: data.Dataset) -> dict[str, Any]:
    """What a data set is, as plain values."""
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "examples": {name: len(split.labels) for name, split in dataset.splits.items()},
        "image_shape": list(dataset.image_shape),
        "num_classes": dataset.num_classes,
    }


def described(known: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A provenance for people: what, and its value; what was not recorded says so."""
    none = "not recorded"
    commit = known.get("git_commit") or none
    packages = {name: known[name] for name in ("mmids_cnn", "python") if name in known}
    versions = ", ".join(f"{name} {at}" for name, at in (packages | known.get("packages", {})).items())
    rows = [
        ("commit", f"{commit}, with changes that were not committed" if known.get("git_dirty") else commit),
        ("device", ", ".join(f"{name} {value}" for name, value in known.get("device", {}).items()) or none),
        ("platform", known.get("platform", none)),
        ("versions", versions or none),
    ]
    dataset = known.get("dataset")
    if not dataset:
        return [*rows, ("data", none)]
    shape = "x".join(map(str, dataset["image_shape"]))
    return [
        *rows,
        ("data", f"{dataset['name']}, fingerprint {dataset['fingerprint']}"),
        ("images", f"{sizes(dataset['examples'])}; {shape} pixels, {dataset['num_classes']} classes"),
    ]


def sizes(examples: Mapping[str, int]) -> str:
    """How many examples each split has: '60,000 train, 10,000 test'."""
    order = sorted(examples, key=("train", "validation", "test").index)
    return ", ".join(f"{examples[name]:,} {name}" for name in order)


def settings() -> dict[str, Any]:
    """What JAX is set to, as far as bits may depend on it; numbers, texts and None by name."""
    kept = {name: value for name, value in jax.config.values.items() if not _NO_BITS.search(name)}
    plain = (bool, int, float, str, type(None))
    return {name: x if isinstance(x, plain) else str(x) for name, x in sorted(kept.items())}


def require_settings(workdir: Path) -> None:
    """Raises `RunError` unless JAX is set as the provenance in a folder has it, where it has that at all."""
    now = {"jax": settings(), "xla_flags": os.environ.get("XLA_FLAGS", "")}
    changed = _settings_changed(run_folder.provenance(workdir), now)
    if changed:
        names = ", ".join(name.upper() for name in changed)
        found = "; ".join(f"{name}: {old!r} there, {new!r} here" for name, (old, new) in changed.items())
        raise RunError(
            f"{workdir}: expected the settings of JAX that it began with, found others, {found}; change "
            f"{names} back, or name another --workdir"
        )


def _settings_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings of JAX that differ between two records that both have them, as (old value, new value)."""
    old, new = before.get("jax", {}), now.get("jax", {})
    changed = {name: (old[name], new[name]) for name in old if name in new and old[name] != new[name]}
    name = "xla_flags"
    if name in before and name in now and _that_count(before[name]) != _that_count(now[name]):
        changed[name] = before[name], now[name]
    return changed


def _that_count(flags: str) -> dict[str, str]:
    """Flags of XLA that bits may depend on, by name; the last one of a name wins, as in XLA."""
    pairs = [word.lstrip("-").partition("=") for word in flags.split()]
    found = {name: value if equals else "true" for name, equals, value in pairs}
    return _DETERMINISTIC | {name: value for name, value in found.items() if not _NO_BITS_OF_XLA.search(name)}


def sources(names: Iterable[str]) -> dict[str, dict[str, str | None]]:
    """The sources of dotted names: for each the folder it is in and its SHA-256."""
    return {name: {"root": str(dotted.root(name)), "sha256": dotted.digest(name)} for name in names}


def versions() -> dict[str, str]:
    """The versions of the packages that bits and timings depend on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two records of `collect` and may change bits, a phrase each."""
    pairs = {
        "python": (before.get("python"), now["python"]),
        "device": (before.get("device"), now["device"]),
        "data": (before.get("dataset", {}).get("fingerprint"), now["dataset"]["fingerprint"]),
        "git_commit": (before.get("git_commit"), now["git_commit"]),
    }
    pairs |= _settings_changed(before, now)
    old_versions, old_sources = before.get("packages", {}), before.get("sources", {})
    pairs |= {
        f"the source of {name}": (old_sources.get(name, {}).get("sha256"), source["sha256"])
        for name, source in now["sources"].items()
    }
    pairs |= {name: (old_versions.get(name), version) for name, version in now["packages"].items()}
    return [f"{name} was {old}, is {new}" for name, (old, new) in pairs.items() if old != new]


def git() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this code runs from; whether package or experiments were changed since."""
    root = Path(mmids_cnn.__file__).parents[1]

    def ask(*arguments: str) -> str:
        command = ("git", "-C", str(root), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    if not (root / ".git").exists():
        return None, None
    try:
        return ask("rev-parse", "HEAD"), bool(ask("status", "--porcelain", "--", "mmids_cnn", "experiments"))
    except (OSError, subprocess.SubprocessError):
        return None, None
