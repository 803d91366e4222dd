"""Computes in NumPy what the page computes, from its files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import numpy.typing as npt

from keras_tinyalex.aliases import PathLike
from keras_tinyalex.labelled_data import image_shape

Floats = npt.NDArray[np.float32]


def read_scores(folder: PathLike, images: Floats) -> Floats:
    """Returns the scores that an exported page gives to images.

    Args:
        folder: The folder of the page.
        images: Pixels 0 to 255, `(batch, height, width, channels)`.

    Returns:
        Probabilities `(batch, classes)`, float32.

    Examples:
        >>> from keras_tinyalex import AlexNetMini
        >>> from keras_tinyalex.web import write_page
        >>> model = AlexNetMini(num_classes=2, width_multiplier=1 / 16)
        >>> write_page(model, "page", ["a", "b"])
        >>> images = np.ones((3, 64, 64, 3), "float32")
        >>> read_scores("page", images).sum(axis=1).round(4).tolist()
        [1.0, 1.0, 1.0]
    """
    description = json.loads(Path(folder, "model.json").read_text("ascii"))
    read = _reader(Path(folder, "model.bin").read_bytes())
    x = images * np.float32(description["image"]["scale"])
    for layer in description["layers"]:
        x = _LAYERS[layer["kind"]](x, layer, read)
    return _softmax(x)


def expected_scores(model: keras.Model, images: Floats) -> Floats:
    """Returns the probabilities that a page should give to images.

    Args:
        model: The model of the page, whether with softmax or logits, with or
            without the scaling of pixels.
        images: Pixels 0 to 255, `(batch, height, width, channels)`.

    Examples:
        >>> from keras_tinyalex import AlexNetMini
        >>> model = AlexNetMini(width_multiplier=1 / 16, classifier_activation=None)
        >>> expected_scores(model, np.ones((3, 64, 64, 3), "float32")).shape
        (3, 20)
    """
    arranged: Any = image_shape(model).arrange(cast(Any, images))
    if keras.layers.Rescaling not in [type(layer) for layer in model.layers]:
        arranged = arranged / np.float32(255)
    scores: Floats = model.predict(arranged, verbose=0)
    activation = model.layers[-1].activation
    return _softmax(scores) if activation is keras.activations.linear else scores


def _softmax(logits: Floats) -> Floats:
    x = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores: Floats = x / x.sum(axis=1, keepdims=True)
    return scores


# Returns the next array of a shape and dtype.
Read = Callable[[tuple[int, ...], str], npt.NDArray[Any]]


def _reader(data: bytes) -> Read:
    position = 0

    def read(shape: tuple[int, ...], dtype: str = "<f4") -> npt.NDArray[Any]:
        nonlocal position
        count = math.prod(shape)
        array = np.frombuffer(data, dtype, count, position).reshape(shape)
        position += -(-array.nbytes // 4) * 4
        return array

    return read


def _convolution(x: Floats, layer: dict[str, Any], read: Read) -> Floats:
    filters = layer["filters"]
    kernel = read((3, 3, x.shape[-1], filters), "<i2").astype(np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    total = np.zeros((*x.shape[:3], filters), np.float32)
    for row in range(3):
        for column in range(3):
            part = padded[:, row : row + height, column : column + width]
            total += part @ kernel[row, column]
    return _finish(total, layer, read)


def _dense(x: Floats, layer: dict[str, Any], read: Read) -> Floats:
    kernel = read((x.shape[-1], layer["units"]), "i1").astype(np.float32)
    return _finish(x @ kernel, layer, read)


def _finish(total: Floats, layer: dict[str, Any], read: Read) -> Floats:
    """Applies the scale of the integers, the bias, and ReLU."""
    x = _affine(total, layer, read)
    return np.maximum(x, 0) if layer["relu"] else x


def _affine(x: Floats, layer: dict[str, Any], read: Read) -> Floats:
    scale, bias = read(x.shape[-1:], "<f4"), read(x.shape[-1:], "<f4")
    result: Floats = x * scale + bias
    return result


def _normalization(x: Floats, layer: dict[str, Any], read: Read) -> Floats:
    radius, channels = layer["depth_radius"], x.shape[-1]
    squares = np.pad(x * x, ((0, 0), (0, 0), (0, 0), (radius, radius)))
    windows = (squares[..., i : i + channels] for i in range(2 * radius + 1))
    base = np.float32(layer["bias"]) + np.float32(layer["alpha"]) * sum(windows)
    result: Floats = x / base ** np.float32(layer["beta"])
    return result


def _pooling(x: Floats, layer: dict[str, Any], read: Read) -> Floats:
    height, width = x.shape[1] // 2, x.shape[2] // 2
    x = x[:, : 2 * height, : 2 * width]
    blocks = x.reshape(len(x), height, 2, width, 2, x.shape[-1])
    result: Floats = blocks.max(axis=(2, 4))
    return result


def _flatten(x: Floats, layer: dict[str, Any], read: Read) -> Floats:
    return x.reshape(len(x), -1)


_LAYERS = {
    "convolution": _convolution,
    "normalization": _normalization,
    "affine": _affine,
    "pooling": _pooling,
    "flatten": _flatten,
    "dense": _dense,
}
