"""train(): the run folder, reproducibility, arguments."""

import csv
import dataclasses
import hashlib
import json
import os
import random
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

from keras_tinyalex import (
    AlexNetMini,
    evaluate,
    fitting,
    machine,
    outputs,
    recipes,
    runs,
    train,
    training,
)
from keras_tinyalex.applications import load_model, save_model
from keras_tinyalex.splits import load_splits
from keras_tinyalex.training import _write_plots
from keras_tinyalex.visualization import summary

WNIDS = ("n01443537", "n01629819", "n01641577")

EPOCHS = 3

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_official_folder):
    """A finished run of three epochs, which tests only read."""
    folder = tmp_path_factory.mktemp("finished")
    data = make_official_folder(folder / "data")
    recipe = dataclasses.replace(recipes.BASELINE, width_multiplier=1 / 16)
    return train(recipe, data, 3, folder / "run", epochs=EPOCHS, progress=False)


def test_run_folder_is_complete(finished):
    run = finished
    names = {path.name for path in run.path.iterdir()}
    assert names == {
        "config.json",
        "environment.json",
        "history.csv",
        "metrics.json",
        "tensorboard",
        "checkpoints",
        "model.keras",
        "model.h5",
        "per_class.csv",
        "plots",
    }
    config = json.loads((run.path / "config.json").read_text())
    assert config["recipe"]["epochs"] == EPOCHS
    assert config["class_names"] == list(WNIDS)
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["backend"] == keras.backend.backend()
    assert environment["versions"]["keras"] == keras.__version__
    assert environment["keeps_freed_memory"] is machine.keep_freed_memory()
    plots = sorted((run.path / "plots").iterdir())
    assert [plot.name for plot in plots] == [
        "calibration.png",
        "class_accuracy.png",
        "confused_pairs.png",
        "confusion_matrix.png",
        "history.png",
        "predictions.png",
        "samples.png",
    ]
    for plot in plots:
        with Image.open(plot) as image:
            assert min(image.size) > 300


def test_metrics_agree_with_the_model(finished):
    run = finished
    written = json.loads((run.path / "metrics.json").read_text())
    assert written == run.metrics
    assert written["epochs"] == EPOCHS
    assert written["n_train"] == 24
    assert written["n_val"] == 6
    assert written["not_written"] == []
    assert written["val_accuracy"] == pytest.approx(run.history["val_accuracy"][-1])
    assert written["val_loss"] == pytest.approx(run.history["val_loss"][-1], rel=1e-4)
    # the speed leaves out the first epoch, which compiles
    steady = run.history["train_seconds"][1:]
    speed = 24 * len(steady) / sum(steady)
    assert written["images_per_second"] == pytest.approx(speed, rel=0.01)
    assert written["train_seconds"] <= written["seconds_total"]


def test_history_file(finished):
    run = finished
    with (run.path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for name in ("loss", "accuracy", "top5", "val_loss", "val_accuracy", "val_top5"):
        values = [float(row[name]) for row in rows]
        assert values == pytest.approx(run.history[name], rel=1e-6)


def test_tensorboard_shows_the_history(finished):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    run = finished
    for part, prefix in (("train", ""), ("validation", "val_")):
        (path,) = (run.path / "tensorboard" / part).iterdir()
        seen = {}
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = value.tensor.float_val[0]
                seen.setdefault(value.tag, {})[event.step] = number
        expected = run.history[f"{prefix}accuracy"]
        assert seen["epoch_accuracy"] == pytest.approx(dict(enumerate(expected)))
        if part == "train":
            rate = recipes.BASELINE.learning_rate  # a constant one
            assert seen["epoch_learning_rate"] == pytest.approx(
                {0: rate, 1: rate, 2: rate}
            )
            assert seen["epoch_half_size"] == {0: 0, 1: 0, 2: 0}


def test_saved_models_predict_the_same_and_hold_their_class_names(finished):
    run = finished
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    expected = run.model.predict(image, verbose=0)
    for name in ("model.keras", "model.h5"):
        model, class_names = load_model(run.path / name)
        assert class_names == WNIDS
        np.testing.assert_allclose(model.predict(image, verbose=0), expected, rtol=1e-5)


def test_same_seed_same_weights(quick, weights_of):
    first, second, other = (
        weights_of(quick(name, seed=seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert (first == second).all()
    assert (first != other).any()


@pytest.mark.parametrize("name", sorted(recipes.RECIPES))
def test_every_recipe_ends_in_the_plain_network(quick, name):
    taught = recipes.get(name).teacher_weight
    run = quick(recipe=name, epochs=1, teacher="tiny_imagenet_20" if taught else None)
    plain = AlexNetMini(num_classes=3, width_multiplier=1 / 16)
    assert [w.path for w in run.model.weights] == [w.path for w in plain.weights]
    stored, _ = load_model(run.path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    np.testing.assert_allclose(
        stored.predict(images, verbose=0),
        run.model.predict(images, verbose=0),
        atol=1e-5,
    )


def test_channels_first_in_the_configuration_of_keras(quick, monkeypatch):
    expected = quick("a", recipe="best", epochs=2).metrics["val_loss"]
    monkeypatch.setattr(training, "_write_plots", _write_plots)
    keras.config.set_image_data_format("channels_first")
    try:
        run = quick("b", recipe="best", epochs=2)
        assert keras.config.image_data_format() == "channels_first"
        evaluation = evaluate(run.model, run.path.parent / "tiny-imagenet-200")
    finally:
        keras.config.set_image_data_format("channels_last")
    assert run.model.input_shape == (None, 64, 64, 3)
    assert run.metrics["val_loss"] == pytest.approx(expected, rel=1e-4)
    assert evaluation.loss == pytest.approx(expected, rel=1e-4)
    assert run.metrics["not_written"] == []


def test_a_failed_picture_or_second_format_does_not_take_the_result_along(
    quick, monkeypatch, capsys
):
    def fail(*arguments):
        raise RuntimeError("latex was not\nfound")

    def only_keras(model, path, class_names):
        if path.suffix == ".h5":
            raise ValueError("the names are too long")
        save_model(model, path, class_names)

    monkeypatch.setattr(training, "save_model", only_keras)
    monkeypatch.setattr(training, "_write_plots", fail)
    run = quick(epochs=1)

    lines = ["model.h5: the names are too long", "plots: latex was not found"]
    assert run.metrics["not_written"] == lines
    assert json.loads((run.path / "metrics.json").read_text()) == run.metrics
    shown = [line.replace(" cannot be written, all else can", "") for line in lines]
    assert capsys.readouterr().err.replace(" cannot be written, all else can", "") == (
        "".join(f"{line}\n" for line in shown)
    )


class StartedError(Exception):
    """The first epoch would begin."""


@pytest.fixture
def stop_before_training(monkeypatch):
    """Ends a training before its first epoch."""

    def run(*arguments, **options):
        raise StartedError

    monkeypatch.setattr(fitting.ResumableFit, "run", run)


def test_what_cannot_be_written_is_known_before_the_first_epoch(
    quick, stop_before_training, monkeypatch, capsys
):
    def fail(*arguments):
        raise RuntimeError("no font")

    def only_keras(model, path, class_names):
        if path.suffix == ".h5":
            raise ValueError("the names are too long")
        save_model(model, path, class_names)

    monkeypatch.setattr(outputs, "save_model", only_keras)
    monkeypatch.setattr(summary, "plot_letters", fail)
    with pytest.raises(StartedError):
        quick()
    assert capsys.readouterr().err == (
        "model.h5 cannot be written, all else can: the names are too long\n"
        "plots cannot be written, all else can: no font\n"
    )


def test_names_that_no_file_can_hold_stop_before_the_first_epoch(
    quick, stop_before_training, monkeypatch, tmp_path
):
    def fail(model, path, class_names):
        path.write_text("a part of it")
        raise OSError("Cannot save the model")

    monkeypatch.setattr(outputs, "save_model", fail)
    with pytest.raises(OSError, match="Cannot save the model"):
        quick()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "environment.json"}


def test_disk_space_is_required_before_the_first_epoch(
    quick, stop_before_training, monkeypatch
):
    # Of the network at a sixteenth of its width; five files, and 1 MiB for others.
    parameters = AlexNetMini(num_classes=3, width_multiplier=1 / 16).count_params()
    needed = 5 * 4 * parameters + (1 << 20)
    place = SimpleNamespace(free=needed - 1)
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda path: place)
    with pytest.raises(OSError, match=r"`output` must have room .* Received: output="):
        quick()
    place.free = needed + 1000  # also for the counters of optimizer and dropout
    with pytest.raises(StartedError):
        quick()


def test_names_that_are_not_utf_8(quick, monkeypatch):
    names = (os.fsdecode(b"gnu\xe9"), "$x_1$", "lone \ud800")

    def load(*arguments):
        splits = load_splits(*arguments)
        renamed = [dataclasses.replace(s, class_names=names) for s in splits[:2]]
        return splits._replace(train=renamed[0], val=renamed[1], words={})

    monkeypatch.setattr(training, "load_splits", load)
    monkeypatch.setattr(training, "_write_plots", _write_plots)
    run = quick(epochs=1)
    assert run.metrics["not_written"] == []
    assert runs.read(run.path).class_names == names


def test_validation_split_holds_training_images_out(quick):
    run = quick(validation_split=0.25)
    assert run.metrics["n_train"] == 18
    assert run.metrics["n_val"] == 6


@pytest.mark.parametrize(
    ("count", "classes", "expected"),
    [(3, None, 3), (21, None, 20), (21, "all", 21), (21, 2, 2)],
)
def test_default_classes_of_tiny_imagenet_are_the_first_20(
    tmp_path, make_official_folder, count, classes, expected
):
    names = {f"n{number:08}": "" for number in range(count)}
    data = make_official_folder(tmp_path / "data", train=2, val=1, classes=names)
    splits = load_splits(data, classes)
    assert splits.train.class_names == tuple(names)[:expected]
    assert splits.val.class_names == tuple(names)[:expected]


def test_own_classes_are_all_used_by_default(tmp_path, make_official_folder):
    names = {f"class {number:02}": "" for number in range(25)}
    data = make_official_folder(tmp_path / "data", train=2, val=1, classes=names)
    splits = load_splits(data)
    assert splits.train.class_names == tuple(names)
    assert splits.left_out == []
    assert len(load_splits(data, 20).train.class_names) == 20


def test_classes_are_optional(quick):
    assert quick(classes=None, epochs=1).metrics["classes"] == 3


def test_global_seeds_are_not_changed(quick):
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    quick(epochs=1)
    drawn = random.random(), np.random.random()  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    assert drawn == (random.random(), np.random.random())  # noqa: NPY002


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "fastest"}, "Received: recipe='fastest'"),
        ({"epochs": 0}, "Received: epochs=0"),
        ({"batch_size": 0}, "Received: batch_size=0"),
        ({"seed": -1}, "Received: seed=-1"),
        ({"validation_split": 2.0}, "Received: validation_split=2.0"),
        ({"classes": 4}, "4"),
        ({"dtype": "float7"}, "float7"),
    ],
)
def test_wrong_arguments(quick, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        quick(**arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fraction", [0, 1, 1.5, True, "0.1"])
def test_wrong_validation_split_is_refused_before_any_work(quick, tmp_path, fraction):
    with pytest.raises(ValueError, match="`validation_split` must be a finite number"):
        quick(validation_split=fraction)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["baseline", "best"])
def test_weights_are_where_training_starts(quick, tmp_path, name):
    """At a rate of almost zero, the body stays that of the file."""
    first = quick(epochs=1)
    slow = dataclasses.replace(
        recipes.get(name),
        learning_rate=1e-12,
        weight_decay_per_epoch=0,
        dtype="float32",
    )
    path = first.path / "model.keras"
    run = quick("tuned", slow, weights=path, classes=2, epochs=1)
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    expected, found = (
        keras.Model(model.input, model.get_layer("fc2").output).predict(images)
        for model in (first.model, run.model)
    )
    # Batch normalization may have changed the scale of all activations.
    expected, found = (x / x.max() for x in (expected, found))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.ptp(expected, axis=0).max() > 0.03
    config = json.loads((run.path / "config.json").read_text())
    assert config["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="weights_sha256 differ"):
        quick("tuned", slow, classes=2, epochs=1)


@pytest.mark.parametrize(("size", "shape"), [(16, (16, 16)), ((24, 32), (24, 32))])
def test_other_image_sizes(quick, official_folder, size, shape):
    run = quick(image_size=size, epochs=1)
    assert run.model.input_shape == (None, *shape, 3)
    assert evaluate(run.model, official_folder).n == 6


@pytest.mark.parametrize("size", [4, (64,), (64, 4), "64", 64.5])
def test_wrong_image_sizes(quick, size):
    with pytest.raises(ValueError, match="`image_size` must be"):
        quick(image_size=size)


def test_augmentation_and_recipe_by_argument(quick):
    none = quick("none", recipe=recipes.BEST, epochs=1, augmentation="none")
    crop = quick("crop", recipe=recipes.BEST, epochs=1, augmentation="crop_cutout")
    configs = [
        json.loads((run.path / "config.json").read_text()) for run in (none, crop)
    ]
    found = [config["recipe"]["augmentation"] for config in configs]
    assert found == [None, "crop_cutout"]
    with pytest.raises(ValueError, match="`augmentation` must be one of"):
        quick("wrong", augmentation="mirror")
