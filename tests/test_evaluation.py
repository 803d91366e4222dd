import dataclasses
import json
import math

import keras
import numpy as np
import pytest

from keras_tinyalex.datasets.tiny_imagenet import load_dataset
from keras_tinyalex.evaluation import evaluate, wilson_interval

pytestmark = pytest.mark.backend

# Five images of four classes; the true labels are 0, 1, 2, 0, 1.
PROBABILITIES = np.array(
    [
        [0.70, 0.10, 0.10, 0.10],  # correct
        [0.60, 0.20, 0.10, 0.10],  # 1 predicted as 0
        [0.05, 0.05, 0.80, 0.10],  # correct
        [0.25, 0.25, 0.25, 0.25],  # a tie: the lowest label, 0, which is correct
        [0.10, 0.20, 0.30, 0.40],  # 1 predicted as 3
    ],
    "float32",
)
LABELS = np.array([0, 1, 2, 0, 1])
ONE_HOT = np.eye(4)[LABELS]


def identity(*shape, activation="linear"):
    """Builds a model whose outputs are its flattened inputs."""
    inputs = keras.Input(shape)
    outputs = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Activation(activation)(outputs))


def top_row(width, data_format="channels_last"):
    """Builds a model whose outputs are the top row of its two-row gray images."""
    if data_format == "channels_last":
        inputs = keras.Input((2, width, 1))
        return keras.Model(inputs, inputs[:, 0, :, 0])
    inputs = keras.Input((1, 2, width))
    return keras.Model(inputs, inputs[:, 0, 0, :])


def test_numbers_of_five_images():
    result = evaluate(identity(4), (PROBABILITIES, LABELS))

    assert result.n == 5
    assert result.top1 == 3 / 5
    assert result.top5 == 1.0  # there are only four classes
    logs = [math.log(p) for p in (0.7, 0.2, 0.8, 0.25, 0.2)]
    assert result.loss == pytest.approx(-sum(logs) / 5, rel=1e-6)
    np.testing.assert_array_equal(result.labels, LABELS)
    np.testing.assert_array_equal(result.predictions, [0, 0, 2, 0, 3])
    np.testing.assert_allclose(result.confidences, [0.7, 0.6, 0.8, 0.25, 0.4])
    # Five different bins, so the error is the mean of |correct - confidence|.
    assert result.ece == pytest.approx((0.3 + 0.6 + 0.2 + 0.75 + 0.4) / 5)
    assert result.interval == wilson_interval(3, 5)


def test_confusion_has_true_labels_in_rows_and_predictions_in_columns():
    result = evaluate(identity(4), (PROBABILITIES, LABELS))

    expected = [[2, 0, 0, 0], [1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(result.confusion, expected)
    assert result.confusion.dtype.kind == "i"


def test_per_class_is_in_label_order_and_leaves_empty_classes_out():
    names = ["wolf", "cat", "emu", "bee"]
    result = evaluate(identity(4), (PROBABILITIES, LABELS), class_names=names)

    assert list(result.per_class.items()) == [("wolf", 1.0), ("cat", 0.0), ("emu", 1.0)]
    assert result.class_names == ("wolf", "cat", "emu", "bee")


def test_as_dict_survives_json():
    result = evaluate(identity(4), (PROBABILITIES, LABELS))
    low, high = result.interval

    assert json.loads(json.dumps(result.as_dict())) == {
        "top1": 0.6,
        "top5": 1.0,
        "loss": result.loss,
        "n": 5,
        "ece": result.ece,
        "interval": [low, high],
        "confidence_correct": pytest.approx((0.7 + 0.8 + 0.25) / 3),
        "confidence_wrong": pytest.approx((0.6 + 0.4) / 2),
        "per_class": {"0": 1.0, "1": 0.0, "2": 1.0},
    }


def test_evaluation_is_frozen_and_has_a_short_repr():
    result = evaluate(identity(4), (PROBABILITIES, LABELS))

    with pytest.raises(dataclasses.FrozenInstanceError):
        result.top1 = 1.0
    assert repr(result).startswith("Evaluation(top1=0.6, top5=1.0, loss=")
    assert "confusion" not in repr(result)


def test_logits_get_a_softmax():
    logits = np.array([[2.0, 0.0, -1.0], [-3.0, 5.0, 1.0]], "float32")
    result = evaluate(identity(3), (logits, np.array([0, 2])))

    powers = np.exp(logits.astype("float64"))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    expected = -np.log(probabilities[[0, 1], [0, 2]]).mean()
    assert result.loss == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(result.confidences, probabilities.max(axis=1), rtol=1e-6)


def test_large_logits_do_not_overflow_and_the_loss_is_clipped():
    logits = np.array([[1000.0, -1000.0]], "float32")

    result = evaluate(identity(2), (logits, np.array([1])))

    assert result.loss == pytest.approx(-math.log(1e-7))


def test_one_logit_row_makes_all_rows_logits():
    outputs = np.array([[0.5, 0.5], [0.4, 0.4]], "float32")

    result = evaluate(identity(2), (outputs, np.array([0, 1])))

    np.testing.assert_allclose(result.confidences, [0.5, 0.5])


def test_agrees_with_keras_on_random_data():
    rng = np.random.default_rng(0)
    # Multiples of 1/4, for many ties.
    logits = rng.integers(0, 8, (500, 12)).astype("float32") / 4
    labels = rng.integers(0, 12, 500)
    model = identity(12, activation="softmax")
    result = evaluate(model, (logits, labels), batch_size=64)

    outputs = model.predict(logits, verbose=0)
    top1 = keras.metrics.SparseCategoricalAccuracy()
    top5 = keras.metrics.SparseTopKCategoricalAccuracy(k=5)
    for metric in (top1, top5):
        metric.update_state(labels, outputs)
    assert result.top1 == pytest.approx(float(top1.result()), abs=1e-6)
    assert result.top5 == pytest.approx(float(top5.result()), abs=1e-6)
    losses = keras.losses.sparse_categorical_crossentropy(labels, outputs)
    mean = keras.ops.convert_to_numpy(losses).mean()
    assert result.loss == pytest.approx(float(mean), rel=1e-5)
    # The ties matter here: without them some labels would fall out of the top 5.
    of_true_label = outputs[np.arange(500), labels][:, None]
    strict = (outputs >= of_true_label).sum(axis=1) <= 5
    assert strict.mean() < result.top5


@pytest.mark.parametrize("batch_size", [1, 2, 5, 128])
def test_batch_size_does_not_change_the_numbers(batch_size):
    result = evaluate(identity(4), (PROBABILITIES, LABELS), batch_size=batch_size)

    whole = evaluate(identity(4), (PROBABILITIES, LABELS))
    assert result.as_dict() == whole.as_dict()


@pytest.mark.parametrize(
    "labels",
    [
        LABELS[:, None].astype("uint8"),  # as of `keras.datasets.cifar10`
        ONE_HOT,
        ONE_HOT.astype(bool),
        keras.ops.convert_to_tensor(ONE_HOT, "float32"),
        keras.ops.convert_to_tensor(LABELS[:, None], "int32"),
    ],
)
def test_labels_in_a_column_or_one_hot(labels):
    whole = evaluate(identity(4), (PROBABILITIES, LABELS))

    generator = ((PROBABILITIES[i : i + 3], labels[i : i + 3]) for i in (0, 3))
    for data in (PROBABILITIES, labels), generator:
        result = evaluate(identity(4), data, batch_size=2)
        assert result.as_dict() == whole.as_dict()
        np.testing.assert_array_equal(result.labels, LABELS)


@pytest.mark.parametrize("configured", ["channels_first", "channels_last"])
def test_data_format_is_that_of_the_model(configured):
    image = np.array([[0.9, 0.1], [0.2, 0.8]], "float32")
    keras.config.set_image_data_format(configured)
    try:
        for data_format, axis in (("channels_last", -1), ("channels_first", 0)):
            data = np.expand_dims(image, axis)[None], np.array([1])
            tta = evaluate(top_row(2, data_format), data, tta=True)
            # As in the test of `tta` above.
            assert tta.loss == pytest.approx(-math.log((0.1 + 0.9) / 2), rel=1e-6)
    finally:
        keras.config.set_image_data_format("channels_last")


class Pairs(keras.utils.PyDataset):
    class_names = ("ant", "bee", "cat", "dog")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = slice(3 * index, 3 * index + 3)
        return PROBABILITIES[part], LABELS[part]


def test_batches_give_the_numbers_of_the_arrays():
    whole = evaluate(identity(4), (PROBABILITIES, LABELS), Pairs.class_names)
    batches = [(PROBABILITIES[:3], LABELS[:3]), (PROBABILITIES[3:], LABELS[3:])]

    from_list = evaluate(identity(4), batches, Pairs.class_names)
    from_dataset = evaluate(identity(4), Pairs())

    assert from_list.as_dict() == whole.as_dict()
    assert from_dataset.as_dict() == whole.as_dict()
    np.testing.assert_array_equal(from_dataset.predictions, whole.predictions)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs TensorFlow")
def test_tf_data_gives_the_numbers_of_the_arrays():
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((PROBABILITIES, LABELS)).batch(2)

    result = evaluate(identity(4), dataset)

    whole = evaluate(identity(4), (PROBABILITIES, LABELS))
    assert result.as_dict() == whole.as_dict()
    with pytest.raises(ValueError, match=r"finite iterable .*\(remove `.repeat\(\)`\)"):
        evaluate(identity(4), dataset.repeat())


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_tta_averages_image_and_horizontal_mirror(data_format):
    image = np.array([[0.9, 0.1], [0.2, 0.8]], "float32")
    axis = -1 if data_format == "channels_last" else 0
    x, y = np.expand_dims(image, axis)[None], np.array([1])
    model = top_row(2, data_format)

    plain = evaluate(model, (x, y), data_format=data_format)
    tta = evaluate(model, (x, y), tta=True, data_format=data_format)

    # The mirror gives (0.1, 0.9); a vertical one would give (0.2, 0.8).
    assert plain.loss == pytest.approx(-math.log(0.1), rel=1e-6)
    assert tta.loss == pytest.approx(-math.log((0.1 + 0.9) / 2), rel=1e-6)


def test_tta_averages_probabilities_not_logits():
    x = np.array([[8.0, 0.0, 0.0]] * 2, "float32")[None, :, :, None]

    result = evaluate(
        top_row(3), (x, np.array([1])), tta=True, data_format="channels_last"
    )

    # 1 / (e^8 + 2) in both views; the mean logits (4, 0, 4) give 1 / (2 e^4 + 1).
    assert result.loss == pytest.approx(math.log(math.exp(8) + 2), rel=1e-5)


def test_uint8_images_and_weights_stay_as_they_are():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    weights = model.get_weights()
    x = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), "uint8")
    before = x.copy()

    result = evaluate(model, (x, np.zeros(7, "uint8")), tta=True)

    assert result.confusion[0].sum() == 7
    np.testing.assert_array_equal(x, before)
    for was, now in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_evaluate_prints_nothing(capfd):
    evaluate(identity(4), (PROBABILITIES, LABELS))

    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            (PROBABILITIES, LABELS[:4]),
            r"as many labels.*x\.shape=\(5, 4\), y\.shape=\(4,",
        ),
        (
            (PROBABILITIES, np.eye(5, dtype=int)),
            r"one-hot labels of 4 columns.*y\.shape=\(5, 5\)",
        ),
        ((PROBABILITIES, PROBABILITIES), r"one true class.*argmax.*y\[0\]=\[0\.69"),
        ((PROBABILITIES, ONE_HOT[:, ::-1] + ONE_HOT), r"one true class per image"),
        ((PROBABILITIES, LABELS[:, None] / 1), r"integer labels.*y\.dtype=float64"),
        ((PROBABILITIES, np.full(5, np.nan)), r"integer labels.*y\.dtype=float64"),
        ((PROBABILITIES, LABELS.astype(str)), r"integer labels.*y\.dtype=<U"),
        ((PROBABILITIES, LABELS[:, None, None]), r"\(N, 1\).*y\.shape=\(5, 1, 1\)"),
        ([(PROBABILITIES[0], LABELS[0])], r"`\.batch\(128\)`.*y\.shape=\(\)"),
        (((PROBABILITIES, LABELS),) * 2, r"what `load_data` returns"),
        ((PROBABILITIES, LABELS, np.ones(5)), r"leave sample weights out"),
        ([{"x": 0, "y": 0}], r"pairs \(x, y\).*batch of .*dict'> of 2 parts"),
        ((PROBABILITIES, LABELS / 2), r"integer labels.*y\.dtype=float64"),
        ((PROBABILITIES, LABELS + 2), r"labels from 0 to 3, .*labels from 2 to 4"),
        ((PROBABILITIES, LABELS - 1), r"labels from 0 to 3, .*labels from -1 to 1"),
        ((PROBABILITIES[:0], LABELS[:0]), r"`data` must hold at least one image"),
        ([], r"`data` must hold at least one image"),
        ((PROBABILITIES[:, :3], LABELS), r"input shape \(None, 4\).*x\.shape=\(5, 3\)"),
        (
            [(PROBABILITIES, LABELS, LABELS)],
            r"yield pairs \(x, y\).*leave sample weights out.*tuple'> of 3 parts",
        ),
        ([PROBABILITIES, LABELS], r"yield pairs \(x, y\).*batch of .*ndarray"),
        (7, r"a tuple \(x, y\) of arrays, .*Received: data=7"),
    ],
)
def test_wrong_data(data, message):
    with pytest.raises(ValueError, match=message):
        evaluate(identity(4), data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_names": ["a", "b"]}, r"must be 4 unique names.*2 names, 2 unique"),
        ({"class_names": list("abca")}, r"must be 4 unique names.*4 names, 3 unique"),
        ({"batch_size": 0}, r"`batch_size` must be a positive.*batch_size=0"),
        ({"batch_size": 2.5}, r"`batch_size` must be a positive.*batch_size=2\.5"),
        ({"data_format": "NCHW"}, r"`data_format` must be .*data_format='NCHW'"),
        ({"classes": 20}, r"`classes` must be None unless `data` is .*classes=20"),
        ({"tta": True}, r"images of rank 4.*tta=True, x\.shape=\(5, 4\)"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(identity(4), (PROBABILITIES, LABELS), **arguments)


def test_infinite_dataset_is_refused():
    class Endless(Pairs):
        num_batches = None

    with pytest.raises(ValueError, match=r"a finite iterable of \(x, y\) batches"):
        evaluate(identity(4), Endless())


def test_nan_outputs_are_refused():
    outputs = PROBABILITIES.copy()
    outputs[1, 2] = np.nan
    outputs[4, 0] = np.inf

    with pytest.raises(ValueError, match=r"finite outputs.*infinity for 2 of 5 images"):
        evaluate(identity(4), (outputs, LABELS))


def test_model_must_have_one_output_of_rank_two():
    inputs = keras.Input((4,))
    two_outputs = keras.Model(inputs, [inputs, inputs])
    feature_map = keras.Model(inputs, keras.layers.Reshape((2, 2))(inputs))

    with pytest.raises(ValueError, match=r"one output of shape.*output of .*list"):
        evaluate(two_outputs, (PROBABILITIES, LABELS))
    with pytest.raises(ValueError, match=r"one output of shape.*output of \(5, 2, 2\)"):
        evaluate(feature_map, (PROBABILITIES, LABELS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of gray images; the val image of class i has the value 80 * i."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path_factory.mktemp("data")
    for label, name in enumerate(["n01443537", "n01629819", "n01882714"]):
        for split, count in (("train_images", 2), ("val_images", label + 1)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((64, 64, 3), 80 * label, "uint8")
                image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def gray_classifier(*values):
    """Builds a model that predicts the class whose gray value is nearest."""
    inputs = keras.Input((64, 64, 3))
    mean = keras.layers.GlobalAveragePooling2D(data_format="channels_last")(inputs)
    # Least squares to v: -(x - v)^2 = 2 x v - v^2 - x^2, and x^2 is common to all.
    dense = keras.layers.Dense(len(values))
    outputs = dense(mean[:, :1])
    gray = np.array(values, "float32")
    dense.set_weights([2 * gray[None], -(gray**2)])
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("as_type", [str, lambda path: path])
def test_source_gives_its_val_images_in_label_order(folder, as_type):
    # The gray 160 of n01882714 is nearer to 150 than to 255: predicted as n01629819.
    model = gray_classifier(0, 150, 255)

    result = evaluate(model, as_type(folder), data_format="channels_last")

    assert result.class_names == ("n01443537", "n01629819", "n01882714")
    assert result.n == 1 + 2 + 3
    np.testing.assert_array_equal(result.confusion, [[1, 0, 0], [0, 2, 0], [0, 3, 0]])


def test_class_names_select_from_the_source(folder):
    names = ["n01443537", "n01882714"]

    result = evaluate(
        gray_classifier(0, 160), folder, names, data_format="channels_last"
    )

    assert result.per_class == {"n01443537": 1.0, "n01882714": 1.0}
    assert result.n == 1 + 3


def test_classes_select_and_class_names_name(folder):
    result = evaluate(
        gray_classifier(0, 80),
        folder,
        ["gold", "newt"],
        classes=2,
        data_format="channels_last",
    )

    assert result.per_class == {"gold": 1.0, "newt": 1.0}


def test_unsorted_class_names_of_a_source_are_refused(folder):
    with pytest.raises(ValueError, match=r"label order of `data`.*n01443537"):
        evaluate(gray_classifier(160, 0), folder, ["n01882714", "n01443537"])


def test_source_with_other_classes_than_the_model(folder):
    with pytest.raises(ValueError, match=r"2 unique names.*`classes`.*3 names"):
        evaluate(gray_classifier(0, 80), folder, data_format="channels_last")


def test_of_a_source_without_val_images_the_held_out_are_measured(official_folder):
    """One image of eight of each class; all are of one color a class."""
    layers = (keras.layers.GlobalAveragePooling2D(), keras.layers.Softmax())
    model = keras.Sequential([keras.Input((64, 64, 3)), *layers])
    result = evaluate(model, official_folder / "train")
    assert (result.n, result.top1) == (3, 1.0)
    everything = load_dataset(official_folder / "train", "all")
    assert evaluate(model, everything).n == 24


def test_missing_source(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluate(identity(4), tmp_path / "nowhere")


@pytest.mark.parametrize("model", ["model.keras", None])
def test_model_must_be_a_model(model):
    with pytest.raises(ValueError, match=rf"load_model.*Received: model={model!r}"):
        evaluate(model, (np.zeros((1, 8, 8, 3), "uint8"), np.zeros(1, int)))


@pytest.mark.parametrize("shape", [(96, 80, 3), (40, 32, 1)])
def test_a_source_is_read_as_the_model_takes_it(official_folder, shape):
    layers = (keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3))
    model = keras.Sequential([keras.Input(shape), *layers])
    assert evaluate(model, official_folder).n == 6


def test_a_source_needs_a_model_of_images(official_folder):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match=r"take images of shape .*\(None, 5\)"):
        evaluate(model, official_folder)
