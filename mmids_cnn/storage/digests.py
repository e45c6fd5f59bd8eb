"""SHA-256 of arrays and of trees of them: what two runs are compared by."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Tree = dict[str, Any]
"""Nested dicts with string keys, arrays at the leaves."""


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Leaves as NumPy arrays with their paths (`Dense_0/bias`), in the order of the paths."""
    for name, value in sorted(tree.items()):
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, np.asarray(value)


def digest(array: np.ndarray) -> str:
    """SHA-256 over an array's dtype, shape and bytes (little-endian, row-major)."""
    array = np.asarray(array)
    header = f"{array.dtype.name} {array.shape} ".encode()
    little = array.astype(array.dtype.newbyteorder("<"), order="C")
    return hashlib.sha256(header + little.tobytes()).hexdigest()


def fingerprint(tree: Mapping[str, Any]) -> str:
    """SHA-256 over all leaves, in the order of their paths; equal trees, bit for bit, have equal ones."""
    lines = "".join(f"{path} {digest(array)}\n" for path, array in leaves(tree))
    return hashlib.sha256(lines.encode()).hexdigest()
