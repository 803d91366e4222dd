"""Hostile and damaged weight files: every one refused, the model unchanged."""

import hashlib
import io
import json
import os
import random
import struct
import zipfile
import zlib

import h5py
import keras
import numpy as np
import pytest

from keras_tinyalex import AlexNetMini
from keras_tinyalex.applications.weights import (
    load_model,
    load_weights_into,
    read_class_names,
    save_model,
)

pytestmark = pytest.mark.faults

BIAS = "layers/dense_2/vars/1"  # of the classifier: 3 values
KERNEL = "layers/dense/vars/0"


def make_model(classes=3):
    return AlexNetMini(num_classes=classes, width_multiplier=1 / 16)


def digest(model):
    values = b"".join(np.ascontiguousarray(w).tobytes() for w in model.get_weights())
    return hashlib.sha256(values).hexdigest()


def arrays_of(model):
    return {
        f"{layer.name}/{v.name}": keras.ops.convert_to_numpy(v)
        for layer in model.layers
        for v in layer.weights
    }


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A model, its weights as `.weights.h5` bytes, and as arrays by name."""
    path = tmp_path_factory.mktemp("good") / "good.weights.h5"
    model = make_model()
    model.save_weights(path)
    return model, path.read_bytes(), arrays_of(model)


# ------------------------------------------------------------------ the corpus


def replaced(name, make):
    """Replaces a data set; `make(group, key, old values)` makes the new one."""

    def change(file):
        group, _, key = name.rpartition("/")
        values = file[name][()]
        del file[name]
        make(file[group], key, values)

    return change


def virtual(group, key, values):
    layout = h5py.VirtualLayout(values.shape, "float32")
    layout[:] = h5py.VirtualSource("other.h5", "x", values.shape)
    group.create_virtual_dataset(key, layout)


def swelling(group, key, values):
    """A chunk whose gzip stream unpacks to 512 MB."""
    made = group.create_dataset(
        key, values.shape, "float32", chunks=values.shape, compression="gzip"
    )
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(512))
    made.id.write_direct_chunk((0, 0), packed + packer.flush())


def claims(shape, **options):
    return lambda group, key, values: group.create_dataset(
        key, shape, "float32", **options
    )


def stored(values_of):
    def make(group, key, values):
        group[key] = values_of(values)

    return make


def many_names(file):
    """A name attribute of 2,000 times the same 1 MB string."""
    group = file["layers/dense/vars"]
    del group.attrs["name"]
    text = "x" * (1 << 20)
    kind = h5py.string_dtype()
    group.attrs.create("name", np.array([text] * 2, object), dtype=kind)


def with_nan(values):
    spoilt = values.copy()
    spoilt.flat[-1] = np.nan
    return spoilt


def hdf5_attacks():
    def add(name, values):
        return lambda file: file.__setitem__(name, values)

    def link(target):
        return lambda group, key, values: group.__setitem__(key, target)

    def cycle(file):
        file["layers/loop"] = file["layers"]

    return {
        "soft link": replaced(BIAS, link(h5py.SoftLink("/" + KERNEL))),
        "dangling link": replaced(BIAS, link(h5py.SoftLink("/nowhere"))),
        "link to another file": replaced(
            BIAS, link(h5py.ExternalLink("/etc/hostname", "/"))
        ),
        "link of a group": lambda file: (
            file.move("layers", "real")
            or file.__setitem__("layers", h5py.SoftLink("/real"))
        ),
        "virtual data": replaced(BIAS, virtual),
        "data in /etc/passwd": replaced(
            BIAS, claims((3,), external=[("/etc/passwd", 0, 12)])
        ),
        "1 GB claimed": replaced(KERNEL, claims((1 << 14, 1 << 14))),
        "right shape, no values": replaced(
            KERNEL, lambda g, key, values: g.create_dataset(key, values.shape, "f4")
        ),
        "chunk of 1 GB": replaced(
            BIAS, claims((3,), maxshape=(None,), chunks=(1 << 28,), compression="gzip")
        ),
        "gzip that swells to 512 MB": replaced(KERNEL, swelling),
        "NaN": replaced(BIAS, stored(with_nan)),
        "1e300, too much for float32": replaced(
            BIAS, stored(lambda v: np.full(3, 1e300))
        ),
        "infinity": replaced(BIAS, stored(lambda v: np.full_like(v, np.inf))),
        "whole numbers": replaced(BIAS, stored(lambda v: v.astype("int32"))),
        "text": replaced(BIAS, stored(lambda v: "weights")),
        "complex numbers": replaced(BIAS, stored(lambda v: v.astype("complex64"))),
        "record": replaced(BIAS, stored(lambda v: np.zeros(3, [("a", "f4")]))),
        "object reference": replaced(
            BIAS, lambda g, k, v: g.create_dataset(k, data=g.ref, dtype=h5py.ref_dtype)
        ),
        "no dimension": replaced(BIAS, stored(lambda v: np.float32(1))),
        "one dimension more": replaced(BIAS, stored(lambda v: v[None])),
        "shape transposed": replaced(KERNEL, stored(lambda v: v.T.copy())),
        "one class more": replaced(BIAS, stored(lambda v: np.zeros(4, "f4"))),
        "array missing": lambda file: file.__delitem__(BIAS),
        "layer missing": lambda file: file.__delitem__("layers/dense"),
        "everything missing": lambda file: file.__delitem__("layers"),
        "extra array": add("layers/dense/vars/2", np.zeros(3, "f4")),
        "extra layer": add("layers/dense_9/vars/0", np.zeros(3, "f4")),
        "array in a group's place": lambda file: (
            file.__delitem__("layers"),
            file.__setitem__("layers", np.zeros(3)),
        ),
        "group in an array's place": replaced(
            BIAS, lambda group, key, values: group.create_group(key)
        ),
        "two layers of one name": lambda file: file[
            "layers/dense_1/vars"
        ].attrs.__setitem__("name", "fc1"),
        "name of another layer": lambda file: file[
            "layers/dense/vars"
        ].attrs.__setitem__("name", "../../etc"),
        "name that is no text": many_names,
        "group within itself, an array missing": lambda file: (
            cycle(file),
            file.__delitem__(BIAS),
        ),
    }


def heap_attacks(body):
    """Texts whose heap HDF5 would walk for ever."""
    start = body.index(b"GCOL\1")
    at = start + 16
    while body[at : at + 2] != b"\0\0":  # the object of the free space
        at += 16 + (struct.unpack_from("<Q", body, at + 8)[0] + 7) // 8 * 8
    return {
        "heap in circles": body[: at + 8] + bytes(8) + body[at + 16 :],
        "heap that walks back": (
            body[: start + 24] + struct.pack("<Q", -64 % (1 << 64)) + body[start + 32 :]
        ),
    }


def test_whole_models_with_such_heaps(tmp_path):
    good = tmp_path / "good.h5"
    save_model(make_model(), good, ["a", "b", "c"])
    bad = tmp_path / "bad.h5"
    bad.write_bytes(heap_attacks(good.read_bytes())["heap that walks back"])
    for read in (load_model, read_class_names):
        with pytest.raises(ValueError, match=r"bad\.h5: one of its string heaps"):
            read(bad)


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def as_safetensors(arrays):
    header, data = {}, b""
    for name, values in arrays.items():
        offsets = [len(data), len(data) + values.nbytes]
        header[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": offsets}
        data += values.tobytes()
    return header, data


def safetensors_attacks(arrays):
    header, data = as_safetensors(arrays)
    bias = "predictions/bias"

    def changed(**fields):
        return safetensors({**header, bias: {**header[bias], **fields}}, data)

    total = len(data)
    nan = data[:-4] + struct.pack("<f", np.nan)
    return {
        "header of 2**63 bytes": struct.pack("<Q", 1 << 63) + data,
        "header of 2 MB": safetensors(b"[" * (2 << 20), data),
        "header 100,000 deep": safetensors(b"[" * 100_000, data),
        "header that is a list": safetensors([], data),
        "header that is no JSON": safetensors(b"\xff" * 50, data),
        "entry that is a number": safetensors({**header, bias: 5}, data),
        "shape of texts": changed(shape=["a"]),
        "shape below 0": changed(shape=[-3]),
        "shape of 2**70": changed(shape=[1 << 70]),
        "shape of another size": changed(shape=[4]),
        "offset beyond the end": changed(data_offsets=[total, total + 12]),
        "offset below 0": changed(data_offsets=[-12, 0]),
        "offsets exchanged": changed(data_offsets=header[bias]["data_offsets"][::-1]),
        "unknown dtype": changed(dtype="F8"),
        "pickled dtype": changed(dtype="O"),
        "whole numbers": changed(dtype="I32"),
        "NaN": safetensors(header, nan),
        "array missing": safetensors({k: header[k] for k in header if k != bias}, data),
        "extra array": safetensors({**header, "evil/kernel": header[bias]}, data),
        "data missing": safetensors(header, data[:100]),
    }


def keras_file(weights, method=zipfile.ZIP_STORED, name="model.weights.h5", **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, weights)
        for member, content in members.items():
            archive.writestr(member.replace("_json", ".json"), content)
    return file.getvalue()


def corpus(good, folder):
    """Yields name and path of every hostile file."""
    _, body, arrays = good
    for name, change in hdf5_attacks().items():
        path = folder / "attack.weights.h5"
        path.write_bytes(body)
        with h5py.File(path, "r+") as file:
            change(file)
        spoilt = path.read_bytes()
        yield f"{name} (.weights.h5)", path
        inside = folder / "attack.keras"
        inside.write_bytes(keras_file(spoilt))
        yield f"{name} (.keras)", inside
    for name, content in heap_attacks(body).items():
        for path in (folder / "attack.weights.h5", folder / "attack.keras"):
            path.write_bytes(content if path.suffix == ".h5" else keras_file(content))
            yield f"{name} ({path.suffix})", path
    for name, content in safetensors_attacks(arrays).items():
        path = folder / "attack.safetensors"
        path.write_bytes(content)
        yield f"{name} (.safetensors)", path
    bomb = bytes(1 << 28)
    files = {
        "packed bomb of 256 MB": keras_file(bomb, zipfile.ZIP_DEFLATED),
        "no weights inside": keras_file(body, name="weights.txt"),
        "weights in another folder": keras_file(body, name="../model.weights.h5"),
        "not a zip": b"PK\3\4" + body,
        "weights cut short": keras_file(body[: len(body) // 2]),
        "weights are text": keras_file(b"hello"),
        "empty": b"",
    }
    for name, content in files.items():
        path = folder / "attack.keras"
        path.write_bytes(content)
        yield f"{name} (.keras)", path
    for suffix in ("h5", "weights.h5", "safetensors"):
        for name, content in (("empty", b""), ("noise", os.urandom(5000))):
            path = folder / f"attack.{suffix}"
            path.write_bytes(content)
            yield f"{name} (.{suffix})", path
    for name in ("model.pkl", "model.pt", "model.npz", "model.ckpt"):
        path = folder / name
        path.write_bytes(b"\x80\x04cposix\nsystem\n(S'touch /tmp/pwned'\ntR.")
        yield f"code ({name})", path


def test_hostile_files(good, tmp_path, figure):
    model = good[0]
    before, refused = digest(model), 0
    for name, path in corpus(good, tmp_path):
        try:
            load_weights_into(model, path)
        except ValueError as error:
            text = str(error)
            assert str(path) in text, name
            assert "unchanged" in text or "Cannot read weights from" in text, name
        else:
            pytest.fail(f"accepted: {name}")
        assert digest(model) == before, name
        refused += 1
    assert refused > 90
    figure(
        "weights",
        "hostile .keras, .h5, .weights.h5, .safetensors",
        f"{refused} of {refused} refused, the model unchanged by each",
    )


def test_code_in_a_model_file_does_not_run(good, tmp_path, figure):
    """The arrays of a whole model are read; its config is not looked at."""
    touched = tmp_path / "pwned"
    config = {"class_name": "Lambda", "config": {"code": f"touch {touched}"}}
    path = tmp_path / "code.keras"
    path.write_bytes(keras_file(good[1], config_json=json.dumps(config)))
    model = make_model()
    load_weights_into(model, path)
    assert digest(model) == digest(good[0])
    assert not touched.exists()
    figure(
        "weights", "code in the config of a .keras file", "weights read, nothing run"
    )


def test_random_damage(good, tmp_path, figure):
    """Bit flips and cuts: an error, or finite weights of the right shapes."""
    model, body, _ = good
    model = make_model()
    chosen, refused = random.Random(0), 0
    path = tmp_path / "damaged.weights.h5"
    for number in range(1000):
        damaged = bytearray(body)
        if number % 4:
            # Most of the headers lie in the first and the last bytes.
            for _ in range(chosen.choice((1, 8))):
                damaged[chosen.randrange(len(body))] ^= 1 << chosen.randrange(8)
        else:
            damaged = damaged[: chosen.randrange(len(body))]
        path.write_bytes(damaged)
        before = digest(model)
        try:
            load_weights_into(model, path)
        except ValueError:
            assert digest(model) == before
            refused += 1
        else:
            assert all(np.isfinite(w).all() for w in model.get_weights())
    result = f"{refused} refused, {1000 - refused} finite and of the right shapes"
    figure("weights", "1,000 random damages of a .weights.h5", result)


# ---------------------------------------------------------------------- memory


@pytest.mark.parametrize("suffix", ["weights.h5", "h5", "keras", "safetensors"])
def test_memory_of_a_good_file(tmp_path, peak_memory, figure, suffix):
    model = AlexNetMini()
    size = 4 * model.count_params()
    narrow = tmp_path / "narrow.weights.h5"
    AlexNetMini(width_multiplier=1 / 16).save_weights(narrow)
    path = tmp_path / f"model.{suffix}"
    if suffix == "weights.h5":
        model.save_weights(path)
    elif suffix == "safetensors":
        path.write_bytes(safetensors(*as_safetensors(arrays_of(model))))
    else:
        model.save(path)
    grown = peak_memory(
        "from keras_tinyalex import AlexNetMini\n"
        "from keras_tinyalex.applications.weights import load_weights_into\n"
        "model = AlexNetMini()\n"
        # What the libraries take once, whatever the size.
        "narrow = AlexNetMini(width_multiplier=1 / 16)\n"
        f"load_weights_into(narrow, {str(narrow)!r})",
        f"load_weights_into(model, {str(path)!r})",
    )
    # The arrays once, and a copy of the largest to make a tensor of it.
    assert grown <= 2 * size
    result = f"{grown / size:.2f} x the model ({size / 1e6:.0f} MB)"
    figure("weights", f"memory to load a .{suffix}", result)


@pytest.mark.parametrize("attack", ["gzip that swells to 512 MB", "chunk of 1 GB"])
def test_memory_of_a_bomb(good, tmp_path, peak_memory, figure, attack):
    path = tmp_path / "bomb.weights.h5"
    path.write_bytes(good[1])
    with h5py.File(path, "r+") as file:
        hdf5_attacks()[attack](file)
    grown = peak_memory(
        "from keras_tinyalex import AlexNetMini\n"
        "from keras_tinyalex.applications.weights import load_weights_into\n"
        "model = AlexNetMini(num_classes=3, width_multiplier=1 / 16)",
        f"try:\n    load_weights_into(model, {str(path)!r})\n"
        "except ValueError as error:\n    assert 'chunks' in str(error)\n"
        "else:\n    raise SystemExit('accepted')",
    )
    assert grown < 10 << 20
    result = f"refused, {grown / 2**20:.1f} MB of memory"
    figure("weights", f"{attack}, a file of {path.stat().st_size // 1000} KB", result)
