"""Augmentation of batches of uint8 images.

An augmentation is a function `(images, generator) -> images` of a uint8 array
`(N, H, W, C)` and a `numpy.random.Generator`. Each image gets its own random
parameters. Pixels are indexed, not interpolated, which makes the cost small
compared with a training step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from keras_tinyalex.aliases import Images
from keras_tinyalex.augmentation.colors import (
    color,
    patch_noise,
    random_filter,
    random_tones,
)
from keras_tinyalex.augmentation.geometry import (
    crop,
    crop_flip,
    cutout,
    flip,
    zoom_crop,
)
from keras_tinyalex.augmentation.mixing import (
    MIXINGS,
    Mixing,
    SoftLabels,
    cutmix,
    mixup,
    mixup_cutmix,
)

__all__ = [
    "AUGMENTATIONS",
    "MIXINGS",
    "Augmentation",
    "Mixing",
    "SoftLabels",
    "color",
    "crop",
    "crop_flip",
    "cutmix",
    "cutout",
    "flip",
    "get",
    "mixup",
    "mixup_cutmix",
    "patch_noise",
    "random_filter",
    "random_tones",
    "zoom_crop",
]

Augmentation: TypeAlias = Callable[[Images, np.random.Generator], Images]
"""A function `(images, generator) -> images`."""


def compose(*steps: Augmentation) -> Augmentation:
    """Returns the augmentation that applies others one after the other."""

    def composed(images: Images, generator: np.random.Generator) -> Images:
        for step in steps:
            images = step(images, generator)
        return images

    return composed


# A search tries those that are named in `tuning/spaces.py`, too.
AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": flip,
    "crop": crop,
    "crop_cutout": compose(crop, cutout),
    "crop_flip": crop_flip,
    "crop_flip_cutout": compose(crop_flip, cutout),
    "crop_flip_color_cutout": compose(crop_flip, color, cutout),
    "zoom_flip_color_cutout": compose(zoom_crop, flip, color, cutout),
    "crop_flip_tones_filter_noise": compose(
        crop_flip, random_tones, random_filter, patch_noise
    ),
}


def get(augmentation: str | Augmentation | None) -> Augmentation | None:
    """Returns the augmentation with a given name.

    Args:
        augmentation: Name of an augmentation: `"flip"`, `"crop"`,
            `"crop_cutout"`, `"crop_flip"`, `"crop_flip_cutout"`,
            `"crop_flip_color_cutout"`, `"zoom_flip_color_cutout"` or
            `"crop_flip_tones_filter_noise"`. A function
            `(images, generator) -> images` of uint8 arrays, and `None`, are
            returned as they are.

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
