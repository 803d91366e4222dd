"""Augmentation of batches of uint8 images.

An augmentation is a function `(images, generator) -> images` of a uint8 array
`(N, H, W, C)` and a `numpy.random.Generator`. Each image gets its own random
parameters. Pixels are indexed, not interpolated, which makes the cost small
compared with a training step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import Images

SoftLabels: TypeAlias = npt.NDArray[np.float32]
"""Probabilities of the classes, `(N, num_classes)`."""

Augmentation: TypeAlias = Callable[[Images, np.random.Generator], Images]
"""A function `(images, generator) -> images`."""

Mixing: TypeAlias = Callable[
    [Images, SoftLabels, np.random.Generator], tuple[Images, SoftLabels]
]
"""A function `(images, labels, generator) -> (images, labels)`."""


def flip(images: Images, generator: np.random.Generator) -> Images:
    """Flips each image horizontally with probability 0.5.

    Args:
        images: uint8 array `(N, H, W, C)`, which is not modified.
        generator: A `numpy.random.Generator`.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> flip(images, np.random.default_rng(0)).shape
        (2, 64, 64, 3)
    """
    chosen = _draw_flips(images, generator)
    flipped = images.copy()
    flipped[chosen] = images[chosen][:, :, ::-1]
    return flipped


def crop_flip(
    images: Images, generator: np.random.Generator, padding: int = 8
) -> Images:
    """Takes a random crop of each padded image, then flips half of the images.

    The padding is by reflection, and each image is cropped to its size at its
    own offset. This is the augmentation of ResNet on CIFAR (He et al., 2015,
    https://arxiv.org/abs/1512.03385), scaled to 64x64 pixels.

    Args:
        images: uint8 array `(N, H, W, C)`, which is not modified.
        generator: A `numpy.random.Generator`.
        padding: Number of pixels on each side, `0 <= padding < min(H, W)`.
            Defaults to `8`.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> crop_flip(images, np.random.default_rng(0)).shape
        (2, 64, 64, 3)
    """
    rows, columns = _draw_crops(images, generator, padding)
    flipped = _draw_flips(images, generator)
    columns[flipped] = columns[flipped][:, ::-1]
    return _take_pixels(images, rows, columns)


def crop(images: Images, generator: np.random.Generator, padding: int = 8) -> Images:
    """Takes a random crop of each padded image, as `crop_flip` without the flips.

    For classes that a mirror would change, such as letters or left and right.

    Args:
        images: See `crop_flip`.
        generator: See `crop_flip`.
        padding: See `crop_flip`.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> crop(images, np.random.default_rng(0)).shape
        (2, 64, 64, 3)
    """
    return _take_pixels(images, *_draw_crops(images, generator, padding))


def cutout(images: Images, generator: np.random.Generator, size: int = 16) -> Images:
    """Cutout: covers a random square of each image with gray.

    The center is any pixel, so a part of the square may be outside of the
    image (DeVries and Taylor, 2017, https://arxiv.org/abs/1708.04552).

    Args:
        images: uint8 array `(N, H, W, C)`, which is not modified.
        generator: A `numpy.random.Generator`.
        size: Side of the square in pixels, >= 0. Defaults to `16`.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> int(cutout(images, np.random.default_rng(0)).max())
        128
    """
    count, height, width, _ = images.shape
    tops = generator.integers(0, height, (count, 1)) - size // 2
    lefts = generator.integers(0, width, (count, 1)) - size // 2
    covered = images.copy()
    for image, (top,), (left,) in zip(covered, tops, lefts, strict=True):
        image[max(top, 0) : top + size, max(left, 0) : left + size] = 128
    return covered


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


def zoom_crop(
    images: Images, generator: np.random.Generator, scale: float = 0.6
) -> Images:
    """Crops a random box of each image and resizes it to the image's size.

    Height and width are drawn independently, each between `scale` and 1 of
    those of the image. Resizing is by nearest neighbor.

    Args:
        images: uint8 array `(N, H, W, C)`, which is not modified.
        generator: A `numpy.random.Generator`.
        scale: Minimum side of a box as a fraction of the image's, in (0, 1].
            Defaults to `0.6`.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> zoom_crop(images, np.random.default_rng(0)).shape
        (2, 64, 64, 3)
    """
    count, height, width, _ = images.shape

    def draw(length: int) -> npt.NDArray[np.int64]:
        sides = length * generator.uniform(scale, 1, (count, 1))
        starts = generator.uniform(0, 1, (count, 1)) * (length - sides)
        positions = starts + (np.arange(length) + 0.5) * (sides / length)
        return np.minimum(positions.astype(np.int64), length - 1)

    return _take_pixels(images, draw(height), draw(width))


def _draw_crops(
    images: Images, generator: np.random.Generator, padding: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns rows `(N, H)` and columns `(N, W)` of crops of the padded images."""
    count, height, width, _ = images.shape

    def draw(length: int) -> npt.NDArray[np.int64]:
        starts = generator.integers(-padding, padding + 1, (count, 1))
        # Reflect at the first pixel, then at the last.
        indices = np.abs(starts + np.arange(length))
        reflected: npt.NDArray[np.int64] = np.minimum(
            indices, 2 * (length - 1) - indices
        )
        return reflected

    return draw(height), draw(width)


def _draw_flips(
    images: Images, generator: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Returns which images to flip, each with probability 0.5."""
    return generator.random(len(images)) < 0.5


def _take_pixels(
    images: Images, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> Images:
    """Returns the pixels at rows `(N, H)` and columns `(N, W)`, given per image.

    This loop over the images is 5 times as fast as one indexing of the batch.
    """
    count, channels = len(images), images.shape[-1]
    result = np.empty((count, rows.shape[1], columns.shape[1], channels), images.dtype)
    for new, image, row, column in zip(result, images, rows, columns, strict=True):
        image.take(row, axis=0).take(column, axis=1, out=new)
    return result


def _draw_squares(
    images: Images, generator: np.random.Generator, sizes: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Returns masks `(N, H, W)` of squares around random centers."""
    count, height, width, _ = images.shape

    def draw(length: int) -> npt.NDArray[np.bool_]:
        starts = generator.integers(0, length, count) - sizes // 2
        position = np.arange(length) - starts[:, None]
        return (position >= 0) & (position < sizes[:, None])

    return draw(height)[:, :, None] & draw(width)[:, None, :]


def _compose(*steps: Augmentation) -> Augmentation:
    def composed(images: Images, generator: np.random.Generator) -> Images:
        for step in steps:
            images = step(images, generator)
        return images

    return composed


# A search tries those that are named in `tuning/spaces.py`, too.
AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": flip,
    "crop": crop,
    "crop_cutout": _compose(crop, cutout),
    "crop_flip": crop_flip,
    "crop_flip_cutout": _compose(crop_flip, cutout),
    "crop_flip_color_cutout": _compose(crop_flip, color, cutout),
    "zoom_flip_color_cutout": _compose(zoom_crop, flip, color, cutout),
}


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
    inside = _draw_squares(images, generator, sizes)
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


def get(augmentation: str | Augmentation | None) -> Augmentation | None:
    """Returns the augmentation with a given name.

    Args:
        augmentation: Name of an augmentation: `"flip"`, `"crop"`,
            `"crop_cutout"`, `"crop_flip"`, `"crop_flip_cutout"`,
            `"crop_flip_color_cutout"` or `"zoom_flip_color_cutout"`. A function
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
