"""Local response normalization (LRN) for every Keras backend."""

import functools
import math
import numbers
import operator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import keras
import numpy as np
from keras import ops

# 0 * NaN and 0 * infinity are NaN: left alone, one such square would spread
# through the banded product to every channel. Finite numbers stand for them: a
# NaN becomes so negative that its windows sum to less than zero, of which the
# root is NaN again.
_FOR_NAN = {"float32": -3e38, "float64": -1.5e308}
_FOR_INFINITY = {"float32": 1e37, "float64": 5e306}
# Channels in a window, beyond which a product costs less than slices.
_MOST_SLICES = 32
# Values that torch is given at once: 2 MB of float32.
_PART = 1 << 19


@keras.saving.register_keras_serializable(package="keras_tinyalex")
class LocalResponseNormalization(keras.Layer):  # type: ignore[misc]
    """Local response normalization across channels.

    Each value is divided by a power of the energy in a window of neighbouring
    channels at the same position:

    `y[i] = x[i] / (bias + alpha * sum(x[j] ** 2)) ** beta`,
    where the sum is over the channels `j` with `|j - i| <= depth_radius`.

    The meaning and the defaults are those of
    `tf.nn.local_response_normalization`: `alpha` is *not* divided by the size
    of the window. PyTorch, ONNX and Caffe do divide it: use `from_torch()` or
    `from_caffe()` with numbers written for those, and `from_paper()` for the
    constants of the AlexNet paper.

    The layer has no weights. It computes in float32 under the float16 and
    bfloat16 policies, so that squares neither overflow nor lose digits. A NaN
    or infinite value reaches the outputs within `depth_radius` channels of it
    and no others; in training, neither does it reach other gradients. Gradients
    can be derived again; JAX's forward mode, `jax.jvp`, works in inference only.

    Args:
        depth_radius: Non-negative integer. How many channels on each side take
            part; the window has `2 * depth_radius + 1` channels, fewer at the
            edges. Defaults to `5`.
        bias: Positive float, the offset that keeps the base above zero.
            Defaults to `1.0`.
        alpha: Non-negative float, the weight of the sum. Defaults to `1.0`.
        beta: Float, the exponent. Defaults to `0.5`.
        data_format: `"channels_last"`, `"channels_first"` or `None`, which
            takes `keras.config.image_data_format()` when the layer is made.
            Defaults to `None`.
        **kwargs: Arguments of `keras.Layer`, such as `name` and `dtype`.

    Input shape:
        Tensor of rank 2 or more: `(batch, ..., channels)` with
        `"channels_last"`, `(batch, channels, ...)` with `"channels_first"`.
        Only the number of channels must be known.

    Output shape:
        The shape of the input.

    Raises:
        ValueError: If an argument is out of its range, or if the layer is built
            on a shape of rank below 2 or with an unknown number of channels.

    Examples:
        >>> x = np.array([[1.0, 2.0, 3.0]], dtype="float32")
        >>> layer = LocalResponseNormalization(depth_radius=1, bias=2.0)
        >>> (np.array(layer(x)) * np.sqrt([[7.0, 16.0, 15.0]])).round(5)
        array([[1., 2., 3.]])

    Reference:

    - [ImageNet Classification with Deep Convolutional Neural Networks](
      https://papers.nips.cc/paper/4824), Krizhevsky et al., 2012, section 3.3
    """

    def __init__(
        self,
        depth_radius: int = 5,
        bias: float = 1.0,
        alpha: float = 1.0,
        beta: float = 0.5,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.depth_radius = _non_negative_int("depth_radius", depth_radius)
        self.bias = _finite_number("bias", bias, "a finite number above 0")
        if self.bias <= 0:
            raise ValueError(
                "Argument `bias` must be a finite number above 0; it keeps the "
                f"base of the power positive. Received: bias={bias}"
            )
        self.alpha = _finite_number("alpha", alpha, "a finite number of at least 0")
        if self.alpha < 0:
            raise ValueError(
                "Argument `alpha` must be a finite number of at least 0. "
                f"Received: alpha={alpha}"
            )
        self.beta = _finite_number("beta", beta, "a finite number")
        if data_format not in (None, "channels_last", "channels_first"):
            raise ValueError(
                'Argument `data_format` must be "channels_last", '
                '"channels_first" or None (the Keras setting). '
                f"Received: data_format={data_format!r}"
            )
        # Resolved now, as Keras' own layers do: a saved layer keeps its axis
        # wherever it is loaded.
        self.data_format = data_format or keras.config.image_data_format()
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) < 2:
            raise ValueError(
                "LocalResponseNormalization needs an input of rank 2 or more, "
                "(batch, ..., channels). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        axis = self._channel_axis
        channels = input_shape[axis]
        if channels is None:
            raise ValueError(
                "LocalResponseNormalization needs a known number of channels "
                f"(axis {axis} with data_format={self.data_format!r}). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={axis: channels})
        # The window sum over channels is a product with this 0/1 matrix: where
        # nothing is compiled, far faster than slices or pooling. It follows from
        # the arguments, so it is a constant and not a weight.
        index = np.arange(channels)
        distance = np.abs(index[:, None] - index[None, :])
        self._band = (distance <= min(self.depth_radius, channels)).astype("float64")
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        backend = keras.backend.backend()
        if training and backend == "torch":
            return self._in_parts(ops.cast(inputs, self.compute_dtype))
        if training and self._is_sum_of_slices():
            return self._compiled(ops.cast(inputs, self.compute_dtype))
        # Half precision has too few digits, and 256**2 overflows float16.
        x = ops.cast(inputs, self._wide_dtype)
        y = self._normalized(x, training or backend == "jax")
        return ops.cast(y, self.compute_dtype)

    def _normalized(self, x: Any, to_be_derived: bool | None = False) -> Any:
        """The formula; `to_be_derived` costs passes over memory where not compiled."""
        base = self._bases(_finite(ops.square(x)))
        if to_be_derived:
            # The derived gradient would spread what is no number to all channels.
            dtype = keras.backend.standardize_dtype(base.dtype)
            sound = ops.abs(base) < 0.5 * self.alpha * _FOR_INFINITY[dtype]
            base = ops.where(sound, base, ops.stop_gradient(base))
        return x * _power(base, self.beta)

    def _in_parts(self, x: Any) -> Any:
        """The same on torch with the gradient by hand: two products, few passes.

        Each operation is a pass over all that it is given, which on a processor is
        therefore a part of the batch that its cache holds.
        """
        import torch

        name = self._wide_dtype
        wide = getattr(torch, name)
        band = torch.as_tensor(self._band, dtype=wide, device=x.device)
        count = len(x)
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            count = _PART * len(x) // max(1, x.numel())

        def parts(*tensors: Any) -> Any:
            return zip(*(t.split(max(1, count)) for t in tensors), strict=True)

        def sums(values: Any, band: Any) -> Any:
            if self._channel_axis == -1 or values.ndim == 2:
                return values @ band
            return (band @ values.flatten(2)).reshape(values.shape)

        @ops.custom_gradient  # type: ignore[untyped-decorator]
        def normalize(x: Any) -> tuple[Any, Any]:
            y, roots = torch.empty_like(x), torch.empty_like(x, dtype=wide)
            weights = self.alpha * band
            for x_, root, y_ in parts(x, roots, y):
                x_ = x_.to(wide)
                squares = x_ * x_
                squares.nan_to_num_(_FOR_NAN[name], _FOR_INFINITY[name])
                torch.rsqrt(sums(squares, weights).add_(self.bias), out=root)
                torch.mul(x_, _from_root(root, self.beta), out=y_)

            def gradient(x: Any, upstream: Any) -> Any:
                if torch.is_grad_enabled():  # as in `backward(create_graph=True)`
                    y = self._normalized(x.to(wide), to_be_derived=True).to(x.dtype)
                    return torch.autograd.grad(y, x, upstream, create_graph=True)[0]
                gradients = torch.empty_like(x)
                weights = 2 * self.alpha * self.beta * band
                for x_, root, dy, dx in parts(x, roots, upstream, gradients):
                    x_, scaled = x_.to(wide), dy * _from_root(root, self.beta)
                    inner = scaled * x_
                    inner.mul_(root).mul_(root).nan_to_num_(0.0, 0.0, 0.0)
                    torch.addcmul(scaled, sums(inner, weights), x_, value=-1.0, out=dx)
                return gradients

            return y, gradient

        return normalize(x)

    def _is_sum_of_slices(self) -> bool:
        """Whether a sum of slices costs less than a product, and can be compiled."""
        window = 2 * min(self.depth_radius, len(self._band)) + 1
        return window <= _MOST_SLICES and _can_compile()

    def _compiled(self, x: Any) -> Any:
        """The same where XLA compiles it, to few loops forward and few backward.

        XLA fuses a sum of slices with all that is around it, but not the gradient
        that would be derived of it. Nothing spreads in slices.
        """
        radius = min(self.depth_radius, len(self._band) - 1)
        arguments = radius, self.bias, self.alpha, self.beta, self._channel_axis
        forward, backward = _both_ways(*arguments)

        @ops.custom_gradient  # type: ignore[untyped-decorator]
        def normalize(x: Any) -> tuple[Any, Any]:
            return forward(x), lambda upstream: backward(x, upstream)

        return normalize(x)

    def _bases(self, squares: Any) -> Any:
        """`bias + alpha * sums`, whose power divides the inputs."""
        # `@`, because on torch `ops.matmul` multiplies float64 as float32. The
        # factor is in the matrix, where it costs no pass over the values.
        band = ops.convert_to_tensor(self.alpha * self._band, dtype=squares.dtype)
        shape = ops.shape(squares)
        channels = self._band.shape[0]
        with _all_digits():
            if self._channel_axis == -1:
                sums = ops.reshape(squares, (-1, channels)) @ band
            else:
                positions = math.prod(shape[2:])
                sums = band @ ops.reshape(squares, (shape[0], channels, positions))
        if keras.backend.backend() == "tensorflow" and sums.ndim == 2:
            # TensorFlow adds a vector to a product in the same pass.
            sums = ops.add(sums, ops.full((channels,), self.bias, sums.dtype))
        else:
            sums += self.bias
        return ops.reshape(sums, shape)

    @property
    def _wide_dtype(self) -> str:
        return "float64" if self.compute_dtype == "float64" else "float32"

    @property
    def _channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        config.update(
            depth_radius=self.depth_radius,
            bias=self.bias,
            alpha=self.alpha,
            beta=self.beta,
            data_format=self.data_format,
        )
        return config

    @classmethod
    def from_torch(
        cls,
        size: int,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 1.0,
        **kwargs: Any,
    ) -> Self:
        """Makes the layer from the arguments of `torch.nn.LocalResponseNorm`.

        PyTorch (and ONNX) divide `alpha` by `size`; the layer gets
        `alpha / size`. PyTorch data is usually `data_format="channels_first"`.

        Args:
            size: Positive odd integer, the channels in the window. (With an
                even size PyTorch and ONNX lean to different sides.)
            alpha: Weight of the *mean* square. Defaults to `1e-4`.
            beta: Exponent. Defaults to `0.75`.
            k: Offset, our `bias`. Defaults to `1.0`.
            **kwargs: `data_format` and arguments of `keras.Layer`.

        Returns:
            A `LocalResponseNormalization`.

        Raises:
            ValueError: If `size` is not a positive odd integer.

        Examples:
            >>> layer = LocalResponseNormalization.from_torch(5, alpha=1e-4)
            >>> layer.depth_radius, layer.alpha
            (2, 2e-05)
        """
        radius = _radius("size", size)
        return cls(radius, bias=k, alpha=alpha / size, beta=beta, **kwargs)

    @classmethod
    def from_caffe(
        cls,
        local_size: int = 5,
        alpha: float = 1.0,
        beta: float = 0.75,
        k: float = 1.0,
        **kwargs: Any,
    ) -> Self:
        """Makes the layer from the `lrn_param` of Caffe (`ACROSS_CHANNELS`).

        Caffe divides `alpha` by `local_size`; the layer gets
        `alpha / local_size`. The defaults are those of Caffe's `LRNParameter`.

        Args:
            local_size: Positive odd integer, the channels in the window.
                Defaults to `5`.
            alpha: Weight of the *mean* square. Defaults to `1.0`.
            beta: Exponent. Defaults to `0.75`.
            k: Offset, our `bias`. Defaults to `1.0`.
            **kwargs: `data_format` and arguments of `keras.Layer`.

        Returns:
            A `LocalResponseNormalization`.

        Raises:
            ValueError: If `local_size` is not a positive odd integer.

        Examples:
            >>> layer = LocalResponseNormalization.from_caffe(5, alpha=1.0)
            >>> layer.depth_radius, layer.alpha
            (2, 0.2)
        """
        radius = _radius("local_size", local_size)
        return cls(radius, bias=k, alpha=alpha / local_size, beta=beta, **kwargs)

    @classmethod
    def from_paper(
        cls,
        n: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float = 2.0,
        **kwargs: Any,
    ) -> Self:
        """Makes the layer from the constants of the AlexNet paper.

        The paper sums over `n` channels and does not divide `alpha`.

        Args:
            n: Positive odd integer, the channels in the window. Defaults to
                `5`.
            alpha: Weight of the sum of squares. Defaults to `1e-4`.
            beta: Exponent. Defaults to `0.75`.
            k: Offset, our `bias`. Defaults to `2.0`.
            **kwargs: `data_format` and arguments of `keras.Layer`.

        Returns:
            A `LocalResponseNormalization`.

        Raises:
            ValueError: If `n` is not a positive odd integer.

        Examples:
            >>> layer = LocalResponseNormalization.from_paper()
            >>> layer.depth_radius, layer.bias, layer.alpha, layer.beta
            (2, 2.0, 0.0001, 0.75)
        """
        return cls(_radius("n", n), bias=k, alpha=alpha, beta=beta, **kwargs)


def _power(base: Any, beta: float) -> Any:
    """`base ** -beta`; NaN where `base` is negative."""
    return _from_root(ops.rsqrt(base), beta)


def _from_root(root: Any, beta: float) -> Any:
    """The same of `base ** -0.5`."""
    if beta == 0.5:
        return root
    if beta == 0.75:
        return root * ops.sqrt(root)
    if beta == 1.0:
        return root * root
    return ops.power(root, 2.0 * beta)


@functools.cache
def _both_ways(
    radius: int, bias: float, alpha: float, beta: float, axis: int
) -> tuple[Any, Any]:
    """The layer forward, `x` to `y`, and backward, `x` and `dy` to `dx`.

    Half precision is read and written as it is; in between, what XLA keeps is
    float32. Backward computes the sums again: to keep them saves a tenth of the time
    of large batches and costs a tensor of float32.
    """
    before = [...] if axis == -1 else [slice(None)]

    def wide(x: Any) -> Any:
        double = keras.backend.standardize_dtype(x.dtype) == "float64"
        return ops.cast(x, "float64" if double else "float32")

    def window_sums(values: Any) -> Any:
        padding = [(0, 0)] * len(values.shape)
        padding[axis] = (radius, radius)
        padded = ops.pad(values, padding)
        channels = values.shape[axis]
        windows = [slice(i, i + channels) for i in range(2 * radius + 1)]
        return sum(padded[*before, window] for window in windows)

    def forward(x: Any) -> Any:
        dtype, x = x.dtype, wide(x)
        base = bias + alpha * window_sums(ops.square(x))
        return ops.cast(x * _power(base, beta), dtype)

    def backward(x: Any, dy: Any) -> Any:
        dtype, x, dy = x.dtype, wide(x), wide(dy)
        base = bias + alpha * window_sums(ops.square(x))
        dx = dy * _power(base, beta)
        # A root and a product take half the time of a division.
        inner = dx * x * ops.square(ops.rsqrt(base))
        inner = window_sums(ops.where(ops.isfinite(inner), inner, 0.0))
        return ops.cast(dx - 2 * alpha * beta * x * inner, dtype)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(jit_compile=True, autograph=False)
        return compiled(forward), compiled(backward)
    return forward, backward


@functools.cache
def _can_compile() -> bool:
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


def _all_digits() -> AbstractContextManager[Any]:
    """Products of float32 in float32: on GPUs, JAX rounds to 10 bits before them."""
    if keras.backend.backend() != "jax":
        return nullcontext()
    import jax

    precision: AbstractContextManager[Any] = jax.default_matmul_precision("highest")
    return precision


def _finite(squares: Any) -> Any:
    # Exporters know no `nan_to_num`, and on torch `ops.minimum` makes float32 of
    # float64.
    dtype = keras.backend.standardize_dtype(squares.dtype)
    nan = ops.convert_to_tensor(_FOR_NAN[dtype], dtype=dtype)
    infinity = ops.convert_to_tensor(_FOR_INFINITY[dtype], dtype=dtype)
    instead = ops.where(ops.isnan(squares), nan, infinity)
    return ops.where(squares <= infinity, squares, instead)


def _non_negative_int(name: str, value: Any) -> int:
    try:
        number = -1 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(
            f"Argument `{name}` must be a non-negative integer. "
            f"Received: {name}={value!r}"
        )
    return number


def _finite_number(name: str, value: Any, expected: str) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Real)
        or not math.isfinite(value)
    ):
        raise ValueError(
            f"Argument `{name}` must be {expected}. Received: {name}={value!r}"
        )
    return float(value)


def _radius(name: str, window: Any) -> int:
    """The radius of a window of `window` channels, which must be odd."""
    size = _non_negative_int(name, window)
    if size % 2 == 0:
        raise ValueError(
            f"Argument `{name}` must be a positive odd integer: frameworks "
            "disagree on which side an even window leans to. "
            f"Received: {name}={window!r}"
        )
    return size // 2
