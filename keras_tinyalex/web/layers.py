"""The layers of an AlexNetMini as the page takes them, with weights as integers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_tinyalex.labelled_data import image_shape
from keras_tinyalex.layers import LocalResponseNormalization

Floats = npt.NDArray[np.float32]
# A layer in JSON, and the arrays of its weights in the order of the file.
Layer = tuple[dict[str, Any], list[npt.NDArray[Any]]]


def describe(model: keras.Model) -> tuple[dict[str, Any], list[Layer]]:
    """Returns what the page needs to compute a model.

    Args:
        model: An AlexNetMini with a classifier.

    Returns:
        A tuple of the images that the network takes, as `height`, `width`,
        `channels` and the `scale` of their pixels, and its layers. Kernels are
        integers, with a float32 scale for each output channel.

    Raises:
        ValueError: If it is another network.

    Examples:
        >>> from keras_tinyalex import AlexNetMini
        >>> image, layers = describe(AlexNetMini(width_multiplier=1 / 16))
        >>> image["height"], layers[0][0]
        (64, {'kind': 'convolution', 'filters': 2, 'relu': True})
    """
    shape = image_shape(_checked(model))
    # Without Rescaling, it takes what `preprocess_input` returns.
    scale, layers = 1 / 255, []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Rescaling):
            scale = float(layer.scale)
        elif not isinstance(layer, keras.layers.InputLayer | keras.layers.Dropout):
            layers.append(_describe_layer(layer))
    height, width = shape.size
    image = {
        "height": height,
        "width": width,
        "channels": shape.channels,
        "scale": scale,
    }
    return image, layers


def quantize(kernel: Floats) -> tuple[npt.NDArray[np.signedinteger[Any]], Floats]:
    """Returns a kernel as integers, and the scale of each output channel.

    Args:
        kernel: float32, the output channels last. That of a dense layer becomes
            int8; that of a convolution int16, which adds 0.3 MB to 5 MB. With
            int8 the network of `tiny_imagenet_20` gave 27 of 1,000 images
            another class, with int16 one.

    Examples:
        >>> integers, scale = quantize(np.array([[127.0, -254.0], [50.0, 0.0]], "f4"))
        >>> integers.tolist(), scale.tolist()
        ([[127, -127], [50, 0]], [1.0, 2.0])
    """
    dtype, top = (np.int16, 32767) if kernel.ndim == 4 else (np.int8, 127)
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    scale = (largest / top).astype(np.float32)
    scale[scale == 0] = 1  # a channel of zeros
    return np.rint(kernel / scale).astype(dtype), scale


def dequantized(model: keras.Model) -> keras.Model:
    """Returns a copy of a model with the kernels that the page computes with."""
    copy = keras.models.clone_model(model)
    weights = []
    for weight in model.get_weights():
        if weight.ndim > 1:
            integers, scale = quantize(weight)
            weight = integers * scale
        weights.append(weight)
    copy.set_weights(weights)
    return copy


def _checked(model: keras.Model) -> keras.Model:
    """Returns the model; refuses all but a chain of the layers of AlexNetMini."""
    if problem := _find_problem(model):
        raise ValueError(
            "`model` must be an AlexNetMini with its classifier, softmax or logits, "
            "for format 'web'. Export other networks to another format. "
            f"Received: a model with {problem}"
        )
    return model


def _find_problem(model: keras.Model) -> str | None:
    """Returns what keeps a model from being computed by the page, or `None`."""
    letters, output = "", None
    for layer in model.layers:
        kind = next((kind for kind in _KINDS if type(layer) is kind), None)
        if kind is None or not _KINDS[kind][1](layer):
            return f"the layer {layer.name!r} ({type(layer).__name__})"
        if letters and _tensor(layer, "input") is not output:
            return f"the layer {layer.name!r}, which does not follow the one before it"
        letters, output = letters + _KINDS[kind][0], _tensor(layer, "output")
    # One way from images to scores, and nothing else.
    if not re.fullmatch("is?c[cnbp]*f[d-]*d", letters) or model.output is not output:
        return f"the layers {', '.join(layer.name for layer in model.layers)}"
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    for layer in dense:
        final = "softmax" if layer is dense[-1] else "relu"
        if not _has_activation(layer, final):
            return f"the activation of {layer.name!r}"
    return None


def _tensor(layer: keras.Layer, name: str) -> Any:
    """Returns the input or output of a layer, or `None` if it has several or none."""
    try:
        return getattr(layer, name)
    except (AttributeError, ValueError):
        return None


def _has_activation(layer: keras.Layer, name: str) -> bool:
    return layer.activation in map(keras.activations.get, (name, None))


def _is_convolution(layer: keras.layers.Conv2D) -> bool:
    sizes = (layer.kernel_size, layer.strides, layer.dilation_rate, layer.groups)
    known = (sizes, layer.padding) == (((3, 3), (1, 1), (1, 1), 1), "same")
    return known and layer.use_bias and _has_activation(layer, "relu")


def _is_pooling(layer: keras.layers.MaxPooling2D) -> bool:
    known = (tuple(layer.pool_size), tuple(layer.strides), layer.padding)
    return known == ((2, 2), (2, 2), "valid")


def _is_scaling(layer: keras.layers.Rescaling) -> bool:
    return isinstance(layer.scale, int | float) and layer.offset == 0


# The layers of AlexNetMini: a letter for their order, and what they must be like.
_KINDS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    keras.layers.InputLayer: ("i", lambda layer: True),
    keras.layers.Rescaling: ("s", _is_scaling),
    keras.layers.Conv2D: ("c", _is_convolution),
    LocalResponseNormalization: ("n", lambda layer: True),
    keras.layers.BatchNormalization: ("b", lambda layer: layer.scale and layer.center),
    keras.layers.MaxPooling2D: ("p", _is_pooling),
    keras.layers.Flatten: ("f", lambda layer: True),
    keras.layers.Dropout: ("-", lambda layer: True),
    keras.layers.Dense: ("d", lambda layer: layer.use_bias),
}


def _describe_layer(layer: keras.Layer) -> Layer:
    weights = [np.asarray(weight, np.float32) for weight in layer.get_weights()]
    if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
        kernel, bias = weights
        convolution = isinstance(layer, keras.layers.Conv2D)
        size = {"filters" if convolution else "units": len(bias)}
        relu = layer.activation is keras.activations.get("relu")
        kind = "convolution" if convolution else "dense"
        return {"kind": kind, **size, "relu": relu}, [*quantize(kernel), bias]
    if isinstance(layer, keras.layers.BatchNormalization):
        gamma, beta, mean, variance = weights
        scale = gamma / np.sqrt(variance + np.float32(layer.epsilon))
        return {"kind": "affine"}, [scale, beta - mean * scale]
    if isinstance(layer, LocalResponseNormalization):
        constants = {
            "depth_radius": layer.depth_radius,
            "bias": layer.bias,
            "alpha": layer.alpha,
            "beta": layer.beta,
        }
        return {"kind": "normalization", **constants}, []
    pooling = isinstance(layer, keras.layers.MaxPooling2D)
    return {"kind": "pooling" if pooling else "flatten"}, []
