"""A TFDS builder for image-classification sets in IDX form. It needs neither TensorFlow nor a network."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mmids_cnn.datasets import idx
from mmids_cnn.errors import DataError

Report = Callable[[int, int], None]


class IdxArchives(tfds.core.GeneratorBasedBuilder):
    """Prepares IDX archives as ArrayRecord, in the archives' order.

    TFDS's own `mnist` needs TensorFlow to unpack and to encode PNG; this one keeps raw `uint8` tensors, as
    bytes: a list of integers, TFDS's default, takes three times as long to write and to read.
    Each content has a config of its own, so that two sets of one name never share a folder.

    Attributes:
      arrays: images and labels of each split, as the archives hold them.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Images are lists of integers.", "1.1.0": "Images are bytes."}

    def __init__(
        self, *, name: str, archives: idx.Archives, data_dir: Path, report: Report | None = None
    ) -> None:
        """Makes the builder; preparing is `download_and_prepare`, as for every TFDS builder.

        Args:
          name: the data set's name, part of its folder's.
          archives: the four files, from `idx.find`.
          data_dir: TFDS's data directory.
          report: called now and then with (examples written, examples in all).
        """
        self.arrays = {split: idx.read_split(archives, split) for split in idx.SPLITS}
        self._report = report or (lambda done, total: None)
        self._done = 0
        check_splits(self.arrays, str(archives.files["test", "labels"]))
        config = tfds.core.BuilderConfig(
            name=f"{name.replace('/', '-')}-{archives.digest[:16]}",
            description=f"{name} from IDX archives, {archives.digest}",
        )
        super().__init__(data_dir=str(data_dir), config=config, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        images, labels = self.arrays["train"]
        return _Info(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=images.shape[1:], dtype=np.uint8, encoding="bytes"),
                    "label": tfds.features.ClassLabel(num_classes=int(labels.max()) + 1),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(split) for split in idx.SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        total = sum(len(labels) for _, labels in self.arrays.values())
        for index, (image, label) in enumerate(zip(*self.arrays[split], strict=True)):
            yield index, {"image": image, "label": int(label)}
            self._done += 1
            if self._done % 1000 == 0 or self._done == total:
                self._report(self._done, total)


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Does nothing: archives are in no bucket of TFDS, whose search leaves a temporary folder behind."""


def check_splits(splits: dict[str, tuple[np.ndarray, np.ndarray]], where: str) -> None:
    """Checks that two splits are of one data set: equal image shapes, no label that training lacks.

    Args:
      splits: images and labels of 'train' and 'test'.
      where: the file to name when they do not fit.

    Raises:
      DataError: they do not belong together.
    """
    (train_images, train_labels), (test_images, test_labels) = splits["train"], splits["test"]
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{where}: expected test images of shape {train_images.shape[1:]}, as the training images "
            f"are, found {test_images.shape[1:]}; replace whichever archives belong to another set"
        )
    if test_labels.max() > train_labels.max():
        raise DataError(
            f"{where}: expected labels from 0 to {train_labels.max()}, as in the training split, found "
            f"{test_labels.max()} at position {test_labels.argmax()}; replace the archive"
        )
