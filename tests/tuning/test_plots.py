"""The figure of a search, and the importance of hyperparameters."""

import sys

import numpy as np
import pytest

from keras_tinyalex import tuning
from keras_tinyalex.tuning import plot_search


def test_plot_of_a_search(start, trained):
    pytest.importorskip("sklearn")
    found = start(max_trials=9)
    progress, parallel, importance = plot_search(found.path).axes
    scores = [trial["val_accuracy"] for trial in found.trials]
    (best,) = progress.lines
    assert best.get_ydata().tolist() == np.maximum.accumulate(scores).tolist()
    names = [label.get_text() for label in parallel.get_xticklabels()]
    assert names == tuning.plots.varied(found.trials)
    lines = [line for line in parallel.lines if len(line.get_xdata()) == len(names)]
    assert len(lines) == 9
    assert len(importance.patches) == len(names) + 1  # and the epochs


def test_plot_marks_trials_without_momentum():
    common = {"status": "completed", "epochs": 1}
    rows = [
        {
            **common,
            "trial": "0",
            "val_accuracy": 0.1,
            "optimizer": "sgd",
            "momentum": 0.9,
        },
        {**common, "trial": "1", "val_accuracy": 0.2, "optimizer": "muon"},
    ]
    parallel = plot_search(tuning.Search("found", rows, None)).axes[1]
    assert [tick.get_text() for tick in parallel.get_xticklabels()] == [
        "optimizer",
        "momentum",
    ]
    ticks = {text.get_text(): text.get_position() for text in parallel.texts}
    assert ticks["unused"] == (1.04, -0.1)
    best = parallel.lines[1]
    assert best.get_ydata().tolist() == [1.0, -0.1]


def test_plot_without_scikit_learn(start, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert len(plot_search(start(max_trials=9)).axes) == 2


def test_plot_of_one_trial(start, trained):
    assert len(plot_search(start(max_trials=1)).axes) == 1


def test_plot_without_completed_trials_is_refused():
    with pytest.raises(ValueError, match="completed trial to draw"):
        plot_search(tuning.Search("nothing", [], None))


def test_importance_ranks_the_decisive_hyperparameter_first():
    pytest.importorskip("sklearn")
    generator = np.random.default_rng(0)
    rows = [
        {
            "val_accuracy": 0.5 if mixing is None else 0.2,
            "epochs": int(generator.integers(1, 9)),
            "mixing": mixing,
            "learning_rate": float(generator.uniform(0.001, 0.1)),
            "dropout": 0.5,
        }
        for mixing in [None, "mixup"] * 10
    ]
    scores = tuning.importance(rows)
    assert next(iter(scores)) == "mixing"
    assert scores.keys() == {"mixing", "learning_rate", "epochs"}
    assert scores["mixing"] > 10 * max(scores["epochs"], scores["learning_rate"])
