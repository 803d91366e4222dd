"""The weights in the package are what their cards say, on every backend."""

import numpy as np
import pytest

import keras_tinyalex as tinyalex
from keras_tinyalex.applications import load_model
from keras_tinyalex.datasets.tiny_imagenet import class_names, load_data

pytestmark = pytest.mark.backend
NAMES = tinyalex.list_weights()


def test_names():
    assert NAMES == ["tiny_imagenet_20", "tiny_imagenet_20_baseline"]


@pytest.mark.parametrize("name", NAMES)
def test_golden_output(name):
    golden = tinyalex.model_card(name)["golden"]
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    assert "default_rng(0).integers(0, 256, (1, 64, 64, 3)" in golden["input"]
    whole, stored_classes = load_model(name)
    rebuilt = tinyalex.AlexNetMini(weights=name)
    for model in (whole, rebuilt):
        scores = model.predict(images, verbose=0)[0]
        np.testing.assert_allclose(scores, golden["output"], atol=1e-4)
    assert stored_classes == class_names(20)
    assert list(stored_classes) == tinyalex.model_card(name)["class_names"]


def test_other_number_of_classes_keeps_the_body():
    with pytest.warns(UserWarning, match="are for 20 classes and the model has 5"):
        model = tinyalex.AlexNetMini(weights=NAMES[0], num_classes=5)
    original = tinyalex.AlexNetMini(weights=NAMES[0])
    for layer in ("block1_conv", "fc2"):
        ours, theirs = (m.get_layer(layer).get_weights() for m in (model, original))
        assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    assert model.output_shape == (None, 5)


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_on_the_real_images(name, real_zip):
    card = tinyalex.model_card(name)
    model, classes = load_model(name)
    _, val = load_data(real_zip, classes=list(classes))
    result = tinyalex.evaluate(model, val, class_names=classes)
    assert result.n == card["accuracy"]["n"] == 1000
    # other backends may round a close call to the other side
    assert result.top1 == pytest.approx(card["accuracy"]["top1"], abs=0.003)
    assert result.loss == pytest.approx(card["accuracy"]["loss"], rel=1e-3)
