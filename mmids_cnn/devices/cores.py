"""The cores of a CPU, and how JAX sees them. Never imports JAX."""

import os

from mmids_cnn.errors import ConfigError

MOST = 8
"""Cores that share a batch, at most; a power of two."""

_NAME = "JAX_NUM_CPU_DEVICES"


def count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_devices() -> None:
    """Makes JAX see a CPU as one device a core, `MOST` at most, over which training spreads its batches.

    Must be called before JAX is imported. A JAX_NUM_CPU_DEVICES that is set already stays.

    Raises:
      ConfigError: that variable is no number of devices.
    """
    found = os.environ.get(_NAME) or str(min(count(), MOST))
    if not found.isdecimal() or int(found) < 1:
        raise ConfigError(
            f"{_NAME}: expected a number of devices, 1 or more, found {found!r}; unset it for one a core"
        )
    os.environ[_NAME] = found


def devices() -> int:
    """How many devices JAX is to make of the CPU."""
    found = os.environ.get(_NAME, "")
    return int(found) if found.isdecimal() else 1


def fix_threads() -> None:
    """Lets XLA use as many threads on any machine, for batches that are not cut.

    It cuts a long sum by the number of its threads, which is that of the cores, so that sums would be rounded
    differently on another machine. To be called before JAX looks for devices; afterwards it has no effect.
    """
    os.environ["PJRT_NPROC"] = str(MOST)
