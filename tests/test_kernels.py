"""Layers with operations of `kernels` train as those of Keras."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_tinyalex import building, kernels, recipes

pytestmark = pytest.mark.backend


def fused_layers(model):
    """The names of the layers with a replaced `call`."""
    return [layer.name for layer in model.layers if hasattr(layer.call, "func")]


FUSED = {
    "tensorflow": ["fc1", "fc2", "predictions"],
    "jax": [],
    "torch": [
        *("block1_conv", "block1_pool", "block2_conv", "block2_pool"),
        *("block3_conv1", "block3_conv2", "block3_conv3", "block3_pool"),
    ],
}


def assert_one_step_is_the_same(plain, fused, x, y, tolerance):
    before = plain.get_weights()
    for model in (plain, fused):
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        model.train_on_batch(x, y)
    for start, one, other in zip(
        before, plain.get_weights(), fused.get_weights(), strict=True
    ):
        step = np.abs(one - start).max()
        assert step > 0
        assert np.abs(one - other).max() < tolerance * step


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-4), ("mixed_bfloat16", 0.05)]
)
def test_fused_layers_train_the_same(dtype, tolerance, tmp_path):
    recipe = dataclasses.replace(
        recipes.BASELINE, width_multiplier=1 / 16, dtype=dtype, dropout=0.0
    )
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (16, 64, 64, 3), np.uint8)
    labels = generator.integers(0, 20, 16)
    plain, fused = (building.build_model(recipe, seed=2) for _ in range(2))
    kernels.use_fused_ops(fused.layers)
    assert fused_layers(fused) == FUSED[keras.backend.backend()]
    assert_one_step_is_the_same(plain, fused, images, labels, tolerance)
    assert plain.get_config() == fused.get_config()
    fused.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = fused.predict(images, verbose=0)
    np.testing.assert_allclose(loaded.predict(images, verbose=0), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-4), ("mixed_bfloat16", 0.05)]
)
@pytest.mark.parametrize("shape", [(6, 5, 4), (7,)])
def test_fused_batch_norm_trains_the_same(dtype, tolerance, shape):
    # Without a ReLU, which a rounding error can switch on or off.
    plain = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.BatchNormalization(momentum=0.7, dtype=dtype),
            keras.layers.Flatten(dtype=dtype),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    fused = keras.models.clone_model(plain)
    fused.set_weights(plain.get_weights())
    kernels.use_fused_ops(fused.layers)
    used = fused.layers[0].name in fused_layers(fused)
    assert used == (keras.backend.backend() != "jax")
    generator = np.random.default_rng(0)
    x = generator.normal(3, 2, (8, *shape)).astype("float32")
    y = generator.integers(0, 3, 8)
    assert_one_step_is_the_same(plain, fused, x, y, tolerance)
    mean, variance = fused.layers[0].get_weights()[2:]
    axes = tuple(range(len(shape)))
    rtol = 1e-5 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(mean, 0.3 * x.mean(axes), rtol=rtol)
    np.testing.assert_allclose(variance, 0.7 + 0.3 * x.var(axes), rtol=rtol)
    expected = plain.predict(x, verbose=0)
    np.testing.assert_allclose(fused.predict(x, verbose=0), expected, atol=tolerance)


LAYERS = {
    "same": lambda: keras.layers.Conv2D(5, 3, padding="same", activation="relu"),
    "valid, no bias": lambda: keras.layers.Conv2D(5, (3, 2), use_bias=False),
    "even": lambda: keras.layers.Conv2D(5, 2, padding="same"),
    "strides": lambda: keras.layers.Conv2D(5, 3, strides=2, padding="same"),
    "dilation": lambda: keras.layers.Conv2D(5, 3, dilation_rate=2),
    "groups": lambda: keras.layers.Conv2D(6, 3, groups=3),
    "channels first": lambda: keras.layers.Conv2D(5, 3, data_format="channels_first"),
    "pool": lambda: keras.layers.MaxPooling2D(),
    "pool, other strides": lambda: keras.layers.MaxPooling2D((3, 2), (1, 2)),
    "pool, same": lambda: keras.layers.MaxPooling2D(2, padding="same"),
}


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch")
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_convolution_and_pooling_on_torch(make):
    """They have the results and gradients of Keras, in the layout of the inputs."""
    import torch

    plain = make()
    plain.build((8, 9, 7, 3))
    fused = type(plain).from_config(plain.get_config())
    fused.build((8, 9, 7, 3))
    fused.set_weights(plain.get_weights())
    kernels.use_fused_ops([fused])
    assert hasattr(fused.call, "func")
    x = np.random.default_rng(0).normal(size=(8, 9, 7, 3)).astype("float32")
    found = []
    for layer in (plain, fused):
        leaf = torch.tensor(x, requires_grad=True)
        y = layer(leaf)
        (y**2).sum().backward()
        found.append((y, leaf.grad, *(v.value.grad for v in layer.weights)))
    for expected, result in zip(*found, strict=True):
        np.testing.assert_allclose(
            result.detach(), expected.detach(), rtol=1e-4, atol=1e-4
        )
    usual = plain.data_format == "channels_last" and plain.padding == "valid"
    if usual and getattr(plain, "dilation_rate", (1, 1)) == (1, 1):
        assert found[1][0].is_contiguous()
