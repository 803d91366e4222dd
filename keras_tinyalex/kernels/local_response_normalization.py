"""The sums of local response normalization, and its kernels for training.

The sum over a window of channels is a product with a banded matrix of zeros and ones:
outside of a compiler that is far faster than slices or pooling. In training, TensorFlow
and JAX compile a sum of slices by XLA, forward and backward; on PyTorch the gradient is
written by hand.
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
_FOR_NAN = {"float32": -3e38, "float64": -1.5e308}
_FOR_INFINITY = {"float32": 1e37, "float64": 5e306}
# Up to so many channels in a window, slices cost less than a product.
MAX_SLICES = 32
# Values in a chunk of a batch on torch: 2 MB of float32, which the cache holds.
CHUNK_SIZE = 1 << 19

# Takes and gives tensors of the layer's dtype.
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
    return _power_of_root(ops.rsqrt(base), beta)


def _power_of_root(root: Tensor, beta: float) -> Tensor:
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
    base = _banded_product(_make_finite(squares), window)
    if differentiable:
        dtype = keras.backend.standardize_dtype(base.dtype)
        sound = ops.abs(base) < 0.5 * window.alpha * _FOR_INFINITY[dtype]
        base = ops.where(sound, base, ops.stop_gradient(base))
    return base


def _make_finite(squares: Tensor) -> Tensor:
    # Exporters know no `nan_to_num`, and on torch `ops.minimum` makes float32 of
    # float64.
    dtype = keras.backend.standardize_dtype(squares.dtype)
    nan = ops.convert_to_tensor(_FOR_NAN[dtype], dtype=dtype)
    infinity = ops.convert_to_tensor(_FOR_INFINITY[dtype], dtype=dtype)
    replacement = ops.where(ops.isnan(squares), nan, infinity)
    return ops.where(squares <= infinity, squares, replacement)


def _banded_product(squares: Tensor, window: Window) -> Tensor:
    # `@`, because on torch `ops.matmul` multiplies float64 as float32. The factor is
    # in the matrix, where it costs no pass over the values.
    band = ops.convert_to_tensor(window.alpha * window.band, dtype=squares.dtype)
    shape = ops.shape(squares)
    with _full_precision():
        if window.channel_axis == -1:
            sums = ops.reshape(squares, (-1, window.channels)) @ band
        else:
            positions = math.prod(shape[2:])
            matrices = (shape[0], window.channels, positions)
            sums = band @ ops.reshape(squares, matrices)
    if keras.backend.backend() == "tensorflow" and sums.ndim == 2:
        # TensorFlow adds a vector to a product in the same pass.
        sums = ops.add(sums, ops.full((window.channels,), window.bias, sums.dtype))
    else:
        sums += window.bias
    return ops.reshape(sums, shape)


def _full_precision() -> AbstractContextManager[Any]:
    """Products of float32 in float32: on GPUs, JAX rounds to 10 bits before them."""
    if keras.backend.backend() != "jax":
        return nullcontext()
    import jax

    precision: AbstractContextManager[Any] = jax.default_matmul_precision("highest")
    return precision


def training_kernel(window: Window, formula: Kernel) -> Kernel | None:
    """Returns the kernel of this backend for training, or `None`.

    Args:
        window: The `Window`.
        formula: The layer's formula in Keras operations, for gradients of the
            gradient, which the kernel of torch does not know.
    """
    if keras.backend.backend() == "torch":
        return functools.partial(_torch_kernel, window=window, formula=formula)
    size = 2 * min(window.depth_radius, window.channels) + 1
    if size <= MAX_SLICES and can_compile():
        return functools.partial(_xla_kernel, window=window)
    return None


# ------------------------------------------------------------------- PyTorch


def _torch_kernel(x: Any, window: Window, formula: Kernel) -> Any:
    """Two products and few passes over memory, the gradient by hand.

    Each operation is a pass over all that it is given. On a CPU that is a chunk of
    the batch which the cache holds.
    """
    import torch

    beta = window.beta
    name = wide_dtype(keras.backend.standardize_dtype(x.dtype))
    wide = getattr(torch, name)
    band = torch.as_tensor(window.band, dtype=wide, device=x.device)

    @ops.custom_gradient  # type: ignore[untyped-decorator]
    def normalize(x: Any) -> tuple[Any, Any]:
        y, roots = torch.empty_like(x), torch.empty_like(x, dtype=wide)
        weights = window.alpha * band
        for x_, root, y_ in _chunks(x, roots, y):
            x_ = x_.to(wide)
            squares = x_ * x_
            squares.nan_to_num_(_FOR_NAN[name], _FOR_INFINITY[name])
            sums = _torch_sums(squares, weights, window)
            torch.rsqrt(sums.add_(window.bias), out=root)
            torch.mul(x_, _power_of_root(root, beta), out=y_)

        def gradient(x: Any, upstream: Any) -> Any:
            if torch.is_grad_enabled():  # as in `backward(create_graph=True)`
                y = formula(x.to(wide)).to(x.dtype)
                return torch.autograd.grad(y, x, upstream, create_graph=True)[0]
            gradients = torch.empty_like(x)
            weights = 2 * window.alpha * beta * band
            for x_, root, dy, dx in _chunks(x, roots, upstream, gradients):
                x_, scaled = x_.to(wide), dy * _power_of_root(root, beta)
                inner = scaled * x_
                inner.mul_(root).mul_(root).nan_to_num_(0.0, 0.0, 0.0)
                sums = _torch_sums(inner, weights, window)
                torch.addcmul(scaled, sums, x_, value=-1.0, out=dx)
            return gradients

        return y, gradient

    return normalize(x)


def _torch_sums(values: Any, band: Any, window: Window) -> Any:
    if window.channel_axis == -1 or values.ndim == 2:
        return values @ band
    return (band @ values.flatten(2)).reshape(values.shape)


def _chunks(x: Any, *tensors: Any) -> Any:
    """The chunks of tensors along the batch, as tuples."""
    import torch

    count = len(x)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        count = CHUNK_SIZE * len(x) // max(1, x.numel())
    return zip(*(t.split(max(1, count)) for t in (x, *tensors)), strict=True)


# ----------------------------------------------------- TensorFlow and JAX: XLA


def _xla_kernel(x: Tensor, window: Window) -> Tensor:
    """A sum of slices, which XLA compiles to few loops forward and few backward.

    XLA fuses it with what is around it, but not the gradient that it would derive.
    In slices nothing spreads beyond the window.
    """
    radius = min(window.depth_radius, window.channels - 1)
    constants = radius, window.bias, window.alpha, window.beta, window.channel_axis
    forward, backward = _xla_functions(*constants)

    @ops.custom_gradient  # type: ignore[untyped-decorator]
    def normalize(x: Any) -> tuple[Any, Any]:
        return forward(x), lambda upstream: backward(x, upstream)

    return normalize(x)


@functools.cache
def _xla_functions(
    radius: int, bias: float, alpha: float, beta: float, axis: int
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The layer forward, `x` to `y`, and backward, `x` and `dy` to `dx`.

    Half precision is read and written as it is; in between, what XLA keeps is
    float32. Backward computes the sums again: to keep them saves a tenth of the time
    of large batches and costs a tensor of float32.
    """
    before = [...] if axis == -1 else [slice(None)]

    def widen(x: Any) -> Any:
        return ops.cast(x, wide_dtype(keras.backend.standardize_dtype(x.dtype)))

    def sums_of_slices(values: Any) -> Any:
        padding = [(0, 0)] * len(values.shape)
        padding[axis] = (radius, radius)
        padded = ops.pad(values, padding)
        channels = values.shape[axis]
        windows = [slice(i, i + channels) for i in range(2 * radius + 1)]
        return sum(padded[*before, window] for window in windows)

    def forward(x: Any) -> Any:
        dtype, x = x.dtype, widen(x)
        base = bias + alpha * sums_of_slices(ops.square(x))
        return ops.cast(x * inverse_power(base, beta), dtype)

    def backward(x: Any, dy: Any) -> Any:
        dtype, x, dy = x.dtype, widen(x), widen(dy)
        base = bias + alpha * sums_of_slices(ops.square(x))
        dx = dy * inverse_power(base, beta)
        # A root and a product take half the time of a division.
        inner = dx * x * ops.square(ops.rsqrt(base))
        inner = sums_of_slices(ops.where(ops.isfinite(inner), inner, 0.0))
        return ops.cast(dx - 2 * alpha * beta * x * inner, dtype)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(jit_compile=True, autograph=False)
        return compiled(forward), compiled(backward)
    return forward, backward


@functools.cache
def can_compile() -> bool:
    """Whether XLA is there: JAX is it, TensorFlow may have been built without."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    try:
        with tf.init_scope():
            tf.function(tf.math.rsqrt, jit_compile=True)(tf.ones(2))
    except tf.errors.OpError:
        return False
    return True
