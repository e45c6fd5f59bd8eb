"""Pictures of real digits in all their forms: read as MNIST would have them, or refused in one line."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmids_cnn.deploy import pictures
from mmids_cnn.errors import DataError
from tests.support import idx_files

GREY = (28, 28, 1)
DIGITS = [digit for digit in idx_files.digits(1, 40)["test", "images"] if digit.max() == 255][:20]
SEVEN = DIGITS[0]  # the first test image; no symmetry


def load(path: Path, picture: Image.Image | bytes, **options: Any) -> np.ndarray:
    """What becomes of a picture saved under a name, without its channel."""
    if isinstance(picture, bytes):
        path.write_bytes(picture)
    else:
        picture.save(path, **options)
    image = pictures.load(path, GREY)
    assert (image.shape, image.dtype) == (GREY, np.uint8)
    return image[..., 0]


def refused(path: Path, shape: tuple[int, ...] = GREY) -> str:
    """The message with which a picture is refused: one line that names the file."""
    with pytest.raises(DataError) as caught:
        pictures.load(path, shape)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert "\n" not in message
    return message


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def on_black(digit: np.ndarray, width: int, height: int, left: int, top: int) -> Image.Image:
    picture = Image.new("L", (width, height))
    picture.paste(Image.fromarray(digit), (left, top))
    return picture


def enlarged(digit: np.ndarray, times: int = 10) -> Image.Image:
    return Image.fromarray(digit.repeat(times, 0).repeat(times, 1))


@pytest.mark.parametrize("digit", DIGITS, ids=range(20))
@pytest.mark.parametrize("inverted", [False, True])
def test_picture_of_the_right_size_passes_unchanged(
    tmp_path: Path, digit: np.ndarray, inverted: bool
) -> None:
    shown = 255 - digit if inverted else digit
    np.testing.assert_array_equal(load(tmp_path / "digit.png", Image.fromarray(shown)), digit)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digit.bmp", {}),
        ("digit.gif", {}),
        ("digit.tif", {}),
        ("digit.pgm", {}),
        ("digit.webp", {"lossless": True}),
        ("digit", {"format": "PNG"}),
        ("digit.jpg", {"format": "PNG"}),  # content decides, not the name
    ],
)
def test_file_formats(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(load(tmp_path / name, Image.fromarray(SEVEN), **options), SEVEN)


def with_alpha(colour: int, digit: np.ndarray) -> Image.Image:
    return Image.fromarray(np.stack([np.full_like(digit, colour)] * 3 + [digit], -1))


MODES: dict[str, Callable[[np.ndarray], Image.Image]] = {
    "rgb": lambda digit: Image.fromarray(digit).convert("RGB"),
    "rgb inverted": lambda digit: Image.fromarray(255 - digit).convert("RGB"),
    "rgba": lambda digit: Image.fromarray(digit).convert("RGBA"),
    "la": lambda digit: Image.fromarray(digit).convert("LA"),
    "palette": lambda digit: Image.fromarray(digit).convert("P"),
    "quantized": lambda digit: Image.fromarray(digit).convert("RGB").quantize(256),
    "16 bits": lambda digit: Image.fromarray(digit.astype(np.uint16) * 257),
    "16 bits inverted": lambda digit: Image.fromarray((255 - digit).astype(np.uint16) * 257),
    "16 bits, low": lambda digit: Image.fromarray(digit.astype(np.uint16)),  # a part of the range
    "black ink on nothing": lambda digit: with_alpha(0, digit),
    "black ink on nothing, la": lambda digit: with_alpha(0, digit).convert("LA"),
}
UNDO: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # of EXIF's orientations, by its standard
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(np.transpose(a), 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(tmp_path: Path, mode: str) -> None:
    for digit in DIGITS:
        np.testing.assert_array_equal(load(tmp_path / "digit.png", MODES[mode](digit)), digit)


def test_black_and_white(tmp_path: Path) -> None:
    expected = np.where(SEVEN >= 128, 255, 0)
    picture = Image.fromarray(expected.astype(np.uint8)).convert("1")
    np.testing.assert_array_equal(load(tmp_path / "digit.png", picture), expected)


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    ink = (SEVEN >= 128).astype(np.uint8)
    picture = Image.fromarray(ink, "P")
    picture.putpalette([255, 0, 0, 0, 0, 0])  # 0, red but transparent; 1, black
    np.testing.assert_array_equal(load(tmp_path / "digit.gif", picture, transparency=0), 255 * ink)


def test_colours_are_weighed_as_the_eye_does(tmp_path: Path) -> None:
    colour = np.zeros((28, 28, 3), np.uint8)
    colour[10:18, 10:18] = (0, 255, 0)
    image = load(tmp_path / "green.png", Image.fromarray(colour))
    assert image[14, 14] == 150  # 0.587 of 255, ITU-R 601


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_jpeg(tmp_path: Path, mode: str) -> None:
    for digit in DIGITS:
        picture = Image.fromarray(255 - digit).convert("RGB").convert(mode)
        image = load(tmp_path / "digit.jpg", picture, quality=95)
        assert np.abs(image.astype(int) - digit).mean() < 6


@pytest.mark.parametrize("orientation", UNDO)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(UNDO[orientation](SEVEN)))
    np.testing.assert_array_equal(load(tmp_path / "digit.png", stored, exif=exif), SEVEN)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_tiff_that_is_stored_on_its_side(tmp_path: Path, compression: str, orientation: int) -> None:
    """Of an uncompressed one Pillow 13 mixes up the pixels."""
    stored = np.ascontiguousarray(UNDO[orientation](np.repeat(SEVEN, 2, axis=0)))
    path, tags = tmp_path / "digit.tif", {0x0112: orientation}
    Image.fromarray(stored).save(path, compression=compression, tiffinfo=tags)
    if compression == "raw":
        assert refused(path).endswith("cannot be read right; save it as PNG")
    else:
        Image.fromarray(np.repeat(SEVEN, 2, axis=0)).save(tmp_path / "digit.png")
        np.testing.assert_array_equal(pictures.load(path, GREY), pictures.load(tmp_path / "digit.png", GREY))


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(digit) for digit in DIGITS[:3]]
    image = load(tmp_path / "digits.gif", frames[0], save_all=True, append_images=frames[1:], duration=50)
    np.testing.assert_array_equal(image, DIGITS[0])


@pytest.mark.parametrize("times", [2, 10, 40])
def test_enlarged_digit_comes_back(tmp_path: Path, times: int) -> None:
    """MNIST's digits were fitted and centred like this, so that doing it again changes them little."""
    for digit in DIGITS:
        image = load(tmp_path / "digit.png", enlarged(digit, times))
        assert np.abs(image.astype(int) - digit).mean() < 5  # shifted by a pixel it is over 10
        assert np.corrcoef(image.ravel(), digit.ravel())[0, 1] > 0.95


def test_fitted_digit_is_centred_and_fills_its_box(tmp_path: Path) -> None:
    """The centre of mass of every image of MNIST lies within half a pixel of (14, 14)."""
    images = idx_files.digits(1, 1000)["test", "images"]
    centres = [images.sum(3 - axis) @ np.arange(28) / images.sum((1, 2)) for axis in (1, 2)]
    np.testing.assert_allclose(centres, 14, atol=0.51)
    for digit in DIGITS:
        image = load(tmp_path / "digit.png", enlarged(digit, 7)).astype(float)
        rows, columns = np.nonzero(image > 25)
        assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 20
        for axis in (0, 1):
            centre = image.sum(1 - axis) @ np.arange(28) / image.sum()
            assert centre == pytest.approx(14, abs=0.51)


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize(
    ("width", "height", "left", "top"), [(400, 400, 0, 100), (300, 900, 10, 600), (1000, 290, 700, 5)]
)
def test_place_on_the_page_and_shape_of_the_page_do_not_matter(
    tmp_path: Path, width: int, height: int, left: int, top: int, invert: bool
) -> None:
    big = np.asarray(enlarged(SEVEN))
    expected = load(tmp_path / "plain.png", Image.fromarray(big))
    page = on_black(big, width, height, left, top)
    shown = Image.fromarray(255 - np.asarray(page)) if invert else page
    image = load(tmp_path / "page.png", shown)
    # Paper is estimated, and faint edges of strokes can be taken for it; moved by a pixel it is over 10.
    assert np.abs(image.astype(int) - expected).mean() < 0.1


def test_faint_ink_on_grey_paper(tmp_path: Path) -> None:
    page = (190 - 0.4 * np.asarray(enlarged(SEVEN), float)).astype(np.uint8)
    expected = load(tmp_path / "plain.png", enlarged(SEVEN)).astype(int)
    assert np.abs(load(tmp_path / "page.png", Image.fromarray(page)).astype(int) - expected).mean() < 3


@pytest.mark.parametrize("size", [(28, 28), (1, 1), (1, 500), (500, 1), (100, 100)])
@pytest.mark.parametrize("grey", [0, 90, 255])
def test_blank_picture_has_no_ink(tmp_path: Path, size: tuple[int, int], grey: int) -> None:
    """White is paper, black is MNIST's; a grey one of the right size passes unchanged as any other."""
    path, said = tmp_path / "blank.png", list[str]()
    image = load(path, Image.new("L", size, grey))
    assert set(image.flat) == {grey if size == (28, 28) and grey < 128 else 0}
    pictures.load(path, GREY, said.append)
    blank = "a blank picture, as transparent parts count as white"
    reason = "1x1 pixels show too little" if size == (1, 1) else blank
    assert said == [f"{path}: {reason}; its class means nothing"]


@pytest.mark.parametrize("size", [(2, 2), (1, 3), (3, 1), (1000, 2), (2, 1000)])
def test_tiny_and_thin_pictures(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.zeros(size[::-1], np.uint8)
    pixels.flat[0] = 255
    path, said = tmp_path / "dot.png", list[str]()
    assert load(path, Image.fromarray(pixels)).any()
    pictures.load(path, GREY, said.append)
    few = max(size) < 14
    assert said == [f"{path}: {size[0]}x{size[1]} pixels show too little; its class means nothing"] * few


@pytest.mark.parametrize("sd", [10, 30])
def test_page_with_nothing_but_noise_on_it_has_no_digit(tmp_path: Path, sd: float) -> None:
    page = 150 + sd * np.random.default_rng(0).standard_normal((480, 640))
    path, said = tmp_path / "page.png", list[str]()
    assert not load(path, Image.fromarray(np.clip(page, 0, 255).astype(np.uint8))).any()
    pictures.load(path, GREY, said.append)
    assert said == [f"{path}: expected a digit, found none; its class means nothing"]
    with pytest.raises(DataError, match=f"{path}: expected digits, found none"):
        pictures.load_many(path, GREY)


@pytest.mark.parametrize("times", [4, 20])  # one is looked at as it is, the other in 1/3 of its pixels
def test_many_digits_are_read_from_left_to_right(tmp_path: Path, times: int) -> None:
    """Each has the box of its ink, and is the image that a page of its own gives."""
    page = np.zeros((40, 150), np.uint8)
    boxes = []
    for index, digit in enumerate(DIGITS[:5]):
        top, left = (index * 5) % 12, 30 * index
        page[top : top + 28, left : left + 28] = digit
        rows, columns = np.flatnonzero((digit > 38).any(1)), np.flatnonzero((digit > 38).any(0))
        box = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
        boxes.append([times * side for side in box])
    path = tmp_path / "page.png"
    enlarged(255 - page, times).save(path)
    found = pictures.load_many(path, GREY)
    np.testing.assert_allclose([digit.box for digit in found], boxes, atol=3)
    for digit, alone in zip(found, DIGITS, strict=False):
        expected = load(tmp_path / "alone.png", enlarged(alone, times)).astype(int)
        assert np.abs(digit.image[..., 0] - expected).mean() < 2


def test_one_digit_of_the_right_size_is_many(tmp_path: Path) -> None:
    Image.fromarray(255 - SEVEN).save(tmp_path / "digit.png")
    ((box, image),) = pictures.load_many(tmp_path / "digit.png", GREY)
    assert box == (0, 0, 28, 28)
    np.testing.assert_array_equal(image[..., 0], SEVEN)


@pytest.mark.parametrize("channels", [1, 3])
def test_sheet_shows_each_pixel_as_a_square(channels: int) -> None:
    images = [np.stack([digit] * channels, -1) for digit in DIGITS[:3]]
    shown = np.asarray(Image.open(io.BytesIO(pictures.sheet(images))))
    assert shown.shape == (8 * 28, 8 * (3 * 28 + 2), *[3] * (channels == 3))
    for index, image in enumerate(images):
        squares = shown[:, 8 * 29 * index :][:, : 8 * 28].reshape(28, 8, 28, 8, channels)
        assert (squares == image[:, None, :, None]).all()


def test_colour_network_gets_colours(tmp_path: Path) -> None:
    colours = np.zeros((64, 64, 3), np.uint8)
    colours[:, 32:] = (10, 200, 90)
    Image.fromarray(colours).save(tmp_path / "two.png")
    image = pictures.load(tmp_path / "two.png", (32, 24, 3))
    assert image.shape == (32, 24, 3)
    assert tuple(image[5, 2]) == (0, 0, 0)
    assert tuple(image[5, -2]) == (10, 200, 90)


def test_network_of_other_channels_is_refused(tmp_path: Path) -> None:
    Image.fromarray(SEVEN).save(tmp_path / "digit.png")
    assert "1 or 3 channels, found one for 2" in refused(tmp_path / "digit.png", (28, 28, 2))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_truncated_picture(tmp_path: Path, form: str, share: float) -> None:
    whole = encoded(Image.effect_noise((40, 40), 100), form)
    path = tmp_path / "cut"
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path)


@pytest.mark.parametrize("form", pictures.FORMATS)
def test_random_damage_is_refused_or_read(tmp_path: Path, form: str) -> None:
    whole = encoded(enlarged(SEVEN, 2).convert("RGB"), form)
    choose = random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(choose.randint(1, 3)):
            damaged[choose.randrange(len(damaged))] = choose.randrange(256)
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            assert pictures.load(tmp_path / "damaged", GREY).shape == GREY
        except DataError as error:
            assert "\n" not in str(error)


def test_program_of_another_language_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "digit.png").write_bytes(encoded(Image.fromarray(SEVEN), "EPS"))
    assert "found another kind of file" in refused(tmp_path / "digit.png")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0"]),
)
def test_bytes_that_are_no_picture(tmp_path: Path, content: bytes, magic: bytes) -> None:
    (tmp_path / "bytes").write_bytes(magic + content)
    refused(tmp_path / "bytes")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("missing.png", "expected a picture file, found none"),
        ("folder", "expected a picture file, found a folder"),
        ("text.png", "found another kind of file"),
        ("empty.png", "found an empty file"),
        (f"{'a' * 300}.png", "File name too long"),
    ],
)
def test_no_picture(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    assert found in refused(tmp_path / name)


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header announces a size, with hardly any content."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "size", [(7072, 7071), (10_000, 10_000), (2**31 - 1, 2**31 - 1), (1, 60_000_000), (49_000_000, 1)]
)
def test_decompression_bomb(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of(*size))
    message = refused(tmp_path / "bomb.png")
    assert "expected a picture of 1 to 50,000,000 pixels" in message
    assert message.endswith("scale it down")


def test_picture_whose_metadata_alone_are_damaged(tmp_path: Path) -> None:
    """Phones write such files; Pillow warns of them and reads them."""
    whole = encoded(Image.fromarray(SEVEN), "JPEG", quality=95)
    expected = load(tmp_path / "whole.jpg", whole)
    for tag, content in (
        (b"\xff\xe2", b"MPF\0II*\0\x08\0\0\0\0\0"),
        (b"\xff\xe1", b"Exif\0\0II*\0\x08\0\0\0\x05\0"),
    ):
        segment = tag + struct.pack(">H", len(content) + 2) + content
        np.testing.assert_array_equal(load(tmp_path / "odd.jpg", whole[:2] + segment + whole[2:]), expected)


def test_lab_colours(tmp_path: Path) -> None:
    lab = np.stack([SEVEN, np.full_like(SEVEN, 0), np.full_like(SEVEN, 0)], -1)
    path = tmp_path / "digit.tif"
    Image.fromarray(lab, "LAB").save(path)
    try:
        image = pictures.load(path, GREY)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert np.corrcoef(image.ravel(), SEVEN.ravel())[0, 1] > 0.9


def test_floating_point_picture(tmp_path: Path) -> None:
    values = SEVEN.astype(np.float32) / 255 - 3
    np.testing.assert_array_equal(load(tmp_path / "digit.tif", Image.fromarray(values)), SEVEN)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "nan.tif")
    refused(tmp_path / "nan.tif")
