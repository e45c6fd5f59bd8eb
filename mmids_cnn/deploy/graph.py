"""A network as a graph of ONNX's operations, translated from what JAX makes of it.

JAX tells of which operations a network is made (`jax.make_jaxpr`), of each layer the native form among them.
Each becomes a node (`operations`), but for three kinds: what depends on weights alone is computed here; a
transposition only changes in which order axes are read (`Tensor.axes`), until an operation needs another; and
a factor or an offset of each channel goes into the weights before it (`fold`), as those of batch norm do.

Nothing here needs the package onnx; `onnx_graph` does.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from mmids_cnn import model
from mmids_cnn.deploy.nodes import (
    IMAGES,
    LOGITS,
    PROBABILITIES,
    Constant,
    Graph,
    Node,
    Nodes,
    Tensor,
    UnknownError,
    Value,
)
from mmids_cnn.deploy.operations import ELEMENTWISE, OTHERS, N, elementwise, is_fixed, require
from mmids_cnn.errors import ConfigError

_CALLS = {"jit", "pjit", "custom_jvp_call", "custom_vjp_call", "checkpoint", "closed_call"}


def of(networks: Sequence[tuple[model.Network, model.Variables]], image_shape: tuple[int, ...]) -> Graph:
    """The graph of a network, or of several as one, by the mean of their probabilities.

    Args:
      networks: each with its variables.
      image_shape: height, width and channels of the images, which are uint8.

    Raises:
      ConfigError: an operation of a network has no translation; names both.
    """
    to = Nodes()
    prefixes = [f"member_{index}/" if len(networks) > 1 else "" for index in range(len(networks))]
    pairs = zip(prefixes, networks, strict=True)
    logits = [_add(to, prefix, *each, image_shape) for prefix, each in pairs]
    to.scope = ""
    if len(logits) == 1:
        to.nodes.append(Node("Identity", (logits[0],), LOGITS, {}))
        to.nodes.append(Node("Softmax", (LOGITS,), PROBABILITIES, {"axis": -1}))
    else:  # the greatest is taken out before Exp, or all might be too small for a float32
        logs = [to.emit("LogSoftmax", [one], axis=-1) for one in logits]
        greatest = to.emit("Max", logs)
        shares = [to.emit("Exp", [to.emit("Sub", [one, greatest])]) for one in logs]
        mean = to.emit("Log", [to.emit("Mean", shares)])
        to.nodes.append(Node("Add", (mean, greatest), LOGITS, {}))
        to.nodes.append(Node("Exp", (LOGITS,), PROBABILITIES, {}))
    return _needed(fold(Graph(to.nodes, to.constants)))


def fold(graph: Graph) -> Graph:
    """Puts a factor or an offset of each channel, right after a layer with weights, into the weights.

    A max-pooling may lie in between, as an offset keeps the order of values, and so does a factor that is not
    negative; where one is, the multiplication stays.
    """
    nodes, constants = list(graph.nodes), dict(graph.constants)
    for output in [node.output for node in nodes]:
        node = next(one for one in nodes if one.output == output)
        before, *others = node.inputs
        if node.op not in ("Add", "Sub", "Mul") or before in constants or others[0] not in constants:
            continue
        made = {one.output: one for one in nodes}
        uses = collections.Counter(name for one in nodes for name in one.inputs)
        layer, pooled = made.get(before), False
        if layer is not None and layer.op == "MaxPool" and uses[before] == 1:
            before, pooled = layer.inputs[0], True
            layer = made.get(before)
        if layer is None or layer.op not in ("Conv", "Gemm") or uses[before] != 1:
            continue
        weights, value = constants[layer.inputs[1]], constants[others[0]]
        axis = 0 if layer.op == "Conv" else 1  # of the weights: along the channels that come out
        channels = weights.shape[axis]
        shape = (channels, *[1] * (weights.ndim - 2))
        fits = value.ndim <= len(shape) and np.broadcast_shapes(value.shape, shape) == shape
        if not fits or (pooled and node.op == "Mul" and (value < 0).any()):
            continue
        each = np.broadcast_to(value, shape).reshape(channels).astype(np.float64)
        bias = constants[layer.inputs[2]] if len(layer.inputs) > 2 else np.zeros(channels)
        if node.op == "Mul":
            along = [channels if i == axis else 1 for i in range(weights.ndim)]
            weights, bias = weights * each.reshape(along), bias * each
        else:
            bias = bias + (each if node.op == "Add" else -each)
        names = [
            name if uses[name] == 1 else f"{layer.output}/{what}"
            for name, what in ((layer.inputs[1], "weights"), (others[0], "bias"))
        ]
        constants |= {name: x.astype(np.float32) for name, x in zip(names, (weights, bias), strict=True)}
        folded = layer._replace(inputs=(layer.inputs[0], *names))
        nodes = [folded if one is layer else one for one in nodes if one is not node]
        nodes = [_renamed(one, {output: node.inputs[0]}) for one in nodes]
    return Graph(nodes, constants)


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    inputs = tuple(names.get(name, name) for name in node.inputs)
    return node._replace(inputs=inputs, output=names.get(node.output, node.output))


def _needed(graph: Graph) -> Graph:
    """The nodes and constants that the outputs need; what an Identity names has that name from the start."""
    names = {node.inputs[0]: node.output for node in graph.nodes if node.op == "Identity"}
    nodes, wanted = list[Node](), {LOGITS, PROBABILITIES}
    for node in reversed([_renamed(node, names) for node in graph.nodes if node.op != "Identity"]):
        if node.output in wanted:
            nodes.insert(0, node)
            wanted |= {*node.inputs}
    return Graph(nodes, {name: array for name, array in graph.constants.items() if name in wanted})


def _add(
    to: Nodes, prefix: str, network: model.Network, variables: model.Variables, image_shape: tuple[int, ...]
) -> str:
    """Adds a network; the name of its logits."""
    paths, structure = jax.tree_util.tree_flatten_with_path(variables)
    names = [jax.tree_util.keystr(path[1:], simple=True, separator="/") for path, _ in paths]
    leaves = [np.asarray(leaf) for _, leaf in paths]

    def apply(leaves: Sequence[Any], images: Any) -> Any:
        return model.apply(network, jax.tree.unflatten(structure, leaves), images)

    traced = jax.make_jaxpr(apply)(leaves, jax.ShapeDtypeStruct((N, *image_shape), jnp.uint8))
    given: list[Value] = [Constant(prefix + name, x) for name, x in zip(names, leaves, strict=True)]
    given.append(Tensor(IMAGES, (0, 1, 2, 3)))
    source = type(network.module)
    try:
        (logits,) = _run(to, traced, given, prefix, source.__name__)
        require(isinstance(logits, Tensor), "logits that depend on no image")
        return to.stored(logits, (0, 1))
    except UnknownError as error:
        raise ConfigError(
            f"model.name: expected a network of operations that can be translated to ONNX, found {error} in "
            f"{to.scope.rstrip('/') or 'no layer'} of {source.__module__}:{source.__qualname__}; give "
            "--format=safetensors, or make it of others"
        ) from error


def _run(to: Nodes, traced: Any, given: Sequence[Value], scope: str, network: str = "") -> list[Value]:
    """Goes through the operations in order; the values that come out."""
    known = dict(zip(traced.jaxpr.invars, given, strict=True))
    for variable, array in zip(traced.jaxpr.constvars, traced.consts, strict=True):
        known[variable] = Constant("", np.asarray(array))

    def read(variable: Any) -> Value:
        if isinstance(variable, jax.extend.core.Literal):
            return Constant("", np.asarray(variable.val, variable.aval.dtype))  # type: ignore[attr-defined]
        return known[variable]

    for equation in traced.jaxpr.eqns:
        layer = str(equation.source_info.name_stack).removeprefix(network).strip("/")
        to.scope = scope + (f"{layer}/" if layer else "")
        results = _translated(to, equation, [read(x) for x in equation.invars])
        known |= zip(equation.outvars, results, strict=True)
    return [read(x) for x in traced.jaxpr.outvars]


def _translated(to: Nodes, equation: Any, given: list[Value]) -> Sequence[Value]:
    name, params = equation.primitive.name, equation.params
    if name == "platform_index":  # of `lax.platform_dependent`: the branch for a platform without a name
        return [Constant("", np.asarray(params["platforms"].index(None)))]
    if name == "cond" and isinstance(given[0], Constant):
        return _run(to, params["branches"][int(given[0].array)], given[1:], to.scope)
    if name in _CALLS:
        return _run(to, params.get("jaxpr") or params["call_jaxpr"], given, to.scope)
    constants = [one for one in given if isinstance(one, Constant)]
    if len(constants) == len(given):
        return _computed(equation, constants)
    if name in ELEMENTWISE:
        return [elementwise(to, equation, given)]
    require(name in OTHERS, name)
    for variable, value in zip(equation.invars, given, strict=True):
        fixed = isinstance(value, Tensor) or is_fixed(variable.aval.shape)
        require(fixed, f"{name} of a constant that is repeated for each image")
    return [OTHERS[name](to, equation, *given)]


def _for_one(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape for a batch of one image."""
    return tuple(size if is_fixed([size]) else size // N for size in shape)


def _computed(equation: Any, given: Sequence[Constant]) -> list[Value]:
    """What JAX makes of constants alone."""
    shapes = ("shape", "new_sizes", "limit_indices")
    params = {name: _for_one(x) if name in shapes else x for name, x in equation.params.items()}
    sizes = [_for_one(variable.aval.shape) for variable in equation.invars]
    arrays = [np.broadcast_to(one.array, size) for one, size in zip(given, sizes, strict=True)]
    results: Any = equation.primitive.bind(*arrays, **params)
    name = next((one.name for one in given if one.name), "")
    several = results if equation.primitive.multiple_results else [results]
    return [Constant(name, np.asarray(result)) for result in several]
