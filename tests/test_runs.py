"""The run folder: finished, refused, and the dtype that it records."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from keras_tinyalex import cli, machine, recipes, runs
from keras_tinyalex.applications import load_model
from keras_tinyalex.files import write_json
from keras_tinyalex.recipes import Recipe

WNIDS = ("n01443537", "n01629819", "n01641577")

pytestmark = pytest.mark.backend


def test_finished_run_is_returned(quick, capsys):
    first = quick()
    before = (first.path / "model.keras").stat().st_mtime_ns
    capsys.readouterr()
    again = quick(progress=True)
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"\S+run is finished; this is its result of \d{4}-\d\d-\d\d \d\d:\d\d\. "
        r"resume=False \(--no-resume\) trains it again",
        said,
    )
    assert (first.already_finished, again.already_finished) == (False, True)
    assert (again.path / "model.keras").stat().st_mtime_ns == before
    assert again.metrics == first.metrics
    assert again.class_names == WNIDS
    assert again.history["loss"] == pytest.approx(first.history["loss"], rel=1e-5)


def test_other_run_in_the_folder_is_refused(quick):
    run = quick()
    kept = (run.path / "model.keras").read_bytes()
    fingerprint = json.loads((run.path / "config.json").read_text())["fingerprint"]
    refusal = rf"another run \({fingerprint}\).*seed differ"
    with pytest.raises(ValueError, match=refusal):
        quick(seed=5)
    assert (run.path / "model.keras").read_bytes() == kept
    replaced = quick(seed=5, resume=False)
    assert replaced.metrics["seed"] == 5


def test_the_command_says_that_a_run_was_finished(
    quick, official_folder, tmp_path, capsys
):
    run = quick()
    narrow = dataclasses.replace(recipes.BASELINE, width_multiplier=1 / 16)
    narrow.save(tmp_path / "narrow.json")
    options = ["--data", official_folder, "--recipe", tmp_path / "narrow.json"]
    options += ["--classes", 3, "--epochs", 3, "--output", run.path, "--json"]
    capsys.readouterr()
    assert cli.main(["train", *map(str, options)]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {**run.metrics, "already_finished": True}
    assert "is finished; this is its result of" in shown.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 4}, "recipe differ (recipe.epochs: 3 in the folder, 4 asked for)"),
        ({"seed": 5}, "seed differ (seed: 0 in the folder, 5 asked for)"),
        (
            {"dtype": "bfloat16", "batch_size": 8},
            "recipe differ (recipe.batch_size: 16 in the folder, 8 asked for; "
            "recipe.dtype: 'float32' in the folder, 'bfloat16' asked for)",
        ),
        (
            {"class_names": ["cat", "fox", "dog"]},
            "class_names differ (class_names: [] in the folder, ['fox'] asked for)",
        ),
        (
            {"class_names": ["dog", "cat"]},
            "class_names differ (class_names: 'one order' in the folder, 'another'",
        ),
        (
            {"train_sha256": "b" * 64, "data": "other"},
            "data, train_sha256 differ (data: 'pets' in the folder, 'other' asked for; "
            "train_sha256: 'aaaaaaaaaaaa...aaaaaaaaaaaaa' in the folder, 'bbbbbb",
        ),
        (
            {"cooling": 1.5, "data": "copy of pets"},
            "cooling differ (cooling: None in the folder, 1.5 asked for)",
        ),
    ],
)
def test_what_differs_is_named(tmp_path, changes, message):
    def config(data="pets", seed=0, **others):
        named = {"epochs", "dtype", "batch_size"} & others.keys()
        fields = {field: others.pop(field) for field in named}
        recipe = Recipe("r", **{"epochs": 3, **fields}).as_dict()
        same = {"class_names": ["cat", "dog"], "train_sha256": "a" * 64}
        decisive = {"recipe": recipe, "seed": seed, **same, **others}
        return runs.with_fingerprint(data, decisive)

    for kind in (runs.RUN, runs.SEARCH):
        write_json(tmp_path / kind.config_file, config())
        runs.require_same(tmp_path, kind, config(data="copy of pets"))
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            runs.require_same(tmp_path, kind, config(**changes))
        assert kind.cure in str(caught.value)


def test_a_folder_that_cannot_be_made(quick, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`output` must be .* \(Not a directory\)"):
        quick("file/run")


def test_folder_with_other_files_is_refused(quick, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    for resume in (True, False):
        with pytest.raises(ValueError, match="holds other files"):
            quick(resume=resume)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "years of work"


def test_what_a_killed_start_leaves_is_no_obstacle(tmp_path):
    for name in (".lock", "environment.json", "environment.json.part"):
        (tmp_path / name).write_text("")
    for kind in (runs.RUN, runs.SEARCH):
        runs.claim(tmp_path, kind)
        (tmp_path / f"{kind.config_file}.part").write_text("")
        runs.claim(tmp_path, kind)
        (tmp_path / f"{kind.config_file}.part").unlink()


def test_a_file_is_no_folder_of_a_run(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="`output` must be a folder"):
        runs.claim(tmp_path / "run", runs.RUN)


def test_read_asks_for_a_finished_run(quick):
    run = quick(epochs=1)
    assert runs.read(run.path).metrics == run.metrics
    (run.path / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"`path` must be .* finished run"):
        runs.read(run.path)


def test_automatic_dtype_is_chosen_once_and_the_model_is_float32(
    quick, weights_of, monkeypatch
):
    choices = iter([("mixed_bfloat16", "because"), ("float32", "changed its mind")])
    monkeypatch.setattr(machine, "fastest_dtype", lambda: next(choices))
    run = quick(dtype="auto", epochs=1)
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["dtype"] == "mixed_bfloat16"
    assert environment["dtype_reason"] == "because"
    config = json.loads((run.path / "config.json").read_text())
    assert config["recipe"]["dtype"] == "auto"
    (run.path / "metrics.json").unlink()  # as if it had been stopped
    again = quick(dtype="auto", epochs=1)
    assert np.array_equal(weights_of(again), weights_of(run))
    assert json.loads((run.path / "environment.json").read_text()) == environment
    for model in (run.model, load_model(run.path / "model.keras")[0]):
        assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


@pytest.mark.parametrize("data", [".", "../my.pets", "~/my.pets/"])
def test_default_folder_has_the_name_of_the_data(tmp_path, monkeypatch, data):
    """Also where the data are the current folder, or have a dot in their name."""
    (tmp_path / "my.pets").mkdir()
    monkeypatch.chdir(tmp_path / "my.pets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runs.default_folder("best", data, 1) == Path("runs/best-my.pets-seed1")
