"""The cores of a CPU, and how JAX sees them. Never imports JAX."""

import os

from mmids_cnn.errors import ConfigError

_NAME = "JAX_NUM_CPU_DEVICES"


def count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_devices() -> None:
    """Makes JAX see a CPU as one device a core, over which training spreads its batches.

    Must be called before JAX is imported. A JAX_NUM_CPU_DEVICES that is set already stays.

    Raises:
      ConfigError: that variable is no number of devices.
    """
    found = os.environ.get(_NAME) or str(count())
    if not found.isdecimal() or int(found) < 1:
        raise ConfigError(
            f"{_NAME}: expected a number of devices, 1 or more, found {found!r}; unset it for one a core"
        )
    os.environ[_NAME] = found
