"""Random changes of the training images: mirrored, affine maps, squares cut out, or functions of your own.

Each image draws its own numbers from the seed, the step and its place in the batch, so that no bit depends on
how a batch is cut, on where the data wait or on an interruption. Strengths are traced: a population may sweep
them. Where one is 0 its change is no part of the program, which is then another population's.

From an image's numbers on all is integer arithmetic: compilers round sums of products differently in
different programs, and a place that is off by a rounding may round a pixel to another value.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, PRNGKeyArray, UInt8

from mmids_cnn import config as config_lib
from mmids_cnn.errors import ConfigError
from mmids_cnn.settings import dotted

# Binary digits after the point: of the entries of a matrix, of shifts, and of the places between pixels. All
# stay within 32 bits for images of up to 4,096 pixels a side, as entries are below 4 (scale <= 0.5, shear
# <= 1) and shifts at most 128.
_MATRIX, _SHIFT, _PLACE = 15, 8, 8

Images = UInt8[Array, "n height width channels"]


def affine(keys: PRNGKeyArray, images: Images, h: Any) -> Images:
    """Images sheared, scaled, rotated about their centre and shifted, each by what it draws; see `moved`.

    Args:
      keys: one for each image.
      images: of one size, at most 4,096 pixels a side.
      h: `shift` in pixels, `rotation` in degrees, `scale` and `shear` as fractions: each number is drawn
        evenly between minus that and that.
    """
    return moved(images, _uniform(keys, 5), h)


def moved(images: Images, u: Float[Array, "n 5"], h: Any) -> Images:
    """Images sheared, scaled, rotated about their centre and shifted, by given shares of the strengths.

    A pixel of the result is the bilinear mean of the four around the place it comes from, rounded; outside
    the image all is 0.

    Args:
      images: of one size, at most 4,096 pixels a side.
      u: for each image the shares for shift down, shift to the right, rotation, scale and shear, -1 to 1.
      h: the strengths, as for `affine`.
    """
    return _bilinear(images, *_source(u, h, (images.shape[1], images.shape[2])))


def cutout(keys: PRNGKeyArray, images: Images, h: Any) -> Images:
    """Images with a square blackened, whose centre is anywhere and whose side is up to `h.cutout` pixels.

    DeVries & Taylor, arXiv 1708.04552, with sides that vary.
    """
    u = (1 + _uniform(keys, 3)) / 2
    half = _fixed(h.cutout * u[:, 2] / 2, _PLACE)
    inside = jnp.ones((), bool)
    for axis, length in enumerate(images.shape[1:3]):
        middle = _fixed(u[:, axis] * (length - 1), _PLACE)
        away = jnp.abs((jnp.arange(length) << _PLACE) - middle[:, None])
        # XLA computes a square root once for each row and column, what is cheaper again for each pixel. In
        # the loop over the pixels of an affine map that would take three times its own time.
        within = jnp.sqrt((away < half[:, None]).astype(jnp.float32)) > 0
        inside &= jnp.expand_dims(within, 2 - axis)
    return jnp.where(inside[..., None], 0, images).astype(images.dtype)


def flip(keys: PRNGKeyArray, images: Images, h: Any) -> Images:
    """Images mirrored left to right, each with the probability `h.flip`."""
    mirrored = (1 + _uniform(keys, 1)[:, 0]) / 2 < h.flip
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


Augmentation = Callable[[PRNGKeyArray, Images, Any], Images]
"""From a key for each image, images, and traced hyperparameters to images of the same shape and dtype."""

AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": flip,
    "affine": affine,
    "cutout": cutout,
}

_STRENGTHS = {
    "flip": ("flip",),
    "affine": ("shift", "rotation", "scale", "shear"),
    "cutout": ("cutout",),
}


def unused(settings: config_lib.Augment) -> list[str]:
    """The strengths above zero that nothing uses; a function of one's own may use any."""
    if any(map(dotted.is_dotted, settings.names)):
        return []
    without = [strengths for name, strengths in _STRENGTHS.items() if name not in settings.names]
    return [strength for strengths in without for strength in strengths if getattr(settings, strength)]


def active(settings: config_lib.Augment) -> tuple[str, ...]:
    """The names of what changes images at all: one of one's own, or one with a strength above zero."""
    return tuple(
        name
        for name in settings.names
        if name not in _STRENGTHS or any(getattr(settings, strength) for strength in _STRENGTHS[name])
    )


def augment(
    names: Sequence[str], key: PRNGKeyArray, position: Int32[Array, " n"], images: Images, h: Any
) -> Images:
    """The images as they are after some augmentations, one after another.

    Args:
      names: as in `config.augment.names`.
      key: of the step.
      position: of the images in the batch, by which each has keys of its own.
      images: as they are in the data.
      h: traced hyperparameters.

    Raises:
      ConfigError: one is of your own that raises, or gives something else.
    """
    for name in names:
        function, expected = dotted.look_up(AUGMENTATIONS, name, _LEAF), "a function that returns its images"
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))  # whatever else is done
        each = jax.vmap(lambda place, own=own: jax.random.fold_in(own, place))(position)
        changed = dotted.array(function, _LEAF, name, expected, images.shape, each, images, h)
        if changed.dtype != images.dtype:
            raise ConfigError(
                f"config.{_LEAF}: expected {expected}, {images.dtype}, got {changed.dtype} from {name!r}; "
                "correct it"
            )
        images = changed
    return images


_LEAF = "augment.names"


def _uniform(keys: PRNGKeyArray, count: int) -> Float[Array, "n count"]:
    """So many numbers for each key, each uniform in [-1, 1)."""
    return jax.vmap(lambda key: jax.random.uniform(key, (count,), minval=-1.0))(keys)


def _fixed(number: Array, digits: int) -> Array:
    """A number as an integer, with so many binary digits after the point."""
    return jnp.round(number * 2**digits).astype(jnp.int32)


def _source(u: Float[Array, "n 5"], h: Any, size: tuple[int, int]) -> tuple[Array, Array]:
    """Where each pixel comes from: rows and columns, `[n, height, width]`, `_PLACE` digits after the point.

    An image is sheared (columns move with the row), scaled and rotated (counter-clockwise) about its centre,
    then shifted down and to the right. This is the inverse of that map.

    Args:
      u: shift along the two axes, rotation, scale, shear, as shares of the strengths.
      h: the strengths.
      size: of an image.
    """
    angle = jnp.deg2rad(h.rotation * u[:, 2])
    zoom = 1 + _fixed(h.scale * u[:, 3], _MATRIX) / 2**_MATRIX
    cos, sin = _fixed(jnp.cos(angle) / zoom, _MATRIX), _fixed(jnp.sin(angle) / zoom, _MATRIX)
    shear = _fixed(h.shear * u[:, 4], _MATRIX - 1)

    def sheared(entry: Array) -> Array:  # by factors that stay within 32 bits
        return (shear * (entry >> 3)) >> (_MATRIX - 4)

    matrix = (cos, sin), (-sin - sheared(cos), cos - sheared(sin))  # rows, columns from down, right
    shift = _fixed(h.shift * u[:, :2], _SHIFT)
    twice = [2 * jnp.arange(length) - (length - 1) for length in size]  # from the middle, in half pixels
    places = []
    for (down, right), length in zip(matrix, size, strict=True):
        moved = ((down >> 3) * shift[:, 0] + (right >> 3) * shift[:, 1]) >> (_SHIFT - 4)
        place = (
            down[:, None, None] * twice[0][:, None]
            + right[:, None, None] * twice[1]
            - moved[:, None, None]
            + ((length - 1) << _MATRIX)
        )
        unit = _MATRIX + 1 - _PLACE
        places.append((place + (1 << (unit - 1))) >> unit)
    return places[0], places[1]


def _bilinear(images: Array, y: Array, x: Array) -> Array:
    """The images at some places, rounded to whole values; 0 outside."""
    n, height, width, channels = images.shape
    one = 1 << _PLACE
    # A frame of zeros, in which everything that lies further out is looked up.
    framed = jnp.pad(images, ((0, 0), (1, 2), (1, 2), (0, 0))).reshape(n, -1, channels)
    y, x = (jnp.clip(p + one, 0, (length + 1) * one) for p, length in ((y, height), (x, width)))
    corner = (y >> _PLACE) * (width + 3) + (x >> _PLACE)
    down, right = (y & (one - 1))[..., None], (x & (one - 1))[..., None]

    def at(rows: int, columns: int) -> Array:
        index = (corner + rows * (width + 3) + columns).reshape(n, -1, 1)
        taken = jnp.take_along_axis(framed, index, 1, mode="promise_in_bounds")
        return taken.reshape(images.shape).astype(jnp.int32)

    upper = at(0, 0) * (one - right) + at(0, 1) * right
    lower = at(1, 0) * (one - right) + at(1, 1) * right
    mean = upper * (one - down) + lower * down
    return ((mean + one * one // 2) >> (2 * _PLACE)).astype(jnp.uint8)
