"""Helpers of the tests of weights: a small model, its arrays, its files."""

import json
import struct

import h5py
import numpy as np
from keras import ops

from keras_tinyalex import AlexNetMini

SMALL = {"width_multiplier": 1 / 32, "input_shape": (16, 16, 3), "num_classes": 3}

CLASSES = ["n01443537", "zwei", "drei"]


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
    """Saves the model in the format of the file name."""
    if path.name == "weights_only.h5":
        # the layout of Keras 2: weights at the root, named `kernel:0`
        with h5py.File(path, "w") as file:
            for name, values in arrays_of(model).items():
                file[f"{name.split('/')[0]}/{name}:0"] = values
    elif path.name.endswith(".weights.h5"):
        model.save_weights(path)
    elif path.suffix == ".safetensors":
        write_safetensors(path, arrays_of(model))
    else:
        model.save(path)
