"""Reads and checks IDX archives, the file format of MNIST and the sets made after it.

Format: two zero bytes, one byte for the element type, one for the number of dimensions, each dimension
as a big-endian uint32, then the elements in row-major order, big-endian
(http://yann.lecun.com/exdb/mnist/, "The IDX file format").
"""

import gzip
import hashlib
import importlib.util
import math
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmids_cnn.errors import DataError

SHIPPED = Path(__file__).parent / "mnist"
SPLITS = ("train", "test")
FILES = {  # by split and kind, as MNIST names them
    ("train", "images"): "train-images-idx3-ubyte.gz",
    ("train", "labels"): "train-labels-idx1-ubyte.gz",
    ("test", "images"): "t10k-images-idx3-ubyte.gz",
    ("test", "labels"): "t10k-labels-idx1-ubyte.gz",
}

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4"}
_NAME = re.compile(
    r"(?P<set>.*?)[-_.]?(?P<split>train|test|t10k)[-_.](?P<kind>images|labels)[-_.]idx\d-ubyte(\.gz)?"
)
MAX_CLASSES = 2**16  # a label sizes the last layer: a damaged one must not ask for all memory
_PIECE = 2**20  # bytes read at a time
_DEFLATE_LIMIT = 1032  # the most that deflate can expand a byte (zlib's technical details)


class Archives(NamedTuple):
    """The four files of a data set and a digest of them all."""

    files: dict[tuple[str, str], Path]  # by (split, "images" or "labels")
    digest: str  # SHA-256 over the SHA-256 of each file, in the order of SPLITS, images first


def find(name: str, folder: str) -> Archives:
    """Finds a set's four archives and checks the checksums of those that are registered.

    Args:
      name: the data set's name; it picks among several sets in one folder (`emnist-letters`).
      folder: where the archives lie, gzip or plain; '' is the MNIST shipped with the package.

    Returns:
      The files and their digest.

    Raises:
      DataError: the folder or an archive is missing, is ambiguous, or has not the registered checksum.
    """
    root = Path(folder).expanduser() if folder else SHIPPED
    if not os.path.isdir(root):  # noqa: PTH112, which raises where a name is too long
        raise DataError(
            f"dataset.archives: expected a folder of IDX archives, found none at {root}; "
            "set --config.dataset.archives to the folder that holds them"
        )
    files = _choose(root, name)
    checksums = {key: _sha256(path) for key, path in files.items()}
    if name == "mnist":
        for key, path in files.items():
            _check_mnist(path, FILES[key], checksums[key])
    digest = hashlib.sha256("".join(checksums.values()).encode()).hexdigest()
    return Archives(files, digest)


def read(path: Path) -> np.ndarray:
    """Reads one IDX file, gzip or plain.

    Args:
      path: the file.

    Returns:
      Its array, in the byte order of the machine.

    Raises:
      DataError: it is truncated, not IDX, or not what its header announces.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            dtype, shape = _header(path, file.read(4), lambda count: file.read(4 * count))
            size = math.prod(shape) * dtype.itemsize
            if size > path.stat().st_size * (_DEFLATE_LIMIT if path.suffix == ".gz" else 1):
                raise _bad(path, f"a header announcing {size:,} bytes, more than the file can hold")
            content = _read(file.read, size)
            if len(content) < size or file.read(1):
                found = f"only {len(content):,}" if len(content) < size else "more"
                raise _bad(path, f"{found} bytes of elements where shape {shape} needs {size:,}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _bad(path, f"a truncated or damaged gzip stream ({error})") from error
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read(read: Callable[[int], bytes], size: int) -> bytes:
    """Up to `size` bytes, in pieces: reading all at once sets aside memory for all that is announced."""
    parts: list[bytes] = []
    while size > 0 and (part := read(min(size, _PIECE))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_split(archives: Archives, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of one split, checked against each other.

    Args:
      archives: from `find`.
      split: 'train' or 'test'.

    Returns:
      Images `[n, height, width, channels]` uint8 and labels `[n]` int32.

    Raises:
      DataError: an archive cannot be read, or the two do not belong together.
    """
    image_path, label_path = archives.files[split, "images"], archives.files[split, "labels"]
    images, labels = read(image_path), read(label_path)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise _bad(image_path, f"{images.dtype} elements of shape {images.shape}", "uint8 images")
    if labels.ndim != 1:
        raise _bad(label_path, f"elements of shape {labels.shape}", "one label an image")
    if len(images) != len(labels):
        raise DataError(
            f"{label_path}: expected {len(images):,} labels, one for each image of {image_path.name}, "
            f"found {len(labels):,}; replace whichever archive belongs to another set"
        )
    if labels.min() < 0:
        raise DataError(
            f"{label_path}: expected labels >= 0, found {labels.min()} at position {labels.argmin()}; "
            "number the classes from 0"
        )
    if labels.max() >= MAX_CLASSES:
        raise DataError(
            f"{label_path}: expected labels below {MAX_CLASSES:,}, found {labels.max()} at position "
            f"{labels.argmax()}; number the classes from 0 without gaps"
        )
    return images.reshape(*images.shape[:3], -1), labels.astype(np.int32)


def _choose(root: Path, name: str) -> dict[tuple[str, str], Path]:
    """The four files of the one set in a folder, or of the one that is called `name`."""
    sets: dict[str, dict[tuple[str, str], Path]] = {}
    for path in sorted(root.iterdir(), reverse=True):  # reversed: a plain file wins over its .gz
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            key = ("train" if match["split"] == "train" else "test", match["kind"])
            sets.setdefault(_plain(match["set"]), {})[key] = path
    if _plain(name) not in sets and len(sets) > 1:
        raise DataError(
            f"{root}: expected one set of archives, found {', '.join(sorted(sets))}; "
            "set --config.dataset.name to one of them"
        )
    chosen = _plain(name) if _plain(name) in sets else next(iter(sets), "")
    for key, usual in FILES.items():
        if key not in sets.get(chosen, {}):
            example = f"{chosen}-{usual}" if chosen else usual
            raise DataError(
                f"{root}: expected an archive such as {example}, found none; put it there or set "
                "--config.dataset.archives to the folder that holds it"
            )
    return {key: sets[chosen][key] for key in FILES}


def _plain(name: str) -> str:
    return re.sub(r"[/_]", "-", name)


def _check_mnist(path: Path, registered: str, checksum: str) -> None:
    """Compares an archive of MNIST with what TFDS registers for `mnist` 3.0.1.

    TFDS registers the gzip files; a plain one must hold what the shipped archive unpacks to.
    """
    if path.suffix == ".gz":
        expected = _registered_checksums()[registered]
    else:
        expected = hashlib.sha256(gzip.decompress((SHIPPED / registered).read_bytes())).hexdigest()
    if checksum != expected:
        raise DataError(
            f"{path}: expected the archive of mnist 3.0.1 with SHA-256 {expected}, found {checksum}; "
            "replace the file, or set --config.dataset.name to another name for another set"
        )


def _registered_checksums() -> dict[str, str]:
    spec = importlib.util.find_spec("tensorflow_datasets")  # finds it without importing it
    assert spec is not None and spec.submodule_search_locations
    table = Path(spec.submodule_search_locations[0]) / "url_checksums" / "mnist.txt"
    rows = (line.split("\t") for line in table.read_text().splitlines() if line)
    return {file_name: checksum for _, _, checksum, file_name in rows}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(path: Path, magic: bytes, read_dims: Callable[[int], bytes]) -> tuple[np.dtype, tuple[int, ...]]:
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or magic[3] not in (1, 3, 4):
        raise _bad(path, f"a file starting with {magic!r}")
    dims = read_dims(magic[3])
    if len(dims) < 4 * magic[3]:
        raise _bad(path, "a header that breaks off")
    return np.dtype(_TYPES[magic[2]]), tuple(int(n) for n in np.frombuffer(dims, ">u4"))


def _bad(path: Path, found: str, expected: str = "an IDX archive") -> DataError:
    return DataError(f"{path}: expected {expected}, found {found}; replace the file")
