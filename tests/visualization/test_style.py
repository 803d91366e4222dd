"""Figures do not depend on what a user has set for matplotlib."""

import os
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from keras_tinyalex import visualization
from keras_tinyalex.tuning.plots import plot_search
from keras_tinyalex.tuning.results import Search
from keras_tinyalex.visualization.style import fit_text, short_names, text_width
from keras_tinyalex.visualization.summary import plot_letters

NAMES = ["cat", "50% & $x$", os.fsdecode(b"gnu\xe9")]
IMAGES = np.arange(3, dtype="uint8").reshape(3, 1, 1, 1) * np.ones(
    (3, 8, 8, 3), "uint8"
)
EVALUATION = SimpleNamespace(
    confusion=np.eye(3, dtype=int),
    class_names=NAMES,
    confidences=np.full(3, 0.5),
    predictions=np.arange(3),
    labels=np.arange(3),
)
ROWS = [
    {"trial": str(i), "status": "completed", "epochs": 1, "val_accuracy": 0.1 * i,
     "batch_size": 16 * i} for i in (1, 2)
]  # fmt: skip
FIGURES = {
    "history": lambda: visualization.plot_history({"loss": range(1, 30)}),
    "confusion": lambda: visualization.plot_confusion_matrix(np.eye(3), NAMES),
    "class_accuracy": lambda: visualization.plot_class_accuracy(EVALUATION),
    "calibration": lambda: visualization.plot_calibration(EVALUATION),
    "samples": lambda: visualization.plot_samples(IMAGES, [[0], [1], [2]], NAMES),
    "predictions": lambda: visualization.plot_predictions(
        IMAGES, [0, 1, 2], [2, 1, 0], NAMES, [0.1, 0.2, 0.3]
    ),
    "augmentation": lambda: visualization.plot_augmentation(IMAGES, "flip"),
    "letters": lambda: plot_letters(NAMES),
    "search": lambda: plot_search(Search("found", ROWS, None)),
}
# The first is an error where there is no LaTeX; the others spoil a figure.
HOSTILE = {
    "text.usetex": True,
    "text.latex.preamble": r"\no_such_command",
    "font.size": 30,
    "figure.autolayout": True,
    "image.origin": "lower",
    "axes.grid": True,
    "text.color": "red",
}


@pytest.mark.parametrize("name", FIGURES)
def test_settings_do_not_change_a_figure(name, tmp_path):
    matplotlib.rcdefaults()
    figure = FIGURES[name]()
    visualization.save_figures(tmp_path, {"usual": figure})
    with matplotlib.rc_context(HOSTILE):
        figure = FIGURES[name]()
        visualization.save_figures(tmp_path, {"hostile": figure})
        FigureCanvasAgg(FIGURES[name]()).draw()  # as a notebook does, in its own style
        assert matplotlib.rcParams["text.usetex"]
    pixels = [
        np.asarray(Image.open(tmp_path / f"{kind}.png"))
        for kind in ("usual", "hostile")
    ]
    np.testing.assert_array_equal(*pixels)


def test_names_are_written_in_letters_that_fonts_have():
    assert short_names([*NAMES, "emu, bird"])[2:] == ["gnu\\udce9", "emu"]


def test_long_text_is_cut_at_the_last_letter_that_fits():
    for text in ("W" * 60, "a name of very many short words", "i" * 5000):
        cut = fit_text(text, width=80, size=8)
        assert cut[-1] == "…"
        longer = text[: len(cut)]
        assert text_width(cut, 8) <= 80 < text_width(longer.rstrip() + "…", 8)
