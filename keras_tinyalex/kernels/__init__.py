"""Hand-written operations: the same results as Keras' own, in less time.

Each module holds one operation, with a version for each backend that gains from it.
Layers call them while they train; inference and files know nothing of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import keras

from keras_tinyalex.kernels import batch_normalization, dense, spatial

__all__ = ["use_fused_ops"]


def use_fused_ops(layers: Iterable[keras.Layer]) -> None:
    """Lets layers train with the operations of this package.

    These are `Dense`, `BatchNormalization`, `Conv2D` and `MaxPooling2D`, where the
    backend gains from it; each module says what. Other layers, and those of
    subclasses, are left as they are.

    Args:
        layers: Layers of one's own to change in place, with biases and scales.
            Their configs and files stay the same.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> use_fused_ops(model.layers)
    """
    backend = keras.backend.backend()
    for layer in layers:
        if type(layer) is keras.layers.Conv2D and backend in spatial.BACKENDS:
            layer.call = functools.partial(spatial.convolve, layer)
        if type(layer) is keras.layers.MaxPooling2D and backend in spatial.BACKENDS:
            layer.call = functools.partial(spatial.max_pool, layer)
        if type(layer) is keras.layers.Dense and backend in dense.BACKENDS:
            layer.call = functools.partial(dense.call, layer)
        if (
            type(layer) is keras.layers.BatchNormalization
            and backend in batch_normalization.BACKENDS
        ):
            layer.call = functools.partial(batch_normalization.call, layer)
