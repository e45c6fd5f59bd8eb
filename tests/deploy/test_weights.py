"""Weights as safetensors: read by the format's own package, by PyTorch, and by the reader, in NumPy alone."""

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as official

from mmids_cnn import model
from mmids_cnn.deploy import reader, weights
from mmids_cnn.networks.conv_net import ConvNet
from mmids_cnn.networks.norm_net import NormNet
from tests.support import random_variables

NETWORKS = {
    "conv_net": ConvNet(10),
    "conv_net of 5x5": ConvNet(10, (6, 7), 5),
    "norm_net": NormNet(10),
    "norm_net of two stages": NormNet(10, (5, 6), (2, 1)),
}
SHAPES = [(28, 28, 1), (21, 26, 3)]


def made(name: str, shape: tuple[int, ...], seed: int = 0) -> tuple[str, model.Network, Any]:
    """A network with random weights, and the name of its kind."""
    module = NETWORKS[name]
    return name.partition(" ")[0], model.Network(module, 10), random_variables.of(module, shape, seed)


def probabilities(network: tuple[str, model.Network, Any], images: np.ndarray) -> np.ndarray:
    """By JAX."""
    return np.asarray(jax.jit(model.predict_proba, static_argnums=0)(*network[1:], jnp.asarray(images)))


def logits(network: tuple[str, model.Network, Any], images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(model.apply, static_argnums=0)(*network[1:], jnp.asarray(images)))


def images_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (9, *shape), np.uint8)


def test_the_package_of_the_format_reads_it(tmp_path: Path) -> None:
    network = made("norm_net", (28, 28, 1))
    content = weights.encode([network], {"class_names": '["é", "b"]'})
    assert content == weights.encode([network], {"class_names": '["é", "b"]'})
    found = official.load(content)
    assert found.keys() == {
        *(f"params/ConvNorm_{i}/{name}" for i in range(5) for name in ("kernel", "scale", "bias")),
        *(f"batch_stats/ConvNorm_{i}/{name}" for i in range(5) for name in ("mean", "var")),
        *("params/Dense_0/kernel", "params/Dense_0/bias"),
    }
    for name, array in found.items():
        collection, layer, leaf = name.split("/")
        np.testing.assert_array_equal(array, network[2][collection][layer][leaf])
    assert int.from_bytes(content[:8], "little") % 8 == 0  # the numbers are aligned
    (tmp_path / "it").write_bytes(content)
    tensors, about = reader.read(str(tmp_path / "it"))
    assert json.loads(about["class_names"]) == ["é", "b"] and about["layout"] == weights.LAYOUT
    assert tensors.keys() == found.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, tensors[name])


def test_other_numbers_than_float32() -> None:
    kinds = ("float64", "float16", "int32", "uint8", "bool")
    arrays: dict[str, Any] = {kind: jnp.arange(3).astype(kind) for kind in kinds if kind != "float64"}
    arrays["float64"] = np.arange(3.0)
    content = weights.encode([("mine", made("conv_net", (28, 28, 1))[1], {"params": arrays})], {})
    found = official.load(content)
    for kind, array in arrays.items():
        assert found[f"params/{kind}"].dtype == array.dtype
        np.testing.assert_array_equal(found[f"params/{kind}"], array)


@pytest.mark.parametrize(("name", "shape"), [*zip(NETWORKS, SHAPES * 2, strict=True)])
def test_reader_gives_the_answers_of_jax(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    network, images = made(name, shape), images_of(shape)
    (tmp_path / "it").write_bytes(weights.encode([network], {}))
    tensors, about = reader.read(str(tmp_path / "it"))
    expected = logits(network, images)
    found = reader.logits(tensors, json.loads(about["networks"])[0], images)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, abs=float(2e-6 * np.abs(expected).max()))
    assert reader.probabilities(tensors, about, images) == pytest.approx(
        probabilities(network, images), abs=1e-4
    )


def test_reader_of_several_networks(tmp_path: Path) -> None:
    networks = [made(name, (28, 28, 1), seed) for seed, name in enumerate(NETWORKS)]
    (tmp_path / "it").write_bytes(weights.encode(networks, {}))
    tensors, about = reader.read(str(tmp_path / "it"))
    assert {name.partition("/")[0] for name in tensors} == {f"member_{i}" for i in range(4)}
    images = images_of((28, 28, 1))
    expected = np.mean([probabilities(network, images) for network in networks], 0)
    assert reader.probabilities(tensors, about, images) == pytest.approx(expected, abs=1e-4)


def test_reader_can_be_copied() -> None:
    """It imports nothing but NumPy and the standard library, and is short."""
    source = Path(reader.__file__).read_text()
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names == {"json", "typing", "numpy"} and len(source.splitlines()) < 90


def test_reader_refuses_another_network(tmp_path: Path) -> None:
    _, network, variables = made("conv_net", (28, 28, 1))
    (tmp_path / "it").write_bytes(weights.encode([("mine:Net", network, variables)], {}))
    with pytest.raises(ValueError, match=r"^expected conv_net or norm_net, found mine:Net$"):
        reader.probabilities(*reader.read(str(tmp_path / "it")), images_of((28, 28, 1)))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["conv_net", "norm_net"])
def test_pytorch_gives_the_answers_of_jax(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional

    network, images = made(name, shape), images_of(shape)
    (tmp_path / "it").write_bytes(weights.encode([network], {}))
    tensors = load_file(tmp_path / "it")

    def conv(x: Any, layer: str, bias: Any = None) -> Any:
        return functional.conv2d(x, tensors[f"params/{layer}/kernel"].permute(3, 2, 0, 1), bias, padding=1)

    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    if name == "conv_net":
        for i in range(3):
            x = functional.max_pool2d(
                functional.relu(conv(x, f"ConvPool_{i}", tensors[f"params/ConvPool_{i}/bias"])), 2
            )
        x = x.permute(0, 2, 3, 1).flatten(1)
    else:
        for i in range(5):
            x = conv(x, f"ConvNorm_{i}")
            x = functional.max_pool2d(x, 2) if i in (0, 2) else x
            mean, var = (tensors[f"batch_stats/ConvNorm_{i}/{name}"] for name in ("mean", "var"))
            scale, bias = (tensors[f"params/ConvNorm_{i}/{name}"] for name in ("scale", "bias"))
            x = functional.relu(functional.batch_norm(x, mean, var, scale, bias, eps=1e-3))
        x = x.mean((2, 3))
    found = (x @ tensors["params/Dense_0/kernel"] + tensors["params/Dense_0/bias"]).numpy()
    expected = logits(network, images)
    assert found == pytest.approx(expected, abs=float(2e-6 * np.abs(expected).max()))
