"""export(): other runtimes return the scores of Keras, or nothing is written."""

import dataclasses
import sys

import keras
import numpy as np
import pytest

import keras_tinyalex
from keras_tinyalex import AlexNetMini, export, exporting
from keras_tinyalex.applications import save_model

SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "openvino": ".xml", "saved_model": ""}

pytestmark = pytest.mark.backend


def needs(format):
    """Skips if this backend cannot export the format, or a package is missing."""
    chosen = exporting.FORMATS[format]
    if keras.backend.backend() not in chosen.backends:
        pytest.skip(f"{keras.backend.backend()} cannot export {format}")
    for package in chosen.packages:
        pytest.importorskip(package)
    if (keras.backend.backend(), format) == ("torch", "onnx"):
        pytest.importorskip("onnxscript")


@pytest.fixture
def model():
    return AlexNetMini(num_classes=3, width_multiplier=1 / 16)


@pytest.mark.parametrize("format", sorted(SUFFIXES))
def test_exported_model_returns_the_same_scores(format, model, tmp_path):
    needs(format)
    path = tmp_path / "deep" / f"model{SUFFIXES[format]}"
    result = export(model, path, format, class_names=["a", "b", "c"])
    assert result.max_difference <= exporting.TOLERANCE
    assert result.class_names == ("a", "b", "c")
    labels = path.with_name(path.name + ".labels.txt")
    assert labels.read_text() == "a\nb\nc\n"
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    assert result.size == sum(file.stat().st_size for file in files)
    # Also from its final path, with another batch size than in the verification.
    images = np.random.default_rng(5).integers(0, 256, (3, 64, 64, 3))
    images = images.astype(np.float32)
    scores = exporting.FORMATS[format].run(path, images)
    np.testing.assert_allclose(scores, model.predict(images, verbose=0), atol=1e-5)


def test_class_names_come_from_the_model_file(model, tmp_path):
    needs("openvino")
    save_model(model, tmp_path / "model.keras", ["x", "y", "z"])
    result = export(tmp_path / "model.keras", tmp_path / "m.xml", "openvino")
    assert result.as_dict()["class_names"] == ("x", "y", "z")


def test_half_precision_model_is_exported_in_float32(tmp_path):
    needs("openvino")
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = AlexNetMini(num_classes=3, width_multiplier=1 / 16)
    finally:
        keras.config.set_dtype_policy(policy)
    result = export(model, tmp_path / "m.xml", "openvino")
    assert result.max_difference <= exporting.TOLERANCE


def test_nothing_is_left_if_the_scores_differ(model, tmp_path, monkeypatch):
    needs("openvino")
    chosen = exporting.FORMATS["openvino"]
    wrong = dataclasses.replace(chosen, run=lambda path, x: chosen.run(path, x) + 0.01)
    monkeypatch.setitem(exporting.FORMATS, "openvino", wrong)
    with pytest.raises(ValueError, match=r"differs from Keras by 0.01.*nothing was"):
        export(model, tmp_path / "m.xml", "openvino", class_names=["a", "b", "c"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        (
            "m.onnx",
            "caffe",
            r"`format` must be one of 'litert', 'onnx'.*format='caffe'",
        ),
        ("m.h5", "openvino", r"`path` must end in '.xml'.*Received: path=.*m.h5"),
    ],
)
def test_wrong_arguments(model, tmp_path, name, format, message):
    if keras.backend.backend() == "jax" and format == "openvino":
        message = r"KERAS_BACKEND=tensorflow.*Received: .*KERAS_BACKEND='jax'"
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / name, format)


def test_existing_file_is_kept(model, tmp_path):
    needs("openvino")
    path = tmp_path / "m.xml"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"must not exist.*Received: path="):
        export(model, path, "openvino")
    assert path.read_text() == "mine"


def test_wrong_number_of_class_names(model, tmp_path):
    needs("openvino")
    with pytest.raises(ValueError, match=r"must be 3 names.*len\(class_names\)=2"):
        export(model, tmp_path / "m.xml", "openvino", class_names=["a", "b"])


def test_missing_package_says_how_to_install_it(model, tmp_path, monkeypatch):
    if keras.backend.backend() == "jax":
        pytest.skip("jax cannot export openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r'pip install "keras-tinyalex\[export\]"'):
        export(model, tmp_path / "m.xml", "openvino")


def test_the_package_offers_the_function():
    assert keras_tinyalex.export is exporting.export
