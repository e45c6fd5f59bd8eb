"""Pictures made of pixels, as PNG: the same bytes for the same pixels."""

import base64
import struct
import zlib

import numpy as np
from jaxtyping import UInt8


def png(pixels: UInt8[np.ndarray, "height width channels"]) -> bytes:
    """Pixels as a PNG file (W3C, Portable Network Graphics): colour if there are three channels, else grey.

    Of another number of channels the mean is shown.
    """
    if pixels.shape[2] not in (1, 3):
        pixels = pixels.mean(-1, keepdims=True).astype(np.uint8)
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # 0: a row that is not predicted from others
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def source(pixels: UInt8[np.ndarray, "height width channels"]) -> str:
    """Pixels as the source of an `img`."""
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"
