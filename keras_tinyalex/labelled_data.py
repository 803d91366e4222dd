"""The images and labels that `evaluate` takes, as checked NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
from numpy.typing import NDArray

from keras_tinyalex.aliases import Labels, PathLike, Tensor

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


def read_source(
    source: PathLike, class_names: Sequence[str] | None, classes: Classes
) -> tuple[NDArray[Any], NDArray[Any], tuple[str, ...]]:
    """Returns the val images, their labels, and the class names."""
    from keras_tinyalex.datasets.layout import open_source
    from keras_tinyalex.datasets.reading import read_split

    opened = open_source(source)
    if "val" not in opened.images:
        raise ValueError(
            "`data` must be a source with val images. Evaluate training images as "
            "arrays: `evaluate(model, load_data(source)[0])`. "
            f"Received: data={str(source)!r}"
        )
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
    val = read_split(opened, "val", names)
    return val.images, val.labels, names


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
