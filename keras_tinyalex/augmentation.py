"""Augmentation of uint8 image batches by index arithmetic.

An augmentation is a function `(images, generator) -> images` over a uint8
array `(N, H, W, C)`. Each image draws its own parameters, and nothing is
interpolated, so the cost beside a training step is next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Augmentation = Callable[[Images, np.random.Generator], Images]


def flip(images: Images, generator: np.random.Generator) -> Images:
    """Mirrors each image left to right with probability one half.

    Args:
        images: uint8 array `(N, H, W, C)`; it is not changed.
        generator: Source of randomness.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> flip(images, np.random.default_rng(0)).shape
        (2, 64, 64, 3)
    """
    mirrored = generator.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def crop_flip(
    images: Images, generator: np.random.Generator, padding: int = 8
) -> Images:
    """Shifts each image by up to `padding` pixels, then mirrors half of them.

    The border is padded by reflection and each image is cropped back to its
    size at its own offset: the augmentation of CIFAR's ResNet (He et al.,
    2015, https://arxiv.org/abs/1512.03385), scaled to 64x64 pixels.

    Args:
        images: uint8 array `(N, H, W, C)`; it is not changed.
        generator: Source of randomness.
        padding: Pixels, `0 <= padding < min(H, W)`. Default 8.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> crop_flip(images, np.random.default_rng(0)).shape
        (2, 64, 64, 3)
    """
    count, height, width, _ = images.shape
    tops = generator.integers(0, 2 * padding + 1, (count, 1))
    lefts = generator.integers(0, 2 * padding + 1, (count, 1))
    border = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    padded = np.pad(images, border, mode="reflect")
    rows = tops + np.arange(height)
    columns = lefts + np.arange(width)
    every = np.arange(count)[:, None, None]
    return flip(padded[every, rows[:, :, None], columns[:, None, :]], generator)


AUGMENTATIONS: dict[str, Augmentation] = {"flip": flip, "crop_flip": crop_flip}


def get(augmentation: str | Augmentation | None) -> Augmentation | None:
    """Returns the augmentation of a name; passes functions and `None` on.

    Args:
        augmentation: `"flip"`, `"crop_flip"`, a function
            `(images, generator) -> images` over uint8 arrays, or `None`.

    Returns:
        The function, or `None`.

    Raises:
        ValueError: If the name is unknown.
    """
    if augmentation is None or callable(augmentation):
        return augmentation
    if augmentation not in AUGMENTATIONS:
        raise ValueError(
            f"`augmentation` must be one of {sorted(AUGMENTATIONS)}, a function "
            f"or None. Received: augmentation={augmentation!r}"
        )
    return AUGMENTATIONS[augmentation]
