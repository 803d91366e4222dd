import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from keras_tinyalex.comparing import FinishedRun, group
from keras_tinyalex.visualization import plot_history, plot_runs


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


def test_epochs_of_a_history_at_half_size_are_dashed():
    history = {"val_loss": [3.0, 2.0, 1.0], "half_size": ["1", "1", "0"]}
    loss = plot_history(history).axes[1]
    solid, dashed, _ = loss.lines
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert solid.get_xdata().tolist() == [3]
    assert dashed.get_xdata().tolist() == [1, 2, 3]
    assert loss.get_xlabel() == "epoch (dashed: at half the image size)"


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


@pytest.fixture
def study():
    """The function that makes a row of curves, with other runs of 0 to 1 as figures."""

    def study(*curves, name="best", half_size=0, accuracy=0.5):
        runs = [
            FinishedRun(
                *(f"run{seed}", name, "pets", seed),
                {"epochs": len(curve), "class_names": ["cat", "dog"]},
                *(accuracy, 60.0),
                {
                    "val_accuracy": curve,
                    "val_loss": [1 - value for value in curve],
                    "half_size": [float(e < half_size) for e in range(len(curve))],
                },
            )
            for seed, curve in enumerate(curves)
        ]
        longest = max(runs, key=lambda run: run.settings["epochs"])
        runs = [dataclasses.replace(run, settings=longest.settings) for run in runs]
        (row,) = group(runs)
        return row

    return study


def test_runs_have_their_mean_and_range(study):
    """One run may end earlier than another."""
    figure = plot_runs([study([0.2, 0.4, 0.6], [0.4, 0.8], accuracy=0.7)])
    accuracy, loss = figure.axes
    line, dot = accuracy.lines[:2]
    np.testing.assert_allclose(line.get_xydata(), [[1, 0.3], [2, 0.6], [3, 0.6]])
    assert dot.get_xydata().tolist() == [[3, pytest.approx(0.7)]]
    (band,) = accuracy.collections
    corners = {tuple(np.round(point, 6)) for point in band.get_paths()[0].vertices}
    assert {(1, 0.2), (1, 0.4), (2, 0.4), (2, 0.8), (3, 0.6)} == corners
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [0.7, 0.4, 0.4])
    assert accuracy.get_title(loc="left") == "Validation accuracy"
    assert loss.get_title(loc="left") == "Validation loss"
    (text,) = figure.legends[0].get_texts()
    assert text.get_text() == "best, pets, 2 classes, 3 epochs (2 runs)"


def test_epochs_at_half_size_are_dashed(study):
    figure = plot_runs([study([0.2, 0.4, 0.6], half_size=2)])
    solid, dashed = figure.axes[1].lines
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert solid.get_xdata().tolist() == [3]
    assert dashed.get_xdata().tolist() == [1, 2, 3]
    assert figure.axes[1].collections[:] == []  # a single run has no range


@pytest.mark.parametrize("count", [1, 3, 12])
def test_runs_are_readable_and_of_different_colors(study, assert_readable, count):
    rows = [study([0.1 * n, 0.05 * n], name=rf"no $\frac$ {n}") for n in range(count)]
    figure = plot_runs(rows)
    assert_readable(figure)
    colors = {tuple(line.get_color()) for line in figure.axes[1].lines}
    assert len(colors) == count


def test_a_single_epoch_is_a_point(study):
    figure = plot_runs([study([0.5])])
    assert [axes.lines[0].get_marker() for axes in figure.axes] == ["o", "o"]


def test_no_runs_are_refused():
    with pytest.raises(ValueError, match=r"`studies` must be .*: studies=\[\]"):
        plot_runs([])
