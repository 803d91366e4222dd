"""export(format="web"): the page computes what Keras does, or nothing is written."""

import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_tinyalex import (
    AlexNetMini,
    LocalResponseNormalization,
    cli,
    export,
    web,
)
from keras_tinyalex.applications import save_model
from keras_tinyalex.exporting import exporter

# This or wider: narrower networks are computed wrongly by some releases of JAX.
WIDTH = 1 / 4

pytestmark = pytest.mark.backend


def images_for(model, n=3):
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (n, *model.input_shape[1:])).astype(np.float32)


def randomized(model):
    """Returns the model with biases and statistics that are not the initial ones."""
    rng = np.random.default_rng(0)
    weights = model.get_weights()
    for weight in weights:
        if weight.ndim == 1:
            weight += rng.uniform(0, 0.1, weight.shape).astype(np.float32)
    model.set_weights(weights)
    return model


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"normalization": "batch", "classifier_activation": None},
        {"normalization": None, "input_shape": (21, 34, 1)},
        {"include_preprocessing": False, "num_classes": 7},
    ],
    ids=["lrn", "batch, logits", "none, gray, odd sizes", "no preprocessing"],
)
def test_the_page_has_the_scores_of_keras_with_the_same_weights(arguments, tmp_path):
    model = AlexNetMini(width_multiplier=WIDTH, **{"num_classes": 3, **arguments})
    model = randomized(model)
    names = [f"class {i}" for i in range(model.output_shape[-1])]
    result = export(model, tmp_path / "page", "web", class_names=names)
    assert (result.format, result.class_names) == ("web", tuple(names))
    files = [file for file in result.path.rglob("*") if file.is_file()]
    assert result.size == sum(file.stat().st_size for file in files)
    assert result.max_difference <= exporter.PAGE_TOLERANCE
    images = images_for(model)
    scores = web.read_scores(result.path, images)
    same = web.dequantized(model)
    scaled = images if "include_preprocessing" not in arguments else images / 255
    expected = keras.ops.convert_to_numpy(same(scaled))
    if arguments.get("classifier_activation", "softmax") is None:
        expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(scores, axis=0).max() > 1e-4  # they depend on the image
    # Two bytes for a weight of a convolution, one for others, eight for each output.
    kernels = [w for w in model.get_weights() if w.ndim > 1]
    smallest = sum(w.size * w.ndim // 2 + 8 * w.shape[-1] for w in kernels)
    assert smallest <= (result.path / "model.bin").stat().st_size <= 1.05 * smallest


def test_constants_of_lrn_and_a_scaling_before_the_network(tmp_path):
    image = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(0.5)(image)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = LocalResponseNormalization(2, bias=2.0, alpha=0.1, beta=0.75)(x)
    x = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(x))
    model = randomized(keras.Model(image, x))
    result = export(model, tmp_path / "page", "web", class_names=["a", "b"])
    images = images_for(model) / 255
    expected = keras.ops.convert_to_numpy(web.dequantized(model)(images))
    np.testing.assert_allclose(
        web.read_scores(result.path, images), expected, atol=1e-5
    )


def test_class_names_are_data_and_no_html(tmp_path):
    names = ["<img src=x onerror=alert(1)>", "n01443537", "gnu\udce9 \u732b"]
    model = AlexNetMini(num_classes=3, width_multiplier=WIDTH)
    export(model, tmp_path / "page", "web", class_names=names)
    description = json.loads((tmp_path / "page" / "model.json").read_bytes())
    assert description["class_names"] == names
    assert description["names"] == [names[0], "goldfish", names[2]]
    assert "onerror" not in (tmp_path / "page" / "index.html").read_text("utf-8")


def test_the_card_of_shipped_weights_and_of_a_run(tmp_path):
    model = AlexNetMini(num_classes=2, width_multiplier=WIDTH)
    save_model(model, tmp_path / "run.keras", ["a", "b"])
    metrics = {"val_accuracy": 0.75, "val_top5": 1, "n_val": 1200, "recipe": "fast"}
    text = json.dumps({**metrics, "epochs": 3})
    (tmp_path / "metrics.json").write_text(text)
    web.write_page(model, tmp_path / "a", ["a", "b"], tmp_path / "run.keras")
    described = json.loads((tmp_path / "a" / "model.json").read_text())
    assert described["name"] == tmp_path.name
    accuracy = described["card"]["Accuracy"]
    assert accuracy == "top 1 75.0%, top 5 100.0% on 1,200 images"
    web.write_page(model, tmp_path / "b", ["a", "b"], "tiny_imagenet_20")
    card = json.loads((tmp_path / "b" / "model.json").read_text())["card"]
    assert card["Licence"] == "Apache-2.0"
    assert card["Accuracy"].startswith("top 1 72.0%, top 5 94.0% on 1,000 images")


def branched():
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(image)
    x = keras.layers.Flatten()(x)
    return keras.Model(image, keras.layers.Dense(2)(keras.layers.Add()([x, x])))


def without_top():
    return AlexNetMini(include_top=False, width_multiplier=WIDTH, pooling="avg")


def with_sigmoid():
    arguments = {"num_classes": 2, "width_multiplier": WIDTH}
    return AlexNetMini(**arguments, classifier_activation="sigmoid")


def strided():
    image = keras.Input((16, 16, 3))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, strides=2)(image))
    return keras.Model(image, keras.layers.Dense(2)(x))


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (branched, r"the layer 'add\w*' \(Add\)"),
        (without_top, r"the layer 'avg_pool' \(GlobalAveragePooling2D\)"),
        (with_sigmoid, "the activation of 'predictions'"),
        (strided, r"the layer 'conv2d\w*' \(Conv2D\)"),
    ],
)
def test_other_networks_are_refused(make, received, tmp_path):
    model = make()
    names = [str(i) for i in range(model.output_shape[-1])]
    message = rf"`model` must be an AlexNetMini.*Received: a model with {received}"
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "page", "web", class_names=names)
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments(tmp_path):
    model = AlexNetMini(num_classes=2, width_multiplier=WIDTH)
    with pytest.raises(ValueError, match=r"`class_names` must be given for format"):
        export(model, tmp_path / "page", "web")
    with pytest.raises(ValueError, match=r"must be 2 names.*len\(class_names\)=1"):
        export(model, tmp_path / "page", "web", class_names=["a"])
    (tmp_path / "page").mkdir()
    with pytest.raises(FileExistsError, match=r"`path` must not exist"):
        export(model, tmp_path / "page", "web", class_names=["a", "b"])
    assert list((tmp_path / "page").iterdir()) == []


def test_nothing_is_left_if_the_scores_differ(tmp_path, monkeypatch):
    model = AlexNetMini(num_classes=2, width_multiplier=WIDTH)
    read = web.read_scores
    monkeypatch.setattr(web, "read_scores", lambda path, x: read(path, x) + 0.001)
    with pytest.raises(ValueError, match=r"web model differs from Keras by 0.001"):
        export(model, tmp_path / "page", "web", class_names=["a", "b"])
    monkeypatch.undo()
    spoiled = randomized(keras.models.clone_model(model))
    monkeypatch.setattr(web, "dequantized", lambda model: model)
    monkeypatch.setattr(web, "write_page", lambda _, *rest: write(spoiled, *rest))
    write = web.pages.write_page
    with pytest.raises(ValueError, match=r"differs from Keras by .*nothing was"):
        export(model, tmp_path / "page", "web", class_names=["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, capsys):
    model = AlexNetMini(num_classes=2, width_multiplier=WIDTH)
    save_model(model, tmp_path / "m.keras", ["a", "b"])
    arguments = ["export", str(tmp_path / "m.keras"), "--format", "web"]
    assert cli.main([*arguments, "--output", str(tmp_path / "page"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["class_names"] == ["a", "b"]
    model.save(tmp_path / "m.keras")
    shutil.rmtree(tmp_path / "page")
    assert cli.main([*arguments, "--output", str(tmp_path / "page")]) == 1
    assert "`class_names` must be given" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_quantization_of_a_channel_of_zeros():
    model = AlexNetMini(num_classes=2, width_multiplier=WIDTH)
    model.set_weights([0 * weight for weight in model.get_weights()])
    for weight in web.dequantized(model).get_weights():
        assert (weight == 0).all()


@pytest.mark.slow
def test_kernels_are_those_of_the_source(tmp_path):
    folder = Path(web.__file__).parent / "page"
    source = (folder / "kernels.c").read_text("utf-8")
    package, version = re.search(r"pip install (ziglang)==([\d.]+)", source).groups()
    pytest.importorskip(package)
    if importlib.metadata.version(package) != version:
        pytest.skip(f"another compiler gives other bytes: needs {package} {version}")
    command = re.search(r"python (-m ziglang.*?kernels\.wasm)", source, re.S)[1]
    arguments = shlex.split(command.replace("\\\n//", ""))
    shutil.copy(folder / "kernels.c", tmp_path)
    subprocess.run([sys.executable, *arguments], check=True, cwd=tmp_path)
    built = (tmp_path / "kernels.wasm").read_bytes()
    assert built == (folder / "kernels.wasm").read_bytes()
