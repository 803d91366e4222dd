"""The command line: results, exit statuses, and one clear line per error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from keras_tinyalex import AlexNetMini, visualization
from keras_tinyalex.applications import save_model
from keras_tinyalex.cli import main, make_parser
from keras_tinyalex.datasets import source as sources

WNIDS = ("n01443537", "n01629819", "n01641577")


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.keras"
    save_model(AlexNetMini(num_classes=3, width_multiplier=1 / 16), path, WNIDS)
    return path


@pytest.fixture
def narrow(tmp_path):
    """A recipe of the network at a sixteenth of its width, to save time."""
    path = tmp_path / "narrow.json"
    path.write_text('{"width_multiplier": 0.0625}')
    return path


@pytest.fixture
def run(capsys):
    """Runs a command; returns its status, JSON result and standard error."""

    def start(*arguments):
        status = main([str(argument) for argument in arguments])
        out, error = capsys.readouterr()
        last = out.splitlines()[-1] if out else "null"
        return status, json.loads(last) if last[0] in "{n" else last, error

    return start


def test_prepare(run, official_zip, tmp_path):
    output = tmp_path / "sorted"
    command = ("prepare", "--source", official_zip, "--output", output, "--json")
    status, result, _ = run(*command)
    assert status == 0
    assert result["written"] == 30
    files = sorted(str(path.relative_to(output)) for path in output.rglob("*.JPEG"))
    assert len(files) == 30
    assert files[0] == f"train_images/{WNIDS[0]}/{WNIDS[0]}_0.JPEG"
    assert (output / "manifest.json").exists()
    status, result, error = run(*command)
    assert (status, result["written"]) == (0, 0)
    assert "30 images of 3 classes" in error


def test_prepare_dry_run_writes_nothing(run, official_folder, tmp_path):
    output = tmp_path / "sorted"
    command = ("prepare", "--source", official_folder, "--output", output)
    status, _, error = run(*command, "--dry-run")
    assert status == 0
    assert "would be in" in error
    assert not output.exists()


def test_verify(run, official_folder):
    assert run("verify", official_folder)[0] == 0
    bad = official_folder / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_0.JPEG"
    bad.write_text("text")
    status, result, error = run("verify", official_folder, "--json")
    assert status == 1
    assert result["images"] == 30
    assert [entry["file"] for entry in result["bad"]] == [str(bad)]
    assert f"{bad}: not a JPEG" in error


def test_what_is_left_out_is_said_the_same_way(run, official_folder, tmp_path):
    (official_folder / "train" / WNIDS[0] / "images" / "a.tif").write_bytes(b"")
    expected = (
        "JPEG, PNG, BMP, GIF, WebP, AVIF or HEIC images, .tif 1 (1): "
        "train/n01443537/images/a"
    )
    model = tmp_path / "model.keras"
    save_model(AlexNetMini(num_classes=3, width_multiplier=1 / 16), model, WNIDS)
    for command in (
        ("verify", official_folder),
        ("prepare", "--source", official_folder, "--output", tmp_path / "sorted"),
        ("evaluate", model, "--data", official_folder),
    ):
        sources._said.clear()
        status, result, error = run(*command, "--json")
        assert status == 0
        assert error.count(expected) == 1
        ((left_out),) = result["left_out"]
        assert left_out["count"] == 1
        assert left_out["first"] == ["train/n01443537/images/a.tif"]


@pytest.mark.parametrize("shape", [(96, 96, 3), (40, 32, 1)])
def test_images_are_read_as_the_model_takes_them(run, official_folder, tmp_path, shape):
    model = tmp_path / "model.keras"
    network = AlexNetMini(num_classes=3, input_shape=shape, width_multiplier=1 / 16)
    save_model(network, model, WNIDS)
    status, measured, _ = run("evaluate", model, "--data", official_folder, "--json")
    assert (status, measured["n"]) == (0, 6)
    images = official_folder / "val" / "images"
    status, predicted, _ = run("predict", model, images, "--json")
    assert status == 0
    assert [Path(one["image"]).name for one in predicted["images"]] == [
        f"val_{number}.JPEG" for number in range(6)
    ]


def test_a_warning_is_one_line(run, official_folder, narrow, tmp_path):
    body = AlexNetMini(False, width_multiplier=1 / 16, input_shape=(64, 64, 3))
    file = tmp_path / "body.weights.h5"
    body.save_weights(file)
    command = ("train", "--data", official_folder, "--recipe", narrow, "--epochs", 1)
    command += ("--classes", 2, "--weights", file)
    status, _, error = run(*command, "--output", tmp_path / "run")
    assert status == 0
    (line,) = [line for line in error.splitlines() if "untrained" in line]
    assert line.startswith("keras-tinyalex: warning: The weights in ")
    assert line.endswith("the body is loaded, and the model's are new and untrained.")
    assert "UserWarning" not in error
    with pytest.warns(UserWarning, match="new and untrained"):
        AlexNetMini(weights=file, num_classes=2, width_multiplier=1 / 16)


def test_labels_follow_the_order_of_the_model(run, official_folder, tmp_path):
    """Whose class names need not be sorted."""
    model = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            keras.layers.GlobalAveragePooling2D(),
            # Red, green and blue are the colors of the classes in sorted order.
            keras.layers.Dense(3, "softmax", kernel_initializer=reverse),
        ]
    )
    save_model(model, tmp_path / "model.keras", WNIDS[::-1])
    command = ("evaluate", tmp_path / "model.keras", "--data", official_folder)
    assert run(*command, "--json")[1]["top1"] == 1.0


def test_training_images_are_not_counted_unasked(run, official_folder, tmp_path):
    """A model that was trained in the same folder, which has no val images."""
    narrow, data = tmp_path / "narrow.json", official_folder / "train"
    narrow.write_text('{"width_multiplier": 0.0625}')
    output = ("--output", tmp_path / "run", "--epochs", 1)
    trained = run("train", "--data", data, "--recipe", narrow, *output, "--json")[1]
    command = ("evaluate", tmp_path / "run" / "model.keras", "--data", data)
    _, held_out, error = run(*command, "--json")
    assert (held_out["split"], held_out["n"], trained["n_val"]) == ("held_out", 3, 3)
    assert held_out["top1"] == trained["val_accuracy"]
    assert held_out["loss"] == pytest.approx(trained["val_loss"], rel=1e-5)
    last = error.splitlines()[-1]
    assert last.startswith("held-out images: top 1 ")
    assert last.endswith(", n 3; --all measures every image")
    _, everything, error = run(*command, "--all", "--json")
    assert (everything["split"], everything["n"]) == ("all", 24)
    assert error.splitlines()[-1].startswith("all images: top 1 ")
    command = (*command[:3], official_folder)
    assert run(*command)[2].splitlines()[-1].startswith("val images: top 1 ")
    assert run(*command, "--all", "--json")[1]["n"] == 30


@keras.saving.register_keras_serializable("tests")
def reverse(shape, dtype=None):
    return keras.ops.flip(keras.ops.eye(3, dtype=dtype), axis=0)


def test_predict_tells_the_result_of_each_file(run, official_folder, model_file):
    images = official_folder / "val" / "images"
    bad, address = images / "bad.jpg", "https://example.com/a.jpg"
    bad.write_bytes(b"")
    good = images / "val_0.JPEG"
    status, result, error = run("predict", model_file, good, bad, address, "--json")
    assert status == 1
    assert [sorted(one) for one in result["images"]] == [
        ["image", "predictions"],
        ["error", "image"],
        ["error", "image"],
    ]
    last = error.strip().splitlines()[-1]
    assert last == (
        f"keras-tinyalex: error: of 3 files, 2 problems: {bad}: the file is empty; "
        f"{address}: not a file but an address: download the image first."
    )


def test_train_on_a_part_and_validate_on_the_rest(
    run, official_folder, tmp_path, narrow
):
    command = ("train", "--data", official_folder, "--recipe", narrow, "--epochs", 1)
    output = ("--output", tmp_path / "run", "--json")
    status, result, _ = run(*command, "--validation-split", 0.2, *output)
    assert status == 0
    # 8 training images of each of the three classes, of which 2 are held out
    assert (result["n_train"], result["n_val"]) == (18, 6)
    status, _, error = run(*command, "--validation-split", 1.2, *output)
    assert status == 1
    assert "`validation_split` must be" in error
    assert "Received: validation_split=1.2" in error


def test_train_evaluate_predict(run, official_folder, tmp_path, narrow):
    output = tmp_path / "run"
    status, result, error = run(
        *("train", "--data", official_folder, "--classes", "goldfish,bullfrog"),
        *("--recipe", narrow, "--epochs", 2, "--output", output, "--json"),
    )
    assert status == 0
    assert result["epochs"] == 2
    assert result["classes"] == 2
    assert {
        "val_accuracy",
        "val_top5",
        "train_seconds",
        "seconds_total",
        "images_per_second",
        "run",
    } <= result.keys()
    assert "epoch 1/2  loss" in error
    assert "images/s" in error

    model, plots = output / "model.h5", tmp_path / "plots"
    status, measured, error = run(
        *("evaluate", model, "--data", official_folder),
        *("--plots", plots, "--json"),
    )
    assert status == 0
    # the model knows two of the three classes: their 4 val images
    assert measured["n"] == 4
    assert measured["top1"] == result["val_accuracy"]
    # Of two classes, the five most probable ones are both.
    assert measured["top5"] is result["val_top5"] is None
    assert "top 5" not in error
    assert sorted(path.name for path in plots.iterdir()) == [
        "calibration.png",
        "class_accuracy.png",
        "confused_pairs.png",
        "confusion_matrix.png",
        "per_class.csv",
        "predictions.png",
    ]

    image = official_folder / "val" / "images" / "val_0.JPEG"
    status, predicted, error = run("predict", model, image, "--top", 1, "--json")
    assert status == 0
    (only,) = predicted["images"]
    assert only["image"] == str(image)
    (best,) = only["predictions"]
    assert best["class_name"] in (WNIDS[0], WNIDS[2])
    assert best["name"] in ("goldfish", "bullfrog")
    assert 0.5 <= best["score"] <= 1
    assert best["name"] in error


def bad_input(name, folder, model):
    """Command lines that must fail, and what they say."""
    empty = folder.parent / "empty"
    empty.mkdir()
    text = folder / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_0.JPEG"
    commands = {
        "wrong path": (("train", "--data", "nowhere"), "source='nowhere'"),
        "raw val": (("train", "--data", folder / "val"), "raw 'val' folder"),
        "empty folder": (("train", "--data", empty), "no training image"),
        "unknown class": (
            ("train", "--data", folder, "--classes", "goldfsh"),
            "goldfsh",
        ),
        "unknown recipe": (
            ("train", "--data", folder, "--classes", "3", "--recipe", "besst"),
            "recipe='besst'",
        ),
        "missing model": (("predict", "nowhere.keras", text), "nowhere.keras"),
        "model is a picture": (("predict", text, text), "Cannot load a model"),
        "missing image": (("predict", model, "nowhere.JPEG"), "nowhere.JPEG"),
        "not an image": (("predict", model, model), "model.keras: not a JPEG"),
        "other classes": (
            ("evaluate", model, "--data", folder / "train", "--classes", "2"),
            "3",
        ),
        "a model of others": (
            ("evaluate", model, "--data", "sample"),
            "`data` must hold the 3 classes that the model was trained on; 3 are",
        ),
        "prepare onto a file": (
            ("prepare", "--source", folder, "--output", text),
            text.name,
        ),
        "weights without name": (("weights", "path"), "needs a NAME"),
        "unknown weights": (("weights", "show", "alexnet"), "name='alexnet'"),
        "search nowhere": (("tune", "--data", "nowhere"), "source='nowhere'"),
        "missing recipe": (
            ("train", "--data", folder, "--recipe", "no.json"),
            "no.json",
        ),
    }
    return commands[name]


@pytest.mark.parametrize(
    "name",
    [
        "wrong path",
        "raw val",
        "empty folder",
        "unknown class",
        "unknown recipe",
        "missing model",
        "model is a picture",
        "missing image",
        "not an image",
        "other classes",
        "a model of others",
        "prepare onto a file",
        "weights without name",
        "unknown weights",
        "search nowhere",
        "missing recipe",
    ],
)
def test_bad_input_is_one_line(
    run, official_folder, model_file, monkeypatch, tmp_path, name
):
    monkeypatch.chdir(tmp_path)
    command, message = bad_input(name, official_folder, model_file)
    before = sorted(tmp_path.rglob("*"))
    status, _, error = run(*command)
    assert status == 1
    *progress, last = error.strip().splitlines()
    assert last.startswith("keras-tinyalex: error: ")
    assert message in last
    assert all(line.startswith(("decoding", "held out: ")) for line in progress)
    assert sorted(tmp_path.rglob("*")) == before


def test_text_named_jpeg_is_named(run, official_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = official_folder / "train" / WNIDS[2] / "images" / f"{WNIDS[2]}_7.JPEG"
    bad.write_text("I am no picture")
    status, _, error = run("train", "--data", official_folder, "--classes", 3)
    assert status == 1
    assert f"{bad}: not a JPEG" in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("prepare",), "--output"),
        (("prepare", "--output", "x", "--mode", "teleport"), "teleport"),
        (("train", "--epochs", "0"), "must be a positive integer, not '0'"),
        (("train", "--seed", "-1"), "-1"),
        (("tune",), "--data"),
        (("tune", "--data", "x", "--space", "sgd"), "invalid choice: 'sgd'"),
        (("tune", "--data", "x", "--chief", "--worker", "a"), "not allowed with"),
        (("evaluate", "model.keras"), "--data"),
        (("predict", "model.keras"), "IMAGE"),
    ],
)
def test_wrong_arguments_exit_with_2(run, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_choices_are_those_of_the_library():
    """They are literals, so that wrong arguments import no room for them."""
    from keras_tinyalex import exporting, recipes
    from keras_tinyalex.cli import parsing
    from keras_tinyalex.datasets.corruptions import CORRUPTIONS
    from keras_tinyalex.datasets.restructure import MODES
    from keras_tinyalex.tables import STYLES
    from keras_tinyalex.tuning.oracles import TUNERS
    from keras_tinyalex.tuning.spaces import SPACES

    (commands,) = (a.choices for a in make_parser()._actions if a.nargs == "A...")
    choices = {
        f"{command} {option}": sorted(action.choices)
        for command, parser in commands.items()
        for action in parser._actions
        for option in action.option_strings
        if action.choices
    }
    assert choices == {
        "prepare --mode": sorted(MODES),
        "evaluate --corruptions": sorted(CORRUPTIONS),
        "train --keep": ["best", "last"],
        "export --format": sorted(exporting.FORMATS),
        "export --quantize": sorted({kind for _, kind in exporting.QUANTIZATIONS}),
        "runs --format": sorted(STYLES),
        "tune --space": sorted(SPACES),
        "tune --tuner": sorted(TUNERS),
        "weights --format": ["huggingface"],
    }
    assert list(parsing.RECIPES) == list(recipes.RECIPES)


def test_debug_shows_the_traceback(run):
    assert "Traceback" not in run("train", "--data", "nowhere")[2]
    assert "Traceback" in run("train", "--data", "nowhere", "--debug")[2]


def test_as_a_process(official_folder, tmp_path):
    command = [sys.executable, "-m", "keras_tinyalex", "prepare", "--json"]
    command += ["--source", str(official_folder), "--output", str(tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert json.loads(done.stdout)["files"] == 30
    assert "30 images of 3 classes" in done.stderr
    again = [*command[:-1], str(official_folder / "train" / "sorted")]
    failed = subprocess.run(again, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "Traceback" not in failed.stderr


def test_folder_of_fewer_than_20_classes_needs_no_option(
    run, official_folder, tmp_path, narrow
):
    command = ("train", "--data", official_folder / "train", "--epochs", 1, "--json")
    command += ("--recipe", narrow, "--output", tmp_path / "run")
    status, result, _ = run(*command)
    assert status == 0
    assert result["classes"] == 3
    # no val images: a tenth of each class's 8 is held out
    assert (result["n_train"], result["n_val"]) == (21, 3)


def test_a_class_of_one_image_is_named_by_an_option_of_the_command(
    run, official_folder
):
    """A tenth is held out without being asked for, since there are no val images."""
    for path in (official_folder / "train" / WNIDS[1] / "images").glob("*_[1-7].JPEG"):
        path.unlink()
    status, _, error = run("train", "--data", official_folder / "train")
    assert status == 1
    assert "validation_split" not in error
    assert "`data` must have two or more training images of each class" in error
    assert f"Add images of '{WNIDS[1]}', or choose other classes" in error


def test_tune_and_train_what_it_found(run, official_folder, tmp_path):
    recipe, output = tmp_path / "narrow.json", tmp_path / "found"
    recipe.write_text('{"width_multiplier": 0.0625}')
    command = ("tune", "--data", official_folder, "--space", "augmentation", "--json")
    command += ("--recipe", recipe, "--output", output, "--epochs", 1)
    status, result, error = run(*command, "--tuner", "random", "--max-trials", 1)
    assert status == 0
    assert (result["trials"], result["completed"]) == (1, 1)
    assert result["best"]["trial"] == "0"
    assert "trial 0 completed, val_accuracy" in error
    assert f"train --recipe {output / 'best.json'}" in error
    status, trained, _ = run(
        *("train", "--data", official_folder, "--recipe", result["recipe"]),
        *("--output", tmp_path / "run", "--json"),
    )
    assert status == 0
    assert (trained["recipe"], trained["epochs"]) == ("found-0", 1)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"]["width_multiplier"] == 1 / 16


def test_a_failed_figure_does_not_take_the_result_along(
    run, official_folder, model_file, tmp_path, monkeypatch
):
    def fail(*arguments):
        raise RuntimeError("no LaTeX")

    monkeypatch.setattr(visualization, "plot_evaluation", fail)
    command = ("evaluate", model_file, "--data", official_folder)
    status, result, error = run(*command, "--plots", tmp_path / "plots", "--json")
    assert (status, result["n"]) == (0, 6)
    assert result["not_written"] == ["plots: no LaTeX"]
    assert "plots cannot be written, all else can: no LaTeX" in error
    status, _, error = run(*command, "--plots", official_folder / "wnids.txt")
    assert status == 1
    assert "top 1" not in error
