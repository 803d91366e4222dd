from types import SimpleNamespace

import numpy as np
import pytest

from keras_tinyalex.visualization import plot_history


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
def test_history_labels_do_not_overlap(epochs, assert_readable):
    curve = np.linspace(0.1, 0.5, epochs)
    history = {"accuracy": curve, "val_accuracy": curve + 0.001, "loss": curve}

    assert_readable(plot_history(history))


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
