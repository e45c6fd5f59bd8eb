"""Losses, against NumPy in float64 and numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import losses, optimizer
from tests.support import oracles
from tests.support.oracles import U
from tests.support.suite import Vary

EXTREME = [
    [0, 0, 0],
    [1, 2, 3],
    [1e4, -1e4, 0],
    [-1e4, 0, 1e4],
    [1e30, 0, -1e30],
    [80, 80, 80],
    [-500, -501, -502],
]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_agrees_with_numpy(smoothing: float) -> None:
    logits = np.repeat(np.array(EXTREME, np.float32), 3, axis=0)
    labels = np.tile(np.arange(3, dtype=np.int32), len(EXTREME))
    want = oracles.cross_entropy(logits, labels, smoothing)
    got = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    bound = 8 * U * (np.ptp(logits, axis=-1) + np.log(3))  # a shift of all logits costs no digit
    assert (abs(got - want) <= bound).all()


def test_cross_entropy_by_hand() -> None:
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    label = jnp.array([1], jnp.int32)
    # Smoothed by 0.3 the target is (0.1, 0.8, 0.1): 0.1 ln 2 + 0.9 ln 4 = 1.9 ln 2.
    for smoothing, want in ((0.0, np.log(4)), (0.3, 1.9 * np.log(2))):
        assert losses.cross_entropy(logits, label, smoothing)[0] == pytest.approx(want, rel=8 * U)


def test_gradient_of_cross_entropy_is_probability_minus_target() -> None:
    logits = np.array(EXTREME, np.float32)
    labels = jnp.zeros(len(EXTREME), jnp.int32)
    got = jax.grad(lambda x: losses.cross_entropy(x, labels, 0.3).sum())(jnp.asarray(logits))
    want = oracles.softmax(logits.astype(np.float64)) - [0.8, 0.1, 0.1]
    np.testing.assert_allclose(got, want, atol=16 * U)


def test_squared_error_by_hand() -> None:
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    label = jnp.array([1], jnp.int32)
    # 0.5² + 0.75² + 0.25²; smoothed by 0.3 the target is (0.1, 0.8, 0.1): 0.4² + 0.55² + 0.15².
    for smoothing, want in ((0.0, 0.875), (0.3, 0.485)):
        assert losses.squared_error(logits, label, smoothing)[0] == pytest.approx(want, rel=8 * U)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_has_a_value_an_example_and_is_least_where_the_answer_is_right(
    name: str, vary: Vary
) -> None:
    labels = jnp.array([2, 2, 2], jnp.int32)
    logits = jnp.array([[0, 0, 9], [0, 0, 0], [9, 0, 0]], jnp.float32)
    right, unsure, wrong = losses.LOSSES[name](logits, labels, optimizer.hyperparams(vary()))
    assert 0 <= right < unsure < wrong
