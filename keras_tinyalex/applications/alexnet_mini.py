"""AlexNetMini: a small AlexNet for 64x64 images."""

import math
import numbers
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_tinyalex.applications.weights import (
    find_weights,
    list_weights,
    load_weights_into,
)
from keras_tinyalex.layers import LocalResponseNormalization

IMAGE_SIZE = 64
# Three 2x2 poolings: below 8x8 nothing would be left.
MIN_IMAGE_SIZE = 8

# The convolutions of each block, as (layer name, filters). The first two blocks
# end in normalization and pooling, the last one in pooling alone.
_BLOCKS = {
    "block1": [("conv", 32)],
    "block2": [("conv", 64)],
    "block3": [("conv1", 128), ("conv2", 128), ("conv3", 64)],
}
_NORMALIZED_BLOCKS = ("block1", "block2")
_DENSE_UNITS = {"fc1": 1024, "fc2": 512}
_NORMALIZATIONS = ("lrn", "batch", None)


def AlexNetMini(
    include_top: bool = True,
    weights: str | Path | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    num_classes: int = 20,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    dropout: float = 0.5,
    normalization: str | None = "lrn",
    width_multiplier: float = 1.0,
    name: str = "alexnet_mini",
) -> keras.Model:
    """Instantiates the AlexNetMini architecture.

    Five 3x3 convolutions in three blocks, with local response normalization
    after the first two and 2x2 max pooling after each, then dense layers of
    1024 and 512 units with dropout and a classifier. With the default
    arguments it has 5,045,012 parameters.

    The model takes pixels in 0..255: the division by 255 is its first layer
    (see `include_preprocessing`). The data format is
    `keras.config.image_data_format()`.

    Args:
        include_top: Whether to add the dense layers and the classifier.
            Defaults to `True`.
        weights: `None` (random initialization), a name from
            `keras_tinyalex.list_weights()`, or the path of a `.keras`, `.h5`,
            `.weights.h5` or `.safetensors` file. A classifier trained for
            another number of classes is left out: the model keeps the body,
            starts a new classifier and warns. Defaults to `None`.
        input_tensor: Optional Keras tensor (the output of `keras.Input()` or
            of another layer) to use as the image input.
        input_shape: Shape of one image without the batch axis. With
            `include_top=False` height and width may be `None`. At least 8x8
            pixels. Defaults to `(64, 64, 3)` with the top and to
            `(None, None, 3)` without (channels first in the `channels_first`
            data format).
        pooling: What follows the last block when `include_top=False`: `None`
            (the 4D tensor), `"avg"` or `"max"` (global pooling to a 2D
            tensor). Without effect when `include_top=True`.
        num_classes: Positive integer, units of the classifier. Defaults to
            `20`.
        classifier_activation: Activation of the classifier; `None` gives
            logits. With `weights` it must be `"softmax"` or `None`. Defaults
            to `"softmax"`.
        include_preprocessing: Whether the model scales pixels by 1/255
            itself. With `False`, call `preprocess_input()` on the images.
            Defaults to `True`.
        dropout: Dropout rate after the dense layers, in `[0, 1)`. Defaults to
            `0.5`.
        normalization: `"lrn"` (`LocalResponseNormalization` with its
            defaults), `"batch"` (`keras.layers.BatchNormalization`) or `None`.
            Defaults to `"lrn"`.
        width_multiplier: Positive float, scales the number of filters and of
            dense units. Defaults to `1.0`.
        name: Name of the model. Defaults to `"alexnet_mini"`.

    Returns:
        A `keras.Model`. The output has shape `(batch, num_classes)` with the
        top; the classifier computes in float32 under every dtype policy.

    Raises:
        ValueError: If an argument is out of its range or two of them
            contradict each other, or if `weights` do not fit the model.

    Examples:
        >>> model = AlexNetMini(num_classes=5)
        >>> images = np.random.randint(0, 256, (2, 64, 64, 3), dtype="uint8")
        >>> model.predict(images, verbose=0).shape
        (2, 5)

    Reference:

    - [ImageNet Classification with Deep Convolutional Neural Networks](
      https://papers.nips.cc/paper/4824), Krizhevsky et al., 2012
    """
    num_classes = _check_arguments(
        num_classes, pooling, dropout, normalization, width_multiplier
    )
    source = None if weights is None else find_weights(weights)
    if source is not None and include_top:
        _check_activation(classifier_activation)
    shipped = str(weights) if weights in list_weights() else None
    shape = _image_shape(input_shape, input_tensor, include_top, shipped)
    image = keras.Input(shape, name="image") if input_tensor is None else input_tensor

    x = image
    if include_preprocessing:
        x = layers.Rescaling(1.0 / 255, name="rescaling")(x)
    for block, convolutions in _BLOCKS.items():
        for layer_name, filters in convolutions:
            x = layers.Conv2D(
                _scaled(filters, width_multiplier),
                3,
                padding="same",
                activation="relu",
                name=f"{block}_{layer_name}",
            )(x)
        if block in _NORMALIZED_BLOCKS:
            x = _normalize(x, normalization, block)
        x = layers.MaxPooling2D(2, name=f"{block}_pool")(x)

    if include_top:
        x = layers.Flatten(name="flatten")(x)
        for layer_name, units in _DENSE_UNITS.items():
            units = _scaled(units, width_multiplier)
            x = layers.Dense(units, activation="relu", name=layer_name)(x)
            x = layers.Dropout(dropout, name=f"{layer_name}_dropout")(x)
        # float32 under mixed policies too: half precision is too coarse for a
        # softmax and its loss.
        x = layers.Dense(
            num_classes,
            activation=classifier_activation,
            dtype="float32",
            name="predictions",
        )(x)
    elif pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)

    if source is not None:
        # Layers before `input_tensor` are not ours and keep their weights.
        load_weights_into(keras.Model(image, x), source, new_head=True)
    if input_tensor is not None:
        image = keras.utils.get_source_inputs(input_tensor)
        image = image[0] if len(image) == 1 else image
    return keras.Model(image, x, name=name)


def _check_arguments(
    num_classes: Any,
    pooling: Any,
    dropout: Any,
    normalization: Any,
    width_multiplier: Any,
) -> int:
    try:
        count = 0 if isinstance(num_classes, bool) else operator.index(num_classes)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(
            "Argument `num_classes` must be a positive integer. "
            f"Received: num_classes={num_classes!r}"
        )
    if pooling not in (None, "avg", "max"):
        raise ValueError(
            'Argument `pooling` must be None, "avg" or "max". '
            f"Received: pooling={pooling!r}"
        )
    if not (_is_number(dropout) and 0 <= dropout < 1):
        raise ValueError(
            "Argument `dropout` must be a number of at least 0 and below 1. "
            f"Received: dropout={dropout!r}"
        )
    if normalization not in _NORMALIZATIONS:
        raise ValueError(
            'Argument `normalization` must be "lrn", "batch" or None. '
            f"Received: normalization={normalization!r}"
        )
    if not (_is_number(width_multiplier) and 0 < width_multiplier < math.inf):
        raise ValueError(
            "Argument `width_multiplier` must be a finite number above 0. "
            f"Received: width_multiplier={width_multiplier!r}"
        )
    return count


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_activation(classifier_activation: Any) -> None:
    get = keras.activations.get
    if get(classifier_activation) not in (get("softmax"), get(None)):
        raise ValueError(
            'Argument `classifier_activation` must be "softmax" or None when '
            "`weights` are loaded with `include_top=True`. "
            f"Received: classifier_activation={classifier_activation!r}"
        )


def _image_shape(
    input_shape: Any, input_tensor: Any, include_top: bool, shipped: str | None
) -> tuple[int | None, ...]:
    """The shape of one image, checked, from the two arguments that give it."""
    if input_tensor is not None:
        if not keras.utils.is_keras_tensor(input_tensor):
            raise ValueError(
                "Argument `input_tensor` must be a Keras tensor, such as "
                "`keras.Input((64, 64, 3))`; give arrays to the model itself. "
                f"Received: input_tensor of type {type(input_tensor).__name__}"
            )
        shape = tuple(input_tensor.shape[1:])
        if input_shape is not None and tuple(input_shape) != shape:
            raise ValueError(
                "Arguments `input_tensor` and `input_shape` must agree; leave "
                "`input_shape` out. "
                f"Received: input_tensor of shape {tuple(input_tensor.shape)}, "
                f"input_shape={input_shape}"
            )
    elif input_shape is not None:
        shape = _as_shape(input_shape)
    else:
        size = IMAGE_SIZE if include_top else None
        shape = _in_data_format(size, size, 3)
    _check_image_shape(shape, include_top, shipped)
    return shape


def _as_shape(input_shape: Any) -> tuple[int | None, ...]:
    try:
        return tuple(None if n is None else operator.index(n) for n in input_shape)
    except TypeError:
        raise ValueError(
            "Argument `input_shape` must be a tuple of three integers. "
            f"Received: input_shape={input_shape!r}"
        ) from None


def _check_image_shape(
    shape: tuple[int | None, ...], include_top: bool, shipped: str | None
) -> None:
    received = f"Received: input_shape={shape}"
    example = _in_data_format(IMAGE_SIZE, IMAGE_SIZE, 3)
    if len(shape) != 3:
        raise ValueError(
            "Argument `input_shape` must be a tuple of three integers, one image "
            f"without the batch axis, such as {example}. {received}"
        )
    first = keras.config.image_data_format() == "channels_first"
    channels, *sizes = shape if first else (shape[2], *shape[:2])
    if channels is None or channels < 1:
        raise ValueError(
            "Argument `input_shape` must have a known, positive number of "
            f"channels, such as {example}. {received}"
        )
    if any(size is not None and size < MIN_IMAGE_SIZE for size in sizes):
        raise ValueError(
            "Argument `input_shape` must be at least "
            f"{MIN_IMAGE_SIZE}x{MIN_IMAGE_SIZE} pixels: the model halves height "
            f"and width three times. {received}"
        )
    if include_top and None in sizes:
        raise ValueError(
            "Argument `input_shape` must have a known height and width when "
            f"`include_top=True`, such as {example}. {received}"
        )
    if shipped is not None and include_top and shape != example:
        raise ValueError(
            f"Argument `input_shape` must be {example} when `include_top=True` "
            f"and `weights={shipped!r}`. {received}"
        )


def _in_data_format(
    height: int | None, width: int | None, channels: int
) -> tuple[int | None, ...]:
    if keras.config.image_data_format() == "channels_first":
        return (channels, height, width)
    return (height, width, channels)


def _scaled(units: int, width_multiplier: float) -> int:
    return max(1, round(units * width_multiplier))


def _normalize(x: Any, normalization: str | None, block: str) -> Any:
    first = keras.config.image_data_format() == "channels_first"
    if normalization == "lrn":
        return LocalResponseNormalization(name=f"{block}_lrn")(x)
    if normalization == "batch":
        axis = 1 if first else -1
        return layers.BatchNormalization(axis=axis, name=f"{block}_bn")(x)
    return x


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Scales pixels from 0..255 to 0..1, as float32.

    Only for models made with `include_preprocessing=False`: by default
    AlexNetMini scales its input itself, and scaling twice spoils the result.
    `x` is never changed in place.

    Args:
        x: Images with values in 0..255: a NumPy array, a tensor of the
            backend, or anything NumPy can read. Any shape and dtype.
        data_format: Taken for the signature of `keras.applications`; scaling
            is the same in both formats. Defaults to `None`.

    Returns:
        The scaled images, float32: a tensor for a tensor, otherwise a NumPy
        array.

    Raises:
        ValueError: If `data_format` is not `None`, `"channels_last"` or
            `"channels_first"`.

    Examples:
        >>> preprocess_input(np.array([[0, 51, 255]], dtype="uint8"))
        array([[0. , 0.2, 1. ]], dtype=float32)
    """
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(
            'Argument `data_format` must be "channels_last", "channels_first" '
            f"or None. Received: data_format={data_format!r}"
        )
    if keras.ops.is_tensor(x) or keras.utils.is_keras_tensor(x):
        return keras.ops.cast(x, "float32") / 255.0
    return np.asarray(x).astype("float32") / np.float32(255)


def decode_predictions(
    preds: Any, top: int = 5, class_names: Sequence[str] | None = None
) -> list[list[tuple[str, str, float]]]:
    """Names the most probable classes of each prediction.

    Args:
        preds: Array or tensor of shape `(batch, classes)`: probabilities or
            logits.
        top: Positive integer, how many classes to name for each row; all of
            them if there are fewer. Defaults to `5`.
        class_names: The classes in label order: Tiny ImageNet wnids or names
            of your own. Defaults to the 200 sorted wnids, for 200 columns.

    Returns:
        A list for each row with tuples `(wnid, name, score)`, the highest score
        first. Classes that are not Tiny ImageNet wnids are their own name.

    Raises:
        ValueError: If `preds` is not of rank 2, if `top` is not a positive
            integer, or if `class_names` does not name each column.

    Examples:
        >>> preds = np.array([[0.25, 0.75]])
        >>> decode_predictions(preds, class_names=["n01443537", "my_cat"])
        [[('my_cat', 'my_cat', 0.75), ('n01443537', 'goldfish', 0.25)]]
    """
    # Read when used: the network itself needs no label names.
    from keras_tinyalex.datasets.classes import TINY_IMAGENET_WORDS, readable_name

    scores = keras.ops.convert_to_numpy(preds)
    if scores.ndim != 2:
        raise ValueError(
            "Argument `preds` must have shape (batch, classes). "
            f"Received: preds of shape {scores.shape}"
        )
    if isinstance(top, bool) or not isinstance(top, numbers.Integral) or top < 1:
        raise ValueError(
            f"Argument `top` must be a positive integer. Received: top={top!r}"
        )
    columns = scores.shape[1]
    if class_names is None:
        if columns != len(TINY_IMAGENET_WORDS):
            raise ValueError(
                "Argument `class_names` must name the classes in label order "
                f"unless there are {len(TINY_IMAGENET_WORDS)} of them. "
                f"Received: class_names=None for preds of shape {scores.shape}"
            )
        class_names = sorted(TINY_IMAGENET_WORDS)
    if isinstance(class_names, str) or len(class_names) != columns:
        single = isinstance(class_names, str)
        received = f"{class_names=}" if single else f"{len(class_names)} names"
        raise ValueError(
            "Argument `class_names` must be a sequence with one name for each "
            f"of the {columns} columns of `preds`. Received: {received}"
        )
    best = np.argsort(-scores, axis=1, kind="stable")[:, : int(top)]
    names = [(str(wnid), readable_name(str(wnid))) for wnid in class_names]
    return [
        [(*names[column], float(row[column])) for column in columns]
        for row, columns in zip(scores, best, strict=True)
    ]
