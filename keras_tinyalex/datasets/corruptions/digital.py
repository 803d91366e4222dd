"""Digital corruptions: contrast, saturation, distortion and compression."""

from __future__ import annotations

import io

import numpy as np

from keras_tinyalex.aliases import Images
from keras_tinyalex.datasets.corruptions.sampling import (
    Array,
    Generators,
    draw,
    gaussian_blur,
    interpolate,
)
from keras_tinyalex.datasets.images import decode_image


def contrast(images: Images, severity: int, generators: Generators) -> Array:
    """Moves the pixels toward the mean of their channel."""
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    means = images.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    return (images - means) * kept + means


def saturate(images: Images, severity: int, generators: Generators) -> Array:
    """Scales the saturation in HSV and adds to it; hue and value stay."""
    factor, amount = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2))[severity - 1]
    value = images.max(axis=3, keepdims=True).astype(np.float32)
    gray = images.min(axis=3, keepdims=True) == value
    # Gray has the hue of red, as in scikit-image.
    missing = np.where(gray, np.array([0, 1, 1], np.float32), (value - images))
    missing /= np.where(gray, 1, missing.max(axis=3, keepdims=True))
    saturation = 1 - images.min(axis=3, keepdims=True) / np.maximum(value, 1)
    saturation = np.where(gray, 0, saturation)
    saturation = np.clip(factor * saturation + amount, 0, 1)
    return value * (1 - saturation * missing)


def elastic_transform(images: Images, severity: int, generators: Generators) -> Array:
    """Maps three points to random ones nearby, then moves each pixel."""
    distance, sigma, corner = (
        *((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06)),
        *((0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
    )[severity - 1]
    height, width = images.shape[1:3]
    size = min(height, width)
    distance, sigma, corner = distance * size, sigma * size, corner * size
    shifts = draw(generators, lambda g: g.uniform(-corner, corner, (3, 2)))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    sources = _affine_sources(shifts, height, width)
    warped = interpolate(
        images.astype(np.float32), sources[..., 1], sources[..., 0], symmetric=False
    )
    if not distance:
        return warped
    shape = (height, width, 2)
    moves = draw(generators, lambda g: g.uniform(-1, 1, shape))
    moves = distance * gaussian_blur(moves, sigma, truncate=3, border="symmetric")
    return interpolate(warped, y + moves[..., 1], x + moves[..., 0], symmetric=True)


def _affine_sources(shifts: Array, height: int, width: int) -> Array:
    """Returns where each pixel comes from, x and y: `(N, H, W, 2)`.

    Args:
        shifts: What is added to x and y of three points, `(N, 3, 2)`.
        height: Height of the images in pixels.
        width: Their width.
    """
    side = min(height, width) // 3
    # The official script takes the height for x, and has square images.
    points = np.array([width // 2, height // 2]) + side * np.array(
        [[1, 1], [1, -1], [-1, -1]]
    )
    ones = np.ones((len(shifts), 3, 1))
    affine = np.linalg.solve(np.concatenate([points + shifts, ones], axis=2), points)
    pixels = np.moveaxis(np.indices((width, height)), 0, -1).swapaxes(0, 1)
    moved = pixels @ affine[:, None, :2] + affine[:, None, 2:]
    return moved.astype(np.float32)


def pixelate(images: Images, severity: int, generators: Generators) -> Array:
    """Averages over blocks of pixels."""
    from PIL import Image

    scale = (0.9, 0.8, 0.7, 0.6, 0.5)[severity - 1]
    height, width = images.shape[1:3]
    small, large = (int(width * scale), int(height * scale)), (width, height)
    box = Image.Resampling.BOX
    return np.stack(
        [
            np.asarray(Image.fromarray(image).resize(small, box).resize(large, box))
            for image in images
        ]
    )


def jpeg_compression(images: Images, severity: int, generators: Generators) -> Array:
    """Writes and reads a JPEG of low quality."""
    return write_and_read_jpeg(images, (65, 58, 50, 40, 25)[severity - 1])


def write_and_read_jpeg(images: Images, quality: int) -> Images:
    """Returns images as a JPEG keeps them."""
    from PIL import Image

    read = np.empty_like(images)
    for index, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        read[index] = decode_image(file.getvalue(), None)
    return read
