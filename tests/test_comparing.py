"""Finished runs found below folders and compared over their seeds."""

import dataclasses
import json
import shutil

import pytest

from keras_tinyalex import recipes, runs
from keras_tinyalex.comparing import find_runs

SHORT = dataclasses.replace(recipes.BASELINE, epochs=2)


def test_a_row_has_mean_and_spread_of_its_seeds(tmp_path, make_run):
    """0.70, 0.72, 0.74: of the mean 0.72 they are 0.02 and 0 away."""
    for seed, accuracy in ((2, 0.74), (0, 0.70), (10, 0.72)):
        folder = tmp_path / "runs" / f"seed{seed}"
        make_run(folder, seed, accuracy, seconds=50.0 + seed)
    (row,) = runs.compare(tmp_path)
    assert (row.recipe, row.data, row.epochs, row.classes) == ("baseline", "pets", 2, 2)
    assert (row.seeds, row.n, row.settings) == ((0, 2, 10), 3, "")
    assert row.mean == pytest.approx(0.72)
    assert row.standard_deviation == pytest.approx(0.02)  # sqrt(0.0008 / 2)
    # 4.303 is Student's t of two degrees of freedom.
    margin = 4.303 * 0.02 / 3**0.5
    assert row.interval == pytest.approx((0.72 - margin, 0.72 + margin), abs=1e-5)
    assert row.seconds == pytest.approx(54)
    assert [run.accuracy for run in row.runs] == [0.70, 0.74, 0.72]


def test_one_seed_has_no_spread(tmp_path, make_run):
    make_run(tmp_path / "run")
    (row,) = runs.compare([tmp_path])
    assert (row.n, row.mean) == (1, 0.5)
    assert row.standard_deviation is row.interval is None


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"recipe": dataclasses.replace(SHORT, epochs=3)}, {""}),
        ({"class_names": ["cat", "dog", "fox"]}, {""}),
        (
            {"class_names": ["cat", "fox"]},
            {"class_names ['cat', 'dog']", "class_names ['cat', 'fox']"},
        ),
        (
            {"recipe": dataclasses.replace(SHORT, batch_size=8)},
            {"batch_size 16", "batch_size 8"},
        ),
        (
            {"recipe": dataclasses.replace(SHORT, augmentation="flip")},
            {"augmentation None", "augmentation flip"},
        ),
        (
            {"train_sha256": "abcdef0123456789"},
            {"train_sha256 00000000", "train_sha256 abcdef01"},
        ),
        (
            {"environment": {"backend": "jax"}},
            {"backend tensorflow", "backend jax"},
        ),
        (
            {
                "recipe": dataclasses.replace(SHORT, dtype="auto"),
                "environment": {"dtype": "mixed_bfloat16"},
            },
            {"dtype float32", "dtype mixed_bfloat16"},
        ),
    ],
)
def test_what_decides_the_result_makes_another_row(
    tmp_path, make_run, changes, settings
):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", **changes)
    rows = runs.compare(tmp_path)
    assert len(rows) == 2
    assert {row.settings for row in rows} == settings


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "elsewhere/animals"},  # the same images
        {"recipe": dataclasses.replace(SHORT, description="in other words")},
        {
            "recipe": dataclasses.replace(SHORT, dtype="auto"),
            "environment": {"dtype": "float32"},
        },
    ],
)
def test_what_does_not_decide_the_result_is_one_row(tmp_path, make_run, changes):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", seed=1, **changes)
    (row,) = runs.compare(tmp_path)
    assert row.seeds == (0, 1)


def test_rows_are_sorted_by_data_and_accuracy(tmp_path, make_run):
    for number, (name, data, accuracy) in enumerate(
        [("a", "pets", 0.2), ("b", "pets", 0.6), ("c", "birds", 0.1)]
    ):
        recipe = dataclasses.replace(SHORT, name=name)
        folder = tmp_path / f"{number}"
        make_run(folder, accuracy=accuracy, recipe=recipe, data=data)
    assert [row.recipe for row in runs.compare(tmp_path)] == ["c", "b", "a"]


def damage(folder, name, content):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("metrics.json", None, r"not finished, 2 of 2 epochs"),
        ("metrics.json", '{"val_acc', r"metrics.json is damaged \(Unterminated"),
        ("metrics.json", "[]", r"metrics.json is damaged \(not an object\)"),
        ("metrics.json", "{}", r"metrics.json is not .*\(val_accuracy=None\)"),
        (
            "metrics.json",
            '{"val_accuracy": NaN, "seconds_total": 1.0}',
            r"metrics.json is not that of a run \(val_accuracy=nan\)",
        ),
        ("config.json", None, r"config.json is missing"),
        ("config.json", '{"other": "tool"}', r"config.json is not .*\(recipe=None\)"),
        ("config.json", "", r"config.json is damaged"),
        ("environment.json", None, r"environment.json is missing"),
        ("history.csv", None, r"history.csv is missing"),
        ("history.csv", "epoch,loss\n1,2\n2", r"history.csv is damaged"),
        ("history.csv", "", r"history.csv is damaged"),
    ],
)
def test_what_is_left_out_is_said(tmp_path, make_run, name, content, reason):
    make_run(tmp_path / "good")
    damage(make_run(tmp_path / "bad", seed=1), name, content)
    expected = rf"1 left out of the comparison: \S+bad: {reason}"
    with pytest.warns(UserWarning, match=expected):
        (row,) = runs.compare(tmp_path)
    assert row.seeds == (0,)


def test_a_run_that_has_not_ended_an_epoch(tmp_path, make_run):
    folder = make_run(tmp_path / "run")
    for name in ("metrics.json", "history.csv"):
        (folder / name).unlink()
    with pytest.warns(UserWarning, match="run: not finished, 0 of 2 epochs"):
        assert runs.compare(tmp_path) == []


def test_a_copy_does_not_count_twice(tmp_path, make_run):
    folder = make_run(tmp_path / "a")
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.warns(UserWarning, match=r"copy: the same recipe.* as \S+a$"):
        (row,) = runs.compare(tmp_path)
    assert row.n == 1


def test_a_folder_given_twice_is_read_once(tmp_path, make_run):
    make_run(tmp_path / "runs" / "a")
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "loop").symlink_to(tmp_path)
    names = ("runs", "runs/a", "link", "runs")
    found = find_runs([tmp_path / name for name in names])
    assert (len(found.runs), found.left_out) == (1, {})


def test_a_folder_without_runs_is_said(tmp_path, make_run):
    make_run(tmp_path / "runs" / "a")
    (tmp_path / "empty").mkdir()
    found = find_runs([tmp_path / "runs", tmp_path / "empty"])
    assert len(found.runs) == 1
    assert found.left_out == {tmp_path / "empty": "no run in it or below it"}


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match=rf"`paths` must be .*{name}'$"):
        runs.compare(tmp_path / name)


def test_a_search_is_no_run_but_its_retrained_recipes_are(tmp_path, make_run):
    make_run(tmp_path / "search" / "retrained" / "0001-seed0")
    for name in ("search.json", "environment.json"):
        (tmp_path / "search" / name).write_text("{}")
    (row,) = runs.compare(tmp_path)
    assert row.n == 1


@pytest.mark.backend
def test_real_runs(quick, tmp_path):
    """Two seeds and a stopped one, as `train` writes them."""
    finished = [quick(f"runs/seed{seed}", seed=seed, epochs=1) for seed in (0, 1)]
    stopped = quick("runs/seed2", seed=2, epochs=1).path
    (stopped / "metrics.json").unlink()
    with pytest.warns(UserWarning, match="seed2: not finished, 1 of 1 epochs"):
        (row,) = runs.compare(tmp_path / "runs")
    accuracies = [run.metrics["val_accuracy"] for run in finished]
    assert row.mean == pytest.approx(sum(accuracies) / 2)
    assert row.seeds == (0, 1)
    assert (row.recipe, row.data) == ("baseline", "tiny-imagenet-200")
    json.dumps(row.as_dict())
    assert row.runs[0].history == runs.read(finished[0].path).history
