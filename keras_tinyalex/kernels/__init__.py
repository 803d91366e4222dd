"""Hand-written operations: the same results as Keras' own, in less time.

Each module holds an operation, with a version for each backend that gains from it.
Files know nothing of them, and neither does inference, but for that of LRN.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any

import keras

from keras_tinyalex.kernels import batch_normalization, dense, spatial

__all__ = ["use_fused_ops"]

# What replaces the `call` of a type of layers, and on which backends.
_CALLS: dict[type[keras.Layer], tuple[Callable[..., Any], Collection[str]]] = {
    keras.layers.BatchNormalization: (
        batch_normalization.call,
        batch_normalization.BACKENDS,
    ),
    keras.layers.Conv2D: (spatial.convolve, spatial.BACKENDS),
    keras.layers.Dense: (dense.call, dense.BACKENDS),
    keras.layers.MaxPooling2D: (spatial.max_pool, spatial.BACKENDS),
}


def use_fused_ops(layers: Iterable[keras.Layer]) -> None:
    """Lets layers train with the operations of this package.

    These are `Dense`, `BatchNormalization`, `Conv2D` and `MaxPooling2D`, where the
    backend gains from it; each module says what. Other layers, and those of
    subclasses, are left as they are.

    Args:
        layers: Layers of one's own to change in place, those of batch
            normalization with scales and offsets. Their configs and files stay
            the same.

    Examples:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> use_fused_ops(model.layers)
    """
    for layer in layers:
        call, backends = _CALLS.get(type(layer), (None, ()))
        if call and keras.backend.backend() in backends:
            layer.call = functools.partial(call, layer)
