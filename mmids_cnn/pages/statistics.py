"""Statistics of a few values: what a mean is worth."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

_RESAMPLES = 10_000
_FEWEST = 5  # values that an interval is given for


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (n - 1), n, and a 95 % bootstrap interval of the mean.

    The interval is that of percentiles over resampled seeds (Efron 1979), with a generator of fixed seed;
    None for fewer than five values, whose interval would be little but their range. The deviation is None for
    a single value.

    >>> spread([1.0, 2.0, 3.0])["mean"], spread([1.0, 2.0, 3.0])["sd"], spread([0.5])["sd"]
    (2.0, 1.0, None)
    """
    found: dict[str, Any] = {"mean": statistics.fmean(values), "sd": None, "n": len(values), "interval": None}
    if len(values) > 1:
        found["sd"] = statistics.stdev(values)
    if len(values) >= _FEWEST:
        chosen = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
        means = np.asarray(values)[chosen].mean(axis=1)
        found["interval"] = [float(x) for x in np.quantile(means, (0.025, 0.975))]
    return found
