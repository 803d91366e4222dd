"""save_model, load_model and read_class_names."""

import zipfile

import keras
import numpy as np
import pytest
from model_helpers import CLASSES, arrays_of, assert_same, make_model, write

from keras_tinyalex.applications import (
    load_model,
    model_files,
    read_class_names,
    save_model,
)

pytestmark = pytest.mark.backend


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saved_models_load_with_their_class_names(tmp_path, suffix):
    model = make_model()
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype="uint8")
    expected = model.predict(x, verbose=0)
    path = tmp_path / f"model{suffix}"
    save_model(model, path, CLASSES)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert read_class_names(path) == tuple(CLASSES)

    loaded, class_names = load_model(path)
    assert class_names == tuple(CLASSES)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    plain = keras.models.load_model(path)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), expected)
    assert_same(make_model(weights=path), arrays_of(model))


def test_models_saved_by_keras_have_no_class_names(tmp_path):
    model = make_model()
    for name in ("model.keras", "model.h5", "model.weights.h5", "model.safetensors"):
        write(model, tmp_path / name)
        assert read_class_names(tmp_path / name) is None


def test_invalid_class_names_in_a_file_are_refused(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("keras_tinyalex.json", '{"class_names": [1, 2]}')
    with pytest.raises(ValueError, match=r"must be a list of strings.*\[1, 2\]"):
        read_class_names(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("keras_tinyalex.json", "{")
    with pytest.raises(ValueError, match=r"Cannot read class names from"):
        read_class_names(path)
    with pytest.raises(
        ValueError, match=r"Cannot read class names from .*No such file"
    ):
        read_class_names(tmp_path / "absent.keras")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_failed_save_leaves_the_old_file(tmp_path, suffix, monkeypatch):
    model = make_model()
    path = tmp_path / f"model{suffix}"
    save_model(model, path, CLASSES)
    before = path.read_bytes()

    def fail(path, text):
        raise OSError("No space left on device")

    monkeypatch.setattr(model_files, "_add_class_names", fail)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, path, ["other"] * 3)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_full_disk_is_reported_before_hdf5_writes(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 300_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    small = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    save_model(small, tmp_path / "small.h5", ["a", "b"])
    large = keras.Sequential([keras.Input((100,)), keras.layers.Dense(100)])
    with pytest.raises(OSError, match=r"large\.h5: No space left.*Free disk space"):
        save_model(large, tmp_path / "large.h5", ["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["small.h5"]


@pytest.mark.parametrize(
    ("name", "class_names", "message"),
    [
        ("model.weights.h5", CLASSES, "`path` must end in `.keras` or `.h5`"),
        ("model.onnx", CLASSES, "`path` must end in `.keras` or `.h5`"),
        ("model.keras", "abc", "`class_names` must be a sequence.*='abc'"),
        ("model.keras", [1, 2], r"`class_names` must be a sequence.*=\[1, 2\]"),
        ("model.h5", ["n" * 100] * 700, "`class_names` is too long for an `.h5`"),
    ],
)
def test_save_model_refuses(tmp_path, name, class_names, message):
    with pytest.raises(ValueError, match=message):
        save_model(make_model(), tmp_path / name, class_names)
    assert not list(tmp_path.iterdir())


def test_load_model_refuses(tmp_path):
    model = make_model()
    for name in ("model.weights.h5", "model.safetensors"):
        write(model, tmp_path / name)
        with pytest.raises(ValueError, match="weights without a model"):
            load_model(tmp_path / name)
    write(model, tmp_path / "weights_only.h5")
    for name in ("weights_only.h5", "text.keras", "text.h5"):
        if name.startswith("text"):
            (tmp_path / name).write_text("hello")
        with pytest.raises(ValueError, match="Cannot load a model from") as error:
            load_model(tmp_path / name)
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(ValueError, match=r"path of an existing file.*='absent.keras'"):
        load_model("absent.keras")


def test_code_in_a_model_is_refused(tmp_path):
    image = keras.Input((2,))
    model = keras.Model(image, keras.layers.Lambda(lambda x: x + 1)(image))
    model.save(tmp_path / "code.keras")
    with pytest.raises(ValueError, match=r"Cannot load a model from .*"):
        load_model(tmp_path / "code.keras")
