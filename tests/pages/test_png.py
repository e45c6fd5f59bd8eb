"""Pixels as PNG, read back by Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from mmids_cnn.pages import png


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_what_was_given(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(20, 24, channels), dtype=np.uint8)
    found = np.asarray(Image.open(io.BytesIO(png.png(pixels))))
    assert np.array_equal(found.reshape(pixels.shape), pixels)


def test_other_channels_are_shown_by_their_mean() -> None:
    pixels = np.full((2, 3, 5), (10, 20, 30, 40, 50), np.uint8)
    assert np.all(np.asarray(Image.open(io.BytesIO(png.png(pixels)))) == 30)
