"""Writes small IDX data sets, made of real MNIST images."""

import functools
import gzip
from pathlib import Path

import numpy as np

from mmids_cnn.datasets import idx

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C}
FILES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}
Arrays = dict[tuple[str, str], np.ndarray]


def encode(array: np.ndarray) -> bytes:
    """An array in IDX form, written after the format's description, without the package's help."""
    header = bytes([0, 0, CODES[array.dtype.name], array.ndim])
    shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + shape + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(path: Path, array: np.ndarray) -> Path:
    """Writes one archive, gzip if its name says so."""
    content = encode(array)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content)
    return path


def write_set(folder: Path, arrays: Arrays, *, prefix: str = "", suffix: str = ".gz") -> Path:
    """Writes the four archives of a set; returns their folder."""
    for key, name in FILES.items():
        write(folder / f"{prefix}{name}{suffix}", arrays[key])
    return folder


def digits(train: int = 300, test: int = 100) -> Arrays:
    """The first images and labels of MNIST, as they lie in the archives: `[n, 28, 28]` and `[n]` uint8."""
    sizes = {"train": train, "test": test}
    return {key: _whole(*key)[: sizes[key[0]]] for key in FILES}


@functools.cache
def _whole(split: str, kind: str) -> np.ndarray:
    return idx.read(idx.SHIPPED / f"{FILES[split, kind]}.gz")
