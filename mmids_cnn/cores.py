"""The cores of a CPU, and how JAX sees them. Never imports JAX."""

import os


def count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_devices(number: int | None = None) -> None:
    """Makes JAX see a CPU as one device a core, over which training spreads its batches.

    Must be called before JAX is imported. A JAX_NUM_CPU_DEVICES that is set already stays.

    Args:
      number: of devices; None is `count()`.
    """
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(number or count()))
