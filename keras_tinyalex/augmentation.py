"""Augmentation of uint8 image batches by index arithmetic.

An augmentation is a function `(images, generator) -> images` over a uint8
array `(N, H, W, C)`. Each image draws its own parameters, and nothing is
interpolated, so the cost beside a training step is next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.float32]
Augmentation = Callable[[Images, np.random.Generator], Images]
Mixing = Callable[[Images, Labels, np.random.Generator], tuple[Images, Labels]]


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
    mirrored = _mirrored(images, generator)
    flipped = images.copy()
    flipped[mirrored] = images[mirrored][:, :, ::-1]
    return flipped


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

    def draw(length: int) -> npt.NDArray[np.int64]:
        starts = generator.integers(-padding, padding + 1, (count, 1))
        # Reflected at the first pixel, then at the last.
        places = np.abs(starts + np.arange(length))
        reflected: npt.NDArray[np.int64] = np.minimum(places, 2 * (length - 1) - places)
        return reflected

    rows, columns = draw(height), draw(width)
    mirrored = _mirrored(images, generator)
    columns[mirrored] = columns[mirrored][:, ::-1]
    return _at(images, rows, columns)


def cutout(images: Images, generator: np.random.Generator, size: int = 16) -> Images:
    """Paints a grey square at a random place of each image.

    The centre may lie anywhere, so that part of the square may fall outside
    (DeVries and Taylor, 2017, https://arxiv.org/abs/1708.04552).

    Args:
        images: uint8 array `(N, H, W, C)`; it is not changed.
        generator: Source of randomness.
        size: Side of the square in pixels, >= 0. Default 16.

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
    painted = images.copy()
    for image, (top,), (left,) in zip(painted, tops, lefts, strict=True):
        image[max(top, 0) : top + size, max(left, 0) : left + size] = 128
    return painted


def color(
    images: Images, generator: np.random.Generator, strength: float = 0.2
) -> Images:
    """Changes brightness and contrast of each image, and of each channel a bit.

    Each channel is mapped by `a * x + b`, looked up in a table.

    Args:
        images: uint8 array `(N, H, W, C)`; it is not changed.
        generator: Source of randomness.
        strength: Largest relative change of contrast, and of brightness as a
            part of 255, in [0, 1]. Default 0.2.

    Returns:
        uint8 array of the same shape.

    Examples:
        >>> images = np.zeros((2, 64, 64, 3), "uint8")
        >>> color(images, np.random.default_rng(0)).shape
        (2, 64, 64, 3)
    """
    count, channels = len(images), images.shape[-1]

    def draw() -> npt.NDArray[np.float64]:
        whole = generator.uniform(-strength, strength, (count, 1))
        return whole + generator.uniform(-strength, strength, (count, channels)) / 3

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
    """Crops a random box of each image and enlarges it to the image's size.

    Height and width are drawn apart, each between `scale` and 1 of the
    image's. Pixels are repeated, not interpolated.

    Args:
        images: uint8 array `(N, H, W, C)`; it is not changed.
        generator: Source of randomness.
        scale: Smallest side of a box, as a part of the image's, in (0, 1].
            Default 0.6.

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
        places = starts + (np.arange(length) + 0.5) * (sides / length)
        return np.minimum(places.astype(np.int64), length - 1)

    return _at(images, draw(height), draw(width))


def _mirrored(images: Images, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which images to mirror: each with probability one half."""
    return generator.random(len(images)) < 0.5


def _at(
    images: Images, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> Images:
    """The pixels of each image at its own rows and columns, `(N, H)` and `(N, W)`.

    A loop over the images is five times as fast as one index for all of them.
    """
    count, channels = len(images), images.shape[-1]
    taken = np.empty((count, rows.shape[1], columns.shape[1], channels), images.dtype)
    for new, image, row, column in zip(taken, images, rows, columns, strict=True):
        image.take(row, axis=0).take(column, axis=1, out=new)
    return taken


def _boxes(
    images: Images, generator: np.random.Generator, sizes: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Masks `(N, H, W)` of squares around random centres."""
    count, height, width, _ = images.shape

    def draw(length: int) -> npt.NDArray[np.bool_]:
        starts = generator.integers(0, length, count) - sizes // 2
        place = np.arange(length) - starts[:, None]
        return (place >= 0) & (place < sizes[:, None])

    return draw(height)[:, :, None] & draw(width)[:, None, :]


def _chain(*steps: Augmentation) -> Augmentation:
    def chained(images: Images, generator: np.random.Generator) -> Images:
        for step in steps:
            images = step(images, generator)
        return images

    return chained


AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": flip,
    "crop_flip": crop_flip,
    "crop_flip_cutout": _chain(crop_flip, cutout),
    "crop_flip_color_cutout": _chain(crop_flip, color, cutout),
    "zoom_flip_color_cutout": _chain(zoom_crop, flip, color, cutout),
}


def mixup(
    images: Images, labels: Labels, generator: np.random.Generator
) -> tuple[Images, Labels]:
    """Blends each image, and its label, with another one of the batch.

    The part of the other is drawn from Beta(0.8, 0.8) for each image (Zhang
    et al., 2017, https://arxiv.org/abs/1710.09412).

    Args:
        images: uint8 array `(N, H, W, C)`; it is not changed.
        labels: float32 probabilities `(N, num_classes)`; not changed.
        generator: Source of randomness.

    Returns:
        Images and labels of the same shapes and dtypes.

    Examples:
        >>> images = np.array([0, 200], "uint8").reshape(2, 1, 1, 1)
        >>> labels = np.eye(2, dtype="float32")
        >>> mixed, _ = mixup(images, labels, np.random.default_rng(0))
        >>> mixed.shape
        (2, 1, 1, 1)
    """
    part = generator.beta(0.8, 0.8, len(images)).astype(np.float32)
    other = generator.permutation(len(images))
    blend = part[:, None, None, None]
    mixed = images + blend * (images[other].astype(np.float32) - images)
    return mixed.round().astype(np.uint8), _blend(labels, other, part)


def cutmix(
    images: Images, labels: Labels, generator: np.random.Generator
) -> tuple[Images, Labels]:
    """Pastes a square of another image of the batch into each image.

    The square's area is drawn evenly from nothing to the whole image; labels
    are blended by the area pasted (Yun et al., 2019,
    https://arxiv.org/abs/1905.04899).

    Args:
        images: uint8 array `(N, H, W, C)`; it is not changed.
        labels: float32 probabilities `(N, num_classes)`; not changed.
        generator: Source of randomness.

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
    inside = _boxes(images, generator, sizes)
    other = generator.permutation(len(images))
    mixed = np.where(inside[..., None], images[other], images)
    part = inside.mean(axis=(1, 2), dtype=np.float32)
    return mixed, _blend(labels, other, part)


def mixup_cutmix(
    images: Images, labels: Labels, generator: np.random.Generator
) -> tuple[Images, Labels]:
    """Applies `mixup` or `cutmix` to a batch, each with probability one half."""
    mix = mixup if generator.random() < 0.5 else cutmix
    return mix(images, labels, generator)


def _blend(
    labels: Labels, other: npt.NDArray[np.int64], part: npt.NDArray[np.float32]
) -> Labels:
    return labels + part[:, None] * (labels[other] - labels)


MIXINGS: dict[str, Mixing] = {
    "mixup": mixup,
    "cutmix": cutmix,
    "mixup_cutmix": mixup_cutmix,
}


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
