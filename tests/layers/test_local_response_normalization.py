import json
import weakref

import keras
import numpy as np
import pytest
from keras import ops

from keras_tinyalex.kernels import local_response_normalization as kernels
from keras_tinyalex.layers import LocalResponseNormalization

pytestmark = pytest.mark.backend
BACKEND = keras.backend.backend()


def reference(x, radius=5, bias=1.0, alpha=1.0, beta=0.5, axis=-1):
    """The formula in float64, channel by channel."""
    x = np.moveaxis(np.asarray(x, "float64"), axis, -1)
    y = np.empty_like(x)
    for i in range(x.shape[-1]):
        window = x[..., max(0, i - radius) : i + radius + 1]
        total = bias + alpha * np.sum(window**2, axis=-1)
        y[..., i] = x[..., i] / total**beta
    return np.moveaxis(y, -1, axis)


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


def check_layer(make_layer, inputs, expected):
    """What holds for every layer: one config, one result, in every setting."""
    layer = make_layer()
    config = layer.get_config()
    assert json.loads(json.dumps(config)) == config
    assert type(layer).from_config(config).get_config() == config

    eager = ops.convert_to_numpy(layer(inputs))
    assert layer.built
    assert layer.get_config() == config, "building or calling changed the config"
    assert layer.count_params() == 0
    assert tuple(layer.compute_output_shape(inputs.shape)) == expected.shape
    assert eager.dtype == layer.compute_dtype
    np.testing.assert_allclose(eager, expected, rtol=1e-5, atol=1e-7)

    symbol = keras.Input(batch_shape=(None, *inputs.shape[1:]))
    output = make_layer()(symbol)
    assert output.shape == (None, *expected.shape[1:])
    model = keras.Model(symbol, output)
    np.testing.assert_allclose(
        model.predict(inputs, batch_size=2, verbose=0), expected, rtol=1e-5, atol=1e-7
    )

    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert copy.get_config() == config
    np.testing.assert_array_equal(ops.convert_to_numpy(copy(inputs)), eager)

    for jit_compile in (False, True) if BACKEND != "torch" else (False,):
        check_training_step(make_layer(), inputs, jit_compile)


def check_training_step(layer, inputs, jit_compile):
    """One step of SGD on a dense layer in front lowers the loss."""
    dense = keras.layers.Dense(inputs.shape[-1])
    model = keras.Sequential([keras.Input(inputs.shape[1:]), dense, layer])
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=jit_compile)
    targets = np.zeros_like(inputs)
    before = model.evaluate(inputs, targets, verbose=0)
    model.fit(inputs, targets, epochs=1, batch_size=len(inputs), verbose=0)
    assert model.evaluate(inputs, targets, verbose=0) < before


def random(*shape, seed=0, scale=1.0):
    values = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return values.astype("float32")


@pytest.mark.parametrize(
    "shape", [(3, 12), (3, 4, 12), (3, 4, 5, 12), (3, 2, 3, 2, 12)]
)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    ("radius", "bias", "alpha", "beta"),
    [
        (5, 1.0, 1.0, 0.5),
        (2, 2.0, 1e-4, 0.75),
        (0, 1.0, 0.5, 1.0),
        (3, 0.5, 2.0, 0.6),
        (10**9, 1.0, 1.0, 2.0),
        (2, 1.0, 0.3, 0.0),
        (2, 1.5, 0.3, -0.5),
    ],
)
def test_matches_the_formula(shape, data_format, radius, bias, alpha, beta):
    axis = -1
    if data_format == "channels_first":
        shape, axis = (shape[0], shape[-1], *shape[1:-1]), 1
    x = random(*shape, scale=3.0)
    layer = LocalResponseNormalization(radius, bias, alpha, beta, data_format)
    # numbers of ordinary size: the relative error is that of each value
    expected = reference(x, radius, bias, alpha, beta, axis)
    for training in (False, True):
        found = ops.convert_to_numpy(layer(x, training=training))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_worked_example():
    # radius 1, bias 2: the sums are 1 + 4, 1 + 4 + 9 and 4 + 9; plus 2 they are
    # 7, 16 and 15
    x = np.array([[1.0, 2.0, 3.0]], "float32")
    y = LocalResponseNormalization(depth_radius=1, bias=2.0)(x)
    expected = [[1 / 7**0.5, 2 / 16**0.5, 3 / 15**0.5]]
    np.testing.assert_allclose(ops.convert_to_numpy(y), expected, rtol=1e-6)


@pytest.mark.parametrize("beta", [0.5, 0.75])
def test_keeps_the_layer_contract(beta):
    x = random(4, 3, 3, 6)
    check_layer(
        lambda: LocalResponseNormalization(2, beta=beta, name="lrn"),
        x,
        reference(x, 2, beta=beta),
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="compares with TensorFlow's op")
@pytest.mark.parametrize(("radius", "beta"), [(5, 0.5), (2, 0.75), (1, 1.0)])
def test_means_what_tensorflow_means(radius, beta):
    import tensorflow as tf

    x = random(2, 5, 5, 16)
    expected = tf.nn.local_response_normalization(x, radius, 1.5, 0.2, beta)
    layer = LocalResponseNormalization(radius, 1.5, 0.2, beta)
    np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_from_torch_matches_torch(size):
    torch = pytest.importorskip("torch")
    x = random(2, 8, 5, 5, scale=2.0)
    expected = torch.nn.functional.local_response_norm(
        torch.tensor(x), size, alpha=0.3, beta=0.75, k=2.0
    ).numpy()
    layer = LocalResponseNormalization.from_torch(
        size, alpha=0.3, beta=0.75, k=2.0, data_format="channels_first"
    )
    np.testing.assert_allclose(ops.convert_to_numpy(layer(x)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # torch and Caffe divide alpha by the window, the paper does not
        (LocalResponseNormalization.from_torch(5), (2, 1.0, 1e-4 / 5, 0.75)),
        (LocalResponseNormalization.from_caffe(), (2, 1.0, 1.0 / 5, 0.75)),
        (LocalResponseNormalization.from_caffe(3, 0.6, 0.5, 2), (1, 2.0, 0.2, 0.5)),
        (LocalResponseNormalization.from_paper(), (2, 2.0, 1e-4, 0.75)),
    ],
)
def test_converters(layer, expected):
    found = (layer.depth_radius, layer.bias, layer.alpha, layer.beta)
    assert found == pytest.approx(expected)


def test_converters_pass_layer_arguments_on():
    for make in (
        LocalResponseNormalization.from_torch,
        LocalResponseNormalization.from_caffe,
        LocalResponseNormalization.from_paper,
    ):
        layer = make(3, name="norm", dtype="float64", data_format="channels_first")
        assert layer.name == "norm"
        assert layer.compute_dtype == "float64"
        assert layer.data_format == "channels_first"


@pytest.mark.parametrize(
    ("make", "name"),
    [("from_torch", "size"), ("from_caffe", "local_size"), ("from_paper", "n")],
)
@pytest.mark.parametrize("window", [4, 0])
def test_even_windows_are_refused(make, name, window):
    with pytest.raises(
        ValueError, match=rf"`{name}` must be a positive odd .*: {name}={window}"
    ):
        getattr(LocalResponseNormalization, make)(window)


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


@pytest.mark.skipif(BACKEND != "torch", reason="only torch has chunks")
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("size", [1, 200])
def test_chunks_of_a_batch_give_what_the_batch_gives(monkeypatch, data_format, size):
    """Five images of 96 values: one or two at a time, and the rest."""
    layer = LocalResponseNormalization(1, alpha=0.3, beta=0.75, data_format=data_format)
    x, upstream = random(5, 4, 4, 6), random(5, 4, 4, 6, seed=1)
    whole = ops.convert_to_numpy(layer(x, training=True))
    gradient = input_gradient(layer, x, upstream, training=True)
    monkeypatch.setattr(kernels, "CHUNK_SIZE", size)
    chunks = ops.convert_to_numpy(layer(x, training=True))
    np.testing.assert_allclose(chunks, whole, rtol=1e-6)
    again = input_gradient(layer, x, upstream, training=True)
    np.testing.assert_allclose(again, gradient, rtol=1e-5, atol=1e-6)


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


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others need no XLA of it")
def test_gradient_without_xla(monkeypatch):
    monkeypatch.setattr(kernels, "can_compile", lambda: False)
    test_gradient(0.75, training=True)
    monkeypatch.undo()
    assert kernels.can_compile()


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
def test_gradient_of_the_gradient(beta, training):
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


@pytest.mark.skipif(BACKEND != "torch", reason="torch frees by counting references")
def test_a_training_step_leaves_nothing_in_memory():
    import torch

    x = torch.ones(2, 4, requires_grad=True)
    y = LocalResponseNormalization(1)(x, training=True)
    y.sum().backward()
    alive = weakref.ref(y)
    del y
    assert alive() is None


@pytest.mark.skipif(BACKEND != "jax", reason="the others multiply float32 as float32")
def test_products_keep_all_digits_on_gpus():
    import jax

    layer = LocalResponseNormalization(1)
    layer.build((2, 4))
    both_ways = jax.grad(lambda x: layer.call(x).sum())
    text = str(jax.make_jaxpr(both_ways)(np.ones((2, 4), "float32")))
    assert text.count("dot_general[") == 2  # forward and backward
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == 2


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 2**-10), ("bfloat16", 2**-7)]
)
def test_half_precision_squares_do_not_overflow(dtype, tolerance):
    # 200**2 = 40,000 and a window of 11 makes 440,000, beyond float16's 65,504.
    # Channel 8 of 16 has the whole window: 200 / sqrt(1 + 30,580 * 11 / 11**2)
    x = np.full((1, 16), 200.0, "float32")
    layer = LocalResponseNormalization(alpha=1 / 11, dtype=dtype)
    y = layer(ops.cast(x, dtype))
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    found = ops.convert_to_numpy(ops.cast(y, "float32"))
    np.testing.assert_allclose(found, reference(x, alpha=1 / 11), rtol=tolerance)


def test_float64_stays_float64():
    if BACKEND == "jax":
        pytest.skip("JAX computes in float32 unless x64 is enabled")
    x = np.random.default_rng(0).normal(size=(2, 9))
    y = ops.convert_to_numpy(LocalResponseNormalization(dtype="float64")(x))
    assert y.dtype == "float64"
    np.testing.assert_allclose(y, reference(x), rtol=1e-13)


@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6, 2.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("training", [False, True])
def test_nan_touches_only_its_window(beta, dtype, training):
    x = random(2, 16)
    x[0, 7] = np.nan
    layer = LocalResponseNormalization(2, beta=beta, dtype=dtype)
    y = ops.convert_to_numpy(layer(x, training=training))
    expected = reference(x, 2, beta=beta)
    assert np.flatnonzero(np.isnan(expected[0])).tolist() == [5, 6, 7, 8, 9]
    np.testing.assert_allclose(y, expected, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_infinity_touches_only_its_window(training):
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
    spoilt = set(np.flatnonzero(~np.isfinite(found[1])))
    assert {30} <= spoilt <= {28, 29, 30, 31, 32}
    # Only up to two radii away does the gradient depend on the value at all.
    far = np.abs(np.arange(64) - 30) > 4
    np.testing.assert_allclose(found[1, far], clean[1, far], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("training", [False, True])
def test_one_huge_channel_does_not_disturb_the_others(training):
    # its square, 1e20, swallows every other digit of a running sum
    x = random(1, 2000)
    x[0, 1000] = 1e10
    y = LocalResponseNormalization()(x, training=training)
    np.testing.assert_allclose(ops.convert_to_numpy(y), reference(x), rtol=1e-5)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("shape", [(0, 7), (0, 7, 7, 7), (2, 7, 0, 7)])
def test_empty_input(data_format, shape):
    layer = LocalResponseNormalization(data_format=data_format)
    assert tuple(layer(np.zeros(shape, "float32")).shape) == shape


@pytest.mark.skipif(BACKEND != "tensorflow", reason="shapes unknown in the graph")
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_unknown_batch_and_size_in_a_graph(data_format):
    import tensorflow as tf

    last = data_format == "channels_last"
    spec = (None, None, None, 6) if last else (None, 6, None, None)
    layer = LocalResponseNormalization(1, data_format=data_format)
    graph = tf.function(layer, input_signature=[tf.TensorSpec(spec)])
    for batch, height, width in [(2, 3, 4), (1, 5, 2), (0, 3, 3)]:
        shape = (batch, height, width, 6) if last else (batch, 6, height, width)
        x = random(*shape)
        np.testing.assert_allclose(
            graph(x).numpy(), reference(x, 1, axis=-1 if last else 1), rtol=1e-5
        )


def test_unknown_size_in_a_model():
    image = keras.Input((None, None, 6))
    model = keras.Model(image, LocalResponseNormalization(1)(image))
    assert model.output_shape == (None, None, None, 6)
    for shape in [(2, 3, 4, 6), (1, 5, 2, 6)]:
        x = random(*shape)
        y = model.predict(x, verbose=0)
        np.testing.assert_allclose(y, reference(x, 1), rtol=1e-5)


def test_data_format_follows_the_keras_setting_of_its_making():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        layer = LocalResponseNormalization()
    finally:
        keras.config.set_image_data_format(before)
    # a saved layer keeps its axis where the setting is another
    assert layer.get_config()["data_format"] == "channels_first"
    x = random(1, 3, 8)
    found = ops.convert_to_numpy(
        LocalResponseNormalization.from_config(layer.get_config())(x)
    )
    np.testing.assert_allclose(found, reference(x, axis=1), rtol=1e-5)


def test_config_is_what_the_caller_passed():
    layer = LocalResponseNormalization(np.int64(100), 2, 0.5, 0.75, "channels_first")
    layer(random(1, 3, 8))
    config = layer.get_config()
    assert type(config["depth_radius"]) is int
    assert {
        key: config[key]
        for key in ("depth_radius", "bias", "alpha", "beta", "data_format")
    } == {
        "depth_radius": 100,
        "bias": 2.0,
        "alpha": 0.5,
        "beta": 0.75,
        "data_format": "channels_first",
    }


def test_registered_name():
    name = "keras_tinyalex>LocalResponseNormalization"
    assert keras.saving.get_registered_name(LocalResponseNormalization) == name
    assert keras.saving.get_registered_object(name) is LocalResponseNormalization


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth_radius": -1}, "non-negative integer.*depth_radius=-1"),
        ({"depth_radius": 2.5}, "non-negative integer.*depth_radius=2.5"),
        ({"depth_radius": True}, "non-negative integer.*depth_radius=True"),
        ({"depth_radius": "3"}, "non-negative integer.*depth_radius='3'"),
        ({"bias": 0}, "`bias` must be a finite number above 0.*bias=0"),
        ({"bias": -1.0}, "`bias` must be a finite number above 0.*bias=-1.0"),
        ({"bias": float("inf")}, "`bias` must be a finite number above 0.*bias=inf"),
        ({"alpha": -0.1}, "`alpha` must be a finite number of at least 0.*alpha=-0.1"),
        ({"alpha": float("nan")}, "`alpha` must be a finite number.*alpha=nan"),
        ({"alpha": "1"}, "`alpha` must be a finite number.*alpha='1'"),
        ({"beta": float("inf")}, "`beta` must be a finite number.*beta=inf"),
        ({"beta": None}, "`beta` must be a finite number.*beta=None"),
        ({"data_format": "NHWC"}, "'channels_last'.*data_format='NHWC'"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LocalResponseNormalization(**arguments)


def test_wrong_shapes():
    layer = LocalResponseNormalization()
    with pytest.raises(ValueError, match=r"rank 2 or more.*input_shape=\(8,\)"):
        layer.build((8,))
    with pytest.raises(ValueError, match=r"known number of channels.*\(2, None\)"):
        layer.build((2, None))
