"""The arrays of a prepared data set, decoded once and memory-mapped ever after.

A cache is a folder of `.npy` files and a manifest with the SHA-256 of each. It appears by one rename, and is
checked against its manifest at every start: a damaged one is decoded again.
"""

import contextlib
import glob
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmids_cnn.datasets import idx
from mmids_cnn.errors import DataError
from mmids_cnn.storage import files

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many examples are done, and how many there are."""

Manifest = dict[str, Any]
"""`files`: SHA-256 by file name; `num_classes`: how many labels there are; perhaps `class_names`."""

_MANIFEST = "manifest.json"
_CHUNK = 1000  # examples decoded at a time


def open_or_fill(
    folder: Path, make_builder: Callable[[], Any], report: Report, where: Path, *, disposable: bool
) -> Manifest:
    """Opens a cache, filling it first if it is not there or not whole.

    Args:
      folder: the cache's folder, named after the data's content.
      make_builder: makes the TFDS builder to prepare and read; called only when filling.
      report: progress.
      where: where TFDS keeps the prepared set.
      disposable: whether it may be removed and prepared again when damaged.

    Returns:
      The manifest of a cache whose every byte has just been checked.

    Raises:
      DataError: the folder cannot be written, or what is to fill it cannot be used.
    """
    manifest = _verified(folder)
    if manifest is not None:
        return manifest
    if obstacle := files.obstacle(folder.parent):
        raise DataError(
            f"dataset.data_dir: expected a folder that can be written, found {obstacle}; set "
            "--config.dataset.data_dir or TFDS_DATA_DIR to another"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(
        folder.with_name(folder.name + ".lock"),
        waiting=lambda holder: report(f"waiting for {holder} to prepare the same data", 0, 0),
    ):
        manifest = _verified(folder)  # whoever held the lock has filled it
        if manifest is None:
            if folder.exists():
                report(f"{folder} does not match its fingerprints: decoding again", 0, 0)
            _fill(folder, make_builder, report, where, disposable)
            manifest = _verified(folder)
    if manifest is None:
        raise DataError(f"{folder}: expected the arrays just written, found others; check the disk")
    return manifest


def _verified(folder: Path) -> Manifest | None:
    """The manifest, if every file is there and has its checksum."""
    if not os.path.isdir(folder):  # noqa: PTH112, which raises where a name is too long
        return None
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        if manifest.pop("seal") != files.digest_of_json(manifest):
            return None
        for name, checksum in manifest["files"].items():
            with open(folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != checksum:
                    return None
        return manifest
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _fill(
    folder: Path, make_builder: Callable[[], Any], report: Report, where: Path, disposable: bool
) -> None:
    for stale in folder.parent.glob(f"{glob.escape(folder.name)}.partial*"):  # left by a killed run
        shutil.rmtree(stale)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial", dir=folder.parent))
    partial.chmod(0o755)  # mkdtemp's 0700 would hide the cache from the data folder's other users
    try:
        _quiet_tfds()
        facts = _prepare_and_decode(make_builder, partial, report, where, disposable)
        checksums = {path.name: _sync_and_hash(path) for path in sorted(partial.glob("*.npy"))}
        manifest = {"files": checksums, **facts}
        files.write_json(partial / _MANIFEST, manifest | {"seal": files.digest_of_json(manifest)})
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _prepare_and_decode(
    make_builder: Callable[[], Any], folder: Path, report: Report, where: Path, disposable: bool
) -> Manifest:
    try:
        builder = make_builder()
        there = Path(builder.data_dir).exists()
        _prepare(builder)
        if (known := _known(builder)) and not there:  # what was just written need not be read again
            for name, array in known.items():
                _write_array(folder / name, array)
            return _classes(builder, folder)
        return _decode(builder, folder, report)
    except DataError:
        raise
    except Exception as error:  # ArrayRecord and TFDS raise many kinds on damaged files
        cause = files.cause(error)
        if cause:
            raise cause from error
        if not (disposable and where.exists()):
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(f"{where}: expected a whole set, found: {reason}; prepare it again") from error
    report(f"{where} is damaged: preparing again", 0, 0)
    shutil.rmtree(where)
    return _prepare_and_decode(make_builder, folder, report, where, disposable=False)


def _known(builder: Any) -> dict[str, np.ndarray]:
    """What a builder of archives has read from them, by the names of the files here; of others nothing."""
    arrays = getattr(builder, "arrays", {}).items()
    return {
        f"{split}_{kind}.npy": array
        for split, pair in arrays
        for kind, array in zip(("images", "labels"), pair, strict=True)
    }


def _prepare(builder: Any) -> None:
    """Prepares a set quietly: what TFDS prints is reported by `report` instead."""
    for stale in Path(builder.data_dir).parent.glob("incomplete.*"):
        shutil.rmtree(stale, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    if not builder.info.splits:
        raise ValueError("no splits")


def _quiet_tfds() -> None:
    import tensorflow_datasets as tfds
    from absl import logging

    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)


def _decode(builder: Any, folder: Path, report: Report) -> Manifest:
    """Writes `<split>_images.npy` and `<split>_labels.npy` as TFDS reads them; see `_classes`."""
    keys = builder.info.supervised_keys
    if not keys or len(keys) != 2 or any(split not in builder.info.splits for split in idx.SPLITS):
        raise DataError(
            f"dataset.name: expected an image-classification set with splits train and test, found "
            f"{builder.name} with splits {', '.join(builder.info.splits)}; choose another set"
        )
    declared = builder.info.features[keys[0]].shape
    if len(declared) != 3:
        raise DataError(f"dataset.name: expected images [height, width, channels], found shape {declared}")
    for split in idx.SPLITS:
        _decode_split(builder.as_data_source(split), keys, f"{folder}/{split}", report)
    for name, array in _known(builder).items():  # TFDS's metadata has no checksums
        if not np.array_equal(np.load(folder / name, mmap_mode="r"), array):
            raise ValueError(f"{name} would hold others than the archives")
    return _classes(builder, folder)


def _classes(builder: Any, folder: Path) -> Manifest:
    """What the manifest says of the classes."""
    label = builder.info.features[builder.info.supervised_keys[1]]
    if not getattr(label, "num_classes", None):
        return {"num_classes": int(np.load(folder / "train_labels.npy").max()) + 1}
    count, names = int(label.num_classes), list(label.names)
    named = names != [str(number) for number in range(count)]
    return {"num_classes": count} | ({"class_names": names} if named else {})


def _decode_split(source: Any, keys: tuple[str, str], prefix: str, report: Report) -> None:
    image_key, label_key = keys
    shape = np.asarray(source[0][image_key]).shape
    if len(shape) != 3:
        raise ValueError(f"an image of shape {shape}")
    count = len(source)
    # Plain writes: a memory map of a file on a disk that is full ends the process with SIGBUS.
    with open(f"{prefix}_images.npy", "wb") as images, open(f"{prefix}_labels.npy", "wb") as labels:
        _write_header(images, np.dtype(np.uint8), (count, *shape))
        _write_header(labels, np.dtype(np.int32), (count,))
        for start in range(0, count, _CHUNK):
            examples = source.__getitems__(list(range(start, min(start + _CHUNK, count))))
            for position, example in enumerate(examples, start):
                image = np.asarray(example[image_key])
                if image.shape != shape or image.dtype != np.uint8:
                    raise DataError(
                        f"dataset.name: expected uint8 images of one shape {shape}, found {image.dtype} "
                        f"{image.shape} at position {position}; choose a set of equal-sized images"
                    )
                images.write(image.tobytes())
                labels.write(np.int32(example[label_key]).tobytes())
            report(f"decoding {Path(prefix).name}", min(start + _CHUNK, count), count)


def _write_array(path: Path, array: np.ndarray) -> None:
    """What `np.save` does, which on a full disk does not say so."""
    with open(path, "wb") as file:
        _write_header(file, array.dtype, array.shape)
        file.write(np.ascontiguousarray(array).data)


def _write_header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _sync_and_hash(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
