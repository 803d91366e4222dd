"""Figures of corrupted images and of the accuracy on them."""

import numpy as np
import pytest

from keras_tinyalex.datasets.corruptions import CORRUPTIONS, corrupt
from keras_tinyalex.robustness.result import MAIN, summarize
from keras_tinyalex.visualization import plot_corrupted, plot_corruptions


def accuracies(names):
    rows = {
        (name, severity): ((index + severity) / 30, 10)
        for index, name in enumerate(names)
        for severity in range(1, 6)
    }
    return {**rows, ("clean", 0): (0.9, 10)}


def test_plot_corruptions(assert_readable):
    figure = plot_corruptions(summarize(tuple(CORRUPTIONS), accuracies(CORRUPTIONS)))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Noise", "Blur", "Weather", "Digital", "Extra"]
    clean, *lines = figure.axes[2].lines
    assert clean.get_ydata()[0] == 0.9
    assert [line.get_label() for line in lines] == [
        "snow",
        "frost",
        "fog",
        "brightness",
    ]
    fog = 9 + np.arange(1, 6)
    np.testing.assert_allclose(lines[2].get_ydata(), fog / 30)
    assert lines[2].get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert_readable(figure)


def test_plot_corruptions_with_gaps(assert_readable):
    rows = accuracies(MAIN)
    del rows["clean", 0], rows["fog", 2]
    figure = plot_corruptions(summarize(MAIN, rows))
    assert len(figure.axes) == 4
    assert np.isnan(figure.axes[2].lines[2].get_ydata()).tolist() == [
        *(False, True, False, False, False)
    ]
    assert_readable(figure)


def test_plot_corrupted(assert_readable):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    figure = plot_corrupted(image, severity=2, seed=3)
    assert len(figure.axes) == 20
    shown = {a.get_title().replace("\n", " "): a.images[0] for a in figure.axes}
    np.testing.assert_array_equal(shown["image"].get_array(), image)
    expected = corrupt(image[None], "jpeg_compression", 2, seed=3)[0]
    np.testing.assert_array_equal(shown["jpeg compression"].get_array(), expected)
    assert_readable(figure)
    with pytest.raises(ValueError, match="`severity` must be"):
        plot_corrupted(image, severity=6)
