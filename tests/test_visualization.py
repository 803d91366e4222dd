import itertools
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from keras_tinyalex import visualization
from keras_tinyalex.evaluation import evaluate, wilson_interval
from keras_tinyalex.gradcam import gradcam
from keras_tinyalex.visualization import (
    plot_augmentation,
    plot_calibration,
    plot_class_accuracy,
    plot_confusion_matrix,
    plot_filters,
    plot_gradcam,
    plot_history,
    plot_predictions,
    plot_samples,
)

NAMES = ["goldfish, Carassius auratus", "European fire salamander", "sea slug"]
LONG_NAMES = [
    "European fire salamander, Salamandra salamandra",
    "a name of very many short words that goes on and on for ever",
    "W" * 60,
    "WWWWWWWW MMMMMMMM WWWWWWWW MMMMMMMM",
    r"no $\frac$ math",  # as math it would be an error
]


def coloured(labels, dtype="uint8"):
    """Makes images whose value tells their position: 0, 1, 2, ..."""
    values = np.arange(len(labels), dtype=dtype).reshape(-1, 1, 1, 1)
    return np.broadcast_to(values, (len(labels), 8, 8, 3))


def position(axes):
    """Returns which image of `coloured()` the axes show."""
    pixels = axes.images[0].get_array()
    assert pixels.min() == pixels.max()
    return int(pixels.max())


def texts(figure):
    """Draws the figure and returns the box in dots of each text that one sees."""
    FigureCanvasAgg(figure).draw()
    # Ticks beyond the ends of an axis keep their labels, but are not drawn.
    hidden = [
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval())
        <= tick.get_loc()
        <= max(axis.get_view_interval())
        or not label.get_visible()
    ]
    found = [
        text
        for text in figure.findobj(Text)
        if text.get_text().strip() and text not in hidden
    ]
    return [(text.get_text(), text.get_window_extent()) for text in found]


def assert_readable(figure):
    boxes = texts(figure)
    assert boxes
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in boxes:
        assert 0 <= box.x0 < box.x1 <= width, text
        assert 0 <= box.y0 < box.y1 <= height, text
    for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other_box), (one, other)


def test_samples_show_one_image_of_each_class():
    labels = np.array([2, 0, 0, 1, 2, 2])

    figure = plot_samples(coloured(labels), labels, NAMES)

    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes] == [
        "goldfish",
        "European fire\nsalamander",
        "sea slug",
    ]
    assert [labels[position(axes)] for axes in figure.axes] == [0, 1, 2]
    assert {axes.images[0].get_interpolation() for axes in figure.axes} == {"nearest"}


def test_samples_per_class_are_different_images_under_one_title():
    labels = np.array([0, 1] * 10 + [2])

    figure = plot_samples(coloured(labels), labels, NAMES, per_class=3)

    shown = [position(axes) for axes in figure.axes]
    assert labels[shown].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert len(set(shown)) == 7
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "goldfish",
        "",
        "",
        "European fire\nsalamander",
        "",
        "",
        "sea slug",
    ]
    left = [axes.get_position().x0 for axes in figure.axes]
    assert left[0] == left[1] == left[2] < left[3]


def test_samples_wrap_after_columns_and_skip_classes_without_images():
    labels = np.array([0, 1, 3, 4])
    figure = plot_samples(coloured(labels), labels, list("abcde"), columns=3)

    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "d", "e"]
    rows = [round(axes.get_position().y0, 3) for axes in figure.axes]
    assert rows[0] == rows[1] == rows[2] > rows[3]


def test_seed_chooses_the_samples():
    labels = np.zeros(100, "int64")

    def chosen(seed):
        figure = plot_samples(coloured(labels), labels, ["a"], seed=seed, per_class=5)
        return [position(axes) for axes in figure.axes]

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)


def test_pictures_are_enlarged_by_whole_dots():
    labels = np.arange(20)
    images = np.zeros((20, 64, 64, 3), "uint8")
    names = [f"class {label}" for label in labels]

    for figure, scale in (
        (plot_samples(images, labels, names), 3),
        (plot_predictions(images, labels, labels, names), 4),
    ):
        for axes in figure.axes:
            box = axes.get_window_extent()
            assert box.width == pytest.approx(64 * scale, abs=1e-6)
            assert box.height == pytest.approx(64 * scale, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [("uint8", 51), ("float32", 51.0), ("float32", 0.2), ("float64", 0.2)],
)
def test_images_of_each_kind_show_the_same_colour(dtype, value, channels):
    images = np.zeros((2, 4, 4, channels), dtype)
    images[:, 0] = value  # 51 of 255, and 0.2 of 1

    figure = plot_samples(images, [0, 1], ["a", "b"])

    pixels = figure.axes[0].images[0].get_array()
    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 4, 3)
    assert pixels[0].tolist() == [[51, 51, 51]] * 4
    assert pixels[1:].max() == 0


def test_synonyms_stay_where_the_first_is_not_unique():
    names = ["crane", "crane, machine", "sea slug, nudibranch"]
    figure = plot_samples(coloured([0, 1, 2]), [0, 1, 2], names)

    shown = [axes.get_title() for axes in figure.axes]
    assert shown == ["crane", "crane, machine", "sea slug"]


def test_long_names_do_not_overlap():
    labels = np.arange(5)
    images = coloured(labels)

    assert_readable(plot_samples(images, labels, LONG_NAMES))
    assert_readable(plot_predictions(images, labels, labels[::-1], LONG_NAMES))


def test_long_names_are_cut():
    figure = plot_predictions(coloured([0]), [0], [2], LONG_NAMES)

    real, predicted = figure.axes[0].get_title(loc="left").split("\n")
    assert real == "R: European fire salamander"
    assert predicted.startswith("P: WWWWW")
    assert predicted.endswith("W…")


def test_predictions_are_titled_real_and_predicted():
    labels, predictions = np.array([0, 1, 2]), np.array([0, 2, 2])

    figure = plot_predictions(
        coloured(labels), labels, predictions, NAMES, confidences=[0.5, 0.25, 0.994]
    )

    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "R: goldfish\nP: goldfish",
        "R: European fire salamander\nP: sea slug",
        "R: sea slug\nP: sea slug",
    ]
    assert [axes.texts[0].get_text() for axes in figure.axes] == [
        "✓ 50%",
        "✗ 25%",
        "✓ 99%",
    ]
    right, wrong = visualization.RIGHT_COLOR, visualization.WRONG_COLOR
    for axes, color in zip(figure.axes, (right, wrong, right), strict=True):
        title = next(text for text in axes.findobj(Text) if "R: " in text.get_text())
        assert title.get_color() == color
        assert axes.spines["left"].get_edgecolor() == to_rgba(color)
    assert {axes.images[0].get_interpolation() for axes in figure.axes} == {"nearest"}


def test_predictions_choose_n_images_by_seed():
    labels = np.arange(50) % 3
    predictions = np.zeros(50, "int64")

    def chosen(n, seed):
        figure = plot_predictions(
            coloured(labels), labels, predictions, NAMES, n=n, seed=seed
        )
        for axes in figure.axes:
            name = NAMES[labels[position(axes)]].split(",")[0]
            assert axes.get_title(loc="left") == f"R: {name}\nP: goldfish"
        return [position(axes) for axes in figure.axes]

    assert len(set(chosen(20, seed=0))) == 20
    assert chosen(20, seed=0) == chosen(20, seed=0)
    assert chosen(20, seed=0) != chosen(20, seed=1)
    assert chosen(60, seed=0) == list(range(50))


def test_history_draws_the_four_curves():
    history = {
        "accuracy": [0.1, 0.5, 0.9],
        "val_accuracy": [0.2, 0.4, 0.3],
        "loss": [3.0, 2.0, 1.0],
        "val_loss": [3.5, 2.25, 2.5],
        "learning_rate": [0.1, 0.1, 0.1],
    }

    figure = plot_history(history)

    for axes, key in zip(figure.axes, ("accuracy", "loss"), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        assert set(lines) == {"train", "val", "best"}
        for part, values in (("train", history[key]), ("val", history[f"val_{key}"])):
            np.testing.assert_array_equal(lines[part].get_xdata(), [1, 2, 3])
            np.testing.assert_array_equal(lines[part].get_ydata(), values)
    accuracy, loss = figure.axes
    assert accuracy.get_title(loc="left") == "Accuracy"
    assert accuracy.get_title(loc="right") == "best val 0.400 (epoch 2)"
    assert {text.get_text() for text in accuracy.texts} == {"train 0.900", "val 0.300"}
    assert loss.get_title(loc="left") == "Loss"
    assert loss.get_title(loc="right") == "best val 2.250 (epoch 2)"
    assert {text.get_text() for text in loss.texts} == {"train 1.000", "val 2.500"}
    assert accuracy.get_xlabel() == loss.get_xlabel() == "epoch"


def test_history_from_csv_text_and_from_fit():
    figure = plot_history({"epoch": ["0", "1"], "loss": ["2.5", "1.5"]})
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), [2.5, 1.5])
    assert figure.axes[0].lines[:] == []

    fitted = SimpleNamespace(history={"loss": [2.5, 1.5]})
    figure = plot_history(fitted)
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_ydata(), [2.5, 1.5])


def test_history_of_a_diverged_training():
    figure = plot_history({"val_loss": [2.0, 3.0, np.nan], "loss": [np.nan] * 3})

    assert figure.axes[1].get_title(loc="right") == "best val 2.000 (epoch 1)"
    assert figure.axes[1].texts[:] == []  # there is no last value


@pytest.mark.parametrize("epochs", [1, 35])
def test_history_labels_do_not_overlap(epochs):
    curve = np.linspace(0.1, 0.5, epochs)
    history = {"accuracy": curve, "val_accuracy": curve + 0.001, "loss": curve}

    assert_readable(plot_history(history))


def test_confusion_matrix_in_percent_of_the_real_class():
    figure = plot_confusion_matrix([[3, 1, 0], [0, 8, 2], [0, 0, 0]], NAMES)

    axes = figure.axes[0]
    expected = [[75, 25, 0], [0, 80, 20], [0, 0, 0]]
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert axes.images[0].get_interpolation() == "nearest"
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert len(cells) == 9
    assert cells[(1, 0)] == "25"  # column 1, row 0
    assert cells[(2, 1)] == "20"
    names = ["goldfish", "European fire salamander", "sea slug"]
    assert [text.get_text() for text in axes.get_xticklabels()] == names
    assert [text.get_text() for text in axes.get_yticklabels()] == names
    assert axes.get_xlabel() == "predicted"
    assert axes.get_ylabel() == "real"
    assert axes.get_title() == "78.6% of 14 images right"  # 11 of 14


def test_confusion_matrix_in_images():
    figure = plot_confusion_matrix([[3, 1], [0, 8]], ["a", "b"], normalize=False)

    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "1", "0", "8"]


@pytest.mark.parametrize(
    ("size", "numbers", "names"), [(30, 900, 30), (31, 0, 31), (60, 0, 60), (200, 0, 0)]
)
def test_large_confusion_matrices_drop_numbers_then_names(size, numbers, names):
    figure = plot_confusion_matrix(np.eye(size), [f"class {i}" for i in range(size)])

    axes = figure.axes[0]
    assert len(axes.texts) == numbers
    assert len(axes.get_xticklabels()) == len(axes.get_yticklabels()) == names
    assert axes.images[0].get_array().shape == (size, size)
    assert max(figure.get_size_inches()) < 16


def test_confusion_matrix_has_room_for_long_names():
    names = [f"{i} {LONG_NAMES[i % 5]}" for i in range(20)]
    figure = plot_confusion_matrix(np.eye(20), names)
    FigureCanvasAgg(figure).draw()

    axes = figure.axes[0]
    inside = [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.title]
    width, height = figure.get_size_inches() * figure.dpi
    for text in inside:
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
    # Cells of at least 0.3 inches keep the numbers apart.
    assert axes.get_window_extent().width / figure.dpi / 20 > 0.3


IMAGES, LABELS = np.zeros((3, 8, 8, 3), "uint8"), np.array([0, 1, 2])


@pytest.mark.parametrize(
    ("images", "labels", "arguments", "message"),
    [
        (
            IMAGES[0],
            LABELS,
            {},
            r"`images` must have the shape.*images\.shape=\(8, 8, 3",
        ),
        (
            IMAGES[..., :2],
            LABELS,
            {},
            r"`images` must have.*images\.shape=\(3, 8, 8, 2",
        ),
        (IMAGES[:0], LABELS[:0], {}, r"`images` must have.*N > 0\. .*\(0, 8, 8, 3\)"),
        (IMAGES.astype("int32"), LABELS, {}, r"uint8 or float.*images\.dtype=int32"),
        (IMAGES - 1.0, LABELS, {}, r"0 to 255; undo .*from -1\.0 to -1\.0"),
        (IMAGES + 256.0, LABELS, {}, r"0 to 255; undo .*from 256\.0 to 256\.0"),
        (IMAGES + np.nan, LABELS, {}, r"0 to 255; undo .*from nan to nan"),
        (IMAGES, LABELS[:2], {}, r"`labels` must be one integer.*labels\.shape=\(2,\)"),
        (
            IMAGES,
            LABELS / 1,
            {},
            r"`labels` must be one integer.*labels\.dtype=float64",
        ),
        (IMAGES, LABELS + 1, {}, r"`labels` must be .*from 0 to 2.*labels from 1 to 3"),
        (
            IMAGES,
            LABELS - 1,
            {},
            r"`labels` must be .*from 0 to 2.*labels from -1 to 1",
        ),
        (IMAGES, LABELS, {"columns": 0}, r"`columns` must be a positive.*columns=0"),
        (IMAGES, LABELS, {"per_class": 1.5}, r"`per_class` must be.*per_class=1\.5"),
    ],
)
def test_wrong_samples(images, labels, arguments, message):
    with pytest.raises(ValueError, match=message):
        plot_samples(images, labels, NAMES, **arguments)


def test_wrong_predictions():
    with pytest.raises(ValueError, match=r"`predictions` must be .*from 3 to 3"):
        plot_predictions(IMAGES, LABELS, [3, 3, 3], NAMES)
    with pytest.raises(ValueError, match=r"confidences\.shape=\(2,\) for 3 images"):
        plot_predictions(IMAGES, LABELS, LABELS, NAMES, confidences=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"`n` must be a positive.*n=0"):
        plot_predictions(IMAGES, LABELS, LABELS, NAMES, n=0)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({}, r"`history` must map .*keys \[\]"),
        ({"lr": [1.0]}, r"`history` must map .*keys \['lr'\]"),
        ({"loss": []}, r"lengths \{'loss': 0\}"),
        ({"loss": [1.0], "val_loss": [1, 2]}, r"lengths \{'loss': 1, 'val_loss': 2\}"),
    ],
)
def test_wrong_history(history, message):
    with pytest.raises(ValueError, match=message):
        plot_history(history)


@pytest.mark.parametrize(
    ("confusion", "names", "message"),
    [
        (np.eye(3), ["a", "b"], r"confusion\.shape=\(3, 3\), 2 names"),
        (np.ones((2, 3)), ["a", "b"], r"confusion\.shape=\(2, 3\), 2 names"),
        (-np.eye(2), ["a", "b"], r"counts from 0.*smallest count -1\.0"),
        (np.zeros((0, 0)), [], r"confusion\.shape=\(0, 0\), 0 names"),
    ],
)
def test_wrong_confusion_matrix(confusion, names, message):
    with pytest.raises(ValueError, match=message):
        plot_confusion_matrix(confusion, names)


def measured(probabilities, labels):
    """Evaluates a model that gives these probabilities."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    return evaluate(model, (np.array(probabilities, "float32"), np.array(labels)))


# Classes 0 to 2 have 1 of 2, 2 of 2 and no images right.
EVALUATION = measured(
    [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.9, 0.0], [0.3, 0.6, 0.1]], [0, 0, 1, 1]
)


def test_class_accuracy_is_sorted_and_has_intervals():
    figure = plot_class_accuracy(EVALUATION, NAMES)

    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["European fire salamander", "goldfish"]  # the best on top
    assert axes.get_ylim() == (1.5, -0.5)
    assert [bar.get_width() for bar in axes.patches[:2]] == [1.0, 0.5]
    assert [text.get_text() for text in axes.texts] == ["100%", "50%"]
    intervals = [line[:, 0] for line in axes.collections[0].get_segments()]
    expected = [wilson_interval(2, 2), wilson_interval(1, 2)]
    np.testing.assert_allclose(intervals, expected)
    assert axes.lines[0].get_xdata() == [0.75, 0.75]
    assert axes.get_title() == "Accuracy by class; of all 4 images 75.0%"
    assert_readable(figure)
    labels = plot_class_accuracy(EVALUATION).axes[0].get_yticklabels()
    assert [text.get_text() for text in labels] == ["1", "0"]


@pytest.mark.parametrize(("size", "names"), [(1, 1), (60, 60), (200, 0)])
def test_class_accuracy_of_many_classes(size, names):
    every = SimpleNamespace(
        confusion=np.eye(size, dtype=int), class_names=[f"c{i}" for i in range(size)]
    )
    figure = plot_class_accuracy(every)

    axes = figure.axes[0]
    assert len(axes.get_yticklabels()) == len(axes.texts) == names
    assert figure.get_size_inches()[1] < 16
    assert_readable(figure)


def test_calibration_by_hand():
    # Halves of confidence: nothing up to 0.5; 0.8, 0.6, 0.9, 0.6 above, of
    # which 3 of 4 are right, at a mean confidence of 0.725.
    figure = plot_calibration(EVALUATION, bins=2)

    above, below = figure.axes
    title = "Expected calibration error 0.025 (2 bins, 4 images)"
    assert above.get_title() == title
    heights = [bar.get_height() for bar in above.patches]
    np.testing.assert_array_equal(heights, [np.nan, 0.75])
    assert [bar.get_height() for bar in below.patches] == [0, 4]
    gaps = above.collections[0].get_segments()
    np.testing.assert_allclose(gaps[-1], [[0.725, 0.75], [0.725, 0.725]], rtol=1e-6)
    assert_readable(figure)


def test_calibration_title_is_the_error_of_the_evaluation():
    title = plot_calibration(EVALUATION).axes[0].get_title()

    assert (
        title == f"Expected calibration error {EVALUATION.ece:.3f} (15 bins, 4 images)"
    )


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


def test_filters_have_one_scale_about_grey():
    model = classifier()
    kernel = np.zeros((3, 3, 3, 2))
    kernel[0, 1] = [[-2, 0], [1, 0], [2, 0.5]]  # row, column; channels by filters
    model.get_layer("first").set_weights([kernel, np.zeros(2)])

    figure = plot_filters(model)

    assert [axes.get_title() for axes in figure.axes] == ["0", "1"]
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    # 255 * (0.5 + weight / 4), rounded.
    assert pictures[0][0, 1].tolist() == [0, 191, 255]
    assert pictures[1][0, 1].tolist() == [128, 128, 159]
    assert (pictures[0][1:] == 128).all()
    assert {axes.images[0].get_interpolation() for axes in figure.axes} == {"nearest"}
    assert_readable(figure)


def test_filters_of_zeros_and_of_grey_images():
    model = classifier(channels=1)
    model.get_layer("first").set_weights([np.zeros((3, 3, 1, 2)), np.zeros(2)])

    figure = plot_filters(model, columns=1)

    assert (figure.axes[0].images[0].get_array() == 128).all()
    first, second = (axes.get_position() for axes in figure.axes)
    assert first.x0 == second.x0
    assert first.y0 > second.y1


def test_gradcam_shows_each_image_and_its_heatmap():
    model, images = classifier(), np.random.default_rng(0).random((3, 8, 8, 3))
    predicted = model.predict(images, verbose=0).argmax(axis=-1)

    figure = plot_gradcam(model, images, NAMES, columns=2)

    assert [axes.get_title() for axes in figure.axes[1::2]] == ["", "", ""]
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes[::2]]
    assert titles == [NAMES[k].split(",")[0] for k in predicted]
    heat = gradcam(model, images)
    for position, axes in enumerate(figure.axes[1::2]):
        grey, overlay = axes.images
        expected = np.rint(255 * images[position].mean(axis=-1))
        np.testing.assert_array_equal(grey.get_array()[..., 0], expected)
        np.testing.assert_array_equal(overlay.get_array(), heat[position])
        assert overlay.get_extent() == grey.get_extent()
        assert overlay.get_interpolation() == "nearest"
    assert_readable(figure)


def test_gradcam_of_chosen_classes_and_layer():
    model, images = classifier(), np.random.default_rng(0).random((2, 8, 8, 3))

    figure = plot_gradcam(model, images, NAMES, classes=2, layer="first")

    assert [axes.get_title() for axes in figure.axes[::2]] == ["sea slug"] * 2
    assert figure.axes[1].images[1].get_array().shape == (6, 6)


def test_augmentation_shows_what_the_function_returns():
    def brighter(images, generator):
        assert images.dtype == np.uint8
        return images + generator.integers(1, 100, (len(images), 1, 1, 1), "uint8")

    images = np.array([0.0, 0.2]).reshape(2, 1, 1, 1) * np.ones((2, 8, 8, 3))
    figure = plot_augmentation(images, brighter, variants=3, seed=5)

    generator = np.random.default_rng(5)
    added = np.array([generator.integers(1, 100, 2, "uint8") for _ in range(3)])
    expected = [[0, *added[:, 0]], [51, *(51 + added[:, 1])]]
    assert [position(axes) for axes in figure.axes] == np.ravel(expected).tolist()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", "1", "2", "3", "", "", "", ""]
    assert_readable(figure)


def test_augmentation_by_name():
    images = np.zeros((1, 64, 64, 3), "uint8")
    figure = plot_augmentation(images, "crop_flip_cutout", variants=1)

    image, variant = (axes.images[0].get_array() for axes in figure.axes)
    assert image.max() == 0
    assert variant.max() == 128  # the grey square


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_class_accuracy(EVALUATION, ["a"]), r"be 3 names.*: 1 names"),
        (lambda: plot_calibration(EVALUATION, 0), r"`bins` must be .*bins=0"),
        (
            lambda: plot_filters(classifier(), "second"),
            r"over 1 or 3 channels.*layer='second' with a kernel of shape \(3, 3, 2, 2",
        ),
        (
            lambda: plot_filters(classifier(), "flat"),
            r"layer='flat' with .*shape \(0,\)",
        ),
        (lambda: plot_filters(classifier(), "no"), r"its layers are .*layer='no'"),
        (lambda: plot_filters(classifier(), columns=0), r"`columns` .*columns=0"),
        (
            lambda: plot_gradcam(classifier(), IMAGES, NAMES[:1], classes=2),
            r"`classes` must be positions in `class_names`.*classes from 2 to 2",
        ),
        (
            lambda: plot_gradcam(classifier(), IMAGES, NAMES, classes=[0]),
            r"`classes` must be one integer, or 3, .*classes=\[0\]",
        ),
        (lambda: plot_augmentation(IMAGES, "blur"), r"must be one of .*'blur'"),
        (lambda: plot_augmentation(IMAGES, None), r"Received: augmentation=None"),
        (lambda: plot_augmentation(IMAGES, "flip", 0), r"`variants` .*variants=0"),
    ],
)
def test_wrong_arguments_of_the_others(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_module_imports_matplotlib_late_and_never_pyplot(tmp_path):
    # The module alone, as `import keras` itself may import matplotlib.pyplot.
    path = tmp_path / "history.png"
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("alone", {visualization.__file__!r})
alone = importlib.util.module_from_spec(spec)
spec.loader.exec_module(alone)
assert "matplotlib" not in sys.modules
figure = alone.plot_history({{"loss": [2.0, 1.0], "val_loss": [2.0, 1.5]}})
figure.savefig({str(path)!r})
alone.plot_samples([[[[0.5]]]], [0], ["cat"])
alone.plot_predictions([[[[0.5]]]], [0], [0], ["cat"])
alone.plot_confusion_matrix([[1]], ["cat"])
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)

    assert path.read_bytes().startswith(b"\x89PNG")
