"""Tiny ImageNet, or any other folder of class folders, as arrays and batches.

Labels are always the positions of the class names in sorted order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_tinyalex.aliases import Images, Labels, PathLike
from keras_tinyalex.arguments import check_choice, check_number
from keras_tinyalex.datasets.classes import (
    TINY_IMAGENET_WORDS,
    Classes,
    select_classes,
)
from keras_tinyalex.datasets.download import download
from keras_tinyalex.datasets.images import IMAGE_SIZE
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.reading import read_parts
from keras_tinyalex.datasets.restructure import restructure

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_tinyalex.augmentation import Augmentation
    from keras_tinyalex.datasets.batches import Batches

__all__ = [
    "class_names",
    "download",
    "load_data",
    "load_dataset",
    "restructure",
]


def class_names(
    classes: Classes = None, source: PathLike | None = None
) -> tuple[str, ...]:
    """Returns the class names (wnids) in label order, which is sorted order.

    Args:
        classes: `None` (default) for all classes, an integer n for the first
            n sorted wnids, a list of wnids or names, or the path of a file
            with one of these per line.
        source: Where to select from; see `load_data`. Defaults to `None`:
            the 200 classes of Tiny ImageNet.

    Returns:
        Tuple of class names; label i is the i-th of them.

    Raises:
        ValueError: If a class is unknown or the number is out of range.

    Examples:
        >>> class_names(2)
        ('n01443537', 'n01629819')
        >>> class_names(["goldfish", "koala"])
        ('n01443537', 'n01882714')
    """
    if source is not None:
        return open_source(source).select(classes)
    words = TINY_IMAGENET_WORDS
    return select_classes(words, classes, words)


def load_data(
    source: PathLike, classes: Classes = None, progress: bool = False
) -> tuple[tuple[Images, Labels], tuple[Images, Labels]]:
    """Loads the train and val images as arrays, as `keras.datasets` does.

    Args:
        source: An official folder or zip file, a restructured folder, any
            folder of class folders, .npz files of downsampled ImageNet, or
            `"sample"` (the embedded sample).
        classes: `None` (default) for all classes, an integer n for the first
            n sorted wnids, a list of wnids or names, or the path of a file
            with one of these per line.
        progress: Whether to report progress on standard error. Defaults to
            `False`. What the source leaves out is said there once, always.

    Returns:
        `(x_train, y_train), (x_val, y_val)`: uint8 images
        `(N, 64, 64, 3)`, RGB, 0 to 255, and int64 labels `(N,)`. If the
        source has no val images, val are 10% of the train images of each
        class, at least one: those that `train` holds out, too.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If it has no known layout, a class is unknown, or images
            cannot be decoded. The message names these images.

    Examples:
        >>> (x_train, y_train), (x_val, y_val) = load_data("sample", classes=2)
        >>> x_train.shape, x_val.shape
        ((200, 64, 64, 3), (40, 64, 64, 3))
    """
    opened = open_source(source)
    names = opened.select(classes)
    opened.report_left_out()
    train, val = read_parts(opened, names, progress=progress)
    return (train.images, train.labels), (val.images, val.labels)


def load_dataset(
    source: PathLike,
    split: str = "train",
    classes: Classes = None,
    batch_size: int = 16,
    image_size: tuple[int, int] = IMAGE_SIZE,
    validation_split: float | None = None,
    seed: int | None = None,
    augmentation: str | Augmentation | None = None,
    shuffle: bool = True,
) -> tf.data.Dataset | Batches:
    """Loads one split as batches for `fit`, `evaluate` and `predict`.

    The first call decodes the images, in parallel, to a cache of uint8 pixels
    in `$KERAS_HOME/keras_tinyalex/decoded`, which takes a quarter of the
    space of float32. Later calls memory-map it. Batches are prefetched.

    Args:
        source: See `load_data`.
        split: `"train"` (default), `"val"`, `"held_out"`: the training
            images that `validation_split` holds out, or `"all"`: every image.
            A source without val images lends 10% of the train images of each
            class to `"val"`, as in `load_data`.
        classes: See `load_data`.
        batch_size: Number of images in a batch, a positive integer; the last
            batch may be smaller. Defaults to `16`.
        image_size: `(height, width)` in pixels; other sizes are resized.
            Defaults to `(64, 64)`.
        validation_split: Fraction in (0, 1) of each class's training images
            to hold out, at least one: they are not in `"train"` but in
            `"held_out"`. Which ones depends on `seed` only. Defaults to
            `None`: none.
        seed: Non-negative integer that makes the order and the augmentation
            of each epoch reproducible. Defaults to `None`: they differ
            between calls.
        augmentation: Name from `keras_tinyalex.augmentation`, or a function
            `(images, generator) -> images`. It is applied to `"train"` only.
            Defaults to `None`.
        shuffle: Whether `"train"` has a new order in each epoch. The other
            splits keep the order of the files. Defaults to `True`.

    Returns:
        A `tf.data.Dataset` on the TensorFlow backend, else a
        `keras.utils.PyDataset`, of batches `(images, labels)`: uint8
        `(batch, height, width, 3)` and int64 `(batch,)`. Its attributes
        `class_names` (in label order) and `file_names` describe the data.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: As `load_data`, and if an argument is out of its range.

    Examples:
        >>> dataset = load_dataset("sample", classes=2)
        >>> images, labels = next(iter(dataset))
        >>> tuple(images.shape)
        (16, 64, 64, 3)
    """
    # `batches` imports Keras, which `download` and `restructure` do without.
    from keras_tinyalex.datasets.batches import Batches

    _check_split(split, validation_split)
    opened = open_source(source)
    names = opened.select(classes)
    opened.report_left_out()
    if split == "val" and "val" in opened.images:
        validation_split = None
    (data,) = read_parts(
        opened,
        names,
        ["val" if split == "held_out" else split],
        image_size,
        validation_split=validation_split,
        seed=0 if validation_split is None else seed or 0,
        cache=True,
    )
    training = split == "train"
    batches = Batches(
        data,
        batch_size,
        seed=seed,
        augmentation=augmentation if training else None,
        shuffle=shuffle and training,
    )
    return batches.feed()


def _check_split(split: str, validation_split: float | None) -> None:
    check_choice("split", split, ("train", "val", "held_out", "all"))
    if validation_split is not None:
        check_number("validation_split", validation_split, above=0, below=1)
    elif split == "held_out":
        raise ValueError(
            "`validation_split` must be a fraction, e.g. 0.1, if `split` is "
            "'held_out'. Received: validation_split=None"
        )
