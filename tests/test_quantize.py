"""export(quantize=...): smaller files whose accuracy is checked, or nothing."""

import dataclasses
import functools
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_tinyalex import AlexNetMini, cli, export, exporting
from keras_tinyalex.applications import save_model
from keras_tinyalex.exporting import exporter, measuring

SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
pytestmark = pytest.mark.backend

# Bytes of the graph, the class names and what stays float32.
OVERHEAD = 60_000


def needs(format, quantize="int8"):
    """Skips if this backend cannot export the format, or a package is missing."""
    if keras.backend.backend() not in exporting.FORMATS[format].backends:
        pytest.skip(f"{keras.backend.backend()} cannot export {format}")
    exporters = exporting.EXPORTERS.get((format, keras.backend.backend()), ())
    packages, _ = exporting.QUANTIZATIONS[format, quantize]
    for package in (*exporting.FORMATS[format].packages, *exporters, *packages):
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def names():
    return ["n01443537", "n01629819", "n01641577"]


@pytest.fixture(scope="module")
def source(make_official_folder, tmp_path_factory):
    """Three classes of one color each, 40 train and 4 val images a class."""
    folder = tmp_path_factory.mktemp("data") / "tiny-imagenet-200"
    return make_official_folder(folder, train=40, val=4)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return AlexNetMini(num_classes=3, width_multiplier=1 / 4)


# OpenVINO's tools take the longest.
FORMATS = ["onnx", "litert", pytest.param("openvino", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def int8(model, names, source, tmp_path_factory):
    """Function of a format: the model exported to int8 without `data`, once."""
    folder = tmp_path_factory.mktemp("int8")
    arguments = {"class_names": names, "quantize": "int8", "calibration": source}

    @functools.cache
    def exported(format):
        needs(format)
        return export(model, folder / f"m{SUFFIXES[format]}", format, **arguments)

    return exported


@pytest.mark.parametrize("format", FORMATS)
def test_int8_takes_a_quarter_of_the_space(format, int8, model):
    result = int8(format)
    # 40 training images of 3 classes, and no val image.
    assert (result.n, result.top1_keras) == (120, None)
    assert 0 < result.max_difference < 0.05
    assert result.size < model.count_params() + OVERHEAD
    # Pixels in and scores out are float32, for any batch size.
    images = np.random.default_rng(5).integers(0, 256, (5, 64, 64, 3)).astype("float32")
    scores = exporting.FORMATS[format].open(result.path)(images)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "format",
    [
        "onnx",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("litert", "openvino")),
    ],
)
def test_int8_scores_the_same_twice(format, int8, model, names, source, tmp_path):
    first = int8(format)
    path = tmp_path / first.path.name
    arguments = {"class_names": names, "quantize": "int8", "calibration": source}
    second = export(model, path, format, **arguments, data=source, max_loss=100)
    assert second.n == 12
    images = np.random.default_rng(5).integers(0, 256, (5, 64, 64, 3)).astype("float32")
    scores, again = (
        exporting.FORMATS[format].open(path)(images) for path in (first.path, path)
    )
    # Not the bytes: the exporters number the names within a process.
    np.testing.assert_array_equal(scores, again)


def test_onnx_runtime_pools_no_integers_but_those_of_convolutions(int8, tmp_path):
    """Its pooling of others takes ten times as long in 8 bits as in float32."""
    path = int8("onnx").path
    onnx, onnxruntime = map(pytest.importorskip, ("onnx", "onnxruntime"))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that the file is for this processor
    onnxruntime.InferenceSession(str(path), options)
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    producers = {name: node for node in nodes for name in node.output}
    pools = [node for node in nodes if node.op_type.endswith("MaxPool")]
    assert len(pools) == 3
    for pool in pools:
        assert producers[pool.input[0]].op_type != "QuantizeLinear"


@pytest.mark.parametrize("format", FORMATS)
def test_float16_takes_half_of_the_space(format, model, tmp_path):
    needs(format, "float16")
    path = tmp_path / f"m{SUFFIXES[format]}"
    result = export(model, path, format, quantize="float16")
    assert 0 < result.max_difference < exporter.TOLERANCES["float16"]
    assert 2 * model.count_params() < result.size
    assert result.size < 2 * model.count_params() + OVERHEAD


def test_accuracy_is_that_of_the_val_images(names, source, tmp_path):
    """A model of mean colors knows the classes, which are of one color each."""
    needs("onnx")
    result = export(_color_model(), tmp_path / "m.onnx", class_names=names, data=source)
    assert (result.top1_keras, result.top1_exported) == (1.0, 1.0)
    assert (result.n, result.disagreements) == (12, 0)
    assert result.max_difference <= exporter.TOLERANCES[None]
    for times in (result.milliseconds_keras, result.milliseconds_exported):
        assert sorted(times) == ["1", "32"]
        assert min(times.values()) > 0


def _color_model():
    inputs = keras.Input((64, 64, 3))
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(0.1)(inputs))
    return keras.Model(inputs, keras.layers.Softmax()(means))


def test_a_loss_of_accuracy_is_refused(names, source, tmp_path, monkeypatch):
    """The classes in the wrong order: 0 of 12 right in place of 12, 100 points."""
    needs("onnx")
    chosen = exporting.FORMATS["onnx"]

    def open_wrong(path):
        run = chosen.open(path)
        return lambda images: np.roll(run(images), 1, axis=-1)

    wrong = dataclasses.replace(chosen, open=open_wrong)
    monkeypatch.setitem(exporting.FORMATS, "onnx", wrong)
    arguments = {"class_names": names, "data": source, "verify": False}
    message = r"at least 100.00 .* from 1.0000 to 0.0000 on 12 val.*max_loss=99"
    with pytest.raises(ValueError, match=message):
        export(_color_model(), tmp_path / "m.onnx", **arguments, max_loss=99)
    assert list(tmp_path.iterdir()) == []
    result = export(_color_model(), tmp_path / "m.onnx", **arguments, max_loss=100)
    assert (result.top1_exported, result.disagreements) == (0.0, 12)


def test_int8_scores_that_differ_are_refused(names, source, tmp_path, monkeypatch):
    needs("onnx")
    model = _color_model()
    chosen = exporting.FORMATS["onnx"]

    def open_wrong(path):
        run = chosen.open(path)
        return lambda images: run(images) + 0.1

    wrong = dataclasses.replace(chosen, open=open_wrong)
    monkeypatch.setitem(exporting.FORMATS, "onnx", wrong)
    arguments = {"class_names": names, "quantize": "int8", "calibration": source}
    message = r"differs from Keras by 0.1 on average, more than 0.05; nothing"
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "m.onnx", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_comparison():
    expected = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]], "float32")
    scores = np.array([[0.3, 0.5, 0.2], [0.1, 0.7, 0.2]], "float32")
    found = measuring.compare(scores, expected)
    assert found.disagreements == 1
    assert found.max_difference == pytest.approx(0.2)
    assert found.mean_difference == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("format", "quantize", "sources", "message"),
    [
        ("onnx", "int4", {}, r"`quantize` must be one of None, 'float16', 'int8'"),
        ("onnx", "int8", {}, r"`calibration` must be a source of training images"),
        (
            "onnx",
            "float16",
            {"calibration": "sample"},
            r"`calibration` must be None unless.*'sample', quantize='float16'",
        ),
        (
            "onnx",
            None,
            {"calibration": "sample"},
            r"must be None unless.*quantize=None",
        ),
        (
            "saved_model",
            "int8",
            {"calibration": "sample"},
            r"None for format 'saved_model'. Choose one of litert, onnx, openvino",
        ),
        ("onnx", None, {"max_loss": 101}, r"`max_loss` must be .* at most 100"),
        ("onnx", None, {"seed": -1}, r"`seed` must be a non-negative integer"),
    ],
)
def test_arguments_that_do_not_go_together(
    format, quantize, sources, message, tmp_path
):
    """Refused before the file of the model is read."""
    path = tmp_path / "m.onnx"
    with pytest.raises(ValueError, match=message):
        export("not read.keras", path, format, quantize=quantize, **sources)
    assert list(tmp_path.iterdir()) == []


def test_sources_that_do_not_fit(model, names, source, official_folder, tmp_path):
    needs("onnx")
    folder = tmp_path / "exported"
    path = folder / "m.onnx"
    int8 = {"quantize": "int8"}
    message = r"`calibration` must hold 100 training images.*Received: 24 in "
    with pytest.raises(ValueError, match=message):
        export(model, path, class_names=names, calibration=official_folder, **int8)
    for argument in ({"calibration": source, **int8}, {"data": source}):
        (name, *_) = argument
        others = [*names[:2], "n99999999"]
        message = rf"`{name}` must hold the 3 classes.*1 are missing, e.g. n99999999"
        with pytest.raises(ValueError, match=message):
            export(model, path, class_names=others, **argument)
        message = rf"must be the classes .* if `{name}` is given.*class_names=None"
        with pytest.raises(ValueError, match=message):
            export(model, path, **argument)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("format", "package", "name"),
    [("litert", "litert_quantizer", "litert-quantizer"), ("openvino", "nncf", "nncf")],
)
def test_missing_package_says_how_to_install_it(
    format, package, name, tmp_path, monkeypatch
):
    if keras.backend.backend() not in exporting.FORMATS[format].backends:
        pytest.skip(f"{keras.backend.backend()} cannot export {format}")
    for needed in exporting.FORMATS[format].packages:
        pytest.importorskip(needed)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'pip install "keras-tinyalex\[export,quantize\]" {name} '
    path = tmp_path / f"m{SUFFIXES[format]}"
    with pytest.raises(ImportError, match=message):
        export("not read.keras", path, format, quantize="int8", calibration="sample")


def test_calibration_takes_no_image_that_is_held_out(tmp_path, monkeypatch):
    """Of 60 images of 2 classes without val images, 6 are held out."""
    from PIL import Image

    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for index in range(60):
            color = (label, index, 0)
            Image.new("RGB", (4, 4), color).save(tmp_path / name / f"{index}.png")
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    train = measuring.calibration_images(model, tmp_path, ["cat", "dog"], seed=0)
    val, _ = measuring.read_images("data", model, tmp_path, ["cat", "dog"], "val")
    assert (len(train), len(val)) == (108, 12)
    colors = [{tuple(image[0, 0]) for image in images} for images in (train, val)]
    assert not colors[0] & colors[1]
    # The choice depends on the seed alone.
    monkeypatch.setattr(measuring, "MAX_CALIBRATION", 100)
    chosen = [
        measuring.calibration_images(model, tmp_path, ["cat", "dog"], seed)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert (chosen[0] != chosen[2]).any()


def test_the_command_prints_accuracy(names, source, tmp_path, capsys):
    needs("onnx")
    save_model(_color_model(), tmp_path / "m.keras", names)
    arguments = [str(tmp_path / "m.keras"), "--format", "onnx", "--json"]
    arguments += ["--output", str(tmp_path / "m.onnx"), "--data", str(source)]
    assert cli.main(["export", *arguments]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out.splitlines()[-1])
    assert (result["top1_keras"], result["top1_exported"], result["n"]) == (1, 1, 12)
    assert result["size"] > 0
    assert "0 of 12 images in another class" in printed.err
    assert "ms a picture" in printed.err


@pytest.mark.slow
@pytest.mark.parametrize("format", sorted(SUFFIXES))
def test_two_processes_write_the_same_int8_file(format, model, names, source, tmp_path):
    needs(format)
    save_model(model, tmp_path / "m.keras", names)
    for folder in "ab":
        command = [sys.executable, "-m", "keras_tinyalex", "export", "--quantize"]
        command += ["int8", str(tmp_path / "m.keras"), "--format", format]
        command += ["--output", str(tmp_path / folder / f"m{SUFFIXES[format]}")]
        subprocess.run([*command, "--calibration", str(source)], check=True)
    files = sorted((tmp_path / "a").iterdir())
    assert len(files) >= 2
    for file in files:
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("format", sorted(SUFFIXES))
def test_shipped_weights_keep_their_accuracy_in_int8(format, real_zip, tmp_path):
    """The val images of 20 classes; one point is 10 of the 1,000 images."""
    needs(format)
    sources = {"calibration": real_zip, "data": real_zip}
    path = tmp_path / f"m{SUFFIXES[format]}"
    result = export("tiny_imagenet_20", path, format, quantize="int8", **sources)
    assert (result.n, result.top1_keras) == (1000, 0.72)
    assert result.top1_exported >= 0.71
    assert result.size < 5.3e6
