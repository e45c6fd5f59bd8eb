"""A data set as arrays, and the order of its examples in each epoch."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from mmids_cnn import config as config_lib
from mmids_cnn.datasets import cache, catalogue, idx
from mmids_cnn.errors import DataError
from mmids_cnn.storage import files


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
    """

    name: str
    splits: Mapping[str, Split]
    num_classes: int
    fingerprint: str

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width, channels."""
        return self.splits["train"].images.shape[1:]


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
    with files.faults(f"preparing {config.name} in {root}"):
        key, make_builder, where = _source(config, root, report)
        folder = root / "mmids_cnn" / key
        ours = where.is_relative_to(root / "idx_archives")  # what a catalogue set took hours to get stays
        manifest = cache.open_or_fill(folder, make_builder, report, where, disposable=ours)
    arrays = {
        Path(name).stem: np.load(folder / name, mmap_mode="r", allow_pickle=False)
        for name in manifest["files"]
    }
    splits = {s: Split(arrays[f"{s}_images"], arrays[f"{s}_labels"]) for s in idx.SPLITS}
    digests = json.dumps(manifest["files"], sort_keys=True)
    fingerprint = hashlib.sha256(digests.encode()).hexdigest()
    splits |= _hold_out(splits["train"], config.validation_examples)
    return Dataset(config.name, splits, manifest["num_classes"], fingerprint)


def data_dir(config: config_lib.Dataset) -> Path:
    """The TFDS data directory in force, by TFDS's own rule: TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return Path(config.data_dir or default).expanduser().absolute()


def flat(
    images: UInt8[np.ndarray, "*batch height width channels"],
) -> Float32[np.ndarray, "*batch pixels"]:
    """The same pixels as one vector an image, float32 in [0, 1]: value / 255, as the notebook has it."""
    return images.reshape(*images.shape[:-3], -1) / np.float32(255)


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


def _source(
    config: config_lib.Dataset, root: Path, report: cache.Report
) -> tuple[str, Callable[[], Any], Path]:
    """A name for the data's content, what makes its TFDS builder, and where TFDS keeps it prepared."""
    name = config.name.replace("/", "-").replace(":", "-")
    if config.archives or config.name == "mnist":
        archives = idx.find(config.name, config.archives)

        def make_builder() -> Any:
            from mmids_cnn.datasets import builder  # TFDS: imported only to prepare

            return builder.IdxArchives(
                name=name,
                archives=archives,
                data_dir=root,
                report=lambda done, total: report(f"preparing {config.name}", done, total),
            )

        key = f"{name}-{archives.digest[:16]}"
        return key, make_builder, root / "idx_archives" / key
    where, digest = catalogue.find(config.name, root)
    return f"{name}-{digest[:16]}", lambda: catalogue.builder(where), where
