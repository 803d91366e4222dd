import json

import keras
import numpy as np
import pytest

from keras_tinyalex import AlexNetMini
from keras_tinyalex.gradcam import gradcam

pytestmark = pytest.mark.backend

# A gray image of 2x2 pixels. The convolution below copies it into its first
# channel and its negative into the second, before the ReLU.
IMAGES = np.array([[[4.0], [-2.0]], [[1.0], [-3.0]]])[None]
A = np.stack([IMAGES[0, ..., 0], -IMAGES[0, ..., 0]]).clip(min=0)
# The weights of the classes: by channel, then by position in rows.
DENSE = np.array([[[1, 2, 3, 2], [0, 0, 0, -4]], [[-1, -1, -1, -1], [1, 1, 1, 1]]])


def two_channels(activation="softmax", data_format="channels_last"):
    """The score of class c is the sum of `DENSE[c] * A` over channel and position."""
    first = data_format == "channels_first"
    inputs = keras.Input((1, 2, 2) if first else (2, 2, 1))
    convolution = keras.layers.Conv2D(
        2, 1, activation="relu", use_bias=False, data_format=data_format, name="conv"
    )
    x = convolution(inputs)
    dense = keras.layers.Dense(2, activation=activation, name="scores")
    model = keras.Model(inputs, dense(keras.layers.Flatten()(x)))
    convolution.set_weights([np.array([1.0, -1.0]).reshape(1, 1, 1, 2)])
    # `Flatten` lays channels last whatever the data format of the convolution.
    kernel = DENSE if first else DENSE.transpose(0, 2, 1)
    dense.set_weights([kernel.reshape(2, 8).T, np.array([5.0, -5.0])])
    return model


def test_heatmap_by_hand():
    np.testing.assert_array_equal(A, [[[4, 0], [1, 0]], [[0, 2], [0, 3]]])
    # Class 0: the mean gradients are (1 + 2 + 3 + 2) / 4 = 2 and -4 / 4 = -1.
    expected = np.maximum(2 * A[0] - 1 * A[1], 0)
    np.testing.assert_array_equal(expected, [[8, 0], [2, 0]])

    heat = gradcam(two_channels(), IMAGES, classes=0)

    assert heat.dtype == np.float32
    np.testing.assert_allclose(heat, [[[1, 0], [0.25, 0]]], rtol=1e-6)


def test_each_image_is_explained_for_its_class():
    images = np.concatenate([IMAGES, IMAGES, -IMAGES])
    # Class 1: the mean gradients are -1 and 1; -A[0] + A[1] is the negative image.
    expected = [[[1, 0], [0.25, 0]], [[0, 2 / 3], [0, 1]], [[1, 0], [0.25, 0]]]

    heat = gradcam(two_channels(), images, classes=[0, 1, 1])

    np.testing.assert_allclose(heat, expected, rtol=1e-6)


def test_default_is_the_predicted_class():
    # Scores of IMAGES: 1 * 4 + 3 * 1 - 4 * 3 + 5 = 0 for class 0, and
    # -4 - 1 + 2 + 3 - 5 = -5 for class 1; of the negative image they are
    # 2 * 2 + 2 * 3 + 5 = 15 and -5 + 5 - 5 = -5.
    model = two_channels(activation=None)
    both = np.concatenate([IMAGES, -IMAGES])
    np.testing.assert_allclose(model.predict(both, verbose=0), [[0, -5], [15, -5]])

    heat = gradcam(model, both)

    np.testing.assert_array_equal(heat, gradcam(model, both, classes=0))


def test_softmax_does_not_dim_the_gradient():
    # 15 - -5: the softmax is so confident that its own gradient is about 2e-9.
    for activation in ("softmax", "sigmoid", None):
        heat = gradcam(two_channels(activation), -IMAGES, classes=1)
        np.testing.assert_allclose(heat, [[[1, 0], [0.25, 0]]], rtol=1e-6)


def test_activation_in_a_layer_of_its_own():
    model = two_channels(activation=None)
    for layer in (keras.layers.Softmax(), keras.layers.Activation("softmax")):
        longer = keras.Model(model.input, layer(model.output))
        heat = gradcam(longer, IMAGES, classes=0)
        np.testing.assert_allclose(heat, [[[1, 0], [0.25, 0]]], rtol=1e-6)


def test_heatmap_is_zero_where_nothing_supports_the_class():
    heat = gradcam(two_channels(), np.zeros((1, 2, 2, 1)))

    np.testing.assert_array_equal(heat, np.zeros((1, 2, 2)))


def test_sequential_model():
    model = two_channels()
    heat = gradcam(keras.Sequential(model.layers), IMAGES, classes=0)

    np.testing.assert_allclose(heat, [[[1, 0], [0.25, 0]]], rtol=1e-6)


def around(model, name="outer"):
    """A Functional model with another one as its only layer."""
    inputs = keras.Input(model.input_shape[1:])
    return keras.Model(inputs, model(inputs), name=name)


def without_input():
    """A Sequential model that knows its input since it was called."""
    model = keras.Sequential([keras.layers.Rescaling(1.0), two_channels()])
    model.predict(IMAGES, verbose=0)
    return model


def with_own_head():
    """A body without its last layer, and a new last layer, as in fine-tuning."""
    model = two_channels()
    body = keras.Model(model.input, model.get_layer("conv").output, name="body")
    body.compile("adam", "mse")
    inputs = keras.Input((2, 2, 1))
    # Both models have a layer "conv".
    x = keras.layers.Flatten(name="conv")(body(inputs, training=False))
    dense = keras.layers.Dense(2, activation="softmax")
    longer = keras.Model(inputs, dense(x))
    dense.set_weights(model.get_layer("scores").get_weights())
    return longer


@pytest.mark.parametrize(
    ("nest", "layer"),
    [
        (lambda: around(two_channels()), None),
        (lambda: around(around(two_channels()), "outermost"), "conv"),
        (lambda: keras.Sequential([keras.Input((2, 2, 1)), two_channels()]), "conv"),
        (without_input, None),
        (lambda: around(keras.Sequential(two_channels().layers)), None),
        (with_own_head, None),
        (with_own_head, "body/conv"),
        (with_own_head, "body"),
    ],
)
def test_layers_inside_other_models_are_found(nest, layer):
    model = nest()
    config = json.dumps(model.get_config())

    heat = gradcam(model, IMAGES, classes=0, layer=layer)

    np.testing.assert_allclose(heat, [[[1, 0], [0.25, 0]]], rtol=1e-6)
    assert json.dumps(model.get_config()) == config


def twice():
    inputs = keras.Input((2, 2, 1))
    first, second = around(two_channels(), "a"), around(two_channels(), "b")
    return keras.Model(inputs, first(inputs) + second(inputs))


def opaque():
    class Opaque(keras.Model):
        def __init__(self):
            super().__init__()
            self.convolution = keras.layers.Conv2D(2, 1, name="conv")

        def call(self, x):
            return self.convolution(x)

    inputs = keras.Input((2, 2, 1))
    x = keras.layers.Flatten()(Opaque()(inputs))
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def test_channels_first():
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow convolves channels first only on GPUs")
    model = two_channels(data_format="channels_first")

    heat = gradcam(model, np.moveaxis(IMAGES, -1, 1), classes=0)

    np.testing.assert_allclose(heat, [[[1, 0], [0.25, 0]]], rtol=1e-6)


def test_alexnet_mini_by_finite_differences():
    model = AlexNetMini(weights="tiny_imagenet_20_baseline")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3))

    assert gradcam(model, images).shape == (2, 16, 16)  # block3_conv3
    heat = gradcam(model, images, classes=14, layer="block3_pool")

    # The layers after block3_pool, in NumPy, at two points near its output.
    body = keras.Model(model.input, model.get_layer("block3_pool").output)
    weights = {
        layer.name: [np.asarray(array, "float64") for array in layer.get_weights()]
        for layer in model.layers
    }

    def score(x):
        x = x.reshape(len(x), -1)
        for name in ("fc1", "fc2"):
            kernel, bias = weights[name]
            x = np.maximum(x @ kernel + bias, 0)
        return x @ weights["predictions"][0][:, 14]

    a = np.asarray(body.predict(images, verbose=0), "float64")
    # A shift of one channel everywhere changes the score by the sum of gradients.
    steps = 1e-6 * np.eye(64)[:, None, None, None, :]
    means = [(score(a + step) - score(a - step)) / 2e-6 / 64 for step in steps]
    expected = np.maximum(np.einsum("kn,nhwk->nhw", means, a), 0)
    expected /= expected.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(heat, expected, atol=1e-4)


def test_model_is_not_changed():
    model = two_channels()
    config, weights = json.dumps(model.get_config()), model.get_weights()
    scores = model.predict(IMAGES, verbose=0)

    gradcam(model, IMAGES)

    assert json.dumps(model.get_config()) == config
    assert [layer.name for layer in model.layers][-1] == "scores"
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), scores)


def with_shortcut():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, padding="same", name="beside")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, inputs]))
    return keras.Model(inputs, keras.layers.Dense(2)(x))


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (two_channels, {"layer": "con"}, r"Its layers are .*'conv'.*layer='con'"),
        (two_channels, {"layer": "scores"}, r"rank 4.*Received: layer='scores' with"),
        (two_channels, {"classes": 2}, r"from 0 to 1, .*Received: classes=2"),
        (two_channels, {"classes": -1}, r"from 0 to 1, .*Received: classes=-1"),
        (
            two_channels,
            {"classes": [0, 1]},
            r"or 1 of them, one per image.*classes=\[0, 1\]",
        ),
        (two_channels, {"classes": 0.0}, r"`classes` must be .*classes=0\.0"),
        (
            lambda: keras.Sequential([keras.layers.Dense(2)]),
            {},
            r"`layer` must be .* if it has a Conv2D.*Received: layer=None",
        ),
        (
            lambda: keras.Sequential([keras.layers.Conv2D(2, 1)]),
            {},
            r"`model` must be a Functional or Sequential model with a known input",
        ),
        (with_shortcut, {}, r"on every path from .*Received: layer='beside'"),
        (twice, {"layer": "conv"}, r"one layer of .*a/functional\S*/conv'.*='conv'"),
        (opaque, {}, r"Functional or Sequential .* and so must be the models that"),
    ],
)
def test_wrong_arguments(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        gradcam(model(), IMAGES, **arguments)
