"""Pictures of any kind as images of a data set's shape."""

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageDraw, ImageOps, UnidentifiedImageError

from mmids_cnn.deploy import ink
from mmids_cnn.errors import DataError
from mmids_cnn.pages import png

MAX_PIXELS, MAX_SIDE = 50_000_000, 65_535  # a larger picture is refused before it is decoded
# Pillow reads many more, one of them (EPS) by running a program on the file's content.
FORMATS = ("BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_BOX = 20 / 28  # MNIST's digits were fitted into 20x20 of 28x28 pixels, then centred by mass
FRAME = (214, 96, 36)  # the colour around a digit: orange
_SIDE = 1024  # pixels that a page is looked at in: strokes are as clear in them, and its noise is less


class Digit(NamedTuple):
    """A digit on a page.

    Attributes:
      box: left, top, right and bottom of its ink in the picture's pixels; the last two are just outside.
      image: as a network reads it.
    """

    box: tuple[int, int, int, int]
    image: UInt8[np.ndarray, "height width channels"]


def load(
    path: Path, shape: tuple[int, ...], warn: Callable[[str], None] = lambda message: None
) -> UInt8[np.ndarray, "height width channels"]:
    """A picture file as an image that a network trained on images of `shape` can read.

    One-channel data is taken to be MNIST-like: white ink on black. A picture is turned to grey. One that has
    the right size is inverted if its border is light; of any other the ink is fitted into 20/28 of the side
    and centred by mass, as MNIST's own images were (LeCun et al., Proc. IEEE 86, 1998, section III-A).
    Three-channel data is scaled.

    Args:
      path: a file of one of FORMATS; transparent parts count as white, of an animation the first frame
        is taken, EXIF rotation is applied.
      shape: height, width, channels.
      warn: told of a picture that shows nothing, or is too small to show much.

    Returns:
      The image.

    Raises:
      DataError: the file is missing, is no picture, is damaged, too large or empty.
    """
    coloured = _coloured(path, shape)
    height, width, channels = shape
    shades = max(high - low for low, high in np.atleast_2d(coloured.getextrema()))
    nothing = "its class means nothing"
    if 2 * max(coloured.size) < max(height, width):
        warn(f"{path}: {coloured.width}x{coloured.height} pixels show too little; {nothing}")
    elif shades < ink.SHADES:
        warn(f"{path}: a blank picture, as transparent parts count as white; {nothing}")
    if channels == 3:
        return np.asarray(coloured.resize((width, height), Image.Resampling.LANCZOS), np.uint8)
    if coloured.size == (width, height):
        return _white_on_black(coloured)
    levels, labels = ink.strokes(_reduced(coloured, _factor(coloured)))
    digits = ink.digits(labels)
    if digits:
        return _fit(levels[ink.around([box for box, _ in digits])], height, width)
    if shades >= ink.SHADES:
        warn(f"{path}: expected a digit, found none; {nothing}")
    return np.zeros(shape, np.uint8)


def load_many(path: Path, shape: tuple[int, ...]) -> list[Digit]:
    """The digits on a page that are beside each other, from left to right, each as `load` has one alone.

    Raises:
      DataError: as of `load`, or there is no digit.
    """
    coloured = _coloured(path, shape)
    height, width, _ = shape
    if coloured.size == (width, height):
        return [Digit((0, 0, width, height), _white_on_black(coloured))]
    factor, found = _factor(coloured), list[Digit]()
    levels, labels = ink.strokes(_reduced(coloured, factor))
    for (rows, columns), numbers in ink.digits(labels):
        own = np.where(np.isin(labels[rows, columns], numbers), levels[rows, columns], 0)
        left, right, top, bottom = (factor * x for side in (columns, rows) for x in (side.start, side.stop))
        box = left, top, min(right, coloured.width), min(bottom, coloured.height)
        found.append(Digit(box, _fit(own, height, width)))
    if not found:
        raise DataError(f"{path}: expected digits, found none; write dark on light paper, or light on dark")
    return found


def boxed(path: Path, boxes: Sequence[tuple[int, int, int, int]]) -> UInt8[np.ndarray, "h w 3"]:
    """A page, 1,024 pixels to a side at most, with a frame around each box; see `Digit`."""
    page = _coloured(path, (0, 0, 3))
    factor = _factor(page)
    page = page.reduce(factor)
    width = 1 + max(page.size) // 300
    for left, top, right, bottom in boxes:
        corners = left // factor - width, top // factor - width, right // factor, bottom // factor
        ImageDraw.Draw(page).rectangle([max(0, side) for side in corners], outline=FRAME, width=width)
    return np.asarray(page, np.uint8)


def sheet(
    images: Sequence[UInt8[np.ndarray, "height width channels"]],
    pages: Sequence[UInt8[np.ndarray, "h w 3"]] = (),
) -> bytes:
    """Images beside one another, enlarged so that each pixel is a square, as a PNG file; pages above them."""
    gap = np.full((images[0].shape[0], 1, images[0].shape[2]), 128, np.uint8)
    row = np.concatenate([part for image in images for part in (gap, image)][1:], axis=1)
    row = row.repeat(8, 0).repeat(8, 1)
    if not pages:
        return png.png(row)
    rows = [*pages, np.broadcast_to(row, (*row.shape[:2], 3))]
    across = max(one.shape[1] for one in rows)
    return png.png(
        np.concatenate(
            [np.pad(one, ((0, 8), (0, across - one.shape[1]), (0, 0)), constant_values=128) for one in rows]
        )
    )


def _decode(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # phones write damaged metadata around whole pictures
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as file:
                if math.prod(file.size) > MAX_PIXELS or max(file.size) > MAX_SIDE or 0 in file.size:
                    raise DataError(
                        f"{path}: expected a picture of 1 to {MAX_PIXELS:,} pixels, {MAX_SIDE:,} to a side, "
                        f"found {file.size[0]}x{file.size[1]}; scale it down"
                    )
                turned = file.getexif().get(ExifTags.Base.Orientation, 1) >= 5
                if file.format == "TIFF" and turned and file.info.get("compression") == "raw":
                    raise DataError(  # Pillow takes width for height there
                        f"{path}: expected a picture, found an uncompressed TIFF stored on its side, which "
                        "cannot be read right; save it as PNG"
                    )
                picture = ImageOps.exif_transpose(file)
                picture.load()
    except FileNotFoundError:
        raise DataError(f"{path}: expected a picture file, found none") from None
    except IsADirectoryError:
        raise DataError(f"{path}: expected a picture file, found a folder") from None
    except UnidentifiedImageError:
        empty = not path.stat().st_size
        other = "an empty file" if empty else "another kind of file, or a picture without pixels"
        raise DataError(f"{path}: expected a picture ({', '.join(FORMATS)}), found {other}") from None
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path}: expected a picture of 1 to {MAX_PIXELS:,} pixels, found: {error}; scale it down"
        ) from None
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise DataError(f"{path}: expected a whole picture, found: {error}; replace it") from error
    if picture.mode.startswith(("I", "F")):  # 16 or 32 bits: stretch the range that is used
        values = np.asarray(picture, np.float64)
        if not np.isfinite(values).all():
            raise DataError(f"{path}: expected a picture of finite values, found others; replace it")
        low, high = float(values.min()), float(values.max())
        return Image.fromarray(np.rint((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture


def _coloured(path: Path, shape: tuple[int, ...]) -> Image.Image:
    """A picture in the colours that a network reads: grey or RGB."""
    picture, channels = _decode(path), shape[-1]
    if channels not in (1, 3):
        raise DataError(f"{path}: expected a network for 1 or 3 channels, found one for {channels}")
    try:
        return picture.convert("RGB" if channels == 3 else "L")
    except ValueError as error:
        raise DataError(
            f"{path}: expected grey, RGB or CMYK colours, found {picture.mode}; save it as RGB"
        ) from error


def _factor(page: Image.Image) -> int:
    return math.ceil(max(page.size) / _SIDE)


def _reduced(page: Image.Image, factor: int) -> Float[np.ndarray, "h w"]:
    """A page of which each pixel is the mean of a square of them."""
    return np.asarray(page.reduce(factor), np.float32)


def _white_on_black(picture: Image.Image) -> UInt8[np.ndarray, "height width 1"]:
    grey = np.asarray(picture, np.uint8)[..., None]
    edges = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    return 255 - grey if edges.mean() > 127.5 else grey


def _fit(levels: Float[np.ndarray, "h w"], height: int, width: int) -> UInt8[np.ndarray, "height width 1"]:
    """Ink that fills its box, scaled and centred by mass on black."""
    scale = _BOX * min(height / levels.shape[0], width / levels.shape[1])
    size = [max(1, round(side * scale)) for side in levels.shape]
    picture = Image.fromarray(np.rint(levels).astype(np.uint8))
    small = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.LANCZOS), np.uint8)
    mass = max(float(small.sum()), 1)
    centre = [(small.sum(1 - axis) @ np.arange(size[axis])) / mass for axis in (0, 1)]
    top, left = (
        int(np.clip(round(side / 2 - c), 0, side - s))  # where MNIST has its centres: at pixel 14 of 28
        for side, c, s in zip((height, width), centre, size, strict=True)
    )
    canvas = np.zeros((height, width, 1), np.uint8)
    canvas[top : top + size[0], left : left + size[1], 0] = small
    return canvas
