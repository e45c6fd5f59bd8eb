"""The arithmetic, against plain NumPy in float64 or numbers worked out by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import config as config_lib
from mmids_cnn import data, losses, model, optimizer, score, train
from mmids_cnn.networks.conv_net import ConvNet
from tests.support import oracles
from tests.support.oracles import U
from tests.support.suite import BatchOf, Vary

LEARNING_RATE = 1e-3


def block(images: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """What one block of the model puts out, [n, h//2, w//2, features]: a network whose dense layer copies."""
    n, height, width, _ = images.shape
    shape = (height // 2, width // 2, kernel.shape[3])
    features = int(np.prod(shape))
    network = model.Network(ConvNet(features, (kernel.shape[3],), kernel.shape[0]), features)
    dense = {"kernel": jnp.eye(features), "bias": jnp.zeros(features)}
    params = {"ConvPool_0": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}, "Dense_0": dense}
    return score.logits(network, {"params": params}, images).reshape(n, *shape)


def random_params(params: model.Params, seed: int) -> dict[str, Any]:
    """Parameters like these, with biases that are not zero."""
    generator = np.random.default_rng(seed)
    noise = lambda x: jnp.asarray(x + generator.normal(0, 0.1, x.shape), jnp.float32)  # noqa: E731
    return jax.tree.map(noise, dict(params))


def test_block_by_hand() -> None:
    image = np.array([[255, 0, 0, 0], [0, 0, 0, 51], [0, 0, 0, 0], [0, 0, 102, 0]], np.uint8)
    kernel = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
    # One lit pixel puts the kernel, turned by 180 degrees and scaled, around itself:
    #   5    4    0   0        + 0.2 * (0 0 9 8; 0 0 6 5; 0 0 3 2; 0 0 0 0)
    #   2    1    0   0        + 0.4 * (0 0 0 0; 0 0 0 0; 0 9 8 7; 0 6 5 4)
    #   0    0    0   0
    #   0    0    0   0
    # Windows: max(5, 4, 2, 1), max(1.8, 1.6, 1.2, 1), max(0, 3.6, 0, 2.4), max(3.8, 3.2, 2, 1.6); minus 2.
    got = block(image[None, :, :, None], kernel[:, :, None, None], np.array([-2], np.float32))
    np.testing.assert_allclose(got[0, :, :, 0], np.array([[3.0, 0.0], [1.6, 1.8]]), atol=16 * U * 5)


@pytest.mark.parametrize(
    ("height", "width", "channels", "side"), [(8, 8, 1, 3), (7, 10, 3, 3), (9, 9, 2, 5), (6, 6, 4, 1)]
)
def test_block_agrees_with_numpy(height: int, width: int, channels: int, side: int) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (3, height, width, channels), np.uint8)
    kernel = generator.normal(size=(side, side, channels, 5)).astype(np.float32)
    bias = generator.normal(size=5).astype(np.float32)
    x = images / 255
    want = oracles.pool(np.maximum(oracles.convolve(x, kernel) + bias, 0))
    terms = side * side * channels + 2
    bound = terms * U / (1 - terms * U) * oracles.pool(oracles.convolve(x, abs(kernel)) + abs(bias))
    got = block(images, kernel, bias)
    assert (want == 0).any() and (want > 0).any()
    assert (abs(got - want) <= bound).all()


def test_forward_agrees_with_numpy_on_real_images(
    experiment: config_lib.Experiment, small: data.Dataset
) -> None:
    state = train.init_state(experiment, small)
    params = random_params(state.params, 1)
    images = small.splits["test"].images[:64]
    want, bound = oracles.forward(params, images)
    got = score.logits(state.program.network, {"params": params}, images)
    assert bound.max() < 1e-3 * want.std()
    assert (abs(got - want) <= bound).all()


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
    start = np.array([1.0, -0.02, 1e-3, 3e-5], np.float32)
    curvature = np.array([1, 50, -20, 1e-4], np.float32)
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
    step = jax.jit(train.train_step)
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
    state, step = train.init_state(experiment, small), jax.jit(train.train_step)
    for factor in (1 / 2, 1, 1, 5 / 6):
        before = np.float64(state.params["Dense_0"]["bias"])
        state, _ = step(state, batch_of(range(128), 128))
        moved = np.float64(state.params["Dense_0"]["bias"]) - before
        gradient = np.float64(state.opt_state[0].trace["Dense_0"]["bias"])
        np.testing.assert_allclose(moved, -LEARNING_RATE * factor * gradient, atol=16 * U * LEARNING_RATE)


def test_gradient_of_the_network_agrees_with_finite_differences(
    experiment: config_lib.Experiment, small: data.Dataset, batch_of: BatchOf
) -> None:
    batch, h = batch_of(range(8), 128), 1e-6
    state = train.init_state(experiment, small)
    state = state.replace(
        params=random_params(state.params, 2),  # no zero biases: black pixels would sit on ReLU's kink
        h=state.h._replace(b1=jnp.float32(0)),  # then Adam's mean is the gradient
    )
    gradient = jax.jit(train.train_step)(state, batch)[0].opt_state[0].mu
    images, labels = np.asarray(batch.images[:8]), np.asarray(batch.labels[:8])

    def loss(name: str, kind: str, index: tuple[int, ...], change: float) -> float:
        params = jax.tree.map(np.float64, dict(state.params))
        params[name][kind][index] += change
        return oracles.cross_entropy(oracles.forward(params, images)[0], labels).mean()

    for name, layer in gradient.items():
        for kind, leaf in layer.items():
            order = np.argsort(abs(leaf).ravel())
            for flat in order[[-1, len(order) // 2]]:  # a large entry and a middling one
                index = tuple(int(i) for i in np.unravel_index(flat, leaf.shape))
                slope = (loss(name, kind, index, h) - loss(name, kind, index, -h)) / (2 * h)
                # Sums of up to 8 * 784 terms of either sign: errors grow as the root of their number.
                assert abs(leaf[index] - slope) < 80 * U * abs(leaf).max(), (name, kind, index)
