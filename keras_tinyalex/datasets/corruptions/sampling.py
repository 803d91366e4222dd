"""What the corruptions share: random draws, linear filters and interpolation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import Images

Array: TypeAlias = Any
"""A NumPy array of numbers; pixels are from 0 to 255."""

Generators: TypeAlias = Sequence[np.random.Generator]
"""One for each image."""

Corruption: TypeAlias = Callable[[Images, int, Generators], Array]
"""A function `(images, severity, generators) -> pixels` of `(N, H, W, 3)`."""


def draw(generators: Generators, sample: Callable[[np.random.Generator], Any]) -> Array:
    """Returns what each image's generator draws, stacked."""
    return np.stack([sample(generator) for generator in generators])


def filter_axes(images: Array, *filters: tuple[Array, Array]) -> Array:
    """Applies linear filters to the rows and the columns of images.

    A filter is a pair of matrices, `(H, H)` and `(W, W)`, which include the border.
    Products of matrices are faster than sums of shifted images.

    Args:
        images: `(N, H, W, C)`.
        filters: Pairs of matrices; the results are added.

    Returns:
        float32 array `(N, H, W, C)`.
    """
    planes = np.ascontiguousarray(np.moveaxis(images, 3, 1), np.float32)
    total = sum((rows @ planes) @ columns.T for rows, columns in filters)
    return np.moveaxis(np.asarray(total), 1, 3)


def convolution_matrix(weights: Array, size: int, border: str) -> Array:
    """Returns the matrix of a convolution along an axis of `size` pixels.

    Args:
        weights: An odd number of weights, the middle one of the pixel itself.
        size: Number of pixels.
        border: Mode of `np.pad`: what is beyond the border.
    """
    radius = len(weights) // 2
    sources = np.pad(np.arange(size), radius, mode=border)  # type: ignore[call-overload]
    matrix = np.zeros((size, size))
    for offset, weight in enumerate(weights):
        np.add.at(matrix, (np.arange(size), sources[offset : offset + size]), weight)
    return matrix.astype(np.float32)


def gaussian_weights(sigma: float, radius: int) -> Array:
    """Returns the weights of a Gaussian, whose sum is 1."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def gaussian_blur(
    images: Array, sigma: float, truncate: float = 4.0, border: str = "edge"
) -> Array:
    """Blurs images `(N, H, W, C)`; the Gaussian ends at `truncate * sigma`."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return np.asarray(images, np.float32)
    rows, columns = (
        _gaussian_matrix(sigma, radius, size, border) for size in images.shape[1:3]
    )
    return filter_axes(images, (rows, columns))


@functools.cache
def _gaussian_matrix(sigma: float, radius: int, size: int, border: str) -> Array:
    return convolution_matrix(gaussian_weights(sigma, radius), size, border)


@functools.cache
def zoom_matrix(size: int, factor: float) -> Array:
    """Returns the matrix that enlarges the middle of an axis to the whole axis.

    The middle is enlarged linearly, from its first pixel to its last, and what is
    too much is cut off both ends.
    """
    crop = int(np.ceil(size / factor))
    enlarged = round(crop * factor)
    pixels = np.arange(size) + (enlarged - size) // 2
    positions = pixels * (crop - 1) / (enlarged - 1)
    low = np.minimum(positions.astype(int), crop - 2)
    matrix = np.zeros((size, size))
    rows, start = np.arange(size), (size - crop) // 2
    matrix[rows, start + low] = 1 - (positions - low)
    matrix[rows, start + low + 1] = positions - low
    return matrix.astype(np.float32)


def motion_blur(
    images: Array, radius: int, sigma: float, degrees: npt.NDArray[np.float64]
) -> Array:
    """Blurs each image along its own direction, to one side, as ImageMagick does.

    Args:
        images: `(N, H, W, C)`; beyond the border its pixels repeat.
        radius: The weights end at `2 * radius` pixels.
        sigma: Standard deviation of the Gaussian weights.
        degrees: `(N,)`, the angle clockwise from the right.

    Returns:
        float32 array of whole numbers, `(N, H, W, C)`.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    angles = np.deg2rad(degrees)[:, None]
    across = np.ceil(steps * np.cos(angles) - 0.5).astype(int) + 2 * radius
    down = np.ceil(steps * np.sin(angles) - 0.5).astype(int) + 2 * radius
    margin = (2 * radius, 2 * radius)
    padded = np.pad(images.astype(np.float32), ((0, 0), margin, margin, (0, 0)), "edge")
    height, width = images.shape[1:3]
    blurred = np.zeros(images.shape, np.float32)
    for image, source, rows, columns in zip(blurred, padded, down, across, strict=True):
        for weight, y, x in zip(weights, rows, columns, strict=True):
            if weight > 1e-6:
                image += weight * source[y : y + height, x : x + width]
    return np.rint(blurred)


def interpolate(images: Array, y: Array, x: Array, symmetric: bool) -> Array:
    """Samples each image at its own positions, bilinearly.

    Args:
        images: float32 array `(N, H, W, C)`.
        y: Rows, `(N, H, W)`; beyond the border the image is mirrored.
        x: Columns, likewise.
        symmetric: Whether the mirror repeats the pixels of the border.
    """
    count, height, width, channels = images.shape
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, across = (y - top)[..., None], (x - left)[..., None]
    flat = images.reshape(-1, channels)
    starts = (np.arange(count) * height * width)[:, None, None]
    rows = [starts + width * _mirror(top + step, height, symmetric) for step in (0, 1)]
    columns = [_mirror(left + step, width, symmetric) for step in (0, 1)]
    above, below = (
        flat[row + columns[0]] * (1 - across) + flat[row + columns[1]] * across
        for row in rows
    )
    return above * (1 - down) + below * down


def _mirror(
    indices: npt.NDArray[np.int64], size: int, symmetric: bool
) -> npt.NDArray[np.int64]:
    if symmetric:
        indices = indices % (2 * size)
        return np.minimum(indices, 2 * size - 1 - indices)
    indices = indices % (2 * size - 2)
    return np.minimum(indices, 2 * size - 2 - indices)
