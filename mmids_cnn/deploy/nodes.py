"""Nodes of a graph in the making: operations of ONNX, constants, and values that are read from them."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

IMAGES, LOGITS, PROBABILITIES = "images", "logits", "probabilities"


class Node(NamedTuple):
    """An operation of ONNX with one output."""

    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]


class Graph(NamedTuple):
    """Nodes in order, from `IMAGES` to `LOGITS` and `PROBABILITIES`, and the constants that they name."""

    nodes: list[Node]
    constants: dict[str, np.ndarray]


class Tensor(NamedTuple):
    """What is computed from images: axis i of the value in JAX is axis `axes[i]` of the tensor `name`."""

    name: str
    axes: tuple[int, ...]

    @property
    def order(self) -> list[int]:
        """The value's axes in the order in which the tensor has them."""
        return [self.axes.index(axis) for axis in range(len(self.axes))]


class Constant(NamedTuple):
    """What depends on weights alone, as it is for a batch of one image."""

    name: str
    array: np.ndarray


Value = Tensor | Constant


class UnknownError(Exception):
    """An operation that has no translation."""


class Nodes:
    """Makes nodes; one that is there already is not made a second time."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.summed: dict[str, int] = {}  # over how many values each ReduceSum goes
        self.scope = ""  # the layer at work, with a slash behind it
        self._names = collections.Counter[str]()
        self._made: dict[Any, str] = {}

    def emit(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node; the name of its output."""
        key = (op, *inputs, repr(sorted(attributes.items())))
        if key not in self._made:
            name = self.scope + op
            self._names[name] += 1
            self._made[key] = name if self._names[name] == 1 else f"{name}_{self._names[name] - 1}"
            self.nodes.append(Node(op, tuple(inputs), self._made[key], attributes))
        return self._made[key]

    def tensor(self, op: str, inputs: Sequence[str], order: Sequence[int], **attributes: Any) -> Tensor:
        """Adds a node; its output, which has the axes of the value in this order."""
        return Tensor(self.emit(op, inputs, **attributes), tuple(np.argsort(order).tolist()))

    def constant(self, array: np.ndarray, name: str) -> str:
        """Adds a constant; its name, with a number behind it where the name is taken."""
        name = name or f"{self.scope}constant"
        for index in range(len(self.constants) + 1):
            candidate = f"{name}_{index}" if index else name
            there = self.constants.setdefault(candidate, array)
            if there.dtype == array.dtype and np.array_equal(there, array):
                break
        return candidate

    def integers(self, values: Sequence[int]) -> str:
        """A constant of integers, as axes and shapes are given; its name."""
        return self.constant(np.asarray(values, np.int64), "")

    def stored(self, value: Value, order: Sequence[int]) -> str:
        """The name of a tensor that has the axes of a value in this order."""
        if isinstance(value, Constant):
            return self.constant(value.array.transpose(order), value.name)
        moved = [value.axes[axis] for axis in order]
        return value.name if moved == sorted(moved) else self.emit("Transpose", [value.name], perm=moved)
