"""Names of classes, against those that TFDS gives."""

import pytest
import tensorflow_datasets as tfds

from mmids_cnn.datasets import classes


@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_names_are_those_of_tfds(name: str) -> None:
    assert list(classes.names(name, 10)) == tfds.builder(name).info.features["label"].names


@pytest.mark.parametrize(
    ("name", "count", "declared", "first", "last"),
    [
        ("mnist", 10, (), "0", "9"),
        ("my-own", 3, (), "0", "2"),
        ("my-own", 2, ("cat", "dog"), "cat", "dog"),
        ("my-own", 3, ("cat", "dog"), "0", "2"),  # of another set
        ("Fashion-MNIST", 10, (), "T-shirt/top", "Ankle boot"),
        ("fashion_mnist:3.0.1", 10, tuple("0123456789"), "T-shirt/top", "Ankle boot"),
        ("fashion_mnist", 7, (), "0", "6"),
        ("emnist-letters", 27, (), "-", "z"),
        ("emnist/letters", 37, (), "-", "36"),
        ("emnist-balanced", 47, (), "0", "t"),
        ("emnist/byclass", 62, (), "0", "z"),
    ],
)
def test_names(name: str, count: int, declared: tuple[str, ...], first: str, last: str) -> None:
    names = classes.names(name, count, declared)
    assert (len(names), names[0], names[-1]) == (count, first, last)
