from types import SimpleNamespace

import keras
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from keras_tinyalex.evaluation import evaluate, wilson_interval
from keras_tinyalex.visualization import (
    plot_calibration,
    plot_class_accuracy,
    plot_confused_pairs,
    plot_confusion_matrix,
)

NAMES = ["goldfish, Carassius auratus", "European fire salamander", "sea slug"]


def measured(probabilities, labels):
    """Evaluates a model whose outputs are these probabilities."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    return evaluate(model, (np.array(probabilities, "float32"), np.array(labels)))


# Correct images of the classes: 1 of 2, 2 of 2, and no images.
EVALUATION = measured(
    [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.9, 0.0], [0.3, 0.6, 0.1]], [0, 0, 1, 1]
)


def test_confusion_matrix_in_percent_of_the_true_label():
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
    assert axes.get_xlabel() == "prediction"
    assert axes.get_ylabel() == "true label"
    assert axes.get_title() == "Accuracy 78.6% (14 images)"  # 11 of 14


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


def test_confusion_matrix_has_room_for_long_names(long_names):
    names = [f"{i} {long_names[i % 5]}" for i in range(20)]
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


@pytest.mark.parametrize("size", [31, 40])
def test_confusion_matrix_of_random_predictions_has_room_for_its_title(size):
    # Percentages of one digit make the color bar narrow, and the matrix high.
    confusion = np.random.default_rng(0).integers(0, 9, (size, size))
    figure = plot_confusion_matrix(confusion, [f"class {i}" for i in range(size)])
    FigureCanvasAgg(figure).draw()

    height = figure.get_size_inches()[1] * figure.dpi
    assert figure.axes[0].title.get_window_extent().y1 <= height
    assert figure.axes[0].xaxis.label.get_window_extent().y0 >= 0


@pytest.mark.parametrize(
    ("confusion", "names", "message"),
    [
        (np.eye(3), ["a", "b"], r"confusion\.shape=\(3, 3\), .*len\(class_names\)=2"),
        (
            np.ones((2, 3)),
            ["a", "b"],
            r"confusion\.shape=\(2, 3\), .*len\(class_names\)=2",
        ),
        (-np.eye(2), ["a", "b"], r"non-negative counts.*confusion\.min\(\)=-1\.0"),
        (np.zeros((0, 0)), [], r"confusion\.shape=\(0, 0\), .*len\(class_names\)=0"),
    ],
)
def test_wrong_confusion_matrix(confusion, names, message):
    with pytest.raises(ValueError, match=message):
        plot_confusion_matrix(confusion, names)


def test_class_accuracy_is_sorted_and_has_intervals(assert_readable):
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
    assert axes.get_title() == "Accuracy by class (overall 75.0%, 4 images)"
    assert_readable(figure)
    labels = plot_class_accuracy(EVALUATION).axes[0].get_yticklabels()
    assert [text.get_text() for text in labels] == ["1", "0"]


@pytest.mark.parametrize("size", [1, 60])
def test_class_accuracy_of_many_classes(size, assert_readable):
    every = SimpleNamespace(
        confusion=np.eye(size, dtype=int), class_names=[f"c{i}" for i in range(size)]
    )
    figure = plot_class_accuracy(every)

    axes = figure.axes[0]
    assert len(axes.get_yticklabels()) == len(axes.texts) == size
    assert figure.get_size_inches()[1] < 16
    assert_readable(figure)


def test_class_accuracy_of_more_shows_the_best_and_the_worst(assert_readable):
    """Class k of 200 has k of 199 images right: 199 to 180 and 19 to 0 are shown."""
    hits = np.arange(200)
    confusion = np.diag(hits)
    confusion[hits, hits - 1] = 199 - hits
    names = [f"c{k}" for k in hits]
    figure = plot_class_accuracy(SimpleNamespace(confusion=confusion), names)

    axes = figure.axes[0]
    shown = [*range(199, 179, -1), *range(19, -1, -1)]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [f"c{k}" for k in shown]
    widths = [bar.get_width() for bar in axes.patches[: len(shown)]]
    np.testing.assert_allclose(widths, np.array(shown) / 199)
    percent = [f"{k / 199:.0%}" for k in shown]
    assert [text.get_text() for text in axes.texts] == [*percent, "160 classes between"]
    assert axes.get_title() == "Accuracy by class (overall 50.0%, 39,800 images)"
    assert figure.get_size_inches()[1] < 16
    assert_readable(figure)


def test_confused_pairs_by_hand(assert_readable):
    # Errors: 1 of 4 images of a as b, 2 of 10 of b as c, 3 of 10 of b as a; c none.
    confusion = np.array([[3, 1, 0], [3, 5, 2], [0, 0, 7]])
    every = SimpleNamespace(confusion=confusion, class_names=["a", "b, big", "c"])
    figure = plot_confused_pairs(every)

    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["b → a", "a → b", "b → c"]
    assert [bar.get_width() for bar in axes.patches] == [30, 25, 20]
    counts = [text.get_text().strip() for text in axes.texts]
    assert counts == ["3 of 10", "1 of 4", "2 of 10"]
    assert axes.get_title() == "True label → prediction (100% of 6 errors)"
    assert_readable(figure)
    first = plot_confused_pairs(every, n=1).axes[0]
    assert first.get_title() == "True label → prediction (50% of 6 errors)"


def test_confused_pairs_of_many_classes_and_of_none(assert_readable, long_names):
    size = 200
    confusion = np.random.default_rng(0).integers(0, 9, (size, size))
    names = [f"{i} {long_names[i % 5]}" for i in range(size)]
    figure = plot_confused_pairs(SimpleNamespace(confusion=confusion), names)
    assert len(figure.axes[0].patches) == 20
    assert_readable(figure)
    right = SimpleNamespace(confusion=np.eye(2, dtype=int), class_names=("a", "b"))
    axes = plot_confused_pairs(right).axes[0]
    assert axes.get_title() == "True label → prediction (0% of 0 errors)"
    assert not axes.patches


def test_wrong_arguments_of_the_confused_pairs():
    with pytest.raises(ValueError, match=r"be 3 names.*len\(class_names\)=1"):
        plot_confused_pairs(EVALUATION, ["a"])
    with pytest.raises(ValueError, match=r"`n` must be a positive integer.*n=0"):
        plot_confused_pairs(EVALUATION, n=0)


def test_wrong_class_names_of_the_class_accuracy():
    with pytest.raises(ValueError, match=r"be 3 names.*len\(class_names\)=1"):
        plot_class_accuracy(EVALUATION, ["a"])


def test_calibration_by_hand(assert_readable):
    # Halves of confidence: nothing up to 0.5; 0.8, 0.6, 0.9, 0.6 above, of
    # which 3 of 4 are correct, at a mean confidence of 0.725.
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


def test_wrong_bins_of_the_calibration():
    with pytest.raises(ValueError, match=r"`bins` must be .*bins=0"):
        plot_calibration(EVALUATION, 0)
