"""The body of a fine-tuned model: beside another head, or within another model."""

import io
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from model_helpers import arrays_of, make_model, write_safetensors

from keras_tinyalex.applications import load_weights_into

pytestmark = pytest.mark.backend

BODY = {"include_top": False, "pooling": "avg"}


def beside(body):
    """The model of the page on fine-tuning."""
    x = layers.Dropout(0.3)(body.output)
    return keras.Model(body.input, layers.Dense(4, "softmax")(x))


def within(body):
    image = keras.Input((16, 16, 3))
    return keras.Model(image, layers.Dense(4)(body(image)))


def in_a_row(body):
    return keras.Sequential(
        [keras.Input((16, 16, 3)), layers.RandomFlip(), body, layers.Dense(4)]
    )


def within_twice(body):
    return keras.Sequential([in_a_row(body), layers.Dense(2)])


class Subclassed(keras.Model):
    """A model that has the body as an attribute."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.head = layers.Dense(4)

    def call(self, inputs):
        return self.head(self.body(inputs))

    def get_config(self):
        return {}


def subclassed(body):
    model = Subclassed(body)
    model(np.zeros((1, 16, 16, 3), "float32"))
    return model


def save(model, path):
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)


def assert_body(model, body):
    found, expected = arrays_of(model), arrays_of(body)
    assert len(expected) == 10
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
@pytest.mark.parametrize("make", [beside, within, in_a_row, within_twice, subclassed])
def test_the_body_of_a_fine_tuned_model(tmp_path, make, suffix):
    body = make_model(**BODY)
    path = tmp_path / f"tuned{suffix}"
    save(make(body), path)
    assert_body(make_model(**BODY, weights=path), body)
    message = "have no 'fc1', 'fc2', 'predictions': the body is loaded, and the model's"
    with pytest.warns(UserWarning, match=message) as warned:
        model = make_model(num_classes=7, weights=path)
    assert_body(model, body)
    assert model.output_shape == (None, 7)
    assert warned[0].filename.endswith("model_helpers.py")
    with pytest.warns(UserWarning, match=message) as warned:
        load_weights_into(model, path, new_head=True)
    assert warned[0].filename == __file__


@pytest.mark.parametrize("prefix", ["", "alexnet_mini/", "model/body/"])
def test_the_body_in_safetensors(tmp_path, prefix):
    body = make_model(**BODY)
    arrays = {f"{prefix}{name}": values for name, values in arrays_of(body).items()}
    arrays["head/kernel"] = np.full((2, 3), np.nan, "float32")  # never read
    write_safetensors(tmp_path / "tuned.safetensors", arrays)
    assert_body(make_model(**BODY, weights=tmp_path / "tuned.safetensors"), body)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_a_new_classifier_on_the_dense_layers(tmp_path, suffix):
    whole = make_model()
    x = whole.get_layer("fc2_dropout").output
    path = tmp_path / f"tuned{suffix}"
    save(keras.Model(whole.input, layers.Dense(9, name="mine")(x)), path)
    message = "have no 'predictions': the body is loaded, and the model's are new"
    with pytest.warns(UserWarning, match=message):
        model = make_model(num_classes=9, weights=path)
    found, expected = arrays_of(model), arrays_of(whole)
    for name in ("block3_conv3/kernel", "fc1/kernel", "fc2/bias"):
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_two_bodies_are_refused(tmp_path, suffix):
    image = keras.Input((16, 16, 3))
    bodies = [make_model(**BODY, name=name) for name in ("left", "right")]
    x = layers.Concatenate()([body(image) for body in bodies])
    path = tmp_path / f"two{suffix}"
    save(keras.Model(image, layers.Dense(4)(x)), path)
    message = "must be of one AlexNetMini, but .* are several. Load .*get_layer"
    with pytest.raises(ValueError, match=message):
        make_model(**BODY, weights=path)


@pytest.mark.parametrize("make", [beside, within])
def test_a_body_with_other_arguments_is_refused(tmp_path, make):
    path = tmp_path / "tuned.keras"
    make(make_model(**BODY, normalization="batch")).save(path)
    with pytest.raises(
        ValueError, match=r"unexpected block1_bn/.*with the arguments that"
    ):
        make_model(**BODY, weights=path)
    make(make_model(**BODY, width_multiplier=1 / 16)).save(path)
    with pytest.raises(
        ValueError, match=r"block1_conv/kernel has shape \(3, 3, 3, 2\)"
    ):
        make_model(**BODY, weights=path)


def test_a_gap_in_the_body_or_in_the_head_is_refused(tmp_path):
    arrays = arrays_of(make_model())
    for name in ("block2_conv/kernel", "fc1/kernel", "predictions/bias"):
        left = {n: values for n, values in arrays.items() if n != name}
        write_safetensors(tmp_path / "gap.safetensors", left)
        with pytest.raises(ValueError, match=f"missing {name}"):
            make_model(weights=tmp_path / "gap.safetensors")
    left = {n: values for n, values in arrays.items() if not n.startswith("fc1/")}
    write_safetensors(tmp_path / "gap.safetensors", left)
    with pytest.raises(ValueError, match="missing fc1/kernel, fc1/bias"):
        make_model(weights=tmp_path / "gap.safetensors")


def test_a_file_of_another_network_is_refused(tmp_path):
    other = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    for suffix in (".keras", ".h5", ".weights.h5"):
        path = tmp_path / f"other{suffix}"
        save(other, path)
        with pytest.raises(ValueError, match="missing block1_conv/kernel"):
            make_model(**BODY, weights=path)


def test_a_link_beside_the_body_is_refused(tmp_path):
    path = tmp_path / "tuned.keras"
    within(make_model(**BODY)).save(path)
    with zipfile.ZipFile(path) as archive:
        stream = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(stream, "r+") as file:
        file["layers/extra"] = h5py.ExternalLink("/etc/hostname", "/")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", stream.getvalue())
    with pytest.raises(ValueError, match=r"/layers/extra is a link"):
        make_model(**BODY, weights=path)
