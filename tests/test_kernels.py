"""Fused dense layers and batch normalization train as those of Keras."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_tinyalex import building, kernels, recipes

pytestmark = pytest.mark.backend


def fused_layers(model):
    """The types of the layers with a replaced `call`, by name."""
    others = [layer for layer in model.layers if hasattr(layer.call, "func")]
    return {layer.name: type(layer) for layer in others}


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
def test_fused_dense_layers_train_the_same(dtype, tolerance, tmp_path):
    recipe = dataclasses.replace(
        recipes.BASELINE, width_multiplier=1 / 16, dtype=dtype, dropout=0.0
    )
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (16, 64, 64, 3), np.uint8)
    labels = generator.integers(0, 20, 16)
    plain, fused = (building.build_model(recipe, seed=2) for _ in range(2))
    kernels.use_fused_ops(fused.layers)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    names = ("fc1", "fc2", "predictions") if on_tensorflow else ()
    assert fused_layers(fused) == dict.fromkeys(names, keras.layers.Dense)
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
    backend = keras.backend.backend()
    types = fused_layers(fused).values()
    assert (keras.layers.BatchNormalization in types) == (backend != "jax")
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
