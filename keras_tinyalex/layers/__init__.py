"""Layers that Keras does not have."""

from keras_tinyalex.layers.local_response_normalization import (
    LocalResponseNormalization,
)

__all__ = ["LocalResponseNormalization"]
