"""The network, as pure functions of its parameters: `init`, `apply`, `predict_proba`."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from mmids_cnn import config as config_lib
from mmids_cnn import layers
from mmids_cnn.errors import ConfigError

Params = Mapping[str, Any]
"""Parameters by layer: `kernel` and `bias` of each `ConvPool_i` and of `Dense_0`, float32."""

POOL = 2  # side and stride of the pooling window, pixels


class ConvPool(nn.Module):
    """Convolution (stride 1, padding SAME), ReLU, 2x2 max-pooling; parameters as those of `nn.Conv`."""

    features: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: layers.BatchLast) -> layers.Result:
        """Applies the block; an odd last row or column is dropped by the pooling."""
        shape = (self.kernel_size, self.kernel_size, x.shape[0], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return layers.conv_pool(x, kernel, bias)


class ConvNet(nn.Module):
    """The reference network: blocks of convolution, ReLU and pooling, then one dense layer.

    Attributes:
      channels: output channels of each block.
      kernel_size: side of the kernels, pixels.
      num_classes: number of logits.
      precision: of matrix products and convolutions, as in `jax.default_matmul_precision`.
    """

    channels: tuple[int, ...]
    kernel_size: int
    num_classes: int
    precision: str = "float32"

    @nn.compact
    def __call__(self, images: UInt8[Array, "n h w c"]) -> Float[Array, "n classes"]:
        """Logits of a batch of images."""
        x = layers.batch_last(images).astype(jnp.float32) / 255
        for features in self.channels:
            x = ConvPool(features, self.kernel_size)(x)
        dense = nn.Dense(self.num_classes, kernel_init=nn.initializers.glorot_uniform())
        return dense(layers.flatten(x))


class Layer(NamedTuple):
    """A row of the model's table."""

    name: str
    output_shape: tuple[int, ...]
    parameters: int


def make(experiment: config_lib.Experiment, image_shape: tuple[int, ...], num_classes: int) -> ConvNet:
    """The network of an experiment for a data set's images and classes.

    Raises:
      ConfigError: the images are too small for so many poolings.
    """
    config = experiment.model
    side, depth = min(image_shape[:2]), len(config.channels)
    if side < POOL**depth:
        raise ConfigError(
            f"config.model.channels: expected at most {int(math.log2(side))} blocks for images of "
            f"{image_shape[0]}x{image_shape[1]} pixels (each block halves them), got {depth}: "
            f"{config.channels}; shorten --config.model.channels"
        )
    return ConvNet(config.channels, config.kernel_size, num_classes, experiment.train.precision)


def init(network: ConvNet, key: PRNGKeyArray, image_shape: tuple[int, ...]) -> Params:
    """Initial parameters: weights uniform by Glorot's rule (JMLR 9, 2010, eq. 16), biases zero."""
    images = jnp.zeros((1, *image_shape), jnp.uint8)
    return network.init(key, images)["params"]


def apply(network: ConvNet, params: Params, images: UInt8[Array, "n h w c"]) -> Float[Array, "n classes"]:
    """Logits, for losses and decisions."""
    with jax.default_matmul_precision(network.precision):
        logits: Any = network.apply({"params": params}, images)
    return logits


def predict_proba(
    network: ConvNet, params: Params, images: UInt8[Array, "*n h w c"]
) -> Float[Array, "*n classes"]:
    """Class probabilities of one image or of a batch; each row sums to 1."""
    if images.ndim == 3:
        return predict_proba(network, params, images[None])[0]
    return softmax(apply(network, params, images))


def softmax(logits: Float[Array, "*n classes"]) -> Float[Array, "*n classes"]:
    """Probabilities of logits; each row sums to 1."""
    return jax.nn.softmax(logits)


def table(network: ConvNet, image_shape: tuple[int, ...]) -> list[Layer]:
    """Layers in order, with the shape of what each puts out and its number of parameters."""

    def run() -> Any:
        images = jnp.zeros((1, *image_shape), jnp.uint8)
        return network.init_with_output(jax.random.key(0), images, capture_intermediates=True)[1]

    variables = jax.eval_shape(run)
    outputs = variables["intermediates"]
    rows = []
    for name, params in variables["params"].items():
        shape = outputs[name]["__call__"][0].shape
        shape = (*shape[1:3], shape[0]) if len(shape) == 4 else shape[1:]  # blocks keep the batch last
        rows.append(Layer(name, shape, sum(leaf.size for leaf in jax.tree.leaves(params))))
    return rows
