"""Loads Tiny ImageNet, or any folder of class folders.

Labels are the positions of the class names in sorted order, always.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_tinyalex import augmentation as augmentations
from keras_tinyalex.augmentation import Augmentation, Mixing
from keras_tinyalex.datasets.cache import decoded, joined
from keras_tinyalex.datasets.classes import TINY_IMAGENET_WORDS, select_classes
from keras_tinyalex.datasets.download import download
from keras_tinyalex.datasets.images import IMAGE_SIZE, check_whole, decode_image
from keras_tinyalex.datasets.layout import LabelledImage, Source, open_source
from keras_tinyalex.datasets.restructure import restructure
from keras_tinyalex.progress import Progress

__all__ = [
    "class_names",
    "download",
    "load_data",
    "load_dataset",
    "restructure",
]

Classes = int | str | os.PathLike[str] | Sequence[str] | None


def class_names(
    classes: Classes = None, source: str | os.PathLike[str] | None = None
) -> tuple[str, ...]:
    """Returns the class names (wnids) in label order, which is sorted order.

    Args:
        classes: `None` (all), an int `n` (the first `n` sorted), a list of
            wnids or names, or a file with one wnid or name a line.
        source: Where to choose from; see `load_data`. Default: the 200
            classes of Tiny ImageNet.

    Returns:
        Tuple of class names; label `i` is the `i`-th.

    Raises:
        ValueError: If a class is unknown or the number is out of range.

    Examples:
        >>> class_names(2)
        ('n01443537', 'n01629819')
        >>> class_names(["goldfish", "koala"])
        ('n01443537', 'n01882714')
    """
    if source is None:
        words = TINY_IMAGENET_WORDS
        return select_classes(sorted(words), classes, words)
    opened = open_source(source)
    return _selected(opened, classes)


def load_data(
    source: str | os.PathLike[str], classes: Classes = None, progress: bool = False
) -> tuple[tuple[npt.NDArray[Any], npt.NDArray[Any]], tuple[Any, Any]]:
    """Loads the train and val images as arrays, as `keras.datasets` does.

    Args:
        source: An official folder or zip file, a restructured folder, any
            folder of class folders, or `"sample"` (the embedded sample).
        classes: `None` (all), an int `n` (the first `n` sorted wnids), a
            list of wnids or names, or a file with one a line.
        progress: Whether to report progress on standard error.

    Returns:
        `(x_train, y_train), (x_val, y_val)`: uint8 images
        `(N, 64, 64, 3)`, RGB, 0 to 255, and int64 labels `(N,)`. A source
        without val images gives val arrays of length 0.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If it has no known layout, a class is unknown, or an
            image cannot be decoded; each bad image is named.

    Examples:
        >>> (x_train, y_train), (x_val, y_val) = load_data("sample", classes=2)
        >>> x_train.shape, x_val.shape
        ((200, 64, 64, 3), (40, 64, 64, 3))
    """
    opened = open_source(source)
    names = _selected(opened, classes)
    train, val = (
        read_split(opened, split, names, progress=progress)
        for split in ("train", "val")
    )
    return (train.images, train.labels), (val.images, val.labels)


def load_dataset(
    source: str | os.PathLike[str],
    split: str = "train",
    classes: Classes = None,
    batch_size: int = 16,
    image_size: tuple[int, int] = IMAGE_SIZE,
    validation_split: float | None = None,
    seed: int | None = None,
    augmentation: str | Augmentation | None = None,
    shuffle: bool = True,
) -> Any:
    """Loads one split as batches for `fit`, `evaluate` and `predict`.

    The images are decoded once, in parallel, and kept as uint8, a quarter of
    a float32 cache, in `$KERAS_HOME/keras_tinyalex/decoded`, from where they
    are memory-mapped; batches are prefetched.

    Args:
        source: See `load_data`.
        split: `"train"`, `"val"`, or `"held_out"`: the part of the training
            images that `validation_split` keeps back.
        classes: See `load_data`.
        batch_size: Images in a batch; the last one may be smaller.
        image_size: `(height, width)` in pixels; other sizes are resized.
        validation_split: Fraction in (0, 1) of each class's training images
            that is held out of `"train"` and is `"held_out"`. The choice
            depends on `seed` only.
        seed: Orders and augments each epoch repeatably; `None` does so
            differently each time.
        augmentation: Name from `keras_tinyalex.augmentation`, or a function
            `(images, generator) -> images`; training images only.
        shuffle: Whether training images come in a new order each epoch.
            Other splits keep the order of the files.

    Returns:
        A `tf.data.Dataset` on the TensorFlow backend, else a
        `keras.utils.PyDataset`, of batches `(images, labels)`: uint8
        `(batch, height, width, 3)` and int64 `(batch,)`. Its attributes
        `class_names` (in label order) and `file_names` stay with it.

    Raises:
        FileNotFoundError, ValueError: As `load_data`, and if an argument is
            out of its range.

    Examples:
        >>> dataset = load_dataset("sample", classes=2)
        >>> images, labels = next(iter(dataset))
        >>> tuple(images.shape)
        (16, 64, 64, 3)
    """
    _check_split(split, validation_split)
    opened = open_source(source)
    names = _selected(opened, classes)
    if split == "val" and "val" not in opened.images:
        raise ValueError(
            "`split` 'val' needs a source with val images; this one has training "
            "images only. Hold a part of them out with `validation_split=0.1` and "
            f"`split='held_out'`. Received: source={str(source)!r}"
        )
    part = "val" if split == "val" else "train"
    data = read_split(opened, part, names, image_size, cache=True)
    if validation_split is not None and split != "val":
        data = data.part(split == "held_out", validation_split, seed or 0)
    training = split == "train"
    batches = Batches(
        data,
        batch_size,
        seed=seed,
        augmentation=augmentation if training else None,
        shuffle=shuffle and training,
    )
    return batches.feed()


@dataclass(frozen=True)
class LabelledArrays:
    """Decoded images of one split.

    Attributes:
        images: uint8 `(N, H, W, 3)`.
        labels: int64 `(N,)`.
        class_names: Class names in label order.
        file_names: N paths inside the source.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    file_names: tuple[str, ...]

    def part(self, held_out: bool, fraction: float, seed: int) -> LabelledArrays:
        """Returns the held-out fraction of each class, or the rest."""
        chosen = np.zeros(len(self.labels), bool)
        for label in range(len(self.class_names)):
            (indices,) = np.nonzero(self.labels == label)
            shuffled = np.random.default_rng([seed, label]).permutation(indices)
            chosen[shuffled[: round(fraction * len(indices))]] = True
        keep = np.flatnonzero(chosen == held_out)
        if not len(keep):
            raise ValueError(
                "`validation_split` must leave images in both parts of the "
                f"{len(self.labels)} training images. "
                f"Received: validation_split={fraction}"
            )
        return LabelledArrays(
            self.images[keep],
            self.labels[keep],
            self.class_names,
            tuple(self.file_names[i] for i in keep),
        )


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of decoded images in an order fixed by `(seed, epoch)`.

    Works alike on every Keras backend. `epoch` counts up after each epoch;
    set it to continue a training where it stopped.

    Args:
        data: A `LabelledArrays`.
        batch_size: Images in a batch; the last one may be smaller.
        seed: See `load_dataset`.
        augmentation: See `load_dataset`.
        shuffle: See `load_dataset`.
        one_hot: Whether labels are float32 probabilities
            `(N, num_classes)` instead of int64 `(N,)`.
        mixing: A `keras_tinyalex.augmentation.Mixing`, which needs
            `one_hot`, or `None`.
        mixing_probability: Part of the batches that are mixed, drawn for each.
        mixed_epochs: Number of epochs that are mixed; `None` for all.
    """

    def __init__(
        self,
        data: LabelledArrays,
        batch_size: int = 16,
        seed: int | None = None,
        augmentation: str | Augmentation | None = None,
        shuffle: bool = True,
        *,
        one_hot: bool = False,
        mixing: Mixing | None = None,
        mixing_probability: float = 1.0,
        mixed_epochs: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                "`batch_size` must be a positive integer. "
                f"Received: batch_size={batch_size!r}"
            )
        self.data = data
        self.class_names = data.class_names
        self.file_names = data.file_names
        self.batch_size = batch_size
        self.augmentation = augmentations.get(augmentation)
        self.shuffle = shuffle
        self.one_hot = one_hot
        self.mixing = mixing
        self.mixing_probability = mixing_probability
        self.mixed_epochs = mixed_epochs
        self.seed = secrets.randbits(64) if seed is None else seed
        self.epoch = 0
        # The last epoch's order, so that it is drawn once.
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.arange(0))

    def __len__(self) -> int:
        return -(-len(self.data.labels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        return self._batch(self.epoch, index)

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def feed(self) -> Any:
        """Returns these batches in the form that Keras' backend reads fastest."""
        tensorflow = keras.backend.backend() == "tensorflow"
        return self._as_tf_data() if tensorflow else self

    def _as_tf_data(self) -> Any:
        import tensorflow as tf

        def one_epoch() -> Iterator[Any]:
            epoch = self.epoch
            last = len(self) - 1
            for index in range(last + 1):
                yield (*self._batch(epoch, index), epoch + (index == last))

        def count(epoch: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            self.epoch = int(epoch)
            return epoch

        # Without control flow there is nothing to convert, which takes 0.05 s.
        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def hand_over(images: Any, labels: Any, epoch: Any) -> tuple[Any, Any]:
            counted = tf.numpy_function(count, [epoch], tf.int64)
            with tf.control_dependencies([counted]):
                return tf.identity(images), tf.identity(labels)

        shape, dtype = self.data.images.shape[1:], self.data.images.dtype
        labels = tf.TensorSpec((None,), self.data.labels.dtype)
        if self.one_hot:
            labels = tf.TensorSpec((None, len(self.class_names)), tf.float32)
        images = tf.TensorSpec((None, *shape), dtype)
        signature = (images, labels, tf.TensorSpec((), tf.int64))
        dataset = tf.data.Dataset.from_generator(one_epoch, output_signature=signature)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(self)))
        # Keras' own way, prefetch(AUTOTUNE), stops between two epochs for up to as
        # long as one: the thread that tunes has to wake up first.
        options = tf.data.Options()
        options.autotune.enabled = False
        # Counted behind the prefetching, which runs ahead: an epoch is over when its
        # last batch is taken, and not where it is left early, as Keras does to look
        # at a batch.
        dataset = dataset.prefetch(2).map(hand_over).with_options(options)
        dataset.class_names = self.class_names
        dataset.file_names = self.file_names
        return dataset

    def _batch(
        self, epoch: int, index: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        first = index * self.batch_size
        chosen = self._epoch_order(epoch)[first : first + self.batch_size]
        images = self.data.images[chosen]
        labels: npt.NDArray[Any] = self.data.labels[chosen]
        generator = np.random.default_rng([self.seed, epoch, index])
        if self.augmentation is not None:
            images = self.augmentation(images, generator)
        if self.one_hot:
            labels = np.eye(len(self.class_names), dtype=np.float32)[labels]
        mixed = self.mixed_epochs is None or epoch < self.mixed_epochs
        if self.mixing and mixed and generator.random() < self.mixing_probability:
            images, labels = self.mixing(images, labels, generator)
        return images, labels

    def _epoch_order(self, epoch: int) -> npt.NDArray[np.int64]:
        cached, order = self._order
        if cached != epoch:
            order = np.arange(len(self.data.labels))
            if self.shuffle:
                order = np.random.default_rng([self.seed, epoch]).permutation(order)
            self._order = (epoch, order)
        return order


def read_split(
    source: Source,
    split: str,
    class_names: Sequence[str],
    image_size: tuple[int, int] = IMAGE_SIZE,
    progress: bool = False,
    cache: bool = False,
) -> LabelledArrays:
    """Decodes all images of `class_names` in one split, in parallel.

    With `cache` they are decoded once and memory-mapped ever after.

    Raises:
        ValueError: If images cannot be decoded; each one is named.
    """
    labels_of = {name: label for label, name in enumerate(class_names)}
    found = [i for i in source.images.get(split, ()) if i.class_name in labels_of]

    decode = functools.partial(_decode, source, split, found, image_size, progress)
    if cache:
        images = decoded(source, found, image_size, decode)
    else:
        images = joined(decode(), (len(found), *image_size, 3))
    return LabelledArrays(
        images,
        np.array([labels_of[i.class_name] for i in found], np.int64),
        tuple(class_names),
        tuple(image.name for image in found),
    )


def _decode(
    source: Source,
    split: str,
    found: Sequence[LabelledImage],
    image_size: tuple[int, int],
    progress: bool,
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields the pixels of `found`, 100 images at a time, decoded in parallel."""
    problems: list[str] = []

    def read(chunk: Sequence[LabelledImage]) -> npt.NDArray[np.uint8]:
        pixels = np.empty((len(chunk), *image_size, 3), np.uint8)
        for index, image in enumerate(chunk):
            try:
                pixels[index] = decode_image(source.read(image), image_size)
            except (ValueError, OSError) as error:
                problems.append(f"{source.describe(image)}: {error}")
        return pixels

    chunks = [found[i : i + 100] for i in range(0, len(found), 100)]
    with (
        Progress(f"decoding {split}", len(found), "images", progress) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for pixels in pool.map(read, chunks):
            yield pixels
            bar.advance(len(pixels))
    if problems:
        shown = "\n  ".join(sorted(problems)[:20])
        first = " (the first 20)" if len(problems) > 20 else ""
        raise ValueError(
            f"{len(problems)} of {len(found)} {split} images cannot be decoded; "
            f"restore or remove them{first}:\n  {shown}"
        )


def find_bad_images(
    source: str | os.PathLike[str], progress: bool = False
) -> tuple[int, list[tuple[str, str]]]:
    """Decodes every image of a source wholly and reports the bad ones.

    A file whose content is of another format than its suffix says, e.g. a
    GIF named `.JPEG`, is reported too, though it would load; so is a JPEG
    that lacks no more than its end.

    Args:
        source: See `load_data`.
        progress: Whether to report progress on standard error.

    Returns:
        The number of images, and a list of `(where, problem)`.
    """
    opened = open_source(source)
    found = [image for images in opened.images.values() for image in images]

    def check(image: LabelledImage) -> tuple[str, str] | None:
        try:
            data = opened.read(image)
            decode_image(data, image_size=None)
            check_whole(image.name, data)
        except (ValueError, OSError) as error:
            return opened.describe(image), str(error)
        return None

    problems = []
    with (
        Progress("checking", len(found), "images", progress) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for problem in pool.map(check, found):
            bar.advance()
            if problem is not None:
                problems.append(problem)
    return len(found), problems


def _selected(source: Source, classes: Classes) -> tuple[str, ...]:
    return select_classes(source.class_names, classes, source.words)


def _check_split(split: str, validation_split: float | None) -> None:
    if split not in ("train", "val", "held_out"):
        raise ValueError(
            f"`split` must be 'train', 'val' or 'held_out'. Received: split={split!r}"
        )
    if validation_split is not None and not 0 < validation_split < 1:
        raise ValueError(
            "`validation_split` must be a fraction between 0 and 1. "
            f"Received: validation_split={validation_split!r}"
        )
    if split == "held_out" and validation_split is None:
        raise ValueError(
            "`split` 'held_out' needs `validation_split`, e.g. 0.1. "
            "Received: validation_split=None"
        )
