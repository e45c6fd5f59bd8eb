"""Where a data set comes from: IDX archives or the TFDS catalogue; prepared and decoded once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmids_cnn.datasets import cache, catalogue, idx
from mmids_cnn.errors import DataError
from mmids_cnn.storage import files


def prepare(name: str, archives: str, root: Path, report: cache.Report) -> tuple[Path, cache.Manifest]:
    """The folder of a data set's arrays, made the first time, and again if it was damaged.

    Args:
      name: the data set's.
      archives: the folder of its IDX archives; '' is the shipped MNIST for 'mnist', else the TFDS catalogue.
      root: the TFDS data directory.
      report: called with progress of long work.

    Returns:
      The folder, and its manifest, which each file has just been checked against.

    Raises:
      DataError: it is not there and cannot be prepared, or is not an image-classification set.
      FaultError: a disk is full or a folder cannot be written.
    """
    if not files.is_utf8(root):
        raise DataError(
            f"dataset.data_dir: expected a folder whose path is UTF-8, found {str(root)!a}; set "
            "--config.dataset.data_dir or TFDS_DATA_DIR to another"
        )
    with files.faults(f"preparing {name} in {root}"):
        key, make_builder, where = _find(name, archives, root, report)
        folder = root / "mmids_cnn" / key
        ours = where.is_relative_to(root / "idx_archives")  # what a catalogue set took hours to get stays
        return folder, cache.open_or_fill(folder, make_builder, report, where, disposable=ours)


def _find(name: str, archives: str, root: Path, report: cache.Report) -> tuple[str, Callable[[], Any], Path]:
    """A name for the data's content, what makes its TFDS builder, and where TFDS keeps it prepared."""
    plain = name.replace("/", "-").replace(":", "-")
    if archives or name == "mnist":
        found = idx.find(name, archives)

        def make_builder() -> Any:
            from mmids_cnn.datasets import builder  # TFDS: imported only to prepare

            return builder.IdxArchives(
                name=plain,
                archives=found,
                data_dir=root,
                report=lambda done, total: report(f"preparing {name}", done, total),
            )

        key = f"{plain}-{found.digest[:16]}"
        return key, make_builder, root / "idx_archives" / key
    where, digest = catalogue.find(name, root)
    return f"{plain}-{digest[:16]}", lambda: catalogue.builder(where), where
