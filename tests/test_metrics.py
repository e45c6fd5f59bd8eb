"""Metrics: values by hand, which way is better, how they are shown."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import data, metrics
from mmids_cnn.errors import ConfigError
from tests.support.oracles import U

LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], jnp.float32))
LABELS = jnp.array([1, 1], jnp.int32)


def test_metrics_by_hand() -> None:
    each = {name: np.asarray(one.each(LOGITS, LABELS)) for name, one in metrics.METRICS.items()}
    assert each["accuracy"].tolist() == [False, True]
    np.testing.assert_allclose(each["loss"], [np.log(4), -np.log(0.8)], rtol=8 * U)
    np.testing.assert_allclose(each["brier"], [0.875, 0.06], rtol=16 * U)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_better_is_what_a_right_answer_has(name: str) -> None:
    one = metrics.metric(f"validation/{name}")
    right, wrong = (
        float(one.each(jnp.array([[9.0, 0.0]], jnp.float32), jnp.array([k], jnp.int32))[0]) for k in (0, 1)
    )
    assert one.better(right) > one.better(wrong)


def test_values_as_people_read_them() -> None:
    loss, accuracy = metrics.METRICS["loss"], metrics.METRICS["accuracy"]
    assert [loss.show(x) for x in (2.302585, 0.0312345, 1.5e-7, None)] == [
        "2.3026",
        "0.03123",
        "1.5e-07",
        "not finite",
    ]
    assert [accuracy.show(x) for x in (1.0, 0.98765, 0.0)] == ["100.00 %", "98.77 %", "0.00 %"]
    assert accuracy.show_mean(0.9, None, 1) == "90.00 % (n = 1)"
    assert loss.show_mean(0.5, 0.25, 3) == "0.5000 ± 0.2500 (n = 3)"
    shown = accuracy.show_mean(0.98966, 0.00055, 5, (0.9892, 0.9901))
    assert shown == "98.97 ± 0.06 % (n = 5, 95 % interval 98.92 to 99.01)"


def test_own_metric_has_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half.py").write_text("mine = 0.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = r"eval\.metrics: expected a metrics\.Metric, got 'half:mine', which is float"
    with pytest.raises(ConfigError, match=expected):
        metrics.metric("half:mine")


def test_names_of_metrics() -> None:
    assert metrics.valid(("loss", "accuracy", "mine:top_2"))
    for more in ("f1", "loss", "mine:loss", "mine:count"):  # the last is the number of examples in results
        assert not metrics.valid(("loss", "accuracy", more))


def test_confusion_counts_by_true_and_predicted_class(mnist: data.Dataset) -> None:
    labels = mnist.splits["test"].labels
    predictions = (labels + (np.arange(len(labels)) % 3 == 0)) % 10
    counts = metrics.confusion(labels, predictions, 10)
    assert counts.sum() == len(labels)
    assert counts.sum(1).tolist() == np.bincount(labels, minlength=10).tolist()
    assert counts.sum(0).tolist() == np.bincount(predictions, minlength=10).tolist()
    assert counts.trace() == (labels == predictions).sum()
    assert counts[7, 8] == ((labels == 7) & (predictions == 8)).sum()
    by_hand = metrics.confusion(np.array([0, 2, 2]), np.array([1, 2, 0]), 3)
    assert by_hand.tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 1]]
