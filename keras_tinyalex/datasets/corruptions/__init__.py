"""The corruptions of Tiny-ImageNet-C, as functions of images.

Noise, blur, weather and digital artifacts at five severities (Hendrycks and
Dietterich, 2019, https://arxiv.org/abs/1903.12261), with the constants that the
authors chose for 64x64 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from keras_tinyalex.aliases import Images
from keras_tinyalex.arguments import check_choice, check_integer
from keras_tinyalex.datasets.corruptions import blur, digital, noise, spatter, weather
from keras_tinyalex.datasets.corruptions.sampling import Corruption

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt"]

CORRUPTIONS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("gaussian_noise", "shot_noise", "impulse_noise"), "noise"),
        **dict.fromkeys(
            ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"), "blur"
        ),
        **dict.fromkeys(("snow", "frost", "fog", "brightness"), "weather"),
        **dict.fromkeys(
            ("contrast", "elastic_transform", "pixelate", "jpeg_compression"), "digital"
        ),
        **dict.fromkeys(
            ("speckle_noise", "gaussian_blur", "spatter", "saturate"), "extra"
        ),
    }
)
"""The groups of the corruptions by name, in the official order: the 15 that the
means are taken over, then the four with the group `"extra"`."""

SEVERITIES = (1, 2, 3, 4, 5)
MIN_SIZE = 16
# Images corrupted at a time: some corruptions take 30 times the memory of the images.
BLOCK = 64

_FUNCTIONS: dict[str, Corruption] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": spatter.spatter,
    "saturate": digital.saturate,
}


def corrupt(
    images: Images,
    name: str,
    severity: int,
    seed: int = 0,
    *,
    first: int = 0,
    jpeg_quality: int | None = 85,
) -> Images:
    """Corrupts images as those of Tiny-ImageNet-C.

    The random numbers of an image follow from `seed`, its index, `name` and
    `severity`, so it looks the same in any batch. Formulas and constants are
    those of the authors' script for Tiny ImageNet, which cuts the result to
    whole numbers. For other sizes than 64x64, lengths in pixels stay as they
    are; only the displacements of `"elastic_transform"` grow with the image.

    The frost of the official set is cut out of five photographs. Here it is
    generated, with their colors, contrasts and spectra, but without their
    crystals.

    Args:
        images: uint8 array `(N, H, W, 3)`, RGB, of at least 16x16 pixels. It
            is not modified.
        name: A name in `CORRUPTIONS`.
        severity: Integer from 1 to 5.
        seed: Non-negative integer. Defaults to `0`.
        first: Index of the first image. A batch from the middle of a data set
            passes its position. Defaults to `0`.
        jpeg_quality: Quality of the JPEG that the corrupted image is written
            to and read from, 1 to 95, or `None` for no JPEG. Defaults to `85`,
            as the files of the official set, on which all published figures
            were measured.

    Returns:
        uint8 array of the same shape.

    Raises:
        ValueError: If an argument is not as above.

    Examples:
        >>> images = np.full((2, 64, 64, 3), 100, "uint8")
        >>> low = corrupt(images, "contrast", severity=5, jpeg_quality=None)
        >>> int(low.min()), int(low.max())
        (100, 100)
        >>> both = corrupt(images, "fog", severity=3)
        >>> bool((corrupt(images[1:], "fog", severity=3, first=1) == both[1:]).all())
        True
    """
    _check_images(images)
    check_choice("name", name, tuple(CORRUPTIONS))
    check_choice("severity", check_integer("severity", severity), SEVERITIES)
    seed = check_integer("seed", seed, minimum=0)
    first = check_integer("first", first, minimum=0)
    if jpeg_quality is not None:
        check_choice("jpeg_quality", jpeg_quality, range(1, 96))
    number = list(CORRUPTIONS).index(name)
    corrupted = np.empty_like(images)
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        generators = [
            np.random.default_rng([seed, first + start + i, number, severity])
            for i in range(len(block))
        ]
        pixels = _to_bytes(_FUNCTIONS[name](block, severity, generators))
        if jpeg_quality is not None:
            pixels = digital.write_and_read_jpeg(pixels, jpeg_quality)
        corrupted[start : start + BLOCK] = pixels
    return corrupted


def _check_images(images: Any) -> None:
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    right = isinstance(images, np.ndarray) and dtype == np.uint8 and images.ndim == 4
    if not right or images.shape[3] != 3 or min(images.shape[1:3]) < MIN_SIZE:
        raise ValueError(
            "`images` must be a uint8 NumPy array of RGB images (N, H, W, 3) of at "
            f"least {MIN_SIZE}x{MIN_SIZE} pixels from 0 to 255. "
            f"Received: images={type(images)} with shape={shape}, dtype={dtype}"
        )


def _to_bytes(pixels: np.ndarray[Any, Any]) -> Images:
    """Cuts pixels to whole numbers from 0 to 255."""
    if pixels.dtype == np.uint8:
        return pixels
    # The thousandth keeps whole numbers whole in spite of rounding errors.
    return np.clip(pixels + 1e-3, 0, 255).astype(np.uint8)
