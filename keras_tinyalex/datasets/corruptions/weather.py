"""Corruptions by weather."""

from __future__ import annotations

import functools

import numpy as np

from keras_tinyalex.aliases import Images
from keras_tinyalex.datasets.corruptions.sampling import (
    Array,
    Generators,
    draw,
    filter_axes,
    motion_blur,
    zoom_matrix,
)

# ITU-R 601 luma.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def snow(images: Images, severity: int, generators: Generators) -> Array:
    """Brightens the image, and adds falling flakes and their mirror image."""
    mean, deviation, zoom, threshold, radius, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    )[severity - 1]
    height, width = images.shape[1:3]
    flakes = draw(generators, lambda g: g.normal(mean, deviation, (height, width, 1)))
    flakes = filter_axes(flakes, (zoom_matrix(height, zoom), zoom_matrix(width, zoom)))
    flakes = np.floor(255 * np.clip(np.where(flakes < threshold, 0, flakes), 0, 1))
    degrees = draw(generators, lambda g: g.uniform(-135, -45))
    flakes = motion_blur(flakes, int(radius), sigma, degrees)
    pale = 1.5 * (images @ LUMA)[..., None] + 127.5
    brighter = kept * images + (1 - kept) * np.maximum(images, pale)
    return np.clip(brighter + flakes + flakes[:, ::-1, ::-1], 0, 255)


def frost(images: Images, severity: int, generators: Generators) -> Array:
    """Covers the image with frost, which is generated."""
    image_weight, frost_weight = (
        *((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    )[severity - 1]
    frosts = _draw_frost(generators, *images.shape[1:3])
    return image_weight * images + frost_weight * frosts


# Mean color, standard deviation of the colors within 64x64 pixels, standard deviation
# of the brightness from part to part, and exponent of the power spectrum: of the five
# photographs of the official script, at the size at which it cuts out of them.
# The second and the third are the same photograph.
PHOTOGRAPHS = (
    ((77, 148, 165), (22, 13, 13), 9.4, -2.2),
    ((198, 202, 211), (18, 18, 19), 6.5, -1.4),
    ((198, 202, 211), (18, 18, 19), 6.5, -1.4),
    ((145, 159, 172), (23, 23, 25), 6.5, -0.95),
    ((101, 112, 124), (33, 32, 32), 12.4, -1.55),
)


def _draw_frost(generators: Generators, height: int, width: int) -> Array:
    """Draws frost from white noise, with the statistics of a random photograph."""
    chosen = draw(generators, lambda g: g.integers(len(PHOTOGRAPHS)))
    colors, deviations, brightness, _ = (
        np.array(column)[chosen] for column in zip(*PHOTOGRAPHS, strict=True)
    )
    texture = draw(generators, lambda g: g.standard_normal((height, width)))
    spectra = _amplitudes(height, width)[chosen] * np.fft.rfft2(texture)
    texture = np.fft.irfft2(spectra, (height, width))
    texture /= texture.std(axis=(1, 2), keepdims=True)
    part = brightness * draw(generators, lambda g: g.standard_normal())
    colors = colors + part[:, None]
    frosts = colors[:, None, None] + deviations[:, None, None] * texture[..., None]
    return np.clip(frosts, 0, 255).astype(np.float32)


@functools.cache
def _amplitudes(height: int, width: int) -> Array:
    """Returns the amplitudes by frequency of each photograph; the mean has none."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    frequencies = np.hypot(down, across)
    frequencies[0, 0] = np.inf
    return np.stack([frequencies ** (exponent / 2) for *_, exponent in PHOTOGRAPHS])


def fog(images: Images, severity: int, generators: Generators) -> Array:
    """Adds a plasma fractal, and scales to the image's own maximum."""
    amount, decay = ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75))[severity - 1]
    height, width = images.shape[1:3]
    size = 1 << (max(height, width) - 1).bit_length()
    chances = draw(generators, lambda g: g.uniform(-1, 1, (size, size)))
    plasma = plasma_fractal(chances, decay)[:, :height, :width, None]
    brightest = images.max(axis=(1, 2, 3), keepdims=True) / 255
    scale = brightest / (brightest + amount)
    # An image without light stays black.
    return (images + 255 * amount * plasma) * scale


def plasma_fractal(chances: Array, decay: float) -> Array:
    """Returns fractal height maps from 0 to 1, by the diamond-square algorithm.

    Args:
        chances: Random numbers from -1 to 1, `(N, size, size)`; the size is a power
            of two.
        decay: What the random part is divided by, twice, from one scale to the next.
    """
    heights = np.zeros_like(chances)
    step = chances.shape[1]
    wobble = 100.0
    while step >= 2:
        half = step // 2
        corners, random = heights[:, ::step, ::step], wobble**2 * chances
        squares = corners + np.roll(corners, -1, axis=1)
        squares = squares + np.roll(squares, -1, axis=2)
        middles = squares / 4 + random[:, half::step, half::step]
        heights[:, half::step, half::step] = middles
        beside = middles + np.roll(middles, 1, axis=1)
        beside = beside + corners + np.roll(corners, -1, axis=2)
        heights[:, ::step, half::step] = beside / 4 + random[:, ::step, half::step]
        above = middles + np.roll(middles, 1, axis=2)
        above = above + corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, ::step] = above / 4 + random[:, half::step, ::step]
        step, wobble = half, wobble / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    return heights / heights.max(axis=(1, 2), keepdims=True)


def brightness(images: Images, severity: int, generators: Generators) -> Array:
    """Adds to the value in HSV; hue and saturation stay."""
    amount = 255 * (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    value = images.max(axis=3, keepdims=True).astype(np.float32)
    brighter = np.minimum(value + amount, 255)
    return np.where(value > 0, images * (brighter / np.maximum(value, 1)), brighter)
