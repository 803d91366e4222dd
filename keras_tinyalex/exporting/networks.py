"""The network that is exported: a model in float32, and in plain operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

from keras_tinyalex.aliases import Tensor
from keras_tinyalex.kernels.window_sums import Window, inverse_power
from keras_tinyalex.layers import LocalResponseNormalization


def in_float32(model: keras.Model) -> keras.Model:
    """Returns the model, or a float32 copy if a layer has another dtype policy."""
    if all(layer.dtype_policy.name == "float32" for layer in all_layers(model)):
        return model

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    return _cloned(model, copy)


def with_plain_normalization(model: keras.Model) -> keras.Model:
    """Returns the model, or a copy whose LRN layers are `PlainNormalization`."""
    if not any(map(_is_normalization, all_layers(model))):
        return model

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        if _is_normalization(layer):
            return PlainNormalization(layer)
        return type(layer).from_config(layer.get_config())

    return _cloned(model, copy)


class PlainNormalization(keras.Layer):  # type: ignore[misc]
    """Local response normalization of finite images, for other runtimes.

    The layer sums over the window by a matrix product, with a guard against NaN
    around it. Runtimes compute that slowly: they transpose, and compare each value.
    Here the window is a 1x1 convolution whose kernel is the band of `Window`, which
    they know how to compute, in place: square, convolution, inverse root, product.
    """

    def __init__(self, layer: LocalResponseNormalization) -> None:
        super().__init__(name=layer.name, dtype="float32")
        self._layer = type(layer).from_config(layer.get_config())

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self._layer.build(input_shape)
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        layer = self._layer
        if len(inputs.shape) != 4 or layer.data_format != "channels_last":
            return layer(inputs)
        channels = int(inputs.shape[-1])  # a tensor where torch traces
        constants = layer.depth_radius, layer.bias, layer.alpha, layer.beta
        window = Window(*constants, channels, -1)
        kernel = ops.convert_to_tensor(
            window.alpha * window.band[None, None], "float32"
        )
        sums = ops.conv(ops.square(inputs), kernel, data_format="channels_last")
        # A vector, which exporters make the bias of the convolution.
        base = sums + ops.full((channels,), window.bias, "float32")
        return inputs * inverse_power(base, window.beta)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return tuple(input_shape)


def all_layers(model: Any) -> Iterator[keras.layers.Layer]:
    """Yields the layers of a model, and of the models inside it."""
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from all_layers(layer)


def _is_normalization(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, LocalResponseNormalization)


def _cloned(
    model: keras.Model, copy: Callable[[keras.layers.Layer], keras.layers.Layer]
) -> keras.Model:
    """Returns a copy of a model, of copied layers with the same weights and state."""
    clone = keras.models.clone_model(model, clone_function=copy, recursive=True)
    clone.set_weights(model.get_weights())
    for layer, copied in zip(all_layers(model), all_layers(clone), strict=True):
        # What layers derive from their weights when loaded, as Normalization does.
        state: dict[str, Any] = {}
        layer.save_own_variables(state)
        copied.load_own_variables(state)
    return clone
