"""Digits by other writers, as data for a network that was trained on MNIST: how well does it travel?

    python experiments/other_writers/uci_digits.py runs/uci_digits
    python -m mmids_cnn.evaluate --workdir=runs/base --name=uci_digits --archives=runs/uci_digits

The 1,797 digits that scikit-learn ships were written by 13 people on forms, scanned and reduced to 8x8
counts of ink, 0 to 16 (Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits; licence CC
BY 4.0). Each is drawn large, dark on light, as a picture file, and read as `predict` reads any picture.
What comes out is written as IDX archives: all digits as the test split, the first hundred as a training
split, which the format asks for.

Needs scikit-learn, which the extra `sweep` has.
"""

import gzip
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from mmids_cnn.datasets import idx
from mmids_cnn.deploy import pictures

SIDE = 192  # pixels of a picture


def as_mnist(counts: np.ndarray, path: Path) -> np.ndarray:
    """One digit, float64 `[8, 8]` from 0 to 16, by way of a picture: uint8 `[28, 28]`, white on black."""
    ink = Image.fromarray(np.rint(counts * (255 / 16)).astype(np.uint8))
    page = Image.new("L", (SIDE, SIDE), 255)
    large = ink.resize((SIDE // 2, SIDE // 2), Image.Resampling.BICUBIC)
    page.paste(Image.eval(large, lambda level: 255 - level), (SIDE // 4, SIDE // 4))
    page.save(path)
    return pictures.load(path, (28, 28, 1))[..., 0]


def encoded(array: np.ndarray) -> bytes:
    """An array of uint8 in the format of MNIST's archives (LeCun, Cortes and Burges)."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def main(folder: Path) -> None:
    """Writes the four archives."""
    found = load_digits()
    with tempfile.TemporaryDirectory() as scratch:
        images = np.stack([as_mnist(digit, Path(scratch) / "digit.png") for digit in found.images])
    arrays = {"images": images, "labels": found.target.astype(np.uint8)}
    sizes, folder = {"train": 100, "test": len(images)}, folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for (split, kind), name in idx.FILES.items():
        content = encoded(arrays[kind][: sizes[split]])
        (folder / name).write_bytes(gzip.compress(content, mtime=0))
    print(f"{len(images):,} digits in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("uci_digits: expected a folder to write archives to; name one, such as runs/uci_digits")
    main(Path(sys.argv[1]))
