"""What a benchmark record holds: the machine, the floor, and each figure with its spread."""

import datetime
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mmids_cnn.runs import provenance

RATIOS = (
    "epoch_seconds",
    "evaluation_seconds",
    "cold_first_step_seconds",
    "warm_first_step_seconds",
    "cold_peak_rss_bytes",
    "peak_rss_bytes",
)


def machine() -> dict[str, object]:
    """What the figures depend on: processor, its vector instructions, cores, versions, commit and date."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    models = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    commit, dirty = provenance.git()
    return {
        "device": "cpu",
        "cpu": (models or [platform.processor()])[0],
        "instructions": [name for name in ("avx2", "avx512f", "amx_tile") if name in text],
        "cores": len(affinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": provenance.versions(),
        "git_commit": commit,
        "git_dirty": dirty,
        "date": datetime.date.today().isoformat(),
    }


def source(collected: Mapping[str, Any]) -> dict[str, Any]:
    """What `provenance.collect` found, but for the command and the seed of one of several runs."""
    return {name: value for name, value in collected.items() if name not in ("command", "seed")}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and range of some measurements, in their own unit."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(raw: Mapping[str, Sequence[float]], ours: Mapping[str, Sequence[float]]) -> dict:
    """How many times ours each measurement is: median and range of the ratios pair by pair."""
    return {
        name: summary([a / b for a, b in zip(values, ours[name], strict=True)])
        for name, values in raw.items()
        if name in ours and name in RATIOS
    }


def forward_flop(channels: Sequence[int]) -> float:
    """FLOP of the network's output for one image; see `epoch_flop`."""
    layers = zip(pairwise([1, *channels]), (28, 14, 7), strict=True)
    convolutions = sum(9 * inputs * outputs * side**2 for (inputs, outputs), side in layers)
    return 2 * (convolutions + 9 * channels[-1] * 10)


def epoch_flop(channels: Sequence[int], images: int) -> float:
    """FLOP of training on `images` images, a multiply-add counted as two.

    A 3x3 convolution from a to b channels on n x n pixels takes 9abn^2 multiply-adds; so do its
    filter gradient and its input gradient, which the first layer does not need. For 16, 32, 32
    channels on 28, 14, 7 pixels: 112,896 + 903,168 + 451,584 + 2,880 (dense) = 1,470,528 forward,
    as many for the filters and 1,357,632 for the inputs: 4,298,688 an image, 0.516 TFLOP an epoch.
    Taps on the zero border count, and so do the seventh row and column of the last convolution,
    which the pooling never reads; pooling and Adam do not.
    """
    return images * (3 * forward_flop(channels) - 2 * 9 * channels[0] * 28**2)


def floor(channels: Sequence[int], images: int, rates: Sequence[float]) -> dict[str, object]:
    """Seconds that the matrix products alone need at the best of `rates`, in FLOP/s."""
    return {
        "flop_an_epoch": epoch_flop(channels, images),
        "matrix_flop_a_second": rates,
        "epoch_seconds": epoch_flop(channels, images) / max(rates),
        "evaluation_seconds": 10_000 * forward_flop(channels) / max(rates),
    }
