import keras
import numpy as np
import pytest

from keras_tinyalex.gradcam import gradcam
from keras_tinyalex.visualization import plot_filters, plot_gradcam

NAMES = ["goldfish, Carassius auratus", "European fire salamander", "sea slug"]
IMAGES = np.zeros((3, 8, 8, 3), "uint8")


def classifier(channels=3):
    return keras.Sequential(
        [
            keras.Input((8, 8, channels)),
            keras.layers.Conv2D(2, 3, activation="relu", name="first"),
            keras.layers.Conv2D(2, 3, activation="relu", name="second"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def test_filters_share_one_scale_around_gray(assert_readable):
    model = classifier()
    kernel = np.zeros((3, 3, 3, 2))
    kernel[0, 1] = [[-2, 0], [1, 0], [2, 0.5]]  # row, column; channels by filters
    model.get_layer("first").set_weights([kernel, np.zeros(2)])

    figure = plot_filters(model)

    assert [axes.get_title() for axes in figure.axes] == ["0", "1"]
    kernels = [axes.images[0].get_array() for axes in figure.axes]
    # 255 * (0.5 + weight / 4), rounded.
    assert kernels[0][0, 1].tolist() == [0, 191, 255]
    assert kernels[1][0, 1].tolist() == [128, 128, 159]
    assert (kernels[0][1:] == 128).all()
    assert {axes.images[0].get_interpolation() for axes in figure.axes} == {"nearest"}
    assert_readable(figure)


def test_filters_and_heatmaps_of_a_nested_body():
    model, inputs = classifier(), keras.Input((8, 8, 3))
    nested = keras.Sequential([inputs, keras.layers.Rescaling(1.0), model])

    for layer in (None, "first", f"{model.name}/first"):
        figures = plot_filters(model, "first"), plot_filters(nested, layer)
        shown = [[a.images[0].get_array() for a in f.axes] for f in figures]
        np.testing.assert_array_equal(*shown)
    heat = plot_gradcam(nested, IMAGES + 1, NAMES).axes[1].images[1].get_array()
    np.testing.assert_allclose(heat, gradcam(model, IMAGES + 1)[0], atol=1e-6)


def test_filters_of_zeros_and_of_gray_images():
    model = classifier(channels=1)
    model.get_layer("first").set_weights([np.zeros((3, 3, 1, 2)), np.zeros(2)])

    figure = plot_filters(model, columns=1)

    assert (figure.axes[0].images[0].get_array() == 128).all()
    first, second = (axes.get_position() for axes in figure.axes)
    assert first.x0 == second.x0
    assert first.y0 > second.y1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layer": "second"},
            r"over 1 or 3 channels.*layer='second' with a kernel of shape \(3, 3, 2, 2",
        ),
        ({"layer": "flat"}, r"layer='flat' with .*shape \(0,\)"),
        ({"layer": "no"}, r"Its layers are .*layer='no'"),
        ({"columns": 0}, r"`columns` .*columns=0"),
    ],
)
def test_wrong_filters(arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_filters(classifier(), **arguments)


def test_gradcam_shows_each_image_and_its_heatmap(assert_readable):
    model, images = classifier(), np.random.default_rng(0).random((3, 8, 8, 3))
    predicted = model.predict(images, verbose=0).argmax(axis=-1)

    figure = plot_gradcam(model, images, NAMES, columns=2)

    assert [axes.get_title() for axes in figure.axes[1::2]] == ["", "", ""]
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes[::2]]
    assert titles == [NAMES[k].split(",")[0] for k in predicted]
    heat = gradcam(model, images)
    for position, axes in enumerate(figure.axes[1::2]):
        gray, overlay = axes.images
        expected = np.rint(255 * images[position].mean(axis=-1))
        np.testing.assert_array_equal(gray.get_array()[..., 0], expected)
        np.testing.assert_array_equal(overlay.get_array(), heat[position])
        assert overlay.get_extent() == gray.get_extent()
        assert overlay.get_interpolation() == "nearest"
    assert_readable(figure)


def test_gradcam_of_chosen_classes_and_layer():
    model, images = classifier(), np.random.default_rng(0).random((2, 8, 8, 3))

    figure = plot_gradcam(model, images, NAMES, classes=2, layer="first")

    assert [axes.get_title() for axes in figure.axes[::2]] == ["sea slug"] * 2
    assert figure.axes[1].images[1].get_array().shape == (6, 6)


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (
            NAMES[:1],
            2,
            r"`classes` must be positions in `class_names`.*classes from 2 to 2",
        ),
        (NAMES, [0], r"`classes` must be .*or 3 of them, one per image.*classes=\[0\]"),
    ],
)
def test_wrong_classes_of_gradcam(names, classes, message):
    with pytest.raises(ValueError, match=message):
        plot_gradcam(classifier(), IMAGES, names, classes=classes)
