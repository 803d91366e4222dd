"""Helpers of the tests of local response normalization: inputs and the formula."""

import numpy as np


def random(*shape, seed=0, scale=1.0):
    values = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return values.astype("float32")


def reference(x, radius=5, bias=1.0, alpha=1.0, beta=0.5, axis=-1):
    """The formula in float64, channel by channel."""
    x = np.moveaxis(np.asarray(x, "float64"), axis, -1)
    y = np.empty_like(x)
    for i in range(x.shape[-1]):
        window = x[..., max(0, i - radius) : i + radius + 1]
        total = bias + alpha * np.sum(window**2, axis=-1)
        y[..., i] = x[..., i] / total**beta
    return np.moveaxis(y, -1, axis)
