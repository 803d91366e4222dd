"""Local response normalization (LRN) for every Keras backend."""

from __future__ import annotations

from typing import Any, Self

import keras
from keras import ops

from keras_tinyalex.aliases import Tensor
from keras_tinyalex.arguments import check_choice, check_integer, check_number
from keras_tinyalex.kernels.local_response_normalization import normalize
from keras_tinyalex.kernels.window_sums import Window


@keras.saving.register_keras_serializable(package="keras_tinyalex")
class LocalResponseNormalization(keras.Layer):  # type: ignore[misc]
    """Local response normalization across channels.

    Divides each activation by a power of the sum of squares in a window of
    neighboring channels at the same position:

    `y[i] = x[i] / (bias + alpha * sum(x[j] ** 2)) ** beta`,
    where the sum is over the channels `j` with `|j - i| <= depth_radius`.

    The meaning and the defaults are those of
    `tf.nn.local_response_normalization`: `alpha` is *not* divided by the size
    of the window. PyTorch, ONNX and Caffe divide it: use `from_torch()` or
    `from_caffe()` for their constants, and `from_paper()` for those of the
    AlexNet paper.

    The layer has no weights. It computes in float32 under the float16 and
    bfloat16 policies, so that squares neither overflow nor lose digits. A NaN
    or infinity reaches only the outputs, and in training the gradients, within
    `depth_radius` channels of it.

    Gradients of gradients, forward mode and `vmap` work. On TensorFlow, `fit`
    compiles the layer by XLA for batch sizes that are powers of two, from 16 on,
    if all sizes but that of the batch are fixed. Other shapes take plain
    operations, and so does everything outside of `fit`: exporters, your own loops.

    Args:
        depth_radius: Non-negative integer, number of channels on each side; the
            window has `2 * depth_radius + 1` channels, fewer at the edges.
            Defaults to `5`.
        bias: Positive float, the offset. Defaults to `1.0`.
        alpha: Non-negative float, the weight of the sum. Defaults to `1.0`.
        beta: Float, the exponent. Defaults to `0.5`.
        data_format: `"channels_last"`, `"channels_first"` or `None`, for
            `keras.config.image_data_format()` at construction. Defaults to
            `None`.
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
        >>> import numpy as np
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
        self.depth_radius = check_integer("depth_radius", depth_radius, minimum=0)
        self.bias = check_number("bias", bias, above=0)
        self.alpha = check_number("alpha", alpha, minimum=0)
        self.beta = check_number("beta", beta)
        formats = (None, "channels_last", "channels_first")
        check_choice("data_format", data_format, formats)
        # Resolved now, as in Keras' own layers: a saved layer keeps its axis.
        self.data_format = data_format or keras.config.image_data_format()
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) < 2:
            raise ValueError(
                "`input_shape` must have rank 2 or more, (batch, ..., channels). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        axis = -1 if self.data_format == "channels_last" else 1
        channels = input_shape[axis]
        if channels is None:
            raise ValueError(
                "`input_shape` must have a known number of channels (axis "
                f"{axis} with data_format={self.data_format!r}). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={axis: channels})
        constants = self.depth_radius, self.bias, self.alpha, self.beta
        self._window = Window(*constants, channels, axis)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        inputs = ops.cast(inputs, self.compute_dtype)
        return normalize(inputs, self._window, bool(training))

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


def _radius(name: str, size: Any) -> int:
    """The radius of a window of `size` channels, which must be odd."""
    count = check_integer(name, size, minimum=0)
    if count % 2 == 0:
        raise ValueError(
            f"`{name}` must be a positive odd integer: frameworks disagree on which "
            f"side a window of even size leans to. Received: {name}={size!r}"
        )
    return count // 2
