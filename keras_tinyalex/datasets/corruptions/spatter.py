"""The corruption `spatter`: drops of water, or of mud, on the lens."""

from __future__ import annotations

import numpy as np

from keras_tinyalex.aliases import Images
from keras_tinyalex.datasets.corruptions.sampling import (
    Array,
    Generators,
    convolution_matrix,
    draw,
    filter_axes,
    gaussian_blur,
)

WATER = np.array([175, 238, 238], np.float32)  # pale turquoise
MUD = np.array([63, 42, 20], np.float32)
# The farthest that a pixel counts as being from an edge.
MAX_DISTANCE = 20
# Steps to the pixels around, and their lengths as OpenCV approximates them.
STEPS = (
    *((0, 1, 1.0), (1, 0, 1.0), (1, 1, 1.4), (1, -1, 1.4)),
    *((1, 2, 2.1969), (2, 1, 2.1969), (1, -2, 2.1969), (2, -1, 2.1969)),
)


def spatter(images: Images, severity: int, generators: Generators) -> Array:
    """Adds drops: water at severities 1 to 3, mud at 4 and 5."""
    mean, deviation, sigma, threshold, strength, mud = (
        (0.62, 0.1, 0.7, 0.7, 0.6, False),
        (0.65, 0.1, 0.8, 0.7, 0.6, False),
        (0.65, 0.3, 1, 0.69, 0.6, False),
        (0.65, 0.1, 0.7, 0.68, 0.6, True),
        (0.65, 0.1, 0.5, 0.67, 0.6, True),
    )[severity - 1]
    shape = (*images.shape[1:3], 1)
    liquid = draw(generators, lambda g: g.normal(mean, deviation, shape))
    liquid = gaussian_blur(liquid, sigma)
    liquid[liquid < threshold] = 0
    if not mud:
        return images + strength * _water(liquid[..., 0])[..., None] * WATER
    drops = gaussian_blur((liquid > threshold).astype(np.float32), strength)
    drops[drops < 0.8] = 0
    return images * (1 - drops) + drops * MUD


def _water(liquid: Array) -> Array:
    """Returns how much water is where, from 0 to 1: more inside of the drops."""
    # Above 1 it wraps around, as the official script's conversion to bytes does.
    drops = (255 * liquid).astype(np.int64) % 256
    depth = np.minimum(distances(find_edges(drops)), MAX_DISTANCE)
    depth = _equalize(np.floor(_box_blur(depth) + 1e-3).astype(np.int64))
    depth = np.rint(_box_blur(_emboss(depth)))
    water = drops * depth
    return water / np.maximum(water.max(axis=(1, 2), keepdims=True), 1)


def find_edges(images: Array, low: int = 50, high: int = 150) -> Array:
    """Finds edges as Canny does, in gray images `(N, H, W)`.

    The gradient is Sobel's, and its size the sum of its parts.
    """
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), "edge")
    across = padded[:, :, 2:] - padded[:, :, :-2]
    across = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    down = padded[:, 2:] - padded[:, :-2]
    down = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    size = np.abs(across) + np.abs(down)
    ridge = _is_ridge(size, across, down) & (size > low)
    edges = ridge & (size > high)
    while True:  # weak edges that touch strong ones
        grown = ridge & _touches(edges)
        if (grown == edges).all():
            return edges
        edges = grown


def _is_ridge(
    size: Array,
    across: Array,
    down: Array,
) -> Array:
    """Whether the gradient is larger than before and behind it."""
    horizontal, vertical = np.abs(across), np.abs(down)
    flat = vertical < np.tan(np.pi / 8) * horizontal
    steep = vertical > np.tan(3 * np.pi / 8) * horizontal
    same = (across < 0) == (down < 0)
    # One of the two neighbors may be as large where the gradient is flat or steep.
    ridge_flat = (size > _shift(size, 0, -1)) & (size >= _shift(size, 0, 1))
    ridge_steep = (size > _shift(size, -1, 0)) & (size >= _shift(size, 1, 0))
    falling = (size > _shift(size, -1, -1)) & (size > _shift(size, 1, 1))
    rising = (size > _shift(size, -1, 1)) & (size > _shift(size, 1, -1))
    diagonal = np.where(same, falling, rising)
    return np.where(flat, ridge_flat, np.where(steep, ridge_steep, diagonal))


def _touches(mask: Array) -> Array:
    """Whether a pixel or one of the eight around it is in a mask."""
    rows = mask | _shift(mask, 1, 0) | _shift(mask, -1, 0)
    return rows | _shift(rows, 0, 1) | _shift(rows, 0, -1)


def _shift(images: Array, down: int, across: int, fill: float = 0) -> Array:
    """Returns `images[:, y + down, x + across]`, and `fill` beyond the border."""
    height, width = images.shape[1:]
    shifted = np.full_like(images, fill)
    target, source = _overlap(height, down), _overlap(height, -down)
    columns, from_columns = _overlap(width, across), _overlap(width, -across)
    shifted[:, target, columns] = images[:, source, from_columns]
    return shifted


def _overlap(size: int, step: int) -> slice:
    return slice(max(-step, 0), size - max(step, 0))


def distances(edges: Array) -> Array:
    """Returns the distance to the nearest edge, as OpenCV approximates it.

    Where an image has no edge it is `MAX_DISTANCE`, and so are larger ones.
    """
    found = np.where(edges, 0, np.float32(MAX_DISTANCE))
    while True:
        nearer = found
        for down, across, length in STEPS:
            for sign in (1, -1):
                shifted = _shift(found, sign * down, sign * across, MAX_DISTANCE)
                nearer = np.minimum(nearer, shifted + np.float32(length))
        if (nearer == found).all():
            return found
        found = nearer


def _box_blur(images: Array) -> Array:
    """Averages over 3x3 pixels."""
    rows, columns = (
        convolution_matrix(np.full(3, 1 / 3), size, "reflect")
        for size in images.shape[1:]
    )
    return filter_axes(images[..., None], (rows, columns))[..., 0]


def _equalize(images: Array) -> Array:
    """Spreads the values of each image, so that all are about as frequent."""
    spread = np.empty_like(images)
    for result, image in zip(spread, images, strict=True):
        counts = np.bincount(image.ravel(), minlength=256)
        below = np.cumsum(counts) - counts[image.min()]
        if below[-1] == 0:  # one value
            result[:] = image
        else:
            result[:] = np.rint(255 / below[-1] * np.maximum(below, 0))[image]
    return spread


def _emboss(images: Array) -> Array:
    """Adds what is below and to the right, and subtracts what is above and left."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), "reflect")
    height, width = images.shape[1:]
    weights = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    total = sum(
        weight * padded[:, y : y + height, x : x + width]
        for (y, x), weight in np.ndenumerate(weights)
    )
    return np.clip(total, 0, 255)
