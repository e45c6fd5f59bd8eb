"""Pictures of any kind as images of a data set's shape."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mmids_cnn.errors import DataError

MAX_PIXELS, MAX_SIDE = 50_000_000, 65_535  # a larger picture is refused before it is decoded
# Pillow reads many more, one of them (EPS) by running a program on the file's content.
FORMATS = ("BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_BOX = 20 / 28  # MNIST's digits were fitted into 20x20 of 28x28 pixels, then centred by mass
_SHADES = 8  # of 256 between the darkest and the lightest pixel, below which a picture is blank
_INK = 0.1  # of the range of grey: what is darker than this is background


def load(
    path: Path, shape: tuple[int, ...], warn: Callable[[str], None] = lambda message: None
) -> UInt8[np.ndarray, "height width channels"]:
    """A picture file as an image that a network trained on images of `shape` can read.

    One-channel data is taken to be MNIST-like: white ink on black. A picture is turned to grey, inverted
    if its border is light, and, unless it has the right size already, its ink is fitted into 20/28 of the
    side and centred by mass, as MNIST's own images were (LeCun et al., Proc. IEEE 86, 1998, section III-A).
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
    picture = _decode(path)
    height, width, channels = shape
    if channels not in (1, 3):
        raise DataError(f"{path}: expected a network for 1 or 3 channels, found one for {channels}")
    coloured = _convert(path, picture, "RGB" if channels == 3 else "L")
    shades = max(high - low for low, high in np.atleast_2d(coloured.getextrema()))
    if 2 * max(coloured.size) < max(height, width):
        warn(f"{path}: {coloured.width}x{coloured.height} pixels show too little; its class means nothing")
    elif shades < _SHADES:
        warn(f"{path}: a blank picture, as transparent parts count as white; its class means nothing")
    if channels == 3:
        return np.asarray(coloured.resize((width, height), Image.Resampling.LANCZOS), np.uint8)
    grey = np.asarray(coloured, np.float32)
    if _border_mean(grey) > 127.5:
        grey = 255 - grey
    if grey.shape != (height, width):
        grey = _fit(grey, height, width)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None]


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
        raise DataError(
            f"{path}: expected a picture ({', '.join(FORMATS)}), found another kind of file"
        ) from None
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


def _convert(path: Path, picture: Image.Image, mode: str) -> Image.Image:
    try:
        return picture.convert(mode)
    except ValueError as error:
        raise DataError(
            f"{path}: expected grey, RGB or CMYK colours, found {picture.mode}; save it as RGB"
        ) from error


def _border_mean(grey: Float[np.ndarray, "h w"]) -> float:
    edges = (grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1])
    return float(np.concatenate(edges).mean())


def _fit(grey: Float[np.ndarray, "h w"], height: int, width: int) -> Float[np.ndarray, "height width"]:
    """Ink cut out, scaled into the box and centred by mass on black."""
    grey = grey - grey.min()
    ink = grey > _INK * max(grey.max(), 1)
    canvas = np.zeros((height, width), np.float32)
    if not ink.any():
        return canvas
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    cut = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] * (255 / grey.max())
    scale = _BOX * min(height / cut.shape[0], width / cut.shape[1])
    size = [max(1, round(side * scale)) for side in cut.shape]
    picture = Image.fromarray(cut.astype(np.uint8))
    small = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.LANCZOS), np.float32)
    mass = max(small.sum(), 1)
    centre = [(small.sum(1 - axis) @ np.arange(size[axis])) / mass for axis in (0, 1)]
    top, left = (
        int(np.clip(round(side / 2 - c), 0, side - s))  # where MNIST has its centres: at pixel 14 of 28
        for side, c, s in zip((height, width), centre, size, strict=True)
    )
    canvas[top : top + size[0], left : left + size[1]] = small
    return canvas
