"""The images and labels that `evaluate` takes, as checked NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from keras_tinyalex.aliases import Images, Labels, PathLike, Tensor
from keras_tinyalex.datasets.images import IMAGE_SIZE

if TYPE_CHECKING:
    from keras_tinyalex.datasets.classes import Classes

Pair: TypeAlias = tuple[NDArray[Any], NDArray[Any]]
"""Images, and labels `(N,)` or one-hot `(N, C)`."""


def find_data_format(model: keras.Model) -> str:
    """Returns the data format of the images that a model takes.

    Examples:
        >>> find_data_format(keras.Sequential([keras.Input((64, 64, 3))]))
        'channels_last'
    """
    shape = getattr(model, "input_shape", None)
    if isinstance(shape, tuple) and len(shape) == 4:
        first, last = (channels in (1, 3) for channels in (shape[1], shape[-1]))
        if first != last:
            return "channels_first" if first else "channels_last"
    configured: str = keras.config.image_data_format()
    return configured


class ImageShape(NamedTuple):
    """The shape of the images that a model takes.

    Attributes:
        size: `(height, width)` in pixels.
        channels: 3 for RGB, 1 for gray.
        data_format: `"channels_last"` or `"channels_first"`.
    """

    size: tuple[int, int]
    channels: int
    data_format: str

    def arrange(self, images: Images) -> Images:
        """Returns images `(N, height, width, channels)` as the model takes them."""
        first = self.data_format == "channels_first"
        return np.moveaxis(images, -1, 1) if first else images


def image_shape(model: keras.Model, data_format: str | None = None) -> ImageShape:
    """Returns the shape of the images that a model takes.

    Args:
        model: A model with one input of rank 4.
        data_format: See `evaluate`. Defaults to that of the model.

    Returns:
        An `ImageShape`; its size is 64x64 where the model takes any.

    Raises:
        ValueError: If the model takes something else than gray or RGB images.

    Examples:
        >>> layers = [keras.Input((96, 80, 1)), keras.layers.Flatten()]
        >>> image_shape(keras.Sequential(layers))
        ImageShape(size=(96, 80), channels=1, data_format='channels_last')
    """
    data_format = data_format or find_data_format(model)
    shape: Any = getattr(model, "input_shape", None)
    if isinstance(shape, tuple) and len(shape) == 4:
        _, *sides = shape
        channels = sides.pop(-1 if data_format == "channels_last" else 0)
        if channels in (None, 1, 3):
            size = (sides[0] or IMAGE_SIZE[0], sides[1] or IMAGE_SIZE[1])
            return ImageShape(size, channels or 3, data_format)
    raise ValueError(
        "`model` must take images of shape (batch, height, width, channels) with 3 "
        f"channels or 1. Received: a model with input_shape={shape}"
    )


def read_source(
    model: keras.Model,
    source: PathLike,
    class_names: Sequence[str] | None,
    classes: Classes,
    data_format: str,
) -> tuple[NDArray[Any], NDArray[Any], tuple[str, ...]]:
    """Returns the val images as the model takes them, labels and class names."""
    from keras_tinyalex.datasets.layout import open_source
    from keras_tinyalex.datasets.reading import read_parts

    opened = open_source(source)
    names = opened.select(class_names if classes is None else classes)
    # Labels of a source follow the sorted names: another order would mix them up.
    if (
        classes is None
        and class_names is not None
        and names != tuple(opened.select([name])[0] for name in class_names)
    ):
        raise ValueError(
            "`class_names` must be in the label order of `data`, that is sorted: "
            f"{list(names)}. Received: class_names={class_names}"
        )
    opened.report_left_out()
    shape = image_shape(model, data_format)
    (val,) = read_parts(opened, names, ["val"], shape.size, channels=shape.channels)
    return shape.arrange(val.images), val.labels, names


def batches(data: Any, batch_size: int) -> Iterator[Pair]:
    """Yields `(x, y)` batches of checked NumPy arrays."""
    if isinstance(data, tuple) and len(data) == 2:
        x, y = _check_pair(*data)
        for start in range(0, len(x), batch_size):
            yield x[start : start + batch_size], y[start : start + batch_size]
        return
    if not isinstance(data, Iterable) or _is_infinite(data):
        raise ValueError(
            "`data` must be a tuple (x, y) of arrays, a finite iterable of (x, y) "
            "batches (remove `.repeat()`), or a path. "
            f"Received: data={data!r}"
        )
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                "`data` must yield pairs (x, y) of images and labels. All images count "
                "alike: leave sample weights out, e.g. by "
                "`data.map(lambda x, y, weights: (x, y))`. "
                f"Received: {_describe(batch)}"
            )
        yield _check_pair(*batch)


def _describe(batch: Any) -> str:
    parts = f" of {len(batch)} parts" if isinstance(batch, (tuple, list, dict)) else ""
    return f"a batch of {type(batch)}{parts}"


def _is_infinite(data: Any) -> bool:
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    # A `tf.data.Dataset` returns -1; duck typing avoids importing TensorFlow.
    cardinality = getattr(data, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1


def _check_pair(x: Tensor, y: Tensor) -> Pair:
    if isinstance(x, tuple):  # not a list, as a batch of images may be one
        raise ValueError(
            "`data` must be one pair (x, y): of what `load_data` returns, the first "
            "are the training images, the second the others. "
            "Received: data with a tuple in place of images"
        )
    x, y = keras.ops.convert_to_numpy(x), keras.ops.convert_to_numpy(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim not in (1, 2) or x.ndim < 1 or len(x) != len(y):
        raise ValueError(
            "`data` must hold as many labels y of shape (N,), (N, 1) or one-hot (N, C) "
            "as images x of shape (N, H, W, C); call `.batch(128)` of a Dataset of "
            f"single images. Received: x.shape={x.shape}, y.shape={y.shape}"
        )
    if y.size and y.ndim == 1 and y.dtype.kind not in "iu":
        raise ValueError(
            "`data` must hold integer labels y. Convert them with "
            f"`y.astype('int64')`. Received: y.dtype={y.dtype}"
        )
    return x, y


def class_numbers(y: NDArray[Any], count: int) -> Labels:
    """Returns labels as class numbers, also if they are one-hot."""
    if y.ndim == 2:
        if y.shape[1] != count:
            raise ValueError(
                f"`data` must hold one-hot labels of {count} columns, as the model has "
                f"{count} outputs. Received: y.shape={y.shape}"
            )
        if not ((y == 0) | (y == 1)).all() or (y.sum(axis=1) != 1).any():
            raise ValueError(
                "`data` must hold labels with one true class per image: a single 1 in "
                "each one-hot row. For soft labels pass `y.argmax(axis=-1)`. "
                f"Received: y[0]={y[0].tolist()}"
            )
        y = y.argmax(axis=-1)
    return y.astype("int64")
