"""Reads an image file, in one way for every command and function."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

# The formats that are read, by suffix. What a file holds decides, not its suffix.
IMAGE_SUFFIXES = {
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
}
FORMAT_NAMES = "JPEG, PNG, BMP, GIF, WebP, AVIF or HEIC"
SIGNATURES = {b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"BM": "BMP", b"GIF8": "GIF"}
# The brands of the files that are made of boxes, as videos are, too.
BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIF"),
    **dict.fromkeys((b"hevm", b"hevs", b"mif1", b"msf1"), "HEIF"),
}
IMAGE_SIZE = (64, 64)
# Images with more pixels are refused before memory is allocated for them.
MAX_PIXELS = 1 << 26
# Larger JPEGs, of phones for example, are decoded at half their width and height.
MAX_JPEG_PIXELS = 4 * MAX_PIXELS
# The EXIF tag, and for each of its values what makes the image upright.
ORIENTATION = 0x0112
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def decode_image(
    data: bytes,
    image_size: tuple[int, int] | None = IMAGE_SIZE,
    channels: int = 3,
) -> npt.NDArray[np.uint8]:
    """Decodes an image file to its last byte, upright, to RGB or gray.

    The image is turned as its EXIF orientation says. Transparent pixels are
    composited over white. Grayscale, palette, CMYK and 16-bit images become
    RGB. The first image of an animation or a multi-picture JPEG is read.

    Args:
        data: The file's bytes: JPEG, PNG, BMP, GIF, WebP, AVIF or HEIC.
        image_size: `(height, width)` to resize to (bilinear, antialiased), or
            `None` to keep the size. Defaults to `(64, 64)`.
        channels: `3` (default) for RGB, `1` for gray (ITU-R 601 luma).

    Returns:
        uint8 array `(height, width, channels)`.

    Raises:
        ValueError: If the data are empty, damaged or of another format, or if
            the image has more than 67 million pixels (JPEG: 268 million).
        ImportError: If a package for AVIF or HEIC is missing. The message has
            the command that installs it.
    """
    from PIL.Image import Resampling

    if not data:
        raise ValueError("the file is empty")
    image = _decode_plain_jpeg(data)
    if image is None:
        image = _decode_any(data)
    if channels == 1:
        image = image.convert("L")
    if image_size is not None and image.size != image_size[::-1]:
        image = image.resize(image_size[::-1], Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], channels)


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
        if not 0 < size[0] * size[1] <= MAX_PIXELS or not data.endswith(b"\xff\xd9"):
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
    """Decodes an image of any format in `IMAGE_SUFFIXES` to RGB, upright."""
    image = _open(data)
    _check_size(image, len(data))
    try:
        image.load()
        rgb = _to_rgb(image)
    except Exception as error:  # Pillow raises many types of errors on bad data
        raise ValueError(f"damaged image: {error}") from error
    if image.format == "JPEG" and not _has_end_marker(data):
        # The decoder makes up the pixels that are missing.
        raise ValueError("damaged image: the JPEG has no end marker")
    return _make_upright(rgb, image)


def _open(data: bytes) -> PillowImage:
    from PIL import Image, UnidentifiedImageError

    openers = {"JPEG": _open_jpeg, "AVIF": _open_avif, "HEIF": _open_heif}
    try:
        if opener := openers.get(read_format(data) or ""):
            return opener(io.BytesIO(data))
        return Image.open(io.BytesIO(data), formats=("PNG", "BMP", "GIF", "WEBP"))
    except ImportError:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"not a {FORMAT_NAMES} image") from None
    except Image.DecompressionBombError:
        raise ValueError(_too_large("more", MAX_PIXELS)) from None
    except Exception as error:  # Pillow raises many types of errors on bad data
        raise ValueError(f"damaged image: {error}") from error


def _open_jpeg(file: io.BytesIO) -> PillowImage:
    # `Image.open` takes a JPEG of several pictures for another format.
    from PIL.JpegImagePlugin import JpegImageFile

    return JpegImageFile(file)


def _open_avif(file: io.BytesIO) -> PillowImage:
    try:
        from PIL import AvifImagePlugin

        supported = AvifImagePlugin.SUPPORTED
    except ImportError:
        supported = False
    if not supported:
        raise ImportError(
            "AVIF images need Pillow 11.3 or newer, from PyPI: pip install -U pillow"
        )
    return AvifImagePlugin.AvifImageFile(file)


def _open_heif(file: io.BytesIO) -> PillowImage:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImportError(
            "HEIC images need the package pillow-heif: "
            'pip install "keras-tinyalex[heif]"'
        ) from None
    image: PillowImage = HeifImageFile(file)
    return image


def _check_size(image: PillowImage, size: int) -> None:
    """Refuses an image that is too large, and halves a large JPEG of `size` bytes."""
    width, height = image.size
    limit = MAX_JPEG_PIXELS if image.format == "JPEG" else MAX_PIXELS
    if width * height > limit:
        raise ValueError(_too_large(f"{width} x {height}", limit))
    if width * height > MAX_PIXELS:
        # Even one color takes 6 bits for each 16 x 16 pixels.
        if size < width * height // 512:
            raise ValueError(
                f"damaged image: it claims {width} x {height} pixels in {size:,} bytes"
            )
        image.draft(None, (width // 2, height // 2))


def _too_large(size: str, limit: int) -> str:
    return (
        f"it has {size} pixels, and the limit is {limit / 1e6:.0f} million; save it "
        "smaller"
    )


def _to_rgb(image: PillowImage) -> PillowImage:
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits per pixel: use the upper 8
        high = (np.asarray(image, np.int64) >> 8).clip(0, 255)
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _has_end_marker(data: bytes) -> bool:
    """Whether a JPEG has its end marker, which other data may follow."""
    if data.endswith(b"\xff\xd9"):
        return True
    position = 2
    while (position := data.find(b"\xff", position)) >= 0:
        marker = data[position + 1 : position + 2]
        if marker == b"\xd9":
            return True
        if marker in b"\x00\x01\xd0\xd1\xd2\xd3\xd4\xd5\xd6\xd7":  # no segment
            position += 2
        elif marker == b"\xff":  # padding
            position += 1
        else:  # A segment; in the one of the metadata lie whole JPEGs.
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            position += 2 + max(length, 2)
    return False


def _make_upright(rgb: PillowImage, image: PillowImage) -> PillowImage:
    """Turns the pixels as the EXIF orientation of the image says."""
    from PIL import Image

    try:
        name = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged metadata of an image that is fine
        return rgb
    return rgb if name is None else rgb.transpose(Image.Transpose[name])


def read_format(data: bytes) -> str | None:
    """Returns which of the formats in `IMAGE_SUFFIXES` the first bytes are of."""
    if data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        size = min(int.from_bytes(data[:4], "big"), 128)
        brands = [data[at : at + 4] for at in (8, *range(16, size, 4))]
        found = {BRANDS[brand] for brand in brands if brand in BRANDS}
        return "AVIF" if "AVIF" in found else next(iter(found), None)
    return next(
        (name for start, name in SIGNATURES.items() if data.startswith(start)), None
    )
