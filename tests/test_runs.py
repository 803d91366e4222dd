"""The run folder: finished, refused, and the dtype that it records."""

import json

import numpy as np
import pytest

from keras_tinyalex import machine, runs
from keras_tinyalex.applications import load_model

WNIDS = ("n01443537", "n01629819", "n01641577")

pytestmark = pytest.mark.backend


def test_finished_run_is_returned(quick):
    first = quick()
    before = (first.path / "model.keras").stat().st_mtime_ns
    again = quick()
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
