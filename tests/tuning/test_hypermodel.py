"""HyperAlexNetMini with any tuner: what it builds on, and what its `fit` takes."""

import dataclasses
import random

import keras
import keras_tuner
import numpy as np
import pytest

from keras_tinyalex import building, recipes
from keras_tinyalex.tuning import SPACES, HyperAlexNetMini

pytestmark = pytest.mark.backend

NARROW = recipes.Recipe("narrow", width_multiplier=1 / 32, epochs=1, batch_size=4)
SHAPE = (16, 16, 3)


def drawn(seed):
    """Random values of the whole space, with the narrowest network."""
    chosen = random.Random(seed)
    hp = keras_tuner.HyperParameters()
    hp.values = {
        h.name: chosen.choice(h.choices) if h.choices else chosen.uniform(h.low, h.high)
        for h in SPACES["all"]
    }
    hp.values["width_multiplier"] = 0.5
    return hp


def images(count=12, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


LABELS = np.arange(12) % 3


def hypermodel(**arguments):
    """A hypermodel whose space leaves batches and images as they are."""
    return HyperAlexNetMini(
        **{
            "input_shape": SHAPE,
            "num_classes": 3,
            "space": "augmentation",
            "recipe": NARROW,
            **arguments,
        }
    )


def fit(*data, made=None, **options):
    """One fit with the default values; returns the model and the history."""
    made = made or hypermodel()
    hp = keras_tuner.HyperParameters()
    model = made.build(hp)
    return model, made.fit(hp, model, *data, verbose=0, **options)


def test_an_adapted_normalization_keeps_its_statistics_in_each_trial():
    normalization = keras.layers.Normalization()
    normalization.adapt(np.full((4, *SHAPE), 127.0) + [[[[-3]]], [[[3]]]] * 2)
    augment = keras.Sequential([keras.Input(SHAPE), normalization])
    made = HyperAlexNetMini(SHAPE, 3, augmentation_model=augment)
    pixels = np.full((1, *SHAPE), 127.0)
    for seed in range(20):
        model = made.build(drawn(seed))
        front = keras.Model(model.input, model.get_layer("rescaling").input)
        np.testing.assert_allclose(front.predict(pixels, verbose=0), 0, atol=1e-4)
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(normalization.mean).ravel(), 127, rtol=1e-6
        )


def stem(branches=False):
    """A pretrained layer before the network: a kernel of 7, frozen."""
    image = keras.Input((16, 16, 1))
    layer = keras.layers.Conv2D(3, 1, kernel_initializer="ones", name="stem")
    x = layer(image)
    layer.set_weights([np.full((1, 1, 1, 3), 7.0), np.zeros(3)])
    layer.trainable = False
    if branches:
        x = keras.layers.Add()([x, keras.layers.Concatenate()([image] * 3)])
        x = keras.layers.BatchNormalization(scale=False, name="stem_bn")(x)
    return x, layer


def test_layers_before_the_input_tensor_keep_their_weights():
    tensor, layer = stem()
    made = HyperAlexNetMini(num_classes=3, input_tensor=tensor)
    for seed in range(5):
        model = made.build(drawn(seed))
        assert model.get_layer("stem") is layer
        assert model.input_shape == (None, 16, 16, 1)
        np.testing.assert_array_equal(layer.get_weights()[0].ravel(), [7, 7, 7])


def test_a_recipe_at_half_resolution_trains_with_a_branched_stem():
    # Batch normalization without a scale, and layers on two ways, before the network.
    tensor, layer = stem(branches=True)
    recipe = dataclasses.replace(
        recipes.BEST.over(2),
        width_multiplier=1 / 32,
        optimizer="sgd",
        learning_rate=0.01,
    )
    made = hypermodel(input_shape=None, input_tensor=tensor, recipe=recipe)
    _, history = fit(images(shape=(16, 16, 1)), LABELS, made=made)
    assert np.isfinite(history.history["loss"]).all()
    np.testing.assert_array_equal(layer.get_weights()[0].ravel(), [7, 7, 7])


def test_initialization_leaves_the_layers_of_the_caller():
    image = keras.Input(SHAPE)
    before = keras.layers.Dense(3, kernel_initializer="ones", name="before")
    recipe = recipes.Recipe("he", width_multiplier=1 / 32, initialization="whitening")
    model = building.build_model(recipe, 0, num_classes=3, input_tensor=before(image))
    building.initialize(model, recipe, images(), 0)
    np.testing.assert_array_equal(before.get_weights()[0], np.ones((3, 3)))
    building.compile_model(model, recipe, 12)
    assert not hasattr(before.call, "func"), "the call of another's layer is replaced"


class Batched(keras.utils.PyDataset):
    """Arrays in batches of four."""

    def __init__(self, *arrays):
        super().__init__()
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays[0]) // 4

    def __getitem__(self, index):
        return tuple(array[4 * index : 4 * index + 4] for array in self.arrays)


def dataset(*arrays):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays).batch(4)


def endless(*arrays):
    while True:
        yield from (Batched(*arrays)[index] for index in range(3))


@pytest.fixture(scope="module")
def expected():
    """The model that arrays of images and class numbers train."""
    return fit(images(), LABELS)[0]


def assert_same_training(model, expected):
    for found, right in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-6)


@pytest.mark.parametrize(
    "data",
    [
        lambda x, y: (x, y[:, None]),
        lambda x, y: (x, np.eye(3)[y]),
        lambda x, y: (x.astype("float32"), y.astype("float32")),
        lambda x, y: (list(x), list(y)),
        lambda x, y: (keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)),
        lambda x, y: (dataset(x, y),),
        lambda x, y: (Batched(x, np.eye(3)[y]),),
        lambda x, y: ([Batched(x, y)[i] for i in range(3)].__iter__(), None, None),
    ],
    ids=[
        "column",
        "one-hot",
        "float",
        "lists",
        "tensors",
        "tf.data",
        "PyDataset",
        "iterator",
    ],
)
def test_each_form_of_data_trains_like_arrays(data, expected):
    given = data(images(), LABELS)
    steps = 3 if len(given) == 3 else None
    model, _ = fit(*given[:2], steps_per_epoch=steps)
    assert_same_training(model, expected)


def test_a_generator_is_read_once_for_all_trials(expected):
    made = hypermodel()
    batches, validation = endless(images(), LABELS), endless(images(), LABELS)
    for _ in range(2):
        model, history = fit(
            batches,
            made=made,
            steps_per_epoch=3,
            validation_data=validation,
            validation_steps=1,
        )
        assert_same_training(model, expected)
        assert "val_accuracy" in history.history


def test_validation_split_holds_out_a_part_of_each_class(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "keras_tinyalex.tuning.hypermodel.make_batches",
        lambda recipe, train, val, seed: seen.extend([train, val]) or 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        fit(images(), LABELS, validation_split=0.25)
    train, val = seen
    assert np.bincount(train.labels).tolist() == [3, 3, 3]
    assert np.bincount(val.labels).tolist() == [1, 1, 1]


def test_shuffle_false_keeps_the_order():
    x, y = images(4), LABELS[:4]
    whole = recipes.Recipe("w", width_multiplier=1 / 32, batch_size=2, dropout=0.0)
    expected = hypermodel(recipe=whole).build(keras_tuner.HyperParameters())
    for part in (slice(0, 2), slice(2, 4)):
        expected.train_on_batch(x[part], y[part])
    model, _ = fit(x, y, made=hypermodel(recipe=whole), epochs=1, shuffle=False)
    assert_same_training(model, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"sample_weight": np.where(LABELS == 1, 0, 2.0)},
        {"class_weight": {0: 2.0, 1: 0.0, 2: 2.0}},
        {"class_weight": {1: 0.0}, "sample_weight": np.full(12, 2.0)},
    ],
    ids=["sample", "class", "both"],
)
def test_weights_count_in_the_loss(options):
    # One batch: the loss is the sum of weight * loss, divided by the sum of weights
    # on each backend, as Keras has it.
    whole = recipes.Recipe("whole", width_multiplier=1 / 32, batch_size=12, dropout=0.0)
    x, y = images(), LABELS
    expected = hypermodel(recipe=whole).build(keras_tuner.HyperParameters())
    weights = np.where(y == 1, 0, 2.0).astype("float32")
    loss = expected.train_on_batch(x, y, sample_weight=weights)[0]
    model, history = fit(x, y, made=hypermodel(recipe=whole), epochs=1, **options)
    assert history.history["loss"] == [pytest.approx(float(loss), rel=1e-4)]
    assert_same_training(model, expected)


def test_weights_are_mixed_like_labels():
    weighted = recipes.Recipe("m", width_multiplier=1 / 32, mixing="mixup", epochs=1)
    seen = []
    x, y = images(), LABELS
    made = hypermodel(recipe=weighted, space="optimizer")
    hp = keras_tuner.HyperParameters()
    model = made.build(hp)
    model.fit = lambda batches, **options: seen.extend(batches) or 1
    made.fit(hp, model, x, y, class_weight={0: 5.0, 1: 5.0, 2: 2.0})
    (_, labels, weights), *_ = [
        [keras.ops.convert_to_numpy(part) for part in batch] for batch in seen
    ]
    np.testing.assert_allclose(weights, labels @ [5, 5, 2], rtol=1e-5)
    assert 2 <= weights.min() < weights.max() <= 5


REFUSED = {
    "`validation_split` must": {"validation_split": 1.5},
    "`batch_size` must be left out": {"batch_size": 32},
    "`no_such` must be an argument of": {"no_such": 1},
    "`y` must be the labels": {"y": None},
    r"`y` must be 12 class numbers.*shape \(11,\)": {"y": LABELS[:11]},
    "`y` must be class numbers from 0 to 2.*0 to 3": {"y": LABELS + (LABELS == 2)},
    "`y` must be class numbers or one-hot": {"y": np.full((12, 3), 1 / 3)},
    r"`y` must be 12 class numbers.*dtype <U": {"y": LABELS.astype(str)},
    r"`x` must be images of the model's shape, \(N, 16, 16, 3\)": {
        "x": images(shape=(8, 16, 3))
    },
    "`x` must be pixels from 0 to 255": {"x": images() / 255},
    "`x` must be an array or batches": {"x": 3, "y": None},
    "`x` of batches must hold the labels": {"x": Batched(images(), LABELS)},
    "`steps_per_epoch` must be the number of batches": {
        "x": endless(images(), LABELS),
        "y": None,
    },
    "`validation_data` must be": {"validation_data": (images(),)},
    "`class_weight` must be a dict": {"class_weight": {7: 1.0}},
    "`sample_weight` must be 12 numbers": {"sample_weight": np.ones(3)},
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_arguments_of_fit(message):
    arguments = {"x": images(), "y": LABELS, **REFUSED[message]}
    made, hp = hypermodel(), keras_tuner.HyperParameters()
    with pytest.raises(keras_tuner.errors.FatalError, match=message) as error:
        made.fit(hp, made.build(hp), **arguments)
    assert isinstance(error.value, ValueError | TypeError)


def test_a_wrong_argument_ends_a_search_of_one_trial(tmp_path):
    tuner = keras_tuner.RandomSearch(
        hypermodel(), "val_accuracy", max_trials=1, directory=tmp_path
    )
    with pytest.raises(ValueError, match="`y` must be 12 class numbers"):
        tuner.search(images(), LABELS[:5], validation_split=0.25, verbose=0)


def test_a_search_of_a_dataset_ends_with_a_result(tmp_path):
    tuner = keras_tuner.RandomSearch(
        hypermodel(), "val_accuracy", max_trials=1, directory=tmp_path
    )
    batches = Batched(images(), np.eye(3)[LABELS])
    tuner.search(batches, validation_data=batches, epochs=1, verbose=0)
    trials = tuner.oracle.trials.values()
    assert [trial.status for trial in trials] == ["COMPLETED"]
    assert all(0 <= trial.score <= 1 for trial in trials)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classes": 10}, TypeError, "did you mean `num_classes`.*classes=10"),
        ({"include_top": (64, 64, 3)}, ValueError, "`include_top` must be True or"),
        ({"num_classes": 0}, ValueError, "`num_classes` must be a positive integer"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        HyperAlexNetMini(**arguments)
