"""The device that JAX computes on, as facts and in words."""

import contextlib
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import jax

from mmids_cnn.devices import cores
from mmids_cnn.errors import DeviceError

_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def found() -> dict[str, Any]:
    """The device that JAX computes on: `platform`, `kind`, `count`, and `cores` of a CPU.

    Raises:
      DeviceError: JAX finds no device of the platform asked for.
    """
    try:
        devices = jax.local_devices()
    except Exception as error:  # RuntimeError, or AssertionError for some platforms
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = (str(error).strip() or "JAX has none").splitlines()[0]
        driver = "and an NVIDIA driver" if shutil.which("nvidia-smi") else "and no NVIDIA driver"
        raise DeviceError(
            f"--device: expected {wanted.replace('cuda', 'gpu')} (or as JAX_PLATFORMS says), found the CPU "
            f"{_cpu_model()} {driver} ({reason}); leave it out, or install the matching extra "
            "(mmids_cnn[cuda12], [cuda13] or [tpu])"
        ) from error
    facts: dict[str, Any] = {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
    }
    if facts["platform"] == "cpu":
        facts["kind"] = _cpu_model()
        facts["cores"] = cores.count()
    return facts


def memory() -> int | None:
    """Bytes that JAX's device has for arrays, of a CPU those that this process may use; None: not known."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("memory.max", "memory/memory.limit_in_bytes"):  # a container's, of either version
        with contextlib.suppress(OSError, ValueError):  # 'max' stands for no limit
            limits.append(int((_CONTROL_GROUPS / path).read_text()))
    return min(limits)


def describe(facts: dict[str, Any]) -> str:
    """One line about the device, with advice where an accelerator is there and not used."""
    size = f"{facts['cores']} cores" if "cores" in facts else f"{facts['count']} device(s)"
    line = f"device: {facts['platform']} ({facts['kind']}, {size})"
    if facts["platform"] == "gpu" and (bytes_there := memory()):
        line += (
            f"; JAX has {bytes_there / 1e9:.0f} GB of it, and takes them at once: for two runs on one GPU "
            "set XLA_PYTHON_CLIENT_MEM_FRACTION=0.4"
        )
    if facts["platform"] == "cpu" and shutil.which("nvidia-smi"):
        line += "; an NVIDIA GPU is here too: install mmids_cnn[cuda13] (or [cuda12]) to use it"
    return line


def describe_memory(needed: int) -> str:
    """One line about the bytes that training takes at least, and those that are there."""
    there = memory()
    of = f" of {there / 1e9:,.1f} GB" if there else ""
    return f"memory: training takes {needed / 1e9:,.2f} GB{of} at least"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
