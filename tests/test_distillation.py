"""Labels from a teacher: their arithmetic, what is refused, and trainings with them."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image

from keras_tinyalex import recipes, train
from keras_tinyalex.applications.model_files import save_model
from keras_tinyalex.datasets.batches import Batches, LabelledArrays
from keras_tinyalex.distillation import with_teacher
from keras_tinyalex.tuning import search

pytestmark = pytest.mark.backend

NAMES = ("ant", "bee", "cat")
SMALL = dataclasses.replace(
    recipes.DISTILLED,
    name="small",
    width_multiplier=1 / 16,
    epochs=1,
    half_size_epochs=0,
    dtype="float32",
)


def save_constant(path, names, probabilities, size=8, activation="softmax"):
    """A model that gives the same probabilities to every image."""
    dense = keras.layers.Dense(len(names), activation=activation)
    model = keras.Sequential([keras.Input((size, size, 3)), keras.layers.Flatten()])
    model.add(dense)
    kernel = np.zeros((3 * size**2, len(names)))
    dense.set_weights([kernel, np.log(probabilities)])
    save_model(model, path, names)
    return path


@pytest.fixture
def data():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    files = tuple(f"{number}.png" for number in range(4))
    return LabelledArrays(images, np.array([0, 1, 2, 1]), NAMES, files)


def test_targets_are_the_label_and_the_mean_of_the_teachers(data, tmp_path):
    one = save_constant(tmp_path / "one.keras", NAMES, [0.5, 0.3, 0.2])
    # It knows a fourth class, and has them in another order: 0.2, 0.2 and 0.4 of 0.8.
    names = ("dog", "cat", "ant", "bee")
    two = save_constant(tmp_path / "two.h5", names, [0.2, 0.4, 0.2, 0.2])
    taught = with_teacher(data, [one, two], weight=0.6)
    mean = 0.6 * np.array([0.5 + 0.25, 0.3 + 0.25, 0.2 + 0.5]) / 2
    expected = mean + 0.4 * np.eye(3)[[0, 1, 2, 1]]
    np.testing.assert_allclose(taught.targets, expected, rtol=1e-5)
    assert taught.targets.dtype == np.float32
    np.testing.assert_allclose(taught.targets.sum(axis=1), 1, rtol=1e-6)
    assert data.targets is None


def test_batches_have_the_targets_of_their_images(data):
    targets = np.arange(12, dtype=np.float32).reshape(4, 3)
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] + data.images
    taught = dataclasses.replace(data, images=images, targets=targets)
    for x, y in Batches(taught, 3, seed=0, one_hot=True):
        np.testing.assert_array_equal(y, targets[x[:, 0, 0, 0]])
    for x, y in Batches(taught, 3, seed=0):
        np.testing.assert_array_equal(y, data.labels[x[:, 0, 0, 0]])


@pytest.mark.parametrize(
    ("names", "options", "problem"),
    [
        (("ant", "bee"), {}, r"does not know 1 of them, such as 'cat'"),
        (NAMES, {"size": 16}, "of 8x8 pixels and 3 channels, .* not 16x16 and 3"),
        (NAMES, {"activation": None}, "be models that end in a softmax"),
    ],
)
def test_other_models_are_refused(data, tmp_path, names, options, problem):
    probabilities = np.full(len(names), 1 / len(names))
    path = save_constant(tmp_path / "other.keras", names, probabilities, **options)
    with pytest.raises(ValueError, match=f"`teacher` must .*{problem}"):
        with_teacher(data, [path], 0.5)


def test_a_model_without_class_names_is_refused(data, tmp_path):
    path = tmp_path / "nameless.keras"
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]).save(path)
    with pytest.raises(ValueError, match="has no class names"):
        with_teacher(data, [path], 0.5)


def test_a_student_learns_what_its_teacher_says(tmp_path):
    """Of images that tell nothing: each class has the probability it was given."""
    source = tmp_path / "data"
    generator = np.random.default_rng(1)
    for name in ("ant", "bee"):
        (source / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(source / name / f"{number}.png")
    teacher = save_constant(tmp_path / "t.keras", ("ant", "bee"), [0.9, 0.1], size=16)
    recipe = dataclasses.replace(SMALL, epochs=15, batch_size=8, teacher_weight=1.0)
    options = {"data": source, "image_size": 16, "progress": False}
    run = train(recipe, teacher=teacher, output=tmp_path / "run", **options)
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    said = run.model.predict(images, verbose=0).mean(axis=0)
    np.testing.assert_allclose(said, [0.9, 0.1], atol=0.1)

    config = json.loads((tmp_path / "run" / "config.json").read_text("utf-8"))
    assert len(config["teacher_sha256"]) == 1
    again = train(recipe, teacher=[teacher], output=tmp_path / "run", **options)
    assert again.already_finished
    with pytest.raises(ValueError, match="holds another run"):
        train(recipe, teacher=[teacher] * 2, output=tmp_path / "run", **options)


def test_the_folder_of_a_run_with_a_wrong_teacher_is_free(official_folder, tmp_path):
    recipe = dataclasses.replace(SMALL, width_multiplier=1 / 32)
    options = {"data": official_folder, "output": tmp_path / "run", "progress": False}
    names = ("n01443537", "n01629819", "n01641577")
    wrong = save_constant(tmp_path / "wrong.keras", names[:2], [0.5, 0.5], size=64)
    right = save_constant(tmp_path / "right.keras", names, [0.5, 0.3, 0.2], size=64)
    with pytest.raises(ValueError, match="does not know 1 of them"):
        train(recipe, teacher=wrong, **options)
    assert train(recipe, teacher=right, **options).metrics["epochs"] == 1
    with pytest.raises(ValueError, match="holds another run"):
        train(recipe, teacher=wrong, **options)


def test_a_recipe_and_its_teacher_come_together(tmp_path):
    with pytest.raises(ValueError, match="`teacher` must be one or more trained"):
        train("distilled", output=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="`teacher` must be None, since the recipe"):
        train("best", teacher="tiny_imagenet_20", output=tmp_path / "run")
    with pytest.raises(ValueError, match="must be one model or more"):
        train("distilled", teacher=[], output=tmp_path / "run")
    with pytest.raises(ValueError, match="`teacher` must be one or more trained"):
        search(recipe="distilled", output=tmp_path / "search", progress=False)
    assert not list(tmp_path.iterdir())
