"""Test images changed in eight ways, five severities each, to see how well a network holds.

The idea is that of MNIST-C (Mu & Gilmer, arXiv 1906.02337); the images are made here, by formulas of our own.
Lengths are pixels of an image of 28 by 28, others in proportion to the shorter side. What an image draws
depends on the way, the severity and its position alone.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import UInt8

from mmids_cnn import augment
from mmids_cnn.pages import png

SEVERITIES = range(1, 6)

Images = UInt8[np.ndarray, "n height width channels"]


def shift(images: Images, severity: int, random: np.random.Generator) -> Images:
    """Moved by `severity` pixels in any direction, bilinear; black comes in."""
    angle = random.uniform(0, 2 * math.pi, len(images))
    u = np.zeros((len(images), 5))
    u[:, :2] = np.stack([np.sin(angle), np.cos(angle)], 1)
    return _moved(images, u, shift=severity * _unit(images))


def rotation(images: Images, severity: int, random: np.random.Generator) -> Images:
    """Turned by 10 degrees a severity, one way or the other, about the centre."""
    return _moved(images, _signs(images, 2, random), rotation=10.0 * severity)


def scale(images: Images, severity: int, random: np.random.Generator) -> Images:
    """Larger or smaller by a tenth a severity: scaled by 1 plus or minus 0.1 `severity`."""
    return _moved(images, _signs(images, 3, random), scale=0.1 * severity)


def shear(images: Images, severity: int, random: np.random.Generator) -> Images:
    """Sheared: each row moved by 0.1 `severity` of its distance from the middle, one way or the other."""
    return _moved(images, _signs(images, 4, random), shear=0.1 * severity)


def blur(images: Images, severity: int, random: np.random.Generator) -> Images:
    """Convolved with a Gaussian of standard deviation 0.5 `severity` pixels; black outside."""
    sd = 0.5 * severity * _unit(images)
    return _rounded(scipy.ndimage.gaussian_filter(images.astype(np.float32), (0, sd, sd, 0), mode="constant"))


def noise(images: Images, severity: int, random: np.random.Generator) -> Images:
    """Normal noise of standard deviation 20 `severity` levels of 255 added to each pixel, then cut off."""
    return _rounded(images + random.normal(0, 20 * severity, images.shape).astype(np.float32))


def contrast(images: Images, severity: int, random: np.random.Generator) -> Images:
    """Each pixel moved towards the image's mean m: m + c (v - m), c = 0.8, 0.6, 0.4, 0.2, 0.1."""
    mean = images.mean((1, 2, 3), dtype=np.float32, keepdims=True)
    return _rounded(mean + (0.8, 0.6, 0.4, 0.2, 0.1)[severity - 1] * (images - mean))


def occlusion(images: Images, severity: int, random: np.random.Generator) -> Images:
    """A black square, 2 + 2 `severity` pixels a side, centred anywhere in the image."""
    height, width = images.shape[1:3]
    half = (1 + severity) * _unit(images)
    middle = random.uniform(0, (height, width), (len(images), 2))
    inside = [
        abs(np.arange(length) + 0.5 - middle[:, axis, None]) < half
        for axis, length in enumerate((height, width))
    ]
    return np.where((inside[0][:, :, None] & inside[1][:, None])[..., None], np.uint8(0), images)


SHIFTS: dict[str, Callable[[Images, int, np.random.Generator], Images]] = {
    "shift": shift,
    "rotation": rotation,
    "scale": scale,
    "shear": shear,
    "blur": blur,
    "noise": noise,
    "contrast": contrast,
    "occlusion": occlusion,
}


def changed(images: Images) -> Iterator[tuple[str, int, Images]]:
    """The images in each way and severity: its name, the severity 1 to 5, and all images so changed."""
    for name, function in SHIFTS.items():
        for severity in SEVERITIES:
            random = np.random.default_rng([zlib.crc32(name.encode()), severity])
            yield name, severity, function(images, severity, random)


def picture(image: UInt8[np.ndarray, "height width channels"]) -> bytes:
    """A PNG of one image, enlarged, in each way (a row) and severity (a column, the first as it is)."""
    rows = [[image] for _ in SHIFTS]
    for index, (_, _, after) in enumerate(changed(image[None])):
        rows[index // len(SEVERITIES)].append(after[0])
    grid = np.concatenate([np.concatenate(row, 1) for row in rows])
    return png.png(grid.repeat(3, 0).repeat(3, 1))


def _unit(images: Images) -> float:
    return min(images.shape[1:3]) / 28


def _signs(images: Images, place: int, random: np.random.Generator) -> np.ndarray:
    u = np.zeros((len(images), 5))
    u[:, place] = random.choice((-1.0, 1.0), len(images))
    return u


def _moved(images: Images, u: np.ndarray, **strengths: float) -> Images:
    h = SimpleNamespace(**(dict.fromkeys(("shift", "rotation", "scale", "shear"), 0.0) | strengths))
    return np.asarray(augment.moved(jnp.asarray(images), jnp.asarray(u, jnp.float32), h))


def _rounded(pixels: np.ndarray) -> Images:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
