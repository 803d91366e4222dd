"""AlexNetMini: a small AlexNet for 64x64 images."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_tinyalex.aliases import PathLike, Tensor
from keras_tinyalex.applications.network import Network
from keras_tinyalex.applications.shipped import find_weights, list_weights
from keras_tinyalex.applications.weights import assign_weights
from keras_tinyalex.arguments import (
    check_boolean,
    check_choice,
    check_integer,
    named_arguments,
)

IMAGE_SIZE = 64
# Three 2x2 poolings: below 8x8 nothing would be left.
MIN_IMAGE_SIZE = 8


@named_arguments
def AlexNetMini(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    num_classes: int = 20,
    classifier_activation: str | Callable[[Tensor], Tensor] | None = "softmax",
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
            `.weights.h5` or `.safetensors` file. The file may hold a model
            with another head, or with an AlexNetMini as one of its layers: the
            body is found in it. A classifier for another number of classes,
            and dense layers that the file lacks, start anew, and a warning
            says so. Defaults to `None`.
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
        top; the classifier computes in float32 under every dtype policy but
        `"float64"`.

    Raises:
        ValueError: If an argument is out of its range or two of them
            contradict each other, if `weights` do not fit the model, or if the
            data format is channels first on TensorFlow without a GPU.
        TypeError: If there is no such argument.

    Examples:
        >>> model = AlexNetMini(num_classes=5)
        >>> images = np.random.randint(0, 256, (2, 64, 64, 3), dtype="uint8")
        >>> model.predict(images, verbose=0).shape
        (2, 5)

    Reference:

    - [ImageNet Classification with Deep Convolutional Neural Networks](
      https://papers.nips.cc/paper/4824), Krizhevsky et al., 2012
    """
    return build_alexnet_mini(
        Network(normalization, width_multiplier, dropout),
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        num_classes=num_classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name,
    )


def build_alexnet_mini(
    network: Network,
    *,
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    num_classes: int = 20,
    classifier_activation: str | Callable[[Tensor], Tensor] | None = "softmax",
    include_preprocessing: bool = True,
    name: str = "alexnet_mini",
) -> keras.Model:
    """Returns the model of a `Network`; the other arguments are `AlexNetMini`'s."""
    check_boolean("include_top", include_top)
    check_boolean("include_preprocessing", include_preprocessing)
    num_classes = check_integer("num_classes", num_classes)
    check_choice("pooling", pooling, (None, "avg", "max"))
    _check_data_format(network.data_format)
    source = None if weights is None else find_weights(weights)
    if source is not None and include_top:
        _check_activation(classifier_activation)
    shipped = str(weights) if weights in list_weights() else None
    shape = _image_shape(
        input_shape, input_tensor, include_top, shipped, network.data_format
    )
    image = keras.Input(shape, name="image") if input_tensor is None else input_tensor

    x = image
    if include_preprocessing:
        x = keras.layers.Rescaling(1.0 / 255, name="rescaling")(x)
    x = network.convolve(x)
    if include_top:
        x = network.classify(x, num_classes, classifier_activation)
    else:
        x = network.pool(x, pooling)

    if source is not None:
        # Layers before `input_tensor` are not ours and keep their weights.
        model = keras.Model(image, x, name=name)
        if head := assign_weights(model, source, new_head=True):
            warnings.warn(head.message, stacklevel=4)  # for the caller of AlexNetMini
    if input_tensor is not None:
        image = keras.utils.get_source_inputs(input_tensor)
        image = image[0] if len(image) == 1 else image
    return keras.Model(image, x, name=name)


def _check_data_format(data_format: str) -> None:
    """Refuses what TensorFlow does not compute, or not everywhere, on a CPU."""
    if data_format == "channels_last" or keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        raise ValueError(
            "`image_data_format` of Keras must be 'channels_last' on TensorFlow "
            "without a GPU, whose convolutions are channels last: call "
            "`keras.config.set_image_data_format('channels_last')`. "
            "Received: image_data_format='channels_first'"
        )


def _check_activation(classifier_activation: Any) -> None:
    get = keras.activations.get
    if get(classifier_activation) not in (get("softmax"), get(None)):
        raise ValueError(
            '`classifier_activation` must be "softmax" or None when '
            "`weights` are loaded with `include_top=True`. "
            f"Received: classifier_activation={classifier_activation!r}"
        )


def _image_shape(
    input_shape: Any,
    input_tensor: Any,
    include_top: bool,
    shipped: str | None,
    data_format: str,
) -> tuple[int | None, ...]:
    """The shape of one image, checked, from the two arguments that give it."""
    if input_tensor is not None:
        if not keras.utils.is_keras_tensor(input_tensor):
            raise ValueError(
                "`input_tensor` must be a Keras tensor, such as "
                "`keras.Input((64, 64, 3))`; to run it on arrays, call the model. "
                f"Received: input_tensor of type {type(input_tensor).__name__}"
            )
        shape = tuple(input_tensor.shape[1:])
        if input_shape is not None and tuple(input_shape) != shape:
            raise ValueError(
                "`input_tensor` and `input_shape` must agree; leave "
                "`input_shape` out. "
                f"Received: input_tensor of shape {tuple(input_tensor.shape)}, "
                f"input_shape={input_shape}"
            )
    elif input_shape is not None:
        shape = _as_shape(input_shape)
    else:
        size = IMAGE_SIZE if include_top else None
        shape = _in_data_format(size, size, 3, data_format)
    _check_image_shape(shape, include_top, shipped, data_format)
    return shape


def _as_shape(input_shape: Any) -> tuple[int | None, ...]:
    try:
        return tuple(None if n is None else operator.index(n) for n in input_shape)
    except TypeError:
        raise ValueError(
            "`input_shape` must be a tuple of three integers. "
            f"Received: input_shape={input_shape!r}"
        ) from None


def _check_image_shape(
    shape: tuple[int | None, ...],
    include_top: bool,
    shipped: str | None,
    data_format: str,
) -> None:
    received = f"Received: input_shape={shape}"
    example = _in_data_format(IMAGE_SIZE, IMAGE_SIZE, 3, data_format)
    if len(shape) != 3:
        raise ValueError(
            "`input_shape` must be a tuple of three integers, one image "
            f"without the batch axis, such as {example}. {received}"
        )
    first = data_format == "channels_first"
    channels, *sizes = shape if first else (shape[2], *shape[:2])
    if channels is None or channels < 1:
        raise ValueError(
            "`input_shape` must have a known, positive number of "
            f"channels, such as {example}. {received}"
        )
    if any(size is not None and size < MIN_IMAGE_SIZE for size in sizes):
        raise ValueError(
            "`input_shape` must be at least "
            f"{MIN_IMAGE_SIZE}x{MIN_IMAGE_SIZE} pixels: the model halves height "
            f"and width three times. {received}"
        )
    if include_top and None in sizes:
        raise ValueError(
            "`input_shape` must have a known height and width when "
            f"`include_top=True`, such as {example}. {received}"
        )
    if shipped is not None and include_top and shape != example:
        raise ValueError(
            f"`input_shape` must be {example} when `include_top=True` "
            f"and `weights={shipped!r}`. {received}"
        )


def _in_data_format(
    height: int | None, width: int | None, channels: int, data_format: str
) -> tuple[int | None, ...]:
    if data_format == "channels_first":
        return (channels, height, width)
    return (height, width, channels)


def preprocess_input(x: Tensor, data_format: str | None = None) -> Tensor:
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
    check_choice("data_format", data_format, (None, "channels_last", "channels_first"))
    if keras.ops.is_tensor(x) or keras.utils.is_keras_tensor(x):
        return keras.ops.cast(x, "float32") / 255.0
    return np.asarray(x).astype("float32") / np.float32(255)
