"""Augmentations that change the values of pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import Images


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
    tables = values.round().clip(0, 255).astype(np.uint8)
    changed = np.empty_like(images)
    for new, image, table in zip(changed, images, tables, strict=True):
        for channel in range(channels):
            new[..., channel] = table[channel].take(image[..., channel])
    return changed
