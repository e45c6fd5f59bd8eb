"""Random changes of images: against SciPy, and what is drawn."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from mmids_cnn import augment, data, keys

OFF = {"shift": 0.0, "rotation": 0.0, "scale": 0.0, "shear": 0.0, "cutout": 0.0}
SHAPES = [(28, 28, 1), (20, 24, 3), (7, 9, 2)]


def strengths(**on: float) -> Any:
    return SimpleNamespace(**{name: jnp.float32(value) for name, value in (OFF | on).items()})


def drawn(count: int, step: int = 0) -> augment.Drawn:
    key = jax.random.fold_in(keys.stream(0, "augment"), step)
    return augment.draw(key, jnp.arange(count, dtype=jnp.int32))


def pictures(shape: tuple[int, ...], count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)


def oracle(image: np.ndarray, u: dict[str, np.ndarray], h: dict[str, float]) -> np.ndarray:
    """One image, by SciPy, in float64: the map as a product of matrices, inverted as a whole."""
    angle, zoom = np.deg2rad(h["rotation"] * u["rotation"]), 1 + h["scale"] * u["scale"]
    shear = np.array([[1, 0], [h["shear"] * u["shear"], 1]])  # rows and columns, columns move with the row
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = np.linalg.inv(rotation @ (zoom * shear))
    middle = (np.array(image.shape[:2]) - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape[:2]), indexing="ij"), -1)
    place = (grid - middle - h["shift"] * u["shift"]) @ inverse.T + middle
    out = np.stack(
        [
            ndimage.map_coordinates(
                image[..., c].astype(float), place.transpose(2, 0, 1), order=1, mode="grid-constant"
            )
            for c in range(image.shape[2])
        ],
        -1,
    )
    centre = (1 + u["cutout"][:2]) / 2 * (np.array(image.shape[:2]) - 1)
    half = h["cutout"] * (1 + u["cutout"][2]) / 4
    out[(np.abs(grid - centre) < half).all(-1)] = 0
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_changes_at_strength_zero(shape: tuple[int, ...]) -> None:
    images = pictures(shape)
    np.testing.assert_array_equal(augment.augment(jnp.asarray(images), drawn(8), strengths()), images)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "on",
    [
        {"shift": 2.5},
        {"rotation": 30.0},
        {"scale": 0.5},
        {"shear": 1.0},
        {"cutout": 9.0},
        {"shift": 2.0, "rotation": 10.0, "scale": 0.1, "shear": 0.1, "cutout": 5.0},
        {"shift": 128.0, "rotation": 180.0, "scale": 0.5, "shear": 1.0},
    ],
    ids=lambda on: "-".join(on),
)
def test_images_are_scipys(shape: tuple[int, ...], on: dict[str, float]) -> None:
    images, u = pictures(shape), drawn(8)
    got = np.asarray(augment.augment(jnp.asarray(images), u, strengths(**on)))
    assert got.dtype == np.uint8 and got.shape == images.shape
    for index, image in enumerate(images):
        own = {name: np.asarray(value[index], np.float64) for name, value in u._asdict().items()}
        expected = oracle(image, own, OFF | on)
        # Rounded are the value, by half a level, and the place, along each axis by 1/512 of a pixel and what
        # the entries of the matrix are off, 2**-16, at so many pixels from the middle, those of a shift more.
        # A pixel is 255 levels.
        shifts = on.get("shift", 0)
        place = 1 / 512 + 2.0**-16 * sum(shape[:2]) + (2.0**-8 + 2.0**-11 * shifts if shifts else 0)
        error = np.abs(got[index] - expected)
        assert error.max() <= 0.5 + 2 * 255 * place and error.mean() < 0.4


@pytest.mark.parametrize(
    ("on", "before", "after"),
    [
        ({"shift": 1.0}, (4, 6), (5, 7)),  # down and to the right
        ({"rotation": 90.0}, (4, 6), (2, 4)),  # from the right to the top
        ({"scale": 0.5}, (4, 6), (4, 7)),
        ({"shear": 0.5}, (6, 4), (6, 5)),
    ],
)
def test_direction(on: dict[str, float], before: tuple[int, int], after: tuple[int, int]) -> None:
    image = np.zeros((1, 9, 9, 1), np.uint8)
    image[0, *before] = 200
    shapes = ((1, 2), (1,), (1,), (1,), (1, 3))
    changed = augment.augment(jnp.asarray(image), augment.Drawn(*map(jnp.ones, shapes)), strengths(**on))
    assert np.unravel_index(np.argmax(changed), image.shape) == (0, *after, 0)


def test_numbers_are_uniform_and_differ_by_image_step_and_seed() -> None:
    flat = lambda u: np.concatenate([np.asarray(x).reshape(len(x), -1) for x in u], 1)  # noqa: E731
    u = flat(drawn(20_000))
    # Kolmogorov's distance of 20,000 draws is below 0.0174 in 99,999 of 100,000 cases.
    for column in u.T:
        distance = np.abs(np.sort(column) - (2 * (np.arange(len(column)) + 0.5) / len(column) - 1)).max() / 2
        assert distance < 0.0174
    correlation = np.corrcoef(u.T) - np.eye(u.shape[1])
    assert np.abs(correlation).max() < 0.04
    assert (flat(drawn(8)) == u[:8]).all()
    assert (flat(drawn(8, step=1)) != u[:8]).all()
    other = augment.draw(jax.random.fold_in(keys.stream(1, "augment"), 0), jnp.arange(8, dtype=jnp.int32))
    assert (flat(other) != u[:8]).all()


def test_ink_of_a_digit_stays_about_what_it_was(mnist: data.Dataset) -> None:
    images = np.asarray(mnist.splits["train"].images[:500])
    moderate = strengths(shift=2.0, rotation=10.0, scale=0.1)
    changed = np.asarray(augment.augment(jnp.asarray(images), drawn(500), moderate))
    ratio = changed.sum((1, 2, 3), dtype=float) / images.sum((1, 2, 3), dtype=float)
    assert ratio.min() > 0.78 and ratio.max() < 1.24 and abs(ratio.mean() - 1) < 0.02
