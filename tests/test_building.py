"""build_model, initialization, learning rate, folded batch norm, half resolution."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_tinyalex import AlexNetMini, building, recipes
from keras_tinyalex.building import batch_norm
from keras_tinyalex.building.batch_norm import unfold_batch_norm

pytestmark = pytest.mark.backend


def test_he_initialization_has_the_variance_of_the_paper():
    images = np.zeros((10, 64, 64, 3), np.uint8)
    he = dataclasses.replace(recipes.BASELINE, initialization="he")
    model = building.build_model(he, seed=3)
    classifier = model.get_layer("predictions").get_weights()[0]
    building.initialize(model, he, images, seed=3)
    for name, inputs in (("block3_conv2", 9 * 128), ("fc1", 4096), ("fc2", 1024)):
        kernel = model.get_layer(name).get_weights()[0]
        assert kernel.std() == pytest.approx((2 / inputs) ** 0.5, rel=0.02)
    assert np.array_equal(model.get_layer("predictions").get_weights()[0], classifier)


def test_warm_up_takes_at_most_half_of_a_short_training():
    model = building.build_model(
        recipes.Recipe("narrow", width_multiplier=1 / 16), seed=0, num_classes=2
    )
    # Asks for 2 epochs of warm-up.
    short = dataclasses.replace(recipes.BEST, epochs=1, learning_rate=0.001)
    building.compile_model(model, short, images=64 * 10)
    rate = model.optimizer._learning_rate
    at = [float(rate(step)) for step in (0, 4, 5, 10)]
    assert at == pytest.approx([0, 0.0008, 0.001, 0], abs=1e-9)


@pytest.mark.backend
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize(("steps", "decay"), [(50, 0.1), (200, 0.1), (10, 0.02)])
def test_weight_decay_is_that_of_an_epoch(optimizer, steps, decay):
    """Without gradients, kernels shrink by exp(-0.1) in an epoch of any length.

    In a short one they shrink by no more than 0.002 in a step.
    """
    recipe = recipes.Recipe(
        "decay", optimizer=optimizer, batch_size=4, weight_decay_per_epoch=0.1
    )
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    building.compile_model(model, recipe, 4 * steps)
    before = np.array(model.get_weights()[0])
    zeros = [keras.ops.zeros(weight.shape) for weight in model.trainable_weights]
    for _ in range(steps):
        model.optimizer.apply(zeros, model.trainable_weights)
    ratio = model.get_weights()[0] / before
    np.testing.assert_allclose(ratio, np.exp(-decay), rtol=1e-3)


@pytest.mark.backend
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_accumulated_steps_are_one_update(optimizer):
    """Four steps of one image are one of four images, whose loss is the mean."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(8, 3)).astype("float32"), np.arange(8) % 2
    found = []
    for batch_size, steps in ((4, 1), (1, 4)):
        recipe = recipes.Recipe(
            "sum",
            optimizer=optimizer,
            batch_size=batch_size,
            accumulated_steps=steps,
            weight_decay_per_epoch=0.1,
        )
        dense = keras.layers.Dense(2, "softmax", kernel_initializer="ones")
        model = keras.Sequential([keras.Input((3,)), dense])
        building.compile_model(model, recipe, 8)
        model.fit(x, y, batch_size, shuffle=False, verbose=0)
        found.append(model.get_weights())
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4)
    assert np.abs(found[0][0] - 1).max() > 1e-3


def test_averaged_weights_are_those_of_a_part_of_the_training():
    recipe = recipes.Recipe("mean", epochs=10, batch_size=10, averaged=0.25)
    model = AlexNetMini(num_classes=2, width_multiplier=1 / 32)
    for images, steps in ((400, 100), (20, 5)):  # a quarter of 400 and of 20 steps
        building.compile_model(model, recipe, images)
        assert model.optimizer.ema_momentum == pytest.approx(1 - 1 / steps)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_folded_batch_norm_gives_the_same_network(data_format):
    recipe = recipes.Recipe("n", width_multiplier=1 / 16, folded_batch_norm=True)
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    try:
        model = building.build_model(
            recipe, seed=1, num_classes=4, input_shape=(40, 56, 1)
        )
        # Files are read as such, whatever the configuration is.
        assert model.input_shape == (None, 40, 56, 1)
        generator = np.random.default_rng(0)
        for layer in model.layers:  # as after some training
            if layer.name.endswith("_bn"):
                scales = generator.uniform(0.5, 2, (4, *layer.gamma.shape))
                layer.set_weights(list(scales * [[1], [0.3], [0.1], [1]]))
        images = generator.integers(0, 256, (70, *model.input_shape[1:]), np.uint8)
        images[0] = 0
        plain = building.fold_batch_norm(model, recipe, images)
        expected = model.predict(images, verbose=0)
        np.testing.assert_allclose(
            plain.predict(images, verbose=0), expected, rtol=1e-4, atol=1e-6
        )
        keras.config.set_image_data_format("channels_last")
        same = AlexNetMini(
            num_classes=4, width_multiplier=1 / 16, input_shape=(40, 56, 1)
        )
        assert [w.path for w in plain.weights] == [w.path for w in same.weights]
        assert np.ptp(expected, axis=0).max() > 0.01  # it does depend on the image
    finally:
        keras.config.set_image_data_format(before)


@pytest.mark.backend
def test_training_goes_on_from_weights_with_batch_norm():
    """Unfolded, a network computes the same, from normalized activations."""
    recipe = recipes.Recipe("n", width_multiplier=1 / 4, folded_batch_norm=True)
    shapes = {"num_classes": 4, "input_shape": (24, 32, 3)}
    same = dataclasses.replace(recipe, folded_batch_norm=False)
    plain = building.build_model(same, seed=1, **shapes)
    generator = np.random.default_rng(0)
    for layer in plain.layers:
        if hasattr(layer, "kernel"):
            layer.bias.assign(generator.normal(0, 0.1, layer.bias.shape))
    images = generator.integers(0, 256, (70, 24, 32, 3), np.uint8)
    assert unfold_batch_norm(plain, same, images) is plain

    model = unfold_batch_norm(plain, recipe, images)
    expected = plain.predict(images, verbose=0)
    np.testing.assert_allclose(
        model.predict(images, verbose=0), expected, rtol=1e-4, atol=1e-6
    )
    # In training each batch gives about the same, too: nothing is lost at the start.
    x = keras.ops.convert_to_tensor(images)
    for layer in model.layers[1:]:
        norm = isinstance(layer, keras.layers.BatchNormalization)
        if norm:
            values = keras.ops.convert_to_numpy(x).reshape(-1, x.shape[-1])
            np.testing.assert_allclose(values.std(axis=0), 1, rtol=1e-2)
            mean = keras.ops.convert_to_numpy(layer.moving_mean)
            np.testing.assert_allclose(values.mean(axis=0), mean, atol=1e-2)
        x = layer(x, training=True) if norm else layer(x)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(x), expected, rtol=1e-2, atol=1e-3
    )
    assert np.ptp(expected, axis=0).max() > 0.003


def test_nothing_is_trained_that_batch_norm_undoes():
    """Only the first layer and the classifier have a bias, until all are folded."""
    recipe = recipes.Recipe("n", width_multiplier=1 / 32, folded_batch_norm=True)
    model = building.build_model(recipe, seed=1, num_classes=4)
    biases = [w.path for w in model.trainable_weights if w.path.endswith("/bias")]
    assert biases == ["block1_conv/bias", "predictions/bias"]


def test_batch_norm_statistics_are_at_full_resolution_without_dropout():
    recipe = recipes.Recipe("n", width_multiplier=1 / 16, folded_batch_norm=True)
    model = building.build_model(recipe, seed=1, num_classes=4)
    images = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8)
    building.fold_batch_norm(model, recipe, images)
    x = images
    for layer in model.layers[1:]:
        if layer.name in ("block2_conv_bn", "fc2_bn"):
            values = keras.ops.convert_to_numpy(x).reshape(-1, x.shape[-1])
            found = [keras.ops.convert_to_numpy(w) for w in layer.weights[2:]]
            np.testing.assert_allclose(found[0], values.mean(axis=0), atol=1e-5)
            np.testing.assert_allclose(found[1], values.var(axis=0), rtol=1e-3)
            assert layer.momentum == 0.95
        # Batch normalization of a batch, as in training; dropout does nothing.
        norm = isinstance(layer, keras.layers.BatchNormalization)
        x = layer(keras.ops.convert_to_tensor(x), training=True) if norm else layer(x)


@pytest.mark.parametrize(("epochs", "count"), [(2, 1024), (35, 1400), (200, 4000)])
def test_batch_norm_statistics_are_of_a_hundredth_of_the_training(epochs, count):
    images = np.arange(4000).reshape(-1, 1, 1, 1)
    recipe = recipes.Recipe("n", epochs=epochs)
    batches = list(batch_norm._sample(images, recipe, seed=0))
    assert {len(batch) for batch in batches} <= set(range(64, 68))
    assert len(np.unique(np.concatenate(batches))) == sum(map(len, batches)) == count


def test_half_resolution_model_is_the_network_on_averaged_pixels():
    recipe = dataclasses.replace(recipes.BASELINE, width_multiplier=1 / 16)
    model = building.build_model(recipe, seed=1, num_classes=4)
    building.compile_model(model, recipe, images=10)
    small = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    images = small.repeat(2, axis=1).repeat(2, axis=2)
    half = building.half_resolution_model(model, recipe)
    body = AlexNetMini(False, input_shape=(32, 32, 3), width_multiplier=1 / 16)
    body.set_weights(model.get_weights()[: len(body.weights)])
    x = body.predict(small, verbose=0).repeat(2, axis=1).repeat(2, axis=2)
    x = x.reshape(2, -1)
    for name in ("fc1", "fc2", "predictions"):
        x = keras.ops.convert_to_numpy(model.get_layer(name)(x))
    np.testing.assert_allclose(half.predict(images, verbose=0), x, rtol=1e-4)
    assert half.optimizer is model.optimizer


@pytest.mark.parametrize("size", range(32, 48))  # all sizes modulo 16
def test_half_resolution_of_any_size(size):
    recipe = dataclasses.replace(recipes.BEST, width_multiplier=1 / 32)
    shape = (size, 96 - size // 2, 1)
    model = building.build_model(recipe, 1, num_classes=4, input_shape=shape)
    building.compile_model(model, recipe, images=10)
    half = building.half_resolution_model(model, recipe)
    flat = half.get_layer("flatten").input.shape
    assert flat[1:3] == (shape[0] // 8, shape[1] // 8)
    if size == 47:
        images = np.zeros((2, *shape), np.uint8)
        loss = half.train_on_batch(images, np.eye(4)[:2])
        assert np.isfinite(loss).all()


def test_half_resolution_pads_an_image_of_odd_feature_maps():
    # 44 pixels have 5 positions of 8. Halved and padded to 24 they have 3, each in
    # place of two, and the sixth is cropped. 48 pixels have 6 in any case.
    recipe = dataclasses.replace(recipes.BASELINE, width_multiplier=1 / 32)
    model = building.build_model(recipe, 1, num_classes=4, input_shape=(44, 48, 3))
    building.compile_model(model, recipe, images=10)
    half = building.half_resolution_model(model, recipe)
    small = np.random.default_rng(0).integers(0, 256, (2, 22, 24, 3), np.uint8)
    body = AlexNetMini(False, input_shape=(24, 24, 3), width_multiplier=1 / 32)
    body.set_weights(model.get_weights()[: len(body.weights)])
    padded = np.pad(small, [(0, 0), (0, 2), (0, 0), (0, 0)])
    x = body.predict(padded, verbose=0).repeat(2, axis=1).repeat(2, axis=2)
    x = x[:, :5].reshape(2, -1)
    for name in ("fc1", "fc2", "predictions"):
        x = keras.ops.convert_to_numpy(model.get_layer(name)(x))
    images = small.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(half.predict(images, verbose=0), x, rtol=1e-4)


@pytest.mark.parametrize(
    ("width_multiplier", "channels", "filters", "whitened"),
    [
        (1.0, 3, 32, 32),
        (2.0, 3, 64, 54),  # 27 components and their negatives
        (0.4, 3, 13, 12),  # an odd number
        (1.0, 1, 32, 18),  # 9 components of gray patches
        (1 / 32, 3, 1, 0),
        (1.0, 4, 32, 32),
    ],
)
def test_whitening_of_any_width_and_channels(
    width_multiplier, channels, filters, whitened
):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20, 24, 24, channels), np.uint8)
    recipe = recipes.Recipe("w", width_multiplier=width_multiplier, fc1_units=1)
    model = building.build_model(
        recipe, 0, num_classes=2, input_shape=(24, 24, channels)
    )
    layer = model.get_layer("block1_conv")
    before = layer.get_weights()[0].reshape(-1, filters)
    building.whiten(model, images)
    kernel, bias = layer.get_weights()
    kernel = kernel.reshape(-1, filters)
    np.testing.assert_array_equal(kernel[:, whitened:], before[:, whitened:])
    assert not bias[whitened:].any()
    # Filter responses to patches of the images: mean 0, variance 1, no correlation.
    windows = np.lib.stride_tricks.sliding_window_view(
        images.astype(np.float32) / 255, (3, 3), axis=(1, 2)
    )[:, ::4, ::4]
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 9 * channels)
    half = whitened // 2
    responses = patches @ kernel[:, :half] + bias[:half]
    np.testing.assert_allclose(responses.mean(axis=0), 0, atol=1e-3)
    covariance = np.cov(responses, rowvar=False).reshape(half, half)
    np.testing.assert_allclose(covariance, np.eye(half), atol=0.05)
    np.testing.assert_array_equal(kernel[:, half:whitened], -kernel[:, :half])


def test_half_size_epochs_exclude_averaged_weights():
    with pytest.raises(ValueError, match=r"half_size_epochs=2, averaged=0\.9"):
        recipes.Recipe("both", half_size_epochs=2, averaged=0.9)
