"""The gradients of LRN, its compiled and chunked kernels, NaN and infinity."""

import weakref

import keras
import numpy as np
import pytest
from keras import ops
from lrn_helpers import random, reference

from keras_tinyalex.kernels import local_response_normalization as kernels
from keras_tinyalex.layers import LocalResponseNormalization

pytestmark = pytest.mark.backend
BACKEND = keras.backend.backend()


def input_gradient(layer, x, upstream, training):
    """d sum(layer(x) * upstream) / dx as the backend computes it."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=training) * upstream)
        return tape.gradient(loss, x).numpy()
    if BACKEND == "jax":
        import jax

        loss = lambda x: (layer(x, training=training) * upstream).sum()  # noqa: E731
        return np.asarray(jax.grad(loss)(x))
    import torch

    x = torch.tensor(x, requires_grad=True)
    (layer(x, training=training) * torch.tensor(upstream)).sum().backward()
    return x.grad.numpy()


def reference_gradient(x, upstream, radius, bias, alpha, beta):
    """Central differences of the float64 reference: error about step**2."""
    step = 1e-5
    gradient = np.empty(x.shape)
    for index in np.ndindex(*x.shape):
        above, below = x.astype("float64"), x.astype("float64")
        above[index] += step
        below[index] -= step
        difference = reference(above, radius, bias, alpha, beta) - reference(
            below, radius, bias, alpha, beta
        )
        gradient[index] = np.sum(difference * upstream) / (2 * step)
    return gradient


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6])
def test_gradient(beta, training):
    x, upstream = random(2, 3, 7), random(2, 3, 7, seed=1)
    layer = LocalResponseNormalization(2, 1.5, 0.4, beta)
    np.testing.assert_allclose(
        input_gradient(layer, x, upstream, training),
        reference_gradient(x, upstream, 2, 1.5, 0.4, beta),
        rtol=1e-4,
        atol=1e-6,
    )


def test_gradient_of_a_wide_window():
    # 41 channels, more than are summed one by one in a compiled loop
    x, upstream = random(2, 60), random(2, 60, seed=1)
    layer = LocalResponseNormalization(20, 1.5, 0.4)
    np.testing.assert_allclose(
        input_gradient(layer, x, upstream, training=True),
        reference_gradient(x, upstream, 20, 1.5, 0.4, 0.5),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.skipif(BACKEND != "torch", reason="only torch has chunks")
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("size", [1, 200])
def test_chunks_match_the_full_batch(monkeypatch, data_format, size):
    """Five images of 96 values: one or two at a time, and the rest."""
    layer = LocalResponseNormalization(1, alpha=0.3, beta=0.75, data_format=data_format)
    x, upstream = random(5, 4, 4, 6), random(5, 4, 4, 6, seed=1)
    full = ops.convert_to_numpy(layer(x, training=True))
    gradient = input_gradient(layer, x, upstream, training=True)
    monkeypatch.setattr(kernels, "CHUNK_SIZE", size)
    chunks = ops.convert_to_numpy(layer(x, training=True))
    np.testing.assert_allclose(chunks, full, rtol=1e-6)
    again = input_gradient(layer, x, upstream, training=True)
    np.testing.assert_allclose(again, gradient, rtol=1e-5, atol=1e-6)


def squared_gradient(layer, x, training):
    """d sum(g**2) / dx of g = d sum(layer(x)**2) / dx, both from the backend."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(layer(x, training=training) ** 2)
            loss = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        return outer.gradient(loss, x).numpy()
    if BACKEND == "jax":
        import jax

        first = jax.grad(lambda x: (layer(x, training=training) ** 2).sum())
        return np.asarray(jax.grad(lambda x: (first(x) ** 2).sum())(x))
    import torch

    x = torch.tensor(x, requires_grad=True)
    loss = (layer(x, training=training) ** 2).sum()
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    return torch.autograd.grad((first**2).sum(), x)[0].numpy()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("beta", [0.5, 0.75])
def test_second_derivative(beta, training):
    # With g = d sum(y**2) / dx, d sum(g**2) / dx is by central differences of g,
    # which `test_gradient` checks.
    x = random(2, 7)
    layer = LocalResponseNormalization(2, 1.5, 0.4, beta)
    step = 1e-2
    expected = np.empty(x.shape)

    def gradient(x):
        y = reference(x, 2, 1.5, 0.4, beta)
        return reference_gradient(x, 2 * y, 2, 1.5, 0.4, beta)

    for index in np.ndindex(*x.shape):
        above, below = x.astype("float64"), x.astype("float64")
        above[index] += step
        below[index] -= step
        rise = np.sum(gradient(above) ** 2) - np.sum(gradient(below) ** 2)
        expected[index] = rise / (2 * step)
    found = squared_gradient(layer, x, training)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(
    BACKEND != "torch", reason="only torch frees by counting references"
)
def test_training_step_frees_its_output():
    import torch

    x = torch.ones(2, 4, requires_grad=True)
    y = LocalResponseNormalization(1)(x, training=True)
    y.sum().backward()
    alive = weakref.ref(y)
    del y
    assert alive() is None


@pytest.mark.skipif(BACKEND != "jax", reason="the others multiply float32 as float32")
def test_matrix_products_have_full_precision_on_gpus():
    import jax

    layer = LocalResponseNormalization(20)  # too many channels for slices
    layer.build((2, 30))
    gradient = jax.grad(lambda x: layer.call(x).sum())
    text = str(jax.make_jaxpr(gradient)(np.ones((2, 30), "float32")))
    assert text.count("dot_general[") == 2  # forward and backward
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == 2


@pytest.mark.skipif(BACKEND == "tensorflow", reason="see `test_lrn_in_graphs`")
@pytest.mark.parametrize("training", [True, False, None])
def test_loops_that_do_not_say_training_use_the_kernel(monkeypatch, training):
    used = []
    name = "_torch_forward" if BACKEND == "torch" else "_jax_kernel"
    kernel = getattr(kernels, name)
    monkeypatch.setattr(kernels, name, lambda *given: used.append(1) or kernel(*given))
    x = random(2, 3, 7)
    input_gradient(LocalResponseNormalization(1), x, x, training)
    assert used


@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6, 2.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("training", [False, True])
def test_nan_affects_only_its_window(beta, dtype, training):
    x = random(2, 16)
    x[0, 7] = np.nan
    layer = LocalResponseNormalization(2, beta=beta, dtype=dtype)
    y = ops.convert_to_numpy(layer(x, training=training))
    expected = reference(x, 2, beta=beta)
    assert np.flatnonzero(np.isnan(expected[0])).tolist() == [5, 6, 7, 8, 9]
    np.testing.assert_allclose(y, expected, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_infinity_affects_only_its_window(training):
    x = random(1, 16)
    x[0, 7] = np.inf
    layer = LocalResponseNormalization(2)
    y = ops.convert_to_numpy(layer(x, training=training))[0]
    expected = reference(np.where(np.isinf(x), 0, x), 2)[0]
    assert not np.isfinite(y[7])
    np.testing.assert_allclose(y[[5, 6, 8, 9]], 0, atol=1e-12)
    far = [*range(5), *range(10, 16)]
    np.testing.assert_allclose(y[far], expected[far], rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.5), (1e-4, 0.75)])
def test_gradient_of_nan_and_infinity_stays_in_the_window(value, alpha, beta):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, 64)).astype("float32")
    upstream = generator.standard_normal((3, 64)).astype("float32")
    layer = LocalResponseNormalization(depth_radius=2, alpha=alpha, beta=beta)
    clean = input_gradient(layer, x, upstream, training=True)
    x[1, 30] = value
    found = input_gradient(layer, x, upstream, training=True)
    np.testing.assert_array_equal(found[[0, 2]], clean[[0, 2]])
    affected = set(np.flatnonzero(~np.isfinite(found[1])))
    assert {30} <= affected <= {28, 29, 30, 31, 32}
    # Only up to two radii away does the gradient depend on the value at all.
    far = np.abs(np.arange(64) - 30) > 4
    np.testing.assert_allclose(found[1, far], clean[1, far], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("training", [False, True])
def test_one_large_channel_does_not_affect_the_others(training):
    # its square, 1e20, swallows every other digit of a running sum
    x = random(1, 2000)
    x[0, 1000] = 1e10
    y = LocalResponseNormalization()(x, training=training)
    np.testing.assert_allclose(ops.convert_to_numpy(y), reference(x), rtol=1e-5)
