"""Operations of JAX (primitives of a jaxpr) in terms of ONNX's, a function or a name for each.

Each function takes the nodes made so far, the equation, and what goes in. An operation that is neither in
`ELEMENTWISE` nor in `OTHERS` has no translation; to give it one, add a row.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mmids_cnn.deploy.nodes import Constant, Nodes, Tensor, UnknownError, Value

N = 65_537
"""Stands for any number of images: a prime that no side and no number of channels is a multiple of."""


def require(holds: bool, what: str) -> None:
    """Raises `UnknownError` unless something holds; `what` there is instead."""
    if not holds:
        raise UnknownError(what)


def is_fixed(shape: Sequence[int]) -> bool:
    """Whether a shape is the same for any number of images."""
    return all(size == 0 or size % N for size in shape)


def elementwise(to: Nodes, equation: Any, given: Sequence[Value]) -> Tensor:
    """An operation whose result has the axes of the first tensor among what is given."""
    order = next(one.order for one in given if isinstance(one, Tensor) and one.axes)
    inputs = []
    for value in given:
        if isinstance(value, Constant):
            inputs.append(to.constant(_thin(value.array, order), value.name))
        else:
            inputs.append(to.stored(value, order if value.axes else ()))
    translation = ELEMENTWISE[equation.primitive.name]
    if isinstance(translation, str):
        return to.tensor(translation, inputs, order)
    return Tensor(translation(to, equation, inputs), tuple(np.argsort(order).tolist()))


def _thin(array: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """A constant with its axes in this order, without those along which it repeats itself."""
    if not array.ndim:
        return array
    for axis in range(array.ndim):
        first = array.take([0], axis)
        array = first if (array == first).all() else array
    array = array.transpose(order)
    return array.reshape(array.shape[next((i for i, n in enumerate(array.shape) if n > 1), array.ndim) :])


def _cast(to: Nodes, equation: Any, inputs: Sequence[str]) -> str:
    new, old = equation.params["new_dtype"], equation.invars[0].aval.dtype
    return inputs[0] if new == old else to.emit("Cast", inputs, to=np.dtype(new))


def _max(to: Nodes, equation: Any, inputs: Sequence[str]) -> str:
    other = to.constants.get(inputs[1])
    return to.emit("Relu", inputs[:1]) if other is not None and not other.any() else to.emit("Max", inputs)


def _div(to: Nodes, equation: Any, inputs: Sequence[str]) -> str:
    """A quotient; of a sum by how many it is of, a mean."""
    made = next((node for node in to.nodes if node.output == inputs[0]), None)
    other = to.constants.get(inputs[1])
    if (
        made is None
        or made.op != "ReduceSum"
        or other is None
        or other.shape
        or other != to.summed[made.output]
    ):
        return to.emit("Div", inputs)
    axes = to.constants[made.inputs[1]].tolist()
    return to.emit("ReduceMean", made.inputs[:1], axes=axes, keepdims=0)


def _power(to: Nodes, equation: Any, inputs: Sequence[str]) -> str:
    return to.emit("Pow", [inputs[0], to.constant(np.asarray(equation.params["y"], np.float32), "")])


_Elementwise = str | Callable[[Nodes, Any, Sequence[str]], str]
ELEMENTWISE: dict[str, _Elementwise] = {
    **{"add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": _div, "max": _max, "min": "Min"},
    **{"neg": "Neg", "exp": "Exp", "log": "Log", "tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf"},
    **{"sqrt": "Sqrt", "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "pow": "Pow"},
    **{"gt": "Greater", "lt": "Less", "ge": "GreaterOrEqual", "le": "LessOrEqual", "eq": "Equal"},
    **{"and": "And", "or": "Or", "not": "Not", "integer_pow": _power, "convert_element_type": _cast},
    **{name: lambda to, _, inputs: inputs[0] for name in ("copy", "stop_gradient")},
    "square": lambda to, _, inputs: to.emit("Mul", [inputs[0], inputs[0]]),
    "rsqrt": lambda to, _, inputs: to.emit("Reciprocal", [to.emit("Sqrt", inputs)]),
    "select_n": lambda to, _, inputs: to.emit("Where", [inputs[0], inputs[2], inputs[1]]),
}


def _transpose(to: Nodes, equation: Any, value: Tensor) -> Tensor:
    return Tensor(value.name, tuple(value.axes[axis] for axis in equation.params["permutation"]))


def _reshape(to: Nodes, equation: Any, value: Tensor) -> Tensor:
    old, new = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return _reshaped(to, value, old, new)


def _reshaped(to: Nodes, value: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    name, sizes = to.stored(value, range(len(old))), [-1 if size and size % N == 0 else size for size in new]
    if tuple(old) == tuple(new):
        return Tensor(name, tuple(range(len(new))))
    if len(new) == 2 and old[0] == new[0] == N:
        return to.tensor("Flatten", [name], range(2))
    require(sizes.count(-1) == 1, f"reshape of {list(old)} to {list(new)} for each image")
    return to.tensor("Reshape", [name, to.integers(sizes)], range(len(new)))


def _broadcast(to: Nodes, equation: Any, value: Tensor) -> Tensor:
    old, new = equation.invars[0].aval.shape, equation.params["shape"]
    placed = [1] * len(new)
    for axis, size in zip(equation.params["broadcast_dimensions"], old, strict=True):
        placed[axis] = size
    found = _reshaped(to, value, old, placed)
    if placed == list(new):
        return found
    larger = [1 if size == there else size for there, size in zip(placed, new, strict=True)]
    require(is_fixed(larger), "broadcast_in_dim to the number of images")
    return to.tensor("Expand", [found.name, to.integers(larger)], range(len(new)))


def _reduce(op: str) -> Callable[..., Tensor]:
    def reduced(to: Nodes, equation: Any, value: Tensor) -> Tensor:
        out = equation.params["axes"]
        axes = sorted(value.axes[axis] for axis in out)
        kept = [axis for axis in value.order if axis not in out]
        order = [axis - sum(one < axis for one in out) for axis in kept]
        if op != "ReduceSum":
            return to.tensor(op, [value.name], order, axes=axes, keepdims=0)
        found = to.tensor(op, [value.name, to.integers(axes)], order, keepdims=0)
        to.summed[found.name] = math.prod(equation.invars[0].aval.shape[axis] for axis in out)
        return found

    return reduced


def _convolution(to: Nodes, equation: Any, value: Tensor, kernel: Value) -> Tensor:
    params = equation.params
    images, weights, out = params["dimension_numbers"]
    require(
        params["batch_group_count"] == 1 and set(params["lhs_dilation"]) <= {1},
        "a transposed convolution (conv_general_dilated)",
    )
    low, high = zip(*params["padding"], strict=True)
    require(min(*low, *high) >= 0, "conv_general_dilated with negative padding")
    shape = equation.invars[1].aval.shape
    return to.tensor(
        "Conv",
        [to.stored(value, images), to.stored(kernel, weights)],
        out,
        kernel_shape=[shape[axis] for axis in weights[2:]],
        strides=list(params["window_strides"]),
        pads=[*low, *high],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )


def _pool(op: str) -> Callable[..., Tensor]:
    def pooled(to: Nodes, equation: Any, value: Tensor) -> Tensor:
        params = equation.params
        keys = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
        windows, strides, spread, dilations = (params[key] for key in keys)
        require(set(spread) | (set(dilations) if op == "AveragePool" else {1}) == {1}, "a dilated window")
        rows = list(zip(windows, strides, params["padding"], strict=True))
        still = [axis for axis in value.order if rows[axis] == (1, 1, (0, 0))]  # as many stay as they are
        require(len(still) >= 2, f"{equation.primitive.name} over all axes but {len(still)}")
        order = value.order
        if set(order[:2]) - set(still):
            order = [*still[:2], *(axis for axis in range(len(rows)) if axis not in still[:2])]
        size, stride, pads = zip(*(rows[axis] for axis in order[2:]), strict=True)
        attributes: dict[str, Any] = {"kernel_shape": list(size), "strides": list(stride)}
        attributes["pads"] = [one for edge in zip(*pads, strict=True) for one in edge]
        name = to.stored(value, order)
        if op == "MaxPool":
            return to.tensor(
                op, [name], order, dilations=[dilations[axis] for axis in order[2:]], **attributes
            )
        mean = to.emit(op, [name], count_include_pad=1, **attributes)
        return to.tensor("Mul", [mean, to.constant(np.asarray(math.prod(size), np.float32), "")], order)

    return pooled


def _product(to: Nodes, equation: Any, left: Value, right: Value) -> Tensor:
    """A product over some axes; that of a batch with a matrix of weights is a Gemm, to which a bias goes."""
    (sums, batch), ranks = equation.params["dimension_numbers"], [len(x.aval.shape) for x in equation.invars]
    if isinstance(right, Constant) and ranks[1] == 2 and len(sums[0]) == 1 and not batch[0]:
        rows = [axis for axis in range(ranks[0]) if axis != sums[0][0]]
        names = [to.stored(left, [*rows, sums[0][0]]), to.stored(right, [sums[1][0], 1 - sums[1][0]])]
        return to.tensor("Gemm" if ranks[0] == 2 else "MatMul", names, range(ranks[0]))
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    one, other = ([""] * rank for rank in ranks)
    for pair in (*zip(*batch, strict=True), *zip(*sums, strict=True)):
        one[pair[0]] = other[pair[1]] = next(letters)
    kept = [one[axis] for axis in batch[0]]
    for names in (one, other):
        free = [axis for axis, letter in enumerate(names) if not letter]
        for axis in free:
            names[axis] = next(letters)
        kept += [names[axis] for axis in free]
    text = f"{''.join(one)},{''.join(other)}->{''.join(kept)}"
    names = [to.stored(value, range(rank)) for value, rank in zip((left, right), ranks, strict=True)]
    return to.tensor("Einsum", names, range(len(kept)), equation=text)


def _concatenate(to: Nodes, equation: Any, *values: Value) -> Tensor:
    order = next(value.order for value in values if isinstance(value, Tensor))
    names = [to.stored(value, order) for value in values]
    return to.tensor("Concat", names, order, axis=order.index(equation.params["dimension"]))


def _slice(to: Nodes, equation: Any, value: Tensor) -> Tensor:
    params, shape = equation.params, equation.invars[0].aval.shape
    steps = params["strides"] or [1] * len(shape)
    rows = zip(params["start_indices"], params["limit_indices"], range(len(shape)), steps, strict=True)
    cut = [row for row in rows if (row[0], row[1], row[3]) != (0, shape[row[2]], 1)]
    require(is_fixed([shape[axis] for _, _, axis, _ in cut]), "slice of the images of a batch")
    if not cut:
        return value
    starts, ends, axes, by = zip(*cut, strict=True)
    names = map(to.integers, (starts, ends, [value.axes[axis] for axis in axes], by))
    return to.tensor("Slice", [value.name, *names], value.order)


def _pad(to: Nodes, equation: Any, value: Tensor, filling: Value) -> Tensor:
    rows = [equation.params["padding_config"][axis] for axis in value.order]
    low, high, inside = zip(*rows, strict=True)
    require(not any(inside), "pad between elements")
    names = [value.name, to.integers([*low, *high]), to.stored(filling, ())]
    return to.tensor("Pad", names, value.order)


OTHERS: dict[str, Callable[..., Tensor]] = {
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "broadcast_in_dim": _broadcast,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "conv_general_dilated": _convolution,
    "reduce_window_max": _pool("MaxPool"),
    "reduce_window_sum": _pool("AveragePool"),
    "dot_general": _product,
    "concatenate": _concatenate,
    "slice": _slice,
    "pad": _pad,
}
