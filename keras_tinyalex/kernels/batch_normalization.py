"""Batch normalization in training as the one operation that each backend has for it.

Keras composes it of several operations, each of which reads and writes the tensor.
JAX needs no kernel: XLA fuses Keras' operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras

from keras_tinyalex.aliases import Tensor

# Inputs `(N, H, W, C)` of any dtype, gamma, beta and epsilon to the outputs, and the
# mean and variance of the batch in float32.
Normalize = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


def call(
    layer: keras.layers.BatchNormalization,
    inputs: Tensor,
    training: bool | None = None,
    mask: Tensor = None,
) -> Tensor:
    """`keras.layers.BatchNormalization.call`, fused where the backend can."""
    channels_last = len(inputs.shape) == 4 and layer.axis in (-1, 3)
    fused = training and layer.trainable and channels_last
    if not (fused and layer.dtype == "float32"):
        return keras.layers.BatchNormalization.call(layer, inputs, training, mask)
    ops = keras.ops
    gamma, beta = (ops.convert_to_tensor(w) for w in (layer.gamma, layer.beta))
    normalize = BACKENDS[keras.backend.backend()]
    outputs, mean, variance = normalize(inputs, gamma, beta, layer.epsilon)
    # Both give the unbiased variance (divided by n - 1), Keras keeps the biased one.
    count = ops.cast(math.prod(ops.shape(inputs)[:-1]), variance.dtype)
    variance = variance * ((count - 1) / count)
    for moving, new in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        moving.assign(moving * layer.momentum + new * (1 - layer.momentum))
    return outputs


def _tensorflow(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    import tensorflow as tf

    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon
    )
    return y, mean, variance


def _torch(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    mean, variance = (torch.zeros_like(beta) for _ in range(2))
    y = torch.nn.functional.batch_norm(
        x.permute(0, 3, 1, 2),
        *(mean, variance, gamma, beta),
        training=True,
        momentum=1.0,
        eps=epsilon,
    )
    return y.permute(0, 2, 3, 1), mean, variance


BACKENDS: dict[str, Normalize] = {"tensorflow": _tensorflow, "torch": _torch}
