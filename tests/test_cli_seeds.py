"""The command line: several seeds, and the comparison of finished runs."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from keras_tinyalex import cli, recipes, training


@pytest.fixture
def run(capsys):
    """Runs a command; returns its status, lines of output and standard error."""

    def start(*arguments):
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        out, error = capsys.readouterr()
        return status, out.splitlines(), error

    return start


@pytest.fixture
def trained(monkeypatch):
    """Stands in for `train`; returns its calls, by seed. Seed 1 fails."""
    calls = {}

    def train(recipe, data, classes, output, seed, resume, **options):
        calls[seed] = output
        if seed == 1:
            raise FloatingPointError("The training diverged in epoch 3: loss nan.")
        metrics = {"val_accuracy": 0.5 + seed / 10, "interval": [0, 1], "n_val": 9}
        metrics |= {"val_top5": None, "run": f"run{seed}", "seed": seed, "epochs": 3}
        return SimpleNamespace(metrics=metrics, path=Path(), already_finished=False)

    monkeypatch.setattr(training, "train", train)
    return calls


@pytest.mark.backend
def test_a_run_for_each_seed(run, official_folder, tmp_path):
    narrow = dataclasses.replace(recipes.BASELINE, width_multiplier=1 / 16)
    narrow.save(tmp_path / "narrow.json")
    folder = tmp_path / "study"
    command = ["train", "--data", official_folder, "--recipe", tmp_path / "narrow.json"]
    command += ["--epochs", 1, "--output", folder, "--json", "--seed"]
    status, out, _ = run(*command, 0, 1)
    assert status == 0
    (line,) = out
    result = json.loads(line)
    assert result["runs"] == [str(folder / "seed0"), str(folder / "seed1")]
    assert [metrics["seed"] for metrics in result["metrics"]] == [0, 1]
    first = (folder / "seed0" / "model.keras").stat().st_mtime_ns

    status, out, error = run(*command, 0, 1, 2)
    assert status == 0
    result = json.loads(out[-1])
    assert [m["already_finished"] for m in result["metrics"]] == [True, True, False]
    assert (folder / "seed0" / "model.keras").stat().st_mtime_ns == first
    assert error.count("is finished; this is its result of") == 2
    accuracies = [metrics["val_accuracy"] for metrics in result["metrics"]]
    assert result["mean"] == pytest.approx(sum(accuracies) / 3)
    last = error.splitlines()[-1]
    assert last.startswith(f"val_accuracy of seeds 0 1 2: mean {result['mean']:.4f}")
    assert "top 5" not in error  # of three classes

    status, out, _ = run("runs", folder, "--json")
    (row,) = json.loads(out[-1])["runs"]
    for name in ("mean", "standard_deviation", "runs", "interval"):
        assert row[name] == pytest.approx(result[name])


def test_a_failing_seed_does_not_lose_the_others(run, trained):
    """0.5 and 0.7: mean 0.6, 0.1 away; t is 12.706, the interval 0.6 -+ 1.2706."""
    status, out, error = run("train", "--seed", 0, 1, 2, "--json")
    assert status == 1
    result = json.loads(out[-1])
    assert result["runs"] == ["run0", "run2"]
    assert result["mean"] == pytest.approx(0.6)
    assert result["standard_deviation"] == pytest.approx(0.1 * 2**0.5)
    assert result["interval"] == pytest.approx([-0.6706, 1.8706], abs=1e-4)
    assert result["failed"] == [
        {"seed": 1, "error": "The training diverged in epoch 3: loss nan."}
    ]
    lines = error.splitlines()
    assert "keras-tinyalex: error: seed 1: The training diverged in ep" in error
    assert lines[-1] == (
        "val_accuracy of seeds 0 2: mean 0.6000, standard deviation 0.1414 (n - 1), "
        "95% interval of the mean -0.6706 to 1.8706 (Student t), n 2"
    )


def test_one_seed_that_is_left_has_no_spread(run, trained):
    status, out, error = run("train", "--seed", 1, 0, "--json")
    result = json.loads(out[-1])
    assert (status, result["mean"], result["interval"]) == (1, 0.5, None)
    assert error.splitlines()[-1] == "val_accuracy of seeds 0: mean 0.5000, n 1"


def test_folders_of_several_seeds(run, trained, tmp_path):
    run("train", "--seed", 3, 2)
    assert trained == {3: None, 2: None}  # each its default folder
    run("train", "--seed", 3, 2, "--output", tmp_path)
    assert trained == {3: str(tmp_path / "seed3"), 2: str(tmp_path / "seed2")}


@pytest.mark.parametrize("seeds", [[4], [4, 4]])
def test_one_seed_is_as_before(run, trained, seeds):
    """Also where it is given twice, which would count one run twice."""
    status, out, _ = run("train", "--seed", *seeds, "--output", "mine", "--json")
    assert (status, trained) == (0, {4: "mine"})
    result = json.loads(out[-1])
    assert result["val_accuracy"] == 0.9
    assert "runs" not in result


def test_a_run_folder_does_not_take_those_of_seeds(run, trained, tmp_path, make_run):
    folder = make_run(tmp_path / "run")
    status, _, error = run("train", "--seed", 0, 2, "--output", folder)
    assert (status, trained) == (1, {})
    assert f"several seeds, not a run folder itself. Received: --output {folder}" in (
        error
    )


def test_an_interruption_ends_all_seeds(run, monkeypatch):
    def train(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", train)
    status, out, error = run("train", "--seed", 0, 1, "--json")
    assert (status, out) == (1, [])
    assert error.count("interrupted; the same command resumes") == 1


TABLE = """\
recipe    data  epochs  classes  seeds  n    mean  standard deviation  95% interval\
       seconds
baseline  pets       2        2  0 1    2  0.6000              0.1414  -0.6706 to\
 1.8706     60.0"""
CSV = """\
recipe,data,epochs,classes,seeds,n,mean,standard deviation,95% interval,seconds
baseline,pets,2,2,0 1,2,0.6000,0.1414,-0.6706 to 1.8706,60.0"""
MARKDOWN_ROW = (
    "| baseline | pets | 2 | 2 | 0 1 | 2 | 0.6000 | 0.1414 | -0.6706 to 1.8706 | 60.0 |"
)
LATEX_ROW = (
    r"baseline & pets & 2 & 2 & 0 1 & 2 & 0.6000 & 0.1414 & -0.6706 to 1.8706 & 60.0 \\"
)


@pytest.fixture
def two_seeds(tmp_path, make_run):
    make_run(tmp_path / "runs" / "a", 0, 0.5)
    make_run(tmp_path / "runs" / "b", 1, 0.7)
    return tmp_path / "runs"


def test_runs_in_each_format(run, two_seeds, monkeypatch):
    monkeypatch.chdir(two_seeds.parent)
    assert run("runs") == (0, TABLE.splitlines(), "")
    assert run("runs", "--format", "csv")[1] == CSV.splitlines()
    assert run("runs", "--format", "markdown")[1][-1] == MARKDOWN_ROW
    assert run("runs", "--format", "latex")[1][4] == LATEX_ROW


def test_runs_says_what_is_left_out(run, two_seeds, make_run):
    folder = make_run(two_seeds / "c", 2)
    (folder / "metrics.json").unlink()
    status, out, error = run("runs", two_seeds, "--json")
    assert status == 0
    reason = "not finished, 2 of 2 epochs"
    assert error == f"left out: {folder}: {reason}\n"
    (line,) = out
    result = json.loads(line)
    assert result["left_out"] == [{"folder": str(folder), "reason": reason}]
    (row,) = result["runs"]
    assert {"recipe", "data", "seeds", "n", "mean", "seconds"} <= row.keys()
    assert row["seeds"] == [0, 1]


def test_runs_without_a_finished_run(run, tmp_path):
    status, out, error = run("runs", tmp_path, "--json")
    assert status == 1
    assert json.loads(out[-1])["runs"] == []
    assert "no run in it or below it" in error
    assert "there is no finished run" in error
    status, _, error = run("runs", tmp_path / "nowhere")
    assert status == 1
    assert "`paths` must be folders" in error


@pytest.mark.parametrize("name", ["new/curves.png", "curves.pdf"])
def test_runs_draws_the_curves(run, two_seeds, tmp_path, name):
    status, _, error = run("runs", two_seeds, "--plot", tmp_path / name)
    assert (status, error) == (0, f"figure: {tmp_path / name}\n")
    if name.endswith("png"):
        with Image.open(tmp_path / name) as image:
            assert image.size[0] == 1500
    else:
        assert (tmp_path / name).read_bytes().startswith(b"%PDF")
