"""A data set as arrays: its splits, what is held out of them, labels as unit vectors and back."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32, Num, UInt8

from mmids_cnn import config as config_lib
from mmids_cnn.datasets import cache, classes, idx, source
from mmids_cnn.errors import DataError


class Split(NamedTuple):
    """Examples of one split, in the order of their source; read-only memory maps."""

    images: UInt8[np.ndarray, "examples height width channels"]
    labels: Int32[np.ndarray, " examples"]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, ready to use.

    Attributes:
      name: as configured.
      splits: 'train', 'test' and, if examples are held out, 'validation'.
      num_classes: labels are 0 to num_classes - 1; known from the data.
      fingerprint: SHA-256 over the checksums of all arrays.
      declared: names of the classes that the set itself gives; it may give none.
    """

    name: str
    splits: Mapping[str, Split]
    num_classes: int
    fingerprint: str
    declared: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width, channels."""
        return self.splits["train"].images.shape[1:]

    @property
    def class_names(self) -> tuple[str, ...]:
        """What each class is called."""
        return classes.names(self.name, self.num_classes, self.declared)


def load(config: config_lib.Dataset, report: cache.Report = lambda what, done, total: None) -> Dataset:
    """Loads a data set, preparing it the first time, and again if its cache was damaged.

    Args:
      config: which set, and where.
      report: called with progress of long work.

    Returns:
      The data set; validation examples are held out of the end of the training split.

    Raises:
      DataError: it is not there and cannot be prepared, or is not an image-classification set.
      FaultError: a disk is full or a folder cannot be written.
    """
    root = data_dir(config)
    folder, manifest = source.prepare(config.name, config.archives, root, report)
    arrays = {
        Path(name).stem: np.load(folder / name, mmap_mode="r", allow_pickle=False)
        for name in manifest["files"]
    }
    splits = {s: Split(arrays[f"{s}_images"], arrays[f"{s}_labels"]) for s in idx.SPLITS}
    digests = json.dumps(manifest["files"], sort_keys=True)
    fingerprint = hashlib.sha256(digests.encode()).hexdigest()
    splits |= _hold_out(splits["train"], config.validation_examples)
    declared = tuple(manifest.get("class_names", ()))
    return Dataset(config.name, splits, manifest["num_classes"], fingerprint, declared)


def data_dir(config: config_lib.Dataset) -> Path:
    """The TFDS data directory in force, by TFDS's own rule: TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      DataError: it is below the home of a user that is not known.
    """
    found = config.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    try:
        return Path(found).expanduser().absolute()
    except RuntimeError:
        raise DataError(
            f"dataset.data_dir: expected a folder, found the home of nobody, {found!r}; set "
            "--config.dataset.data_dir or TFDS_DATA_DIR to another"
        ) from None


def flat(
    images: UInt8[np.ndarray, "*batch height width channels"],
) -> Float32[np.ndarray, "*batch pixels"]:
    """The same pixels as one vector an image, float32 in [0, 1]: value / 255, as the notebook has it."""
    return images.reshape(*images.shape[:-3], -1) / np.float32(255)


def one_hot(labels: Any, classes: Sequence[Any] | int) -> Float[np.ndarray, "*n classes"]:
    """Unit vectors of one label or of many.

    Args:
      labels: a label, or an array of them.
      classes: the label set in order (`range(10)`, `["cat", "dog"]`), or its size for 0, 1, 2, ...

    Returns:
      float32, one row a label: 1 where the class is the label's, else 0.

    Raises:
      ValueError: a label is not in the set.

    >>> one_hot(2, 4).tolist()
    [0.0, 0.0, 1.0, 0.0]
    >>> one_hot(["dog", "cat"], ["cat", "dog"]).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    names = np.arange(classes) if isinstance(classes, int) else np.asarray(classes)
    vectors = np.asarray(labels)[..., None] == names
    if not np.all(vectors.sum(-1) == 1):
        raise ValueError(f"labels: expected members of {names.tolist()}, got {labels!r}")
    return vectors.astype(np.float32)


def one_cold(vectors: Num[np.ndarray, "*n classes"] | Any, classes: Sequence[Any] | int) -> Any:
    """The label of the largest entry of each vector, the inverse of `one_hot`; ties go to the first.

    Args:
      vectors: unit vectors, probabilities or logits, one row an example.
      classes: the label set, as for `one_hot`.

    Returns:
      A label, or an array of them.

    Raises:
      ValueError: the vectors are not as long as the label set.

    >>> one_cold(one_hot(5, 10), 10)
    5
    >>> one_cold([[0.1, 0.9], [0.8, 0.2]], ["cat", "dog"]).tolist()
    ['dog', 'cat']
    """
    names = np.arange(classes) if isinstance(classes, int) else np.asarray(classes)
    entries = np.asarray(vectors)
    if entries.shape[-1:] != names.shape:
        raise ValueError(f"vectors: expected length {len(names)}, got shape {entries.shape}")
    labels = names[entries.argmax(-1)]
    return labels.item() if labels.ndim == 0 else labels


def _hold_out(train: Split, count: int) -> dict[str, Split]:
    if count >= len(train.labels):
        raise DataError(
            f"dataset.validation_examples: expected fewer than the {len(train.labels):,} training "
            f"examples, got {count:,}; lower --config.dataset.validation_examples"
        )
    if count == 0:
        return {}
    return {
        "train": Split(train.images[:-count], train.labels[:-count]),
        "validation": Split(train.images[-count:], train.labels[-count:]),
    }
