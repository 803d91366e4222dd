"""Files of released versions are read, on every backend, with the same scores."""

import json

import keep_files
import keras
import numpy as np
import pytest

import keras_tinyalex as tinyalex
from keras_tinyalex import cli, recipes, runs
from keras_tinyalex.applications import load_model

FOLDERS = sorted(keep_files.KEPT.iterdir())

pytestmark = [
    pytest.mark.backend,
    pytest.mark.parametrize("kept", FOLDERS, ids=lambda folder: folder.name),
]


def test_run_folder(kept):
    run = runs.read(kept / "run")
    assert run.metrics == json.loads((kept / "run" / "metrics.json").read_text())
    assert (run.metrics["recipe"], run.metrics["n_val"]) == ("kept", 60)
    assert run.already_finished
    assert run.class_names == ("n99000000", "n99000001", "n99000002")
    assert len(run.history["loss"]) == run.metrics["epochs"] == 2


@pytest.mark.parametrize(
    ("model", "file"),
    [("run", "run/model.keras"), ("run", "run/model.h5"), ("own", "own.keras")],
)
def test_models_have_the_same_scores(kept, model, file):
    expected = json.loads((kept / "scores.json").read_text())[model]
    scores = keep_files.scores_of(load_model(kept / file)[0])
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_own_model_continues_with_its_optimizer(kept):
    model = keras.models.load_model(kept / "own.keras")
    assert type(model.optimizer).__name__ == "Muon"
    assert int(model.optimizer.iterations) == 1
    model.fit(keep_files.images(), np.array([0, 1]), verbose=0)
    assert int(model.optimizer.iterations) == 2


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_weights_load(kept, name):
    run = runs.read(kept / "run")
    model = tinyalex.AlexNetMini(
        num_classes=3, width_multiplier=1 / 32, weights=kept / "run" / name
    )
    for array, expected in zip(
        model.get_weights(), run.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(array, expected)


def test_recipe(kept, tmp_path):
    values = json.loads((kept / "run" / "config.json").read_text())["recipe"]
    (tmp_path / "old.json").write_text(json.dumps(values))
    recipe = recipes.load(tmp_path / "old.json")
    assert {name: recipe.as_dict()[name] for name in values} == values


def test_commands(kept, capsys):
    model = str(kept / "run" / "model.keras")
    assert cli.main(["evaluate", model, "--data", "sample", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 60  # of the model's 3 classes
