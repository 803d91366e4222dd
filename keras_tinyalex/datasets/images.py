"""Decodes image files of several formats and modes to RGB."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import PathLike

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

# The formats that Pillow may try. Files of another format are refused.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
IMAGE_SIZE = (64, 64)
# Images with more pixels are refused before memory is allocated for them.
MAX_PIXELS = 1 << 26


def decode_image(
    data: bytes, image_size: tuple[int, int] | None = IMAGE_SIZE
) -> npt.NDArray[np.uint8]:
    """Decodes an image file to its last byte, to RGB.

    Grayscale, palette, CMYK, 16-bit and transparent images become RGB.

    Args:
        data: The file's bytes: JPEG, PNG, BMP, GIF (first frame) or WebP.
        image_size: `(height, width)` to resize to (bilinear), or `None` to
            keep the size. Defaults to `(64, 64)`.

    Returns:
        uint8 array `(height, width, 3)`.

    Raises:
        ValueError: If the data are empty, damaged, of another format, or
            declare more than 67 million pixels.
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


def _decode_plain_jpeg(data: bytes) -> PillowImage | None:
    """Decodes a JPEG like those of Tiny ImageNet, with little Python around it.

    For 64x64 pixels, the Python code in `Image.open` takes as long as the
    decoder, and it holds the GIL, for which the other threads wait. This
    function reads the size and mode only, which is all that the decoder needs.

    On 10,000 images of Tiny ImageNet it is 1.5 times as fast as `Image.open`
    on one thread (0.90 against 1.35 s) and 2.0 times as fast on two threads
    (0.68 against 1.38 s): medians of 5 alternating rounds on two cores with
    AVX-512. To repeat the measurement:
    `python tests/benchmarks/reading.py tiny-imagenet-20.zip`.

    Returns:
        An RGB image, or `None` if the file is not a plain JPEG or anything
        about it is unusual: `_decode_any` then decodes it or names the problem.
    """
    from PIL import Image

    try:
        mode, size = _read_jpeg_header(data)
        if not 0 < size[0] * size[1] <= MAX_PIXELS:
            return None
        image = Image.frombytes(mode, size, data, "jpeg", mode, "")
    except Exception:  # the decoder raises many types of errors on bad data
        return None
    return image if mode == "RGB" else image.convert("RGB")


def _read_jpeg_header(data: bytes) -> tuple[str, tuple[int, int]]:
    """Returns the mode and `(width, height)` of a plain JPEG.

    Raises:
        Exception: Of any type, if the header has anything but JFIF, tables
            and one frame of 1 or 3 components.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG")
    position, found = 2, None
    while True:
        marker, length = struct.unpack_from(">HH", data, position)
        if marker in (0xFFC0, 0xFFC2):  # SOF: baseline or progressive frame
            height, width, components = struct.unpack_from(">HHB", data, position + 5)
            found = {1: "L", 3: "RGB"}[components], (width, height)
        elif marker == 0xFFDA and found is not None:  # SOS: start of the pixels
            return found
        elif marker == 0xFFE0 and length < 16:
            raise ValueError("short JFIF header")
        elif marker not in (0xFFE0, 0xFFC4, 0xFFDB):  # JFIF, Huffman, quantization
            raise ValueError("EXIF, color profile, comment or the like")
        position += 2 + length


def _decode_any(data: bytes) -> PillowImage:
    """Decodes an image of any format in `IMAGE_FORMATS` to RGB."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it claims {image.width} x {image.height} pixels")
            if image.mode.startswith("I"):  # 16 bits per pixel: use the upper 8
                high = (np.asarray(image, np.int64) >> 8).clip(0, 255)
                return Image.fromarray(high.astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"not a {', '.join(IMAGE_FORMATS)} image") from None
    except Exception as error:  # Pillow raises many types of errors on bad data
        raise ValueError(f"damaged image: {error}") from error


def read_image_file(path: PathLike) -> npt.NDArray[np.uint8]:
    """Reads an image file as RGB, resized to 64x64 pixels.

    Args:
        path: Path of the file; see `decode_image` for the formats.

    Returns:
        uint8 array `(64, 64, 3)`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it cannot be decoded. The message names the file.
    """
    try:
        return decode_image(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_format(name: str, data: bytes) -> None:
    """Refuses an image that decodes but is not what its file name says.

    Args:
        name: File name or path with its suffix.
        data: Bytes of an image that `decode_image` accepts.

    Raises:
        ValueError: If the format is not that of the suffix, or a JPEG has no
            end marker.
    """
    from PIL import Image

    suffix = Path(name).suffix.lower()
    expected = Image.registered_extensions().get(suffix)
    with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        if image.format != expected:
            raise ValueError(f"a {image.format} image with the suffix {suffix}")
        # If the last scan has no end marker, decoders make up the missing pixels.
        if image.format == "JPEG" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
            raise ValueError("damaged image: it has no end marker")
