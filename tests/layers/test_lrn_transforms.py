"""LRN under the transformations of each backend: derivatives, batching, tracing."""

import copy
import pickle

import keras
import numpy as np
import pytest
from keras import ops
from lrn_helpers import random, reference

from keras_tinyalex.layers import LocalResponseNormalization

pytestmark = pytest.mark.backend
BACKEND = keras.backend.backend()
CONSTANTS = (2, 1.5, 0.4, 0.75)


def make_layer(data_format="channels_last"):
    layer = LocalResponseNormalization(*CONSTANTS, data_format=data_format)
    layer.build((None, 7, 7))
    return layer


def jacobian(function, x, step=1e-4):
    """d function(x)[i...] / dx[j...] at `[i..., j...]`, by central differences."""
    x = np.asarray(x, "float64")
    columns = []
    for index in np.ndindex(*x.shape):
        change = np.zeros_like(x)
        change[index] = step
        rise = function(x + change) - function(x - change)
        columns.append(rise / (2 * step))
    columns = np.stack(columns, axis=-1)
    return columns.reshape(*columns.shape[:-1], *x.shape)


def reference_cubes(x):
    """d sum(layer(x)**3) / dx, of which the derivative is the Hessian matrix."""
    slopes = jacobian(lambda x: reference(x, *CONSTANTS), x)
    return np.tensordot(3 * reference(x, *CONSTANTS) ** 2, slopes, x.ndim)


def assert_close(found, expected, tolerance=1e-3):
    if BACKEND == "torch":
        found = found.detach()
    found = np.asarray(found)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def jacobians(function):
    """The ways of a backend to the Jacobian of a function of one tensor, by name."""
    if BACKEND == "jax":
        import jax

        forward, reverse = jax.jacfwd(function), jax.jacrev(function)
        ways = {"jacfwd": forward, "jacrev": reverse, "jit": jax.jit(forward)}
        return {**ways, "checkpoint": jax.jacfwd(jax.checkpoint(function))}
    if BACKEND == "torch":
        import torch

        def vectorized(x):
            whole = torch.autograd.functional.jacobian
            return whole(function, x, vectorize=True)

        forward, reverse = torch.func.jacfwd(function), torch.func.jacrev(function)
        return {"jacfwd": forward, "jacrev": reverse, "vectorized": vectorized}
    import tensorflow as tf

    def reverse(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.jacobian(y, x)

    def forward(x):
        columns = []
        for index in range(tf.size(x)):
            tangent = tf.reshape(tf.one_hot(index, tf.size(x)), x.shape)
            with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
                y = function(x)
            columns.append(accumulator.jvp(y))
        columns = tf.stack(columns, axis=-1)
        return tf.reshape(columns, (*columns.shape[:-1], *x.shape))

    return {"tape": reverse, "graph": tf.function(reverse), "accumulator": forward}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_jacobian(data_format, training):
    x, layer = random(2, 7, 7, scale=2.0)[:, :2], make_layer(data_format)
    axis = -1
    if data_format == "channels_first":
        x, axis = x.transpose(0, 2, 1), 1
    expected = jacobian(lambda x: reference(x, *CONSTANTS, axis=axis), x)
    for way in jacobians(lambda x: layer(x, training=training)).values():
        assert_close(way(ops.convert_to_tensor(x)), expected)


def hessians(function):
    """The ways of a backend to the Hessian of a function to a scalar."""
    if BACKEND == "jax":
        import jax as functions
    elif BACKEND == "torch":
        from torch import func as functions
    else:
        import tensorflow as tf

        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = function(x)
            return tape.gradient(y, x)

        return list(jacobians(gradient).values())
    forward, reverse = functions.jacfwd, functions.jacrev
    pairs = [(a, b) for a in (forward, reverse) for b in (forward, reverse)]
    return [functions.hessian(function), *(a(b(function)) for a, b in pairs)]


@pytest.mark.parametrize("training", [False, True])
def test_hessian(training):
    x, layer = random(1, 7, scale=2.0), make_layer()
    expected = jacobian(reference_cubes, x)
    for hessian in hessians(lambda x: ops.sum(layer(x, training=training) ** 3)):
        assert_close(hessian(ops.convert_to_tensor(x)), expected, 5e-3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_batching(axis, training):
    """`vmap` over an axis gives what a loop over it gives, in gradients, too."""
    layer, x = make_layer(), random(3, 3, 2, 7)
    if BACKEND == "jax":
        import jax

        gradient, vmap = jax.grad, jax.vmap
    elif BACKEND == "torch":
        import torch

        gradient, vmap = torch.func.grad, torch.func.vmap
    else:
        import tensorflow as tf

        def gradient(function):
            return lambda x: tf.gradients(function(x), x)[0]

        def vmap(function, axis):
            def batched(x):
                return tf.vectorized_map(function, tf.stack(tf.unstack(x, 3, axis)))

            return batched

    def cubes(x):
        return ops.sum(layer(x, training=training) ** 3)

    parts = np.moveaxis(x, axis, 0)
    found = vmap(lambda x: layer(x, training=training), axis)(ops.convert_to_tensor(x))
    assert_close(found, reference(parts, *CONSTANTS))
    found = vmap(gradient(cubes), axis)(ops.convert_to_tensor(x))
    assert_close(found, np.stack([reference_cubes(part) for part in parts]))


@pytest.mark.parametrize("training", [False, True])
def test_copies(training):
    layer, x = make_layer(), random(2, 3, 7)
    y = ops.convert_to_numpy(layer(x, training=training))
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        again = ops.convert_to_numpy(other(x, training=training))
        np.testing.assert_array_equal(again, y)


@pytest.mark.skipif(BACKEND != "torch", reason="the tools of torch")
@pytest.mark.parametrize("training", [False, True])
class TestTorch:
    def test_gradcheck(self, training):
        import torch

        layer = LocalResponseNormalization(*CONSTANTS, dtype="float64")
        layer.build((None, 7))
        function = lambda x: layer(x, training=training)  # noqa: E731
        x = torch.tensor(random(2, 7), dtype=torch.float64, requires_grad=True)
        modes = {"check_forward_ad": True, "check_batched_grad": True}
        assert torch.autograd.gradcheck(
            function, (x,), check_batched_forward_grad=True, **modes
        )
        assert torch.autograd.gradgradcheck(function, (x,), check_fwd_over_rev=True)

    def test_compile_and_exporters(self, training):
        import torch

        class Module(torch.nn.Module):
            layer = make_layer()

            def forward(self, x):
                return self.layer(x, training=training)

        module, x = Module(), torch.tensor(random(3, 2, 7))
        expected = reference(x.numpy(), *CONSTANTS)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert_close(compiled(x), expected)
        assert_close(torch.export.export(module, (x,)).module()(x), expected)
        assert_close(torch.jit.trace(module, (x,))(x), expected)
        called = torch.func.functional_call(module, {}, (x,))
        assert_close(called, expected)

    def test_autocast_keeps_float32(self, training):
        import torch

        x = random(3, 7)
        with torch.autocast("cpu", torch.bfloat16):
            y = make_layer()(x, training=training)
        assert_close(y, reference(x, *CONSTANTS), 1e-6)
