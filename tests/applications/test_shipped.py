"""The weights in the package: names, cards, outputs and accuracy on every backend."""

import hashlib
import json

import numpy as np
import pytest
from model_helpers import CLASSES, arrays_of, assert_same, make_model

import keras_tinyalex as tinyalex
from keras_tinyalex.applications import (
    AlexNetMini,
    list_weights,
    load_model,
    model_card,
    save_model,
    shipped,
    weights_path,
)
from keras_tinyalex.datasets.tiny_imagenet import class_names, load_data

pytestmark = pytest.mark.backend

NAMES = tinyalex.list_weights()


@pytest.fixture
def small_weights(tmp_path, monkeypatch):
    """A folder of shipped weights with one small model of 64x64 images."""
    monkeypatch.setattr(shipped, "_pretrained_folder", lambda: tmp_path)
    model = make_model(input_shape=(64, 64, 3))
    path = tmp_path / "small_3.keras"
    save_model(model, path, CLASSES)
    card = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "top1": 0.3}
    (tmp_path / "small_3.json").write_text(json.dumps(card))
    return model


def test_shipped_weights_load(small_weights, tmp_path):
    assert list_weights() == ["small_3"]
    assert weights_path("small_3") == tmp_path / "small_3.keras"
    assert model_card("small_3")["top1"] == 0.3
    model = AlexNetMini(weights="small_3", width_multiplier=1 / 32, num_classes=3)
    assert_same(model, arrays_of(small_weights))
    loaded, class_names = load_model("small_3")
    assert class_names == tuple(CLASSES)
    assert_same(loaded, arrays_of(small_weights))
    with pytest.warns(UserWarning, match="small_3.keras are for 3 classes.* has 20"):
        AlexNetMini(weights="small_3", width_multiplier=1 / 32)


def test_unknown_names_get_a_suggestion(small_weights):
    known = r"\['small_3'\]"
    with pytest.raises(ValueError, match=f"{known}.* 'small_3'\\?.*name='smal_3'"):
        weights_path("smal_3")
    with pytest.raises(ValueError, match=f"one of {known}. Received: name='zzz'"):
        model_card("zzz")
    with pytest.raises(
        ValueError, match=f"{known}.*Did you mean 'small_3'.*weights='small3'"
    ):
        AlexNetMini(weights="small3")


def test_damaged_shipped_weights_are_refused(small_weights, tmp_path):
    path = tmp_path / "small_3.keras"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"'small_3' is damaged.*Expected: sha256="):
        AlexNetMini(weights="small_3")
    path.unlink()
    with pytest.raises(ValueError, match="'small_3' is missing in"):
        weights_path("small_3")


def test_every_shipped_file_matches_its_card():
    for name in list_weights():
        assert weights_path(name).is_file()


def test_names_of_the_shipped_weights():
    twenty = ["tiny_imagenet_20", "tiny_imagenet_20_baseline"]
    assert sorted(NAMES) == [*twenty[:1], "tiny_imagenet_200", *twenty[1:]]
    files = [weights_path(name).stat().st_size for name in NAMES]
    assert sum(files) < 40e6


@pytest.mark.parametrize("name", NAMES)
def test_golden_output(name):
    golden = tinyalex.model_card(name)["golden"]
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    assert "default_rng(0).integers(0, 256, (1, 64, 64, 3)" in golden["input"]
    loaded, stored_classes = load_model(name)
    rebuilt = tinyalex.AlexNetMini(weights=name, num_classes=len(stored_classes))
    for model in (loaded, rebuilt):
        scores = model.predict(images, verbose=0)[0]
        np.testing.assert_allclose(scores, golden["output"], atol=1e-4)
    assert stored_classes == class_names(len(stored_classes))
    assert list(stored_classes) == tinyalex.model_card(name)["class_names"]


def test_other_number_of_classes_keeps_the_other_layers():
    with pytest.warns(UserWarning, match="are for 20 classes and the model has 5"):
        model = tinyalex.AlexNetMini(weights=NAMES[0], num_classes=5)
    original = tinyalex.AlexNetMini(weights=NAMES[0])
    for layer in ("block1_conv", "fc2"):
        ours, theirs = (m.get_layer(layer).get_weights() for m in (model, original))
        assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    assert model.output_shape == (None, 5)


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_on_the_real_images(name, real_zip):
    """On the first 20 classes, which are all that some weights know."""
    model, classes = load_model(name)
    _, (images, labels) = load_data(real_zip, classes=list(classes[:20]))
    result = tinyalex.evaluate(model, (images, labels), class_names=name)
    assert result.class_names == classes
    accuracy = tinyalex.model_card(name)["accuracy"]
    expected = np.mean([accuracy["per_class"][wnid] for wnid in classes[:20]])
    assert result.n == 1000
    # other backends may round a close call to the other side
    assert result.top1 == pytest.approx(expected, abs=0.003)
    if len(classes) == 20:
        assert result.top1 == pytest.approx(accuracy["top1"], abs=0.003)
        assert result.loss == pytest.approx(accuracy["loss"], rel=1e-3)


def test_predictions_of_all_classes_are_named():
    model = tinyalex.AlexNetMini(weights="tiny_imagenet_200", num_classes=200)
    images = np.zeros((1, 64, 64, 3), np.uint8)
    (row,) = tinyalex.decode_predictions(model.predict(images, verbose=0), top=200)
    card = tinyalex.model_card("tiny_imagenet_200")
    assert {wnid: name for wnid, name, _ in row} == card["words"]
