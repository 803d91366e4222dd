"""search(): its folder, its trials, and searches that are stopped and resume.

Trainings are replaced here (see conftest.py); test_trials.py runs real ones.
"""

import csv
import json
import os
import sys

import filelock
import pytest

from keras_tinyalex import recipes
from keras_tinyalex.datasets.cache import cache_folder
from keras_tinyalex.datasets.layout import open_source
from keras_tinyalex.datasets.reading import read_split
from keras_tinyalex.tuning import read_search, results, trials


def columns(found, *names):
    return [tuple(trial.get(name) for name in names) for trial in found.trials]


def test_folder_of_a_search(start, trained):
    found = start(plot=True)
    assert {path.name for path in found.path.iterdir()} == {
        "best.json",
        "environment.json",
        "oracle.json",
        "oracle.snapshot.json",
        "results.csv",
        "search.json",
        "search.png",
        "trial_0",
        "trial_1",
        "trial_2",
        "trial_3",
    }
    with (found.path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0]["status"] == "completed"
    assert rows[0]["loss"] == "1.5"
    assert (rows[0]["epochs"], rows[0]["seconds"]) == ("3", "6.0")
    assert (rows[0]["normalization"], rows[0]["augmentation"]) == ("lrn", "none")
    assert read_search(found.path) == found


def test_first_trial_is_the_baseline(start, trained):
    first, *others = start().trials
    fields = {k: v for k, v in first.items() if hasattr(recipes.BASELINE, k)}
    fields.pop("epochs")
    assert len(fields) == 19
    assert all(getattr(recipes.BASELINE, name) == v for name, v in fields.items())
    assert all(other["learning_rate"] != 0.01 for other in others)


def test_best_recipe(start, trained):
    found = start()
    best = max(found.trials, key=lambda trial: trial["val_accuracy"])
    assert found.ranking[0] == best
    assert found.best == recipes.load(found.path / "best.json")
    assert found.best.name == f"found-{best['trial']}"
    assert found.best.batch_size == best["batch_size"]
    assert found.best.epochs == 3
    assert f"val_accuracy {best['val_accuracy']:.4f}" in found.best.description


def test_same_seed_same_trials(start, trained):
    first, second, other = (
        start(name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    without_time = [{**t, "seconds": 0} for t in first.trials]
    assert without_time == [{**t, "seconds": 0} for t in second.trials]
    seeds = [trial["seed"] for trial in first.trials]
    assert len(set(seeds)) == 4
    assert not set(seeds) & {trial["seed"] for trial in other.trials}
    # the first trial is the baseline in every search
    assert first.trials[1]["batch_size"], first.trials[1]["dropout"] != (
        other.trials[1]["batch_size"],
        other.trials[1]["dropout"],
    )


def test_more_trials_of_a_finished_search(start, trained):
    uninterrupted = start("uninterrupted", max_trials=6)
    start("grown", max_trials=3)
    before = len(trained)
    grown = start("grown", max_trials=6)
    assert len(trained) == before + 3
    names = ("val_accuracy", "seed", "learning_rate", "width_multiplier")
    assert columns(grown, *names) == columns(uninterrupted, *names)


def test_hyperband_resumes_from_checkpoints(start, trained):
    # max_epochs 9: brackets of 9-3-1, 5-2 and 3 trials
    found = start(tuner="hyperband", max_trials=None, epochs=9, keep=2)
    assert len(found.trials) == 23
    epochs = [trial["epochs"] for trial in found.trials]
    assert [epochs.count(n) for n in (1, 3, 9)] == [9, 3 + 5, 1 + 2 + 3]
    begun = {name: (first, last) for name, first, last in trained}
    for trial in found.trials:
        first, last = begun[f"trial_{trial['trial']}"]
        assert last == trial["epochs"]
        past = trial.get("from_trial")
        # a trial that continues another starts at the epoch where that one ended
        assert first == (0 if past is None else begun[f"trial_{past}"][1])
        assert trial["seconds"] == 2.0 * (last - first)
    kept = sorted(path.parts[-3] for path in found.path.rglob("*.npz"))
    best = sorted(found.ranking[:2], key=lambda trial: trial["trial"])
    assert kept == [f"trial_{trial['trial']}" for trial in best]


def test_resumed_trials_keep_their_seed(start, trained):
    found = start(tuner="hyperband", max_trials=None, epochs=9)
    seeds = {trial["trial"]: trial["seed"] for trial in found.trials}
    chains = [(t["seed"], seeds[p]) for t in found.trials if (p := t.get("from_trial"))]
    assert len(chains) == 6
    assert all(own == before for own, before in chains)


class KilledError(BaseException):
    """Stands for SIGKILL: only `finally` blocks run."""


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("tuner", "every"),
    [
        ("hyperband", 5),
        pytest.param("hyperband", 1, marks=SLOW),
        pytest.param("random", 1, marks=SLOW),
        pytest.param("bayesian", 1, marks=SLOW),
    ],
)
def test_killed_before_any_write(start, trained, monkeypatch, tuner, every):
    """After a kill before the n-th rename, for every n, the search ends the same."""
    if tuner == "bayesian":
        pytest.importorskip("sklearn")
    arguments = {"tuner": tuner, "space": "optimizer"}
    arguments["max_trials"] = None if tuner == "hyperband" else 5
    real, counted, stop_at = os.replace, 0, None

    def replace(source, target):
        nonlocal counted
        counted += cache_folder() not in target.parents  # only the first run decodes
        if counted == stop_at:
            raise KilledError
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    uninterrupted = columns(
        start("uninterrupted", **arguments), "trial", "val_accuracy", "seed"
    )
    steps, trainings = counted, len(trained)
    assert steps > 30
    for step in range(1, steps + 1, every):
        counted, stop_at = 0, step
        trained.clear()
        with pytest.raises(KilledError):
            start(f"killed{step}", **arguments)
        stop_at = None
        found = start(f"killed{step}", **arguments)
        assert columns(found, "trial", "val_accuracy", "seed") == uninterrupted
        # the killed training resumes: none is done twice
        assert len(trained) - trainings in (0, 1)


def test_stopped_bayesian_search_resumes_with_the_same_trials(start, trained):
    pytest.importorskip("sklearn")
    names = ("trial", "val_accuracy", "learning_rate", "momentum")
    arguments = {"tuner": "bayesian", "space": "optimizer"}
    uninterrupted = start("uninterrupted", max_trials=5, **arguments)
    # KerasTuner restarts its generator when a search resumes
    start("stopped", max_trials=4, **arguments)
    stopped = start("stopped", max_trials=5, **arguments)
    assert columns(stopped, *names) == columns(uninterrupted, *names)


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_truncated_state_falls_back_to_the_snapshot(start, trained, size):
    first = start()
    state = first.path / "oracle.json"
    state.write_bytes(state.read_bytes()[:size])
    for path in first.path.glob("trial_*/trial.json"):
        path.write_bytes(path.read_bytes()[:size])
    (first.path / "results.csv").unlink()
    trained.clear()
    assert start().trials == first.trials
    assert trained == []


def test_damaged_state_and_snapshot_are_refused(start, trained):
    path = start().path
    (path / "oracle.json").write_text("{")
    (path / "oracle.snapshot.json").write_text("")
    refusal = r"both damaged.*oracle\.json.*oracle\.snapshot\.json"
    with pytest.raises(ValueError, match=refusal):
        start()


def test_trial_with_a_damaged_result_is_lost(start, trained):
    found = start()
    best = found.ranking[0]["trial"]
    (found.path / f"trial_{best}" / "result.json").write_text("{")
    again = start()
    assert again.trials[int(best)]["status"] == "lost"
    assert again.ranking == found.ranking[1:]


def test_second_process_is_refused(start, trained, tmp_path):
    start()
    refusal = pytest.raises(OSError, match=r"in use: another process.*found'")
    with filelock.FileLock(tmp_path / "found" / ".lock"), refusal:
        start()
    start()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"space": "optimizer"}, "space, hyperparameters"),
        ({"classes": 2}, "class_names, train_sha256, held_out_sha256"),
        ({"epochs": 4}, "recipe"),
        ({"seed": 1}, "seed"),
        ({"tuner": "hyperband", "max_trials": None}, "tuner"),
    ],
)
def test_another_search_in_the_folder_is_refused(start, trained, change, named):
    path = start().path
    old = json.loads((path / "search.json").read_text())["fingerprint"]
    kept = (path / "results.csv").read_bytes()
    refusal = rf"another search \({old}\) than .* \(\w{{16}}\): {named} differ"
    with pytest.raises(ValueError, match=refusal):
        start(**change)
    assert (path / "results.csv").read_bytes() == kept


def test_changed_data_is_refused(start, trained, official_folder):
    start()
    image = next((official_folder / "train").rglob("*.JPEG"))
    image.unlink()
    with pytest.raises(ValueError, match=r"train_sha256.* differ"):
        start()


def test_folder_with_other_files_is_refused(start, trained, tmp_path):
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files"):
        start()
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["thesis.txt"]


def test_val_images_are_never_read(start, trained, official_folder):
    for image in (official_folder / "val" / "images").iterdir():
        image.write_text("not an image")
    assert len(start().trials) == 4


def test_classes_are_optional(start, trained):
    found = start(classes=None, max_trials=1)
    config = json.loads((found.path / "search.json").read_text())
    assert len(config["class_names"]) == 3


def test_held_out_split_is_that_of_train(start, official_folder, monkeypatch):
    seen = []

    def train_trial(recipe, data, *others):
        seen.extend(data)
        raise KilledError

    monkeypatch.setattr(trials, "train_trial", train_trial)
    with pytest.raises(KilledError):
        start()
    train_data, held_out = seen
    full = read_split(open_source(official_folder), "train", held_out.class_names)
    assert held_out.file_names == full.part(True, 0.1, seed=0).file_names
    assert train_data.file_names == full.part(False, 0.1, seed=0).file_names


def test_failed_trial_is_recorded(start, trained, monkeypatch, capsys):
    fake = trials.train_trial

    def fail_once(recipe, data, seed, epochs, folder, progress):
        if folder.name == "trial_1":
            raise MemoryError("the model is too large")
        return fake(recipe, data, seed, epochs, folder, progress)

    monkeypatch.setattr(trials, "train_trial", fail_once)
    found = start(progress=True)
    assert [trial["status"] for trial in found.trials] == [
        "completed",
        "failed",
        "completed",
        "completed",
    ]
    assert "trial 1 failed: MemoryError: the model is too large" in (
        capsys.readouterr().err
    )


def test_three_failures_in_a_row_stop_the_search(start, trained, monkeypatch):
    fake = trials.train_trial

    def fail(recipe, data, seed, epochs, folder, progress):
        raise MemoryError("the model is too large")

    monkeypatch.setattr(trials, "train_trial", fail)
    stopped = r"(?s)3 trials failed in a row.*MemoryError: the model is too large"
    with pytest.raises(RuntimeError, match=stopped):
        start(max_trials=6)
    monkeypatch.setattr(trials, "train_trial", fake)
    statuses = [trial["status"] for trial in start(max_trials=6).trials]
    assert statuses == ["failed"] * 3 + ["completed"] * 3


def test_results_go_to_standard_error(start, trained, capsys):
    start(progress=True)
    start(progress=True)
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("trial 3 completed, val_accuracy") == 1
    assert "4 of 4" in error
    # The second search has only read the first.
    assert error.count("is finished: its trials were run before") == 1


def test_bayesian_search_without_scikit_learn(start, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    install = r'`tuner` \'bayesian\'.*pip install "keras-tinyalex\[tuner\]"'
    with pytest.raises(ImportError, match=install):
        start(tuner="bayesian")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": "alll"}, "Received: space='alll'"),
        (
            {"tuner": "grid"},
            "one of 'random', 'hyperband', 'bayesian'. Received: tuner='grid'",
        ),
        ({"max_trials": 0}, "Received: max_trials=0"),
        ({"seed": -1}, "Received: seed=-1"),
        ({"keep": 0}, "Received: keep=0"),
        ({"epochs": 0}, "Received: epochs=0"),
        ({"deadline": 0}, "Received: deadline=0"),
        ({"recipe": "fastest"}, "Received: recipe='fastest'"),
        ({"classes": 4}, "4"),
        ({"chief": True, "worker": "a"}, "chief or a worker"),
        ({"worker": "a b"}, "Received: worker='a b'"),
        ({"worker": "chief2"}, "Received: worker='chief2'"),
        ({"chief": True, "oracle": "9090"}, "HOST:PORT.*Received: oracle='9090'"),
    ],
)
def test_wrong_arguments(start, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        start(**arguments)
    assert not (tmp_path / "found").exists()


def test_table_round_trip(tmp_path):
    rows = [
        {"trial": "00", "status": "completed", "mixing": None, "learning_rate": 1e-5},
        {"trial": "01", "status": "running", "mixing": "mixup"},
    ]
    results.write_table(tmp_path / "t.csv", rows)
    assert results.read_table(tmp_path / "t.csv") == rows
