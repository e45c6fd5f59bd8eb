"""The network: its arithmetic, against NumPy in float64 or worked out by hand, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmids_cnn import config as config_lib
from mmids_cnn import data, model, score, train
from mmids_cnn.errors import ConfigError
from mmids_cnn.networks.conv_net import ConvNet
from tests.support import oracles
from tests.support.oracles import U
from tests.support.suite import BatchOf, Vary, step


def block(images: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """What one block of the model puts out, [n, h//2, w//2, features]: a network whose dense layer copies."""
    n, height, width, _ = images.shape
    shape = (height // 2, width // 2, kernel.shape[3])
    features = int(np.prod(shape))
    network = model.Network(ConvNet(features, (kernel.shape[3],), kernel.shape[0]), features)
    dense = {"kernel": jnp.eye(features), "bias": jnp.zeros(features)}
    params = {"ConvPool_0": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}, "Dense_0": dense}
    return score.logits(network, {"params": params}, images).reshape(n, *shape)


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
    params = oracles.random_params(state.params, 1)
    images = small.splits["test"].images[:64]
    want, bound = oracles.forward(params, images)
    got = score.logits(state.program.network, {"params": params}, images)
    assert bound.max() < 1e-3 * want.std()
    assert (abs(got - want) <= bound).all()


@pytest.mark.soak
def test_gradient_of_the_network_agrees_with_finite_differences(
    experiment: config_lib.Experiment, small: data.Dataset, batch_of: BatchOf
) -> None:
    batch, h = batch_of(range(8), 128), 1e-6
    state = train.init_state(experiment, small)
    state = state.replace(
        params=oracles.random_params(
            state.params, 2
        ),  # no zero biases: black pixels would sit on ReLU's kink
        h=state.h._replace(b1=jnp.float32(0)),  # then Adam's mean is the gradient
    )
    gradient = step(state, batch)[0].opt_state[0].mu
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


def test_images_too_small_for_so_many_poolings_are_refused(vary: Vary) -> None:
    with pytest.raises(
        ConfigError, match=r"config\.model\.channels: expected at most 4 blocks for images of 28x20"
    ):
        model.make(vary(model={"channels": (2,) * 5}), (28, 20, 1), 10)
    assert model.make(vary(model={"channels": (2,) * 4}), (28, 20, 1), 10).classes == 10


def test_variables_of_a_network_without_other_collections(vary: Vary) -> None:
    network = model.make(vary(), (28, 28, 1), 10)
    assert not model.has_state(network, (28, 28, 1))
    assert set(jax.eval_shape(lambda: model.init(network, jax.random.key(0), (28, 28, 1)))) == {"params"}
