"""Photographs of digits on paper: the network says of them what it says of the digits themselves."""

import dataclasses
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmids_cnn import data, loop, score
from mmids_cnn.deploy import pictures
from tests.support.suite import Vary

COUNT = 200
HEIGHT, WIDTH = 480, 640
Y, X = (side.astype(np.float32) for side in np.mgrid[-1 : 1 : 1j * HEIGHT, -1 : 1 : 1j * WIDTH])
SHADE = 30 * (0.6 * X + 0.4 * Y)  # 60 grey levels from corner to corner
VIGNETTE = (1 + 0.15 * (X**2 + Y**2)) ** -2  # of a lens, cos^4: 0.59 in the corners
RULED = np.where(np.arange(HEIGHT)[:, None] % 40 < 2, 190, 255)  # fainter than half of what ink is
NOISE = 10 * np.random.default_rng(0).standard_normal((HEIGHT, WIDTH), np.float32)


def noisy(page: np.ndarray) -> np.ndarray:
    return page + np.roll(NOISE, int(page.sum()) % NOISE.size)


STRESSORS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "dark on light": lambda page: page,
    "light on dark": lambda page: noisy((255 - page) * VIGNETTE + 30 + SHADE),
    "shade": lambda page: page - 30 + SHADE,
    "noise": noisy,
    "jpeg": lambda page: page,
    "vignette": lambda page: page * VIGNETTE,
    "ruled": lambda page: np.minimum(page, RULED),
    "all": lambda page: noisy(np.minimum(page, RULED) * VIGNETTE - 30 + SHADE),
}


@pytest.fixture(scope="module")
def said(vary: Vary, mnist: data.Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """What a network says of images that was trained for an epoch on all of MNIST."""
    few = data.Split(*(array[:COUNT] for array in mnist.splits["test"]))
    dataset = dataclasses.replace(mnist, splits=dict(mnist.splits) | {"test": few})
    *_, last = loop.fit(vary(num_epochs=1), dataset)
    network, variables = last.state.program.network, last.state.variables
    return lambda images: score.logits(network, variables, images).argmax(-1)


def written(digit: np.ndarray, choose: np.random.Generator) -> np.ndarray:
    """A digit somewhere on white paper, in ink that is not quite black, of a size of 2 to 10 cm on A4."""
    side = int(choose.integers(56, 320))
    big = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    page = np.full((HEIGHT, WIDTH), 225, np.float32)
    top, left = choose.integers(0, (HEIGHT - side, WIDTH - side))
    page[top : top + side, left : left + side] -= np.asarray(big, np.float32) * (160 / 255)
    return page


def row(digits: np.ndarray, choose: np.random.Generator) -> np.ndarray:
    """Digits beside each other, of sizes and in heights that differ."""
    page = np.full((HEIGHT, WIDTH), 225, np.float32)
    step = WIDTH // len(digits)
    for left, digit in zip(range(0, WIDTH, step), digits, strict=True):
        side, top = int(choose.integers(3 * step // 4, step)), int(choose.integers(80, 250))
        big = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
        page[top : top + side, left : left + side] -= np.asarray(big, np.float32) * (160 / 255)
    return page


def save(page: np.ndarray, path: Path) -> Path:
    picture = Image.fromarray(np.clip(np.rint(page), 0, 255).astype(np.uint8))
    picture.save(path, **({"quality": 50} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize("stressor", STRESSORS)
def test_a_photograph_is_read_as_the_digit_on_it(
    tmp_path: Path, mnist: data.Dataset, said: Callable[[np.ndarray], np.ndarray], stressor: str
) -> None:
    digits = mnist.splits["test"].images[:COUNT]
    choose, told = np.random.default_rng(1), list[str]()
    end = "jpg" if stressor in ("jpeg", "all") else "bmp"
    pages = [written(digit, choose) for digit in digits[..., 0]]

    def read(index: int) -> np.ndarray:
        path = save(STRESSORS[stressor](pages[index]), tmp_path / f"{index}.{end}")
        return pictures.load(path, mnist.image_shape, told.append)

    with futures.ThreadPoolExecutor(2) as pool:
        images = list(pool.map(read, range(COUNT)))
    agreement = np.mean(said(np.stack(images)) == said(digits))
    print(f"{stressor}: {agreement:.1%}")
    assert (agreement >= 0.95, told) == (True, [])


def test_many_digits_of_a_photograph_are_read_as_they_are(
    tmp_path: Path, mnist: data.Dataset, said: Callable[[np.ndarray], np.ndarray]
) -> None:
    digits, choose = mnist.splits["test"].images[:COUNT], np.random.default_rng(2)
    found = []
    for first, stressor in zip(range(0, COUNT, 5), 5 * list(STRESSORS.values()), strict=False):
        path = save(stressor(row(digits[first : first + 5, ..., 0], choose)), tmp_path / "row.bmp")
        found.append(pictures.load_many(path, mnist.image_shape))
    assert [len(one) for one in found] == [5] * 40
    images = np.stack([digit.image for one in found for digit in one])
    agreement = np.mean(said(images) == said(digits))
    print(f"many: {agreement:.1%}")
    assert agreement >= 0.95
