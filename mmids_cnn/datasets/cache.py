"""The arrays of a prepared data set, decoded once and memory-mapped ever after.

A cache is a folder of `.npy` files and a manifest with the SHA-256 of each. It appears by one rename, and is
checked against its manifest at every start: a damaged one is decoded again.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmids_cnn import files
from mmids_cnn.datasets import idx
from mmids_cnn.errors import DataError

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many examples are done, and how many there are."""

Manifest = dict[str, Any]
"""`files`: SHA-256 by file name; `num_classes`: how many labels there are."""

_MANIFEST = "manifest.json"
_CHUNK = 1000  # examples decoded at a time


def open_or_fill(folder: Path, make_builder: Callable[[], Any], report: Report) -> Manifest:
    """Opens a cache, filling it first if it is not there or not whole.

    Args:
      folder: the cache's folder, named after the data's content.
      make_builder: makes the TFDS builder to prepare and read; called only when filling.
      report: progress.

    Returns:
      The manifest of a cache whose every byte has just been checked.
    """
    manifest = _verified(folder)
    if manifest is not None:
        return manifest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(
        folder.with_name(folder.name + ".lock"),
        waiting=lambda holder: report(f"waiting for {holder} to prepare the same data", 0, 0),
    ):
        manifest = _verified(folder)  # whoever held the lock has filled it
        if manifest is None:
            if folder.exists():
                report(f"{folder} does not match its fingerprints: decoding again", 0, 0)
            _fill(folder, make_builder, report)
            manifest = _verified(folder)
    if manifest is None:
        raise DataError(f"{folder}: expected the arrays just written, found others; check the disk")
    return manifest


def _verified(folder: Path) -> Manifest | None:
    """The manifest, if every file is there and has its checksum."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        for name, checksum in manifest["files"].items():
            with open(folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != checksum:
                    return None
        return manifest
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _fill(folder: Path, make_builder: Callable[[], Any], report: Report) -> None:
    for stale in folder.parent.glob(f"{folder.name}.partial*"):  # left by a killed run
        shutil.rmtree(stale)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial", dir=folder.parent))
    partial.chmod(0o755)  # mkdtemp's 0700 would hide the cache from the data folder's other users
    try:
        _quiet_tfds()
        builder = make_builder()
        for stale in Path(builder.data_dir).parent.glob("incomplete.*"):
            shutil.rmtree(stale, ignore_errors=True)
        _prepare(builder)
        try:
            num_classes = _decode(builder, partial, report)
        except (DataError, OSError):
            raise
        except Exception:  # ArrayRecord and TFDS raise many kinds on damaged files
            report(f"{builder.data_dir} is damaged: preparing again", 0, 0)
            shutil.rmtree(builder.data_dir)
            builder = make_builder()
            _prepare(builder)
            num_classes = _decode(builder, partial, report)
        checksums = {path.name: _sync_and_hash(path) for path in sorted(partial.glob("*.npy"))}
        files.write_json(partial / _MANIFEST, {"files": checksums, "num_classes": num_classes})
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _prepare(builder: Any) -> None:
    """Prepares a set quietly: what TFDS prints is reported by `report` instead."""
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()


def _quiet_tfds() -> None:
    import tensorflow_datasets as tfds
    from absl import logging

    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)


def _decode(builder: Any, folder: Path, report: Report) -> int:
    """Writes `<split>_images.npy` and `<split>_labels.npy`; returns the number of classes."""
    keys = builder.info.supervised_keys
    if not keys or len(keys) != 2 or any(split not in builder.info.splits for split in idx.SPLITS):
        raise DataError(
            f"dataset.name: expected an image-classification set with splits train and test, found "
            f"{builder.name} with splits {', '.join(builder.info.splits)}; choose another set"
        )
    for split in idx.SPLITS:
        _decode_split(builder.as_data_source(split), keys, f"{folder}/{split}", report)
    label = builder.info.features[keys[1]]
    if getattr(label, "num_classes", None):
        return int(label.num_classes)
    return int(np.load(folder / "train_labels.npy").max()) + 1


def _decode_split(source: Any, keys: tuple[str, str], prefix: str, report: Report) -> None:
    image_key, label_key = keys
    shape = np.asarray(source[0][image_key]).shape
    if len(shape) != 3:
        raise DataError(f"dataset.name: expected images [height, width, channels], found shape {shape}")
    count = len(source)
    open_memmap = np.lib.format.open_memmap
    images = open_memmap(f"{prefix}_images.npy", mode="w+", dtype=np.uint8, shape=(count, *shape))
    labels = open_memmap(f"{prefix}_labels.npy", mode="w+", dtype=np.int32, shape=(count,))
    for start in range(0, count, _CHUNK):
        examples = source.__getitems__(list(range(start, min(start + _CHUNK, count))))
        for position, example in enumerate(examples, start):
            image = np.asarray(example[image_key])
            if image.shape != shape or image.dtype != np.uint8:
                raise DataError(
                    f"dataset.name: expected uint8 images of one shape {shape}, found {image.dtype} "
                    f"{image.shape} at position {position}; choose a set of equal-sized images"
                )
            images[position], labels[position] = image, example[label_key]
        report(f"decoding {Path(prefix).name}", min(start + _CHUNK, count), count)
    images.flush()
    labels.flush()


def _sync_and_hash(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
