"""load_weights_into: every format, and the files that it refuses."""

import io
import json
import struct
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from model_helpers import (
    arrays_of,
    assert_same,
    make_model,
    write,
    write_safetensors,
)

from keras_tinyalex.applications import load_weights_into

pytestmark = pytest.mark.backend


FILES = [
    "model.keras",
    "model.h5",
    "weights_only.h5",
    "model.weights.h5",
    "model.safetensors",
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("normalization", ["lrn", "batch"])
def test_weights_load_from_every_format(tmp_path, file, normalization):
    trained = make_model(normalization=normalization)
    expected = arrays_of(trained)
    write(trained, tmp_path / file)
    model = make_model(normalization=normalization, weights=tmp_path / file)
    assert_same(model, expected)


@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
def test_weights_load_from_a_model_with_optimizer(tmp_path, file):
    trained = make_model()
    trained.compile("adam", "sparse_categorical_crossentropy")
    x = np.zeros((2, 16, 16, 3), "float32")
    trained.fit(x, np.array([0, 1]), verbose=0)
    write(trained, tmp_path / file)
    assert_same(make_model(weights=str(tmp_path / file)), arrays_of(trained))


@pytest.mark.parametrize("kind", ["BF16", "F16"])
def test_half_precision_safetensors(tmp_path, kind):
    values = arrays_of(make_model())
    if kind == "F16":
        stored = {name: v.astype("float16") for name, v in values.items()}
        expected = {name: v.astype("float32") for name, v in stored.items()}
    else:
        # bfloat16 is the upper half of a float32
        stored = {
            name: (v.view("uint32") >> 16).astype("uint16")
            for name, v in values.items()
        }
        expected = {
            name: (v.view("uint32") & 0xFFFF0000).view("float32")
            for name, v in values.items()
        }
    path = tmp_path / "half.safetensors"
    write_safetensors(path, stored, dict.fromkeys(stored, kind))
    assert_same(make_model(weights=path), expected)


def test_bfloat16_weights(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    try:
        trained = make_model()
    finally:
        keras.config.set_dtype_policy("float32")
    trained.save_weights(tmp_path / "half.weights.h5")
    model = make_model(weights=tmp_path / "half.weights.h5")
    expected = ops.convert_to_numpy(
        ops.cast(trained.get_layer("fc1").kernel, "float32")
    )
    found = ops.convert_to_numpy(model.get_layer("fc1").kernel)
    np.testing.assert_array_equal(found, expected)


# Changes that make the arrays invalid, by the error message that each must cause.
INVALID_ARRAYS = {
    "missing fc2/bias": lambda a: a.pop("fc2/bias"),
    "unexpected fc3/bias": lambda a: a.update({"fc3/bias": np.zeros(3, "float32")}),
    r"fc2/bias has shape \(5,\), not \(16,\)": lambda a: a.update(
        {"fc2/bias": np.zeros(5, "float32")}
    ),
    r"fc2/bias has dtype .*, not a float": lambda a: a.update(
        {"fc2/bias": np.zeros(16, "int32")}
    ),
    "finite, but predictions/bias": lambda a: a.update(
        {"predictions/bias": np.array([0, np.nan, 0], "float32")}
    ),
    "finite, but predictions/kernel": lambda a: a.update(
        {"predictions/kernel": np.full((16, 3), np.inf, "float32")}
    ),
}


@pytest.mark.parametrize("message", INVALID_ARRAYS)
@pytest.mark.parametrize("file", ["bad.h5", "bad.weights.h5", "bad.safetensors"])
def test_refused_file_leaves_the_model_unchanged(tmp_path, file, message):
    arrays = arrays_of(make_model())
    INVALID_ARRAYS[message](arrays)
    path = tmp_path / file
    if path.suffix == ".safetensors":
        kinds = {name: "I32" for name, a in arrays.items() if a.dtype == "int32"}
        write_safetensors(path, arrays, kinds)
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                layer, variable = name.split("/")
                if path.name == "bad.h5":
                    file[f"model_weights/{layer}/{layer}/{variable}"] = values
                else:
                    number = 0 if variable == "kernel" else 1
                    file[f"layers/{layer}/vars/{number}"] = values
                    file[f"layers/{layer}/vars"].attrs["name"] = layer
    model = make_model()
    before = arrays_of(model)
    # `.weights.h5` numbers the arrays of a layer; the model has no fc3 to name them
    message = message.replace("fc3/bias", "fc3/(bias|1)")
    with pytest.raises(ValueError, match=rf"{message}.*model is unchanged") as error:
        load_weights_into(model, path)
    assert str(path) in str(error.value)
    assert_same(model, before)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize(
    "path", ["zzz/vars/0", "vars/0", "layers/zzz/vars/0", "layers/dense/zzz/vars/0"]
)
def test_unknown_arrays_are_refused_in_any_group(tmp_path, suffix, path):
    model = make_model()
    if suffix == ".keras":
        model.save(tmp_path / "extra.keras")
        with zipfile.ZipFile(tmp_path / "extra.keras") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        stream = io.BytesIO(members["model.weights.h5"])
        with h5py.File(stream, "r+") as file:
            file[path] = np.zeros(3, "float32")
        members["model.weights.h5"] = stream.getvalue()
        with zipfile.ZipFile(tmp_path / "extra.keras", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        model.save_weights(tmp_path / "extra.weights.h5")
        with h5py.File(tmp_path / "extra.weights.h5", "r+") as file:
            file[path] = np.zeros(3, "float32")
    before = arrays_of(model)
    named = "zzz/0" if path == "layers/zzz/vars/0" else path
    with pytest.raises(ValueError, match=f"unexpected {named}.*model is unchanged"):
        load_weights_into(model, tmp_path / f"extra{suffix}")
    assert_same(model, before)


def test_optimizer_state_is_ignored(tmp_path):
    model = make_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(np.zeros((2, 16, 16, 3), "uint8"), np.array([0, 1]), verbose=0)
    model.save_weights(tmp_path / "trained.weights.h5")
    with h5py.File(tmp_path / "trained.weights.h5") as file:
        assert "optimizer/vars/0" in file
    other = make_model()
    load_weights_into(other, tmp_path / "trained.weights.h5")
    assert_same(other, arrays_of(model))


def test_recursive_group_next_to_the_layers_is_refused(tmp_path):
    model = make_model()
    model.save_weights(tmp_path / "endless.weights.h5")
    with h5py.File(tmp_path / "endless.weights.h5", "r+") as file:
        group = file.create_group("zzz")
        group["again"] = group
    with pytest.raises(ValueError, match=r"zzz/again/.* is nested too deep"):
        load_weights_into(model, tmp_path / "endless.weights.h5")


def test_long_lists_of_names_are_shortened(tmp_path):
    path = tmp_path / "empty.safetensors"
    write_safetensors(path, {})
    # 16 arrays: five convolutions and three dense layers, kernel and bias
    with pytest.raises(ValueError, match=r"missing block1_conv/kernel, .* and 12 more"):
        load_weights_into(make_model(), path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunks": (1 << 10, 1 << 10), "compression": "gzip"}, "split into chunks"),
        ({}, "declares 1,073,741,824 bytes, more than the file has"),
    ],
)
def test_array_that_declares_a_gigabyte_is_not_read(tmp_path, options, message):
    model = make_model()
    path = tmp_path / "bomb.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        del file["layers/dense/vars/0"]
        shape = (1 << 14, 1 << 14)
        file["layers/dense/vars"].create_dataset("0", shape, "float32", **options)
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match=f"/layers/dense/vars/0 .*{message}"):
        load_weights_into(model, path)


@pytest.mark.parametrize("link", ["soft", "external", "virtual", "external data"])
def test_links_and_external_data_are_refused(tmp_path, link):
    model = make_model()
    path = tmp_path / "linked.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        group = file["layers/dense/vars"]
        values = group["1"][()]
        del group["1"]
        if link == "soft":
            group["1"] = h5py.SoftLink("/layers/dense_1/vars/1")
        elif link == "external":
            group["1"] = h5py.ExternalLink("/etc/hostname", "/")
        elif link == "virtual":
            layout = h5py.VirtualLayout(values.shape, "float32")
            layout[:] = h5py.VirtualSource("other.h5", "x", values.shape)
            group.create_virtual_dataset("1", layout)
        else:
            group.create_dataset(
                "1", values.shape, "float32", external=[("/etc/hostname", 0, 128)]
            )
    message = "is a link" if link in ("soft", "external") else "data outside the file"
    with pytest.raises(ValueError, match=f"Cannot read weights from .*{message}"):
        load_weights_into(model, path)


def test_recursive_group_in_a_model_file_is_refused(tmp_path):
    path = tmp_path / "endless.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights/fc1")
        group["again"] = group
    with pytest.raises(ValueError, match="missing block1_conv/kernel"):
        load_weights_into(make_model(), path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.h5", b"hello", "Unable to"),
        ("a.keras", b"hello", "not a zip file"),
        ("a.safetensors", b"hello", "cut short or not a safetensors file"),
        ("a.safetensors", b"\xff" * 64, "cut short or not a safetensors file"),
        ("a.safetensors", struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        ("a.safetensors", struct.pack("<Q", 9) + b'{"a": {}}', "header of a is"),
        ("a.ckpt", b"hello", r"name must end in `\.keras`"),
    ],
)
def test_files_without_weights_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"Cannot read weights from .*{message}"):
        make_model(weights=path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
            "a lies outside the file",
        ),
        (
            {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
            "a lies outside the file",
        ),
        (
            {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 4]},
            "a has 4 bytes, not 8",
        ),
        ({"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}, "unknown dtype F4"),
    ],
)
def test_invalid_safetensors_headers_are_refused(tmp_path, entry, message):
    text = json.dumps({"a": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"1234")
    with pytest.raises(ValueError, match=f"Cannot read weights from .*{message}"):
        make_model(weights=path)
