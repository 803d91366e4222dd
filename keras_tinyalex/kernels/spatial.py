"""Convolution and max pooling on torch, in the memory layout that the layers have.

Keras copies the inputs and outputs of both to channels first, which torch does not
need: it computes in channels last as they are.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_tinyalex.aliases import Tensor
from keras_tinyalex.kernels.tracing import is_traced_by_torch

BACKENDS = ("torch",)


def convolve(layer: keras.layers.Conv2D, inputs: Tensor) -> Tensor:
    """`keras.layers.Conv2D.call` without copies."""
    import torch

    plain = layer.padding in ("same", "valid") and layer.dilation_rate == (1, 1)
    if not (plain and layer.strides == (1, 1) and _trains(layer)):
        return keras.layers.Conv2D.call(layer, inputs)
    kernel = keras.ops.convert_to_tensor(layer.kernel).permute(3, 2, 0, 1)
    bias = None if layer.bias is None else keras.ops.convert_to_tensor(layer.bias)
    outputs = torch.nn.functional.conv2d(
        inputs.permute(0, 3, 1, 2),
        kernel,
        bias,
        padding=layer.padding,
        groups=layer.groups,
    )
    return layer.activation(outputs.permute(0, 2, 3, 1))


def max_pool(layer: keras.layers.MaxPooling2D, inputs: Tensor) -> Tensor:
    """`keras.layers.MaxPooling2D.call` without copies."""
    import torch

    if layer.padding != "valid" or not _trains(layer):
        return keras.layers.MaxPooling2D.call(layer, inputs)
    outputs = torch.nn.functional.max_pool2d(
        inputs.permute(0, 3, 1, 2), layer.pool_size, layer.strides
    )
    return outputs.permute(0, 2, 3, 1)


def _trains(layer: Any) -> bool:
    """Whether a layer in channels last is differentiated, and no exporter reads it."""
    import torch

    differentiated = torch.is_grad_enabled() and not is_traced_by_torch()
    return differentiated and layer.data_format == "channels_last"
