"""Optimizers and schedules, against NumPy in float64 and numbers worked out by hand."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import config as config_lib
from mmids_cnn import data, optimizer, train
from mmids_cnn.errors import ConfigError
from tests.support.oracles import U
from tests.support.suite import BatchOf, Vary, digests, step

LEARNING_RATE = 1e-3


def hyperparams(vary: Vary, **changes: Any) -> optimizer.Hyperparams:
    return optimizer.hyperparams(vary(optimizer=changes))


def numpy_adam(x: np.ndarray, gradients: list[np.ndarray], decay: float = 0.0) -> np.ndarray:
    """Kingma & Ba, arXiv 1412.6980, algorithm 1, with the constants as float32 rounds them."""
    b1, b2, eps, rate, decay = (float(np.float32(v)) for v in (0.9, 0.999, 1e-8, LEARNING_RATE, decay))
    m, v = np.zeros_like(x, np.float64), np.zeros_like(x, np.float64)
    for t, gradient in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * gradient
        v = b2 * v + (1 - b2) * gradient.astype(np.float64) ** 2
        x = x - rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * x)
    return x


def adam_error(x: np.ndarray, steps: int) -> np.ndarray:
    """How far float32 may be off: 1 - b2**t loses digits, as b2**t is near 1, and its root halves that."""
    step = LEARNING_RATE * U * (1 / (1 - 0.999) + 2 / (1 - 0.9) + 16)
    return steps * (step + 2 * U * abs(x))


def run_optax(name: str, h: optimizer.Hyperparams, x: Any, gradients: list[Any]) -> Any:
    transformation = optimizer.make(name, h, h.learning_rate)
    opt_state = transformation.init(x)
    for gradient in gradients:
        updates, opt_state = transformation.update(gradient, opt_state, x)
        x = jax.tree.map(jnp.add, x, updates)
    return x


def test_first_adam_step_moves_each_weight_by_the_rate_whatever_its_gradient(vary: Vary) -> None:
    gradient = jnp.array([100.0, -1.0, 1e-4, 1e-8, -3e-8, 0.0])
    x = run_optax("adam", hyperparams(vary), jnp.zeros(6), [gradient])
    # -rate * g / (|g| + 1e-8)
    want = -LEARNING_RATE * np.array([1, -1, 0.9999, 0.5, -0.75, 0])
    assert (abs(x - want) <= adam_error(want, 1)).all()


@pytest.mark.parametrize(("name", "decay"), [("adam", 0.0), ("adamw", 0.1)])
def test_three_steps_of_adam_on_a_quadratic(vary: Vary, name: str, decay: float) -> None:
    start = np.array([[1.0, -0.02, 1e-3, 3e-5]], np.float32)
    curvature = np.array([[1, 50, -20, 1e-4]], np.float32)
    x, gradients = start.astype(np.float64), []
    for _ in range(3):
        gradients.append((curvature * x).astype(np.float32))
        x = numpy_adam(start, gradients, decay)
    h = hyperparams(vary, name=name, weight_decay=decay)
    got = run_optax(name, h, jnp.asarray(start), [jnp.asarray(g) for g in gradients])
    assert (abs(got - x) <= adam_error(x, 3)).all()


def test_three_steps_of_adam_on_the_network(
    experiment: config_lib.Experiment, small: data.Dataset, batch_of: BatchOf
) -> None:
    state = train.init_state(experiment, small)
    start, gradients, before = state.params, [], jax.tree.map(jnp.zeros_like, state.params)
    for i in range(3):
        state, _ = step(state, batch_of(range(128 * i, 128 * i + 128), 128))
        mean = state.opt_state[0].mu  # b1 times the mean before, and 1 - b1 times the gradient
        gradients.append(
            jax.tree.map(lambda new, old: (np.float64(new) - 0.9 * np.float64(old)) / 0.1, mean, before)
        )
        before = mean
    assert state.opt_state[0].count == 3
    for path, leaf in jax.tree_util.tree_leaves_with_path(start):
        pick = lambda tree: dict(jax.tree_util.tree_leaves_with_path(tree))[path]  # noqa: B023, E731
        want = numpy_adam(np.asarray(leaf, np.float64), [pick(g) for g in gradients])
        assert (abs(pick(state.params) - want) <= adam_error(want, 3)).all(), path


def test_sgd_has_heavy_ball_momentum(vary: Vary) -> None:
    h = hyperparams(vary, name="sgd", learning_rate=0.5, b1=0.75)
    x = run_optax("sgd", h, jnp.array([8.0]), [jnp.array([4.0]), jnp.array([-1.0]), jnp.array([2.0])])
    # velocities 4, 3 - 1 = 2, 1.5 + 2 = 3.5; 8 - (4 + 2 + 3.5) / 2
    assert x[0] == 3.25


@pytest.mark.parametrize(
    ("schedule", "warmup", "step", "factor"),
    [
        ("constant", 0.0, 0, 1),
        ("constant", 0.0, 79, 1),
        ("constant", 0.25, 0, 1 / 20),
        ("constant", 0.25, 19, 1),
        ("constant", 0.25, 79, 1),
        ("cosine", 0.0, 0, 1),
        ("cosine", 0.0, 40, 1 / 2),
        ("cosine", 0.0, 79, (1 - np.cos(np.pi / 80)) / 2),
        ("cosine", 0.25, 9, 10 / 20),
        ("cosine", 0.25, 19, 1),
        ("cosine", 0.25, 20, 1),
        ("cosine", 0.25, 40, 3 / 4),  # a third of the way: (1 + cos 60 degrees) / 2
        ("one_cycle", 0.0, 0, 1),
        ("one_cycle", 0.25, 4, 5 / 20),
        ("one_cycle", 0.25, 19, 1),
        ("one_cycle", 0.25, 20, 1),
        ("one_cycle", 0.25, 50, 1 / 2),
        ("one_cycle", 0.25, 79, 1 / 60),
    ],
)
def test_learning_rate(vary: Vary, schedule: str, warmup: float, step: int, factor: float) -> None:
    h = hyperparams(vary, schedule=schedule, warmup_fraction=warmup)
    got = optimizer.learning_rate(schedule, 80, h, jnp.int32(step))
    assert got == pytest.approx(LEARNING_RATE * factor, abs=8 * U * LEARNING_RATE)


def test_steps_follow_the_schedule(vary: Vary, small: data.Dataset, batch_of: BatchOf) -> None:
    settings = {"name": "sgd", "b1": 0.0, "schedule": "one_cycle", "warmup_fraction": 0.25}
    experiment = vary(num_epochs=1, optimizer=settings, model={"channels": (2,)})  # 8 steps, 2 of them rising
    state = train.init_state(experiment, small)
    for factor in (1 / 2, 1, 1, 5 / 6):
        before = np.float64(state.params["Dense_0"]["bias"])
        state, _ = step(state, batch_of(range(128), 128))
        moved = np.float64(state.params["Dense_0"]["bias"]) - before
        gradient = np.float64(state.opt_state[0].trace["Dense_0"]["bias"])
        np.testing.assert_allclose(moved, -LEARNING_RATE * factor * gradient, atol=16 * U * LEARNING_RATE)


def test_first_lion_step_moves_each_weight_by_the_rate_in_the_direction_of_its_gradient(vary: Vary) -> None:
    """Chen et al., arXiv 2302.06675, algorithm 2: the sign of b1 m + (1 - b1) g, and decay beside it."""
    start, gradient = jnp.array([[1.0, -2.0, 0.5, 0.0]]), jnp.array([[1e-6, -3.0, 40.0, 0.0]])
    h = hyperparams(vary, name="lion", weight_decay=0.1)
    got = run_optax("lion", h, start, [gradient])
    want = start - LEARNING_RATE * (np.sign(gradient) + 0.1 * start)
    np.testing.assert_allclose(got, want, atol=4 * U)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_biases_and_scales_do_not_decay(vary: Vary, name: str) -> None:
    x = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    h = hyperparams(vary, name=name, weight_decay=0.1)
    got = run_optax(name, h, x, [jax.tree.map(jnp.zeros_like, x)])
    np.testing.assert_allclose(got["kernel"], 3 - LEARNING_RATE * 0.1 * 3, atol=4 * U)
    np.testing.assert_array_equal(got["bias"], x["bias"])


@pytest.mark.parametrize(("norm", "factor"), [(26.0, 1.0), (13.0, 1.0), (6.5, 0.5), (1e-3, 1e-3 / 13)])
def test_long_gradients_are_cut(norm: float, factor: float) -> None:
    """Pascanu et al., arXiv 1211.5063, algorithm 1, over all parameters."""
    gradient = {"a": jnp.array([[3.0, -4.0]]), "b": jnp.array([0.0, 12.0])}
    got = optimizer.clip(gradient, jnp.float32(norm))
    for name, x in gradient.items():
        np.testing.assert_allclose(got[name], factor * x, rtol=4 * U)


@pytest.mark.parametrize("scale", [1e20, 1e36])
def test_gradients_whose_squares_float32_does_not_hold_are_cut(scale: float) -> None:
    got = optimizer.clip({"a": scale * jnp.array([3.0, -4.0])}, jnp.float32(1))["a"]
    np.testing.assert_allclose(got, [0.6, -0.8], rtol=8 * U)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_gradient_that_is_not_finite_stays_so(bad: float) -> None:
    got = optimizer.clip({"a": jnp.array([1.0, bad])}, jnp.float32(1))["a"]
    assert not np.isfinite(got).all()


def test_gradient_of_zeros_is_not_cut() -> None:
    np.testing.assert_array_equal(optimizer.clip({"a": jnp.zeros(3)}, jnp.float32(1))["a"], 0)


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_state_of_an_optimizer_does_not_depend_on_its_numbers(name: str, vary: Vary) -> None:
    x = {"a": jnp.ones(3)}
    states = [
        optimizer.make(name, hyperparams(vary, name=name, b1=b1, learning_rate=rate), jnp.float32(rate)).init(
            x
        )
        for b1, rate in ((0.9, 1e-3), (0.5, 0.1))
    ]
    assert digests(states[0]) == digests(states[1])


def test_own_optimizer_has_to_make_one(vary: Vary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_optimizer.py").write_text("def rate(h, rate):\n    return rate\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    h = hyperparams(vary)
    expected = (
        r"optimizer\.name: expected a function that returns an optax optimizer, got 'no_optimizer:rate'"
    )
    with pytest.raises(ConfigError, match=expected):
        optimizer.make("no_optimizer:rate", h, h.learning_rate)
