"""Augmentations that change the values of pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import Images
from keras_tinyalex.augmentation.squares import draw_squares


def color(
    images: Images, generator: np.random.Generator, strength: float = 0.2
) -> Images:
    """Color jitter: changes the brightness and contrast of each image.

    Each channel becomes `a * x + b`. Most of `a` and `b` is drawn per image,
    and a smaller part, of up to `strength / 3`, per channel.

    Args:
        images: uint8 array `(N, H, W, C)`, which is not modified.
        generator: A `numpy.random.Generator`.
        strength: Maximum relative change of contrast, and of brightness as a
            fraction of 255, in [0, 1]. Defaults to `0.2`.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> color(images, np.random.default_rng(0)).shape
        (2, 64, 64, 3)
    """
    count, channels = len(images), images.shape[-1]

    def draw() -> npt.NDArray[np.float64]:
        common = generator.uniform(-strength, strength, (count, 1))
        return common + generator.uniform(-strength, strength, (count, channels)) / 3

    contrast, brightness = 1 + draw(), 128 * draw()
    levels = np.arange(256) - 128.0
    values = contrast[..., None] * levels + brightness[..., None] + 128
    return _map_values(images, values)


def random_tones(
    images: Images, generator: np.random.Generator, probability: float = 0.35
) -> Images:
    """Changes the tones of some images by a smooth random curve.

    Values `x` in [0, 1] become `a * (x + sum(c[k] * sin(k * pi * x) / k)) + b`
    with `k` from 1 to 5: the random color transformations of PRIME (Modas et
    al., 2022, https://arxiv.org/abs/2112.13547) on a scale of contrast. The
    curve is drawn per image, and a smaller part of it per channel.

    Args:
        images: uint8 array `(N, H, W, C)`, which is not modified.
        generator: A `numpy.random.Generator`.
        probability: Of a change, for each image, in [0, 1]. Defaults to `0.35`.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> random_tones(images, np.random.default_rng(0)).shape
        (2, 64, 64, 3)
    """
    channels = images.shape[-1]
    changed = images.copy()
    (chosen,) = np.nonzero(generator.random(len(images)) < probability)
    # How much of it: from none to a contrast of exp(-1.5), a fifth.
    amounts = generator.uniform(0, 1, (len(chosen), 1, 1))
    waves = np.arange(1, 6)[:, None]
    levels = np.arange(256) / 255
    factors = generator.standard_normal((len(chosen), 1, 5))
    factors = factors + generator.standard_normal((len(chosen), channels, 5)) / 3
    curves = levels + 0.3 * amounts * factors @ (np.sin(np.pi * waves * levels) / waves)
    contrast = np.exp(amounts * generator.uniform(-1.5, 0.3, amounts.shape))
    darkest = (1 - contrast) * generator.uniform(0, 1, amounts.shape)
    changed[chosen] = _map_values(images[chosen], 255 * (contrast * curves + darkest))
    return changed


def _map_values(images: Images, values: npt.NDArray[np.float64]) -> Images:
    """Returns images whose pixels are new values `(N, C, 256)` of the old ones."""
    tables = values.round().clip(0, 255).astype(np.uint8)
    mapped = np.empty_like(images)
    for new, image, table in zip(mapped, images, tables, strict=True):
        for channel, tones in enumerate(table):
            new[..., channel] = tones.take(image[..., channel])
    return mapped


def random_filter(
    images: Images, generator: np.random.Generator, probability: float = 0.4
) -> Images:
    """Filters some images with a random 3x3 kernel, which blurs or sharpens.

    A kernel lies between no change and the mean of the 9 pixels, plus normal
    noise; its sum is 1. Pixels are neighbors or every second one. These are the
    random filters of PRIME (Modas et al., 2022,
    https://arxiv.org/abs/2112.13547), with more blur.

    Args:
        images: uint8 array `(N, H, W, C)`, which is not modified; H and W are
            at least 3.
        generator: A `numpy.random.Generator`.
        probability: Of a filter, for each image, in [0, 1]. Defaults to `0.4`.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.full((2, 64, 64, 3), 7, "uint8")
        >>> bool((random_filter(images, np.random.default_rng(0)) == 7).all())
        True
    """
    filtered = images.copy()
    spacings = generator.integers(1, 3, len(images))
    spacings[generator.random(len(images)) >= probability] = 0
    for spacing in (1, 2):
        (chosen,) = np.nonzero(spacings == spacing)
        kernels = _draw_kernels(len(chosen), generator)
        values = _filter(images[chosen].astype(np.float32), kernels, spacing)
        filtered[chosen] = values.round().clip(0, 255)
    return filtered


def _draw_kernels(
    count: int, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Returns kernels `(N, 3, 3)` of sum 1."""
    kernels = generator.standard_normal((count, 9), np.float32)
    kernels -= kernels.mean(axis=1, keepdims=True)
    blur = generator.random((count, 1), np.float32)
    kernels *= 0.5 * generator.random((count, 1), np.float32)
    kernels += blur / 9
    kernels[:, 4:5] += 1 - blur
    return kernels.reshape(count, 3, 3)


def _filter(
    images: npt.NDArray[np.float32], kernels: npt.NDArray[np.float32], spacing: int
) -> npt.NDArray[np.float32]:
    """Convolves each image with its kernel; the border is by reflection."""
    _, height, width, _ = images.shape
    border = (spacing, spacing)
    padded = np.pad(images, [(0, 0), border, border, (0, 0)], mode="reflect")
    total = np.zeros_like(images)
    for row in range(3):
        for column in range(3):
            top, left = row * spacing, column * spacing
            part = padded[:, top : top + height, left : left + width]
            total += kernels[:, row, column, None, None, None] * part
    return total


def patch_noise(
    images: Images,
    generator: np.random.Generator,
    probability: float = 0.5,
    strength: float = 0.15,
) -> Images:
    """Patch Gaussian: adds noise to a random square of some of the images.

    The side of a square is uniform between 1 pixel and twice that of the image,
    and its center any pixel, so that it often covers the whole image. The
    standard deviation is uniform between 0 and `strength` (Lopes et al., 2019,
    https://arxiv.org/abs/1906.02611).

    Args:
        images: uint8 array `(N, H, W, C)`, which is not modified.
        generator: A `numpy.random.Generator`.
        probability: Of noise, for each image, in [0, 1]. Defaults to `0.5`.
        strength: Largest standard deviation as a fraction of 255, >= 0.
            Defaults to `0.15`.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> patch_noise(images, np.random.default_rng(0)).shape
        (2, 64, 64, 3)
    """
    noisy = images.copy()
    (chosen,) = np.nonzero(generator.random(len(images)) < probability)
    part = images[chosen].astype(np.float32)
    sizes = generator.integers(1, 2 * min(images.shape[1:3]) + 1, len(chosen))
    inside = draw_squares(part, generator, sizes)
    deviations = 255 * generator.uniform(0, strength, len(chosen)).astype(np.float32)
    noise = generator.standard_normal(part.shape, np.float32)
    part += noise * (deviations[:, None, None] * inside)[..., None]
    noisy[chosen] = part.round().clip(0, 255)
    return noisy
