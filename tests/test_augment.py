"""Random changes of images: against SciPy, and what is drawn."""

import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from mmids_cnn import augment, data, keys, train
from mmids_cnn.errors import ConfigError
from mmids_cnn.runs import folder as run_folder
from tests.support import processes
from tests.support.suite import Vary

OFF = {"flip": 0.0, "shift": 0.0, "rotation": 0.0, "scale": 0.0, "shear": 0.0, "cutout": 0.0}
SHAPES = [(28, 28, 1), (20, 24, 3), (7, 9, 2)]
ALL = ("flip", "affine", "cutout")


def strengths(**on: float) -> Any:
    return SimpleNamespace(**{name: jnp.float32(value) for name, value in (OFF | on).items()})


def changed(images: np.ndarray, step: int = 0, seed: int = 0, **on: float) -> np.ndarray:
    key = jax.random.fold_in(keys.stream(seed, "augment"), step)
    position = jnp.arange(len(images), dtype=jnp.int32)
    return np.asarray(augment.augment(ALL, key, position, jnp.asarray(images), strengths(**on)))


def drawn(name: str, count: int, numbers: int, step: int = 0) -> np.ndarray:
    """What images draw for an augmentation, as its documentation says."""
    key = jax.random.fold_in(keys.stream(0, "augment"), step)
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    each = jax.vmap(lambda place: jax.random.fold_in(key, place))(jnp.arange(count))
    draw = jax.vmap(lambda one: jax.random.uniform(one, (numbers,), minval=-1.0))
    return np.asarray(draw(each), np.float64)


def pictures(shape: tuple[int, ...], count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)


def oracle(image: np.ndarray, t: np.ndarray, u: np.ndarray, v: np.ndarray, h: dict[str, float]) -> np.ndarray:
    """One image, by SciPy, in float64: the map as a product of matrices, inverted as a whole."""
    if (1 + t[0]) / 2 < h["flip"]:
        image = image[:, ::-1]
    angle, zoom = np.deg2rad(h["rotation"] * u[2]), 1 + h["scale"] * u[3]
    shear = np.array([[1, 0], [h["shear"] * u[4], 1]])  # rows and columns, columns move with the row
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    inverse = np.linalg.inv(rotation @ (zoom * shear))
    middle = (np.array(image.shape[:2]) - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape[:2]), indexing="ij"), -1)
    place = ((grid - middle - h["shift"] * u[:2]) @ inverse.T + middle).transpose(2, 0, 1)
    look_up = {"order": 1, "mode": "grid-constant"}
    planes = [ndimage.map_coordinates(plane, place, **look_up) for plane in image.T.swapaxes(1, 2) * 1.0]
    out = np.stack(planes, -1)
    centre = (1 + v[:2]) / 2 * (np.array(image.shape[:2]) - 1)
    out[(np.abs(grid - centre) < h["cutout"] * (1 + v[2]) / 4).all(-1)] = 0
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_changes_at_strength_zero(shape: tuple[int, ...]) -> None:
    images = pictures(shape)
    np.testing.assert_array_equal(changed(images), images)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "on",
    [
        {"shift": 2.5},
        {"rotation": 30.0},
        {"scale": 0.5},
        {"shear": 1.0},
        {"cutout": 9.0},
        {"flip": 1.0},
        {"flip": 0.5, "rotation": 30.0},
        {"shift": 2.0, "rotation": 10.0, "scale": 0.1, "shear": 0.1, "cutout": 5.0},
        {"shift": 128.0, "rotation": 180.0, "scale": 0.5, "shear": 1.0},
    ],
    ids=lambda on: "-".join(on),
)
def test_images_are_scipys(shape: tuple[int, ...], on: dict[str, float]) -> None:
    images = pictures(shape)
    got = changed(images, **on)
    assert got.dtype == np.uint8 and got.shape == images.shape
    numbers = zip(drawn("flip", 8, 1), drawn("affine", 8, 5), drawn("cutout", 8, 3), strict=True)
    for index, (t, u, v) in enumerate(numbers):
        expected = oracle(images[index], t, u, v, OFF | on)
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
def test_direction(
    on: dict[str, float],
    before: tuple[int, int],
    after: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = np.zeros((1, 9, 9, 1), np.uint8)
    image[0, *before] = 200
    monkeypatch.setattr(augment, "_uniform", lambda keys, count: jnp.ones((len(keys), count)))
    found = augment.affine(jax.random.key(0)[None], jnp.asarray(image), strengths(**on))
    assert np.unravel_index(np.argmax(found), image.shape) == (0, *after, 0)


def test_maps_are_drawn_evenly_within_their_strengths() -> None:
    """Read off the images that come out, from where the spot of a pixel is."""
    spot = np.zeros((3000, 41, 41, 1), np.uint8)
    spot[:, 30, 20] = 255
    strength = {"shift": 5.0, "rotation": 30.0, "scale": 0.3, "shear": 0.5}
    for name, most in strength.items():
        mass = changed(spot, **{name: most})[..., 0].astype(float)
        mass /= mass.sum((1, 2), keepdims=True)
        down = (mass.sum(2) * np.arange(41)).sum(1) - 20
        right = (mass.sum(1) * np.arange(41)).sum(1) - 20
        found = {
            "shift": (down - 10, right),
            "rotation": (np.rad2deg(np.arctan2(right, down)),),
            "scale": (down / 10 - 1,),
            "shear": (right / 10,),
        }[name]
        for values in found:
            # Kolmogorov's distance of 3,000 draws is below 0.036 in 999 of 1,000 cases; pixels blur a little.
            even = np.linspace(-1, 1, len(values))
            assert np.abs(np.sort(values / most) - even).max() / 2 < 0.045, name


def test_as_many_images_as_asked_are_mirrored() -> None:
    image = np.zeros((3000, 4, 4, 1), np.uint8)
    image[:, :, 0] = 255
    share = (changed(image, flip=0.3)[:, 0, 3, 0] == 255).mean()
    assert abs(share - 0.3) < 3.3 * np.sqrt(0.3 * 0.7 / 3000)


def test_sides_of_squares_are_drawn_evenly() -> None:
    white = np.full((3000, 61, 61, 1), 255, np.uint8)
    black = changed(white, cutout=20.0)[..., 0] == 0
    inside = ~(black[:, [0, -1]].any((1, 2)) | black[:, :, [0, -1]].any((1, 2)))  # which no border cuts
    sides = black.any(2).sum(1)
    assert (sides == black.any(1).sum(1))[inside].mean() > 0.5  # a square's two sides are off by one at most
    assert 19 <= sides.max() <= 20
    counts = np.bincount(sides[inside], minlength=21)[2:19]  # of each whole number of pixels as many
    assert np.abs(counts / counts.mean() - 1).max() < 0.5


BLACK = """
def black(keys, images, h):
    return images * 0
"""


def test_training_images_alone_are_changed(place: processes.Place) -> None:
    """One step of all images, which leaves the weights where they are: black, all classes are equal."""
    (place.work / "own.py").write_text(BLACK)
    flags = ["--config.num_epochs=1", "--config.batch_size=100000", "--config.optimizer.learning_rate=1e-30"]
    flags.append("--config.dataset.validation_examples=60")
    assert place.run("plain", *flags).returncode == 0
    assert place.run("black", *flags, "--config.augment.names=('own:black',)").returncode == 0
    plain, black = (run_folder.metrics(place.work / name)[-1] for name in ("plain", "black"))
    for name in ("test/accuracy", "test/loss", "validation/accuracy", "validation/loss", "train/count"):
        assert plain[name] == black[name], name
    experiment = run_folder.experiment(place.work / "black")
    labels = data.load(experiment.dataset).splits["train"].labels
    assert black["train/loss"] == pytest.approx(np.log(10), abs=1e-6) != plain["train/loss"]
    assert black["train/accuracy"] == pytest.approx((labels == 0).mean())


def test_numbers_are_uniform_and_independent() -> None:
    each = (("flip", 1), ("affine", 5), ("cutout", 3))
    u = np.concatenate([drawn(name, 20_000, numbers) for name, numbers in each], 1)
    # Kolmogorov's distance of 20,000 draws is below 0.0174 in 99,999 of 100,000 cases.
    for column in u.T:
        distance = np.abs(np.sort(column) - (2 * (np.arange(len(column)) + 0.5) / len(column) - 1)).max() / 2
        assert distance < 0.0174
    assert np.abs(np.corrcoef(u.T) - np.eye(9)).max() < 0.04


@pytest.mark.soak
def test_images_differ_by_place_step_and_seed() -> None:
    image = np.repeat(pictures((9, 9, 1), 1), 8, 0)
    first = changed(image, rotation=90.0)
    assert len(np.unique(first.reshape(8, -1), axis=0)) == 8
    assert (changed(image, rotation=90.0) == first).all()
    assert (changed(image[:3], rotation=90.0) == first[:3]).all()
    for other in ({"step": 1}, {"seed": 1}):
        assert (changed(image, rotation=90.0, **other) != first).any((1, 2, 3)).all()


@pytest.mark.soak
def test_ink_of_a_digit_stays_about_what_it_was(mnist: data.Dataset) -> None:
    images = np.asarray(mnist.splits["train"].images[:500])
    after = changed(images, shift=2.0, rotation=10.0, scale=0.1).sum((1, 2, 3), dtype=float)
    ratio = after / images.sum((1, 2, 3), dtype=float)
    assert ratio.min() > 0.78 and ratio.max() < 1.24 and abs(ratio.mean() - 1) < 0.02


def test_what_is_off_is_no_part_of_the_program(vary: Vary, small: data.Dataset) -> None:
    def names(**settings: Any) -> tuple[str, ...]:
        return train.program(vary(augment=settings), small).augmentations

    assert names() == ()
    assert names(shear=0.1) == ("affine",)
    assert names(cutout=3.0, shift=1.0, names=("cutout", "affine")) == ("cutout", "affine")
    assert names(cutout=3.0, names=("affine",)) == ()
    assert "config.augment.cutout is 3; nothing in augment.names uses it" in train.notes(
        vary(augment={"cutout": 3.0, "names": ("affine",)}), small
    )
    assert not augment.unused(vary(augment={"cutout": 3.0, "shift": 1.0}).augment)
    assert not augment.unused(vary(augment={"cutout": 3.0, "names": ("own:noise",)}).augment)


OWN = """
import jax
import jax.numpy as jnp

def noise(keys, images, h):
    added = jax.vmap(lambda key: jax.random.randint(key, images.shape[1:], 0, 9))(keys)
    return jnp.clip(images + added, 0, 255).astype(jnp.uint8)

def floats(keys, images, h):
    return images / 2.0

def flat(keys, images, h):
    return images[0]
"""


def test_own_augmentation(
    vary: Vary, small: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "augmentations.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = train.program(vary(augment={"names": ("augmentations:noise",)}), small)
    assert made.augmentations == ("augmentations:noise",)
    images, key = jnp.asarray(pictures((28, 28, 1))), jax.random.key(0)
    found = augment.augment(made.augmentations, key, jnp.arange(8, dtype=jnp.int32), images, strengths())
    added = np.asarray(found, int) - np.asarray(images, int)
    assert set(np.unique(added)) == set(range(9))
    for name, message in (("floats", "uint8, got float32"), ("flat", r"got uint8 \(28, 28, 1\)")):
        with pytest.raises(ConfigError, match=rf"augment\.names: expected a function .*{message}"):
            train.program(vary(augment={"names": (f"augmentations:{name}",)}), small)
