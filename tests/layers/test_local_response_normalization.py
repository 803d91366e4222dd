"""The LRN layer: formula, converters, dtypes, shapes, config, arguments."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from lrn_helpers import random, reference

from keras_tinyalex.layers import LocalResponseNormalization

pytestmark = pytest.mark.backend
BACKEND = keras.backend.backend()


def check_layer(make_layer, inputs, expected):
    """Checks what holds for every layer: the same config and result in every use."""
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
    """Checks that a step of SGD on a dense layer before this one lowers the loss."""
    dense = keras.layers.Dense(inputs.shape[-1])
    model = keras.Sequential([keras.Input(inputs.shape[1:]), dense, layer])
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=jit_compile)
    targets = np.zeros_like(inputs)
    before = model.evaluate(inputs, targets, verbose=0)
    model.fit(inputs, targets, epochs=1, batch_size=len(inputs), verbose=0)
    assert model.evaluate(inputs, targets, verbose=0) < before


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
    # ordinary magnitudes, so that the relative error of each value is small
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
def test_layer_contract(beta):
    x = random(4, 3, 3, 6)
    check_layer(
        lambda: LocalResponseNormalization(2, beta=beta, name="lrn"),
        x,
        reference(x, 2, beta=beta),
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="compares with TensorFlow's op")
@pytest.mark.parametrize(("radius", "beta"), [(5, 0.5), (2, 0.75), (1, 1.0)])
def test_matches_tensorflow(radius, beta):
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


def test_converters_pass_on_layer_arguments():
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


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 2**-10), ("bfloat16", 2**-7)]
)
def test_half_precision_squares_do_not_overflow(dtype, tolerance):
    # 200**2 = 40,000 and a window of 11 makes 440,000, beyond float16's 65,504.
    # Channel 8 of 16 has the full window: 200 / sqrt(1 + 30,580 * 11 / 11**2)
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


def test_data_format_defaults_to_the_keras_setting_at_construction():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        layer = LocalResponseNormalization()
    finally:
        keras.config.set_image_data_format(before)
    # a saved layer keeps its axis when the setting differs
    assert layer.get_config()["data_format"] == "channels_first"
    x = random(1, 3, 8)
    found = ops.convert_to_numpy(
        LocalResponseNormalization.from_config(layer.get_config())(x)
    )
    np.testing.assert_allclose(found, reference(x, axis=1), rtol=1e-5)


def test_config_holds_the_arguments():
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
