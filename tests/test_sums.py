"""Sums of metrics: merged by addition, divided once."""

import functools

import jax
import numpy as np
import pytest

from mmids_cnn import data, sums
from tests.support import oracles
from tests.support.oracles import U

METRICS = ("loss", "accuracy")
COUNT = 10_000


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (COUNT, 10)).astype(np.float32)


def test_means_divide_once(logits: np.ndarray, mnist: data.Dataset) -> None:
    labels = mnist.splits["test"].labels
    valid, add = np.arange(COUNT) < 7000, jax.jit(functools.partial(sums.add_up, METRICS))
    halves = [add(logits[i], labels[i], valid[i]) for i in (slice(5000), slice(5000, None))]
    means = (halves[0] + halves[1]).means("test")
    right = (logits.argmax(-1) == labels)[:7000].sum()
    assert means["test/count"] == 7000
    assert means["test/accuracy"] == right / 7000
    loss = oracles.cross_entropy(logits[:7000], labels[:7000]).mean()
    assert means["test/loss"] == pytest.approx(loss, rel=np.sqrt(COUNT) * U)
    assert sums.zero(METRICS, 10).means("test") == {"test/loss": 0, "test/accuracy": 0, "test/count": 0}


def test_true_and_false_are_counted_exactly(mnist: data.Dataset) -> None:
    totals = sums.zero((*METRICS, "brier"), 10).totals
    assert {name: total.dtype.name for name, total in totals.items()} == {
        "accuracy": "int32",
        "brier": "float32",
        "loss": "float32",
    }


def test_rows_name_loss_and_accuracy_first() -> None:
    assert list(sums.zero(("brier", *METRICS), 10).means("test")) == [
        "test/loss",
        "test/accuracy",
        "test/brier",
        "test/count",
    ]
