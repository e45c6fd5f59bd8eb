"""The network of an experiment, as pure functions of its variables: `init`, `apply`, `predict_proba`."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from mmids_cnn import config as config_lib
from mmids_cnn.errors import ConfigError
from mmids_cnn.networks import NETWORKS
from mmids_cnn.settings import dotted

Params = Mapping[str, Any]
"""Parameters by layer: `kernel` and `bias` of each `ConvPool_i` and of `Dense_0`, float32."""

Variables = Mapping[str, Any]
"""Collections by name: 'params', and what else a network carries along, 'batch_stats' for one."""


class Network(NamedTuple):
    """A Linen module with what it takes to apply it; hashable, so that programs can be compiled for it.

    Attributes:
      module: called as `networks` says.
      classes: number of its logits.
      precision: of matrix products and convolutions, as in `jax.default_matmul_precision`.
    """

    module: nn.Module
    classes: int
    precision: str = "float32"


class Layer(NamedTuple):
    """A row of the model's table."""

    name: str
    output_shape: tuple[int, ...]
    parameters: int


def make(experiment: config_lib.Experiment, image_shape: tuple[int, ...], num_classes: int) -> Network:
    """The network of an experiment for a data set's images and classes.

    Raises:
      ConfigError: there is no such network, it has no such fields, or it does not fit the images.
    """
    return _make(experiment.model, experiment.train.precision, image_shape, num_classes)


@functools.lru_cache(maxsize=64)  # to apply it in the abstract takes a tenth of a second
def _make(
    settings: config_lib.Model, precision: str, image_shape: tuple[int, ...], num_classes: int
) -> Network:
    name, fields = settings.name, settings.fields
    source = NETWORKS[name].source if name in NETWORKS else name
    cls = dotted.load(source, "model.name")
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise dotted.wrong("model.name", name, "a Linen module", cls)
    known = [field.name for field in dataclasses.fields(cls)]
    known = [field for field in known if field not in ("parent", "name", "num_classes")]
    for field in fields:
        if field not in known:
            raise ConfigError(
                f"config.model.{field}: expected a field of {source}, which has {', '.join(known)}; remove it"
            )
    try:
        network = Network(cls(num_classes=num_classes, **fields), num_classes, precision)
        _require_usable(network, image_shape, name)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # of code that is not ours, which may raise anything
        if name in NETWORKS and type(error) is ValueError:
            raise ConfigError(f"config.model.{' '.join(str(error).split())}") from error
        expected = f"a network that can be applied to {'x'.join(map(str, image_shape))} images"
        raise dotted.raised("model.name", name, expected, error, "correct it, or its fields") from error
    return network


def _require_usable(network: Network, image_shape: tuple[int, ...], name: str) -> None:
    """Raises `ConfigError` unless a network gives logits, training or not, and has parameters to train."""
    count = 3  # no number that a network would expect
    images = jax.ShapeDtypeStruct((count, *image_shape), jnp.uint8)

    def run(images: Array) -> Any:
        key = jax.random.key(0)
        variables = init(network, key, image_shape)
        scored = network.module.apply(variables, images, train=False)
        more: dict[str, Any] = {"valid": jnp.ones(count, bool), "rngs": {"dropout": key}}
        mutable = [collection for collection in variables if collection != "params"]
        trained, after = network.module.apply(variables, images, train=True, mutable=mutable, **more)
        return {"train=True": trained, "train=False": scored}, variables, after

    outputs: Any
    outputs, variables, after = jax.eval_shape(run, images)
    for how, logits in outputs.items():
        found = f"{logits.dtype} {logits.shape}" if hasattr(logits, "shape") else type(logits).__name__
        if found != f"float32 {(count, network.classes)}":
            raise ConfigError(
                f"config.model.name: expected float32 logits of shape {(count, network.classes)} for {count} "
                f"images and {network.classes} classes, got {found} from {name!r} with {how}; correct its "
                "__call__"
            )
    before = {collection: tree for collection, tree in variables.items() if collection != "params"}
    if _form(before) != _form(after):
        raise ConfigError(
            f"config.model.name: expected collections that keep their shape, got {name!r}, which changes "
            f"that of {', '.join(before)} in a step; correct it"
        )
    if not jax.tree.leaves(variables.get("params")):
        raise ConfigError(
            f"config.model.name: expected a network with parameters to train, got none from {name!r}; "
            "correct it"
        )
    for path in traverse_util.flatten_dict(variables):
        if "/" in "".join(path):  # paths of arrays are joined by it in checkpoints and fingerprints
            raise ConfigError(
                f"config.model.name: expected names of layers without '/', got {path!r} in {name!r}; "
                "rename it"
            )


def _form(tree: Any) -> Any:
    return [(path, x.shape, x.dtype) for path, x in jax.tree_util.tree_leaves_with_path(tree)]


def init(network: Network, key: PRNGKeyArray, image_shape: tuple[int, ...]) -> Variables:
    """Initial variables: parameters, and whatever other collections the network has."""
    return network.module.init(key, jnp.zeros((1, *image_shape), jnp.uint8), train=False)


@functools.lru_cache(maxsize=64)
def has_state(network: Network, image_shape: tuple[int, ...]) -> bool:
    """Whether a network has other variables than parameters, such as running means of batches."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
    variables = jax.eval_shape(lambda x: network.module.init(jax.random.key(0), x, train=False), images)
    return len(variables) > 1


def apply(
    network: Network, variables: Variables, images: UInt8[Array, "n height width channels"]
) -> Float[Array, "n classes"]:
    """Logits, for metrics and decisions."""
    with jax.default_matmul_precision(network.precision):
        logits: Any = network.module.apply(variables, images, train=False)
    return logits


def apply_train(
    network: Network,
    variables: Variables,
    images: UInt8[Array, "n height width channels"],
    valid: Bool[Array, " n"],
    key: PRNGKeyArray,
) -> tuple[Float[Array, "n classes"], Variables]:
    """Logits while training, and the other collections than the parameters as they are afterwards.

    Args:
      network: what to apply.
      variables: all collections.
      images: a batch.
      valid: false where an example is padding, which a network that looks at more than one example at a time
        leaves out.
      key: for dropout.
    """
    mutable = [name for name in variables if name != "params"]
    with jax.default_matmul_precision(network.precision):
        logits, others = network.module.apply(
            variables, images, train=True, valid=valid, rngs={"dropout": key}, mutable=mutable
        )
    return logits, others


def predict_proba(
    network: Network, variables: Variables, images: UInt8[Array, "*n height width channels"]
) -> Float[Array, "*n classes"]:
    """Class probabilities of one image or of a batch; each row sums to 1."""
    if images.ndim == 3:
        return predict_proba(network, variables, images[None])[0]
    return jax.nn.softmax(apply(network, variables, images))


@functools.lru_cache(maxsize=64)  # asked for to estimate the memory, and to be shown
def table(network: Network, image_shape: tuple[int, ...]) -> tuple[Layer, ...]:
    """Layers in order, with the shape of what each puts out and its number of parameters."""

    def run() -> Any:
        images = jnp.zeros((1, *image_shape), jnp.uint8)
        key = jax.random.key(0)
        return network.module.init_with_output(key, images, train=False, capture_intermediates=True)[1]

    variables = jax.eval_shape(run)
    outputs = variables["intermediates"]
    rows = []
    for name, params in variables["params"].items():
        called = outputs.get(name, {}).get("__call__")
        shape: tuple[int, ...] = called[0].shape if called else ()
        # Blocks of `layers` keep the batch last, those of Flax first: a batch of one is left out.
        shape = (*shape[1:3], shape[0]) if len(shape) == 4 and shape[-1] == 1 else shape[1:]
        rows.append(Layer(name, shape, sum(leaf.size for leaf in jax.tree.leaves(params))))
    return tuple(rows)
