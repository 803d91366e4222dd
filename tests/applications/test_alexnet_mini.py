import contextlib
import inspect

import keras
import numpy as np
import pytest
from keras import ops

from keras_tinyalex.applications import (
    AlexNetMini,
    decode_predictions,
    load_weights_into,
    preprocess_input,
    shipped,
)

pytestmark = pytest.mark.backend
# A thirty-second of the filters and units: the same network, but quick.
SMALL = {"width_multiplier": 1 / 32, "input_shape": (16, 16, 3), "num_classes": 3}


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype="uint8")


@contextlib.contextmanager
def channels_first():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)


def test_default_architecture():
    model = AlexNetMini()
    assert [layer.name for layer in model.layers] == [
        "image",
        "rescaling",
        "block1_conv",
        "block1_lrn",
        "block1_pool",
        "block2_conv",
        "block2_lrn",
        "block2_pool",
        "block3_conv1",
        "block3_conv2",
        "block3_conv3",
        "block3_pool",
        "flatten",
        "fc1",
        "fc1_dropout",
        "fc2",
        "fc2_dropout",
        "predictions",
    ]
    # 3x3 kernels and a bias: (9 * inputs + 1) * filters; dense: (inputs + 1) * units
    convolutions = 28 * 32 + 289 * 64 + 577 * 128 + 1153 * 128 + 1153 * 64
    dense = (8 * 8 * 64 + 1) * 1024 + 1025 * 512 + 513 * 20
    assert model.count_params() == convolutions + dense == 5_045_012
    assert model.name == "alexnet_mini"
    assert model.input_shape == (None, 64, 64, 3)
    assert model.output_shape == (None, 20)
    assert model.get_layer("fc1_dropout").rate == 0.5
    assert model.get_layer("block1_lrn").depth_radius == 5


def test_scores_are_probabilities_of_pixels():
    model = AlexNetMini(**SMALL)
    scores = model.predict(pixels(4, 16, 16, 3), verbose=0)
    assert scores.shape == (4, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_preprocessing_inside_or_outside_is_the_same():
    inside = AlexNetMini(**SMALL)
    outside = AlexNetMini(**SMALL, include_preprocessing=False)
    assert "rescaling" not in [layer.name for layer in outside.layers]
    outside.set_weights(inside.get_weights())
    x = pixels(4, 16, 16, 3)
    np.testing.assert_allclose(
        outside.predict(preprocess_input(x), verbose=0),
        inside.predict(x, verbose=0),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("normalization", "names", "kind"),
    [
        ("lrn", ["block1_lrn", "block2_lrn"], "LocalResponseNormalization"),
        ("batch", ["block1_bn", "block2_bn"], "BatchNormalization"),
        (None, [], None),
    ],
)
def test_normalization(normalization, names, kind):
    model = AlexNetMini(**SMALL, normalization=normalization)
    found = [layer for layer in model.layers if layer.name.endswith(("_lrn", "_bn"))]
    assert [layer.name for layer in found] == names
    assert {type(layer).__name__ for layer in found} == ({kind} if kind else set())


def test_width_multiplier_scales_filters_and_units():
    model = AlexNetMini(width_multiplier=0.3)
    conv = model.get_layer
    # 32 * 0.3 = 9.6, 64 * 0.3 = 19.2, 128 * 0.3 = 38.4, 1024 * 0.3 = 307.2
    assert conv("block1_conv").filters == 10
    assert conv("block2_conv").filters == 19
    assert conv("block3_conv1").filters == conv("block3_conv2").filters == 38
    assert conv("fc1").units == 307
    assert conv("fc2").units == 154
    assert conv("predictions").units == 20
    tiny = AlexNetMini(width_multiplier=1e-6, input_shape=(8, 8, 3))
    assert tiny.get_layer("block1_conv").filters == 1


def test_dropout_zero_keeps_the_layers():
    model = AlexNetMini(**SMALL, dropout=0)
    assert model.get_layer("fc1_dropout").rate == 0
    assert model.get_layer("fc2_dropout").rate == 0


@pytest.mark.parametrize(
    ("pooling", "shape"),
    [(None, (None, None, None, 64)), ("avg", (None, 64)), ("max", (None, 64))],
)
def test_without_top(pooling, shape):
    model = AlexNetMini(include_top=False, pooling=pooling)
    assert model.input_shape == (None, None, None, 3)
    assert model.output_shape == shape
    # 40 and 56 halved three times are 5 and 7
    y = model.predict(pixels(2, 40, 56, 3), verbose=0)
    assert y.shape == ((2, 5, 7, 64) if pooling is None else (2, 64))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="others compute channels first"
)
def test_channels_first_on_tensorflow_without_a_gpu(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    message = (
        r"channels last: call `keras\.config\.set_image_data_format\('channels_last"
    )
    with channels_first(), pytest.raises(ValueError, match=message):
        AlexNetMini(**{**SMALL, "input_shape": (3, 16, 16)})


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="needs a GPU on TensorFlow"
)
def test_channels_first_has_the_same_weights():
    last = AlexNetMini(**SMALL)
    with channels_first():
        first = AlexNetMini(**{**SMALL, "input_shape": (3, 16, 16)})
        assert AlexNetMini().input_shape == (None, 3, 64, 64)
        assert AlexNetMini(include_top=False).input_shape == (None, 3, None, None)
        assert first.get_layer("block1_lrn").data_format == "channels_first"
        batch = AlexNetMini(normalization="batch", include_top=False)
        assert batch.get_layer("block1_bn").axis == 1
    first.set_weights(last.get_weights())
    x = pixels(2, 16, 16, 3)
    np.testing.assert_allclose(
        first.predict(x.transpose(0, 3, 1, 2), verbose=0),
        last.predict(x, verbose=0),
        rtol=1e-4,
        atol=1e-6,
    )


def test_input_tensor():
    image = keras.Input((16, 16, 1))
    x = keras.layers.Conv2D(3, 1, name="to_colour")(image)
    arguments = {k: v for k, v in SMALL.items() if k != "input_shape"}
    model = AlexNetMini(**arguments, input_tensor=x)
    assert model.input_shape == (None, 16, 16, 1)
    assert "to_colour" in [layer.name for layer in model.layers]
    assert model.predict(pixels(2, 16, 16, 1), verbose=0).shape == (2, 3)


def test_input_tensor_keeps_its_layers_when_weights_are_loaded(tmp_path):
    trained = AlexNetMini(**SMALL)
    path = tmp_path / "trained.weights.h5"
    trained.save_weights(path)
    image = keras.Input((16, 16, 1))
    before = keras.layers.Conv2D(3, 1, name="to_colour")
    x = before(image)
    kernel = ops.convert_to_numpy(before.kernel)
    model = AlexNetMini(
        width_multiplier=1 / 32, num_classes=3, input_tensor=x, weights=path
    )
    np.testing.assert_array_equal(ops.convert_to_numpy(before.kernel), kernel)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model.get_layer("fc1").kernel),
        ops.convert_to_numpy(trained.get_layer("fc1").kernel),
    )


@pytest.mark.parametrize(
    ("policy", "classifier"),
    [
        ("mixed_float16", "float32"),
        ("mixed_bfloat16", "float32"),
        ("float64", "float64"),
    ],
)
def test_classifier_computes_in_float32_or_more(policy, classifier):
    keras.config.set_dtype_policy(policy)
    try:
        model = AlexNetMini(**SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("fc1").compute_dtype == policy.removeprefix("mixed_")
    assert model.get_layer("predictions").compute_dtype == classifier
    scores = model.predict(pixels(2, 16, 16, 3), verbose=0)
    if keras.backend.backend() != "jax":  # which has no float64 by default
        assert scores.dtype == classifier
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)


def test_training_tells_colours_apart():
    keras.utils.set_random_seed(0)
    model = AlexNetMini(
        width_multiplier=1 / 2, input_shape=(8, 8, 3), num_classes=3, dropout=0
    )
    model.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy")
    # one red, one green and one blue image; 30 batches of the three
    x = np.broadcast_to(255 * np.eye(3)[:, None, None, :], (3, 8, 8, 3))
    y = np.arange(3)
    batches = np.tile(x, (30, 1, 1, 1)), np.tile(y, 30)
    model.fit(*batches, batch_size=3, shuffle=False, verbose=0)
    assert model.predict(x, verbose=0).argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"include_top": "tiny_imagenet_20"}, "`include_top` must be True or False"),
        ({"include_top": np.zeros((1, 64, 64, 3))}, "`include_top` must be True or"),
        ({"include_preprocessing": "net"}, "`include_preprocessing` must be True or"),
        ({"num_classes": 0}, "`num_classes` must be a positive integer.*=0"),
        ({"num_classes": True}, "`num_classes` must be a positive integer.*=True"),
        ({"num_classes": 2.0}, "`num_classes` must be a positive integer.*=2.0"),
        ({"pooling": "mean"}, "`pooling` must be one of None, 'avg', 'max'.*='mean'"),
        (
            {"dropout": 1.0},
            "`dropout` must be a finite number of at least 0 and below 1.*=1.0",
        ),
        ({"dropout": "0.5"}, "`dropout` must be a finite number.*='0.5'"),
        ({"normalization": "layer"}, "must be one of 'lrn', 'batch', None.*='layer'"),
        ({"width_multiplier": 0}, "`width_multiplier` must be a finite.*=0"),
        ({"width_multiplier": float("inf")}, "`width_multiplier` must be.*=inf"),
        ({"weights": "imagenet"}, "`weights` must be None, one of .*='imagenet'"),
        ({"weights": "/no/such.h5"}, "path of an existing file.*='/no/such.h5'"),
        ({"weights": 3}, "path of an existing file.*weights='3'"),
        ({"input_shape": (64, 64)}, r"tuple of three integers.*=\(64, 64\)"),
        ({"input_shape": 64}, "tuple of three integers.*input_shape=64"),
        ({"input_shape": (1, 64, 64, 3)}, "without the batch axis"),
        ({"input_shape": (7, 64, 3)}, r"at least 8x8 pixels.*=\(7, 64, 3\)"),
        ({"input_shape": (64, 64, 0)}, r"number of channels.*=\(64, 64, 0\)"),
        ({"input_shape": (None, 64, 3)}, "known height and width when `include_top"),
        (
            {"include_top": False, "input_shape": (64, 64, None)},
            "known, positive number of channels",
        ),
        (
            {"input_tensor": np.zeros((1, 64, 64, 3))},
            "`input_tensor` must be a Keras tensor.*type ndarray",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AlexNetMini(**arguments)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("classes", "num_classes"),
        ("activation", "classifier_activation"),
        ("classifier", "classifier_activation"),
        ("input_size", "input_shape"),
        ("dropout_rate", "dropout"),
        ("weight", "weights"),
    ],
)
def test_a_misspelled_argument_names_the_right_one(wrong, right):
    with pytest.raises(
        TypeError, match=f"`{wrong}`: did you mean `{right}`.*{wrong}=10"
    ):
        AlexNetMini(**{wrong: 10})


def test_arguments_have_the_order_of_keras_applications():
    order = list(inspect.signature(keras.applications.VGG16).parameters)
    names = ["num_classes" if name == "classes" else name for name in order]
    assert list(inspect.signature(AlexNetMini).parameters)[:7] == names[:7]
    with pytest.raises(
        TypeError, match=r"no argument `pretrained`\. Its arguments are inc"
    ):
        AlexNetMini(pretrained=True)


def test_input_tensor_and_shape_must_agree():
    with pytest.raises(ValueError, match=r"must agree.*32, 32, 3.*=\(64, 64, 3\)"):
        AlexNetMini(input_tensor=keras.Input((32, 32, 3)), input_shape=(64, 64, 3))


def test_weights_need_softmax_or_logits(tmp_path):
    path = tmp_path / "trained.weights.h5"
    AlexNetMini(**SMALL).save_weights(path)
    with pytest.raises(ValueError, match=r"`classifier_activation` must be.*='relu'"):
        AlexNetMini(**SMALL, weights=path, classifier_activation="relu")
    logits = AlexNetMini(**SMALL, weights=path, classifier_activation=None)
    scores = AlexNetMini(**SMALL, weights=path).predict(pixels(2, 16, 16, 3), verbose=0)
    np.testing.assert_allclose(
        ops.softmax(logits.predict(pixels(2, 16, 16, 3), verbose=0)), scores, rtol=1e-5
    )


def test_images_of_another_size_are_refused():
    model = AlexNetMini()
    with pytest.raises(
        ValueError, match=r"expected shape=\(None, 64, 64, 3\).*\(2, 63, 63, 3\)"
    ):
        model(pixels(2, 63, 63, 3))


def test_another_number_of_classes_keeps_the_body(tmp_path):
    trained = AlexNetMini(**SMALL)
    path = tmp_path / "trained.weights.h5"
    trained.save_weights(path)
    with pytest.warns(UserWarning, match="for 3 classes and the model has 5.*new"):
        model = AlexNetMini(**{**SMALL, "num_classes": 5}, weights=path)
    for layer in ("block1_conv", "block3_conv3", "fc2"):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(model.get_layer(layer).kernel),
            ops.convert_to_numpy(trained.get_layer(layer).kernel),
        )
    assert model.get_layer("predictions").kernel.shape == (16, 5)
    with pytest.raises(ValueError, match=r"predictions/kernel has shape \(16, 3\)"):
        load_weights_into(model, path)


def test_weights_without_top(tmp_path):
    trained = AlexNetMini(**SMALL)
    path = tmp_path / "trained.weights.h5"
    trained.save_weights(path)
    body = AlexNetMini(include_top=False, width_multiplier=1 / 32, weights=path)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(body.get_layer("block3_conv3").kernel),
        ops.convert_to_numpy(trained.get_layer("block3_conv3").kernel),
    )
    body.save_weights(path)
    with pytest.warns(UserWarning, match="no 'fc1', 'fc2', 'predictions': the body"):
        model = AlexNetMini(**SMALL, weights=path)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model.get_layer("block3_conv3").kernel),
        ops.convert_to_numpy(trained.get_layer("block3_conv3").kernel),
    )
    with pytest.raises(
        ValueError, match=r"missing fc1/kernel, fc1/bias, fc2/kernel.* 2 more"
    ):
        load_weights_into(model, path)


def test_shipped_weights_fix_the_input_shape(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "_pretrained_folder", lambda: tmp_path)
    (tmp_path / "small.json").write_text('{"sha256": "0"}')
    (tmp_path / "small.h5").write_bytes(b"")
    monkeypatch.setattr(shipped, "weights_path", lambda name: tmp_path / "small.h5")
    with pytest.raises(ValueError, match=r"must be \(64, 64, 3\) when .*'small'"):
        AlexNetMini(weights="small", input_shape=(32, 32, 3))


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_preprocess_input(dtype):
    x = np.array([[0, 51, 255]], dtype)
    y = preprocess_input(x)
    assert isinstance(y, np.ndarray)
    assert y.dtype == "float32"
    np.testing.assert_allclose(y, [[0, 0.2, 1]], rtol=1e-7)
    assert x.tolist() == [[0, 51, 255]], "changed in place"


def test_preprocess_input_of_tensors():
    y = preprocess_input(ops.convert_to_tensor([[0, 51, 255]], dtype="uint8"))
    assert ops.is_tensor(y)
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    np.testing.assert_allclose(ops.convert_to_numpy(y), [[0, 0.2, 1]], rtol=1e-6)


def test_preprocess_input_refuses_unknown_formats():
    with pytest.raises(ValueError, match=r"`data_format` must be.*='NHWC'"):
        preprocess_input(np.zeros(3), data_format="NHWC")


def test_decode_predictions_of_a_subset():
    preds = np.array([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]])
    names = ["n01443537", "n01629819", "my_cat"]
    assert decode_predictions(preds, top=2, class_names=names) == [
        [("n01629819", "European fire salamander", 0.6), ("my_cat", "my_cat", 0.3)],
        [("n01443537", "goldfish", 0.5), ("my_cat", "my_cat", 0.3)],
    ]
    # more than there are: all of them
    assert len(decode_predictions(preds, top=9, class_names=names)[0]) == 3


def test_decode_predictions_of_shipped_weights():
    rows = decode_predictions(np.eye(20)[:1], 1, class_names="tiny_imagenet_20")
    assert rows == [[("n01443537", "goldfish", 1.0)]]


def test_decode_predictions_of_all_classes():
    preds = np.eye(200)[[0, 199]]
    rows = decode_predictions(ops.convert_to_tensor(preds, dtype="float32"), top=1)
    # the first and the last of the sorted wnids
    assert rows == [
        [("n01443537", "goldfish", 1.0)],
        [("n12267677", "acorn", 1.0)],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preds": np.zeros(3)}, r"shape \(batch, classes\).*\(3,\)"),
        ({"preds": np.zeros((1, 3)), "top": 0}, "positive integer.*top=0"),
        ({"preds": np.zeros((1, 3)), "top": 1.5}, "positive integer.*top=1.5"),
        ({"preds": np.zeros((1, 3))}, r"unless there are 200 of them.*\(1, 3\)"),
        (
            {"preds": np.zeros((1, 3)), "class_names": ["a", "b"]},
            "each of the 3 columns.*2 names",
        ),
        (
            {"preds": np.zeros((1, 3)), "class_names": "tiny_imagenet_20"},
            "each of the 3 columns.*20 names",
        ),
        (
            {"preds": np.zeros((1, 3)), "class_names": "abc"},
            r"sequence with one name.*shipped \['tiny_imagenet_20.*class_names='abc'",
        ),
    ],
)
def test_decode_predictions_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        decode_predictions(**arguments)
