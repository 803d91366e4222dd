"""Corruptions by noise."""

from __future__ import annotations

import numpy as np

from keras_tinyalex.aliases import Images
from keras_tinyalex.datasets.corruptions.sampling import Array, Generators, draw


def gaussian_noise(images: Images, severity: int, generators: Generators) -> Array:
    """Adds noise of the same standard deviation to all pixels."""
    deviation = (0.04, 0.08, 0.12, 0.15, 0.18)[severity - 1]
    return images + np.float32(255 * deviation) * _normal(images, generators)


def shot_noise(images: Images, severity: int, generators: Generators) -> Array:
    """Counts photons: white is an expected number of them."""
    white = (250, 100, 50, 30, 15)[severity - 1]
    expected = images * (white / 255)
    counts = [g.poisson(e) for g, e in zip(generators, expected, strict=True)]
    return np.stack(counts) * np.float32(255 / white)


def impulse_noise(images: Images, severity: int, generators: Generators) -> Array:
    """Sets a fraction of the values to 0 or 255, each channel on its own."""
    amount = (0.01, 0.02, 0.05, 0.08, 0.14)[severity - 1]
    shape = images.shape[1:]
    chance = draw(generators, lambda g: g.random(shape, np.float32))
    pepper = np.where(chance < amount / 2, np.uint8(0), images)
    return np.where(chance >= 1 - amount / 2, np.uint8(255), pepper)


def speckle_noise(images: Images, severity: int, generators: Generators) -> Array:
    """Adds noise in proportion to the pixel."""
    deviation = (0.15, 0.2, 0.25, 0.3, 0.35)[severity - 1]
    return images * (1 + np.float32(deviation) * _normal(images, generators))


def _normal(images: Images, generators: Generators) -> Array:
    shape = images.shape[1:]
    return draw(generators, lambda g: g.standard_normal(shape, np.float32))
