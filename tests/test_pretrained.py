"""Trainings that start from weights, and the classifier that they start with."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest

from keras_tinyalex import AlexNetMini, building, recipes
from keras_tinyalex.applications import save_model
from keras_tinyalex.building import pretrained
from keras_tinyalex.datasets.batches import LabelledArrays

RECIPE = recipes.Recipe("narrow", width_multiplier=1 / 4)

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def data():
    """Two classes of noise, one dark and one bright, and a few odd images."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 128, (60, 16, 16, 3)).astype(np.uint8)
    labels = np.arange(60) % 2
    images[labels == 1] += 100
    labels[:4] = 0
    names = tuple(f"{i}.png" for i in range(60))
    return LabelledArrays(images, labels, ("dark", "light"), names)


def body_file(path, class_names):
    model = AlexNetMini(
        num_classes=len(class_names), width_multiplier=1 / 4, input_shape=(16, 16, 3)
    )
    save_model(model, path, class_names)
    return model


def classifier(model):
    return model.get_layer("predictions").get_weights()


def test_classifier_is_a_ridge_regression(tmp_path, data):
    """The gradient of squared error and penalty is zero, and so is the mean error."""
    model = body_file(tmp_path / "body.keras", ["a", "b"])
    pretrained.fit_classifier(model, data)
    kernel, bias = (w / pretrained.SCALE for w in classifier(model))
    body = keras.Model(model.input, model.get_layer("predictions").input)
    x = body.predict(data.images, verbose=0).astype(np.float64)
    y = np.eye(2)[data.labels]
    error = x @ kernel + bias - y
    np.testing.assert_allclose(error.mean(axis=0), 0, atol=1e-5)
    penalty = pretrained.PENALTY * x.var(axis=0).sum()
    gradient = (x - x.mean(axis=0)).T @ error + penalty * kernel
    assert np.abs(gradient).max() < 1e-4 * np.abs(x.T @ y).max()
    scores = model.predict(data.images, verbose=0)
    assert (scores.argmax(axis=1) == data.labels)[4:].all()


@pytest.mark.parametrize(
    ("class_names", "new"),
    [(["dark", "light"], False), (["cat", "dog"], True), (["a", "b", "c"], True)],
)
def test_classifier_is_new_where_the_classes_differ(tmp_path, data, class_names, new):
    before = body_file(tmp_path / "body.keras", class_names)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = building.build(RECIPE, data, 0, tmp_path / "body.keras")
    kept = all(map(np.array_equal, classifier(before), classifier(model)))
    assert kept is not new
    if new:
        expected = AlexNetMini(
            num_classes=2, width_multiplier=1 / 4, input_shape=(16, 16, 3)
        )
        for layer in expected.layers[:-1]:
            layer.set_weights(before.get_layer(layer.name).get_weights())
        pretrained.fit_classifier(expected, data)
        for found, array in zip(classifier(model), classifier(expected), strict=True):
            np.testing.assert_allclose(found, array, rtol=1e-5, atol=1e-6)


def test_file_without_names_keeps_a_classifier_of_as_many(tmp_path, data):
    before = body_file(tmp_path / "named.keras", ["cat", "dog"])
    before.save_weights(tmp_path / "body.weights.h5")
    model = building.build(RECIPE, data, 0, tmp_path / "body.weights.h5")
    np.testing.assert_array_equal(classifier(model)[0], classifier(before)[0])


def test_file_with_another_classifier_gets_a_fitted_one(tmp_path, data):
    """Whose name the file does not share, on the same dense layers."""
    before = body_file(tmp_path / "named.keras", ["cat", "dog"])
    x = before.get_layer("fc2_dropout").output
    own = keras.Model(before.input, keras.layers.Dense(9, name="mine")(x))
    own.save(tmp_path / "own.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = building.build(RECIPE, data, 0, tmp_path / "own.keras")
    pretrained.fit_classifier(before, data)
    for found, array in zip(classifier(model), classifier(before), strict=True):
        np.testing.assert_allclose(found, array, rtol=1e-5, atol=1e-6)


def test_other_missing_layers_are_still_said(tmp_path, data):
    body = AlexNetMini(False, width_multiplier=1 / 4, input_shape=(16, 16, 3))
    body.save_weights(tmp_path / "body.weights.h5")
    with pytest.warns(UserWarning, match="have no 'fc1', 'fc2', 'predictions'"):
        building.build(RECIPE, data, 0, tmp_path / "body.weights.h5")


def test_batch_norm_changes_nothing_at_the_start(tmp_path, data):
    body_file(tmp_path / "body.keras", ["cat", "dog"])
    plain = building.build(RECIPE, data, 0, tmp_path / "body.keras")
    recipe = dataclasses.replace(RECIPE, folded_batch_norm=True)
    model = building.build(recipe, data, 0, tmp_path / "body.keras")
    np.testing.assert_allclose(
        model.predict(data.images, verbose=0),
        plain.predict(data.images, verbose=0),
        atol=1e-5,
    )


def test_black_images_give_finite_weights(tmp_path, data):
    body_file(tmp_path / "body.keras", ["cat", "dog"])
    black = dataclasses.replace(data, images=np.zeros_like(data.images))
    recipe = dataclasses.replace(RECIPE, folded_batch_norm=True)
    model = building.build(recipe, black, 0, tmp_path / "body.keras")
    assert all(np.isfinite(np.array(weight)).all() for weight in model.get_weights())
