"""The data of `HyperAlexNetMini.fit`, in each form that `keras.Model.fit` takes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import Images, Labels
from keras_tinyalex.arguments import check_integer
from keras_tinyalex.datasets.batches import LabelledArrays


def read_data(
    name: str,
    data: tuple[Any, Any, Any],
    steps: int | None,
    num_classes: int,
    model: keras.Model,
) -> LabelledArrays:
    """Returns images, labels and weights as arrays.

    Args:
        name: Name of the argument, for the message.
        data: `x`, `y` and `sample_weight`. `x` is an array, or batches
            `(images, labels)` or `(images, labels, weights)` in a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator or another
            iterable; then the others are `None`.
        steps: Number of batches to read; `None` reads them all.
        num_classes: Number of classes.
        model: The model to train on them.

    Raises:
        ValueError: If they are none of these, or do not fit the model.
    """
    x, y, weights = data
    if not (hasattr(x, "shape") or isinstance(x, list | tuple)):
        if y is not None or weights is not None:
            raise ValueError(
                f"`{name}` of batches must hold the labels and weights itself: leave "
                f"`y` and `sample_weight` out. Received: {name}={type(x).__name__}"
            )
        x, y, weights = _join(name, _batches(name, x, steps))
    elif y is None:
        raise ValueError(
            f"`y` must be the labels of the images. Received: {name}={type(x).__name__}"
            ", y=None"
        )
    images = _array(x)
    labels = _labels(name, _array(y), images, num_classes)
    images = _pixels(name, images, model.input_shape[1:])
    names = tuple(str(label) for label in range(num_classes))
    weights = None if weights is None else _weights(_array(weights), len(images))
    return LabelledArrays(images, labels, names, ("",) * len(images), weights)


def as_three(name: str, data: Any) -> tuple[Any, Any, Any]:
    """`x`, `y` and `sample_weight` of `(x, y)`, of the three, or of batches."""
    if not isinstance(data, list | tuple):
        return data, None, None
    if len(data) not in (2, 3):
        raise ValueError(
            f"`{name}` must be (x, y), (x, y, sample_weight) or batches. "
            f"Received: {len(data)} values"
        )
    x, y, *weights = data
    return x, y, weights[0] if weights else None


def with_class_weight(
    data: LabelledArrays, class_weight: Mapping[int, float]
) -> LabelledArrays:
    """Multiplies the weight of each image by that of its class."""
    known = dict.fromkeys(range(len(data.class_names)), 1.0)
    if not isinstance(class_weight, Mapping) or not class_weight.keys() <= known.keys():
        raise ValueError(
            "`class_weight` must be a dict from class numbers, 0 to "
            f"{len(known) - 1}, to weights. Received: class_weight={class_weight!r:.80}"
        )
    of_class = np.array(list({**known, **class_weight}.values()), np.float32)
    weights = np.float32(1) if data.weights is None else data.weights
    return dataclasses.replace(data, weights=of_class[data.labels] * weights)


def _array(x: Any) -> npt.NDArray[Any]:
    x = keras.ops.convert_to_numpy(x) if keras.ops.is_tensor(x) else x
    array: npt.NDArray[Any] = np.asarray(x)
    return array


def _batches(name: str, x: Any, steps: int | None) -> Iterator[Any]:
    """The batches of an iterable, of which some never end."""
    option = "validation_steps" if "val" in name else "steps_per_epoch"
    if isinstance(x, keras.utils.PyDataset):
        length = x.num_batches
        batches = (x[index] for index in itertools.count())
    elif hasattr(x, "__iter__"):
        length = len(x) if _has_length(x) else None
        batches = iter(x)
    else:
        raise ValueError(
            f"`{name}` must be an array or batches: a tf.data.Dataset, a "
            f"keras.utils.PyDataset or a generator. Received: {name}={x!r:.80}"
        )
    if steps is not None:
        length = check_integer(option, steps)
    if length is None:
        raise ValueError(
            f"`{option}` must be the number of batches to read where the data may "
            f"never end. Received: {option}=None, {name}={type(x).__name__}"
        )
    return itertools.islice(batches, length)


def _has_length(x: Any) -> bool:
    try:
        return len(x) >= 0
    except TypeError:  # of an endless tf.data.Dataset, or one of unknown length
        return False


def _join(name: str, batches: Iterator[Any]) -> tuple[Any, Any, Any]:
    """The images, labels and weights of all batches."""
    columns: list[tuple[npt.NDArray[Any], ...]] = []
    for batch in batches:
        parts = batch if isinstance(batch, list | tuple) else (batch,)
        arrays = tuple(_array(part) for part in parts)
        if len(arrays) not in (2, 3) or arrays[0].ndim != 4:
            raise ValueError(
                f"`{name}` must give batches (images, labels), images of shape (N, H, "
                "W, C). Received: a batch of shapes "
                f"{', '.join(str(array.shape) for array in arrays)}"
            )
        columns.append(arrays)
    if not columns:
        raise ValueError(f"`{name}` must give at least one batch. Received: none")
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
    return joined[0], joined[1], joined[2] if len(joined) == 3 else None


def _pixels(
    name: str, images: npt.NDArray[Any], image_shape: tuple[int | None, ...]
) -> Images:
    fits = images.ndim == 4 and all(
        length in (None, found)
        for length, found in zip(image_shape, images.shape[1:], strict=True)
    )
    if not fits:
        shape = ", ".join("any" if n is None else str(n) for n in image_shape)
        raise ValueError(
            f"`{name}` must be images of the model's shape, (N, {shape}). "
            f"Received: {name} of shape {images.shape}"
        )
    if images.dtype == np.uint8:
        return images
    low, high = (images.min(), images.max()) if images.dtype.kind in "fiu" else (-1, 0)
    scaled = images.dtype.kind == "f" and 0 < high <= 1
    if not 0 <= low <= high <= 255 or scaled:
        raise ValueError(
            f"`{name}` must be pixels from 0 to 255: the model divides them by 255 "
            "itself, and other scalings belong into `augmentation_model`. Received: "
            f"{name} of dtype {images.dtype}, {low:g} to {high:g}"
        )
    return images.round().astype(np.uint8)


def _labels(
    name: str, labels: npt.NDArray[Any], images: npt.NDArray[Any], num_classes: int
) -> Labels:
    """Class numbers `(N,)`, of these, of `(N, 1)`, or of one-hot `(N, classes)`."""
    count = len(images) if images.ndim else 0
    received = (
        f"Received: {name} of shape {images.shape}, y of shape {labels.shape} and "
        f"dtype {labels.dtype}"
    )
    numeric = labels.dtype.kind in "fiub" and len(labels.shape) > 0
    if numeric and labels.shape == (count, num_classes) and num_classes > 1:
        one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()
        if not one_hot:
            raise ValueError(
                "`y` must be class numbers or one-hot: smooth or mix labels by "
                f"`label_smoothing` and `mixing` of the recipe. {received}"
            )
        labels = labels.argmax(axis=1)
    if numeric and labels.shape == (count, 1):
        labels = labels[:, 0]
    if not numeric or labels.shape != (count,) or (labels % 1 != 0).any():
        raise ValueError(
            f"`y` must be {count} class numbers, (N,) or (N, 1), or one-hot "
            f"(N, {num_classes}). {received}"
        )
    if not count:
        raise ValueError(f"`{name}` must have at least one image. {received}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"`y` must be class numbers from 0 to {num_classes - 1}; set `num_classes` "
            f"for more. Received: {labels.min():g} to {labels.max():g}"
        )
    return labels.astype(np.int64)


def _weights(weights: npt.NDArray[Any], count: int) -> npt.NDArray[np.float32]:
    if weights.shape != (count,) or weights.dtype.kind not in "fiub":
        raise ValueError(
            f"`sample_weight` must be {count} numbers, one an image. Received: "
            f"sample_weight of shape {weights.shape} and dtype {weights.dtype}"
        )
    return weights.astype(np.float32)
