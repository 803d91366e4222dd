"""The formula of local response normalization: sums over a window of channels.

The sum is a product with a banded matrix of zeros and ones: outside of a compiler that
is far faster than slices or pooling. XLA is faster with a sum of slices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_tinyalex.aliases import Tensor

# 0 * NaN and 0 * infinity are NaN: one such square would spread through the banded
# product to every channel. Finite numbers stand for them: a NaN becomes so negative
# that its windows sum to less than zero, whose root is NaN again.
FOR_NAN = {"float32": -3e38, "float64": -1.5e308}
FOR_INFINITY = {"float32": 1e37, "float64": 5e306}

Kernel = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Window:
    """A window over channels and the constants of the layer.

    Attributes:
        depth_radius: Channels on each side, >= 0.
        bias: Offset of the sum, > 0.
        alpha: Factor of the sum.
        beta: Exponent.
        channels: Number of all channels.
        channel_axis: `-1`, or `1` for channels first.
    """

    depth_radius: int
    bias: float
    alpha: float
    beta: float
    channels: int
    channel_axis: int

    @functools.cached_property
    def band(self) -> npt.NDArray[np.float64]:
        """The 0/1 matrix `(C, C)` that sums over the window.

        It follows from the arguments: it is a constant and not a weight.
        """
        index = np.arange(self.channels)
        distance = np.abs(index[:, None] - index[None, :])
        radius = min(self.depth_radius, self.channels)
        band: npt.NDArray[np.float64] = (distance <= radius).astype("float64")
        return band


def wide_dtype(dtype: str) -> str:
    """The dtype of the sums: half precision has too few digits for them."""
    return "float64" if dtype == "float64" else "float32"


def inverse_power(base: Tensor, beta: float) -> Tensor:
    """`base ** -beta`, without `pow` for the usual values; NaN below zero."""
    return power_of_root(ops.rsqrt(base), beta)


def power_of_root(root: Tensor, beta: float) -> Tensor:
    """`base ** -beta` from `root = base ** -0.5`."""
    if beta == 0.5:
        return root
    if beta == 0.75:
        return root * ops.sqrt(root)
    if beta == 1.0:
        return root * root
    return ops.power(root, 2.0 * beta)


def window_sums(squares: Tensor, window: Window, differentiable: bool) -> Tensor:
    """Computes `bias + alpha * sums` of squares over the window.

    Args:
        squares: float32 or float64 tensor; NaN and infinity stay in their window.
        window: The `Window`.
        differentiable: Whether gradients through the result keep NaN and
            infinity in their window, too. Costs passes over memory where nothing
            is compiled.

    Returns:
        Tensor of the same shape and dtype.
    """
    if differentiable and keras.backend.backend() == "tensorflow":
        return _tensorflow_sums(squares, window)
    base = _banded_product(_make_finite(squares), window, window.bias)
    if differentiable:
        dtype = keras.backend.standardize_dtype(base.dtype)
        sound = ops.abs(base) < 0.5 * window.alpha * FOR_INFINITY[dtype]
        base = ops.where(sound, base, ops.stop_gradient(base))
    return base


def _tensorflow_sums(squares: Any, window: Window) -> Any:
    """`window_sums` whose gradient is a product with the same, symmetric matrix."""
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def product(values: Any) -> tuple[Any, Kernel]:
        finite = _checked(values, zero_if_not_finite)
        return _banded_product(finite, window), product

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def sums(squares: Any) -> tuple[Any, Kernel]:
        finite = _checked(squares, _make_finite)
        return _banded_product(finite, window, window.bias), product

    return sums(squares)


def _checked(values: Tensor, replace: Kernel) -> Tensor:
    """Applies `replace`, on TensorFlow only where it changes anything.

    One pass finds out: a sum of all values is finite only if each value is.
    """
    if keras.backend.backend() != "tensorflow":
        return replace(values)
    finite = ops.isfinite(ops.sum(values))
    return ops.cond(finite, lambda: values, lambda: replace(values))


def _make_finite(squares: Tensor) -> Tensor:
    # Exporters know no `nan_to_num`.
    dtype = keras.backend.standardize_dtype(squares.dtype)
    nan = ops.convert_to_tensor(FOR_NAN[dtype], dtype=dtype)
    numbers = ops.where(ops.isnan(squares), nan, squares)
    if (
        keras.backend.backend() == "torch"
    ):  # where `ops.minimum` makes float32 of float64
        return numbers.clamp(max=FOR_INFINITY[dtype])
    return ops.minimum(numbers, FOR_INFINITY[dtype])


def zero_if_not_finite(values: Tensor) -> Tensor:
    return ops.where(ops.isfinite(values), values, ops.zeros_like(values))


def _banded_product(
    values: Tensor, window: Window, bias: float = 0.0, factor: float = 1.0
) -> Tensor:
    """Computes `bias + factor * alpha * sums` of finite values over the window."""
    # `@`, because on torch `ops.matmul` multiplies float64 as float32. The factors are
    # in the matrix, where they cost no pass over the values.
    band = factor * _weighted_band(window, values)
    shape = ops.shape(values)
    with full_precision(values):
        if window.channel_axis == -1:
            sums = ops.reshape(values, (-1, window.channels)) @ band
        else:
            positions = math.prod(shape[2:])
            matrices = (shape[0], window.channels, positions)
            sums = band @ ops.reshape(values, matrices)
    if bias and keras.backend.backend() == "tensorflow" and sums.ndim == 2:
        # TensorFlow adds a vector to a product in the same pass.
        sums = ops.add(sums, ops.full((window.channels,), bias, sums.dtype))
    elif bias:
        sums += bias
    return ops.reshape(sums, shape)


def _weighted_band(window: Window, values: Tensor) -> Tensor:
    """The banded matrix times `alpha`, in the dtype of `values`."""
    if keras.backend.backend() == "torch":
        import torch

        if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
            # `torch.compile` reads no NumPy array, which is what exporters want.
            index = torch.arange(window.channels, device=values.device)
            near = abs(index[:, None] - index) <= window.depth_radius
            return window.alpha * near.to(values.dtype)
    return ops.convert_to_tensor(window.alpha * window.band, dtype=values.dtype)


def full_precision(values: Tensor) -> AbstractContextManager[Any]:
    """Products of float32 in float32.

    On GPUs, JAX rounds to 10 bits before them, and so does `torch.autocast`.
    """
    precision: AbstractContextManager[Any] = nullcontext()
    if keras.backend.backend() == "jax":
        import jax

        precision = jax.default_matmul_precision("highest")
    elif keras.backend.backend() == "torch":
        import torch

        if torch.is_autocast_enabled(values.device.type):
            precision = torch.autocast(values.device.type, enabled=False)
    return precision


def sums_of_slices(values: Any, window: Window) -> Any:
    """The sums over the window, in which nothing spreads beyond it."""
    axis = window.channel_axis
    radius = min(window.depth_radius, window.channels - 1)
    padding = [(0, 0)] * len(values.shape)
    padding[axis] = (radius, radius)
    padded = ops.pad(values, padding)
    before = [...] if axis == -1 else [slice(None)]
    windows = [slice(i, i + window.channels) for i in range(2 * radius + 1)]
    return sum(padded[*before, channels] for channels in windows)


def widen(x: Any) -> Any:
    return ops.cast(x, wide_dtype(keras.backend.standardize_dtype(x.dtype)))


def formula(x: Tensor, window: Window, differentiable: bool) -> Tensor:
    """The layer in Keras operations: `x / (bias + alpha * sums) ** beta`."""
    wide = widen(x)
    base = window_sums(ops.square(wide), window, differentiable)
    return ops.cast(wide * inverse_power(base, window.beta), x.dtype)


def roots(x: Tensor, window: Window, checked: bool) -> Tensor:
    """`base ** -0.5` of the layer's inputs, from which follow outputs and gradient.

    With `checked`, finite values take fewer passes, and the graph has a condition.
    """
    squares = ops.square(widen(x))
    finite = _checked(squares, _make_finite) if checked else _make_finite(squares)
    return ops.rsqrt(_banded_product(finite, window, window.bias))


def gradient(x: Tensor, root: Tensor, upstream: Tensor, window: Window) -> Tensor:
    """The gradient of the layer, from its inputs and their `roots`."""
    wide = widen(x)
    scaled = widen(upstream) * power_of_root(root, window.beta)
    inner = _checked(scaled * wide * ops.square(root), zero_if_not_finite)
    sums = _banded_product(inner, window, factor=2 * window.beta)
    return ops.cast(scaled - wide * sums, x.dtype)


def gradient_formula(x: Tensor, upstream: Tensor, window: Window) -> Tensor:
    """The gradient of the layer in differentiable operations."""
    sums = window_sums(ops.square(widen(x)), window, differentiable=True)
    return gradient(x, ops.rsqrt(sums), upstream, window)
