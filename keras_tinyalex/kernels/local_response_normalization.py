"""Kernels of local response normalization.

JAX computes a sum of slices, which XLA compiles, and so does TensorFlow in `fit`. On
PyTorch, and on TensorFlow elsewhere, it is a product with the gradient by hand.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import ops

from keras_tinyalex.kernels.tracing import is_traced_by_torch
from keras_tinyalex.kernels.window_sums import (
    FOR_INFINITY,
    FOR_NAN,
    Kernel,
    Window,
    formula,
    full_precision,
    gradient,
    gradient_formula,
    inverse_power,
    power_of_root,
    roots,
    sums_of_slices,
    wide_dtype,
    widen,
    zero_if_not_finite,
)

# Up to so many channels in a window, slices cost less than a product.
MAX_SLICES = 32
# TensorFlow compiles for each batch size anew. It compiles only for powers of two, of
# at least so many: few sizes, and those that people train with.
MIN_COMPILED_BATCH = 16
# Values in a chunk of a batch on torch: 2 MB of float32, which the cache holds.
CHUNK_SIZE = 1 << 19


def normalize(x: Any, window: Window, training: bool) -> Any:
    """Computes the layer by a kernel of this backend.

    It may be differentiated even if it does not train: in a frozen network, and in
    loops that leave the argument out.

    Args:
        x: Tensor in the layer's dtype.
        window: The `Window`.
        training: Whether the layer trains.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return _torch_kernel(x, window, training)
    if backend == "jax":
        if _is_narrow(window):
            return _jax_kernel(x, window)
        return formula(x, window, differentiable=True)
    return _tensorflow_kernel(x, window, training)


def _is_narrow(window: Window) -> bool:
    return 2 * min(window.depth_radius, window.channels) + 1 <= MAX_SLICES


# ------------------------------------------------------------------- PyTorch


def _torch_kernel(x: Any, window: Window, training: bool) -> Any:
    if is_traced_by_torch() or not _is_plain(x):
        return formula(x, window, differentiable=training)
    return _torch_function().apply(x, window)


def _is_plain(x: Any) -> bool:
    """Whether operations on a tensor may write into memory.

    The tensors of `torch.func` have no memory of their own; those of forward mode
    carry tangents.
    """
    import torch

    try:
        x.data_ptr()
    except RuntimeError:
        return False
    return torch.autograd.forward_ad.unpack_dual(x).tangent is None


@functools.cache
def _torch_function() -> Any:
    """Two products and few passes over memory, the gradient by hand.

    Each operation is a pass over all that it is given. On a CPU that is a chunk of
    the batch which the cache holds.
    """
    import torch

    class Normalize(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any, window: Window) -> Any:
            y, roots = _torch_forward(x, window)
            ctx.save_for_backward(x, roots)
            ctx.window = window
            return y

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            x, roots = ctx.saved_tensors
            plain = _is_plain(x) and _is_plain(upstream)
            if plain and not torch.is_grad_enabled():
                return _torch_gradient(x, roots, upstream, ctx.window), None
            # The gradient will be differentiated, or is one of a batch.
            return gradient_formula(x, upstream, ctx.window), None

    return Normalize


def _torch_forward(x: Any, window: Window) -> tuple[Any, Any]:
    """The outputs, and the roots `base ** -0.5` for the gradient."""
    import torch

    name, weights = _torch_weights(x, window)
    y, roots = torch.empty_like(x), torch.empty_like(x, dtype=weights.dtype)
    for x_, root, y_ in _chunks(x, roots, y):
        x_ = x_.to(weights.dtype)
        squares = x_ * x_
        squares.nan_to_num_(FOR_NAN[name], FOR_INFINITY[name])
        sums = _torch_sums(squares, weights, window)
        torch.rsqrt(sums.add_(window.bias), out=root)
        torch.mul(x_, power_of_root(root, window.beta), out=y_)
    return y, roots


def _torch_gradient(x: Any, roots: Any, upstream: Any, window: Window) -> Any:
    import torch

    _, weights = _torch_weights(x, window)
    weights *= 2 * window.beta
    gradients = torch.empty_like(x)
    for x_, root, dy, dx in _chunks(x, roots, upstream, gradients):
        x_, scaled = x_.to(weights.dtype), dy * power_of_root(root, window.beta)
        inner = scaled * x_
        inner.mul_(root).mul_(root).nan_to_num_(0.0, 0.0, 0.0)
        sums = _torch_sums(inner, weights, window)
        torch.addcmul(scaled, sums, x_, value=-1.0, out=dx)
    return gradients


def _torch_weights(x: Any, window: Window) -> tuple[str, Any]:
    """The dtype of the sums, and the banded matrix with `alpha` in it."""
    import torch

    name = wide_dtype(keras.backend.standardize_dtype(x.dtype))
    band = window.alpha * window.band
    return name, torch.tensor(band, dtype=getattr(torch, name), device=x.device)


def _torch_sums(values: Any, band: Any, window: Window) -> Any:
    with full_precision(values):
        if window.channel_axis == -1 or values.ndim == 2:
            return values @ band
        return (band @ values.flatten(2)).reshape(values.shape)


def _chunks(x: Any, *tensors: Any) -> Any:
    """The chunks of tensors along the batch, as tuples."""
    count = len(x)
    if x.device.type == "cpu":
        count = CHUNK_SIZE * len(x) // max(1, x.numel())
    return zip(*(t.split(max(1, count)) for t in (x, *tensors)), strict=True)


# ----------------------------------------------------- TensorFlow and JAX: XLA


def _jax_kernel(x: Any, window: Window) -> Any:
    """A sum of slices, which XLA compiles to few loops forward and few backward.

    Half precision is read and written as it is; in between, XLA keeps float32.
    """
    import jax

    def sums(values: Any) -> Any:
        # The transpose that JAX derives of slices is slow. The sum is its own, which
        # `custom_linear_solve` can say for every transformation; the operator that is
        # "solved", its first argument, is not used.
        return jax.lax.custom_linear_solve(
            lambda v: v,
            values,
            lambda _, v: sums_of_slices(v, window),
            symmetric=True,
        )

    @jax.custom_jvp
    def normalize(x: Any) -> Any:
        wide = widen(x)
        base = window.bias + window.alpha * sums(ops.square(wide))
        return ops.cast(wide * inverse_power(base, window.beta), x.dtype)

    @normalize.defjvp
    def derivative(primals: Any, tangents: Any) -> tuple[Any, Any]:
        wide, tangent = widen(primals[0]), widen(tangents[0])
        base = window.bias + window.alpha * sums(ops.square(wide))
        root = ops.rsqrt(base)
        power = power_of_root(root, window.beta)
        factor = 2 * window.alpha * window.beta * wide * power * ops.square(root)
        slope = power * tangent - zero_if_not_finite(factor) * sums(wide * tangent)
        return ops.cast(wide * power, x.dtype), ops.cast(slope, x.dtype)

    return normalize(x)


def _is_step_of_fit() -> bool:
    """Whether TensorFlow traces a step of `fit`, `evaluate` or `predict`.

    In other graphs, exporters must find operations that every runtime has, and each
    shape may come once. Keras takes its steps by `run` of a `tf.distribute.Strategy`,
    on one device, too: it has a replica context that is not the default one.
    """
    import tensorflow as tf

    if tf.executing_eagerly():
        return False
    context = tf.distribute.get_replica_context()
    with tf.Graph().as_default():
        default = tf.distribute.get_replica_context()
    return context is not None and context is not default


def _tensorflow_kernel(x: Any, window: Window, training: bool) -> Any:
    """The gradient by hand; compiled by XLA for a few batch sizes in steps of `fit`."""
    import tensorflow as tf

    of_fit = _is_step_of_fit()
    # A model that exporters trace gets no condition.
    checked = training or of_fit or tf.executing_eagerly()

    @functools.cache
    def compiled() -> Any:
        return of_fit and _is_compiled(x, window)

    def xla(index: int) -> Any:
        return lambda *inputs: _xla_functions(window)[index](*inputs)

    def plain_forward(x: Any) -> tuple[Any, Any]:
        root = roots(x, window, checked)
        y = widen(x) * power_of_root(root, window.beta)
        return ops.cast(y, x.dtype), root

    def plain_backward(x: Any, root: Any, dy: Any) -> Any:
        return gradient(x, root, dy, window)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def normalize(x: Any) -> tuple[Any, Kernel]:
        # Whoever predicts does not wait for a compiler.
        y, root = _choose(training and compiled(), xla(0), plain_forward, x)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def derivative(x: Any, dy: Any) -> tuple[Any, Kernel]:
            def second(upstream: Any) -> Any:
                with tf.GradientTape() as tape:
                    tape.watch((x, dy))
                    found = gradient_formula(x, dy, window)
                return tape.gradient(found, (x, dy), upstream)

            dx = _choose(compiled(), xla(1), plain_backward, x, root, dy)
            return dx, second

        return y, lambda upstream: derivative(x, upstream)

    return normalize(x)


def _is_compiled(x: Any, window: Window) -> Any:
    """Whether XLA compiles a batch: a bool, or a tensor if its size is not known."""
    import tensorflow as tf

    if None in x.shape[1:] or not _is_narrow(window) or not can_compile():
        return False
    batch = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
    return (batch >= MIN_COMPILED_BATCH) & ((batch & (batch - 1)) == 0)


def _choose(condition: Any, yes: Any, no: Any, *inputs: Any) -> Any:
    if isinstance(condition, bool):
        return yes(*inputs) if condition else no(*inputs)
    return ops.cond(condition, lambda: yes(*inputs), lambda: no(*inputs))


def _xla_functions(window: Window) -> tuple[Any, Any]:
    """Sums of slices, `x` to `y` and root, and `x`, root and `dy` to `dx`.

    The gradient is written by hand, as XLA would not derive it as fast. Half precision
    is read and written as it is; in between, what XLA keeps is float32.
    """
    import tensorflow as tf

    # Made for each graph anew: an exporter can remove functions from the process.
    @tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
    def forward(x: Any) -> tuple[Any, Any]:
        wide = widen(x)
        sums = window.alpha * sums_of_slices(ops.square(wide), window)
        root = ops.rsqrt(window.bias + sums)
        return ops.cast(wide * power_of_root(root, window.beta), x.dtype), root

    @tf.function(jit_compile=True, autograph=False)  # type: ignore[untyped-decorator]
    def backward(x: Any, root: Any, dy: Any) -> Any:
        wide = widen(x)
        dx = widen(dy) * power_of_root(root, window.beta)
        inner = zero_if_not_finite(dx * wide * ops.square(root))
        factor = 2 * window.alpha * window.beta
        dx -= factor * wide * sums_of_slices(inner, window)
        return ops.cast(dx, x.dtype)

    return forward, backward


def can_compile() -> bool:
    """Whether TensorFlow has XLA, and no debugger whose operations XLA lacks."""
    import tensorflow as tf

    # Such as `tf.debugging.enable_check_numerics`, which adds them to each function.
    function = tf.function(tf.math.rsqrt).get_concrete_function(tf.TensorSpec(2))
    operations = function.graph.get_operations()
    debugged = any(op.type.startswith("Debug") for op in operations)
    return not debugged and _has_xla()  # kept: not to be tried with a debugger


@functools.cache
def _has_xla() -> bool:
    import tensorflow as tf

    try:
        with tf.init_scope():
            tf.function(tf.math.rsqrt, jit_compile=True)(tf.ones(2))
    except tf.errors.OpError:
        return False
    return True
