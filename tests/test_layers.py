"""Layers against the native operations, finite differences and themselves under transformations."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.test_util import check_grads

from mmids_cnn import layers, model
from mmids_cnn.networks.conv_net import ConvNet
from tests.support.oracles import U

SHAPES = [  # batch, height, width, channels, features, rows, columns
    (4, 28, 28, 1, 16, 3, 3),  # four positions: few channels
    (4, 14, 14, 16, 32, 3, 3),  # Winograd
    (4, 7, 7, 32, 8, 3, 3),  # Winograd, odd sizes
    (2, 9, 12, 3, 7, 5, 5),
    (1, 5, 6, 8, 3, 1, 7),
    (2, 2, 3, 6, 4, 3, 3),
    (2, 4, 4, 3, 4, 1, 1),
    (2, 6, 3, 5, 4, 7, 1),  # larger than the image
]
SOME_SHAPES = [*SHAPES[:4], *(pytest.param(shape, marks=pytest.mark.soak) for shape in SHAPES[4:])]


def sample(shape: Any, dtype: Any = np.float32, seed: Any = 0) -> Any:
    batch, height, width, channels, features, rows, columns = shape
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(batch, height, width, channels))
    kernel = rng.normal(size=(rows, columns, channels, features)) / np.sqrt(rows * columns * channels)
    return tuple(jnp.asarray(x, dtype) for x in (images, kernel, rng.normal(size=features)))


def native_convolution(images: Any, kernel: Any) -> Any:
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def native_block(images: Any, kernel: Any, bias: Any) -> Any:
    return nn.max_pool(nn.relu(native_convolution(images, kernel) + bias), (2, 2), (2, 2))


def fast_block(images: Any, kernel: Any, bias: Any) -> Any:
    return layers.conv_pool(layers.batch_last(images), kernel, bias).transpose(3, 1, 2, 0)


def native_pool(images: Any) -> Any:
    return nn.max_pool(images, (2, 2), (2, 2))


FORMS: dict[
    str, tuple[Any, Any, int]
] = {  # ours, the native one, and how many of images, kernel and bias they take
    "block": (fast_block, native_block, 3),
    "convolution": (layers.convolution, native_convolution, 2),
    "max_pool": (layers.max_pool, native_pool, 1),
}


def weighted(function: Any) -> Any:
    """A scalar function whose gradient reaches every output with a different weight."""

    def scalar(*arguments: Any) -> Any:
        out = function(*arguments)
        return (out * jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)).sum()

    return scalar


def value_and_gradients(function: Any, arguments: Any) -> Any:
    """What a function returns, and its gradients; one program, as each operation alone takes longer."""
    return both_of(function, len(arguments))(*arguments)


@functools.cache
def both_of(function: Any, count: int) -> Any:
    every = tuple(range(count))
    return jax.jit(lambda *args: (function(*args), jax.grad(weighted(function), every)(*args)))


def assert_same(function: Any, reference: Any, arguments: Any, tolerance: Any) -> None:
    value, gradients = value_and_gradients(function, arguments)
    native_value, native_gradients = value_and_gradients(reference, arguments)
    assert value.dtype == native_value.dtype
    np.testing.assert_allclose(value, native_value, rtol=tolerance, atol=tolerance)
    for got, expected in zip(gradients, native_gradients, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(
            got, expected, rtol=tolerance, atol=tolerance * (1 + np.abs(expected).max())
        )


@pytest.mark.parametrize("shape", SOME_SHAPES)
def test_convolution_is_laxs(shape: Any) -> None:
    images, kernel, _ = sample(shape)
    assert_same(layers.convolution, native_convolution, (images, kernel), 3e-6)


@pytest.mark.parametrize("shape", SOME_SHAPES)
def test_block_is_conv_relu_pool(shape: Any) -> None:
    assert_same(fast_block, native_block, sample(shape), 3e-6)


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_float64_is_kept_and_exact(shape: Any, form: str) -> None:
    function, native, count = FORMS[form]
    with jax.enable_x64(True):
        arguments = sample(shape, np.float64)[:count]
        assert jax.eval_shape(function, *arguments).dtype == np.float64
        assert_same(function, native, arguments, 1e-13)


@pytest.mark.soak
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(2, 6, 7, 5, 3, 3, 3), (2, 5, 4, 2, 3, 5, 5)])
def test_gradients_are_finite_differences(shape: Any, form: str) -> None:
    function, _, count = FORMS[form]
    with jax.enable_x64(True):
        arguments = sample(shape, np.float64)[:count]
        check_grads(jax.jit(function), arguments, order=1, modes=["rev"], eps=1e-6, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("height, width", [(4, 4), (5, 7), (2, 2), (3, 2)])
def test_pooling_and_its_ties_are_flaxs(height: Any, width: Any) -> None:
    numbers = np.random.default_rng(1).integers(0, 3, (3, height, width, 4))  # many equal maxima
    images = jnp.asarray(numbers, jnp.float32)
    assert_same(layers.max_pool, native_pool, (images,), 0)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_gradient_goes_to_the_first_of_equal_maxima(place: Any) -> None:
    window = np.where(np.arange(4) >= place, 1.0, 0.0).astype(np.float32)
    gradient = jax.grad(lambda x: layers.max_pool(x).sum())(window.reshape(1, 2, 2, 1))
    np.testing.assert_array_equal(gradient.ravel(), np.arange(4) == place)


@pytest.mark.soak
def test_rows_of_a_batch_are_independent() -> None:
    images, kernel, bias = sample((5, 14, 14, 16, 8, 3, 3))
    whole = fast_block(images, kernel, bias)
    np.testing.assert_allclose(whole[2:3], fast_block(images[2:3], kernel, bias), rtol=1e-6, atol=1e-6)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("form", "shared"),
    [("block", True), ("block", False), ("convolution", True), ("convolution", False), ("max_pool", False)],
)
@pytest.mark.parametrize("shape", [SHAPES[1]])
def test_vmap_over_models_is_each_model_alone(shape: Any, shared: Any, form: str) -> None:
    function, _, count = FORMS[form]
    each = [sample(shape, seed=seed)[:count] for seed in range(3)]
    images, *weights = map(np.stack, zip(*each, strict=True))
    axes, images = ((None, 0, 0), images[0]) if shared else ((0, 0, 0), images)
    both = jax.jit(jax.value_and_grad(weighted(function), tuple(range(count))))
    values, gradients = jax.jit(jax.vmap(both, axes[:count]))(images, *weights)
    nearly_cancels = 1e-5 if form == "max_pool" else 0  # the sum of one seed does
    for i in range(3):
        value, expected = both(images if shared else images[i], *(weight[i] for weight in weights))
        np.testing.assert_allclose(values[i], value, rtol=1e-5, atol=nearly_cancels)
        for got, wanted in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(got[i], wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("form", FORMS)
def test_vmap_over_images_is_a_batch(form: str) -> None:
    function, _, count = FORMS[form]
    images, *weights = sample(SHAPES[1])[:count]
    single = jax.jit(jax.vmap(lambda image: function(image[None], *weights)[0]))(images)
    np.testing.assert_allclose(single, jax.jit(function)(images, *weights), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_scan_is_a_loop(form: str) -> None:
    function, _, count = FORMS[form]
    images, *weights = sample((6, 7, 7, 8, 8, 3, 3))[:count]
    parts = images.reshape(3, 2, *images.shape[1:])
    both = jax.jit(jax.value_and_grad(weighted(function), tuple(range(count))))
    _, (values, gradients) = lax.scan(lambda _, part: (None, both(part, *weights)), None, parts)
    for i, part in enumerate(parts):
        value, expected = both(part, *weights)
        np.testing.assert_allclose(values[i], value, rtol=1e-5)
        for got, wanted in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(got[i], wanted, rtol=1e-5, atol=1e-5)


def accelerators_block(images: Any, kernel: Any, bias: Any) -> Any:
    pooled = layers.native.conv_pool(layers.batch_last(images), kernel)
    return nn.relu(pooled + bias[:, None, None, None]).transpose(3, 1, 2, 0)


@pytest.mark.soak
@pytest.mark.parametrize("shape", SHAPES)
def test_form_for_accelerators_is_conv_relu_pool(shape: Any) -> None:
    assert_same(accelerators_block, native_block, sample(shape), 3e-6)


def test_form_for_accelerators_has_flaxs_ties() -> None:
    numbers = np.random.default_rng(1).integers(0, 3, (3, 5, 7, 4))  # many equal maxima
    images = jnp.asarray(numbers, jnp.float32)

    def pool(images: Any) -> Any:
        return layers.native.max_pool(layers.batch_last(images)).transpose(3, 1, 2, 0)

    assert_same(pool, native_pool, (images,), 0)


def test_platforms_get_their_forms_without_a_scatter() -> None:
    arguments = sample(SHAPES[1])
    gradient = jax.jit(jax.vmap(jax.grad(weighted(fast_block), 1), (0, None, None)))
    arguments = (arguments[0][:, None], *arguments[1:])
    for platform, native in (("cpu", False), ("cuda", False), ("tpu", True)):
        text = gradient.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.convolution" in text) == native
        assert "scatter" not in text


@pytest.mark.soak
@pytest.mark.parametrize(("batch", "side", "channels"), [(1, 14, 16), (32, 7, 32)])
def test_gradient_that_is_exactly_zero_is_a_rounding(batch: int, side: int, channels: int) -> None:
    """Only the first pixel counts: taps above it and on its left meet padding alone."""
    images, kernel, _ = sample((batch, side, side, channels, 8, 3, 3))
    weights = np.random.default_rng(1).normal(size=(batch, 8)).astype(np.float32)

    def first(kernel: Any) -> Any:
        return (layers.convolution(images, kernel)[:, 0, 0] * weights).sum()

    gradient = np.asarray(jax.grad(first)(kernel))
    sums = np.einsum("brsc,bf->cf", abs(images[:, :3, :3]), abs(weights))  # over the tile of its window
    assert (abs(gradient[0]) <= 2 * U * sums).all()
    assert (abs(gradient[:, 0]) <= 2 * U * sums).all()


def test_even_kernels_are_refused() -> None:
    images, _, bias = sample(SHAPES[0])
    with pytest.raises(ValueError, match=r"odd.*got \(2, 2\)"):
        layers.convolution(images, jnp.zeros((2, 2, 1, 16)))
    with pytest.raises(ValueError, match=r"odd.*got \(2, 2\)"):
        fast_block(images, jnp.zeros((2, 2, 1, 16)), bias)


class Plain(nn.Module):
    """The same network as everyone writes it."""

    @nn.compact
    def __call__(self, images: Any) -> Any:
        x = images.astype(jnp.float32) / 255
        for i, features in enumerate((16, 32, 32)):
            x = nn.max_pool(nn.relu(nn.Conv(features, (3, 3), name=f"Conv_{i}")(x)), (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


def test_network_is_the_plain_one_with_its_parameters() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), np.uint8)
    network = model.Network(ConvNet(10), 10)
    variables = jax.jit(model.init, static_argnums=(0, 2))(network, jax.random.key(0), (28, 28, 1))
    logits = jax.jit(model.apply, static_argnums=0)(network, variables, jnp.asarray(images))
    renamed = {name.replace("ConvPool", "Conv"): value for name, value in variables["params"].items()}
    expected: Any = jax.jit(Plain().apply)({"params": renamed}, images)
    np.testing.assert_allclose(expected, logits, rtol=1e-5, atol=1e-5)


def test_constant_images_tie_everywhere() -> None:
    """The rule for ties is the native one also behind a convolution."""
    for channels in (1, 16):  # the products with four positions, and Winograd's
        _, kernel, bias = sample((2, 6, 6, channels, 4, 3, 3))
        for level in (0.0, 1.0):
            assert_same(
                fast_block, native_block, (jnp.full((2, 6, 6, channels), level), abs(kernel), bias), 3e-6
            )


def test_no_image_has_no_logits() -> None:
    network = model.Network(ConvNet(10, (2, 5)), 10)
    shapes = jax.eval_shape(lambda: model.init(network, jax.random.key(0), (8, 8, 1)))
    params = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes)
    apply = jax.jit(model.apply, static_argnums=0)
    assert apply(network, params, jnp.zeros((0, 8, 8, 1), jnp.uint8)).shape == (0, 10)


def test_parameters_are_float32_where_float64_is_the_default() -> None:
    with jax.enable_x64(True):
        network = model.Network(ConvNet(10, (2, 5)), 10)
        params = jax.jit(model.init, static_argnums=(0, 2))(network, jax.random.key(0), (8, 8, 1))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
        logits = jax.jit(model.apply, static_argnums=0)(network, params, jnp.zeros((1, 8, 8, 1), jnp.uint8))
        assert logits.dtype == jnp.float32


def test_new_values_do_not_recompile() -> None:
    step: Any = jax.jit(jax.grad(weighted(fast_block), 1))
    for seed in range(3):
        step(*sample(SHAPES[1], seed=seed))
    assert step._cache_size() == 1
