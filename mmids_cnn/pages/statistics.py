"""Statistics of a few values: what a mean is worth."""

import math
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


def compare(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """The difference of two means, what it is worth, and what such a comparison could see.

    Args:
      first: values of one group; where it has only one, it is set beside the spread of the other.
      second: values of the other group; one of the two has at least two.

    Returns:
      `difference`: mean of the second less that of the first. `interval`: 95 % by Welch's t. `welch`: the p
      value of his test (Biometrika 34, 1947). `permutation`: that of an exact or, over 10,000 permutations, a
      drawn permutation test of the difference. `bootstrap`: a 95 % interval of percentiles over resampled
      values. `visible`: the difference that would be found in four of five such comparisons (two-sided 5 %).
      Where a group has one value, `interval` is the prediction interval of one more value of the other, and
      `permutation` and `bootstrap` are None.
    """
    import scipy.stats  # a tenth of a second, for whoever compares

    one, other = np.asarray(first, float), np.asarray(second, float)
    difference = other.mean() - one.mean()
    # A group of one value has no deviation of its own: it is taken to be that of the other group.
    variances = [x.var(ddof=1) if len(x) > 1 else None for x in (one, other)]
    known = [x for x in variances if x is not None]
    parts = [(known[0] if v is None else v) / len(x) for v, x in zip(variances, (one, other), strict=True)]
    error = math.sqrt(sum(parts))
    if None in variances:
        freedom = float(max(len(one), len(other)) - 1)
    elif error == 0:
        freedom = float(len(one) + len(other) - 2)
    else:
        freedom = sum(parts) ** 2 / sum(
            part**2 / (len(x) - 1) for part, x in zip(parts, (one, other), strict=True)
        )
    quantile = float(scipy.stats.t.ppf(0.975, freedom))
    found: dict[str, Any] = {
        "difference": float(difference),
        "interval": [float(difference - quantile * error), float(difference + quantile * error)],
        "welch": float(2 * scipy.stats.t.sf(abs(difference) / error, freedom)) if error else None,
        "permutation": None,
        "bootstrap": None,
        "visible": (quantile + float(scipy.stats.t.ppf(0.8, freedom))) * error,
    }
    if None not in variances:
        test = scipy.stats.permutation_test(
            (one, other),
            lambda x, y, axis: y.mean(axis) - x.mean(axis),
            vectorized=True,
            n_resamples=_RESAMPLES,
            rng=np.random.default_rng(0),
        )
        random = np.random.default_rng(0)
        means = [x[random.integers(len(x), size=(_RESAMPLES, len(x)))].mean(1) for x in (one, other)]
        found["permutation"] = float(test.pvalue)
        found["bootstrap"] = [float(x) for x in np.quantile(means[1] - means[0], (0.025, 0.975))]
    return found


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> dict[str, Any]:
    """Two classifiers on the same examples, by those that one of them gets right: the exact test of McNemar.

    Psychometrika 12, 1947; exact by the binomial distribution.

    Args:
      first: whether the one is right, for each example.
      second: whether the other is.

    Returns:
      `first`, `second`: how many that one alone gets right; `p`: of so uneven a split, were both equal.
    """
    import scipy.stats

    one, other = np.asarray(first, bool), np.asarray(second, bool)
    alone = int((one & ~other).sum()), int((other & ~one).sum())
    p = float(scipy.stats.binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0
    return {"first": alone[0], "second": alone[1], "p": p}
