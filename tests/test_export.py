"""export(): other runtimes return the scores of Keras, or nothing is written."""

import dataclasses
import os
import sys

import keras
import numpy as np
import pytest

import keras_tinyalex
from keras_tinyalex import (
    AlexNetMini,
    LocalResponseNormalization,
    export,
    exporting,
)
from keras_tinyalex.applications import save_model
from keras_tinyalex.exporting.exporter import TOLERANCES
from keras_tinyalex.exporting.networks import in_float32, with_plain_normalization

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


@pytest.fixture
def small():
    """A model that is exported in a fraction of the time."""
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])


@pytest.mark.parametrize("format", sorted(SUFFIXES))
def test_exported_model_returns_the_same_scores(format, model, tmp_path):
    needs(format)
    path = tmp_path / "deep" / f"model{SUFFIXES[format]}"
    result = export(model, path, format, class_names=["a", "b", "c"])
    assert result.max_difference <= TOLERANCES[None]
    assert result.class_names == ("a", "b", "c")
    labels = path.with_name(path.name + ".labels.txt")
    assert labels.read_text() == "a\nb\nc\n"
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    assert result.size == sum(file.stat().st_size for file in files)
    # Also from its final path, with another batch size than in the verification.
    images = np.random.default_rng(5).integers(0, 256, (3, 64, 64, 3))
    images = images.astype(np.float32)
    scores = exporting.FORMATS[format].open(path)(images)
    np.testing.assert_allclose(scores, model.predict(images, verbose=0), atol=1e-5)


def test_class_names_come_from_the_model_file(small, tmp_path):
    needs("openvino")
    save_model(small, tmp_path / "model.keras", ["x", "y", "z"])
    result = export(
        tmp_path / "model.keras", tmp_path / "m.xml", "openvino", verify=False
    )
    assert result.as_dict()["class_names"] == ("x", "y", "z")


@pytest.mark.slow
def test_half_precision_model_is_exported_in_float32(tmp_path):
    needs("openvino")
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = AlexNetMini(num_classes=3, width_multiplier=1 / 16)
    finally:
        keras.config.set_dtype_policy(policy)
    result = export(model, tmp_path / "m.xml", "openvino")
    assert result.max_difference <= TOLERANCES[None]


def test_nothing_is_left_if_the_scores_differ(small, tmp_path, monkeypatch):
    needs("openvino")
    chosen = exporting.FORMATS["openvino"]

    def open_wrong(path):
        run = chosen.open(path)
        return lambda images: run(images) + 0.01

    wrong = dataclasses.replace(chosen, open=open_wrong)
    monkeypatch.setitem(exporting.FORMATS, "openvino", wrong)
    with pytest.raises(ValueError, match=r"differs from Keras by 0.01.*nothing was"):
        export(small, tmp_path / "m.xml", "openvino", class_names=["a", "b", "c"])
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


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_packages_that_keras_imports_are_tried_first(format, tmp_path, monkeypatch):
    (package,) = exporting.EXPORTERS.get((format, keras.backend.backend()), ("",))
    if not package:
        pytest.skip(f"{keras.backend.backend()} cannot export {format}")
    needs(format)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs the package {package}: pip install"):
        export(tmp_path / "not read.keras", tmp_path / f"m{SUFFIXES[format]}", format)


def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_read(tmp_path):
    needs("openvino")
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"`path` must be in a folder that can be written"
    ):
        export(tmp_path / "not read.keras", tmp_path / "file" / "m.xml", "openvino")


def test_class_names_that_are_not_utf_8_or_have_line_breaks(small, tmp_path):
    needs("openvino")
    names = [os.fsdecode(b"gnu\xe9"), "two\nlines", "\u732b"]
    export(small, tmp_path / "m.xml", "openvino", verify=False, class_names=names)
    labels = (tmp_path / "m.xml.labels.txt").read_text(encoding="utf-8")
    assert labels == "gnu\\udce9\ntwo lines\n\u732b\n"


def test_a_half_precision_model_inside_another_one_is_exported_in_float32(tmp_path):
    needs("openvino")
    half = keras.Sequential(
        [
            keras.Input((8, 8, 1), dtype="float32"),
            keras.layers.Conv2D(2, 3, dtype="mixed_bfloat16"),
            LocalResponseNormalization(1, dtype="mixed_bfloat16"),
            keras.layers.GlobalAveragePooling2D(dtype="mixed_bfloat16"),
        ]
    )
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Rescaling(1 / 255)(half(inputs)))
    result = export(model, tmp_path / "m.xml", "openvino", class_names=["a", "b"])
    assert result.max_difference <= TOLERANCES[None]
    single = in_float32(model)
    for one, other in zip(single.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_package_offers_the_function():
    assert keras_tinyalex.export is exporting.export


def test_a_float32_copy_keeps_statistics_and_inner_models():
    normalization = keras.layers.Normalization()
    normalization.adapt(np.array([126.0, 128.0])[:, None])  # mean 127, variance 1
    half = keras.layers.Dense(1, dtype="mixed_bfloat16", kernel_initializer="ones")
    inner = keras.Sequential([keras.Input((1,)), half])
    inputs = keras.Input((1,))
    model = keras.Model(inputs, inner(normalization(inputs)))
    single = in_float32(model)
    x = np.array([[127.0], [1151.0]], "float32")
    np.testing.assert_allclose(single.predict(x, verbose=0), [[0], [1024]], atol=1e-2)
    assert single.layers[-1].layers[-1].compute_dtype == "float32"
    assert half.compute_dtype == "bfloat16"


@pytest.mark.parametrize("shape", [(4, 4, 5), (7, 5)], ids=["images", "rows"])
def test_plain_normalization_is_the_formula(shape):
    """y[i] = x[i] / (2 + 0.5 * sum of x ** 2 over channels i - 1 to i + 1) ** 0.75."""
    arguments = {"depth_radius": 1, "bias": 2.0, "alpha": 0.5, "beta": 0.75}
    layer = LocalResponseNormalization(**arguments, data_format="channels_last")
    inputs = keras.Input(shape)
    plain = with_plain_normalization(keras.Model(inputs, layer(inputs)))
    assert not isinstance(plain.layers[-1], LocalResponseNormalization)
    x = np.random.default_rng(0).normal(0, 3, (2, *shape)).astype("float32")
    padded = np.pad(x**2, [(0, 0)] * len(shape) + [(1, 1)])
    sums = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]
    expected = x / (2 + 0.5 * sums) ** 0.75
    np.testing.assert_allclose(plain.predict(x, verbose=0), expected, rtol=1e-5)


def test_channels_first_keep_the_layer_itself():
    layer = LocalResponseNormalization(1, data_format="channels_first")
    inputs = keras.Input((3, 2, 2))
    model = keras.Model(inputs, layer(inputs))
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 2)).astype("float32")
    plain = with_plain_normalization(model).predict(x, verbose=0)
    np.testing.assert_allclose(plain, model.predict(x, verbose=0), rtol=1e-6)
