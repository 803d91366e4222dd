import hashlib
import io
import json
import struct
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import ops

from keras_tinyalex.applications import (
    AlexNetMini,
    list_weights,
    load_model,
    load_weights_into,
    model_card,
    model_files,
    read_class_names,
    save_model,
    weights_path,
)
from keras_tinyalex.applications import shipped as shipped_weights

pytestmark = pytest.mark.backend
SMALL = {"width_multiplier": 1 / 32, "input_shape": (16, 16, 3), "num_classes": 3}
CLASSES = ["n01443537", "zwei", "drei"]
KERNEL = "block1_conv/kernel"


def make_model(**arguments):
    return AlexNetMini(**{**SMALL, **arguments})


def arrays_of(model):
    return {
        f"{layer.name}/{variable.name}": ops.convert_to_numpy(variable)
        for layer in model.layers
        for variable in layer.weights
    }


def assert_same(model, expected):
    found = arrays_of(model)
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def write_safetensors(path, arrays, dtypes=None):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, values in arrays.items():
        raw = values.tobytes()
        header[name] = {
            "dtype": (dtypes or {}).get(name, "F32"),
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write(model, path):
    """Saves the model in the format that the name asks for."""
    if path.name == "weights_only.h5":
        # the layout of Keras 2: weights at the root, called `kernel:0`
        with h5py.File(path, "w") as file:
            for name, values in arrays_of(model).items():
                file[f"{name.split('/')[0]}/{name}:0"] = values
    elif path.name.endswith(".weights.h5"):
        model.save_weights(path)
    elif path.suffix == ".safetensors":
        write_safetensors(path, arrays_of(model))
    else:
        model.save(path)


FILES = [
    "model.keras",
    "model.h5",
    "weights_only.h5",
    "model.weights.h5",
    "model.safetensors",
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("normalization", ["lrn", "batch"])
def test_weights_come_back_from_every_format(tmp_path, file, normalization):
    trained = make_model(normalization=normalization)
    expected = arrays_of(trained)
    write(trained, tmp_path / file)
    model = make_model(normalization=normalization, weights=tmp_path / file)
    assert_same(model, expected)


@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
def test_a_trained_model_with_its_optimizer(tmp_path, file):
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


# Every way to spoil an array, by what the error says of it.
SPOILS = {
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


@pytest.mark.parametrize("message", SPOILS)
@pytest.mark.parametrize("file", ["bad.h5", "bad.weights.h5", "bad.safetensors"])
def test_a_refused_file_changes_nothing(tmp_path, file, message):
    arrays = arrays_of(make_model())
    SPOILS[message](arrays)
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
    # numbers stand for the names of layers that the model does not have
    message = message.replace("fc3/bias", "fc3/(bias|1)")
    with pytest.raises(ValueError, match=rf"{message}.*model is unchanged") as error:
        load_weights_into(model, path)
    assert str(path) in str(error.value)
    assert_same(model, before)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize(
    "path", ["zzz/vars/0", "vars/0", "layers/zzz/vars/0", "layers/dense/zzz/vars/0"]
)
def test_an_unknown_array_is_refused_wherever_it_is(tmp_path, suffix, path):
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


def test_the_state_of_the_optimizer_is_no_weight(tmp_path):
    model = make_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(np.zeros((2, 16, 16, 3), "uint8"), np.array([0, 1]), verbose=0)
    model.save_weights(tmp_path / "trained.weights.h5")
    with h5py.File(tmp_path / "trained.weights.h5") as file:
        assert "optimizer/vars/0" in file
    other = make_model()
    load_weights_into(other, tmp_path / "trained.weights.h5")
    assert_same(other, arrays_of(model))


def test_an_endless_group_beside_the_layers_is_refused(tmp_path):
    model = make_model()
    model.save_weights(tmp_path / "endless.weights.h5")
    with h5py.File(tmp_path / "endless.weights.h5", "r+") as file:
        group = file.create_group("zzz")
        group["again"] = group
    with pytest.raises(ValueError, match=r"zzz/again/.* is nested too deep"):
        load_weights_into(model, tmp_path / "endless.weights.h5")


def test_long_lists_are_cut(tmp_path):
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
def test_an_array_that_claims_a_gigabyte_is_not_read(tmp_path, options, message):
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
def test_links_and_outside_data_are_refused(tmp_path, link):
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


def test_a_group_inside_itself_ends(tmp_path):
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
def test_files_that_are_no_weights(tmp_path, name, content, message):
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
def test_safetensors_headers_that_lie(tmp_path, entry, message):
    text = json.dumps({"a": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"1234")
    with pytest.raises(ValueError, match=f"Cannot read weights from .*{message}"):
        make_model(weights=path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_saved_models_come_back_with_their_classes(tmp_path, suffix):
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


def test_models_of_plain_keras_have_no_class_names(tmp_path):
    model = make_model()
    for name in ("model.keras", "model.h5", "model.weights.h5", "model.safetensors"):
        write(model, tmp_path / name)
        assert read_class_names(tmp_path / name) is None


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_failed_save_leaves_the_old_file(tmp_path, suffix, monkeypatch):
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


def test_a_full_disk_is_reported_before_hdf5_notices(tmp_path, monkeypatch):
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
def test_what_cannot_be_saved(tmp_path, name, class_names, message):
    with pytest.raises(ValueError, match=message):
        save_model(make_model(), tmp_path / name, class_names)
    assert not list(tmp_path.iterdir())


def test_class_names_that_are_not_strings(tmp_path):
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


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of shipped weights with one small model of 64x64 images."""
    monkeypatch.setattr(shipped_weights, "_pretrained_folder", lambda: tmp_path)
    model = make_model(input_shape=(64, 64, 3))
    path = tmp_path / "small_3.keras"
    save_model(model, path, CLASSES)
    card = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "top1": 0.3}
    (tmp_path / "small_3.json").write_text(json.dumps(card))
    return model


def test_shipped_weights(shipped, tmp_path):
    assert list_weights() == ["small_3"]
    assert weights_path("small_3") == tmp_path / "small_3.keras"
    assert model_card("small_3")["top1"] == 0.3
    model = AlexNetMini(weights="small_3", width_multiplier=1 / 32, num_classes=3)
    assert_same(model, arrays_of(shipped))
    loaded, class_names = load_model("small_3")
    assert class_names == tuple(CLASSES)
    assert_same(loaded, arrays_of(shipped))
    with pytest.warns(UserWarning, match="small_3.keras are for 3 classes.* has 20"):
        AlexNetMini(weights="small_3", width_multiplier=1 / 32)


def test_unknown_names_get_a_suggestion(shipped):
    known = r"\['small_3'\]"
    with pytest.raises(ValueError, match=f"{known}.* 'small_3'\\?.*name='smal_3'"):
        weights_path("smal_3")
    with pytest.raises(ValueError, match=f"one of {known}. Received: name='zzz'"):
        model_card("zzz")
    with pytest.raises(
        ValueError, match=f"{known}.*Did you mean 'small_3'.*weights='small3'"
    ):
        AlexNetMini(weights="small3")


def test_damaged_shipped_weights(shipped, tmp_path):
    path = tmp_path / "small_3.keras"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"'small_3' is damaged.*Expected: sha256="):
        AlexNetMini(weights="small_3")
    path.unlink()
    with pytest.raises(ValueError, match="'small_3' is missing in"):
        weights_path("small_3")


def test_every_shipped_weight_matches_its_card():
    for name in list_weights():
        assert weights_path(name).is_file()
