"""Networks as ONNX graphs: the same numbers as by JAX, of few operations, checked and run by others' code."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import reference

from experiments.own_network import ResNet
from mmids_cnn import model
from mmids_cnn.deploy import bundle, graph, nodes, onnx_graph
from mmids_cnn.errors import ConfigError, RunError
from mmids_cnn.networks.conv_net import ConvNet
from mmids_cnn.networks.norm_net import NormNet
from tests.support import random_variables

SHAPES = [(28, 28, 1), (21, 26, 3)]


class Zoo(nn.Module):
    """Much of what a network of one's own may be made of."""

    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: Any = None) -> jax.Array:
        x = nn.relu(nn.Conv(8, (3, 3), strides=2, padding="VALID")(images / 255.0))
        x = nn.LayerNorm()(nn.Conv(8, (3, 3), kernel_dilation=2, feature_group_count=4)(x))
        x = nn.max_pool(nn.gelu(x), (3, 2), strides=(2, 1), padding="SAME")
        x = nn.avg_pool(nn.silu(x), (2, 2), strides=(2, 2))
        squeezed = nn.sigmoid(nn.Dense(8)(x.mean((1, 2))))
        x = x * squeezed[:, None, None, :] + nn.leaky_relu(-x) ** 3
        x = jnp.concatenate([x, jnp.pad(x[:, :, 1:, ::1], ((0, 0), (0, 0), (0, 1), (0, 0)))], -1)
        x = nn.BatchNorm(use_running_average=not train)(x)
        tokens = nn.Dense(6)(x.reshape(len(x), -1, x.shape[-1]))
        shares = jax.nn.softmax(jnp.einsum("nic,njc->nij", tokens, tokens) / 6)
        tokens = nn.RMSNorm()(jnp.einsum("nij,njc->nic", shares, tokens)).max(1)
        x = jnp.concatenate([tokens, jnp.tanh(tokens), jnp.abs(x).sum((1, 2)), x[:, 0, -1, :]], 1)
        return nn.Dense(self.num_classes)(jnp.clip(x, -3, 3))


class Sorting(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.sort(nn.Dense(3)(x), axis=-1)


class Unknown(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, valid: Any = None) -> jax.Array:
        return nn.Dense(self.num_classes)(Sorting(name="in_order")(images.reshape(len(images), -1) / 255.0))


def made(module: nn.Module, shape: tuple[int, ...], seed: int = 0) -> tuple[model.Network, model.Variables]:
    """A network with random weights."""
    return model.Network(module, 10), random_variables.of(module, shape, seed)


def by_jax(network: model.Network, variables: model.Variables, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(model.apply, static_argnums=0)(network, variables, jnp.asarray(images)))


def images_of(shape: tuple[int, ...], count: int = 9) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


def encoded(networks: Sequence[Any], shape: tuple[int, ...]) -> bytes:
    return onnx_graph.encode(graph.of(networks, shape), shape, 10, "1", {"a": "b"})


def ops(found: nodes.Graph) -> Mapping[str, int]:
    return Counter(node.op for node in found.nodes)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (ConvNet(10, (5, 4), 5), SHAPES[1]),
        (Zoo(10), SHAPES[0]),
    ],
    ids=["conv_net 5x5", "zoo"],
)
def test_numbers_are_those_of_jax(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Those of networks that are shipped are looked at where their command is tested."""
    network, variables = made(module, shape)
    images, content = images_of(shape), encoded([(network, variables)], shape)
    expected = by_jax(network, variables, images)
    by_reference: Any = reference.ReferenceEvaluator(onnx.load_model_from_string(content))
    session: Any = onnxruntime.InferenceSession(content)
    for logits, probabilities in (
        onnx_graph.run(content, images, 4),  # batches of 4, 4 and 1
        session.run(["logits", "probabilities"], {"images": images}),
        by_reference.run(["logits", "probabilities"], {"images": images}),
    ):
        assert logits == pytest.approx(expected, abs=float(2e-6 * np.abs(expected).max()))
        assert probabilities == pytest.approx(np.asarray(jax.nn.softmax(expected)), abs=1e-5)
        assert (logits.argmax(1) == expected.argmax(1)).all()


def test_shipped_networks_are_of_few_operations() -> None:
    """Batch norm, biases and changes of layout are gone; what is left is what a person would write."""
    ends = {"Cast": 1, "Div": 1, "Gemm": 1, "Softmax": 1}
    found = graph.of([made(ConvNet(10), (28, 28, 1))], (28, 28, 1))
    assert ops(found) == ends | {"Conv": 3, "MaxPool": 3, "Relu": 3, "Transpose": 2, "Flatten": 1}
    names = {f"ConvPool_{i}/{name}" for i in range(3) for name in ("kernel", "bias")}
    assert names | {"Dense_0/kernel", "Dense_0/bias", "constant"} == found.constants.keys()
    found = graph.of([made(NormNet(10), (28, 28, 1))], (28, 28, 1))
    assert ops(found) == ends | {"Conv": 5, "MaxPool": 2, "Relu": 5, "Transpose": 1, "ReduceMean": 1}
    found = graph.of([made(ResNet(10), (28, 28, 1))], (28, 28, 1))
    blocks = {"Conv": 5, "MaxPool": 3, "Relu": 5, "Add": 2, "Transpose": 2, "Flatten": 1}
    assert ops(found) == ends | blocks


def test_file_is_what_is_promised() -> None:
    found = onnx.load_model_from_string(encoded([made(ConvNet(10), (28, 28, 1))], (28, 28, 1)))
    onnx.checker.check_model(found, full_check=True)
    assert (found.ir_version, [one.version for one in found.opset_import]) == (8, [17])
    (images,), outputs = found.graph.input, found.graph.output
    sizes = [size.dim_param or size.dim_value for size in images.type.tensor_type.shape.dim]
    assert (images.name, images.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert sizes == ["n", 28, 28, 1]
    assert [one.name for one in outputs] == ["logits", "probabilities"]
    assert {one.key: one.value for one in found.metadata_props} == {"a": "b"}


def test_without_onnxruntime_the_reference_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    content, images = encoded([made(ConvNet(10, (3,)), (28, 28, 1))], (28, 28, 1)), images_of((28, 28, 1))
    expected = onnx_graph.run(content, images)
    assert onnx_graph.runtime() == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert onnx_graph.runtime() == "onnx.reference"
    for found, one in zip(onnx_graph.run(content, images), expected, strict=True):
        assert found == pytest.approx(one, abs=1e-4)


def test_pooled_factor_that_is_negative_stays() -> None:
    """The greatest times a negative factor is the least product: such a factor cannot go before a pooling."""
    network, variables = made(NormNet(10), (28, 28, 1))
    for index in (0, 1):  # the first is pooled, the second not
        scale = variables["params"][f"ConvNorm_{index}"]["scale"]
        scale[::2] *= -1
    found, images = graph.of([(network, variables)], (28, 28, 1)), images_of((28, 28, 1))
    assert ops(found)["Mul"] == 1
    content = onnx_graph.encode(found, (28, 28, 1), 10, "1", {})
    expected = by_jax(network, variables, images)
    assert onnx_graph.run(content, images)[0] == pytest.approx(
        expected, abs=float(2e-6 * np.abs(expected).max())
    )


def test_fold_by_hand() -> None:
    """(2 x + 1) * 3 - 4 = 6 x - 1; a layer whose output goes elsewhere too stays as it is."""

    def chain(more: list[nodes.Node]) -> nodes.Graph:
        steps = [("Gemm", "x", "w", "a"), ("Add", "a", "one", "b"), ("Mul", "b", "three", "c")]
        made = [nodes.Node(op, (x, y), to, {}) for op, x, y, to in [*steps, ("Sub", "c", "four", "d")]]
        arrays = {"w": [[2]], "one": [1], "three": 3, "four": [4]}
        return nodes.Graph([*made, *more], {name: np.asarray(x, np.float32) for name, x in arrays.items()})

    found = graph.fold(chain([]))
    ((op, inputs, _, _),) = found.nodes
    weights, bias = (found.constants[name].tolist() for name in inputs[1:])
    assert (op, inputs[0], weights, bias) == ("Gemm", "x", [[6]], [-1])
    found = graph.fold(chain([nodes.Node("Neg", ("a",), "e", {})]))
    assert [node.op for node in found.nodes] == ["Gemm", "Add", "Mul", "Sub", "Neg"]


def test_several_networks_are_the_mean_of_their_probabilities() -> None:
    shape, modules = (28, 28, 1), (ConvNet(10), ResNet(10), NormNet(10))
    networks = [made(module, shape, seed) for seed, module in enumerate(modules)]
    for _, variables in networks:  # logits of some hundred: nearly all probabilities are 0 for a float32
        variables["params"]["Dense_0"]["kernel"] *= 100
    images = images_of(shape)
    each = [by_jax(*network, images).astype(np.float64) for network in networks]
    assert min(abs(one).max() for one in each) > 100
    logits, probabilities = onnx_graph.run(encoded(networks, shape), images)
    assert probabilities == pytest.approx(np.mean([jax.nn.softmax(one) for one in each], 0), abs=1e-4)
    logs = np.stack([one - np.logaddexp.reduce(one, -1, keepdims=True) for one in each])
    expected = np.logaddexp.reduce(logs, 0) - np.log(3)
    assert np.isfinite(logits).all() and logits == pytest.approx(expected, rel=1e-4, abs=1e-2)
    assert ops(graph.of(networks, shape))["Cast"] == 1  # shared


def test_unknown_operation_is_named_with_its_layer() -> None:
    with pytest.raises(ConfigError) as caught:
        graph.of([made(Unknown(10), (28, 28, 1))], (28, 28, 1))
    assert str(caught.value) == (
        "model.name: expected a network of operations that can be translated to ONNX, found sort in "
        f"in_order of {Unknown.__module__}:Unknown; give --format=safetensors, or make it of others"
    )


def test_network_that_looks_at_no_image() -> None:
    class Deaf(nn.Module):
        num_classes: int

        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool = False, valid: Any = None) -> jax.Array:
            return nn.Dense(self.num_classes)(jnp.ones((len(images), 3)))

    with pytest.raises(ConfigError, match="found logits that depend on no image in"):
        graph.of([made(Deaf(10), (28, 28, 1))], (28, 28, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([[0, 1.2, 0]], "the same class for 0 of 1 test images and logits up to 1.2 off, of at most 1"),
        ([[1.001, 0, 0]], "the same class for 1 of 1 test images and logits up to 0.001 off"),
        ([[np.nan, 0, 0]], "the same class for 1 of 1 test images and logits up to nan off"),
    ],
)
def test_other_answers_are_refused(change: Any, message: str) -> None:
    expected = np.array([[1, 0, 0]], np.float32)
    assert bundle.compare(expected, expected + np.float32(1e-5)).agreement == 1
    with pytest.raises(RunError, match=message):
        bundle.compare(expected, np.array(change, np.float32))
