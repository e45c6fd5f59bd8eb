"""Images changed to see how well a network holds: each way against its formula."""

import io

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from mmids_cnn import data
from mmids_cnn.deploy import shifts


@pytest.fixture(scope="module")
def images(mnist: data.Dataset) -> np.ndarray:
    return np.asarray(mnist.splits["test"].images[:200])


def made(name: str, severity: int, images: np.ndarray) -> np.ndarray:
    found = shifts.SHIFTS[name](images, severity, np.random.default_rng(0))
    assert (found.dtype, found.shape) == (np.uint8, images.shape)
    return found


def centres(images: np.ndarray) -> np.ndarray:
    ink = images[..., 0].astype(float)
    rows, columns = np.arange(28), np.arange(28)
    return np.stack([ink.sum(2) @ rows, ink.sum(1) @ columns], 1) / ink.sum((1, 2))[:, None]


@pytest.mark.parametrize("severity", shifts.SEVERITIES)
def test_lengths_and_angles(severity: int) -> None:
    disk = np.zeros((50, 28, 28, 1), np.uint8)
    disk[:, 12:16, 12:16] = 255
    away = centres(made("shift", severity, disk)) - 13.5
    assert np.linalg.norm(away, axis=1) == pytest.approx(severity, abs=0.05)
    assert (np.ptp(away, 0) > 1.5 * severity).all()  # in every direction
    areas = made("scale", severity, disk).sum((1, 2, 3)) / disk[0].sum()
    expected = np.array([(1 - 0.1 * severity) ** 2, (1 + 0.1 * severity) ** 2])
    assert np.abs(areas[:, None] - expected).min(1).max() < 0.12 and np.ptp(areas) > 0.2 * severity
    bar = np.zeros((50, 28, 28, 1), np.uint8)
    bar[:, 4:24, 13:15] = 255
    for name, tangent in (("rotation", np.tan(np.deg2rad(10 * severity))), ("shear", 0.1 * severity)):
        slopes = []
        for one in made(name, severity, bar)[..., 0].astype(float):
            rows = one.sum(1) > 0.5 * one.sum(1).max()
            middle = (one @ np.arange(28))[rows] / one.sum(1)[rows]
            slopes.append(np.polyfit(np.flatnonzero(rows), middle, 1)[0])
        assert np.abs(slopes) == pytest.approx(tangent, rel=0.12, abs=0.01) and np.ptp(np.sign(slopes)) == 2


@pytest.mark.parametrize("severity", shifts.SEVERITIES)
def test_pixels(images: np.ndarray, severity: int) -> None:
    blurred = made("blur", severity, images)
    expected = scipy.ndimage.gaussian_filter(images[3, :, :, 0] * 1.0, 0.5 * severity, mode="constant")
    assert np.abs(blurred[3, :, :, 0] - expected).max() <= 0.51
    grey = np.full((20, 28, 28, 1), 128, np.uint8)
    added = made("noise", severity, grey).astype(float) - 128
    uncut = np.random.default_rng(1).normal(0, 20 * severity, 10**6).clip(-128, 127)
    assert added.std() == pytest.approx(uncut.std(), rel=0.03) and abs(added.mean()) < 2
    share = (0.8, 0.6, 0.4, 0.2, 0.1)[severity - 1]
    pale = made("contrast", severity, images).astype(float)
    assert pale.mean((1, 2, 3)) == pytest.approx(images.mean((1, 2, 3)), abs=0.5)
    assert pale.std((1, 2, 3)) == pytest.approx(share * images.std((1, 2, 3)), abs=0.5)
    white = np.full((2000, 28, 28, 1), 255, np.uint8)
    sides = np.sqrt((made("occlusion", severity, white) == 0).sum((1, 2, 3)))
    assert sides.max() == 2 + 2 * severity


def test_other_shapes_and_the_same_images_every_time() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3)).astype(np.uint8)
    first, second = (list(shifts.changed(colour)) for _ in range(2))
    assert [one[:2] for one in first] == [(name, n) for name in shifts.SHIFTS for n in range(1, 6)]
    for (_, _, one), (_, _, other) in zip(first, second, strict=True):
        assert (one == other).all() and one.shape == colour.shape and (one != colour).any()
    assert (next(iter(shifts.changed(colour[:1])))[2] == first[0][2][:1]).all()  # by position alone
    picture = Image.open(io.BytesIO(shifts.picture(colour[0])))
    assert picture.size == (3 * 6 * 24, 3 * 8 * 20) and picture.mode == "RGB"
