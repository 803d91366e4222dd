"""A search without its trainings, which are the slow part of it."""

import hashlib
import json

import pytest
from matplotlib.figure import Figure

from keras_tinyalex import recipes
from keras_tinyalex.files import write_json
from keras_tinyalex.tuning import search, searching, trials


@pytest.fixture
def narrow():
    """The baseline in a sixteenth of its width."""
    return recipes.Recipe("narrow", width_multiplier=1 / 16)


@pytest.fixture
def trained(monkeypatch):
    """Replaces training: the score is drawn from the recipe, and the checkpoint
    of each epoch is an empty file. Returns the trainings as (folder's name,
    epochs behind it at the start, epochs)."""
    seen = []

    def train_trial(recipe, data, seed, epochs, folder, progress):
        if done := trials.read_result(folder):
            return done
        checkpoints = folder / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        begun = max((int(p.stem[6:]) for p in checkpoints.glob("*.npz")), default=0)
        seen.append((folder.name, begun, epochs))
        for epoch in range(begun + 1, epochs + 1):
            (checkpoints / f"epoch-{epoch:03}.npz").write_bytes(b"")
        digest = hashlib.sha256(json.dumps(recipe.as_dict()).encode()).digest()
        result = {
            "status": "completed",
            "metrics": {"val_accuracy": digest[0] / 255, "loss": 1.5},
            "epochs": epochs,
            "seconds": [2.0] * epochs,
            "seed": seed,
            "recipe": recipe.as_dict(),
        }
        write_json(folder / "result.json", result)
        return result

    monkeypatch.setattr(trials, "train_trial", train_trial)
    return seen


@pytest.fixture
def start(official_folder, tmp_path, monkeypatch):
    """Starts a random search on the small official folder, into `tmp_path/found`.

    Its picture is left empty unless asked for.
    """
    real = searching.plot_search

    def start(output="found", plot=False, **arguments):
        drawn = real if plot else lambda found: Figure()
        monkeypatch.setattr(searching, "plot_search", drawn)
        arguments = {
            "data": official_folder,
            "classes": 3,
            "tuner": "random",
            "max_trials": 4,
            "epochs": 3,
            "progress": False,
            **arguments,
        }
        return search(output=tmp_path / output, **arguments)

    return start
