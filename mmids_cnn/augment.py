"""Random changes of the training images: affine maps, and squares that are cut out.

Each image draws its own numbers from the seed, the step and its place in the batch, so that no bit depends on
how a batch is cut, on where the data wait or on an interruption. The strengths are traced: a population may
sweep them.

From an image's numbers on all is integer arithmetic: compilers round sums of products differently in
different programs, and a place that is off by a rounding may round a pixel to another value.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, PRNGKeyArray, UInt8

from mmids_cnn import config as config_lib

# Binary digits after the point: of the entries of a matrix, of shifts, and of the places between pixels. All
# stay within 32 bits for images of up to 4,096 pixels a side, as entries are below 4 (scale <= 0.5, shear
# <= 1) and shifts at most 128.
_MATRIX, _SHIFT, _PLACE = 15, 8, 8


class Drawn(NamedTuple):
    """What some images have drawn, each number uniform in [-1, 1); `augment` multiplies by the strengths."""

    shift: Float[Array, "n 2"]  # down and to the right
    rotation: Float[Array, " n"]
    scale: Float[Array, " n"]
    shear: Float[Array, " n"]
    cutout: Float[Array, "n 3"]  # the square's centre, from edge to edge, and its side


def is_on(settings: config_lib.Augment) -> bool:
    """Whether any strength is above zero, so that the change of images is a part of the program."""
    return any(vars(settings).values())


def draw(key: PRNGKeyArray, position: Int32[Array, " n"]) -> Drawn:
    """What the images at some places of a batch draw.

    Args:
      key: of the step.
      position: of the images in the batch.
    """

    def one(place: Array) -> Drawn:
        u = jax.random.uniform(jax.random.fold_in(key, place), (8,), minval=-1.0)
        return Drawn(u[:2], u[2], u[3], u[4], u[5:])

    return jax.vmap(one)(position)


def augment(
    images: UInt8[Array, "n height width channels"], drawn: Drawn, h: Any
) -> UInt8[Array, "n height width channels"]:
    """The images changed as they have drawn; at strength 0 they are as they were, bit for bit.

    A pixel of the result is the bilinear mean of the four around the place it comes from, rounded; outside
    the image all is 0. Cutting out is by DeVries & Taylor (arXiv 1708.04552), with sides that vary.

    Args:
      images: of one size, at most 4,096 pixels a side.
      drawn: from `draw`, for as many images.
      h: traced strengths, those of the section `augment` of the configuration: `shift` and `cutout` in
        pixels, `rotation` in degrees, `scale` and `shear` as fractions.
    """
    size = images.shape[1], images.shape[2]
    changed = _bilinear(images, *_source(drawn, h, size))
    inside = jnp.ones((), bool)
    half = _fixed(h.cutout * (1 + drawn.cutout[:, 2]) / 4, _PLACE)
    for axis, length in enumerate(size):
        middle = _fixed((1 + drawn.cutout[:, axis]) / 2 * (length - 1), _PLACE)
        away = jnp.abs((jnp.arange(length) << _PLACE) - middle[:, None])
        near = jnp.expand_dims(away < half[:, None], 2 - axis)
        inside &= near
    return jnp.where(inside[..., None], 0, changed)


def _fixed(number: Array, digits: int) -> Array:
    """A number as an integer, with so many binary digits after the point."""
    return jnp.round(number * 2**digits).astype(jnp.int32)


def _source(drawn: Drawn, h: Any, size: tuple[int, int]) -> tuple[Array, Array]:
    """Where each pixel comes from: rows and columns, `[n, height, width]`, `_PLACE` digits after the point.

    An image is sheared (columns move with the row), scaled and rotated (counter-clockwise) about its centre,
    then shifted. This is the inverse of that map.
    """
    angle = jnp.deg2rad(h.rotation * drawn.rotation)
    zoom = 1 + _fixed(h.scale * drawn.scale, _MATRIX) / 2**_MATRIX
    cos, sin = _fixed(jnp.cos(angle) / zoom, _MATRIX), _fixed(jnp.sin(angle) / zoom, _MATRIX)
    shear = _fixed(h.shear * drawn.shear, _MATRIX - 1)

    def sheared(entry: Array) -> Array:  # by factors that stay within 32 bits
        return (shear * (entry >> 3)) >> (_MATRIX - 4)

    matrix = (cos, sin), (-sin - sheared(cos), cos - sheared(sin))  # rows, columns from down, right
    shift = _fixed(h.shift * drawn.shift, _SHIFT)
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
