"""Hostile and damaged weight files: every one refused, the model unchanged."""

import hashlib
import json
import random

import h5py
import keras
import numpy as np
import pytest
from hostile_weights import (
    as_safetensors,
    corpus,
    hdf5_attacks,
    heap_attacks,
    keras_file,
    safetensors,
)

from keras_tinyalex import AlexNetMini
from keras_tinyalex.applications import (
    load_model,
    load_weights_into,
    read_class_names,
    save_model,
)

pytestmark = pytest.mark.faults


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


def test_model_files_with_such_heaps_are_refused(tmp_path):
    good = tmp_path / "good.h5"
    save_model(make_model(), good, ["a", "b", "c"])
    bad = tmp_path / "bad.h5"
    bad.write_bytes(heap_attacks(good.read_bytes())["heap that walks back"])
    for read in (load_model, read_class_names):
        with pytest.raises(ValueError, match=r"bad\.h5: one of its string heaps"):
            read(bad)


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
    """The arrays of a model file are read; its config is ignored."""
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


def test_random_corruption(good, tmp_path, figure):
    """Bit flips and cuts: an error, or finite weights of the right shapes."""
    model, body, _ = good
    model = make_model()
    chosen, refused = random.Random(0), 0
    path = tmp_path / "damaged.weights.h5"
    for number in range(1000):
        damaged = bytearray(body)
        if number % 4:
            # Most headers are in the first and the last bytes.
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
    figure("weights", "1,000 random corruptions of a .weights.h5", result)


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
        "from keras_tinyalex.applications import load_weights_into\n"
        "model = AlexNetMini()\n"
        # What the libraries allocate once, for a model of any size.
        "narrow = AlexNetMini(width_multiplier=1 / 16)\n"
        f"load_weights_into(narrow, {str(narrow)!r})",
        f"load_weights_into(model, {str(path)!r})",
    )
    # The arrays once, and a copy of the largest while it becomes a tensor.
    assert grown <= 2 * size
    result = f"{grown / size:.2f} x the model ({size / 1e6:.0f} MB)"
    figure("weights", f"memory to load a .{suffix}", result)


@pytest.mark.parametrize("attack", ["gzip that expands to 512 MB", "chunk of 1 GB"])
def test_memory_of_a_bomb(good, tmp_path, peak_memory, figure, attack):
    path = tmp_path / "bomb.weights.h5"
    path.write_bytes(good[1])
    with h5py.File(path, "r+") as file:
        hdf5_attacks()[attack](file)
    grown = peak_memory(
        "from keras_tinyalex import AlexNetMini\n"
        "from keras_tinyalex.applications import load_weights_into\n"
        "model = AlexNetMini(num_classes=3, width_multiplier=1 / 16)",
        f"try:\n    load_weights_into(model, {str(path)!r})\n"
        "except ValueError as error:\n    assert 'chunks' in str(error)\n"
        "else:\n    raise SystemExit('accepted')",
    )
    assert grown < 10 << 20
    result = f"refused, {grown / 2**20:.1f} MB of memory"
    figure("weights", f"{attack}, a file of {path.stat().st_size // 1000} KB", result)
