"""Corruptions by blur."""

from __future__ import annotations

import functools

import numpy as np

from keras_tinyalex.aliases import Images
from keras_tinyalex.datasets.corruptions import sampling
from keras_tinyalex.datasets.corruptions.sampling import (
    Array,
    Generators,
    convolution_matrix,
    draw,
    filter_axes,
    gaussian_weights,
    zoom_matrix,
)


def defocus_blur(images: Images, severity: int, generators: Generators) -> Array:
    """Averages over a disk, whose edge is smoothed."""
    radius, smoothing = ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1))[
        severity - 1
    ]
    return filter_axes(images, *_disk_filters(radius, smoothing, *images.shape[1:3]))


@functools.cache
def _disk_filters(
    radius: float, smoothing: float, height: int, width: int
) -> list[tuple[Array, Array]]:
    """Returns the filters whose sum is the convolution with a disk."""
    squares = np.arange(-4, 5) ** 2
    disk = (squares[:, None] + squares <= radius**2).astype(float)
    smooth = convolution_matrix(gaussian_weights(smoothing, 1), 9, "reflect")
    disk = smooth @ (disk / disk.sum()) @ smooth.T
    left, values, right = np.linalg.svd(disk)
    return [
        (
            convolution_matrix(value * rows, height, "reflect"),
            convolution_matrix(columns, width, "reflect"),
        )
        for value, rows, columns in zip(values, left.T, right, strict=True)
        if value > 1e-7
    ]


def glass_blur(images: Images, severity: int, generators: Generators) -> Array:
    """Blurs, takes each pixel from nearby, and blurs again.

    The pixels are taken in the order of the official script, from the last to the
    first, so that one may come from a pixel that came from another. The script is
    written to swap the two, but copies one, as both are views.
    """
    sigma, reach, rounds = (
        *((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    )[severity - 1]
    count, height, width, _ = images.shape
    blurred = np.floor(sampling.gaussian_blur(images, sigma) + 1e-3)
    rows = np.arange(height - reach, reach, -1)
    columns = np.arange(width - reach, reach, -1)
    shape = (rounds, len(rows), len(columns), 2)
    shifts = draw(generators, lambda g: g.integers(-reach, reach, shape)) @ (width, 1)
    pixels = rows[:, None] * width + columns
    takes = np.moveaxis(pixels + shifts, 0, -1).reshape(-1, count)
    source = np.repeat(np.arange(height * width)[:, None], count, axis=1)
    each = np.arange(count)
    for pixel, take in zip(np.tile(pixels.ravel(), rounds), takes, strict=True):
        source[pixel] = source[take, each]
    shuffled = blurred.reshape(count, -1, 3)[each[:, None], source.T]
    return sampling.gaussian_blur(shuffled.reshape(images.shape), sigma)


def motion_blur(images: Images, severity: int, generators: Generators) -> Array:
    """Blurs along a random direction, up to 45 degrees from the horizontal."""
    radius, sigma = ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3))[severity - 1]
    degrees = draw(generators, lambda g: g.uniform(-45, 45))
    return sampling.motion_blur(images, radius, sigma, degrees)


def zoom_blur(images: Images, severity: int, generators: Generators) -> Array:
    """Averages the image and enlargements of its middle."""
    stop = (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1]
    factors = np.arange(1, stop, 0.01).tolist()
    height, width = images.shape[1:3]
    zooms = [(zoom_matrix(height, f), zoom_matrix(width, f)) for f in factors]
    return (images + filter_axes(images, *zooms)) / (len(factors) + 1)


def gaussian_blur(images: Images, severity: int, generators: Generators) -> Array:
    """Averages with the weights of a Gaussian."""
    return sampling.gaussian_blur(images, (0.5, 0.75, 1, 1.25, 1.5)[severity - 1])
