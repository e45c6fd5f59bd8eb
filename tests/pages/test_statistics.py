"""What comparisons of a few values are worth, against SciPy's own tests."""

import math

import numpy as np
import pytest
import scipy.stats

from mmids_cnn.pages import statistics

BASE = [98.96, 98.88, 99.02, 99.01, 98.96]


def test_two_groups_are_compared_as_scipy_does() -> None:
    other = [99.25, 99.28, 99.26]
    found = statistics.compare(BASE, other)
    test = scipy.stats.ttest_ind(other, BASE, equal_var=False)
    interval = test.confidence_interval(0.95)
    assert found["difference"] == pytest.approx(np.mean(other) - np.mean(BASE), abs=1e-12)
    assert found["welch"] == pytest.approx(test.pvalue, rel=1e-9)
    assert found["interval"] == pytest.approx([interval.low, interval.high], rel=1e-9)
    # Of the 56 ways to deal eight values out none has the groups further apart; two-sided, it is twice that.
    assert found["permutation"] == pytest.approx(2 / 56)
    low, high = found["bootstrap"]
    assert 0.2 < low < found["difference"] < high < 0.4


def test_difference_that_is_visible_is_seen_in_four_of_five_cases() -> None:
    random, n, sd = np.random.default_rng(0), 9, 0.075
    values = sd * scipy.stats.zscore(np.arange(n), ddof=1)
    visible = statistics.compare(values, values)["visible"]
    assert visible == pytest.approx(0.1, rel=0.15)
    one, other = random.normal(0, sd, (4000, n)), random.normal(visible, sd, (4000, n))
    seen = scipy.stats.ttest_ind(one, other, axis=1, equal_var=False).pvalue < 0.05
    assert 0.76 < seen.mean() < 0.88


def test_single_value_beside_a_group() -> None:
    found = statistics.compare(BASE, [99.11])
    reach = scipy.stats.t.ppf(0.975, 4) * np.std(BASE, ddof=1) * np.sqrt(1 + 1 / 5)
    assert found["interval"] == pytest.approx([0.144 - reach, 0.144 + reach], abs=1e-9)
    assert found["permutation"] is found["bootstrap"] is None
    mirrored = statistics.compare([99.11], BASE)
    assert mirrored["difference"] == pytest.approx(-0.144)
    assert mirrored["welch"] == pytest.approx(found["welch"])


def test_equal_values_are_no_difference() -> None:
    found = statistics.compare([99.0, 99.0], [99.0, 99.0])
    assert (found["difference"], found["interval"], found["welch"]) == (0, [0, 0], None)


def test_mcnemar_is_the_binomial_test_of_what_one_alone_gets_right() -> None:
    first = [True] * 50 + [True] * 12 + [False] * 3 + [False] * 5
    second = [True] * 50 + [False] * 12 + [True] * 3 + [False] * 5
    tail = sum(math.comb(15, k) for k in range(4)) / 2**15
    assert statistics.mcnemar(first, second) == {"first": 12, "second": 3, "p": pytest.approx(2 * tail)}
    assert statistics.mcnemar(first, first) == {"first": 0, "second": 0, "p": 1.0}
