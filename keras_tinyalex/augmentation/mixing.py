"""Mixings, which blend the images and labels of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import Images
from keras_tinyalex.augmentation.squares import draw_squares

SoftLabels: TypeAlias = npt.NDArray[np.float32]
"""Probabilities of the classes, `(N, num_classes)`."""

Mixing: TypeAlias = Callable[
    [Images, SoftLabels, np.random.Generator], tuple[Images, SoftLabels]
]
"""A function `(images, labels, generator) -> (images, labels)`."""


def mixup(
    images: Images, labels: SoftLabels, generator: np.random.Generator
) -> tuple[Images, SoftLabels]:
    """Mixup: blends each image, and its label, with another one of the batch.

    The weight of the other image is drawn from Beta(0.8, 0.8), for each image
    anew (Zhang et al., 2017, https://arxiv.org/abs/1710.09412).

    Args:
        images: uint8 array `(N, H, W, C)`, which is not modified.
        labels: float32 probabilities `(N, num_classes)`, which are not
            modified.
        generator: A `numpy.random.Generator`.

    Returns:
        Images and labels of the same shapes and dtypes.

    Examples:
        >>> images = np.array([0, 200], "uint8").reshape(2, 1, 1, 1)
        >>> labels = np.eye(2, dtype="float32")
        >>> mixed, _ = mixup(images, labels, np.random.default_rng(0))
        >>> mixed.shape
        (2, 1, 1, 1)
    """
    weights = generator.beta(0.8, 0.8, len(images)).astype(np.float32)
    other = generator.permutation(len(images))
    difference = images[other].astype(np.float32) - images
    mixed = images + weights[:, None, None, None] * difference
    return mixed.round().astype(np.uint8), _blend(labels, other, weights)


def cutmix(
    images: Images, labels: SoftLabels, generator: np.random.Generator
) -> tuple[Images, SoftLabels]:
    """CutMix: pastes a square of another image of the batch into each image.

    The square's area is uniform between 0 and the whole image. Labels are
    blended by the area that is pasted (Yun et al., 2019,
    https://arxiv.org/abs/1905.04899).

    Args:
        images: uint8 array `(N, H, W, C)`, which is not modified.
        labels: float32 probabilities `(N, num_classes)`, which are not
            modified.
        generator: A `numpy.random.Generator`.

    Returns:
        Images and labels of the same shapes and dtypes.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> labels = np.eye(2, dtype="float32")
        >>> _, mixed = cutmix(images, labels, np.random.default_rng(0))
        >>> mixed.sum(axis=1)
        array([1., 1.], dtype=float32)
    """
    side = min(images.shape[1:3])
    sizes = (side * np.sqrt(generator.random(len(images)))).astype(np.int64)
    inside = draw_squares(images, generator, sizes)
    other = generator.permutation(len(images))
    mixed = np.where(inside[..., None], images[other], images)
    weights = inside.mean(axis=(1, 2), dtype=np.float32)
    return mixed, _blend(labels, other, weights)


def mixup_cutmix(
    images: Images, labels: SoftLabels, generator: np.random.Generator
) -> tuple[Images, SoftLabels]:
    """Applies `mixup` or `cutmix` to a batch, each with probability 0.5.

    Args:
        images: uint8 array `(N, H, W, C)`, which is not modified.
        labels: float32 probabilities `(N, num_classes)`, which are not
            modified.
        generator: A `numpy.random.Generator`.

    Returns:
        Images and labels of the same shapes and dtypes.
    """
    mix = mixup if generator.random() < 0.5 else cutmix
    return mix(images, labels, generator)


def _blend(
    labels: SoftLabels, other: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]
) -> SoftLabels:
    return labels + weights[:, None] * (labels[other] - labels)


MIXINGS: dict[str, Mixing] = {
    "mixup": mixup,
    "cutmix": cutmix,
    "mixup_cutmix": mixup_cutmix,
}
