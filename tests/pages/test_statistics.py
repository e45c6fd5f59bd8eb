"""What comparisons of a few values are worth, against SciPy's own tests."""

import math

import numpy as np
import pytest
import scipy.stats

from mmids_cnn import metrics
from mmids_cnn.pages import statistics
from mmids_cnn.runs import compare

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


@pytest.mark.parametrize(("n", "expected"), [(3, 0.2303), (9, 0.1055)])
def test_difference_that_is_visible_is_seen_in_four_of_five_cases(n: int, expected: float) -> None:
    """By Student's t, whose degrees of freedom are those of equal deviations."""
    random, sd = np.random.default_rng(0), 0.075
    values = sd * scipy.stats.zscore(np.arange(n), ddof=1)
    visible = statistics.compare(values, values)["visible"]
    assert visible == pytest.approx(expected, rel=1e-3)
    one, other = random.normal(0, sd, (10_000, n)), random.normal(visible, sd, (10_000, n))
    seen = scipy.stats.ttest_ind(one, other, axis=1).pvalue < 0.05
    assert seen.mean() == pytest.approx(0.8, abs=0.02)


def test_single_value_beside_a_group() -> None:
    found = statistics.compare(BASE, [99.11])
    reach = scipy.stats.t.ppf(0.975, 4) * np.std(BASE, ddof=1) * np.sqrt(1 + 1 / 5)
    assert found["interval"] == pytest.approx([0.144 - reach, 0.144 + reach], abs=1e-9)
    assert found["permutation"] is found["bootstrap"] is None
    mirrored = statistics.compare([99.11], BASE)
    assert mirrored["difference"] == pytest.approx(-0.144)
    assert mirrored["welch"] == pytest.approx(found["welch"])


def test_equal_values_are_no_difference() -> None:
    nothing = dict.fromkeys(("interval", "welch", "permutation", "bootstrap", "visible"))
    assert statistics.compare([99.0, 99.0], [99.0, 99.0]) == {"difference": 0, **nothing}


@pytest.mark.parametrize(
    ("first", "second"), [([98.96] * 3, [98.97] * 3), ([90.0, 90.0], [70.0]), ([70.0], [90.0, 90.0])]
)
def test_values_without_a_spread_decide_nothing(first: list[float], second: list[float]) -> None:
    found = statistics.compare(first, second)
    assert found["difference"] == pytest.approx(second[0] - first[0])
    assert {value for name, value in found.items() if name != "difference"} == {None}
    assert compare.verdict(first, second)["text"].startswith("not distinguishable")


def test_interval_of_a_mean_holds_it_in_95_of_100_cases() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        low, high = statistics.spread(random.normal(size=5).tolist())["interval"]
        held += low < 0 < high
    assert 0.935 < held / 2000 < 0.965


def test_mcnemar_is_the_binomial_test_of_what_one_alone_gets_right() -> None:
    first = [True] * 50 + [True] * 12 + [False] * 3 + [False] * 5
    second = [True] * 50 + [False] * 12 + [True] * 3 + [False] * 5
    tail = sum(math.comb(15, k) for k in range(4)) / 2**15
    assert statistics.mcnemar(first, second) == {"first": 12, "second": 3, "p": pytest.approx(2 * tail)}
    assert statistics.mcnemar(first, first) == {"first": 0, "second": 0, "p": 1.0}


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (1, 1), (3, 7), (9807, 10_000)])
def test_wilson_is_that_of_scipy(hits: int, count: int) -> None:
    expected = scipy.stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert statistics.wilson(hits, count) == pytest.approx([expected.low, expected.high], abs=1e-12)


def made_up() -> tuple[np.ndarray, np.ndarray]:
    """Logits of 2,000 examples of 7 classes that are too sure, and their labels."""
    random = np.random.default_rng(20_000)
    labels = random.integers(7, size=2000)
    logits = (3 * random.standard_normal((2000, 7)) + 4 * np.eye(7)[labels]).astype(np.float32)
    return logits, labels


def test_classifier_is_judged_as_others_judge_it() -> None:
    """Expected of `made_up` by scikit-learn 1.9.1 and torchmetrics 1.9.0, whose class is of float32."""
    logits, labels = made_up()
    logs, said = statistics.log_probabilities(logits), logits.argmax(-1)
    sure, right = np.exp(logs.max(-1)), said == labels
    assert statistics.log_loss(logs, labels) == pytest.approx(1.7078573196, rel=1e-11)  # log_loss
    assert statistics.brier(logs, labels) == pytest.approx(0.708198771753, rel=1e-11)  # brier_score_loss
    found = statistics.calibration_error(statistics.equal_width(sure, right))
    assert found == pytest.approx(0.241934859952, rel=1e-11)  # _ce_compute in float64
    assert found == pytest.approx(0.241934835911, abs=1e-6)  # MulticlassCalibrationError(7, 15, norm="l1")
    counts = metrics.confusion(labels, said, 7)
    assert counts.tolist() == [  # confusion_matrix
        [147, 29, 31, 19, 18, 22, 18],
        [28, 159, 18, 19, 27, 29, 21],
        [22, 30, 137, 30, 27, 24, 26],
        [20, 29, 19, 140, 19, 28, 23],
        [23, 22, 24, 18, 158, 29, 17],
        [16, 22, 18, 20, 23, 138, 27],
        [23, 29, 28, 15, 23, 29, 139],
    ]
    each = statistics.by_class(counts)
    shares = [[one.precision, one.recall, one.f1] for one in (each[0], each[6])]  # classification_report
    assert shares[0] == pytest.approx([0.526881720430, 0.517605633803, 0.522202486679], abs=1e-12)
    assert shares[1] == pytest.approx([0.512915129151, 0.486013986014, 0.499102333932], abs=1e-12)
    assert (each[1].size, each[1].taken_for, each[1].times) == (301, 5, 29)
    assert statistics.confused(counts)[:2] == [(0, 2, 31), (2, 1, 30)]


def test_errors_come_by_how_sure_they_are() -> None:
    shares = np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.5, 0.5], [0.2, 0.8], [0.1, 0.9]])
    found = statistics.errors(np.log(shares), np.array([1, 1, 1, 1, 0, 0]))
    assert found.tolist() == [1, 5, 4, 0, 3]  # equals in their order; of equal classes the first is said


def test_edges_of_bins_are_those_of_torchmetrics() -> None:
    """An edge belongs to the bin above it, 1 to a bin of its own; expected by `_ce_compute`."""
    sure, right = np.array([1, 1, 0.97, 0.5, 0.2, 1 / 15]), np.array([1, 0, 1, 1, 0, 0], bool)
    bins = statistics.equal_width(sure, right)
    assert [one.size for one in bins] == [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]
    assert statistics.calibration_error(bins) == pytest.approx(0.299444444444, abs=1e-9)


def test_bins_of_equal_mass() -> None:
    sure = np.random.default_rng(0).permutation(np.linspace(0.2, 1, 47))
    bins = statistics.equal_mass(sure, sure > 0.5)
    assert sorted({one.size for one in bins}) == [3, 4] and sum(one.size for one in bins) == 47
    means = [one.confidence for one in bins]
    assert means == sorted(means)
    assert (bins[0].right, bins[-1].right) == (0, bins[-1].size)


def test_temperature_is_where_the_loss_is_least() -> None:
    logits, labels = made_up()
    found = statistics.temperature(logits, labels)
    losses = [
        statistics.log_loss(statistics.log_probabilities(logits / by), labels)
        for by in (found, 0.99 * found, 1.01 * found)
    ]
    assert found > 2 and losses[0] == min(losses)
    assert statistics.temperature(found * logits, labels) == pytest.approx(found**2, rel=1e-3)
    assert statistics.temperature(np.eye(7)[labels], labels) == pytest.approx(0.05, rel=1e-2)  # all right


def test_class_that_is_missing_has_no_share() -> None:
    one = statistics.by_class(np.array([[3, 0], [0, 0]]))[1]
    assert one == (0, None, None, None, None, 0)
