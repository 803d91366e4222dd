"""Decoded images of one split, and batches of them for Keras."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from keras_tinyalex import augmentation as augmentations
from keras_tinyalex.aliases import Images, Labels
from keras_tinyalex.arguments import check_integer
from keras_tinyalex.augmentation import Augmentation, Mixing
from keras_tinyalex.datasets.cache import read_ahead, release
from keras_tinyalex.datasets.source import choose_held_out

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class LabelledArrays:
    """Decoded images of one split and their labels.

    Attributes:
        images: uint8 array `(N, H, W, 3)`, RGB, 0 to 255.
        labels: int64 array `(N,)`.
        class_names: Class names in label order.
        file_names: N paths, relative to the source.
        weights: float32 array `(N,)`, what each image counts in the loss, or
            `None`: all the same.
        targets: float32 array `(N, num_classes)`, probabilities to learn instead
            of the labels, or `None`. Batches with `one_hot` have them.
    """

    images: Images
    labels: Labels
    class_names: tuple[str, ...]
    file_names: tuple[str, ...]
    weights: npt.NDArray[np.float32] | None = None
    targets: npt.NDArray[np.float32] | None = None

    def part(self, held_out: bool, fraction: float, seed: int) -> LabelledArrays:
        """Returns the held-out images of each class, or the other ones.

        Each class has at least one image in each part.

        Args:
            held_out: Which part to return.
            fraction: Fraction of each class to hold out, in (0, 1).
            seed: Non-negative integer that the choice depends on.

        Raises:
            ValueError: If a class has fewer than two images.
        """
        chosen = choose_held_out(self.labels, self.class_names, fraction, seed)
        keep = np.flatnonzero(chosen == held_out)
        return LabelledArrays(
            self.images[keep],
            self.labels[keep],
            self.class_names,
            tuple(self.file_names[i] for i in keep),
            None if self.weights is None else self.weights[keep],
            None if self.targets is None else self.targets[keep],
        )

    def balanced(self) -> LabelledArrays:
        """Returns the same images, with weights whose sum is equal in all classes.

        Their mean is 1. Weights that the images had are multiplied.
        """
        labels, before = self.labels, self.weights
        sums = np.bincount(labels, before, len(self.class_names))
        weights = (np.ones(len(labels)) if before is None else before) / sums[labels]
        weights *= len(labels) / weights.sum()
        return dataclasses.replace(self, weights=weights.astype(np.float32))


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of decoded images in an order fixed by `(seed, epoch)`.

    Works on every Keras backend. The attribute `epoch` is the number of the
    current epoch, from 0; set it to resume training at that epoch.

    Args:
        data: A `LabelledArrays`.
        batch_size: Number of images in a batch, a positive integer; the last
            batch may be smaller. Defaults to `16`.
        seed: See `load_dataset`. Defaults to `None`.
        augmentation: See `load_dataset`. Defaults to `None`.
        shuffle: See `load_dataset`. Defaults to `True`.
        one_hot: Whether labels are float32 probabilities `(N, num_classes)`
            instead of int64 `(N,)`. Defaults to `False`.
        mixing: A function such as `keras_tinyalex.augmentation.mixup`, for
            which `one_hot` must be `True`, or `None` (default).
        mixing_probability: Probability with which a batch is mixed. Defaults
            to `1.0`.
        mixed_epochs: Number of epochs with mixing, the first ones. Defaults
            to `None`: all epochs.

    Examples:
        >>> images = np.zeros((20, 64, 64, 3), "uint8")
        >>> labels = np.arange(20) % 2
        >>> names = tuple(f"{i}.JPEG" for i in range(20))
        >>> data = LabelledArrays(images, labels, ("cat", "dog"), names)
        >>> batches = Batches(data, batch_size=8, seed=0)
        >>> [len(labels) for _, labels in batches]
        [8, 8, 4]
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
        self.data = data
        self.class_names = data.class_names
        self.file_names = data.file_names
        self.batch_size = check_integer("batch_size", batch_size)
        self.augmentation = augmentations.get(augmentation)
        self.shuffle = shuffle
        self.one_hot = one_hot
        self.mixing = mixing
        self.mixing_probability = mixing_probability
        self.mixed_epochs = mixed_epochs
        self.seed = secrets.randbits(64) if seed is None else seed
        self.epoch = 0
        # Epoch and its order, so that each order is drawn once.
        self._order: tuple[int, npt.NDArray[np.int64]] = (-1, np.arange(0))

    def __len__(self) -> int:
        return -(-len(self.data.labels) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], ...]:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        return self._batch(self.epoch, index)

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def feed(self) -> tf.data.Dataset | Batches:
        """Returns these batches in the form that the Keras backend reads fastest.

        Returns:
            A `tf.data.Dataset` on the TensorFlow backend, else the
            `keras.utils.PyDataset` itself.
        """
        tensorflow = keras.backend.backend() == "tensorflow"
        return self._as_tf_data() if tensorflow else self

    def _as_tf_data(self) -> tf.data.Dataset:
        import tensorflow as tf

        def one_epoch() -> Iterator[Any]:
            epoch = self.epoch
            last = len(self) - 1
            for index in range(last + 1):
                yield (*self._batch(epoch, index), epoch + (index == last))

        def set_epoch(epoch: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            self.epoch = int(epoch)
            return epoch

        # AutoGraph would take 0.05 s, and there is no control flow to convert.
        @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
        def count_epochs(*batch_and_epoch: Any) -> tuple[Any, ...]:
            *batch, epoch = batch_and_epoch
            counted = tf.numpy_function(set_epoch, [epoch], tf.int64)
            with tf.control_dependencies([counted]):
                return tuple(tf.identity(array) for array in batch)

        shape, dtype = self.data.images.shape[1:], self.data.images.dtype
        labels = tf.TensorSpec((None,), self.data.labels.dtype)
        if self.one_hot:
            labels = tf.TensorSpec((None, len(self.class_names)), tf.float32)
        images = tf.TensorSpec((None, *shape), dtype)
        signature = [images, labels, tf.TensorSpec((), tf.int64)]
        if self.data.weights is not None:
            signature.insert(2, tf.TensorSpec((None,), tf.float32))
        dataset = tf.data.Dataset.from_generator(
            one_epoch, output_signature=tuple(signature)
        )
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(self)))
        # prefetch(AUTOTUNE), as in Keras, can wait at the end of an epoch for as long
        # as the epoch took, until the tuning thread wakes up.
        options = tf.data.Options()
        options.autotune.enabled = False
        # Epochs are counted after `prefetch`, which runs ahead: an epoch ends when
        # its last batch is consumed. Keras sometimes takes one batch only, to
        # inspect it, which must not count as an epoch.
        dataset = dataset.prefetch(2).map(count_epochs).with_options(options)
        dataset.class_names = self.class_names
        dataset.file_names = self.file_names
        return dataset

    def _batch(self, epoch: int, index: int) -> tuple[npt.NDArray[Any], ...]:
        first = index * self.batch_size
        chosen = self._epoch_order(epoch)[first : first + self.batch_size]
        read_ahead(self.data.images, chosen)
        images = self.data.images[chosen]
        # A system may map a megabyte for each image that is read. This takes less
        # than a millisecond for 128 images.
        release(self.data.images)
        labels: npt.NDArray[Any] = self.data.labels[chosen]
        generator = np.random.default_rng([self.seed, epoch, index])
        if self.augmentation is not None:
            images = self.augmentation(images, generator)
        if self.one_hot:
            if self.data.targets is None:
                labels = np.eye(len(self.class_names), dtype=np.float32)[labels]
            else:
                labels = self.data.targets[chosen]
        weights = None if self.data.weights is None else self.data.weights[chosen]
        mixed = self.mixed_epochs is None or epoch < self.mixed_epochs
        if self.mixing and mixed and generator.random() < self.mixing_probability:
            if weights is None:
                images, labels = self.mixing(images, labels, generator)
            else:  # they are mixed like the labels
                beside = np.column_stack([labels, weights])
                images, beside = self.mixing(images, beside, generator)
                labels, weights = beside[:, :-1], beside[:, -1]
        return (images, labels) if weights is None else (images, labels, weights)

    def _epoch_order(self, epoch: int) -> npt.NDArray[np.int64]:
        cached, order = self._order
        if cached != epoch:
            order = np.arange(len(self.data.labels))
            if self.shuffle:
                order = np.random.default_rng([self.seed, epoch]).permutation(order)
            self._order = (epoch, order)
        return order
