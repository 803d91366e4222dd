"""Decodes image files, whatever they hold, to RGB."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# What Pillow may try: a format outside this list is reported, not loaded.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
IMAGE_SIZE = (64, 64)
# A picture of more pixels is refused before memory is taken for it.
MAX_PIXELS = 1 << 26


def decode_image(
    data: bytes, image_size: tuple[int, int] | None = IMAGE_SIZE
) -> npt.NDArray[np.uint8]:
    """Decodes an image file wholly, to RGB.

    Grey, palette, CMYK, 16-bit and transparent images become RGB.

    Args:
        data: The file's bytes: JPEG, PNG, BMP, GIF (first frame) or WebP.
        image_size: `(height, width)` to resize to (bilinear), or `None`.

    Returns:
        uint8 array `(height, width, 3)`.

    Raises:
        ValueError: If the data are empty, damaged, of another format, or
            claim more than 67 million pixels.
    """
    from PIL.Image import Resampling

    if not data:
        raise ValueError("the file is empty")
    rgb = _decode_plain_jpeg(data)
    if rgb is None:
        rgb = _decode_any(data)
    if image_size is not None and rgb.size != image_size[::-1]:
        rgb = rgb.resize(image_size[::-1], Resampling.BILINEAR)
    return np.asarray(rgb)


def _decode_plain_jpeg(data: bytes) -> Any:
    """Decodes a JPEG as Tiny ImageNet has them, with little Python around it.

    For 64x64 pixels, the Python in `Image.open` takes as long as the decoder, and
    holds the interpreter's lock, for which threads wait. This reads size and mode,
    which is all that the decoder has to be told.

    Returns:
        RGB `PIL.Image.Image`, or `None` for whatever is not quite plain or not quite
        right: `_decode_any` knows what to do with it, or what to say.
    """
    from PIL import Image

    try:
        mode, size = _plain_jpeg_head(data)
        if not 0 < size[0] * size[1] <= MAX_PIXELS:
            return None
        image = Image.frombytes(mode, size, data, "jpeg", mode, "")
    except Exception:  # the decoder raises all kinds on bad data
        return None
    return image if mode == "RGB" else image.convert("RGB")


def _plain_jpeg_head(data: bytes) -> tuple[str, tuple[int, int]]:
    """Returns the mode and `(width, height)`; any error where the head is not plain."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG")
    place, found = 2, None
    while True:
        marker, length = struct.unpack_from(">HH", data, place)
        if marker in (0xFFC0, 0xFFC2):  # the frame, baseline or progressive
            height, width, layers = struct.unpack_from(">HHB", data, place + 5)
            found = {1: "L", 3: "RGB"}[layers], (width, height)
        elif marker == 0xFFDA and found is not None:  # the pixels
            return found
        elif marker == 0xFFE0 and length < 16:
            raise ValueError("short JFIF head")
        elif marker not in (0xFFE0, 0xFFC4, 0xFFDB):  # JFIF, Huffman, quantization
            raise ValueError("EXIF, colour profile, comment or the like")
        place += 2 + length


def _decode_any(data: bytes) -> Any:
    """Decodes an image of any of our formats to an RGB `PIL.Image.Image`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it claims {image.width} x {image.height} pixels")
            if image.mode.startswith("I"):  # 16 bits a pixel: keep the upper 8
                high = (np.asarray(image, np.int64) >> 8).clip(0, 255)
                return Image.fromarray(high.astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"not a {', '.join(IMAGE_FORMATS)} image") from None
    except Exception as error:  # Pillow's decoders raise all kinds on bad data
        raise ValueError(f"damaged image: {error}") from error


def read_image_file(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Reads one image file to RGB, naming it where it cannot be read."""
    try:
        return decode_image(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_whole(name: str, data: bytes) -> None:
    """Refuses what decodes and is yet not the file that its name says."""
    from PIL import Image

    suffix = Path(name).suffix.lower()
    expected = Image.registered_extensions().get(suffix)
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        if image.format != expected:
            raise ValueError(f"a {image.format} image with the suffix {suffix}")
        # Of a last scan without an end marker, decoders make up the rest.
        if image.format == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
            raise ValueError("damaged image: it has no end marker")
