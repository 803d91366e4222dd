"""All figures of a run, how they are saved, and what importing them loads."""

import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
from PIL import Image

from keras_tinyalex.evaluation import evaluate
from keras_tinyalex.visualization import plot_evaluation, plot_run, save_figures

IMAGES, LABELS = np.zeros((3, 8, 8, 3), "uint8"), np.array([0, 1, 0])


def data_of(class_names):
    return SimpleNamespace(images=IMAGES, labels=LABELS, class_names=class_names)


def evaluation():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    return evaluate(model, (IMAGES, LABELS))


def test_figures_of_a_run_have_readable_names():
    classes = ("n01443537", "my class")  # the first is known by its wnid
    words = {"my class": "my own class, mine"}
    history = {"loss": [2.0, 1.0], "val_loss": [2.0, 1.5]}

    figures = plot_run(data_of(classes), data_of(classes), words, history, evaluation())

    assert list(figures) == [
        "samples",
        "history",
        "predictions",
        "confusion_matrix",
        "confused_pairs",
        "class_accuracy",
        "calibration",
    ]
    titles = [axes.get_title() for axes in figures["samples"].axes]
    assert titles == ["goldfish", "my own class"]
    assert figures["history"].axes[1].get_title(loc="right").startswith("best val 1.5")
    for name in ("confusion_matrix", "class_accuracy"):
        labels = figures[name].axes[0].get_yticklabels()
        assert {label.get_text() for label in labels} == set(titles)


def test_figures_of_an_evaluation():
    result = evaluation()

    figures = plot_evaluation(result, data_of(None), ["cat", "dog"])

    assert list(figures) == [
        "predictions",
        "confusion_matrix",
        "confused_pairs",
        "class_accuracy",
        "calibration",
    ]
    predicted = ["cat", "dog"][result.predictions[1]]
    axes = figures["predictions"].axes[1]
    assert axes.get_title(loc="left") == f"R: dog\nP: {predicted}"
    assert axes.texts[0].get_text().endswith(f"{result.confidences[1]:.0%}")


def test_figures_are_saved_under_their_names(tmp_path):
    figures = plot_evaluation(evaluation(), data_of(None), ["cat", "dog"])

    save_figures(str(tmp_path / "deep" / "plots"), figures)

    files = sorted((tmp_path / "deep" / "plots").iterdir())
    assert [file.name for file in files] == sorted(f"{name}.png" for name in figures)
    for file in files:
        width, height = figures[file.stem].get_size_inches() * figures[file.stem].dpi
        with Image.open(file) as image:
            assert image.size == (int(width), int(height))


def test_import_is_light_and_figures_never_use_pyplot(tmp_path):
    # In a new process without Keras, which may itself import matplotlib.pyplot.
    path = tmp_path / "history.png"
    code = f"""
import sys
import keras_tinyalex.visualization as alone
heavy = {{"keras", "matplotlib", "tensorflow", "torch", "jax", "PIL"}}
assert not heavy & set(sys.modules)
figure = alone.plot_history({{"loss": [2.0, 1.0], "val_loss": [2.0, 1.5]}})
figure.savefig({str(path)!r})
alone.plot_samples([[[[0.5]]]], [0], ["cat"])
alone.plot_predictions([[[[0.5]]]], [0], [0], ["cat"])
alone.plot_confusion_matrix([[1]], ["cat"])
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
assert "keras" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)

    assert path.read_bytes().startswith(b"\x89PNG")
