"""Statistics of a few values, what a mean is worth; of a classifier, what its probabilities are."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

_RESAMPLES = 10_000
_FEWEST = 5  # values that an interval is given for
_SAME = 1e-9  # what equal values may differ by, as sums are rounded


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (n - 1), n, and the 95 % interval of the mean by Student's t.

    The interval (Biometrika 6, 1908) is None for fewer than five values, whose own spread is not known well
    enough, and for values that are all the same. The deviation is None for a single value.

    >>> spread([1.0, 2.0, 3.0])["mean"], spread([1.0, 2.0, 3.0])["sd"], spread([0.5])["sd"]
    (2.0, 1.0, None)
    """
    found: dict[str, Any] = {"mean": statistics.fmean(values), "sd": None, "n": len(values), "interval": None}
    if len(values) > 1:
        found["sd"] = statistics.stdev(values)
    if len(values) >= _FEWEST and np.ptp(values) > _SAME:
        import scipy.special  # a tenth of a second

        reach = scipy.special.stdtrit(len(values) - 1, 0.975) * found["sd"] / math.sqrt(len(values))
        found["interval"] = [float(found["mean"] - reach), float(found["mean"] + reach)]
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
      values (Efron 1979; of few values too narrow). `visible`: the difference that would be found in four of
      five such comparisons (two-sided 5 %). Where a group has one value, `interval` is the prediction
      interval of one more value of the other, and `permutation` and `bootstrap` are None. Where no group has
      two values that differ, nothing is known of the spread: all but `difference` is None.
    """
    import scipy.stats  # a tenth of a second, for whoever compares

    one, other = np.asarray(first, float), np.asarray(second, float)
    difference = other.mean() - one.mean()
    # A group of one value has no deviation of its own: it is taken to be that of the other group.
    variances = [x.var(ddof=1) if len(x) > 1 else None for x in (one, other)]
    found: dict[str, Any] = {"difference": float(difference)}
    if max(np.ptp(one), np.ptp(other)) <= _SAME:
        return found | dict.fromkeys(("interval", "welch", "permutation", "bootstrap", "visible"))
    known = [x for x in variances if x is not None]
    parts = [(known[0] if v is None else v) / len(x) for v, x in zip(variances, (one, other), strict=True)]
    error = math.sqrt(sum(parts))
    if None in variances:
        freedom = float(max(len(one), len(other)) - 1)
    else:
        freedom = sum(parts) ** 2 / sum(
            part**2 / (len(x) - 1) for part, x in zip(parts, (one, other), strict=True)
        )
    quantile = float(scipy.stats.t.ppf(0.975, freedom))
    found |= {
        "interval": [float(difference - quantile * error), float(difference + quantile * error)],
        "welch": float(2 * scipy.stats.t.sf(abs(difference) / error, freedom)),
        "permutation": None,
        "bootstrap": None,
        "visible": error * _seen_in_four_of_five(quantile, freedom),
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


def _seen_in_four_of_five(quantile: float, freedom: float) -> float:
    """The difference, in its standard errors, for which t exceeds a quantile in four of five cases."""
    import scipy.optimize
    import scipy.stats

    power = lambda distance: scipy.stats.nct.sf(quantile, freedom, distance) - 0.8  # noqa: E731
    return float(scipy.optimize.brentq(power, 0, 10 * quantile))


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


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share by the score of Wilson (J. Am. Stat. Assoc. 22, 1927); (0, 1) of none.

    >>> [round(end, 4) for end in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    if not count:
        return 0.0, 1.0
    z2 = statistics.NormalDist().inv_cdf(0.975) ** 2
    middle, spread = hits + z2 / 2, math.sqrt(z2 * (hits * (count - hits) / count + z2 / 4))
    low, high = ((middle + sign * spread) / (count + z2) for sign in (-1, 1))
    return (low if hits else 0.0), (high if hits < count else 1.0)


class Bin(NamedTuple):
    """Examples of about one confidence: how many, how many of them right, the mean of their confidences."""

    size: int
    right: int
    confidence: float


def log_probabilities(logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
    """Logarithms of the probabilities, in float64."""
    import scipy.special

    return scipy.special.log_softmax(logits.astype(np.float64), axis=-1)


def errors(logs: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " wrong"]:
    """The places of the examples whose most probable class is not theirs, the surest of them first."""
    wrong = np.flatnonzero(logs.argmax(-1) != labels)
    return wrong[np.argsort(-logs.max(-1)[wrong], kind="stable")]


def log_loss(logs: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> float:
    """The mean of -log p of the label, nats."""
    return float(-logs[np.arange(len(labels)), labels].mean())


def brier(logs: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> float:
    """The squared distance of probabilities from the truth, 0 to 2 (Brier, Mon. Weather Rev. 78, 1950)."""
    distance = np.exp(logs)
    distance[np.arange(len(labels)), labels] -= 1
    return float((distance**2).sum(-1).mean())


def equal_width(
    confidences: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], bins: int = 15
) -> list[Bin]:
    """Bins of equal width on [0, 1), each with its lower end; a last one has what is exactly 1.

    So it is in torchmetrics, whose `MulticlassCalibrationError` is then `calibration_error`.
    """
    return _bins(confidences, right, np.digitize(confidences, np.linspace(0, 1, bins + 1)) - 1, bins + 1)


def equal_mass(
    confidences: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], bins: int = 15
) -> list[Bin]:
    """Bins of as many examples each, by rising confidence (Nguyen and O'Connor, arXiv 1508.05154)."""
    place = np.empty(len(confidences), int)
    place[np.argsort(confidences, kind="stable")] = np.arange(len(confidences))
    return _bins(confidences, right, place * bins // max(len(confidences), 1), bins)


def _bins(confidences: np.ndarray, right: np.ndarray, place: np.ndarray, bins: int) -> list[Bin]:
    counts, hits, sums = (
        np.bincount(place, weights, bins) for weights in (None, right.astype(float), confidences)
    )
    return [
        Bin(int(count), int(hit), float(total / count) if count else math.nan)
        for count, hit, total in zip(counts, hits, sums, strict=True)
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """How far accuracy is from confidence in the mean over all examples (Guo et al., arXiv 1706.04599)."""
    gaps = [abs(one.right - one.size * one.confidence) for one in bins if one.size]
    return sum(gaps) / max(sum(one.size for one in bins), 1)


def temperature(logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> float:
    """What logits are to be divided by for the least log loss, 0.05 to 20 (Guo et al., section 4.2)."""
    import scipy.optimize

    def loss(log: float) -> float:
        return log_loss(log_probabilities(logits.astype(np.float64) / math.exp(log)), labels)

    ends = math.log(0.05), math.log(20)
    return math.exp(scipy.optimize.minimize_scalar(loss, bounds=ends, method="bounded").x)


class OfClass(NamedTuple):
    """How a class fared; a share is None where there is nothing to take it of.

    Attributes:
      size: how many examples it has.
      recall: share of them that is right.
      precision: share of what is taken for it that is right.
      f1: harmonic mean of the two.
      taken_for: the class that it is most often mistaken for, None without a mistake.
      times: how often.
    """

    size: int
    recall: float | None
    precision: float | None
    f1: float | None
    taken_for: int | None
    times: int


def by_class(counts: Int[np.ndarray, "classes classes"]) -> list[OfClass]:
    """How each class fared, from counts by true class (rows) and predicted class (columns)."""
    found = []
    for label, row in enumerate(counts):
        right, there, said = int(row[label]), int(row.sum()), int(counts[:, label].sum())
        wrong = np.where(np.arange(len(row)) == label, 0, row)
        found.append(
            OfClass(
                there,
                right / there if there else None,
                right / said if said else None,
                2 * right / (there + said) if there + said else None,
                int(wrong.argmax()) if wrong.any() else None,
                int(wrong.max()),
            )
        )
    return found


def confused(counts: Int[np.ndarray, "classes classes"]) -> list[tuple[int, int, int]]:
    """Pairs of true and predicted class that differ, with how often, the most frequent first."""
    pairs = [(int(true), int(said)) for true, said in np.argwhere(counts) if true != said]
    return sorted(
        ((true, said, int(counts[true, said])) for true, said in pairs), key=lambda x: (-x[2], x[:2])
    )
